"""Noise of observation taken off by local cubics."""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from modmeta.data.trajectories import Trajectories

WIDEST = 100  # frames to either side
BLOCK = 50  # frames in which velocities tell paths and coordinates their level; as long as windows of a recording
LOST = 1.5  # times as far from coordinates observed as smoothed ones are, up to where paths are led by velocities


def smoothed(states: Tensor, half: int) -> Tensor:
    """States (B, N, T, D) on cubics that come closest to `half` frames to either side (Savitzky and Golay 1964)."""
    return torch.einsum("ts,bnsd->bntd", hat(states.shape[2], half, states), states) if half else states


def hat(frames: int, half: int, like: Tensor) -> Tensor:
    """Matrix (T, T) from observed to smoothed states; windows are moved inwards at the ends."""
    length = min(2 * half + 1, frames)
    time = torch.linspace(-1, 1, length, dtype=like.dtype, device=like.device)
    powers = time.unsqueeze(1) ** torch.arange(4, device=like.device)
    project = powers @ torch.linalg.pinv(powers)  # (window, window)
    hat = torch.zeros(frames, frames, dtype=like.dtype, device=like.device)
    for t in range(frames):
        first = max(0, min(t - half, frames - length))
        hat[t, first : first + length] = project[t - first]
    return hat


def without_noise(data: Trajectories, half: int, observed: int, positions: int, motion: float) -> Trajectories:
    """The same with the first `observed` frames smoothed, by themselves; later ones are forecast, and stay.

    Args:
        data: as observed.
        half: frames to either side; 0 for states as they are.
        observed: number of frames.
        positions: leading features that are coordinates, followed by velocities if `motion` is not 0.
        motion: change of a coordinate per frame at velocity 1; 0 without velocities.
    """
    if not half:
        return data
    raw = torch.from_numpy(data.states).double()
    states = smoothed(raw[:, :, :observed], half)
    if motion and observed > 4:
        x, v, rest = states.split([positions, positions, states.shape[-1] - 2 * positions], -1)
        noise, led = raw[:, :, :observed, :positions] - x, _following(x, motion * v)
        if (noise + x - led).square().mean() < LOST**2 * noise.square().mean():
            states = torch.cat((led, v, rest), -1)
    return replace(data, states=torch.cat((states, raw[:, :, observed:]), 2).numpy())


def _following(x: Tensor, moved: Tensor) -> Tensor:
    """Coordinates (B, N, T, P) that velocities `moved`, a frame, lead to, at the level of the given ones.

    Else what noise leaves of coordinates says more than forces, of how they depart from uniform motion.
    """
    ends = 9 * moved[:, :, [0, -1]] + 19 * moved[:, :, [1, -2]] - 5 * moved[:, :, [2, -3]] + moved[:, :, [3, -4]]
    inner = 13 * (moved[:, :, 1:-2] + moved[:, :, 2:-1]) - moved[:, :, :-3] - moved[:, :, 3:]  # cubics of four frames
    steps = torch.cat((ends[:, :, :1], inner, ends[:, :, 1:]), 2) / 24
    path = F.pad(steps.cumsum(2), (0, 0, 1, 0))
    blocks = -(-x.shape[2] // BLOCK)
    levels = [part.mean(2, keepdim=True).expand_as(part) for part in (x - path).chunk(blocks, 2)]
    return path + torch.cat(levels, 2)
