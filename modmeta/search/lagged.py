"""Relations of a group driven by noise: what senders sum to acts on the next frame through one shared law.

    x_i' = o(x_i) + c_i + d_i x_i + s tanh(sum_j W_ij x_j / s) + noise

A weight is zero, or of normal size and either sign (spike and slab: George and McCulloch 1993). How frequent weights of
either sign are, the mean and spread of their size, the law and the noise are the same for all pairs and follow from the
data (empirical Bayes), so a single recording that says little about any pair still tells the law. Weights are drawn
slot by slot for all receivers at once, each from zero and two sizes of either sign (a grid: Ritter and Tanner 1992);
between sweeps the law takes a Gauss-Newton step. A relation's probability is its mean over sweeps. As s grows, the sum
acts linearly.

Letters: N entities, S = N - 1 senders, M steps.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from modmeta.shapes import Float

__all__ = ["Lagged", "drawn", "left_over"]

POWERS = 4  # of an entity's own law: constant to cubic
SWEEPS, FEWEST, BUDGET = 120, 20, 2e9  # over all slots; where there are many numbers fewer, in evaluations of tanh
BURNT = 3  # one of so many sweeps at the beginning tells nothing
NODES = (-1.0, 1.0)  # of a normal, of equal weights (Gauss and Hermite)
RIDGE, ALIKE = 30.0, 300.0  # pull to 0 of the first weights, and of what sets an entity apart from all others, as steps
USUAL = 0.3  # size of weights
RARE = 9.0  # pairs without a relation that are added for one with
SLIMMEST = 0.1  # spread of weights over their mean, at least
LEAST = 1e-9  # share of the variance that noise has at least
FEW = 3  # weights whose mean and spread say nothing
STEPS = 10  # of a law without relations
SURE = 30.0  # logarithm of the largest odds


class Lagged(NamedTuple):
    """Result of the draws.

    Attributes:
        weights: means, (N, N), `[receiver, sender]`.
        log_odds: that there is a relation, (N, S).
        own: coefficients of powers of an entity's state, (POWERS,).
        apart: what an entity adds to the constant and the slope, (N, 2).
        size: s.
        variance: of noise.
    """

    weights: Tensor
    log_odds: Tensor
    own: Tensor
    apart: Tensor
    size: Tensor
    variance: Tensor


def drawn(before: Float[Tensor, "M N"], after: Float[Tensor, "M N"], relations: bool = True, seed: int = 0) -> Lagged:
    """Weights and law of steps.

    Args:
        before: states, of mean 0 and variance 1 all together.
        after: states one frame later.
        relations: whether there are any.
        seed: of the draws.
    """
    m, n = before.shape
    generator = torch.Generator(before.device).manual_seed(seed)
    x, y = before.mT.contiguous(), after.mT.contiguous()
    weights, own, apart = _first(x, y), x.new_zeros(POWERS), x.new_zeros(n, 2)
    law = Lagged(weights, x.new_full((n, n - 1), -SURE), own, apart, x.new_tensor(1.0), y.var())
    if not relations:
        law = law._replace(weights=torch.zeros_like(weights))
        for _ in range(STEPS):
            law = _moved(x, y, law)
        return law
    sweeps = int(min(SWEEPS, max(FEWEST, BUDGET / (m * n * n * (1 + 2 * len(NODES))))))
    burnt = sweeps // BURNT
    chances, total = torch.zeros_like(weights), torch.zeros_like(weights)
    for sweep in range(sweeps):
        law, told = _swept(x, y, _moved(x, y, law), generator)
        if sweep >= burnt:
            chances, total = chances + told / (sweeps - burnt), total + law.weights / (sweeps - burnt)
    log_odds = torch.logit(chances[_off(n)].view(n, n - 1).clamp(0, 1)).clamp(-SURE, SURE)
    return _measured(x, y, law._replace(weights=total, log_odds=log_odds))


def left_over(before: Float[Tensor, "M N"], after: Float[Tensor, "M N"], law: Lagged) -> float:
    """Nats a number that steps cost, less half the logarithm of 2 pi."""
    square = _left(before.mT, after.mT, law).square().mean()
    return float(square / law.variance + law.variance.log()) / 2


def _first(x: Tensor, y: Tensor) -> Tensor:
    """Weights of a linear regression, the largest tenth of all."""
    n = len(x)
    pull = RIDGE * torch.eye(n, dtype=x.dtype, device=x.device)
    w = torch.linalg.solve(x @ x.mT + pull, x @ y.mT).mT * _off(n).to(x)
    least = w.abs().flatten().topk(max(1, n * (n - 1) // 10)).values[-1]
    return torch.where(w.abs() >= least, w, 0.0)


def _off(n: int) -> Tensor:
    return ~torch.eye(n, dtype=torch.bool)


def _slab(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Values that a weight may have, zero first, and logarithms of how frequent they are."""
    n, size = len(weights), weights[weights != 0].abs()
    mean = size.mean() if len(size) >= FEW else weights.new_tensor(USUAL)
    square = (size - mean).square().sum() + 2 * (2 * SLIMMEST * mean).square()
    spread = (square / (len(size) + 2)).sqrt().clamp(SLIMMEST * mean, mean / 2)
    sizes = mean + spread * weights.new_tensor(NODES)
    signs = torch.stack([(weights > 0).sum(), (weights < 0).sum()]) + weights.new_tensor(0.5)
    shares = torch.cat(
        [signs.new_tensor([n * (n - 1) - len(size) + RARE]), signs.repeat_interleave(len(NODES)) / len(NODES)]
    )
    return torch.cat([torch.zeros_like(sizes[:1]), sizes, -sizes]), (shares / shares.sum()).log()


