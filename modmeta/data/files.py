"""Files of trajectories.

One `.npz` holds all splits, as plain arrays that any NumPy reads (nothing is pickled):

| key | holds |
|---|---|
| `{split}_states` | (tasks, entities, frames, features) float, such as `train_states`; required |
| `{split}_relations` | (tasks, receivers, senders) integer labels from 0, diagonal 0; where they are known |
| `{split}_types` | (tasks, entities) integer labels from 0, what kind of entity each is; where they are known |
| `features` | names of the features; positions first, then their velocities, then others |
| `frame_step` | time units between two frames |
| `settings` | where the data came from, a JSON object |
| `format` | version of this layout, 1 |
| `{split}_mask` | (tasks, entities, frames) bool, where an entity was observed; where not everywhere |
| `{split}_task_names`, `{split}_entity_names` | (tasks,) and (tasks, entities) integers or strings |

Tasks may have different numbers of entities: one that a task lacks is NaN, or masked, in all frames, its relations
anything. HDF5 (`.h5`, `.hdf5`) holds the same arrays. CSV and Parquet hold one row for each entity in each frame of
each task, columns `task`, `frame`, `entity` and one for every feature (`modmeta.data.tables`).

The least that is read is a single array: `states` in a `.npz` (`relations` beside it, if known) or a `.npy` file; it
becomes the split `test`, or the one asked for. The published layout, `modmeta.data.nri`, is recognised by its keys.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from modmeta.data import nri
from modmeta.data.archive import as_float, as_labels, open_arrays, write_arrays
from modmeta.data.bounds import DEEP, SETTINGS
from modmeta.data.gaps import absent_last, masked, resampled, with_absent
from modmeta.data.hdf5 import open_hdf5, write_hdf5
from modmeta.data.labels import with_relations
from modmeta.data.reading import HDF5, TABLES, Reading
from modmeta.data.table_output import save_table
from modmeta.data.tables import read_table
from modmeta.data.trajectories import Trajectories, names_as_text
from modmeta.errors import DataError
from modmeta.io import check_free

FORMAT = 1
STATES, RELATIONS = "_states", "_relations"
OPTIONAL = ("mask", "task_names", "entity_names", "types")


def save(path: Path | str, splits: Mapping[str, Trajectories], overwrite: bool = False) -> None:
    """Writes one file, `.npz`, or by its ending HDF5, CSV or Parquet, completely or not at all.

    Args:
        path: of the file; its directory exists. Tables hold no relations.
        splits: trajectories by name; features, frame step and settings are the same in all.
        overwrite: replace a file that is there.

    Raises:
        DataError: the file exists, cannot be written, or the trajectories are not valid.
    """
    path = Path(path)
    check_free(path, overwrite)
    first = _agreeing(path, splits)
    if path.suffix.lower() in TABLES:
        save_table(path, splits, overwrite)
        return
    arrays: dict[str, np.ndarray] = {}
    for name, data in splits.items():
        arrays[name + STATES] = data.states
        if data.relations is not None:
            arrays[name + RELATIONS] = data.relations
        for what in OPTIONAL:
            if (array := getattr(data, what)) is not None:
                arrays[f"{name}_{what}"] = array
    arrays |= {"features": np.array(first.features), "frame_step": np.array(float(first.frame_step))}
    arrays |= {"settings": np.array(_json(path, first.settings)), "format": np.array(FORMAT)}
    (write_hdf5 if path.suffix.lower() in HDF5 else write_arrays)(path, arrays, overwrite)


def _agreeing(path: Path, splits: Mapping[str, Trajectories]) -> Trajectories:
    if not splits:
        raise DataError(f"{path}: no split to save; give at least one")
    name, first = next(iter(splits.items()))
    for other, data in splits.items():
        if not other.isidentifier():
            raise DataError(f"{path}: {other!r} cannot name a split; use letters, digits and underscores")
        data.validate(f"{path}, split {other}")
        for what in ("features", "frame_step", "settings"):
            if getattr(data, what) != getattr(first, what):
                raise DataError(
                    f"{path}: {what} of split {other}, {getattr(data, what)}, differs from that of split {name}, "
                    f"{getattr(first, what)}; save them to separate files"
                )
    return first


def load(path: Path | str, split: str | None = None, how: Reading | None = None) -> dict[str, Trajectories]:
    """Reads a file, or a directory in the published layout, and validates what it holds.

    Args:
        path: `.npz`, `.npy`, HDF5, CSV or Parquet file, or directory.
        split: read this one only; also the name that a single array gets.
        how: names of columns, and what to do about what is missing or uneven.

    Returns:
        Trajectories by split.

    Raises:
        DataError: the file is missing, damaged, pickled, of an unknown layout, or its values do not make sense.
    """
    path, how = Path(path), how or Reading()
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise DataError(f"{path} is neither a file nor a directory; copy what it gives to a file")
    table = path.suffix.lower() in TABLES and not path.is_dir()
    try:
        splits = read_table(path, split, how) if table else _load_arrays(path, split)
        for name, data in splits.items():
            where = f"{path}, split {name}"
            data.check_shapes(where)
            if not table:
                data = _as_asked(data, how, where)
            data = absent_last(data)
            if how.relations is not None:
                data = with_relations(data, Path(how.relations), where)
            splits[name] = data.validate(where)
    except MemoryError as error:
        raise DataError(f"{path} does not fit into memory; split it into several files") from error
    usual = ("train", "valid", "test")  # in this order, others after them as they come
    return dict(sorted(splits.items(), key=lambda item: usual.index(item[0]) if item[0] in usual else len(usual)))


def _load_arrays(path: Path, split: str | None) -> dict[str, Trajectories]:
    if path.is_dir():
        return nri.load_directory(path, split)
    with (open_hdf5 if path.suffix.lower() in HDF5 else open_arrays)(path) as arrays:
        return (nri.from_arrays if nri.recognises(arrays.keys()) else _from_arrays)(path, arrays, split)


def _as_asked(data: Trajectories, how: Reading, where: str) -> Trajectories:
    """Arrays, which say less of themselves than tables, in the way that was asked for."""
    step = how.frame_step or data.frame_step
    data = replace(data, frame_step=step)
    if how.features is not None:
        lacking = [name for name in how.features if name not in data.features]
        if lacking:
            raise DataError(f"{where}: no feature {lacking[0]!r} among {list(data.features)}")
        chosen = [data.features.index(name) for name in how.features]
        data = replace(data, states=data.states[..., chosen], features=how.features)
    data = masked(data) if data.states.ndim == 4 and how.missing == "mask" else with_absent(data)
    if how.resample is not None:
        data = absent_last(data).validate(where)
        data = resampled(data, np.tile(step * np.arange(data.num_frames), (data.num_tasks, 1)), how.resample, where)
    return data


def _from_arrays(path: Path, arrays: Mapping[str, np.ndarray], split: str | None) -> dict[str, Trajectories]:
    prefixes = {key.removesuffix(STATES): f"{key.removesuffix(STATES)}_" for key in arrays if key.endswith(STATES)}
    if not prefixes and "states" in arrays:
        prefixes = {split or "test": ""}
    if not prefixes:
        raise DataError(
            f"{path}: no states among its keys {sorted(arrays)}; name an array of shape (tasks, entities, frames, "
            "features) `states`, or `train_states`, `valid_states`, `test_states`"
        )
    if split is not None and split not in prefixes:
        raise DataError(f"{path} has no split {split!r}; choose one of {sorted(prefixes)}")
    if "format" in arrays and (version := _number(path, "format", arrays["format"])) != FORMAT:
        raise DataError(f"{path}: format is {version:g}, but this version reads {FORMAT}; update modmeta")
    step = _number(path, "frame_step", arrays["frame_step"]) if "frame_step" in arrays else 1.0
    settings = _settings(path, arrays["settings"]) if "settings" in arrays else {}
    splits = {}
    for name, prefix in prefixes.items():
        if split in (None, name):
            states = as_float(f"{path}, key {prefix}states", arrays[prefix + "states"])
            known = prefix + "relations" in arrays
            relations = as_labels(f"{path}, key {prefix}relations", arrays[prefix + "relations"]) if known else None
            features = _features(path, arrays, states)
            more = {
                what: names_as_text(f"{path}, key {prefix}{what}", arrays[prefix + what])
                for what in OPTIONAL
                if prefix + what in arrays
            }
            if "types" in more:
                more["types"] = as_labels(f"{path}, key {prefix}types", more["types"])
            splits[name] = Trajectories(states, relations, features, step, settings, **more)
    return splits


def _features(path: Path, arrays: Mapping[str, np.ndarray], states: np.ndarray) -> tuple[str, ...]:
    if "features" not in arrays:
        return tuple(f"feature{i}" for i in range(states.shape[-1] if states.ndim else 0))
    names = arrays["features"]
    if names.ndim != 1 or names.dtype.kind != "U":
        raise DataError(
            f"{path}: features, of type {names.dtype} and shape {names.shape}, is not a list of names; repair it"
        )
    return tuple(names_as_text(f"{path}, key features", names).tolist())


def _json(path: Path, settings: dict[str, Any]) -> str:
    try:
        return json.dumps(settings)
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: settings cannot be written as JSON ({error}); keep to plain values") from error


def _settings(path: Path, array: np.ndarray) -> dict[str, Any]:
    where = f"{path}, key settings"
    if array.size != 1 or array.dtype.kind != "U" or array.dtype.itemsize > 4 * SETTINGS:
        raise DataError(f"{where}: of type {array.dtype} and shape {array.shape}, no text; repair or remove this key")
    try:
        settings = json.loads(str(names_as_text(where, array).reshape(())))
        deep = _deeper(settings, DEEP)
    except RecursionError:
        settings, deep = None, True
    except ValueError:
        settings, deep = None, False
    if deep:
        raise DataError(f"{where}: lists within lists, more than {DEEP} deep; repair or remove this key")
    if not isinstance(settings, dict):
        raise DataError(f"{path}: settings is not a JSON object; repair or remove this key")
    return settings


def _deeper(value: Any, levels: int) -> bool:
    """Whether lists and objects lie deeper in one another than `levels`."""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels == 0 or any(_deeper(part, levels - 1) for part in parts)


def _number(path: Path, key: str, array: np.ndarray) -> float:
    if array.size != 1 or array.dtype.kind not in "fiu" or array.dtype.itemsize > 8:
        raise DataError(
            f"{path}: {key}, of type {array.dtype} and shape {array.shape}, is not a single number; repair it"
        )
    return float(array.reshape(()))
