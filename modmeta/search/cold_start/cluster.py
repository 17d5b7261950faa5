"""Clusters of edge weights: mixtures of normal distributions.

Letters: X edges, R weights of each, K clusters, I starts.
"""

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Clusters", "cluster", "clusterings"]


class Clusters(NamedTuple):
    """A mixture.

    Attributes:
        probability: of every cluster for every edge, (X, K).
        centre: (K, R).
        share: (K,).
    """

    probability: Tensor
    centre: Tensor
    share: Tensor


def clusterings(weights: Tensor, number: int, generator: torch.Generator, draws: int = 6) -> list[Clusters]:
    """Several ways to see clusters in weights (X, R), as none is right for all.

    Clusters that differ in width, clusters of one width (a wide one cannot lie over a narrow one), and weights far
    apart drawn as centres.
    """
    found = [cluster(weights, number, generator), cluster(weights, number, generator, shared=True)]
    x = _standardised(weights)
    for _ in range(draws):
        centre = _far_apart(x, number, generator)
        apart = (x.unsqueeze(1) - centre).square().sum(-1)
        probability = (-apart * number**2).softmax(-1)
        found.append(Clusters(probability, centre, probability.mean(0)))
    return found


def _standardised(weights: Tensor) -> Tensor:
    """Weights less their mean, by their spread, after the half per cent at either end is drawn in.

    A few badly determined weights would be clusters of their own.
    """
    low, high = weights.quantile(0.005, 0), weights.quantile(0.995, 0)
    x = weights.clamp(low, high)
    return (x - x.mean(0)) / x.std(0).clamp_min(1e-12)


def _far_apart(x: Tensor, number: int, generator: torch.Generator) -> Tensor:
    """Centres (K, R) drawn one after the other, the likelier the further from those before (k-means++)."""
    chosen = x[torch.randint(len(x), (1,), generator=generator)]
    for _ in range(number - 1):
        apart = (x.unsqueeze(1) - chosen).square().sum(-1).amin(1)
        more = torch.multinomial(apart.clamp_min(1e-12).float().cpu(), 1, generator=generator)
        chosen = torch.cat([chosen, x[more]])
    return chosen


def cluster(
    weights: Tensor,
    number: int,
    generator: torch.Generator,
    starts: int = 12,
    sweeps: int = 60,
    *,
    shared: bool = False,
) -> Clusters:
    """Fits a mixture of `number` normals to weights (X, R) by expectation maximisation, all starts in one batch.

    With `shared`, all clusters have one covariance.
    """
    x = _standardised(weights)
    n, r = x.shape
    few = x[torch.randperm(n, generator=generator)[:4000]]
    index = torch.randint(len(few), (starts, number), generator=generator)
    levels = ((torch.arange(number) + 0.5) / number * len(few)).long()
    index[0] = few[:, 0].argsort()[levels]
    centre = few[index]  # (I, K, R)
    eye = torch.eye(r, dtype=x.dtype)
    spread = eye.expand(starts, number, r, r) * (0.5 / number) ** 2
    share = torch.full((starts, number), 1 / number, dtype=x.dtype)
    for _ in range(sweeps):
        log = _log_density(few, centre, spread, share)
        q = log.softmax(-1)  # (I, X, K)
        mass = q.sum(1).clamp_min(1e-9)
        centre = (q.mT @ few) / mass.unsqueeze(-1)
        apart = few.view(1, -1, 1, r) - centre.unsqueeze(1)
        spread = torch.einsum("ixk,ixkr,ixkq->ikrq", q, apart, apart) / mass[..., None, None]
        if shared:
            spread = (spread * mass[..., None, None]).sum(1, keepdim=True).expand_as(spread) / len(few)
        spread = spread + 1e-4 * eye
        share = (mass + 1) / (mass + 1).sum(-1, keepdim=True)
    fit = _log_density(few, centre, spread, share).logsumexp(-1).sum(-1)
    best = int(fit.argmax())
    chosen = _log_density(x, centre[best : best + 1], spread[best : best + 1], share[best : best + 1])[0]
    return Clusters(chosen.softmax(-1), centre[best], share[best])


def _log_density(x: Tensor, centre: Tensor, spread: Tensor, share: Tensor) -> Tensor:
    root = torch.linalg.cholesky(spread)  # (I, K, R, R)
    apart = (x.view(1, 1, *x.shape) - centre.unsqueeze(2)).mT  # (I, K, R, X)
    scaled = torch.linalg.solve_triangular(root, apart, upper=False)
    log = share.log() - root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return (log.unsqueeze(-1) - scaled.square().sum(-2) / 2).mT
