"""Which weights of many regressions with one prior are not zero.

    y_i = sum_j w_ij x_ij + sum_g v_ig o_ig + noise

One regression a receiver. A weight of a sender is nearly zero, N(0, s0^2), or of usual size, N(m, s1^2) (spike and
slab: George and McCulloch 1993); whether w_ij is and whether w_ji is may go together. How frequent weights are, how
often they are mutual, m, s0, s1 and the noise are the same for all pairs and follow from the data (empirical Bayes), so
what some receivers tell clearly serves the others. Beliefs in weights are by expectation propagation (Minka 2001; for
spike and slab Hernandez-Lobato et al. 2015): each weight's share of the prior is replaced by a normal one, such that
mean and variance of the weight are right given all others. Noise begins large and falls. The first beliefs are those of
normal priors with a variance for each weight (automatic relevance determination: Tipping 2001); weights v keep these.
Where regressions tell every weight without a sparse prior, they do it alone.

Steps of smooth motion say little about many senders, and little noise makes that little tell. So sums of squares, which
would lose it, are never formed.

Letters: N receivers and senders, S = N - 1, M steps, P = N + G columns.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from modmeta.search.slow import SURE
from modmeta.search.slow import odds as odds_of_weights
from modmeta.shapes import Float

__all__ = ["Regressions", "joined", "log_odds", "shortened"]

FIRST, ROUNDS, FREE = 60, 40, 5  # of the first beliefs; of propagation; of these with sizes as they begin
SETTLED = 1e-4  # change of chances, or of weights as a share of the largest, from which on beliefs stay
DAMPED = 0.5  # share of the way that beliefs go in a round
BEGIN, FALL = 1e-6, 3.0  # noise as a share of the variance of steps, and by how much it falls in a round, at most
LEAST = 1e-13  # share of that variance that noise has at least
TRIED = (1e-15, 1e-14, 1e-12, 1e-10, 1e-8)  # of a matrix's trace, what rounding needs on the diagonal
TELLING = 1e-3  # share of a weight's variance left where regressions tell every one, sparse or not
USUAL, RARE = 0.05, 20  # share of weights that are not zero at first, and how many pairs more count as without
BROAD, SLIM = 0.5, 0.02  # spread of weights over their size, at first and at least
NARROW, NARROWEST = 1e-3, 1e-4  # the same of those that are nearly zero
MOST = 60.0  # logarithm of odds that one weight tells another


class Regressions(NamedTuple):
    """Regressions of all receivers.

    Attributes:
        columns: of senders, then of what is the receiver's own, as what it sends itself is, (N, M, N + G).
        targets: (N, M).
        number: of steps in all regressions together, which may be more than are left after `shortened`.
    """

    columns: Tensor
    targets: Tensor
    number: int


class _Prior(NamedTuple):
    """Of a weight; all are numbers."""

    both: Tensor  # share of pairs with a weight each way
    one: Tensor  # in one given direction alone
    mean: Tensor
    variance: Tensor
    zero: Tensor  # variance of what is nearly zero


class _Beliefs(NamedTuple):
    """Of weights that are normal but for the regressions: (N, P) each."""

    mean: Tensor
    variance: Tensor


def shortened(all_of: Regressions) -> Regressions:
    """The same in as many steps as there are columns."""
    columns, targets, number = all_of
    if columns.shape[1] <= columns.shape[2] + 1:
        return all_of
    root = torch.linalg.qr(torch.cat([columns, targets.unsqueeze(-1)], -1), mode="r")[1]
    return Regressions(root[..., :-1], root[..., -1], number)


def joined(parts: list[Regressions]) -> Regressions:
    """Of all receivers."""
    columns, targets, numbers = zip(*parts, strict=True)
    return Regressions(torch.cat(columns), torch.cat(targets), sum(numbers))


def log_odds(given: Regressions) -> Float[Tensor, "N S"]:
    """Logarithms of the odds that weights are not zero.

    Args:
        given: in double precision.
    """
    n = len(given.targets)
    off = ~torch.eye(n, dtype=torch.bool, device=given.targets.device)
    size = given.targets.square().sum() / given.number
    if not bool(size > 0):
        return torch.full_like(given.columns[:, 0, : n - 1], -SURE)
    weights, own, noise = _first(given, size)
    prior = _begun(weights[:, :n][off])
    usual = (prior.mean.square() + prior.variance).sqrt()
    free = _known(given, _Beliefs(torch.zeros_like(own), (usual**2).expand_as(own)), noise)
    if bool((free.variance[:, :n][off] < TELLING * usual**2).all()):
        return odds_of_weights(free.mean[:, :n])
    share = prior.both + prior.one
    sites = _Beliefs(torch.zeros_like(weights), own)
    sites = _Beliefs(_with(sites.mean, (share * prior.mean).expand(n, n)), _with(own, (share * usual**2).expand(n, n)))
    least = noise = noise.maximum(BEGIN * size)
    chance = torch.zeros_like(weights[:, :n])
    for step in range(ROUNDS):
        now = _known(given, sites, noise)
        least = least / FALL
        noise = _noise(given, now, sites, size).maximum(least)
        cavity = _without(now, sites)
        odds, told = _told(cavity, prior)
        was, chance = chance, odds.sigmoid()
        if bool(noise > least) and bool(((chance - was)[off].abs() < SETTLED).all()):
            break
        sizes = _moments(cavity, prior)
        prior = _learned(chance[off], told[off], [part[off] for part in sizes], prior, usual, step >= FREE)
        sites = _moved(now, sites, cavity, chance, sizes, usual)
    return SURE * (odds[off].view(n, n - 1) / SURE).tanh()


def _with(all_of: Tensor, senders: Tensor) -> Tensor:
    """(N, P), of others from `senders` (N, N), the receiver's own as they were."""
    n = len(senders)
    mine = torch.eye(n, dtype=torch.bool, device=senders.device)
    return torch.cat([torch.where(mine, all_of[:, :n], senders), all_of[:, n:]], 1)


