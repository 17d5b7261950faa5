"""The layout of the published generator (Kipf et al. 2018), read and written.

Positions, velocities and edges are separate arrays: `loc` and `vel` (tasks, frames, axes, entities), `edges` (tasks,
entities, entities), `[task, receiver, sender]`. They are stored as

- a directory of `loc_train_springs5.npy`, `vel_train_springs5.npy`, `edges_train_springs5.npy`, and likewise for other
  splits, with any suffix or none after the split, the same for all files of the directory;
- one `.npz` with keys `loc_train`, `vel_train`, `edges_train`, …;
- one `.npz` with keys `loc`, `vel`, `edges`: a single split, named `test` or as requested.

Edges hold values, not labels: strengths 0, 0.5, 1 of springs, or products -1, 1 of charges, with 1 on the diagonal.
When reading, products 1, -1 and 0 become labels 0, 1 and 2; other integers are labels; other values are numbered in
increasing order. When writing, label k becomes `settings["edge_values"][k]`, or k if that is missing.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from modmeta.data.bounds import LABELS
from modmeta.data.formats.arrays import as_float, load_array, with_options, write_npz
from modmeta.data.reading import Reading
from modmeta.data.trajectories import Trajectories
from modmeta.errors import DataError
from modmeta.io import check_free
from modmeta.outputs import OutputDirectory

PARTS = ("loc", "vel", "edges")
SPLITS = ("train", "valid", "test")
FRAME_STEP = 0.1  # of the published data (every 100th step of 0.001); the layout does not store it


def recognises(keys: Iterable[str]) -> bool:
    """Whether the keys of a file belong to this layout."""
    return any(key == "loc" or key.startswith("loc_") for key in keys)


def from_arrays(path: Path, arrays: Mapping[str, np.ndarray], split: str | None = None) -> dict[str, Trajectories]:
    """Splits of the arrays of one file; see `modmeta.data.formats.load`."""
    names = {key.removeprefix("loc_"): key.removeprefix("loc") for key in arrays if key.startswith("loc_")}
    if not names:
        names = {split or "test": ""}
    keys = {name: {part: f"{part}{suffix}" for part in PARTS} for name, suffix in names.items()}
    return _convert(path, keys, arrays, split)


def read(path: Path, split: str | None, how: Reading) -> dict[str, Trajectories]:
    """Splits of a directory of `.npy` files; see `modmeta.data.formats.load`."""
    suffixes: dict[str, list[str]] = {}
    for file in sorted(path.glob("loc_*.npy")):
        name, _, suffix = file.stem.removeprefix("loc_").partition("_")
        suffixes.setdefault(f"_{suffix}" if suffix else "", []).append(name)
    if not suffixes:
        raise DataError(
            f"{path} holds no file like loc_train.npy or loc_train_springs5.npy; choose another directory or file"
        )
    if len(suffixes) > 1:
        raise DataError(f"{path} holds several data sets, {sorted(suffixes)}; move each to its own directory")
    (suffix, names), *_ = suffixes.items()
    keys = {name: {part: f"{part}_{name}{suffix}.npy" for part in PARTS} for name in names}
    needed = [
        file for name, parts in keys.items() for part, file in parts.items() if split in (None, name) or part == "edges"
    ]
    arrays = {file: load_array(path / file) for file in needed if (path / file).exists()}
    how.group_among((), f"{path}, in NRI's layout")
    return with_options(path, _convert(path, keys, arrays, split), how)


def _convert(
    path: Path, keys: dict[str, dict[str, str]], arrays: Mapping[str, np.ndarray], split: str | None
) -> dict[str, Trajectories]:
    if split is not None and split not in keys:
        raise DataError(f"{path} has no split {split!r}; choose one of {sorted(keys)}")
    # Labels are numbered over the edges of all splits, so that they do not depend on the split that is read.
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
    """Converts positions and velocities (tasks, T, P, N) to states (tasks, N, T, 2 P)."""
    parts = []
    for part in ("loc", "vel"):
        if names[part] not in arrays:
            raise DataError(f"{path} has no {names[part]} to match {names['loc']}; add it")
        array = as_float(f"{path}, key {names[part]}", arrays[names[part]])
        if array.ndim != 4:
            raise DataError(
                f"{path}, key {names[part]}: the shape is {array.shape}; it must be (tasks, frames, axes, entities)"
            )
        parts.append(array)
    if parts[0].shape != parts[1].shape:
        raise DataError(
            f"{path}: {names['loc']} has shape {parts[0].shape} but {names['vel']} {parts[1].shape}; they must agree"
        )
    return np.ascontiguousarray(np.concatenate(parts, axis=2).transpose(0, 3, 1, 2))


def _edges(path: Path, key: str, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Validated edge values (tasks, N, N)."""
    edges = as_float(f"{path}, key {key}", arrays[key])
    if edges.ndim != 3 or edges.shape[1] != edges.shape[2]:
        raise DataError(f"{path}, key {key}: the shape is {edges.shape}; it must be (tasks, entities, entities)")
    wrong = ~np.isfinite(edges) | ((edges < 0) & (edges != -1))
    if wrong.any():
        task, receiver, sender = np.argwhere(wrong)[0].tolist()
        raise DataError(
            f"{path}, key {key}: task {task}, edge of receiver {receiver} and sender {sender} is "
            f"{edges[task, receiver, sender]}; edges must be -1, 0 or positive"
        )
    if (count := len(np.unique(edges))) > LABELS:
        raise DataError(f"{path}, key {key}: {count} different values; at most {LABELS} are supported")
    return edges


