"""modmeta's own layout: named arrays, the same in `.npz` and HDF5 (`.h5`, `.hdf5`).

One file holds all splits as plain arrays (nothing is pickled). Only states are required:

| key | content |
|---|---|
| `{split}_states` | (tasks, entities, frames, features) float, such as `train_states`; or one recording |
| `{split}_relations` | (tasks, receivers, senders) integer labels from 0, diagonal 0; or (receivers, senders) for all |
| `{split}_types` | (tasks, entities) integer labels from 0, type of every entity |
| `{split}_mask` | (tasks, entities, frames) bool, whether an entity was observed |
| `{split}_task_names`, `{split}_entity_names` | (tasks,) and (tasks, entities) integers or strings |
| `{split}_groups` | (tasks,) integers or strings, the group of every task; tasks of a group share a structure |
| `features` | names of the features: coordinates, then their velocities, then others |
| `frame_step` | time units between two frames |
| `settings` | provenance of the data, a JSON object |
| `format` | version of this layout, 1 |

Tasks may have different numbers of entities: an absent entity is NaN or masked in all frames; its relations are
ignored.

Arrays `trial0`, `trial1`, …, or of other numbered names, (frames, entities, features), are a task each, of any length.

States of one recording may have the shape (frames, entities, features); then its mask is (frames, entities), and other
arrays lack the axis of tasks.

A file with a single split may name it `states` (and `relations`), or be a `.npy` file; the split is then called `test`
or as requested. Where no key names states, arrays `train`, `valid` and `test` are states of these splits. Arrays in the
published layout, `modmeta.data.formats.nri`, are recognised by their keys.
"""

import json
from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from modmeta.data.bounds import SETTINGS, SETTINGS_DEPTH, check_size
from modmeta.data.formats import nri
from modmeta.data.formats.arrays import as_float, as_labels, with_options
from modmeta.data.reading import Reading
from modmeta.data.trajectories import Trajectories, names_as_text
from modmeta.errors import DataError

FORMAT = 1
STATES, RELATIONS = "_states", "_relations"
SPLITS = ("train", "valid", "test")
OPTIONAL = ("mask", "task_names", "entity_names", "types")
GROUPS = "groups"
KEYS = ("relations", "features", "frame_step", "settings", "format", GROUPS, *OPTIONAL)


def to_arrays(path: Path, splits: Mapping[str, Trajectories]) -> dict[str, np.ndarray]:
    """Arrays by key, from splits with equal features, frame step and settings."""
    first = next(iter(splits.values()))
    arrays: dict[str, np.ndarray] = {}
    for name, data in splits.items():
        arrays[name + STATES] = data.states
        if data.relations is not None:
            arrays[name + RELATIONS] = data.relations
        for what in OPTIONAL:
            if (array := getattr(data, what)) is not None:
                arrays[f"{name}_{what}"] = array
        if data.group_names is not None:
            arrays[f"{name}_{GROUPS}"] = data.group_names
    arrays |= {"features": np.array(first.features), "frame_step": np.array(float(first.frame_step))}
    arrays |= {"settings": np.array(_json(path, first.settings)), "format": np.array(FORMAT)}
    return arrays


def from_arrays(
    path: Path, arrays: Mapping[str, np.ndarray], split: str | None, how: Reading
) -> dict[str, Trajectories]:
    """Splits from arrays in this layout or the published one; see `modmeta.data.formats.load`."""
    if nri.recognises(arrays.keys()):
        how.group_among((), f"{path}, in NRI's layout")
        return with_options(path, nri.from_arrays(path, arrays, split), how)
    return with_options(path, _from_arrays(path, arrays, split, how), how)


def _from_arrays(
    path: Path, arrays: Mapping[str, np.ndarray], split: str | None, how: Reading
) -> dict[str, Trajectories]:
    arrays, notes = _of_splits(arrays)
    prefixes = {key.removesuffix(STATES): f"{key.removesuffix(STATES)}_" for key in arrays if key.endswith(STATES)}
    if not prefixes and "states" not in arrays:
        arrays, notes = _renamed(path, arrays)
    if not prefixes:
        prefixes = {split or "test": ""}
    notes += _unread(arrays, prefixes.values())
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
            keys = {key.removeprefix(prefix) for key in arrays if key.startswith(prefix)}
            if (key := how.group_among(keys, str(path), GROUPS)) is not None:
                more["group_names"] = names_as_text(f"{path}, key {prefix}{key}", arrays[prefix + key])
            parts: dict[str, Any] = {"states": states, "relations": relations, **more}
            if states.ndim == 3:
                parts = _of_recording(f"{path}, key {prefix}states", parts)
            elif relations is not None and states.ndim == 4 and relations.shape == (states.shape[1],) * 2:
                parts["relations"] = np.repeat(relations[None], len(states), axis=0)
            splits[name] = Trajectories(features=features, frame_step=step, settings=settings, notes=notes, **parts)
    return splits


