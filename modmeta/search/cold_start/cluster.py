"""Clusters of edge weights: mixtures of normal distributions.

Letters: X edges, R weights of each, K clusters, I starts.
"""

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Clusters", "cluster"]


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


def cluster(weights: Tensor, number: int, generator: torch.Generator, starts: int = 12, sweeps: int = 60) -> Clusters:
    """Fits a mixture of `number` normals to weights (X, R) by expectation maximisation, all starts in one batch.

    Weights beyond the half per cent at either end are taken for that, as a few badly determined ones would be clusters
    of their own.
    """
    low, high = weights.quantile(0.005, 0), weights.quantile(0.995, 0)
    x = weights.clamp(low, high)
    x = (x - x.mean(0)) / x.std(0).clamp_min(1e-12)
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
        spread = torch.einsum("ixk,ixkr,ixkq->ikrq", q, apart, apart) / mass[..., None, None] + 1e-4 * eye
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
