"""Relations of a group from its steps as maps of free functions, where frames lie too far apart for rates.

    s_i[o]' = own_o(s_i) + c_io + d_io s_i + sum_j w_ij f_o(s_j)

Every pair has one weight, and all pairs the same f: linear, and waves of random directions (Rahimi and Recht 2007), as
steep along each feature as held-out steps want and flat along those that foretell nothing. Entities have the same own
function, of powers or of waves too where held-out steps want them, each feature for itself, and constants and slopes of
their own. What these leave may have heavy tails: what lies far outside its usual size is cut off. Weights and f follow
in turn from least squares, from what the correlations of all pairs have in common (their first singular vector), every
feature weighed by what is left of it; features that messages do not foretell are left out. Whether weights are zero
follows last (`search.sparse`). States at the end of a step say nothing here: what acted on senders and receivers alike
is in both.

Letters: N entities, R receivers, M steps, D features, O features that are left, F functions, G own functions.
"""

from collections.abc import Sequence
from itertools import combinations_with_replacement
from typing import NamedTuple

import torch
from torch import Tensor

from modmeta.model.basis import WAVES
from modmeta.search import sparse
from modmeta.shapes import Float

__all__ = ["BETTER", "Maps", "Steps", "gain_of", "log_odds", "told", "waves"]

POWERS = 3  # highest of own functions
STEEP = (0.5, 1.0, 2.0, 4.0)  # spread of their slopes, in standard deviations of a feature
REACH, FAR = 6.0, 5.0  # standard deviations beyond which functions, usual sizes beyond which what is left is flat
ROUNDS, FEW = 10, 4  # of weights and f in turn; where functions are compared
SOME, MOST_STEPS = 10_000, 2000  # steps of receivers, and steps of the group, that compare functions
BETTER = 0.01  # nats a number by which steeper or further functions must be ahead
FIFTHS = 5  # of the steps, in each of which messages must gain
BELIEVED = 1e-6  # share of changes below which what is left is numerical error
RIDGE, SLIGHT = 1e-3, 1e-8  # of f, and of own functions, as a share of the mean square of functions
NORMAL = 1.4826  # standard deviations of a normal in its median size
FIRST = 0.05  # pull of the first weights to zero, as a share of steps
AT_ONCE = 2**24  # numbers that are held at once


class Steps(NamedTuple):
    """Steps of a group in units of features.

    Attributes:
        states: that steps begin with, (M, N, D).
        left: what own functions leave of changes, of features of which they leave any, in usual sizes, (N, M, O).
        own: constant and linear functions of each entity, orthonormal, (N, M, G).
    """

    states: Tensor
    left: Tensor
    own: Tensor

    def part(self, rows: Tensor, receivers: Tensor) -> "Steps":
        """Some steps (M,) and receivers (R,), whose own functions are taken out anew."""
        own = torch.linalg.qr(self.own[receivers][:, rows])[0]
        return Steps(self.states[rows], _without(self.left[receivers][:, rows], own), own)


class Maps(NamedTuple):
    """What relations are told from.

    Attributes:
        steps: of a group; `left` of features that messages foretell.
        steep: f along every feature; 0 where it is flat.
        gain: how much less messages leave unexplained, nats a number; 0 where they foretell nothing.
    """

    steps: Steps
    steep: list[float]
    gain: float


class _Law(NamedTuple):
    weights: Tensor  # (R, N)
    sent: Tensor  # coefficients of f, (F, O)
    variance: Tensor  # of what is left, (O,)