def _known(given: Regressions, prior: _Beliefs, noise: Tensor) -> _Beliefs:
    """Beliefs in weights by regression."""
    columns, targets, _ = given
    cover = (columns * prior.variance.unsqueeze(1)) @ columns.mT
    trace = cover.diagonal(dim1=1, dim2=2).sum(-1)
    one = torch.eye(cover.shape[-1], dtype=cover.dtype, device=cover.device)
    for share in TRIED:
        root, failed = torch.linalg.cholesky_ex(cover + noise.maximum(share * trace).view(-1, 1, 1) * one)
        if not failed.any():
            break
    left = targets - (columns @ prior.mean.unsqueeze(-1)).squeeze(-1)
    solved = torch.linalg.solve_triangular(root, torch.cat([columns, left.unsqueeze(-1)], -1), upper=False)
    told = solved[..., :-1]
    mean = prior.mean + prior.variance * (told.mT @ solved[..., -1:]).squeeze(-1)
    variance = prior.variance - prior.variance.square() * told.square().sum(1)
    return _Beliefs(mean, variance.maximum(1e-12 * prior.variance))


def _noise(given: Regressions, now: _Beliefs, prior: _Beliefs, size: Tensor) -> Tensor:
    left = (given.targets - (given.columns @ now.mean.unsqueeze(-1)).squeeze(-1)).square().sum()
    told = (1 - now.variance / prior.variance).sum()
    return (left / (given.number - told).clamp_min(given.number / 10)).maximum(LEAST * size)


