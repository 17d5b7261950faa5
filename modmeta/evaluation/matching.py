"""Which module stands for which relation: module indices are arbitrary, so they are matched to labels on validation."""

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

    def update(self, modules: Tensor, relations: Tensor) -> None:
        """Takes in modules and true relations of the same shape."""
        k, r = self.shape
        self.counts += torch.bincount((modules * r + relations).flatten(), minlength=k * r).view(k, r)

    def compute(self) -> Tensor:
        return self.counts.clone()

    def matrix(self) -> Tensor:
        """What is computed, (K, R); a metric drops the dimensions of a single number."""
        counts: Tensor = self.compute()
        return counts.view(self.shape)


def match_labels(counts: Tensor) -> Tensor:
    """The relation that each module stands for, (K,), given counts (K, R).

    One module a relation, by the Hungarian method, so that the most edges are right. Modules beyond the number of
    relations each take the relation they serve most often.
    """
    relation = counts.argmax(dim=1)
    modules, relations = linear_sum_assignment(counts.cpu().numpy(), maximize=True)
    relation[torch.as_tensor(modules)] = torch.as_tensor(relations, device=counts.device)
    return relation


def matched_accuracy(counts: Tensor, relation: Tensor) -> Tensor:
    """Fraction of edges whose module stands for their relation, given counts (K, R) and relations of modules (K,)."""
    return counts.gather(1, relation.unsqueeze(1)).sum() / counts.sum()


class Distances(Metric):
    """How far apart modules are in what they send, (K, K), summed over edges; only ratios mean something."""

    full_state_update = False
    total: Tensor

    def __init__(self, num_modules: int) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(num_modules, num_modules, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, messages: Tensor) -> None:
        """Takes in messages (B, N, S, K, T, C)."""
        sent = messages.flatten(4).flatten(0, 2).double()  # (E, K, T C)
        gram = sent @ sent.mT
        size = gram.diagonal(dim1=-2, dim2=-1)
        apart = (size.unsqueeze(-1) + size.unsqueeze(-2) - 2 * gram).clamp_min(0)
        self.total += (apart / apart.mean((-1, -2), keepdim=True).clamp_min(1e-30)).sum(0)  # each edge counts alike

    def compute(self) -> Tensor:
        return self.total.clone()


def agreement(counts: Tensor, distances: Tensor) -> Tensor:
    """Weighted kappa of two judges of the same edges (Cohen 1968): 1 if they agree on all, 0 by chance.

    Args:
        counts: of the modules that they chose, (K, K).
        distances: what it costs to choose another module, (K, K): modules that say the same are as good as one.
    """
    if counts.numel() == 1:  # there is nothing to choose
        return torch.ones(())
    share = counts.double() / counts.sum().clamp_min(1)
    chance = share.sum(1, keepdim=True) * share.sum(0, keepdim=True)
    apart = (chance * distances).sum()
    return (1 - (share * distances).sum() / apart).float() if apart > 0 else torch.zeros(())
