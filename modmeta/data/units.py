"""Units of states: protocol units, in which errors are reported, and robust scales, which normalise module inputs."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

FEWEST_HITS = 5  # reflections needed to detect a wall
APART = 4.0  # joint range of the axes of a kind, in units of the widest, beyond which each has an origin of its own
ROBUST = 1.4826  # converts the median absolute value of a normal variable to its standard deviation


@dataclass(frozen=True)
class Units:
    """Affine units of a data set: protocol = (physical - offset) / scale, for every feature (D,)."""

    offset: tuple[float, ...]
    scale: tuple[float, ...]

    @classmethod
    def of_range(cls, low: np.ndarray, high: np.ndarray, positions: int) -> "Units":
        """Maps the joint range of all coordinates, and that of all velocities, to [-1, 1] (Kipf et al. 2018).

        Where the ranges of the axes lie far apart, as easting and northing do, every axis has its own offset, and the
        widest one maps to [-1, 1]: a joint range would leave motion below the resolution of float32.

        Args:
            low: smallest value of every feature, (D,).
            high: largest value of every feature, (D,).
            positions: number P of leading features that are coordinates, followed by P velocities. Other features are
                mapped separately.
        """
        low, high = np.array(low, dtype=float), np.array(high, dtype=float)
        for group in feature_groups(len(low), positions):
            widest = (high[group] - low[group]).max() / 2
            if high[group].max() - low[group].min() > 2 * APART * widest:
                middle = (low[group] + high[group]) / 2
                low[group], high[group] = middle - widest, middle + widest
            else:
                low[group], high[group] = low[group].min(), high[group].max()
        half = np.where(high > low, (high - low) / 2, 1.0)
        return cls(tuple(((high + low) / 2).tolist()), tuple(half.tolist()))

    def normalised(self, states: np.ndarray) -> Tensor:
        """Converts physical states (tasks, ..., D) to float32 protocol units, in chunks of tasks to limit memory."""
        out = torch.empty(states.shape, dtype=torch.float32)
        for i in range(0, len(states), 4096):
            out[i : i + 4096] = torch.from_numpy((states[i : i + 4096] - np.array(self.offset)) / np.array(self.scale))
        return out


def feature_groups(num_features: int, positions: int) -> list[slice]:
    """Groups of features that share a unit: coordinates, velocities, then each other feature separately."""
    groups = [slice(0, positions), slice(positions, 2 * positions)] if positions else []
    groups = [group for group in groups if group.stop <= num_features]
    first = groups[-1].stop if groups else 0
    return groups + [slice(i, i + 1) for i in range(first, num_features)]


class Scales(NamedTuple):
    """Scales that normalise the inputs and outputs of modules, in protocol units.

    Attributes:
        centre: median of the states (D,).
        state: scale of the states (D,).
        change: scale of changes between consecutive frames (D,).
        rest: state of an entity at rest at the physical origin (D,).
        step: change of a coordinate per frame at velocity `rest` + 1; 0 without velocities.
        walls: coordinates of reflecting walls, low and high, (2, positions); infinite without walls.
        fastest: largest change of a velocity per frame away from walls (positions,).
    """

    centre: Tensor
    state: Tensor
    change: Tensor
    rest: Tensor
    step: Tensor
    walls: Tensor
    fastest: Tensor


def robust_scales(states: Tensor, positions: int, units: Units, frame_step: float) -> Scales:
    """Robust scales of states.

    Changes are heavy-tailed: the largest change of velocity among charged particles is 400 times the median. A scale is
    therefore 1.48 times the median absolute value, shared by the features of a group.

    Args:
        states: (B, N, T, D) in protocol units.
        positions: number P of leading features that are coordinates.
        units: the protocol units.
        frame_step: time units between two frames.
    """
    sample = states[:2000]
    centre = sample.flatten(0, 2).median(dim=0).values
    change = sample.diff(dim=2).flatten(0, 2)
    spread = (sample - centre).flatten(0, 2)

    def scale(values: Tensor) -> Tensor:
        out = torch.ones(values.shape[1])
        for group in feature_groups(values.shape[1], positions):
            part = values[:, group].abs()
            typical = ROBUST * part.median()
            out[group] = typical if typical > 0 else max(float(part.max()), 1e-6)
        return out

    rest = units.normalised(np.zeros((1, sample.shape[-1])))[0]
    step = _step(sample - rest, positions)
    if step != 0:
        nominal = frame_step * units.scale[positions] / units.scale[0]
        step = nominal if abs(step / nominal - 1) < 0.01 else step  # `frame_step` is exact if the data agrees
    walls = find_walls(states, positions, rest, step)
    return Scales(
        centre, scale(spread), scale(change), rest, torch.tensor(step), walls, fastest_change(states, walls, rest, step)
    )


def find_walls(states: Tensor, positions: int, rest: Tensor, step: float) -> Tensor:
    """Detects reflecting walls.

    Uniform motion would take some entities beyond the range of all observed coordinates. If most of these have their
    velocity reversed in the next frame there is a wall. Its coordinate follows from the length of the path to the wall
    and back, which is the mean speed times the time.

    Args:
        states: (B, N, T, D), coordinates first, then their velocities.
        positions: number of coordinates.
        rest: state of an entity at rest (D,).
        step: change of a coordinate per frame at velocity `rest` + 1; 0 without velocities.

    Returns:
        Coordinates of the walls, low and high, (2, positions); infinite without a wall.
    """
    walls = torch.tensor([[-torch.inf], [torch.inf]]).repeat(1, positions)
    if step == 0:
        return walls
    x, v = states[..., :positions], states[..., positions : 2 * positions] - rest[positions : 2 * positions]
    ahead = x[:, :, :-1] + step * v[:, :, :-1]
    for side, sign in enumerate((-1, 1)):
        for axis in range(positions):
            past = sign * ahead[..., axis] > (sign * x[..., axis]).max()
            before, after = v[:, :, :-1, axis][past], v[:, :, 1:, axis][past]
            if len(before) >= FEWEST_HITS and ((before + after).abs() < 0.1 * before.abs()).float().mean() > 0.5:
                ends = (x[:, :, :-1, axis] + x[:, :, 1:, axis])[past]
                walls[side, axis] = ((ends + step * (before - after) / 2) / 2).median()
    return walls


def _step(states: Tensor, positions: int) -> float:
    """Change of a coordinate per frame at velocity 1: median ratio of two-frame changes to Simpson integrals."""
    if positions == 0 or states.shape[-1] < 2 * positions or states.shape[2] < 3:
        return 0.0
    x, v = states[..., :positions].double(), states[..., positions : 2 * positions].double()
    path = (v[:, :, :-2] + 4 * v[:, :, 1:-1] + v[:, :, 2:]).flatten() / 3
    moved = (x[:, :, 2:] - x[:, :, :-2]).flatten()
    fast = path.abs() > path.abs().median()
    return float((moved[fast] / path[fast]).median()) if bool(fast.any()) else 0.0


def fastest_change(states: Tensor, walls: Tensor, rest: Tensor, step: float) -> Tensor:
    """Largest change of a velocity per frame, (positions,), of entities that do not touch a wall.

    Args:
        states: (B, N, T, D), coordinates first, then their velocities.
        walls: low and high, (2, positions).
        rest: state of an entity at rest (D,).
        step: change of a coordinate per frame at velocity `rest` + 1; 0 without velocities, which gives infinity.
    """
    p = walls.shape[1]
    if step == 0:
        return torch.full((p,), torch.inf)
    x, v = states[..., :p], states[..., p : 2 * p]
    ahead = x[:, :, :-1] + step * (v - rest[p : 2 * p])[:, :, :-1]
    behind = x[:, :, 1:] - step * (v - rest[p : 2 * p])[:, :, 1:]
    free = (torch.minimum(ahead, behind) > walls[0]) & (torch.maximum(ahead, behind) < walls[1])
    return (v.diff(dim=2).abs() * free).flatten(0, 2).amax(0)
