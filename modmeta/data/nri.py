"""The layout of the published generator (Kipf et al. 2018), read and written.

Positions, velocities and edges are separate arrays: `loc` and `vel` (tasks, frames, axes, entities), `edges` (tasks,
entities, entities), `[task, receiver, sender]`. They are found as

- a directory of `loc_train_springs5.npy`, `vel_train_springs5.npy`, `edges_train_springs5.npy`, and so on for other
  splits, with any suffix or none after the split, but one suffix a directory;
- one `.npz` of keys `loc_train`, `vel_train`, `edges_train`, …;
- one `.npz` of keys `loc`, `vel`, `edges`: a single split, `test` or the one asked for.

Edges hold values, not labels: strengths 0, 0.5, 1 for springs, products -1, 1 of charges, with 1 on the diagonal. On
reading, products become labels 0 for 1, 1 for -1 and 2 for 0; other integers are labels; other values are numbered in
increasing order. On writing, label k becomes `settings["edge_values"][k]`, or k where that is missing.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from modmeta.data.archive import as_float, load_array, write_arrays
from modmeta.data.bounds import LABELS
from modmeta.data.trajectories import Trajectories
from modmeta.errors import DataError
from modmeta.io import check_free
from modmeta.outputs import OutputDirectory

PARTS = ("loc", "vel", "edges")
SPLITS = ("train", "valid", "test")
FRAME_STEP = 0.1  # of the published data: every 100th step of 0.001; the layout does not say


def recognises(keys: Iterable[str]) -> bool:
    """Whether the keys of a `.npz` are of this layout."""
    return any(key == "loc" or key.startswith("loc_") for key in keys)


def from_arrays(path: Path, arrays: Mapping[str, np.ndarray], split: str | None = None) -> dict[str, Trajectories]:
    """Splits of one `.npz`; see `modmeta.data.files.load`."""
    names = {key.removeprefix("loc_"): key.removeprefix("loc") for key in arrays if key.startswith("loc_")}
    if not names:
        names = {split or "test": ""}
    keys = {name: {part: f"{part}{suffix}" for part in PARTS} for name, suffix in names.items()}
    return _convert(path, keys, arrays, split)


def load_directory(path: Path, split: str | None = None) -> dict[str, Trajectories]:
    """Splits of a directory of `.npy` files; see `modmeta.data.files.load`."""
    suffixes: dict[str, list[str]] = {}
    for file in sorted(path.glob("loc_*.npy")):
        name, _, suffix = file.stem.removeprefix("loc_").partition("_")
        suffixes.setdefault(f"_{suffix}" if suffix else "", []).append(name)
    if not suffixes:
        raise DataError(
            f"{path} holds no file like loc_train.npy or loc_train_springs5.npy; name another directory or file"
        )
    if len(suffixes) > 1:
        raise DataError(f"{path} holds several data sets, {sorted(suffixes)}; move each to a directory of its own")
    (suffix, names), *_ = suffixes.items()
    keys = {name: {part: f"{part}_{name}{suffix}.npy" for part in PARTS} for name in names}
    read = [
        file for name, parts in keys.items() for part, file in parts.items() if split in (None, name) or part == "edges"
    ]
    return _convert(path, keys, {file: load_array(path / file) for file in read if (path / file).exists()}, split)


def _convert(
    path: Path, keys: dict[str, dict[str, str]], arrays: Mapping[str, np.ndarray], split: str | None
) -> dict[str, Trajectories]:
    if split is not None and split not in keys:
        raise DataError(f"{path} has no split {split!r}; choose one of {sorted(keys)}")
    # Labels are numbered over the edges of all splits, so that one read alone gets the same.
    edges = {name: _edges(path, parts["edges"], arrays) for name, parts in keys.items() if parts["edges"] in arrays}
    values = _edge_values(list(edges.values()))
    settings = {"layout": "nri", "edge_values": values}
    splits = {}
    for name in sorted(keys, key=lambda name: SPLITS.index(name) if name in SPLITS else len(SPLITS)):
        if split in (None, name):
            states = _states(path, keys[name], arrays)
            relations = _labels(edges[name], values) if name in edges else None
            splits[name] = Trajectories(states, relations, _features(states.shape[-1] // 2), FRAME_STEP, settings)
    return splits


def _states(path: Path, names: dict[str, str], arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Positions and velocities (tasks, T, P, N) to states (tasks, N, T, 2 P)."""
    parts = []
    for part in ("loc", "vel"):
        if names[part] not in arrays:
            raise DataError(f"{path} has no {names[part]}, though {names['loc']} is there; add it")
        array = as_float(f"{path}, key {names[part]}", arrays[names[part]])
        if array.ndim != 4:
            raise DataError(
                f"{path}, key {names[part]}: the shape is {array.shape}; give it as (tasks, frames, axes, entities)"
            )
        parts.append(array)
    if parts[0].shape != parts[1].shape:
        raise DataError(
            f"{path}: {names['loc']} has shape {parts[0].shape} but {names['vel']} {parts[1].shape}; they must agree"
        )
    return np.ascontiguousarray(np.concatenate(parts, axis=2).transpose(0, 3, 1, 2))


