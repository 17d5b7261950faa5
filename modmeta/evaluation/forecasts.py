"""Forecasts with their uncertainty: of structures, drawn from their posterior, and of the errors of a step."""

from typing import NamedTuple

import torch
from torch import Tensor

from modmeta.model.model import LARGEST_DRAW, RelationalModel

BAND = 1.645  # standard deviations that hold nine of ten


class Forecast(NamedTuple):
    """Forecast frames, each (B, N, steps, D).

    Attributes:
        mean: of all members.
        low, high: bounds that hold nine of ten members, were they normally distributed.
    """

    mean: Tensor
    low: Tensor
    high: Tensor


@torch.no_grad()
def ensemble(
    model: RelationalModel,
    states: Tensor,
    probabilities: Tensor,
    steps: int,
    generator: torch.Generator,
    members: int = 12,
    node_modules: Tensor | None = None,
) -> Forecast:
    """Rollouts of members that each have a structure and errors of their own.

    Args:
        model: whose dynamics forecasts (its forecaster, where it has one).
        states: the last observed frame, (B, N, D).
        probabilities: of every module on every edge, (B, N, S, K).
        steps: frames to go on.
        generator: of structures and errors.
        members: rollouts.
        node_modules: probabilities of every node module, (B, N, G), where there are several.
    """
    b, n, s, k = probabilities.shape
    dynamics = model.forecaster if model.forecaster is not None and bool(model.forecasting) else model.dynamics
    drawn = torch.multinomial(probabilities.reshape(-1, k), members, replacement=True, generator=generator)
    relations = drawn.view(b, n, s, members).permute(0, 3, 1, 2).flatten(0, 1)  # (B M, N, S)
    types = relations.new_zeros(b * members, n)
    if node_modules is not None:
        flat = node_modules.flatten(0, 1)
        drawn = torch.multinomial(flat, members, replacement=True, generator=generator)
        types = drawn.view(b, n, members).transpose(1, 2).flatten(0, 1)
    now = states.repeat_interleave(members, dim=0).unsqueeze(2)  # (B M, N, 1, D)
    frames = []
    for _ in range(steps):
        scale = model.likelihood.log_scale(dynamics.scaled(now)).exp().clamp(max=LARGEST_DRAW) * dynamics.change_scale
        now = now + scale * torch.randn(now.shape, generator=generator, device=now.device)
        now = dynamics.step(now, relations, types)
        frames.append(now)
    paths = torch.cat(frames, dim=2).unflatten(0, (b, members))  # (B, M, N, steps, D)
    mean, spread = paths.mean(1), paths.std(1)
    return Forecast(mean, mean - BAND * spread, mean + BAND * spread)