def _edge_values(edges: list[np.ndarray]) -> list[float]:
    """Value of every label, shared by all splits."""
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


def write(path: Path | str, splits: Mapping[str, Trajectories], overwrite: bool = False, suffix: str = "") -> None:
    """Writes the published layout atomically. It does not store types of entities.

    Args:
        path: a file if it ends in `.npz`, otherwise a directory.
        splits: trajectories by name; half of the features are positions, half velocities.
        overwrite: whether to replace an existing file, or a directory written by this function.
        suffix: suffix after the split in the names of a directory's files, such as `_springs5`.

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
        write_npz(path, arrays, overwrite)
        return
    with OutputDirectory(path, "generate", overwrite).written() as directory:
        for key, array in arrays.items():
            np.save(directory / f"{key}{suffix}.npy", array)


def check_writable(path: Path | str, overwrite: bool = False) -> None:
    """Checks that `write` can write to `path`. Call it before long computations.

    Raises:
        DataError: the file or directory exists, or cannot be created.
    """
    path = Path(path)
    if path.suffix == ".npz":
        check_free(path, overwrite)
    elif path.is_file():
        raise DataError(f"{path} is a file; give a directory, or a file name that ends in .npz")
    else:
        OutputDirectory(path, "generate", overwrite)


def check_features(where: str, features: tuple[str, ...]) -> None:
    """Checks that the features are positions and their velocities, as the layout requires.

    Raises:
        DataError: they are not.
    """
    axes, odd = divmod(len(features), 2)
    if odd or features[axes:] != tuple(f"v{name}" for name in features[:axes]):
        raise DataError(
            f"{where}: features {list(features)} are not positions and their velocities; write an .npz instead"
        )


def _published(path: Path, split: str, data: Trajectories) -> dict[str, np.ndarray]:
    check_features(f"{path}: split {split}", data.features)
    axes = data.num_features // 2
    flat = data.states.transpose(0, 2, 3, 1)  # (tasks, T, D, N)
    arrays = {"loc": np.ascontiguousarray(flat[:, :, :axes]), "vel": np.ascontiguousarray(flat[:, :, axes:])}
    if data.relations is not None:
        values = data.settings.get("edge_values") or list(range(int(data.relations.max()) + 1))
        if data.relations.max() >= len(values):
            raise DataError(
                f"{path}: split {split} has relation {data.relations.max()}, but edge_values are {values}; add one"
            )
        arrays["edges"] = np.array(values, float)[data.relations]
    return arrays
