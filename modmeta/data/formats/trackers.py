"""Files of trackers: SLEAP (analysis HDF5, `.slp`), DeepLabCut (HDF5), idtracker.ai (`.npy`, HDF5), TrackMate (XML).

An animal is an entity and its body parts are features, `nose_x, nose_y, tail_x, …`; of a single animal the body parts
are entities. Text files of trackers are tables (`modmeta.data.formats.tables`).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa

from modmeta.data.formats import tables
from modmeta.data.formats.arrays import with_options
from modmeta.data.formats.columns import Table
from modmeta.data.formats.pickles import unpickled
from modmeta.data.reading import Reading
from modmeta.data.trajectories import Trajectories
from modmeta.errors import DataError

Content = Mapping[str, Any]
LIKELIHOOD = "likelihood"


def of_points(
    points: np.ndarray, entities: list[str], parts: list[str], scores: np.ndarray | None, step: float, note: str
) -> Trajectories:
    """One recording of points of animals.

    Args:
        points: coordinates (frames, animals, parts, axes), NaN where they were not seen.
        entities: names of the animals.
        parts: names of the parts.
        scores: confidence of every point, (frames, animals, parts); None if unknown.
        step: time between frames.
        note: the format, for the user.
    """
    if len(entities) == 1 and len(parts) > 1:  # the parts of one animal
        points, entities, parts = points.transpose(0, 2, 1, 3), parts, [""]
        scores = None if scores is None else scores.transpose(0, 2, 1)
    count, axes = points.shape[2:]
    columns, names = [], []
    for part in range(count):
        prefix = f"{parts[part]}_" if count > 1 else ""
        columns.append(points[:, :, part])
        names += [f"{prefix}{axis}" for axis in "xyz"[:axes]]
        if scores is not None:
            columns.append(scores[:, :, part, None])
            names.append(f"{prefix}{LIKELIHOOD}")
    states = np.concatenate(columns, axis=-1).astype(np.float64)
    return Trajectories(
        np.ascontiguousarray(states.transpose(1, 0, 2))[None], None, tuple(names), step,
        entity_names=np.array([entities]), notes=(note,),
    )  # fmt: skip


def from_hdf5(path: Path, arrays: Content, dims: Mapping[str, str]) -> Trajectories | None:
    """The recording of a file of SLEAP or idtracker.ai; None if it is neither.

    Args:
        path: the file.
        arrays: its arrays and attributes.
        dims: names of axes by array, as JSON, where the file has them.
    """
    if "tracks" in arrays and "node_names" in arrays:
        return _sleap(path, arrays, dims)
    if "trajectories" in arrays and "states" not in arrays and arrays["trajectories"].ndim == 3:
        return idtracker(path, {key: arrays[key] for key in IDTRACKER if key in arrays})
    return None


def _sleap(path: Path, arrays: Content, dims: Mapping[str, str]) -> Trajectories:
    def turned(key: str, default: tuple[str, ...], wanted: tuple[str, ...]) -> np.ndarray:
        axes = json.loads(dims[key]) if key in dims else default
        if sorted(axes) != sorted(wanted) or arrays[key].ndim != len(axes):
            raise DataError(f"{path}, key {key}: axes {axes} are not those of SLEAP's analysis; export it again")
        return np.asarray(arrays[key]).transpose([list(axes).index(name) for name in wanted])

    order = ("frame", "track", "node", "xy")
    points = turned("tracks", ("track", "xy", "node", "frame"), order)
    scores = turned("point_scores", ("track", "node", "frame"), order[:3]) if "point_scores" in arrays else None
    nodes = [str(name) for name in np.atleast_1d(arrays["node_names"])]
    names = np.atleast_1d(arrays["track_names"]) if "track_names" in arrays else np.array([])
    tracks = [str(name) for name in names] if len(names) == points.shape[1] else list(map(str, range(points.shape[1])))
    return of_points(points, tracks, nodes, scores, 1.0, "SLEAP's analysis; --frame-step gives the time between frames")


IDTRACKER = ("trajectories", "id_probabilities", "frames_per_second", "identities_labels")


def idtracker(path: Path, content: Content) -> Trajectories:
    """The recording of idtracker.ai: trajectories (frames, animals, axes).

    Raises:
        DataError: the arrays have other shapes.
    """
    where = content.get("trajectories")
    if not isinstance(where, np.ndarray) or where.ndim != 3 or where.dtype.kind != "f":
        raise DataError(f"{path} is no file of idtracker.ai: it lacks an array trajectories (frames, animals, axes)")
    scores = content.get("id_probabilities")
    scores = (
        scores.reshape(*where.shape[:2], 1)
        if isinstance(scores, np.ndarray) and scores.size * 2 == where.size
        else None
    )
    labels = content.get("identities_labels")
    names = [str(name) for name in labels] if labels is not None and np.size(labels) == where.shape[1] else None
    try:
        rate = float(np.asarray(content.get("frames_per_second", 1)).reshape(-1)[0])
    except (TypeError, ValueError, IndexError):
        rate = 1.0
    return of_points(
        where[:, :, None], names or [str(i + 1) for i in range(where.shape[1])], [""], scores,
        1 / rate if 0 < rate < float("inf") else 1.0, "idtracker.ai's trajectories",
    )  # fmt: skip


def read_pickled(path: Path, content: bytes, split: str | None, how: Reading) -> dict[str, Trajectories]:
    """The recording in a `.npy` file of a pickled dictionary, as idtracker.ai writes.

    Raises:
        DataError: it holds something else.
    """
    value = unpickled(str(path), content)
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, dict) or "trajectories" not in value:
        raise DataError(
            f"{path}: holds pickled objects, no trajectories of idtracker.ai; save it as a plain array, numpy.save"
        )
    return with_options(path, {split or "test": idtracker(path, value)}, how)


def deeplabcut(path: Path, values: np.ndarray, names: bytes) -> Trajectories:
    """The recording of DeepLabCut's HDF5: a table of pandas.

    Args:
        path: the file.
        values: (frames, columns).
        names: pickled names of the columns: scorer, animal if there are several, body part, coordinate.

    Raises:
        DataError: names do not fit.
    """
    columns: Any = unpickled(str(path), names) if names else []
    if isinstance(columns, list) and len(columns) == 1 and isinstance(columns[0], tuple) and len(columns[0]) == 2:
        columns = columns[0][1]  # [(axis, names)]
    good = isinstance(columns, list) and all(isinstance(one, tuple) and len(one) in (3, 4) for one in columns)
    if not good or values.ndim != 2 or len(columns) != values.shape[1]:
        raise unreadable_deeplabcut(path)
    keys = [(one[-3] if len(one) == 4 else "", one[-2], one[-1]) for one in columns]
    animals, parts = list(dict.fromkeys(key[0] for key in keys)), list(dict.fromkeys(key[1] for key in keys))
    place = {key: i for i, key in enumerate(keys)}
    nothing = np.full(len(values), np.nan)

    def of(coordinate: str) -> np.ndarray:
        wanted = [[place.get((one, part, coordinate)) for part in parts] for one in animals]
        columns = [[nothing if i is None else values[:, i] for i in row] for row in wanted]
        return np.array(columns, dtype=float).transpose(2, 0, 1)

    axes = [axis for axis in "xyz" if any(key[2] == axis for key in keys)]
    scores = of(LIKELIHOOD) if any(key[2] == LIKELIHOOD for key in keys) else None
    points = np.stack([of(axis) for axis in axes], axis=-1)
    return of_points(points, list(map(str, animals)), list(map(str, parts)), scores, 1.0, "DeepLabCut's layout")


def unreadable_deeplabcut(path: Path) -> DataError:
    return DataError(
        f"{path} is a table of pandas in HDF5, as DeepLabCut writes, without names of its columns; write it as CSV in "
        f"Python: import pandas; table = pandas.read_hdf('{path.name}'); table.to_csv('{path.stem}.csv')"
    )


# ---- SLEAP's projects ------------------------------------------------------------------------------------------------


def read_slp(path: Path, split: str | None, how: Reading) -> dict[str, Trajectories]:
    """The first video of a project of SLEAP, by sleap-io, which follows links to other files: these are refused.

    Raises:
        DataError: sleap-io is not installed, the file is damaged, or refers to other files.
    """
    from modmeta.data.formats import hdf5  # imports this file

    hdf5.check(path)
    try:
        import sleap_io
    except ModuleNotFoundError as error:
        raise DataError(
            f"{path} is a project of SLEAP; install its reader, pip install sleap-io, or export the analysis as HDF5: "
            f"import sleap_io; labels = sleap_io.load_file('{path.name}'); sleap_io.save_analysis_h5(labels, "
            f"'{path.stem}.h5')"
        ) from error
    try:
        labels = sleap_io.load_file(str(path), open_videos=False)
        values = labels.numpy(return_confidence=True)  # (frames, tracks, nodes, x y score)
        nodes = [node.name for node in labels.skeletons[0].nodes]
        tracks = [track.name for track in labels.tracks] or [str(i) for i in range(values.shape[1])]
    except (ImportError, MemoryError):
        raise
    except Exception as error:
        raise DataError(f"{path} is no project of SLEAP, or is damaged ({error}); export the analysis again") from error
    found = of_points(values[..., :2], tracks[: values.shape[1]], nodes, values[..., 2], 1.0, "SLEAP's project")
    return with_options(path, {split or "test": found}, how)


# ---- TrackMate's XML -------------------------------------------------------------------------------------------------


def read_trackmate(path: Path, split: str | None, how: Reading) -> dict[str, Trajectories]:
    """Tracks of TrackMate, exported as XML or saved with the whole session.

    Raises:
        DataError: the file is damaged, or no such file.
    """
    try:
        with path.open("rb") as file:
            start = file.read(1 << 20)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); check the name") from error
    if b"<!DOCTYPE" in start or b"<!ENTITY" in start:
        raise DataError(f"{path} declares entities, which are not read; export it again")
    try:
        root = ElementTree.parse(path).getroot()
        rows = _tracks(root) if root.tag == "Tracks" else _session(root)
    except (ElementTree.ParseError, KeyError, ValueError) as error:
        raise DataError(f"{path} is no file of TrackMate, or is damaged ({error}); export it again") from error
    if not rows:
        raise DataError(f"{path} holds no tracks of TrackMate; export its tracks as XML or CSV")
    names = ("entity", "frame", "x", "y", "z")
    columns = {name: pa.array(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}
    if len(set(columns["z"].to_pylist())) == 1:
        del columns["z"]
    step = float(root.get("frameInterval") or 0) or how.frame_step
    table = Table.in_memory(path, pa.table(columns), ("TrackMate's tracks",))
    splits = tables.from_table(table, split, how)
    if step and how.frame_step is None and how.resample is None:
        return {name: _with_step(data, step) for name, data in splits.items()}
    return splits


def _with_step(data: Trajectories, step: float) -> Trajectories:
    return Trajectories(**(vars(data) | {"frame_step": step}))


def _tracks(root: ElementTree.Element) -> list[tuple[float, ...]]:
    return [
        (number, float(spot.attrib["t"]), *(float(spot.get(axis, 0)) for axis in "xyz"))
        for number, track in enumerate(root.iter("particle"))
        for spot in track.iter("detection")
    ]


def _session(root: ElementTree.Element) -> list[tuple[float, ...]]:
    spots = {spot.attrib["ID"]: spot for spot in root.iter("Spot")}
    rows: list[tuple[float, ...]] = []
    for track in root.iter("Track"):
        ends = (edge.attrib[end] for edge in track.iter("Edge") for end in ("SPOT_SOURCE_ID", "SPOT_TARGET_ID"))
        for name in dict.fromkeys(ends):
            where = spots[name].attrib
            places = [float(where[f"POSITION_{axis}"]) for axis in "XYZ"]
            rows.append((int(track.attrib["TRACK_ID"]), float(where["FRAME"]), *places))
    return rows
