"""Functions of an entity's own state whose sizes are its own, as a damping or a rate of decay, from residuals.

    d s_c / dt = w_ic phi_c(s_i) + what all share

Every channel c has one such function phi_c, linear in the own functions that all share; the sizes w_ic of an entity are
least squares, and the function is what explains most then.

Letters: E receivers, C channels, G own functions, S senders, F features of a pair.
"""

import torch
from torch import Tensor

from modmeta.search.cold_start.grams import Grams

__all__ = ["shapes_of"]

STARTS, SWEEPS = 4, 40  # of alternating least squares
TINY = 1e-9  # of the largest variance of own functions: combinations that do not occur


def shapes_of(sums: Grams, coefficients: Tensor, own: Tensor, channels: int) -> Tensor | None:
    """The functions (C, G); None if they explain no more than as many numbers would by chance.

    Args:
        sums: of receivers of plain states, constants of entities taken out.
        coefficients: of every edge, (E, S, F).
        own: coefficients of the own part, (C G,).
        channels: C.
    """
    gram = sums.own[:, :-1, :-1]
    cross = sums.own[:, :-1, -1] - gram @ own - torch.einsum("esf,esfg->eg", coefficients, sums.cross[..., :-1])
    size = len(own) // channels
    shapes, explained = [], torch.zeros_like(sums.targets)
    for at in (slice(c * size, (c + 1) * size) for c in range(channels)):
        shape, more = _shape(gram[:, at, at], cross[:, at])
        shapes.append(shape)
        explained = explained + more
    left = sums.left(coefficients, own).clamp_min(1e-300)
    told = -(1 - explained / left).clamp_min(1e-9).log()
    by_chance = 2 * channels * len(told) / sums.targets.sum() * channels  # as in AIC
    return torch.stack(shapes) if float(told.mean()) > by_chance else None


def _shape(gram: Tensor, cross: Tensor) -> tuple[Tensor, Tensor]:
    """The function (G,) whose sizes explain most of residuals, and how much of each, (E,).

    Args:
        gram: of own functions, (E, G, G).
        cross: of these with residuals, (E, G).
    """
    total = gram.sum(0)
    scale = total.diagonal().clamp_min(1e-300).sqrt()
    values, vectors = torch.linalg.eigh(total / scale / scale.unsqueeze(1))
    kept = values > TINY * values[-1]
    white = vectors[:, kept] / scale.unsqueeze(1) / values[kept].sqrt()
    gram, cross = white.mT @ gram @ white, cross @ white
    each = torch.linalg.solve(gram + 0.01 * gram.diagonal(dim1=1, dim2=2).mean(-1).view(-1, 1, 1) * _eye(gram), cross)
    shape = torch.linalg.svd(each, full_matrices=False)[2][:STARTS]  # (starts, G)
    for _ in range(SWEEPS):
        size = (shape @ cross.mT) / _within(gram, shape)  # (starts, E)
        normal = torch.einsum("pe,exy->pxy", size.square(), gram)
        normal = normal + 1e-9 * normal.diagonal(dim1=1, dim2=2).mean(-1).view(-1, 1, 1) * _eye(gram)
        shape = torch.linalg.solve(normal, size @ cross)
        shape = shape / shape.norm(dim=-1, keepdim=True).clamp_min(1e-300)
    explained = (shape @ cross.mT).square() / _within(gram, shape)
    best = int(explained.sum(-1).argmax())
    return white @ shape[best], explained[best]


def _within(gram: Tensor, shape: Tensor) -> Tensor:
    """Sums of squares (starts, E) of functions (starts, G)."""
    return torch.einsum("px,exy,py->pe", shape, gram, shape) + 1e-12


def _eye(gram: Tensor) -> Tensor:
    return torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
