"""Matches edge modules, whose indices are arbitrary, to relations on validation tasks."""

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchmetrics import Metric


class Confusion(Metric):
    """Counts of (module, relation) over edges, (K, R)."""

    full_state_update = False
    counts: Tensor

    def __init__(self, num_modules: int, num_relations: int) -> None:
        super().__init__()
        self.shape = (num_modules, num_relations)
        self.add_state("counts", torch.zeros(self.shape, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, modules: Tensor, relations: Tensor, asked: Tensor | None = None) -> None:
        """Adds edge modules and true relations of the same shape; with `asked`, bool, only where it is true."""
        pair = (modules * self.shape[1] + relations).flatten()
        each = torch.ones_like(pair) if asked is None else asked.flatten().to(pair.dtype)
        # unlike bincount, this does not wait for a GPU
        self.counts += torch.zeros_like(self.counts.flatten()).scatter_add(0, pair, each).view(self.shape)

    def compute(self) -> Tensor:
        return self.counts.clone()

    def matrix(self) -> Tensor:
        """Counts (K, R); `Metric` squeezes results of one element."""
        counts: Tensor = self.compute()
        return counts.view(self.shape)


def match_labels(counts: Tensor) -> Tensor:
    """Relation of each module, (K,), given counts (K, R).

    The Hungarian method assigns one module to each relation such that most edges are correct. Further modules get their
    most frequent relation.
    """
    relation = counts.argmax(dim=1)
    modules, relations = linear_sum_assignment(counts.cpu().numpy(), maximize=True)
    relation[torch.as_tensor(modules)] = torch.as_tensor(relations, device=counts.device)
    return relation


def matched_accuracy(counts: Tensor, relation: Tensor) -> Tensor:
    """Edge accuracy, given counts (K, R) and relations of modules (K,)."""
    return counts.gather(1, relation.unsqueeze(1)).sum() / counts.sum()


class Distances(Metric):
    """Distances between the messages of modules, (K, K), summed over edges; only ratios are meaningful."""

    full_state_update = False
    total: Tensor

    def __init__(self, num_modules: int) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(num_modules, num_modules, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, messages: Tensor) -> None:
        """Adds messages (B, N, S, K, T, C)."""
        sent = messages.flatten(4).flatten(0, 2).double()  # (E, K, T C)
        gram = sent @ sent.mT
        size = gram.diagonal(dim1=-2, dim2=-1)
        apart = (size.unsqueeze(-1) + size.unsqueeze(-2) - 2 * gram).clamp_min(0)
        self.total += (apart / apart.mean((-1, -2), keepdim=True).clamp_min(1e-30)).sum(0)  # equal weight of edges

    def compute(self) -> Tensor:
        return self.total.clone()


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
