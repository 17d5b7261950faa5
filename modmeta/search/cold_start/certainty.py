"""How sure structures may be: two halves of the same frames must agree as often as their beliefs say.

Letters: E receivers, S senders, K kinds.
"""

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["kappa", "temperature_of_halves", "together"]

FACTOR, COUNT = 3.0, 9  # between temperatures that are tried at first, and their number
ERRORS = 2.0  # standard errors that a higher temperature must explain the halves better


def temperature_of_halves(halves: Callable[[float], tuple[Tensor, Tensor]], least: float) -> float:
    """The temperature, no lower than `least`, under which beliefs from two halves go together most likely.

    Laws that are not quite right, or errors that hang together, make likelihoods too steep. Both halves see the same
    structures. Their frames are likelier together than by themselves by the factor sum_k p_k q_k / share_k, if beliefs
    are right; the mean of its logarithm is largest for those that are (Gibbs' inequality). No label is needed.

    Args:
        halves: function of a temperature to probabilities of kinds (E, S, K), from either half of the frames.
        least: temperature, returned where no higher one is better by more than chance.
    """
    powers = torch.arange(COUNT, dtype=torch.float64)
    tried = {power: _log_together(*halves(least * FACTOR**power)) for power in powers.tolist()}
    for step in (1 / 3, 1 / 9):
        best = max(tried, key=lambda power: float(tried[power].mean()))
        for power in (best - step, best + step):
            if power > 0:
                tried[power] = _log_together(*halves(least * FACTOR**power))
    best = max(tried, key=lambda power: float(tried[power].mean()))
    more = (tried[best] - tried[0.0]).flatten()
    return least * FACTOR**best if more.mean() > ERRORS * more.std() / more.numel() ** 0.5 else least


def together(first: Tensor, second: Tensor) -> Tensor:
    """How much likelier the evidence of two halves is together than apart, (...), by their beliefs (..., K).

    If the evidence is independent given the kinds, sum_k first_k second_k / share_k, with the share of every kind.
    """
    share = (first + second).flatten(0, -2).mean(0) / 2
    return (first * second / share.clamp_min(1e-12)).sum(-1)


def kappa(one: Tensor, other: Tensor, number: int) -> float:
    """Agreement of two assignments of so many kinds to the same edges (Cohen 1960): 1 for equal ones, 0 by chance."""
    first, second = (torch.bincount(labels.flatten(), minlength=number) / labels.numel() for labels in (one, other))
    chance = float(first @ second)
    return (float((one == other).double().mean()) - chance) / (1 - chance) if chance < 1 else 0.0


def _log_together(first: Tensor, second: Tensor) -> Tensor:
    return together(first, second).clamp_min(1e-30).log()
