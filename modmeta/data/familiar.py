"""Whether states lie where a model has learned: other units, or another origin, give answers that mean nothing.

Three measures, each with wide room, for data of the same world differ: few entities, few frames, noise, close pairs,
drift. Over 200 tasks of each of 3 seeds of the worlds of the packaged models, with 2 to 20 entities and 3 to 3,000
frames, the level of a single task is at most 5.8 times the model's and its spread at least 0.15 times; units that are
100 times too small or too large give at least 48 times and at most 0.04 times.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from modmeta.data.describe import FOLLOWS, frame_motion
from modmeta.data.scaling import ROBUST
from modmeta.data.trajectories import Trajectories
from modmeta.errors import DataError

FACTOR = 20.0  # times the model's typical value, or that part of it: three times what tasks of its world reach
NOTED = 5.0  # spread of all tasks together varies less than that of single ones: so much less, and a note is due
OUTSIDE = 0.15  # share of values outside the range of the training tasks that gets a note; noise makes a tenth
MOTION = 3.0  # times the model's change of a coordinate at velocity 1; noise makes 1.3
AT_ONCE = 1000  # tasks
REMEDY = "Convert it to those of the model, or train a model on these data"


@dataclass(frozen=True)
class Known:
    """What a model knows of the states it was trained on, in the units of the data; D features.

    Attributes:
        features: their names.
        positions: how many leading ones are coordinates; as many velocities follow.
        low, high: range of the training tasks (D,).
        centre: typical state (D,).
        spread: typical distance from it (D,).
        frame_motion: change of a coordinate in a frame at velocity 1; 0 where there are none.
    """

    features: tuple[str, ...]
    positions: int
    low: np.ndarray
    high: np.ndarray
    centre: np.ndarray
    spread: np.ndarray
    frame_motion: float

    @classmethod
    def of(cls, dynamics: Any, data: dict[str, Any]) -> "Known":
        """From a model's dynamics and what its checkpoint says of its data."""
        offset, scale = np.array(data["units"]["offset"], float), np.array(data["units"]["scale"], float)
        if dynamics.robust:
            centre, spread = dynamics.centre.double().numpy(force=True), dynamics.state_scale.double().numpy(force=True)
        else:  # not recorded; of the packaged models a fifth to a half of the range
            centre, spread = np.zeros_like(scale), np.full_like(scale, 1 / 3)
        return cls(
            tuple(data["features"]), int(data["positions"]), offset - scale, offset + scale, offset + scale * centre,
            scale * spread, float(data.get("frame_motion") or 0.0),
        )  # fmt: skip


def check_familiar(data: Trajectories, known: Known, where: str) -> str | None:
    """Refuses states in other units or with another origin than those a model knows.

    Args:
        data: coordinates first, then their velocities; what tasks lack is NaN in the last entities.
        known: of the model.
        where: the file, for messages.

    Returns:
        What to mind, where the data are unusual but not refused; else none.

    Raises:
        DataError: naming the feature, its range and that of the model.
    """
    counts = np.full(data.num_tasks, data.num_entities) if data.counts is None else data.counts
    levels, spreads = np.empty((data.num_tasks, data.num_features)), np.empty(data.num_tasks)
    for count in np.unique(counts):
        ids = np.flatnonzero(counts == count)
        for start in range(0, len(ids), AT_ONCE):
            part = ids[start : start + AT_ONCE]
            states = np.asarray(data.states[part, :count], dtype=np.float64)
            levels[part], spreads[part] = _levels(states, known), _spreads(states, known)
    middle = (known.high + known.low) / 2
    outside = levels > np.maximum(FACTOR * known.spread, ROBUST * (np.abs(known.centre - middle) + known.high - middle))
    if outside.any():
        task, feature = np.argwhere(outside)[0]
        times = levels[task, feature] / known.spread[feature]
        of = f"task {task}: " if not outside[:, feature].all() else ""
        told = _ranges(data.states[task], known, int(feature))
        raise DataError(
            f"{where}: {of}{known.features[feature]} is {times:,.0f} times beyond what the model knows ({told}): other "
            f"units, or another origin? {REMEDY}"
        )
    if spreads.max() < 1 / FACTOR:
        told = _ranges(data.states, known, 0)
        raise DataError(
            f"{where}: {', '.join(known.features)} span {spreads.max():.2g} times what the model knows "
            f"({known.features[0]}: {told}): other units? {REMEDY}"
        )
    _check_motion(data, known, where)
    present = data.present()
    share = ((present < known.low) | (present > known.high)).mean(axis=(0, 1, 2))
    if (share > OUTSIDE).any():
        feature = int(share.argmax())
        return (
            f"{share[feature]:.0%} of {known.features[feature]} lie outside what the model was trained on "
            f"({_ranges(present, known, feature)}): other units, or another origin?"
        )
    if (span := np.median(spreads)) < 1 / NOTED:
        told = _ranges(data.states, known, 0)
        return f"states span {span:.2g} times what is typical for the model ({known.features[0]}: {told}): other units?"
    return None


def _levels(states: np.ndarray, known: Known) -> np.ndarray:
    """Typical distance of every feature of every task from the model's centre, (B, D)."""
    with np.errstate(over="ignore"):
        return np.asarray(ROBUST * np.median(np.abs(states - known.centre), axis=(1, 2)))


def _spreads(states: np.ndarray, known: Known) -> np.ndarray:
    """How much of the model's spread a task has (B,), the largest over features.

    Coordinates count from the middle of a task, their velocities from rest: a crowd in a corner moves, and who is at
    rest is not in one place.
    """
    p = known.positions
    with np.errstate(over="ignore", invalid="ignore"):
        apart = np.abs(states - np.median(states, axis=(1, 2), keepdims=True))
        if not p:
            return np.asarray((ROBUST * np.median(apart, axis=(1, 2)) / known.spread).max(-1))
        places = ROBUST * np.median(apart[..., :p] / known.spread[:p], axis=(1, 2, 3))
        if states.shape[-1] < 2 * p:
            return np.asarray(places)
        speeds = np.abs(states[..., p : 2 * p]) / known.spread[p : 2 * p]
        return np.maximum(places, ROBUST * np.median(speeds, axis=(1, 2, 3)))


def _check_motion(data: Trajectories, known: Known, where: str) -> None:
    """Refuses velocities that are in other units than their coordinates, where they surely are velocities."""
    if not known.frame_motion:
        return
    with np.errstate(over="ignore", invalid="ignore"):
        motion, explained = frame_motion(data, known.positions)
        times = abs(motion / known.frame_motion)
    if explained > FOLLOWS and not 1 / MOTION < times < MOTION:
        x, v = known.features[0], known.features[known.positions]
        raise DataError(
            f"{where}: a frame moves {x} by {motion:.3g} times {v}, but by {known.frame_motion:.3g} times for the "
            f"model: are {x} and {v} in other units, or frames further apart? {REMEDY}"
        )


def _ranges(states: np.ndarray, known: Known, feature: int) -> str:
    """Of a feature, in the data and for the model."""
    values = states[..., feature]
    return (
        f"{np.nanmin(values):.4g} to {np.nanmax(values):.4g}, the model's {known.low[feature]:.4g} to "
        f"{known.high[feature]:.4g}"
    )