def told(before: Float[Tensor, "M N D"], after: Float[Tensor, "M N D"]) -> Maps:
    """Functions that foretell held-out steps best, and how well: by the worst fifth of all.

    Args:
        before: states that steps begin with, task after task.
        after: and end with.
    """
    (m, n, d), steps = before.shape, _begun(before, after)
    if not steps.left.shape[-1]:
        return Maps(steps, [0.0] * d, 0.0)
    everyone = torch.arange(n, device=before.device)
    few = steps.part(torch.arange(min(m, MOST_STEPS), device=before.device), everyone)
    some = everyone[:: max(1, n * len(few.states) // SOME)]
    best, tried = (0.0,) * d, {(0.0,) * d: few.left.new_zeros(few.left.shape[-1])}
    options = [(*[one] * f, flat, *[one] * (d - 1 - f)) for one in STEEP for f in range(d) for flat in (0.0, one)]
    options = list(dict.fromkeys(options))  # features may say something only together, and one of them hide it
    while True:
        options += [(*best[:f], one, *best[f + 1 :]) for f in range(d) for one in (0.0, *STEEP)]
        tried |= {option: _gains(few, option, some, FIFTHS - 1) for option in options if option not in tried}
        totals = {option: float(tried[option].clamp_min(0).sum()) for option in options}
        ahead = max(options, key=lambda option: totals[option])
        if totals[ahead] < totals[best] + BETTER:
            break
        best, options = ahead, []
    every = [_gains(few, best, some, fifth) for fifth in range(FIFTHS)] if any(best) else [tried[best]]
    gains = torch.stack(every).amin(0).clamp_min(0)
    return Maps(steps._replace(left=steps.left[..., gains > 0]), list(best), float(gains.sum()))


def log_odds(maps: Maps) -> Float[Tensor, "N S"]:
    """Logarithms of the odds that a pair has a relation."""
    steps, sent = maps.steps, _functions(maps.steps.states, maps.steep)
    n, m, o = steps.left.shape
    law = _fitted(steps, sent, torch.arange(n, device=sent.device), ROUNDS)
    messages, size = (sent @ law.sent).permute(2, 0, 1), law.variance.sqrt()  # (O, M, N)
    parts, some = [], max(1, AT_ONCE // (m * n * o))
    for left, own in zip(steps.left.split(some), steps.own.unsqueeze(1).split(some), strict=True):
        columns = _without(messages, own) / size.view(-1, 1, 1)
        given = sparse.Regressions(columns.flatten(1, 2), (left / size).mT.flatten(1), left.numel())
        parts.append(sparse.shortened(given))
    return sparse.log_odds(sparse.joined(parts))


def gain_of(
    steep: Sequence[float], train: tuple[Tensor, Tensor], judge: tuple[Tensor, Tensor], kinds: Float[Tensor, "R N K"],
    receivers: Tensor,
) -> float:  # fmt: skip
    """How much less of other steps a structure leaves unexplained, nats a number; every kind has an f of its own.

    Args:
        steep: of f, along every feature.
        train: states (M, N, D) that steps begin with, and end with, for f.
        judge: the same of the other steps.
        kinds: 1 for the kind of a pair, 0 for others and for an entity itself.
        receivers: whose rows these are, (R,).
    """
    steps = _begun(*(torch.cat(pair) for pair in zip(train, judge, strict=True)))
    sent, judges = _functions(steps.states, steep), torch.arange(len(steps.states), device=receivers.device)
    judges = judges >= len(train[0])
    of, by = ((steps.part(rows, receivers), sent[rows]) for rows in (~judges, judges))
    messages = [_without(torch.einsum("ijk,mjf->imkf", kinds, some).flatten(2), part.own) for part, some in (of, by)]
    law = _solved(messages[0].flatten(0, 1), of[0].left.flatten(0, 1), RIDGE)
    return float(_gained(by[0].left, messages[1] @ law, len(steep)).clamp_min(0).sum())


def _begun(before: Tensor, after: Tensor) -> Steps:
    """What own functions leave of steps."""
    if len(before) < FIFTHS:
        return Steps(before, before.transpose(0, 1)[..., :0], before.transpose(0, 1)[..., :0])
    size = before.std((0, 1)).clamp_min(1e-12)
    u, change = ((before - before.mean((0, 1))) / size).clamp(-REACH, REACH), (after - before) / size
    judges, left, least = _judges(len(u), FIFTHS - 1, u.device), change, torch.full_like(size, torch.inf)
    bases = [_powers(u, power) for power in range(1, POWERS + 1)]
    bases.append(torch.cat([bases[-1], _waves(u, (1.0,) * u.shape[-1])], -1))
    for basis in bases:
        rest = change - basis @ _solved(basis[~judges].flatten(0, 1), change[~judges].flatten(0, 1), SLIGHT)
        square = rest[judges].square().mean((0, 1))
        better = square < least * (1 - 2 * BETTER)
        left, least = torch.where(better, rest, left), torch.where(better, square, least)
    own = torch.linalg.qr(_powers(u, 1).transpose(0, 1))[0]
    left = _without(left.transpose(0, 1), own)
    some = left.square().mean((0, 1)) > BELIEVED * change.square().mean((0, 1)).clamp_min(1e-24)
    left = left[..., some]
    usual = left.abs().flatten(0, 1).median(0).values.clamp_min(1e-12) * NORMAL
    return Steps(u, (left / usual).clamp(-FAR, FAR), own)


def _gains(steps: Steps, steep: tuple[float, ...], receivers: Tensor, fifth: int) -> Tensor:
    """How much less of a fifth of steps messages of the others leave unexplained, nats a number, (O,)."""
    judges, sent = _judges(len(steps.states), fifth, steps.states.device), _functions(steps.states, steep)
    law = _fitted(steps.part(~judges, receivers), sent[~judges], receivers, FEW)
    judge = steps.part(judges, receivers)
    messages = _without(torch.einsum("ij,mjf->imf", law.weights, sent[judges]), judge.own) @ law.sent
    return _gained(judge.left, messages, len(steep))


def _gained(left: Tensor, messages: Tensor, features: int) -> Tensor:
    """How much less messages leave, nats a number of all features, (O,)."""
    squares = [part.square().mean((0, 1)) + BELIEVED for part in (left, left - messages)]
    return (squares[0] / squares[1]).log().nan_to_num(0.0) / (2 * features)  # few steps: none judge


def _judges(steps: int, fifth: int, device: torch.device) -> Tensor:
    """Which steps judge: a fifth, of other tasks or another time, since neighbouring steps tell each other."""
    return torch.arange(steps, device=device) * FIFTHS // max(steps, 1) == fifth


def _without(of: Tensor, basis: Tensor) -> Tensor:
    return of - basis @ (basis.mT @ of)


def _solved(columns: Tensor, targets: Tensor, ridge: float) -> Tensor:
    square = columns.mT @ columns
    pull = ridge * square.diagonal().mean() + 1e-30
    one = torch.eye(len(square), dtype=square.dtype, device=square.device)
    return torch.linalg.solve(square + pull * one, columns.mT @ targets)


def _powers(u: Tensor, highest: int) -> Tensor:
    """Products of up to so many features, (M, N, G)."""
    powers = [torch.ones_like(u[..., 0])]
    for number in range(1, highest + 1):
        powers += [u[..., some].prod(-1) for some in combinations_with_replacement(range(u.shape[-1]), number)]
    return torch.stack(powers, -1)


def waves(steep: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Slopes (D, F) and phases (F,) of waves, the same ones in every call but for how steep they are."""
    generator = torch.Generator().manual_seed(0)
    slopes = torch.randn(len(steep), WAVES, generator=generator, dtype=torch.float64) * torch.tensor(steep).view(-1, 1)
    phases = 2 * torch.pi * torch.rand(WAVES, generator=generator, dtype=torch.float64)
    return slopes, phases


def _waves(u: Tensor, steep: Sequence[float]) -> Tensor:
    """Waves (M, N, F) of states."""
    slopes, phases = waves(steep)
    return torch.cos(u @ slopes.to(u) + phases.to(u))


def _functions(u: Tensor, steep: Sequence[float]) -> Tensor:
    """Functions of senders (M, N, F), of mean 0, uncorrelated and of variance 1."""
    some = torch.cat([u[..., [f for f, one in enumerate(steep) if one]], _waves(u, steep)], -1)
    some = some - some.mean((0, 1))
    flat = some.flatten(0, 1)
    cover = flat.mT @ flat / len(flat)
    least = BELIEVED * cover.diagonal().mean() + 1e-12  # functions of features that never change are none
    cover = cover + least * torch.eye(len(cover), dtype=u.dtype, device=u.device)
    return torch.linalg.solve_triangular(torch.linalg.cholesky(cover), flat.mT, upper=False).mT.view(some.shape)


def _fitted(steps: Steps, sent: Tensor, receivers: Tensor, rounds: int) -> _Law:
    """Weights and f of some receivers, in turn.

    Args:
        steps: theirs.
        sent: functions of all senders, (M, N, F).
        receivers: (R,).
        rounds: of both.
    """
    (_, left, own), (m, n, number) = steps, sent.shape
    off = torch.ones(len(left), n, dtype=left.dtype, device=left.device).scatter(1, receivers.unsqueeze(1), 0.0)
    alike = torch.einsum("imo,mjf->ijfo", left, sent) * off.view(*off.shape, 1, 1)
    alike = alike.flatten(0, 1).flatten(1)
    law = torch.linalg.eigh(alike.mT @ alike)[1][:, -1].view(number, -1)
    taken = torch.einsum("img,mjf->igjf", own, sent)
    variance, pull = torch.ones_like(left[0, 0]), left.new_tensor(FIRST * m)
    weights = torch.zeros_like(off)
    for _ in range(rounds):
        weights, pull = _weighed(steps, sent @ law, taken @ law, off, variance, pull)
        messages = _without(torch.einsum("ij,mjf->imf", weights, sent), own).flatten(0, 1)
        law = _solved(messages, left.flatten(0, 1), RIDGE)
        variance = (left.flatten(0, 1) - messages @ law).square().mean(0).clamp_min(BELIEVED)
    return _Law(weights, law, variance)


def _weighed(
    steps: Steps, messages: Tensor, taken: Tensor, off: Tensor, variance: Tensor, pull: Tensor
) -> tuple[Tensor, Tensor]:
    """Weights (R, N) of messages of mean square 1, and one over the square they have on average.

    Args:
        steps: of receivers.
        messages: (M, N, O).
        taken: what own functions have of messages, (R, G, N, O).
        off: 0 for a receiver itself, (R, N).
        variance: of what is left, (O,).
        pull: of weights to zero.
    """
    size = (messages.square().mean() * variance).sqrt().clamp_min(1e-12)  # and noise of variance 1
    messages, taken, left = messages / size, taken / size, steps.left / variance.sqrt()
    whole = torch.einsum("mio,mjo->ij", messages, messages)
    square = whole - torch.einsum("igjo,igko->ijk", taken, taken)
    square = square * off.unsqueeze(1) * off.unsqueeze(2)
    linear = torch.einsum("mjo,imo->ij", messages, left) * off
    cover = torch.linalg.inv(square + pull * torch.eye(off.shape[1], dtype=off.dtype, device=off.device))
    weights = (cover @ linear.unsqueeze(-1)).squeeze(-1)
    square = ((weights.square() + cover.diagonal(dim1=1, dim2=2)) * off).sum() / off.sum()
    return weights, 1 / square
