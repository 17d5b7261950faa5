"""Properties of trajectories (coordinates, velocities, frame step), and whether they fit the training data of a model.

Results are meaningless for states with other units or another origin than the training data. Three measures detect
that, with wide tolerances, because data of the same world differ: few entities, few frames, noise, close pairs, drift.
Over 200 tasks of each of 3 seeds of the worlds of the packaged models, with 2 to 20 entities and 3 to 3,000 frames, the
level of a single task is at most 5.8 times the model's and its spread at least 0.15 times. Units that are 100 times too
small or too large give at least 48 times and at most 0.04 times.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any

import numpy as np

from modmeta.data.names import motion_order
from modmeta.data.trajectories import Trajectories
from modmeta.data.units import ROBUST
from modmeta.errors import DataError

MIN_EXPLAINED = 0.8  # features are velocities if they explain more than this share of the changes of coordinates
SPANS = (2, 4, 8, 16)  # frames, over which velocities may explain changes of coordinates
FEWEST = 10  # changes that do not overlap, from which those over more than two frames tell anything
SAMPLE = 500  # number of tasks used
FACTOR = 20.0  # error if a task exceeds the model's typical level, or falls short of its spread, by this factor
NOTE_FACTOR = 5.0  # note if the median spread falls short by this factor; it varies less than that of single tasks
NOTE_OUTSIDE = 0.15  # note if this share of values is outside the training range; noise causes about 0.1
MOTION = 3.0  # error if the change of a coordinate at velocity 1 differs by this factor; noise causes 1.3
CHUNK = 1000  # tasks processed at once
SAME_LABELS = "labels of all tasks are the same: data.group=all lets them share the relations that are inferred"
REMEDY = "Convert the data to the model's units, or train a model on these data"


def in_order(data: Trajectories) -> Trajectories:
    """Reorders features: coordinates x, y, z, then their velocities, then the rest. `vx` is the velocity of `x`.

    Other names of coordinates are those that `modmeta.data.names` knows.
    """
    names = data.features
    if len(set(names)) < len(names):
        return data
    coordinates, velocities = motion_order(names)
    return reordered(data, (*coordinates, *velocities))


def reordered(data: Trajectories, first: tuple[str, ...]) -> Trajectories:
    """Trajectories whose features begin with the given ones."""
    names = data.features
    order = (*first, *(name for name in names if name not in first))
    if order == names:
        return data
    return replace(data, states=data.states[..., [names.index(name) for name in order]], features=order)


def without_others(data: Trajectories) -> Trajectories:
    """Leaves out what is neither a coordinate nor its velocity, with a note, where names tell at least two of these.

    Other columns of such files are masses, confidences and numbers of rows, which laws of motion do not predict.
    """
    coordinates, velocities = motion_order(data.features)
    motion = (*coordinates, *velocities)
    rest = [name for name in data.features if name not in motion]
    if not rest or len(motion) < 2 or len(set(data.features)) < data.num_features:
        return data
    note = f"not used unless data.reading.features names them: {', '.join(rest)}"
    places = [data.features.index(name) for name in motion]
    return replace(data, states=data.states[..., places], features=motion, notes=(*data.notes, note))


def of_one_graph(splits: Iterable[Trajectories]) -> bool:
    """Whether several tasks, which belong to no groups, are labelled, all with the same relations."""
    labels = [data.relations for data in splits if data.relations is not None and data.group_names is None]
    alike = all(part.shape[1:] == labels[0].shape[1:] and (part == labels[0][0]).all() for part in labels)
    return alike and sum(map(len, labels)) > 1


def check_moving(data: Trajectories, where: str) -> None:
    """Rejects constant trajectories.

    Raises:
        DataError: all states equal those of the first frame.
    """
    if (data.states == data.states[:, :, :1]).all():
        raise DataError(f"{where}: all states are constant; relations show only in changes, so check the features")


def looks_like_angles(states: np.ndarray) -> tuple[bool, ...]:
    """Which features (B, N, T, D) are angles modulo 2 pi: within one turn, filling it, and jumping from end to end."""
    turn = 2 * np.pi
    low, high = states.min((0, 1, 2)), states.max((0, 1, 2))
    jumps = (np.abs(np.diff(states, axis=2)) > 0.75 * turn).any((0, 1, 2))
    return tuple(((high - low <= turn * 1.001) & (high - low > 0.95 * turn) & jumps).tolist())


def find_positions(data: Trajectories) -> tuple[int, bool]:
    """Number P of leading features that are coordinates, and whether P velocities follow, from names or values.

    Angles are no coordinates, whatever their names: one that jumps by a turn did not move.
    """
    positions, moving = _named_or_moving(data)
    return (0, False) if any(looks_like_angles(data.states[:SAMPLE, ..., :positions])) else (positions, moving)


def _named_or_moving(data: Trajectories) -> tuple[int, bool]:
    names, d = data.features, data.num_features
    named = next((p for p in range(d // 2, 0, -1) if names[p : 2 * p] == tuple(f"v{name}" for name in names[:p])), 0)
    if named:
        return named, True
    coordinates, velocities = motion_order(names)
    if velocities and names[: 2 * len(coordinates)] == (*coordinates, *velocities):
        return len(coordinates), True
    axes = len(coordinates) if coordinates and names[: len(coordinates)] == tuple(coordinates) else 0
    if d % 2 == 0 and axes in (0, d // 2) and frame_motion(data, d // 2)[1] > MIN_EXPLAINED:
        return d // 2, True
    return axes, False


def frame_motion(data: Trajectories, positions: int) -> tuple[float, float]:
    """Change of a coordinate per frame at velocity 1, and the share of the coordinates' changes that it explains.

    Changes are over as many frames as explains them best: those over many are large beside noise of observation.

    Args:
        data: coordinates first, then their velocities.
        positions: number of coordinates.

    Returns:
        Median ratio of changes to velocities, and a share of at most 1 (from median absolute residuals); 0, 0 if there
        are no velocities, fewer than 3 frames, or nothing is explained.
    """
    return max((_motion_over(data, positions, span) for span in SPANS), key=itemgetter(1))


def _motion_over(data: Trajectories, positions: int, span: int) -> tuple[float, float]:
    """The same over `span` frames, even; beyond 2 without what is common to all: a trend goes with any constant."""
    if data.num_frames <= span or not positions or data.num_features < 2 * positions:
        return 0.0, 0.0
    x, v = data.states[:SAMPLE, :, :, :positions], data.states[:SAMPLE, :, :, positions : 2 * positions]
    moved = x[:, :, span:] - x[:, :, :-span]
    path = (v[:, :, :-2] + 4 * v[:, :, 1:-1] + v[:, :, 2:]) / 3  # Simpson's rule
    ends = moved.shape[2]
    path = sum(path[:, :, first : first + ends] for first in range(0, span, 2))
    if data.mask is not None:
        whole = np.lib.stride_tricks.sliding_window_view(data.mask[:SAMPLE], span + 1, axis=2).all(-1)
        moved, path = moved[whole], path[whole]
    if span > 2 and moved.size < FEWEST * span:
        return 0.0, 0.0
    if span > 2:
        moved, path = (part - np.median(part.reshape(-1, positions), axis=0) for part in (moved, path))
    if not (path**2).sum() or not (moved**2).sum():
        return 0.0, 0.0
    fast = np.abs(path) > np.median(np.abs(path))
    motion = float(np.median(moved[fast] / path[fast])) if fast.any() else 0.0
    off = np.abs(moved - motion * path)
    return motion, float(1 - np.median(off) / np.median(np.abs(moved))) if np.median(np.abs(moved)) else 0.0


@dataclass(frozen=True)
class Known:
    """Description of a model's training data, in physical units; D features.

    Attributes:
        features: names of the features.
        positions: number P of leading features that are coordinates, followed by P velocities.
        estimated: whether velocities were estimated from positions.
        entities: numbers of entities of the tasks.
        relations, types: number of labels of each; `types` is None if the model does not distinguish types.
        low, high: range of the training tasks (D,).
        centre: typical state (D,).
        spread: typical distance from `centre` (D,).
        frame_motion: change of a coordinate per frame at velocity 1; 0 without velocities.
        smoothing: frames to either side over which noise of observation was averaged.
        led: change of a coordinate per frame at velocity 1, by which velocities led smoothed ones; 0 if they did not.
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
    smoothing: int = 0
    led: float = 0.0

    @classmethod
    def of(cls, dynamics: Any, data: dict[str, Any], types: int | None) -> "Known":
        """From a model's dynamics, the data description in its checkpoint, and the number of types it distinguishes."""
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
            smoothing=int(data.get("smoothing", 0)),
            led=float(data.get("led") or 0.0),
        )


