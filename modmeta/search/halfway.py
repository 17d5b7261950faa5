"""Relations of a group whose entities have several features, from regression on what lies halfway between frames.

    s_i[o]' - s_i[o] = c_i + own(s_i) + sum_j w_ij f(s_j[k], s_i[k]),   s at the mean of both frames

This is the implicit midpoint rule, so an error of a step is of third order in the time between frames. Which features
act (k) on which rates (o), and whether by value (or difference: own functions take up the rest) or by the sine of the
difference, is chosen by held-out steps of some receivers; own functions are linear, or cubic where that tells more.
Weights are zero or not with one prior for all pairs, which follows from the data (`search.sparse`). Where there is no
noise, entities two edges away have weights as well, small ones: they count as nearly zero. Where no law says much,
steps may be too long for it: maps of free functions are tried beside (`search.maps`).

Letters: B tasks, N entities, S = N - 1 senders, T frames, D features, M steps, R receivers, A parts of a law, G own
functions.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from modmeta.search import maps, sparse
from modmeta.shapes import Float

__all__ = ["FORMS", "Ends", "Law", "ends", "joined", "law_of", "laws_of", "log_odds"]

FORMS = ("value", "sine", "bent")
MOST_STEPS = 10_000  # that are kept
SOME = 10  # receivers on which laws are compared
RIDGE = 1e-6  # of their weights, as a share of a message's mean square
BELIEVED = 1e-6  # share of changes below which an explanation is numerical error
TIE = 0.05  # nats a number by which a later law must be ahead
CLEAR = 1.0  # nats a number from which on a law has no rival
AT_ONCE = 2**24  # numbers that are held at once


class Ends(NamedTuple):
    """States that steps begin and end with, (M, N, D) each."""

    before: Tensor
    after: Tensor


class Law(NamedTuple):
    """What acts on what: `inputs[a]` of a pair acts on the rate of `outputs[a]`, with one weight for all a."""

    form: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


class _Sums(NamedTuple):
    square: Tensor  # messages with each other, own functions taken out, (R, N, N)
    linear: Tensor  # and with changes, (R, N)
    alone: Tensor  # changes with themselves, (R,)


def laws_of(features: int) -> list[Law]:
    """Laws worth trying: from any feature to any other, and of vectors, of first and second order."""
    half = features // 2
    every = tuple(range(features))
    pairs = [(every[:half], every[half:])] if features % 2 == 0 else []
    pairs += [(every, every)] + [((i,), (o,)) for i in every for o in every if features > 1]
    return [Law(form, *pair) for pair in pairs for form in FORMS]


def ends(states: Float[Tensor, "B N T D"], steps: Tensor | None = None) -> Ends:
    """States (M, N, D) that steps begin and end with.

    Args:
        states: of one group, angles unwrapped.
        steps: which count, (B, T - 1); None for all.
    """
    parts = [part.transpose(1, 2).flatten(0, 1).double() for part in (states[:, :, :-1], states[:, :, 1:])]
    if steps is not None:
        parts = [part[steps.flatten() > 0] for part in parts]
    return Ends(*(part[:MOST_STEPS] for part in parts))


def joined(one: Ends, other: Ends) -> Ends:
    """Of the steps of both, as many as are kept."""
    return Ends(*(torch.cat(pair)[:MOST_STEPS] for pair in zip(one, other, strict=True)))


def law_of(steps: Ends) -> Law | maps.Maps:
    """The law that explains most of held-out steps; of laws alike the simplest."""
    (before, after), n = steps, steps.before.shape[1]
    some = torch.arange(n, device=before.device)[:: max(1, n // SOME)]
    laws = laws_of(before.shape[-1])
    gains = [_gain(before, after, law, some) for law in laws]
    if max(gains) < CLEAR:
        far = maps.told(before, after)
        if far.gain > max(*gains, 0.0) + maps.BETTER:
            return far
    return next(law for law, gain in zip(laws, gains, strict=True) if gain >= max(gains) - TIE)


def log_odds(steps: Ends, law: Law | maps.Maps | None = None) -> Float[Tensor, "N S"]:
    """Logarithms of the odds that a pair has a relation.

    Args:
        steps: of one group.
        law: of these steps; None for `law_of`.
    """
    law = law_of(steps) if law is None else law
    if isinstance(law, maps.Maps):
        return maps.log_odds(law)
    (before, after), n = steps, steps.before.shape[1]
    chunks = torch.arange(n, device=before.device).split(max(1, AT_ONCE // (len(before) * n * len(law.outputs))))
    parts = [sparse.shortened(_regressions(before, after, law, part)) for part in chunks]
    return sparse.log_odds(sparse.joined(parts))


def _regressions(before: Tensor, after: Tensor, law: Law, some: Tensor) -> sparse.Regressions:
    """Changes on messages, and on own functions of every part of a law."""
    messages, change, own = _columns(before, after, law, some)
    parts = len(law.outputs)
    apart = own.new_zeros(*change.shape, parts, own.shape[-1])  # (R, A, M, A, G)
    every = torch.arange(parts, device=own.device)
    apart[:, every, :, every] = own
    columns = torch.cat([messages, apart.flatten(3)], -1).flatten(1, 2)
    return sparse.Regressions(columns, change.flatten(1), change.numel())


def _columns(before: Tensor, after: Tensor, law: Law, some: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Messages (R, A, M, N), changes (R, A, M) and own functions (R, M, G) of some receivers.

    What a receiver sends itself has one weight for all parts of a law, as springs have; own functions have one each.
    """
    mean = (before + after) / 2
    sent = mean[..., list(law.inputs)].permute(2, 0, 1)  # (A, M, N)
    apart = sent - sent[..., some].permute(2, 0, 1).unsqueeze(-1)  # (R, A, M, N)
    apart = apart.sin() if law.form == "sine" else sent.expand_as(apart)
    change = (after - before)[:, some][..., list(law.outputs)].permute(1, 2, 0)
    own = mean[:, some].transpose(0, 1)  # (R, M, D)
    scaled = (own - own.mean((0, 1))) / own.std((0, 1)).clamp_min(1e-12)
    powers = [scaled**power for power in range(1, 4 if law.form == "bent" else 2)]
    return apart, change, torch.cat([torch.ones_like(scaled[..., :1]), *powers], -1)


