"""Selection of a candidate: functions of the energies (..., M) and the current index (...) to a new index (...)."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from modmeta import machine
from modmeta.shapes import Float, Int

Selection = Callable[[Tensor, Tensor, Tensor, torch.Generator], Tensor]


def greedy(
    energies: Float[Tensor, "*rest M"],
    current: Int[Tensor, "*rest"],
    temperature: Float[Tensor, ""],
    generator: torch.Generator,
) -> Int[Tensor, "*rest"]:
    """Selects the candidate of lowest energy."""
    return energies.argmin(-1)


def gibbs(
    energies: Float[Tensor, "*rest M"],
    current: Int[Tensor, "*rest"],
    temperature: Float[Tensor, ""],
    generator: torch.Generator,
) -> Int[Tensor, "*rest"]:
    """Draws a candidate with probability proportional to exp(-energy / temperature)."""
    weights = (-energies / temperature).softmax(-1)
    return drawn(weights.flatten(0, -2), generator).view(weights.shape[:-1])


def drawn(weights: Float[Tensor, "Q M"], generator: torch.Generator) -> Int[Tensor, " Q"]:
    """Draws one of M in proportion to weights (Q, M), (Q,).

    `torch.multinomial` would wait for a GPU to look at the weights. This is its algorithm without looking: the same
    numbers are drawn from a generator.
    """
    if not machine.waits(weights):
        return torch.multinomial(weights, 1, generator=generator).squeeze(1)
    return (weights / torch.empty_like(weights).exponential_(generator=generator)).argmax(-1)


def metropolis(
    energies: Float[Tensor, "*rest M"],
    current: Int[Tensor, "*rest"],
    temperature: Float[Tensor, ""],
    generator: torch.Generator,
) -> Int[Tensor, "*rest"]:
    """Draws another candidate uniformly and accepts it with probability min(1, exp(-energy increase / temperature))."""
    m = energies.shape[-1]
    if m == 1:
        return current
    step = torch.randint(1, m, current.shape, generator=generator, device=energies.device)
    proposed = (current + step) % m
    rise = energies.gather(-1, proposed.unsqueeze(-1)) - energies.gather(-1, current.unsqueeze(-1))
    chance = torch.rand(current.shape, generator=generator, device=energies.device)
    accepted = chance < (-rise.squeeze(-1) / temperature).exp()
    return torch.where(accepted, proposed, current)


def takes_least(selection: Selection) -> bool:
    """Whether a selection is `greedy`, possibly wrapped in partials, as Hydra does."""
    while isinstance(selection, partial):
        selection = selection.func
    return selection == greedy