def _of_splits(arrays: Mapping[str, np.ndarray]) -> tuple[Mapping[str, np.ndarray], tuple[str, ...]]:
    """Arrays named like splits as their states, and a note; all as they are where states are named."""
    found = [key for key in SPLITS if key in arrays]
    if not found or any(key.endswith("states") for key in arrays):
        return arrays, ()
    taken = {key: arrays[key] for key in found}
    if any(array.ndim not in (3, 4) or array.dtype.kind != "f" for array in taken.values()):
        return arrays, ()
    note = f"{', '.join(map(repr, found))}: taken for the states of these splits"
    rest = {key: arrays[key] for key in arrays if key not in taken}
    return rest | {key + STATES: array for key, array in taken.items()}, (note,)


def _unread(arrays: Iterable[str], prefixes: Collection[str]) -> tuple[str, ...]:
    """A note on keys that mean nothing here, such as misspelled ones, with those that they resemble."""
    each = ("states", "relations", GROUPS, *OPTIONAL)
    known = sorted({*KEYS, *(prefix + key for prefix in prefixes for key in each)})
    unread = []
    for key in sorted(set(arrays) - set(known)):
        alike = next(iter(get_close_matches(key, known, 1) or [name for name in known if name in key]), None)
        unread.append(f"{key!r}" + (f" (the key is {alike!r})" if alike else ""))
    return (f"not read: {', '.join(unread)}",) if unread else ()


def _loading(path: Path, key: str) -> str:
    """A line of Python that loads an array `a` of a file, with the axes of our messages."""
    if path.suffix.lower() == ".npz":
        return f"a = numpy.load('{path.name}')['{key}']"
    return f"a = h5py.File('{path.name}')['{key}'][()]{'.T' if path.suffix.lower() == '.mat' else ''}"


def _renamed(path: Path, arrays: Mapping[str, np.ndarray]) -> tuple[Mapping[str, np.ndarray], tuple[str, ...]]:
    """Arrays of a file without the key `states` whose only array of three or four axes takes that name, and a note.

    Raises:
        DataError: none or several arrays have such shapes.
    """
    known: dict[str, np.ndarray] = {}
    refused = None
    for key in arrays:
        if key not in KEYS and not key.endswith(tuple(f"_{name}" for name in KEYS)):
            try:
                array = arrays[key]
            except DataError as error:  # of a type that is not read, perhaps no array of states
                refused = refused or error
                continue
            if array.ndim in (3, 4) and array.dtype.kind == "f":
                known[key] = array
    found = list(known)
    if refused is not None and not found:
        raise refused
    if _are_recordings(known):
        parts = list(known.values())
        frames = max(map(len, parts))
        padded = len(parts) * frames * parts[0][0].nbytes
        check_size(f"{path}, its recordings at equal lengths", padded, sum(part.nbytes for part in parts))
        states = np.stack([np.pad(part, ((0, frames - len(part)), (0, 0), (0, 0))) for part in parts])
        seen = np.arange(frames) < np.array([len(part) for part in parts])[:, None, None]
        whole = {"states": states.swapaxes(1, 2), "task_names": np.array(found)}
        if not seen.all():
            whole["mask"] = np.broadcast_to(seen, (len(parts), states.shape[2], frames)).copy()
        note = f"{found[0]}, {found[1]}, … are recordings, (frames, entities, features), of a task each"
        return {**{key: arrays[key] for key in arrays if key not in found}, **whole}, (note,)
    if len(found) != 1:
        raise DataError(
            f"{path}: no states among its keys {sorted(arrays)}; name an array of shape (tasks, entities, frames, "
            "features) `states`, or `train_states`, `valid_states`, `test_states`"
        )
    axes = "(frames, entities, features)" if arrays[found[0]].ndim == 3 else "(tasks, entities, frames, features)"
    shape = arrays[found[0]].shape
    if len(shape) == 3 and shape[0] < shape[1]:
        raise DataError(
            f"{path}: the axes of {found[0]!r}, of shape {shape}, are unknown; save it as states, (frames, entities, "
            "features), or (tasks, entities, frames, features): in Python: import h5py, numpy; "
            f"{_loading(path, found[0])}; numpy.savez('{path.stem}.npz', states=a.transpose(1, 0, 2)) with the axes in "
            "the order that they need"
        )
    note = f"{found[0]!r}, of shape {arrays[found[0]].shape}, is taken for the states, {axes}"
    return {**{key: arrays[key] for key in arrays if key != found[0]}, "states": arrays[found[0]]}, (note,)