def _sums(before: Tensor, after: Tensor, law: Law, some: Tensor) -> _Sums:
    messages, change, own = _columns(before, after, law, some)
    basis = torch.linalg.qr(own)[0].unsqueeze(1)  # (R, 1, M, G)
    messages = messages - basis @ (basis.mT @ messages)
    left = change.unsqueeze(-1) - basis @ (basis.mT @ change.unsqueeze(-1))
    messages, left = messages.flatten(1, 2), left.flatten(1)
    linear = (messages.mT @ left.unsqueeze(-1)).squeeze(-1)
    return _Sums(messages.mT @ messages, linear, left.square().sum(1))


def _ridge(sums: _Sums) -> Tensor:
    pull = RIDGE * sums.square.diagonal(dim1=1, dim2=2).mean() + 1e-30
    one = torch.eye(sums.square.shape[-1], dtype=pull.dtype, device=pull.device)
    return torch.linalg.solve(sums.square + pull * one, sums.linear.unsqueeze(-1)).squeeze(-1)


def _left(sums: _Sums, weights: Tensor) -> Tensor:
    """Sum of squares of changes that weights (R, N) do not explain."""
    squares = torch.einsum("rs,rst,rt->r", weights, sums.square, weights)
    return (sums.alone - 2 * (weights * sums.linear).sum(1) + squares).clamp_min(0).sum()


def _gain(before: Tensor, after: Tensor, law: Law, some: Tensor) -> float:
    """How much less of every fifth step messages leave unexplained, nats a number."""
    judges, gain = torch.arange(len(before), device=before.device) % 5 == 4, 0.0
    size = (after - before)[judges][:, some].square().sum((0, 1))
    if not bool(size[list(law.outputs)].gt(0).all()):
        return 0.0  # features that never change
    weights = _ridge(_sums(before[~judges], after[~judges], law, some))
    for i, o in zip(law.inputs, law.outputs, strict=True):
        judge = _sums(before[judges], after[judges], Law(law.form, (i,), (o,)), some)
        floor = BELIEVED * size[o]
        gain += float((judge.alone.sum() + floor).log() - (_left(judge, weights) + floor).log())
    return gain / (2 * before.shape[-1])
