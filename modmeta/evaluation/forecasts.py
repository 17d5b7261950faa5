"""Forecasts with their uncertainty: of structures, drawn from their posterior, and of the errors of a step."""

from typing import NamedTuple

import torch
from torch import Tensor

from modmeta.graph.bank import Structure
from modmeta.model.model import LARGEST_DRAW, RelationalModel

HELD = 0.9  # share of what comes that a band is to hold
ROUNDING = 5e-7  # of single precision over a rollout, in protocol units: what does not change is known no better
NORMAL = 1.645  # standard deviations that do so for a normal distribution

Bands = tuple[tuple[float, ...], ...]


class Forecast(NamedTuple):
    """Forecast frames, each (B, N, steps, D).

    Attributes:
        mean: of all members.
        low, high: bounds of the band.
    """

    mean: Tensor
    low: Tensor
    high: Tensor


@torch.no_grad()
def ensemble(
    model: RelationalModel,
    observed: Tensor,
    probabilities: Tensor,
    steps: int,
    generator: torch.Generator,
    members: int = 12,
    node_modules: Tensor | None = None,
    bands: Bands = ((NORMAL,),),
) -> Forecast:
    """Rollouts of members that each have a structure and errors of their own.

    Args:
        model: whose dynamics forecasts.
        observed: frames (B, N, T, D) that show the constants of entities; forecasts go on from the last.
        probabilities: of every module on every edge, (B, N, S, K).
        steps: frames to go on.
        generator: of structures and errors.
        members: rollouts.
        node_modules: probabilities of every node module, (B, N, G), where there are several.
        bands: standard deviations that make up the band at steps 1, 2, ..., for each feature, or for all; the last
            step's for all that follow.
    """
    b, n, s, k = probabilities.shape
    dynamics = model.dynamics
    drawn = torch.multinomial(probabilities.reshape(-1, k), members, replacement=True, generator=generator)
    relations = drawn.view(b, n, s, members).permute(0, 3, 1, 2).flatten(0, 1)  # (B M, N, S)
    types = relations.new_zeros(b * members, n)
    if node_modules is not None:
        flat = node_modules.flatten(0, 1)
        drawn = torch.multinomial(flat, members, replacement=True, generator=generator)
        types = drawn.view(b, n, members).transpose(1, 2).flatten(0, 1)
    now = observed[:, :, -1:].repeat_interleave(members, dim=0)  # (B M, N, 1, D)
    likeliest = (
        torch.zeros(b, n, dtype=torch.long, device=now.device) if node_modules is None else node_modules.argmax(-1)
    )
    drive = model.drive(observed, Structure(probabilities.argmax(-1), likeliest))
    drive = None if drive is None else drive.repeat_interleave(members, dim=0)
    frames = []
    for _ in range(steps):
        scale = model.likelihood.log_scale(dynamics.scaled(now)).exp().clamp(max=LARGEST_DRAW) * dynamics.change_scale
        now = now + scale * torch.randn(now.shape, generator=generator, device=now.device)
        now = dynamics.step(now, relations, types, drive)
        frames.append(now)
    paths = torch.cat(frames, dim=2).unflatten(0, (b, members))  # (B, M, N, steps, D)
    mean, spread = paths.mean(1), paths.std(1)
    wide = torch.tensor([bands[min(step, len(bands) - 1)] for step in range(steps)], device=now.device)  # (steps, D)
    reach = (wide * spread).clamp_min(ROUNDING)
    return Forecast(mean, mean - reach, mean + reach)
