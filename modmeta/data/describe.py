"""Properties of trajectories (coordinates, velocities, frame step), and whether they fit the training data of a model.

Results are meaningless for states with other units or another origin than the training data. Three measures detect
that, with wide tolerances, because data of the same world differ: few entities, few frames, noise, close pairs, drift.
Over 200 tasks of each of 3 seeds of the worlds of the packaged models, with 2 to 20 entities and 3 to 3,000 frames, the
level of a single task is at most 5.8 times the model's and its spread at least 0.15 times. Units that are 100 times too
small or too large give at least 48 times and at most 0.04 times.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from modmeta.data.trajectories import Trajectories
from modmeta.data.units import ROBUST
from modmeta.errors import DataError

MIN_EXPLAINED = 0.9  # features are velocities if they explain more than this share of the changes of coordinates
SAMPLE = 500  # tasks that are used
FACTOR = 20.0  # largest ratio to the model's typical value: three times what tasks of its world reach
NOTED = 5.0  # ratio that gets a note, for the spread of all tasks, which varies less than that of single tasks
OUTSIDE = 0.15  # share of values outside the range of the training tasks that gets a note; noise causes a tenth
MOTION = 3.0  # largest ratio to the model's change of a coordinate at velocity 1; noise causes 1.3
AT_ONCE = 1000  # tasks that are checked together
REMEDY = "Convert it to those of the model, or train a model on these data"


def in_order(data: Trajectories) -> Trajectories:
    """Orders features: coordinates, then their velocities, then others; `vx` is the velocity of `x`."""
    names = data.features
    coordinates = [name for name in names if f"v{name}" in names]
    order = [*coordinates, *(f"v{name}" for name in coordinates)]
    order += [name for name in names if name not in order]
    if tuple(order) == names or len(set(names)) < len(names):
        return data
    return replace(data, states=data.states[..., [names.index(name) for name in order]], features=tuple(order))


def check_moving(data: Trajectories, where: str) -> None:
    """Refuses constant trajectories.

    Raises:
        DataError: all states equal those of the first frame.
    """
    if (data.states == data.states[:, :, :1]).all():
        raise DataError(f"{where}: all states are constant; relations show only in changes, so check the features")


def find_positions(data: Trajectories) -> tuple[int, bool]:
    """Number of leading features that are coordinates, and whether their velocities follow, by names or values."""
    names, d = data.features, data.num_features
    named = next((p for p in range(d // 2, 0, -1) if names[p : 2 * p] == tuple(f"v{name}" for name in names[:p])), 0)
    if named:
        return named, True
    axes = next((p for p in range(min(d, 3), 0, -1) if names[:p] == tuple("xyz"[:p])), 0)
    if d % 2 == 0 and frame_motion(data, d // 2)[1] > MIN_EXPLAINED:
        return d // 2, True
    return axes, False


def frame_motion(data: Trajectories, positions: int) -> tuple[float, float]:
    """Change of coordinates in a frame at velocity 1, and the share of changes that this explains, up to 1."""
    if data.num_frames < 3 or not positions or data.num_features < 2 * positions:
        return 0.0, 0.0
    x, v = data.states[:SAMPLE, :, :, :positions], data.states[:SAMPLE, :, :, positions : 2 * positions]
    moved = x[:, :, 2:] - x[:, :, :-2]
    path = (v[:, :, :-2] + 4 * v[:, :, 1:-1] + v[:, :, 2:]) / 3  # Simpson's rule
    if data.mask is not None:
        seen = data.mask[:SAMPLE]
        whole = seen[:, :, 2:] & seen[:, :, 1:-1] & seen[:, :, :-2]
        moved, path = moved[whole], path[whole]
    if not (path**2).sum() or not (moved**2).sum():
        return 0.0, 0.0
    fast = np.abs(path) > np.median(np.abs(path))
    motion = float(np.median(moved[fast] / path[fast])) if fast.any() else 0.0
    off = np.abs(moved - motion * path)
    return motion, float(1 - np.median(off) / np.median(np.abs(moved))) if np.median(np.abs(moved)) else 0.0


@dataclass(frozen=True)
class Known:
    """Properties of the training data of a model, in physical units; D features.

    Attributes:
        features: names of the features.
        positions: number of leading features that are coordinates; their velocities follow.
        estimated: whether velocities were estimated from positions.
        entities: numbers of entities of the tasks.
        relations, types: numbers of labels; None if the model has no types.
        low, high: range of the training tasks (D,).
        centre: typical state (D,).
        spread: typical distance from the centre (D,).
        frame_motion: change of a coordinate in a frame at velocity 1; 0 where there are none.
    """

    features: tuple[str, ...]
    positions: int
    estimated: bool
    entities: tuple[int, ...]
    relations: int
    types: int | None
    low: np.ndarray
    high: np.ndarray
    centre: np.ndarray
    spread: np.ndarray
    frame_motion: float

    @classmethod
    def of(cls, dynamics: Any, data: dict[str, Any], types: int | None) -> "Known":
        """From the dynamics of a model, the description of its data in a checkpoint, and its number of types."""
        offset, scale = np.array(data["units"]["offset"], float), np.array(data["units"]["scale"], float)
        if dynamics.robust:
            centre, spread = dynamics.centre.double().numpy(force=True), dynamics.state_scale.double().numpy(force=True)
        else:  # not recorded; a fifth to a half of the range for the packaged models
            centre, spread = np.zeros_like(scale), np.full_like(scale, 1 / 3)
        sizes = data["num_entities"]
        return cls(
            features=tuple(data["features"]),
            positions=int(data["positions"]),
            estimated=data.get("velocities") == "estimated",
            entities=(sizes,) if isinstance(sizes, int) else tuple(sizes),
            relations=int(data["num_relations"]),
            types=types,
            low=offset - scale,
            high=offset + scale,
            centre=offset + scale * centre,
            spread=scale * spread,
            frame_motion=float(data.get("frame_motion") or 0.0),
        )


def check_familiar(data: Trajectories, known: Known, where: str) -> str | None:
    """Refuses states with other units or another origin than the training data of a model.

    Args:
        data: coordinates first, then their velocities; entities that a task lacks come last.
        known: properties of the training data.
        where: file, for messages.

    Returns:
        A note if the data are unusual but not refused, else None.

    Raises:
        DataError: names the feature, its range and that of the model.
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
        bounds = _ranges(data.states[task], known, int(feature))
        raise DataError(
            f"{where}: {of}{known.features[feature]} is {times:,.0f} times beyond what the model knows ({bounds}): "
            f"other units, or another origin? {REMEDY}"
        )
    if spreads.max() < 1 / FACTOR:
        bounds = _ranges(data.states, known, 0)
        raise DataError(
            f"{where}: {', '.join(known.features)} span {spreads.max():.2g} times what the model knows "
            f"({known.features[0]}: {bounds}): other units? {REMEDY}"
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
        bounds = _ranges(data.states, known, 0)
        return (
            f"states span {span:.2g} times what is typical for the model ({known.features[0]}: {bounds}): other units?"
        )
    return None


def _levels(states: np.ndarray, known: Known) -> np.ndarray:
    """Typical distance of every feature of every task from the model's centre, (B, D)."""
    with np.errstate(over="ignore"):
        return np.asarray(ROBUST * np.median(np.abs(states - known.centre), axis=(1, 2)))


def _spreads(states: np.ndarray, known: Known) -> np.ndarray:
    """Spread of each task relative to the model's (B,), the largest over features.

    Coordinates are relative to the median of a task, velocities to rest: entities close together move, and entities at
    rest are apart.
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
    """Refuses velocities with other units than their coordinates, if they clearly are velocities."""
    if not known.frame_motion:
        return
    with np.errstate(over="ignore", invalid="ignore"):
        motion, explained = frame_motion(data, known.positions)
        times = abs(motion / known.frame_motion)
    if explained > MIN_EXPLAINED and not 1 / MOTION < times < MOTION:
        x, v = known.features[0], known.features[known.positions]
        raise DataError(
            f"{where}: a frame moves {x} by {motion:.3g} times {v}, but by {known.frame_motion:.3g} times for the "
            f"model: are {x} and {v} in other units, or frames further apart? {REMEDY}"
        )


def _ranges(states: np.ndarray, known: Known, feature: int) -> str:
    """Ranges of a feature in the data and in the model, as text."""
    values = states[..., feature]
    return (
        f"{np.nanmin(values):.4g} to {np.nanmax(values):.4g}, the model's {known.low[feature]:.4g} to "
        f"{known.high[feature]:.4g}"
    )