def check_familiar(data: Trajectories, known: Known, where: str) -> str | None:
    """Rejects states in other units, or with another origin, than the model's training data.

    Args:
        data: coordinates first, then their velocities; absent entities come last.
        known: description of the model's training data.
        where: the file, for messages.

    Returns:
        A note if the data are unusual but accepted, else None.

    Raises:
        DataError: the data are out of range. The message names the feature, its range and the model's.
    """
    counts = np.full(data.num_tasks, data.num_entities) if data.counts is None else data.counts
    levels, spreads = np.empty((data.num_tasks, data.num_features)), np.empty(data.num_tasks)
    for count in np.unique(counts):
        ids = np.flatnonzero(counts == count)
        for start in range(0, len(ids), CHUNK):
            part = ids[start : start + CHUNK]
            states = np.asarray(data.states[part, :count], dtype=np.float64)
            levels[part], spreads[part] = _levels(states, known), _spreads(states, known)
    middle = (known.high + known.low) / 2
    outside = levels > np.maximum(FACTOR * known.spread, ROBUST * (np.abs(known.centre - middle) + known.high - middle))
    if outside.any():
        task, feature = np.argwhere(outside)[0]
        times = levels[task, feature] / known.spread[feature]
        of = f"task {task}: " if not outside[:, feature].all() else ""
        ranges = _ranges(data.states[task], known, int(feature))
        raise DataError(
            f"{where}: {of}{known.features[feature]} is {times:,.0f} times the typical value of the training data "
            f"({ranges}). Are its units or its origin different? {REMEDY}"
        )
    if spreads.max() < 1 / FACTOR:
        ranges = _ranges(data.states, known, 0)
        raise DataError(
            f"{where}: {', '.join(known.features)} span {spreads.max():.2g} times the typical range of the training "
            f"data ({known.features[0]}: {ranges}). Are the units different? {REMEDY}"
        )
    _check_motion(data, known, where)
    present = data.present()
    share = ((present < known.low) | (present > known.high)).mean(axis=(0, 1, 2))
    if (share > NOTE_OUTSIDE).any():
        feature = int(share.argmax())
        return (
            f"{share[feature]:.0%} of the values of {known.features[feature]} are outside the training range "
            f"({_ranges(present, known, feature)}). Are its units or its origin different?"
        )
    if (span := np.median(spreads)) < 1 / NOTE_FACTOR:
        ranges = _ranges(data.states, known, 0)
        return (
            f"states span {span:.2g} times the typical range of the training data ({known.features[0]}: {ranges}). "
            "Are the units different?"
        )
    return None