def _powers(x: Tensor) -> Tensor:
    return torch.stack([x**power for power in range(POWERS)], -1)  # (N, M, POWERS)


def _rest(x: Tensor, y: Tensor, law: Lagged) -> Tensor:
    """What senders are to explain, (N, M)."""
    return y - _powers(x) @ law.own - law.apart[:, :1] - law.apart[:, 1:] * x


def _left(x: Tensor, y: Tensor, law: Lagged) -> Tensor:
    return _rest(x, y, law) - law.size * torch.tanh(law.weights @ x / law.size)


def _measured(x: Tensor, y: Tensor, law: Lagged) -> Lagged:
    """The same with the variance of what is left over."""
    return law._replace(variance=_left(x, y, law).square().mean().clamp_min(LEAST))


def _moved(x: Tensor, y: Tensor, law: Lagged) -> Lagged:
    """A Gauss-Newton step of the own law, of s and of a factor of all weights; then of `apart`.

    The logarithms of s and of the mean size of weights are pulled to where they begin.
    """
    total = law.weights @ x
    bent = torch.tanh(total / law.size)
    slope = 1 - bent.square()
    by = [law.size * bent - total * slope, total * slope]  # derivatives by logarithms of s and of the factor
    columns = torch.cat([_powers(x), torch.stack(by, -1)], -1).flatten(0, 1)
    left = _left(x, y, law).flatten()
    normal, right = columns.mT @ columns / law.variance, columns.mT @ left / law.variance
    right[POWERS] -= law.size.log()
    right[POWERS + 1] -= (law.weights.abs().sum() / (law.weights != 0).sum().clamp_min(1) / USUAL).clamp_min(1e-3).log()
    move = torch.linalg.solve(normal + torch.diag(x.new_tensor([1e-6] * POWERS + [1.0, 1.0])), right)
    larger = move[POWERS:].clamp(-0.3, 0.3).exp()
    law = law._replace(own=law.own + move[:POWERS], size=law.size * larger[0], weights=law.weights * larger[1])
    columns = _powers(x)[..., :2]  # (N, M, 2)
    left = _left(x, y, law._replace(apart=torch.zeros_like(law.apart)))
    normal = columns.mT @ columns + ALIKE * torch.eye(2, dtype=x.dtype, device=x.device)
    law = law._replace(apart=torch.linalg.solve(normal, columns.mT @ left.unsqueeze(-1)).squeeze(-1))
    return _measured(x, y, law)


def _swept(x: Tensor, y: Tensor, law: Lagged, generator: torch.Generator) -> tuple[Lagged, Tensor]:
    """Draws every weight once: the law, and the probability that a weight is not zero, (N, N)."""
    n, size, weights = len(x), law.size, law.weights.clone()
    chances = torch.zeros_like(weights)
    values, prior = _slab(weights)
    rest, total = _rest(x, y, law), weights @ x
    for j in torch.randperm(n, generator=generator, device=x.device).tolist():
        others = total - weights[:, j : j + 1] * x[j]
        costs = [(rest - size * torch.tanh((others + value * x[j]) / size)).square().sum(1) for value in values]
        odds = prior - torch.stack(costs, 1) / (2 * law.variance)
        odds[j, 1:] = -math.inf
        chance = odds.softmax(1)
        chances[:, j] = 1 - chance[:, 0]
        weights[:, j] = values[torch.multinomial(chance, 1, generator=generator).squeeze(1)]
        total = others + weights[:, j : j + 1] * x[j]
    return _measured(x, y, law._replace(weights=weights)), chances
