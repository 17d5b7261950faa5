"""Agreement of two structures of the same tasks, without labels."""

import torch
from torch import Tensor

from modmeta.shapes import Float


def distances(messages: Float[Tensor, "B N S K T C"]) -> Float[Tensor, "K K"]:
    """Distances between the messages of modules, (K, K), summed over edges; only ratios are meaningful."""
    sent = messages.flatten(4).flatten(0, 2).double()  # (E, K, T C)
    gram = sent @ sent.mT
    size = gram.diagonal(dim1=-2, dim2=-1)
    apart = (size.unsqueeze(-1) + size.unsqueeze(-2) - 2 * gram).clamp_min(0)
    return (apart / apart.mean((-1, -2), keepdim=True).clamp_min(1e-30)).sum(0)  # equal weight of edges


def agreement(counts: Tensor, distances: Tensor) -> Tensor:
    """Weighted kappa of two assignments of modules to the same edges (Cohen 1968): 1 for equal ones, 0 by chance.

    Args:
        counts: of pairs of modules, (K, K).
        distances: cost of a different module, (K, K); modules with equal messages count as one.
    """
    if counts.numel() == 1:  # a single module
        return torch.ones(())
    share = counts.double() / counts.sum().clamp_min(1)
    chance = share.sum(1, keepdim=True) * share.sum(0, keepdim=True)
    apart = (chance * distances).sum()
    return (1 - (share * distances).sum() / apart).float() if apart > 0 else torch.zeros(())
