"""Loads a file of trajectories for a trained model. Used by `infer`, `evaluate`, `unseen` and the Python API."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modmeta.data import formats
from modmeta.data.describe import (
    SAMPLE,
    SPANS,
    Known,
    check_familiar,
    check_moving,
    find_positions,
    frame_motion,
    in_order,
)
from modmeta.data.names import motion_order
from modmeta.data.reading import Reading
from modmeta.data.trajectories import Trajectories
from modmeta.data.transforms.gaps import absent_last, check_steps, filled, known_steps, without_unseen
from modmeta.data.transforms.observation import estimate_velocities, with_room_for_velocities
from modmeta.data.transforms.smoothing import without_noise
from modmeta.data.transforms.windows import windows
from modmeta.data.units import Units
from modmeta.errors import DataError
from modmeta.keys import OBSERVED, UNKNOWN

MOTION = 0.02  # tolerated relative difference of the time between frames
ERRORS = 2.0  # and its errors by what velocities leave unexplained, over as many changes as do not overlap


@dataclass(frozen=True)
class Options:
    """Options for using a file with a model.

    Args:
        reading: reading options.
        split: split to use; None for `test`, or the only one.
        tasks: number of tasks to use, from the first; None for all.
        window: frames of the windows into which tasks are cut, which then share a structure; None for whole tasks.
        observed: number of frames that structures are inferred from; None for all.
        velocities: `given`, or `estimated` from positions; None for what the model was trained on.
        any_entities: whether to accept other numbers of entities than in training.
        labelled: whether labels of the file are compared with the model's, so they may not exceed the model's.
    """

    reading: Reading = field(default_factory=Reading)
    split: str | None = None
    tasks: int | None = None
    observed: int | None = None
    velocities: str | None = None
    any_entities: bool = True
    labelled: bool = False
    window: int | None = None


@dataclass(frozen=True)
class Loaded:
    """Trajectories in the form that a model expects.

    Attributes:
        data: all frames.
        observed: number of frames, from the first, that structures are inferred from.
        notes: notes for the user about unusual data.
    """

    data: Trajectories
    observed: int
    notes: tuple[str, ...]

    @property
    def seen(self) -> Trajectories:
        """The observed frames."""
        return self.data.frames(self.observed)

    def truth(self, steps: int) -> np.ndarray | None:
        """States of up to `steps` frames after the observed ones, (B, N, steps, D); None if there are none."""
        after = self.data.states[:, :, self.observed : self.observed + steps]
        return after if after.shape[2] else None


def load_for_model(file: Path | str, known: Known, options: Options | None = None) -> Loaded:
    """Reads a file and converts it to the form that a model expects.

    Args:
        file: a file of any format of `modmeta.data.formats`.
        known: description of the model's training data.
        options: options for using the file; None for the defaults.

    Raises:
        DataError: the file cannot be read or does not fit the model.
    """
    options = options or Options()
    return prepared(_tasks(file, options), known, options, str(file))


def prepared(data: Trajectories, known: Known, options: Options, file: str) -> Loaded:
    """Converts trajectories as read from a file to the form that a model expects; see `load_for_model`."""
    data = _selected(in_order(data), known, options)
    observed = data.num_frames if options.observed is None else options.observed
    if not 3 <= observed <= data.num_frames:
        raise DataError(
            f"{file}: {data.num_frames} frames, {observed} of them to observe; observe at least 3 and at most "
            f"{data.num_frames}"
        )
    check_moving(data, str(file))
    data = absent_last(data, observed)
    data.frames(observed).check_groups(f"{file}, first {observed} frames")
    check_steps(data.frames(observed), str(file))
    new = [size for size in data.sizes if size not in known.entities]
    if new and not options.any_entities:
        trained = known.entities[0] if len(known.entities) == 1 else list(known.entities)
        raise DataError(
            f"{file}: {', '.join(map(str, new))} entities, but the model was trained on {trained}; add --any-entities "
            "to apply it anyway"
        )
    estimated = known.estimated if options.velocities is None else options.velocities == "estimated"
    if estimated and known.positions:
        data = estimate_velocities(with_room_for_velocities(data, known.positions), known.positions, observed)
    notes = (*data.notes, *_check_features(data, known, str(file)))
    if options.labelled:
        _check_labels(data, known, str(file))
    _check_frame_step(data, known, options, estimated, str(file))
    note = check_familiar(data.frames(observed), known, str(file))
    data = without_noise(data, known.smoothing, observed, known.positions, known.led)
    return Loaded(data, observed, (*notes, note) if note else notes)


def _tasks(file: Path | str, options: Options) -> Trajectories:
    """Tasks of the requested split."""
    splits = formats.load(file, options.split, options.reading)
    if options.split is None and len(splits) > 1 and "test" not in splits:
        raise DataError(f"{file} has splits {sorted(splits)}; choose one with --split")
    data = splits[options.split or ("test" if "test" in splits else next(iter(splits)))]
    data = data if options.tasks is None else data.take(options.tasks)
    return data if options.window is None else windows(data, options.window, str(file))


def _check_features(data: Trajectories, known: Known, where: str) -> tuple[str, ...]:
    """Rejects a wrong number of features; returns a note if their names differ."""
    if data.num_features != len(known.features):
        advice = ""
        if known.positions and data.num_features == len(known.features) - known.positions:
            advice = "; if velocities are missing, add --velocities estimated"
        raise DataError(
            f"{where}: {data.num_features} features {list(data.features)}, but the model was trained on "
            f"{len(known.features)} features {list(known.features)}{advice}; select columns with --features"
        )
    if data.features == known.features or not find_positions(data)[1]:
        return ()
    return (f"features {list(data.features)} are used as {list(known.features)}",)


def _check_labels(data: Trajectories, known: Known, where: str) -> None:
    if data.relations is not None and data.relations.max() >= known.relations:
        raise DataError(
            f"{where}: relation {data.relations.max()}, but the model was trained on relations 0 to "
            f"{known.relations - 1}; check the labels"
        )
    if known.types is not None and data.types is not None and data.types.max() >= known.types:
        raise DataError(
            f"{where}: entity type {data.types.max()}, but the model was trained on types 0 to {known.types - 1}; "
            "check the labels"
        )


def _check_frame_step(data: Trajectories, known: Known, options: Options, estimated: bool, where: str) -> None:
    motion, explained = frame_motion(data, known.positions)
    changes = data.states[:SAMPLE, ..., : known.positions].size / SPANS[-1]
    tolerated = MOTION + ERRORS * (1 - explained) / max(changes, 1) ** 0.5
    if not known.frame_motion or not motion or abs(motion / known.frame_motion - 1) <= tolerated:
        return
    how = options.reading
    if estimated and data.frame_step == round(data.frame_step) and how.frame_step is None and how.resample is None:
        raise DataError(
            f"{where}: frames are numbered in steps of {data.frame_step:g}, so velocities are estimated per frame, but "
            f"the model was trained on {known.frame_motion:.4g} time units per frame; give the time between frames, "
            f"--frame-step {known.frame_motion:.4g}"
        )
    raise DataError(
        f"{where}: positions and velocities imply {motion:.4g} time units per frame, but the model was trained on "
        f"{known.frame_motion:.4g}; if the frame column holds times, resample the data with --resample, in their "
        "units; otherwise train a model on it"
    )


def _selected(data: Trajectories, known: Known, options: Options) -> Trajectories:
    """The features that the model was trained on, in its order, if all are there; else recognised coordinates."""
    if options.reading.features is not None:
        return data
    chosen = known.features if set(known.features) <= set(data.features) else None
    if chosen is None and known.positions and data.num_features > len(known.features):
        coordinates, velocities = motion_order(data.features)
        best = (*coordinates, *velocities)
        fits = len(best) == len(known.features) or (not velocities and len(coordinates) == known.positions)
        chosen = best if fits and len(known.features) == 2 * known.positions else None
    if chosen is None or tuple(chosen) == data.features:
        return data
    places = [data.features.index(name) for name in chosen]
    gone = [name for name in data.features if name not in chosen]
    notes = (*data.notes, f"the model does not use {', '.join(gone)}") if gone else data.notes
    return replace(data, states=data.states[..., places], features=tuple(chosen), notes=notes)


def arrays_for_model(
    states: Any, mask: Any, known: Known, units: Units, frame_step: float
) -> tuple[Trajectories, Tensor, Tensor | None]:
    """Converts, checks and normalises arrays or trajectories of a caller in Python.

    Args:
        states: (B, N, T, D), or (N, T, D) for one task, in the units of the training data; or trajectories.
        mask: (B, T - 1) or (B, N, T) booleans, see `modmeta.Model.infer`; None for all.
        known: properties of the training data.
        units: protocol units of the model.
        frame_step: time between frames of the training data.

    Returns:
        Trajectories, states in protocol units (B, N, T, D), and how well steps are known, (B, N, T - 1); None for all
        observed.

    Raises:
        DataError: states or mask do not fit the model.
    """
    data, steps = states, None
    if not isinstance(states, Trajectories):
        data, steps = _as_trajectories(states, mask, known.features, frame_step)
        data = without_noise(data, known.smoothing, data.num_frames, known.positions, known.led, steps)
    elif mask is not None:
        raise DataError("mask: trajectories have one of their own; leave it out")
    _check_states(data.states.shape, known.features)
    check_familiar(data, known, "states")
    check_steps(data, "states")
    given = units.normalised(data.states)
    lost = np.argwhere(~np.isfinite(given.numpy()))
    if len(lost):
        task, entity, frame, feature = lost[0].tolist()
        value = data.states[task, entity, frame, feature]
        raise DataError(
            f"states: task {task}, entity {entity}, frame {frame}, {known.features[feature]} is {value:.3g}, too large "
            "for the model; check that value"
        )
    found = known_steps(data)
    if steps is not None:  # of all entities alike, beside what frames do not show
        alike = np.where(steps, OBSERVED, UNKNOWN).astype(np.int8)[:, None].repeat(data.num_entities, 1)
        found = alike if found is None else np.minimum(alike, found)
    return data, given, None if found is None else torch.from_numpy(found)


def _check_states(shape: tuple[int, ...], features: tuple[str, ...]) -> None:
    if len(shape) != 4 or shape[0] < 1 or shape[1] < 2 or shape[2] < 3 or shape[3] != len(features):
        raise DataError(
            f"states have shape {shape}; this model takes (tasks, entities, frames, features), at least 2 "
            f"entities and 3 frames, with {len(features)} features: {', '.join(features)}"
        )


def _as_trajectories(
    states: Any, mask: Any, features: tuple[str, ...], frame_step: float
) -> tuple[Trajectories, np.ndarray | None]:
    """Converts arrays to trajectories; returns also the steps that count, where the mask is of steps."""
    array = _numbers(states)
    array = array[None] if array.ndim == 3 else array
    _check_states(array.shape, features)
    given = None if mask is None else _mask(mask, array.shape[:3])
    seen = given if given is not None and given.ndim == 3 else None
    data = without_unseen(Trajectories(array, None, features, frame_step, mask=seen))
    if seen is not None and data.mask is not None:
        data = replace(data, states=filled(data.states, data.mask))
    if not np.isfinite(data.states).all():
        task, entity, frame, feature = np.argwhere(~np.isfinite(data.states))[0].tolist()
        raise DataError(
            f"states: task {task}, entity {entity}, frame {frame}, {features[feature]} is "
            f"{data.states[task, entity, frame, feature]}; correct it, or leave such frames out with "
            "mask=np.isfinite(states).all(-1)"
        )
    there = data.there
    if (there.sum(axis=1) < 2).any() or (there[:, 1:] & ~there[:, :-1]).any():
        raise DataError("states: every task has 2 entities or more, and those that it lacks come last")
    return data, None if given is None or given.ndim == 3 else given


def _numbers(states: Any) -> np.ndarray:
    """Converts states to float64."""
    if isinstance(states, Tensor):
        if states.is_complex() or states.dtype == torch.bool:
            raise DataError(f"states are {states.dtype}; give real numbers")
        return np.asarray(states.detach().to("cpu", torch.float64).numpy())
    try:
        array = np.asarray(states)
    except (ValueError, TypeError, OverflowError) as error:
        raise DataError("states are not an array: (tasks, entities, frames, features), all tasks alike") from error
    if array.dtype.kind not in "iuf":
        raise DataError(f"states are {array.dtype}; give real numbers, such as states.astype(float)")
    return array.astype(np.float64)


def _mask(mask: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Checks a mask: steps that count, (B, T - 1), or observed entities, (B, N, T), for states (B, N, T)."""
    try:
        steps = np.asarray(mask.detach().cpu() if isinstance(mask, Tensor) else mask)
    except (ValueError, TypeError) as error:
        raise DataError("mask is not an array of booleans") from error
    expected = (shape[0], shape[2] - 1)
    steps = steps[None] if (1, *steps.shape) == shape else steps  # of one task, like its states
    if steps.dtype != bool or steps.shape not in (expected, shape):
        raise DataError(
            f"mask is {steps.dtype} of shape {steps.shape}; give booleans of shape {expected}, (tasks, frames - 1): "
            f"which steps from a frame to the next count, those with all entities seen in both; or {shape}, (tasks, "
            "entities, frames): where each entity was seen"
        )
    return steps
