"""Noise of observation taken off by local cubics."""

from dataclasses import replace

import torch
from torch import Tensor

from modmeta.data.trajectories import Trajectories

WIDEST = 100  # frames to either side


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


def without_noise(data: Trajectories, half: int, observed: int) -> Trajectories:
    """The same with the first `observed` frames smoothed, by themselves; later ones are forecast, and stay."""
    if not half:
        return data
    states = torch.from_numpy(data.states).double()
    told = smoothed(states[:, :, :observed], half)
    return replace(data, states=torch.cat((told, states[:, :, observed:]), 2).numpy())
