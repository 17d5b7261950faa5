"""Files of trajectories.

One `.npz` holds all splits, as plain arrays that any NumPy reads (nothing is pickled):

| key | holds |
|---|---|
| `{split}_states` | (tasks, entities, frames, features) float, such as `train_states`; required |
| `{split}_relations` | (tasks, receivers, senders) integer labels from 0, diagonal 0; where they are known |
| `features` | names of the features; positions first, then their velocities, then others |
| `frame_step` | time units between two frames |
| `settings` | where the data came from, a JSON object |
| `format` | version of this layout, 1 |

The least that is read is a single array: `states` in a `.npz` (`relations` beside it, if known) or a `.npy` file; it
becomes the split `test`, or the one asked for. The published layout, `modmeta.data.nri`, is recognised by its keys.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from modmeta.data import nri
from modmeta.data.archive import as_float, as_labels, check_free, open_arrays, write_arrays
from modmeta.data.trajectories import Trajectories
from modmeta.errors import DataError

FORMAT = 1
STATES, RELATIONS = "_states", "_relations"


def save(path: Path | str, splits: Mapping[str, Trajectories], overwrite: bool = False) -> None:
    """Writes one `.npz`, completely or not at all.

    Args:
        path: of the file; its directory exists.
        splits: trajectories by name; features, frame step and settings are the same in all.
        overwrite: replace a file that is there.

    Raises:
        DataError: the file exists, cannot be written, or the trajectories are not valid.
    """
    path = Path(path)
    check_free(path, overwrite)
    first = _agreeing(path, splits)
    arrays: dict[str, np.ndarray] = {}
    for name, data in splits.items():
        arrays[name + STATES] = data.states
        if data.relations is not None:
            arrays[name + RELATIONS] = data.relations
    arrays |= {"features": np.array(first.features), "frame_step": np.array(float(first.frame_step))}
    arrays |= {"settings": np.array(_json(path, first.settings)), "format": np.array(FORMAT)}
    write_arrays(path, arrays, overwrite)


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


def load(path: Path | str, split: str | None = None) -> dict[str, Trajectories]:
    """Reads a file, or a directory in the published layout, and validates what it holds.

    Args:
        path: `.npz` or `.npy` file, or directory.
        split: read this one only; also the name that a single array gets.

    Returns:
        Trajectories by split.

    Raises:
        DataError: the file is missing, damaged, pickled, of an unknown layout, or its values do not make sense.
    """
    path = Path(path)
    if path.is_dir():
        splits = nri.load_directory(path, split)
    else:
        with open_arrays(path) as arrays:
            if nri.recognises(arrays.keys()):
                splits = nri.from_arrays(path, arrays, split)
            else:
                splits = _from_arrays(path, arrays, split)
    for name, data in splits.items():
        data.validate(f"{path}, split {name}")
    return splits


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
    if "format" in arrays and arrays["format"] != FORMAT:
        raise DataError(f"{path}: format is {arrays['format']}, but this version reads {FORMAT}; update modmeta")
    step = _number(path, "frame_step", arrays["frame_step"]) if "frame_step" in arrays else 1.0
    settings = _settings(path, arrays["settings"]) if "settings" in arrays else {}
    splits = {}
    for name, prefix in prefixes.items():
        if split in (None, name):
            states = as_float(f"{path}, key {prefix}states", arrays[prefix + "states"])
            known = prefix + "relations" in arrays
            relations = as_labels(f"{path}, key {prefix}relations", arrays[prefix + "relations"]) if known else None
            features = _features(path, arrays, states)
            splits[name] = Trajectories(states, relations, features, step, settings)
    return splits


def _features(path: Path, arrays: Mapping[str, np.ndarray], states: np.ndarray) -> tuple[str, ...]:
    if "features" not in arrays:
        return tuple(f"feature{i}" for i in range(states.shape[-1] if states.ndim else 0))
    names = arrays["features"]
    if names.ndim != 1 or names.dtype.kind != "U":
        raise DataError(
            f"{path}: features, of type {names.dtype} and shape {names.shape}, is not a list of names; repair it"
        )
    return tuple(names.tolist())


def _json(path: Path, settings: dict[str, Any]) -> str:
    try:
        return json.dumps(settings)
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: settings cannot be written as JSON ({error}); keep to plain values") from error


def _settings(path: Path, array: np.ndarray) -> dict[str, Any]:
    try:
        settings = json.loads(str(array))
    except ValueError:
        settings = None
    if not isinstance(settings, dict):
        raise DataError(f"{path}: settings is not a JSON object; repair or remove this key")
    return settings


def _number(path: Path, key: str, array: np.ndarray) -> float:
    if array.size != 1 or array.dtype.kind not in "fiu":
        raise DataError(
            f"{path}: {key}, of type {array.dtype} and shape {array.shape}, is not a single number; repair it"
        )
    return float(array.reshape(()))