def _first(given: Regressions, size: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weights and their variances (N, P) and the noise where every weight is normal about zero."""
    columns = given.columns.square().sum(1)
    variance = 10 * size * given.number / columns.numel() / columns.maximum(1e-12 * columns.mean())
    noise, none = size / 100, torch.zeros_like(variance)
    was = none
    for _ in range(FIRST):
        prior = _Beliefs(none, variance)
        now = _known(given, prior, noise)
        noise = _noise(given, now, prior, size)
        variance = _alone(now)
        if bool((now.mean - was).abs().max() < SETTLED * now.mean.abs().max()):
            break
        was = now.mean
    return now.mean, variance, noise


def _alone(now: _Beliefs) -> Tensor:
    """Variances that make weights likeliest, (N, P)."""
    square = now.mean.square() + now.variance
    return square.maximum(1e-30 * square.amax())


def _begun(weights: Tensor) -> _Prior:
    """A first prior from weights (N S,): large ones count most."""
    square = weights.square()
    mean, usual = (weights * square).sum() / square.sum(), (square.square().sum() / square.sum()).sqrt()
    share = torch.full_like(mean, USUAL / 2)
    return _Prior(share, share, mean, (BROAD * usual) ** 2, (NARROW * usual) ** 2)


def _without(now: _Beliefs, sites: _Beliefs) -> _Beliefs:
    """What all else says about weights of senders, (N, N)."""
    n = len(now.mean)
    (mean, variance), (was, spread) = ([part[:, :n] for part in beliefs] for beliefs in (now, sites))
    precision = (1 / variance - 1 / spread).maximum(1e-10 / spread)
    return _Beliefs((mean / variance - was / spread) / precision, 1 / precision)


def _told(cavity: _Beliefs, prior: _Prior) -> tuple[Tensor, Tensor]:
    """Logarithms of the odds of weights, and chances that a pair has a weight each way, (N, N) each."""
    some, none = cavity.variance + prior.variance, cavity.variance + prior.zero
    tells = (cavity.mean.square() / none - (cavity.mean - prior.mean).square() / some + (none / some).log()) / 2
    tells = tells.clamp(-MOST, MOST)
    neither = 1 - prior.both - 2 * prior.one
    back = tells.mT.exp()
    odds = tells + ((prior.both * back + prior.one) / (prior.one * back + neither)).log()
    both = prior.both * (tells + tells.mT).exp()
    return odds, both / (both + prior.one * (tells.exp() + back) + neither)


def _moments(cavity: _Beliefs, prior: _Prior) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean and variance of weights if they are nearly zero and if they are not, (N, N) each."""
    none = 1 / (1 / cavity.variance + 1 / prior.zero)
    some = 1 / (1 / cavity.variance + 1 / prior.variance)
    tells = cavity.mean / cavity.variance
    return none * tells, none, some * (tells + prior.mean / prior.variance), some


def _learned(chance: Tensor, both: Tensor, sizes: list[Tensor], prior: _Prior, usual: Tensor, free: bool) -> _Prior:
    """The prior from chances of weights and of pairs, (N S,)."""
    (zero, around_zero, mean, around), total = sizes, len(chance)
    share = (chance.sum() + 1) / (total + RARE)
    mutual = ((both.sum() + share) / (total + 2)).minimum(0.999 * share)
    prior = prior._replace(both=mutual, one=share - mutual)
    if not free:
        return prior
    centre = (chance * mean).sum() / chance.sum()
    spread = (chance * ((mean - centre).square() + around)).sum() + (BROAD * centre).square()
    spread = (spread / (chance.sum() + 1)).maximum((SLIM * usual).square())
    narrow = ((1 - chance) * (zero.square() + around_zero)).sum() / (1 - chance).sum()
    narrow = narrow.maximum((NARROWEST * usual).square()).minimum((spread + centre.square() / 4) / 4)
    return prior._replace(mean=centre, variance=spread, zero=narrow)


def _moved(
    now: _Beliefs,
    sites: _Beliefs,
    cavity: _Beliefs,
    chance: Tensor,
    sizes: tuple[Tensor, Tensor, Tensor, Tensor],
    usual: Tensor,
) -> _Beliefs:
    """Normal shares of the prior that give weights the mean and variance they have in truth."""
    n = len(chance)
    zero, around_zero, some, around = sizes
    mean = (1 - chance) * zero + chance * some
    variance = (1 - chance) * (around_zero + zero.square()) + chance * (around + some.square()) - mean.square()
    precision = (1 / variance - 1 / cavity.variance).maximum(1e-4 / usual**2)
    pull = (precision + 1 / cavity.variance) * mean - cavity.mean / cavity.variance
    was = 1 / sites.variance[:, :n]
    precision, pull = (
        DAMPED * new + (1 - DAMPED) * old for new, old in ((precision, was), (pull, was * sites.mean[:, :n]))
    )
    return _Beliefs(_with(sites.mean, pull / precision), _with(_alone(now), 1 / precision))