def _edges(path: Path, key: str, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Values (tasks, N, N), checked."""
    edges = as_float(f"{path}, key {key}", arrays[key])
    if edges.ndim != 3 or edges.shape[1] != edges.shape[2]:
        raise DataError(f"{path}, key {key}: the shape is {edges.shape}; give it as (tasks, entities, entities)")
    wrong = ~np.isfinite(edges) | ((edges < 0) & (edges != -1))
    if wrong.any():
        task, receiver, sender = np.argwhere(wrong)[0].tolist()
        raise DataError(
            f"{path}, key {key}: task {task}, edge of receiver {receiver} and sender {sender} is "
            f"{edges[task, receiver, sender]}; an edge is -1, 0 or positive"
        )
    if (count := len(np.unique(edges))) > LABELS:
        raise DataError(f"{path}, key {key}: {count} different values; relations are of at most {LABELS} kinds")
    return edges


def _edge_values(edges: list[np.ndarray]) -> list[float]:
    """The value of every label, common to all splits."""
    found: set[float] = set()
    for array in edges:
        found.update(np.unique(array).astype(float).tolist())
    charges = any((array.diagonal(axis1=1, axis2=2) == 1).all() for array in edges)  # 0 for springs
    if charges or -1.0 in found:
        return [1.0, -1.0, *sorted(found - {1.0, -1.0})]
    if all(value.is_integer() for value in found) and max(found, default=0) < LABELS:
        return [float(label) for label in range(int(max(found, default=0)) + 1)]
    return sorted(found)


def _labels(edges: np.ndarray, values: list[float]) -> np.ndarray:
    order = np.argsort(values)
    labels = order[np.searchsorted(np.array(values)[order], edges)].astype(np.int64)
    labels[:, np.eye(edges.shape[1], dtype=bool)] = 0
    return labels


def _features(axes: int) -> tuple[str, ...]:
    names = "xyz"[:axes] if axes <= 3 else [f"x{axis}" for axis in range(axes)]
    return (*names, *(f"v{name}" for name in names))


def save_nri(path: Path | str, splits: Mapping[str, Trajectories], overwrite: bool = False, suffix: str = "") -> None:
    """Writes the published layout, which has no place for types of entities.

    Args:
        path: one file if it ends in `.npz`, otherwise a directory, which is there with all its files or not at all.
        splits: trajectories by name; half of the features are positions, half velocities.
        overwrite: replace a file that is there, or a directory that was written so.
        suffix: after the split in the names of a directory's files, such as `_springs5`.

    Raises:
        DataError: a file exists, cannot be written, or the trajectories do not fit the layout.
    """
    path = Path(path)
    arrays = {}
    for split, data in splits.items():
        data.validate(f"{path}, split {split}")
        for part, array in _published(path, split, data).items():
            arrays[f"{part}_{split}"] = array
    if path.suffix == ".npz":
        write_arrays(path, arrays, overwrite)
        return
    with OutputDirectory(path, "generate", overwrite).written() as directory:
        for key, array in arrays.items():
            np.save(directory / f"{key}{suffix}.npy", array)


def check_free_nri(path: Path | str, overwrite: bool = False) -> None:
    """Refuses what `save_nri` would refuse to write; call it before long work, too.

    Raises:
        DataError: the file or directory exists, or cannot be made.
    """
    path = Path(path)
    if path.suffix == ".npz":
        check_free(path, overwrite)
    elif path.is_file():
        raise DataError(f"{path} is a file; give a directory, or a name that ends in .npz")
    else:
        OutputDirectory(path, "generate", overwrite)


def check_features(where: str, features: tuple[str, ...]) -> None:
    """Refuses features that are not positions and as many velocities, which is all that the layout knows.

    Raises:
        DataError: they are others.
    """
    axes, odd = divmod(len(features), 2)
    if odd or features[axes:] != tuple(f"v{name}" for name in features[:axes]):
        raise DataError(f"{where} has features {list(features)}, not positions and as many velocities; write an .npz")


def _published(path: Path, split: str, data: Trajectories) -> dict[str, np.ndarray]:
    check_features(f"{path}: split {split}", data.features)
    axes = data.num_features // 2
    flat = data.states.transpose(0, 2, 3, 1)  # (tasks, T, D, N)
    arrays = {"loc": np.ascontiguousarray(flat[:, :, :axes]), "vel": np.ascontiguousarray(flat[:, :, axes:])}
    if data.relations is not None:
        values = data.settings.get("edge_values") or list(range(int(data.relations.max()) + 1))
        if data.relations.max() >= len(values):
            raise DataError(
                f"{path}: split {split} has relation {data.relations.max()}, but edge_values are {values}; add it"
            )
        arrays["edges"] = np.array(values, float)[data.relations]
    return arrays
