"""Noise of observation taken off by local cubics.

Runs are frames of an entity that follow one another, all seen. Each is smoothed by itself, like a recording, in
training and wherever a model is used: nothing is told across a gap or a step that does not count. Runs of fewer than
five frames keep their noise. Letters: B tasks, N entities, T frames, D features, P coordinates, W frames of a window.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from modmeta.data.trajectories import Trajectories

WIDEST = 100  # frames to either side
BLOCK = 50  # frames in which velocities tell paths and coordinates their level; as long as windows of a recording
LOST = 1.5  # times as far from coordinates observed as smoothed ones are, up to where paths are led by velocities


def smoothed(states: Tensor, half: int, joined: Tensor | None = None) -> Tensor:
    """States on cubics that come closest to `half` frames to either side (Savitzky and Golay 1964).

    Args:
        states: (B, N, T, D).
        half: frames to either side, fewer where a run is short; windows are moved inwards at its ends. 0 for none.
        joined: whether a frame and the next are of one run, (B, N, T - 1); None for one run.
    """
    return _windowed(states, _runs(states, joined), 2 * half + 1, half, _projection) if half else states


def kept(frames: int, half: int) -> float:
    """Share of the variance of white noise that smoothing keeps, on average over at least 2 * `half` + 1 frames.

    Projections keep a frame's weight in its own smoothed state. It is the same for all but those of one window, over
    which projections on cubics have weights that sum to four.
    """
    inner = 3 * (3 * half**2 + 3 * half - 1) / ((4 * half**2 - 1) * (2 * half + 3))
    return (4 + (frames - 2 * half - 1) * inner) / frames


def without_noise(
    data: Trajectories, half: int, observed: int, positions: int, led: float, steps: np.ndarray | None = None
) -> Trajectories:
    """The same with the first `observed` frames smoothed, by themselves; later ones are forecast, and stay.

    Args:
        data: as observed.
        half: frames to either side; 0 for states as they are.
        observed: number of frames.
        positions: leading features that are coordinates, followed by velocities if `led` is not 0.
        led: change of a coordinate per frame at velocity 1, by which velocities lead coordinates; 0 where they do not.
        steps: which steps from a frame to the next count, of all entities, (B, T - 1); None for all.
    """
    if not half:
        return data
    raw, joined = torch.from_numpy(data.states).double(), _joined(data, observed, steps)
    states = smoothed(raw[:, :, :observed], half, joined)
    if led:
        x, v, rest = states.split([positions, positions, states.shape[-1] - 2 * positions], -1)
        states = torch.cat((_following(x, led * v, joined), v, rest), -1)
    return replace(data, states=torch.cat((states, raw[:, :, observed:]), 2).numpy())


def leading(data: Trajectories, half: int, observed: int, positions: int, motion: float) -> float:
    """Change of a coordinate per frame at velocity 1, `motion`, if velocities should lead coordinates; else 0.

    They should where noise leaves of coordinates less than they tell: paths that they lead are not much farther from
    coordinates observed than smoothed ones are, on average over coordinates, whatever their units.
    """
    if not half or not motion:
        return 0.0
    raw, joined = torch.from_numpy(data.states[:, :, :observed]).double(), _joined(data, observed, None)
    x, v = smoothed(raw[..., : 2 * positions], half, joined).chunk(2, -1)
    off, noise = raw[..., :positions] - _following(x, motion * v, joined), raw[..., :positions] - x
    share = off.square().mean((0, 1, 2)) / noise.square().mean((0, 1, 2)).clamp_min(1e-300)
    return motion if share.mean() < LOST**2 else 0.0


def _joined(data: Trajectories, observed: int, steps: np.ndarray | None) -> Tensor | None:
    """Whether a frame and the next, of the first `observed`, are of one run, (B, N, T - 1); None for all."""
    mask = None if data.mask is None else data.mask[:, :, :observed]
    both = None if mask is None else mask[..., 1:] & mask[..., :-1]
    if steps is not None:
        alike = np.broadcast_to(steps[:, None], (*data.states.shape[:2], steps.shape[-1]))
        both = alike if both is None else both & alike
    return None if both is None else torch.tensor(both)


def _runs(states: Tensor, joined: Tensor | None) -> tuple[Tensor, Tensor]:
    """First frame and number of frames of the run that a frame is of, (B or 1, N or 1, T) each."""
    time = torch.arange(states.shape[2], device=states.device)
    if joined is None:
        return torch.zeros_like(time)[None, None], torch.full_like(time, len(time))[None, None]
    first = time.where(~F.pad(joined, (1, 0)), 0).cummax(-1).values
    last = time.where(~F.pad(joined, (0, 1)), len(time)).flip(-1).cummin(-1).values.flip(-1)
    return first, last + 1 - first


def _windowed(
    values: Tensor, runs: tuple[Tensor, Tensor], width: int, before: int, weights_of: Callable[[int], Tensor]
) -> Tensor:
    """Weighted sums of values (B, N, T, D) over windows of up to `width` frames within runs, from `before` frames on.

    `weights_of(length)` are weights (length, length) of a window's frames, for every place of a frame in it.
    """
    first, length = runs
    time = torch.arange(values.shape[2], device=values.device)
    lengths, which = length.clamp_max(width).unique(return_inverse=True)
    tables = values.new_zeros(len(lengths), width, width)
    for table, size in zip(tables, lengths.tolist(), strict=True):
        table[:size, :size] = weights_of(size)
    left = torch.maximum(torch.minimum(time - before, first + length - lengths[which]), first)
    total = torch.zeros_like(values)
    for place in range(min(width, values.shape[2])):  # one at a time: all would take W times the memory
        at = (left + place).clamp_max(len(time) - 1).unsqueeze(-1)
        total += tables[which, time - left, place].unsqueeze(-1) * values.take_along_dim(at, 2)
    return total


def _projection(length: int) -> Tensor:
    """Weights (length, length) from observed frames to those on the cubic that comes closest to them."""
    powers = torch.linspace(-1, 1, length, dtype=torch.float64).unsqueeze(1) ** torch.arange(4)
    return powers @ torch.linalg.pinv(powers)


def _integral(length: int) -> Tensor:
    """Weights (length, length) of up to four frames, of the integral of the polynomial through them, to the next."""
    own, powers = torch.arange(length, dtype=torch.float64).unsqueeze(1), torch.arange(length)
    from_own = ((own + 1) ** (powers + 1) - own ** (powers + 1)) / (powers + 1)
    return from_own @ torch.linalg.inv(own**powers)


def _following(x: Tensor, moved: Tensor, joined: Tensor | None) -> Tensor:
    """Coordinates (B, N, T, P) that velocities `moved`, a frame, lead to, at the level of the given ones.

    Else what noise leaves of coordinates says more than forces, of how they depart from uniform motion.
    """
    runs = first, length = _runs(x, joined)
    path = F.pad(_windowed(moved, runs, 4, 1, _integral).cumsum(2), (0, 0, 1, -1))
    size = -(-length // -(-length // BLOCK))  # of as equal blocks as can be
    block = first + (torch.arange(x.shape[2], device=x.device) - first) // size * size  # its first frame
    block = block.unsqueeze(-1).expand(x.shape)
    level = torch.zeros_like(x).scatter_reduce(2, block, x - path, "mean", include_self=False)
    return path + level.gather(2, block)