def _levels(states: np.ndarray, known: Known) -> np.ndarray:
    """Typical distance of every feature of every task from the model's `centre`, (B, D)."""
    with np.errstate(over="ignore"):
        return np.asarray(ROBUST * np.median(np.abs(states - known.centre), axis=(1, 2)))


def _spreads(states: np.ndarray, known: Known) -> np.ndarray:
    """Spread of every task in units of the model's (B,), the largest over features.

    Coordinates are measured from the median of the task, velocities from zero: a cluster in a corner still moves, and
    entities at rest are still spread out.
    """
    p = known.positions
    with np.errstate(over="ignore", invalid="ignore"):
        deviation = np.abs(states - np.median(states, axis=(1, 2), keepdims=True))
        if not p:
            return np.asarray((ROBUST * np.median(deviation, axis=(1, 2)) / known.spread).max(-1))
        coordinates = ROBUST * np.median(deviation[..., :p] / known.spread[:p], axis=(1, 2, 3))
        if states.shape[-1] < 2 * p:
            return np.asarray(coordinates)
        speeds = np.abs(states[..., p : 2 * p]) / known.spread[p : 2 * p]
        return np.maximum(coordinates, ROBUST * np.median(speeds, axis=(1, 2, 3)))


def _check_motion(data: Trajectories, known: Known, where: str) -> None:
    """Rejects velocities whose units do not match their coordinates, if they are clearly velocities."""
    if not known.frame_motion:
        return
    with np.errstate(over="ignore", invalid="ignore"):
        motion, explained = frame_motion(data, known.positions)
        times = abs(motion / known.frame_motion)
    if explained > MIN_EXPLAINED and not 1 / MOTION < times < MOTION:
        x, v = known.features[0], known.features[known.positions]
        raise DataError(
            f"{where}: {x} changes by {motion:.3g} times {v} per frame, but by {known.frame_motion:.3g} times in the "
            f"training data. Are the units of {x} or {v}, or the time between frames, different? {REMEDY}"
        )


def _ranges(states: np.ndarray, known: Known, feature: int) -> str:
    """Range of a feature in the data and in the training data."""
    values = states[..., feature]
    return (
        f"{np.nanmin(values):.4g} to {np.nanmax(values):.4g}, training data {known.low[feature]:.4g} to "
        f"{known.high[feature]:.4g}"
    )
