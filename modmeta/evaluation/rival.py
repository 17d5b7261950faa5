"""A rival of a model: laws linear in the states of a pair, fitted to the same frames in closed form.

Modules that have not converged, or that see the wrong features, name structures that hold in all frames alike and are
wrong, which no part of the data contradicts. Another law does: expectation maximisation, from the structures that the
model found and from random ones, takes a second or less. Where the rival foretells held-out frames better, its beliefs
are what the model's are measured by; where it does not, nothing follows.

Letters: B tasks, N entities, S senders, T frames, L = T - 1 steps, D features, E = B N receivers, K edge modules.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from modmeta.evaluation.matching import Confusion, match_labels
from modmeta.evaluation.nulls import Gain, alone, gains, mean_gain
from modmeta.model.features import pair_states
from modmeta.model.model import RelationalModel
from modmeta.search.cold_start.grams import Columns, Grams, added, centred, grams, residuals
from modmeta.search.cold_start.structures import Kinds, explain, fit_kinds, from_labels, rounds_of

FITTED = 40  # tasks from which laws are fitted
STARTS = 4  # random ones
ROUNDS, MORE = 10, 40  # of every start, and of the best one
MOST_NUMBERS = 20_000_000  # of Gram matrices

Chances = Callable[[float], Tensor]  # of a temperature to probabilities of edge modules, (B, N, S, K)


class Rival(NamedTuple):
    """Laws beside a model's, and what they tell.

    Attributes:
        gain: nats a number on held-out frames over the model, structures from the other half of the frames.
        halves: function of a temperature to beliefs (E, S, K) of either half of the frames.
        beliefs: the same of all frames.
    """

    gain: Gain
    halves: Callable[[float], tuple[Tensor, Tensor]]
    beliefs: Callable[[float], Tensor]


def tasks_at_once(states: Tensor) -> int:
    """Number of tasks like states (B, N, T, D) that a rival can be fitted to."""
    _, n, _, d = states.shape
    return MOST_NUMBERS // (n * ((n - 1) * (2 * d + 2)) ** 2)


@torch.no_grad()
def rival(
    model: RelationalModel,
    halves: Sequence[Tensor],
    errors: Sequence[Tensor],
    found: Tensor,
    generator: torch.Generator,
) -> Rival:
    """Fits a rival and compares it with a model.

    Args:
        model: trained model of at least two edge modules.
        halves: states of the first and of the last frames, (B, N, T', D).
        errors: of the model there, structures from the other half, (B, N, T' - 1, D).
        found: probabilities of edge modules that the model tells from all frames, (B, N, S, K).
        generator: of random starts.
    """
    b, n = found.shape[:2]
    columns = [_columns(model, states) for states in halves]
    parts = [grams(part) for part in columns]
    whole = added(Grams(*(part.clone() for part in parts[0])), parts[1])
    kinds = _fitted(whole, found, generator)

    def told(sums: Grams, temperature: float) -> Tensor:
        return explain(sums, kinds, b, temperature=temperature)[0].slots

    theirs = [
        residuals(part, told(other, 1.0) @ kinds.laws, kinds.own).unflatten(0, (b, n))
        for part, other in zip(columns, parts[::-1], strict=True)
    ]
    gain = mean_gain(_gains(model, halves, theirs, errors))
    return Rival(gain, lambda at: (told(parts[0], at), told(parts[1], at)), lambda at: told(whole, at))


def _columns(model: RelationalModel, states: Tensor) -> Columns:
    """Targets, what is linear in pairs of states and a cubic of the own one; less own constants where a model has any.

    The distance of two states is a function of a pair, too, where a state has several features.
    """
    dynamics = model.dynamics
    x, targets = dynamics.scaled(states[:, :, :-1]).double(), dynamics.targets(states).double()
    receiver, sender = pair_states(x)
    apart = (sender - receiver).square().sum(-1, keepdim=True).add(1e-12).sqrt()
    pair = [receiver.expand_as(sender), sender, torch.ones_like(apart), *([apart] if x.shape[-1] > 1 else [])]
    one = torch.ones_like(x[..., :1])
    own = torch.cat([one, x, x**2, x**3], -1)
    own = torch.einsum("bnlg,cd->bnlcdg", own, torch.eye(targets.shape[-1]).to(own)).flatten(-2)
    weight = (1 / targets.square().mean((0, 1, 2)).clamp_min(1e-30)).expand_as(targets)
    beside = torch.cat([one, x], -1).flatten(0, 1) if dynamics.has_slopes else None
    sent, own, targets, weight = (part.flatten(0, 1) for part in (torch.cat(pair, -1), own, targets, weight))
    columns = Columns(sent.unsqueeze(3), own, targets, weight, apart=True, alone=beside)
    return centred(columns, columns.weight) if dynamics.has_constants else columns


def _fitted(sums: Grams, found: Tensor, generator: torch.Generator) -> Kinds:
    """The laws of kinds that explain some of the tasks best, of several starts."""
    b, n, s, k = found.shape
    few = min(b, FITTED)
    sums = Grams(sums.pairs[:, : few * n], *(part[: few * n] for part in sums[1:]))
    given = found[:few].double().flatten(0, 1)
    drawn = torch.randn(STARTS, few * n, s, k, generator=generator, device=generator.device).to(given)
    share = given.mean((0, 1)).clamp_min(1e-3)
    pairs = torch.outer(share, share) / share.sum() ** 2
    tried = []
    for slots in (given, *(2 * drawn).softmax(-1)):
        beliefs = from_labels(slots)
        tried.append(rounds_of(sums, fit_kinds(sums, beliefs, pairs), beliefs, few, ROUNDS))
    best = min(tried, key=lambda kinds: float(kinds.variance))
    beliefs, pairs = explain(sums, best, few)
    return rounds_of(sums, best._replace(pairs=pairs), beliefs, few, MORE)


def _gains(
    model: RelationalModel, halves: Sequence[Tensor], theirs: Sequence[Tensor], errors: Sequence[Tensor]
) -> Tensor:
    """Nats a number of every task, (B,), by which a rival's errors are smaller, as of nulls."""
    dynamics = model.dynamics
    targets = torch.cat([dynamics.targets(states) for states in halves], 2)
    states = torch.cat([dynamics.scaled(part[:, :, :-1]) for part in halves], 2)
    every = torch.ones_like(targets)
    without = alone(targets, states, every, dynamics.has_constants, dynamics.has_slopes)
    return gains(torch.cat(list(theirs), 2), torch.cat(list(errors), 2), without, targets, every)


def likeness(posterior: Chances, beliefs: Tensor) -> Callable[[float], float]:
    """How badly a posterior foretells beliefs (E, S, K), a mean over edges, as a function of its temperature.

    Modules go with the rival's as most edges have it.
    """
    k, of = beliefs.shape[-1], posterior(1.0).argmax(-1).flatten()
    confusion = Confusion(k, k).to(beliefs.device)
    confusion.update(of, beliefs.argmax(-1).flatten())
    matched = beliefs[..., match_labels(confusion.matrix())].flatten(0, 1)

    def loss(temperature: float) -> float:
        logs = posterior(temperature).flatten(0, 2).double().clamp_min(1e-12).log()
        return float(-(matched * logs).sum(-1).mean())

    return loss
