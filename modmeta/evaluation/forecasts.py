"""Forecasts with uncertainty: members draw structures from the posterior, and errors of every step."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from modmeta.errors import DataError, TaskError
from modmeta.graph.bank import Structure
from modmeta.model.model import LARGEST_DRAW, RelationalModel

HELD = 0.9  # share of true states that a band holds
ROUNDING = 5e-7  # rounding errors of a rollout in protocol units: the least half-width of a band
NORMAL = 1.645  # half-width of that band for a normal distribution, in standard deviations
MOST_VALUES = 2 * 10**8  # numbers in the forecasts of all tasks, and of all members of a batch

Bands = tuple[tuple[float, ...], ...]


class Forecast(NamedTuple):
    """Forecast frames, each (B, N, steps, D).

    Attributes:
        mean: mean of all members.
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
    mask: Tensor | None = None,
) -> Forecast:
    """Rollouts of members, each with its own structure and errors.

    Args:
        model: trained model.
        observed: observed frames, (B, N, T, D). They give the constants of entities, and strengths of edges; rollouts
            start from the last.
        probabilities: of every edge module on every edge, (B, N, S, K).
        steps: number of frames.
        generator: generator of structures and errors.
        members: number of rollouts.
        node_modules: probabilities of every node module, (B, N, G), if there are several.
        bands: half-widths in standard deviations at steps 1, 2, ..., for each feature or for all; later steps use the
            last.
        mask: how well steps are known, (B, N, T - 1); None for all observed.
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
    last = observed[:, :, -1].repeat_interleave(members, dim=0)  # (B M, N, D)
    likeliest = (
        torch.zeros(b, n, dtype=torch.long, device=last.device) if node_modules is None else node_modules.argmax(-1)
    )
    structure = Structure(probabilities.argmax(-1), likeliest)
    drive, acting = model.drive(observed, structure, mask), model.acting(observed, structure, mask).edge_modules
    drive = None if drive is None else drive.repeat_interleave(members, dim=0)
    if acting.is_floating_point():  # strengths are those of the likeliest edges
        alike = (relations == structure.edge_modules.repeat_interleave(members, dim=0)).unsqueeze(-1)
        relations = torch.where(alike, acting.repeat_interleave(members, dim=0), F.one_hot(relations, k).to(acting))
    errors = torch.stack([torch.randn(last.shape, generator=generator, device=last.device) for _ in range(steps)])

    def disturb(scenes: Tensor, frame: Tensor, states: Tensor) -> Tensor:
        states = states.unsqueeze(2)
        scale = model.likelihood.log_scale(dynamics.scaled(states)).exp().clamp(max=LARGEST_DRAW)
        return (states + scale * dynamics.change_scale * errors[frame, scenes].unsqueeze(2)).squeeze(2)

    paths = dynamics.disturbed(last, relations, types, steps, disturb, drive)
    paths = paths.unflatten(0, (b, members))  # (B, M, N, steps, D)
    paths = dynamics.nearest(paths, paths[:, :1].expand_as(paths))
    mean, spread = paths.mean(1), paths.std(1)
    wide = torch.tensor([bands[min(step, len(bands) - 1)] for step in range(steps)], device=last.device)  # (steps, D)
    reach = (wide * spread).clamp_min(ROUNDING)
    return Forecast(mean, mean - reach, mean + reach)


def check_size(last: Tensor, steps: int, members: int, at_once: int) -> None:
    """Refuses impossible forecasts before memory is allocated.

    Args:
        last: observed frame, (B, N, D).
        steps: number of frames.
        members: size of the ensemble.
        at_once: number of tasks that are forecast together.

    Raises:
        DataError: steps or members are no positive numbers, or too many for the memory.
    """
    for name, value, least in (("steps", steps, 1), ("members", members, 2)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise DataError(f"{name}={value!r}: give a whole number of {least} or more")
    b, n, d = last.shape
    most = MOST_VALUES // (n * d * max(b, min(b, at_once) * int(members)))
    if steps > most:
        raise DataError(
            f"steps={steps} of {b} tasks with {members} members are more than memory is meant to hold; ask for up to "
            f"{most} steps" + ("" if most else ", of fewer tasks or members")
        )


def bounded(ahead: Forecast) -> Forecast:
    """Returns a forecast if all of it is finite.

    Raises:
        TaskError: it is not.
    """
    lost = ~torch.stack(ahead).isfinite().all(0).all(-1).all(1)  # (B, steps)
    if lost.any():
        task, step = lost.nonzero()[0].tolist()
        advice = f"forecast at most {step} steps" if step else "check units and origin of the states"
        raise TaskError(
            task, f"its forecast grows beyond all bounds at step {step + 1}; {advice}, or leave the task out"
        )
    return ahead
