"""Matches edge modules, whose indices are arbitrary, to relations on validation tasks."""

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchmetrics import Metric

from modmeta.evaluation.agreement import distances


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
        self.total += distances(messages)

    def compute(self) -> Tensor:
        return self.total.clone()