def _are_recordings(arrays: dict[str, np.ndarray]) -> bool:
    """Whether arrays are recordings of the same entities, (frames, entities, features), whose names are numbered."""
    stems, shapes = {key.rstrip("0123456789") for key in arrays}, [array.shape for array in arrays.values()]
    numbered = len(stems) == 1 and stems.isdisjoint(arrays)
    alike = len({shape[1:] for shape in shapes}) == 1 and all(
        len(shape) == 3 and shape[0] >= shape[1] for shape in shapes
    )
    unnamed = stems == {"arr_"} and len(arrays) == 2 and len(set(shapes)) == 1  # perhaps coordinates and velocities
    return numbered and alike and len(arrays) > 1 and not unnamed


def _of_recording(where: str, parts: dict[str, Any]) -> dict[str, Any]:
    """Arrays of one task from those of a recording: states (frames, entities, features), mask (frames, entities).

    Raises:
        DataError: there are fewer frames than entities, so that the axes were probably meant in another order.
    """
    frames, entities, _ = parts["states"].shape
    if frames < entities:
        raise DataError(
            f"{where}: the shape {parts['states'].shape} is read as (frames, entities, features), {frames} frames of "
            f"{entities} entities; save (tasks, entities, frames, features): states[None] if entities come first, "
            "states.transpose(1, 0, 2)[None] if not"
        )
    turned = {"states": parts["states"].transpose(1, 0, 2)}
    if (mask := parts.get("mask")) is not None and mask.ndim == 2:
        turned["mask"] = mask.T
    alone = {name: parts[name] for name in ("relations", "types", "entity_names") if parts.get(name) is not None}
    return parts | {name: np.ascontiguousarray(part)[None] for name, part in (alone | turned).items()}


def _features(path: Path, arrays: Mapping[str, np.ndarray], states: np.ndarray) -> tuple[str, ...]:
    if "features" not in arrays:
        return tuple(f"feature{i}" for i in range(states.shape[-1] if states.ndim else 0))
    names = arrays["features"]
    if names.ndim != 1 or names.dtype.kind != "U":
        raise DataError(
            f"{path}: features, of type {names.dtype} and shape {names.shape}, is not a list of names; correct it"
        )
    return tuple(names_as_text(f"{path}, key features", names).tolist())


def _json(path: Path, settings: dict[str, Any]) -> str:
    try:
        return json.dumps(settings)
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: settings cannot be written as JSON ({error}); use plain values") from error


def _settings(path: Path, array: np.ndarray) -> dict[str, Any]:
    where = f"{path}, key settings"
    if array.size != 1 or array.dtype.kind != "U" or array.dtype.itemsize > 4 * SETTINGS:
        raise DataError(
            f"{where}: an array of type {array.dtype} and shape {array.shape} is not text; correct or remove this key"
        )
    try:
        settings = json.loads(str(names_as_text(where, array).reshape(())))
        deep = _deeper(settings, SETTINGS_DEPTH)
    except RecursionError:
        settings, deep = None, True
    except ValueError:
        settings, deep = None, False
    if deep:
        raise DataError(f"{where}: nested more than {SETTINGS_DEPTH} levels deep; correct or remove this key")
    if not isinstance(settings, dict):
        raise DataError(f"{path}: settings is not a JSON object; correct or remove this key")
    return settings


def _deeper(value: Any, levels: int) -> bool:
    """Whether lists and objects are nested deeper than `levels`."""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels == 0 or any(_deeper(part, levels - 1) for part in parts)


def _number(path: Path, key: str, array: np.ndarray) -> float:
    if array.size != 1 or array.dtype.kind not in "fiu" or array.dtype.itemsize > 8:
        raise DataError(
            f"{path}: {key}, of type {array.dtype} and shape {array.shape}, is not a single number; correct it"
        )
    return float(array.reshape(()))
