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


def agreement(counts: Tensor) -> Tensor:
    """Cohen's kappa of two judges of the same edges, given counts (K, K): 1 if they agree on all, 0 by chance."""
    share = counts.double() / counts.sum().clamp_min(1)
    chance = (share.sum(0) * share.sum(1)).sum()
    return ((share.diagonal().sum() - chance) / (1 - chance).clamp_min(1e-9)).float()
