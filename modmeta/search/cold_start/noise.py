"""Noise of observation, told from noise that drives the motion, and taken off by local cubics.

White noise on the states has n-th differences of variance (2n over n) times its own, for every n; noise that drives the
motion does not, as it stays in the states. Where others soon pull an entity back, motion that noise drives is nearly
white, too. Then what is smoothed off tells: what drives one entity shows in others a frame later, in both halves of the
frames alike, and noise of observation does not.

Letters: B tasks, N entities, T frames, D features.
"""

import math

import torch
from torch import Tensor

from modmeta.data.transforms.smoothing import kept, smoothed
from modmeta.search.cold_start.weak_form import Kind, roughness

__all__ = ["driven_by_noise", "observation_noise", "smoothing_width"]

ROUGH = 1.0  # third over first differences, from which a path is none between frames
LOW, HIGH = 4, 6  # orders of differences whose estimates of the noise are compared
AGREE = 0.03  # how far they may be apart, relative, beside their error
SPREAD = 2.25  # of their ratio for white noise, from so many differences: three standard deviations (0.75 each)
MOST = 8  # frames to either side, at most
LEFT = 0.05  # share of the noise that smoothing may leave beside it, and so how much entities may be correlated in it
ERRORS = 2.0  # standard errors over tasks by which that correlation is larger


def observation_noise(states: Tensor) -> Tensor:
    """Variance (D,) of white noise on states (B, N, T, D); zero where differences do not speak of it."""
    if states.shape[2] < 2 * HIGH:
        return torch.zeros_like(states[0, 0, 0])
    low, high = (_from_differences(states, order) for order in (LOW, HIGH))
    error = SPREAD * (states.shape[0] * states.shape[1] * (states.shape[2] - HIGH)) ** -0.5
    return torch.where((low / high.clamp_min(1e-300) - 1).abs() < AGREE + error, high, torch.zeros_like(high))


def driven_by_noise(states: Tensor, kind: Kind) -> bool:
    """Whether noise drives the motion of states (B, N, T, D): rough between frames, and not by noise of observation."""
    rough = roughness(states, kind) >= ROUGH
    return rough and not bool((observation_noise(states) > 0).all())


def _from_differences(states: Tensor, order: int) -> Tensor:
    return states.diff(n=order, dim=2).square().mean((0, 1, 2)) / math.comb(2 * order, order)


def smoothing_width(states: Tensor, noise: Tensor) -> int:
    """Frames to either side that local cubics may take in before they leave more than noise (D,) unexplained.

    Zero where what they take off is no noise of observation, since entities have it from one another.
    """
    if not bool((noise > 0).all()):
        return 0
    width = 0
    for half in range(2, min(MOST, (states.shape[2] - 1) // 2) + 1):
        left = (states - smoothed(states, half)).square().mean((0, 1, 2))
        expected = noise * (1 - kept(states.shape[2], half))
        if bool((left > (1 + LEFT) * expected).any()):
            break
        width = half
    if width <= 2 or _handed_on(states - smoothed(states, width)):
        return 0  # five frames leave a cubic nothing but the fourth difference
    return width


def _handed_on(left: Tensor) -> bool:
    """Whether entities have what is left of states, (B, N, T, D), from one another.

    The product of two halves' correlations with what others had a frame before is nil on average where there are none,
    and their square where structures are the same in both, whatever they are.
    """
    b, n, t, _ = left.shape
    if b < 2 or n < 2 or t < 6:
        return False
    first, second = (_lagged(part) for part in (left[:, :, : t // 2], left[:, :, t // 2 :]))
    others = ~torch.eye(n, dtype=torch.bool, device=left.device)
    alike = (first * second).mean((-1, -2))[:, others].mean(1)
    return bool(alike.mean() - ERRORS * alike.std() / b**0.5 > LEFT**2)


def _lagged(left: Tensor) -> Tensor:
    """Correlations of every entity's features with those of every entity a frame before, (B, N, N, D, D)."""
    centred = left - left.mean(2, keepdim=True)
    unit = centred / centred.square().mean(2, keepdim=True).sqrt().clamp_min(1e-300)
    return torch.einsum("bitd,bjte->bijde", unit[:, :, 1:], unit[:, :, :-1]) / (left.shape[2] - 1)
