"""How much intervals weigh: residuals of close encounters are not those of quiet times.

Letters: E receivers, S senders, L intervals, C channels, F features of a pair, K kinds.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from modmeta.search.cold_start.grams import Columns
from modmeta.search.cold_start.structures import Kinds

__all__ = ["BINS", "Scales", "importance", "log_activity", "measure_scales"]

TAIL = 5.0  # degrees of freedom of residuals
BINS, FLOOR = 16, 1e-8  # of activity; of the least squared scale in units of the mean


class Scales(NamedTuple):
    """How large residuals are, by how much senders could do: those of close encounters are not those of quiet times.

    Attributes:
        edges: of bins of activity, logarithms, (bins - 1,).
        squares: squared scale of every bin, (bins,).
        unit: makes weights 1 on average.
    """

    edges: Tensor
    squares: Tensor
    unit: float


def log_activity(table: Columns, kinds: Kinds) -> Tensor:
    """Logarithm of what all senders' messages of all kinds could add up to, (E, L): large where bodies come close."""
    sent = table.sent(kinds.laws)
    return (sent.square().sum((1, 3, 4)) + 1e-30).log() / 2


def measure_scales(left: Tensor, weight: Tensor, activity: Tensor, bins: int) -> Scales:
    """How large residuals (E, L, C) are, by activity (E, L), tails drawn in by Student-t weights."""
    there, square = weight > 0, left.square()
    some = activity[there.any(-1)]
    number = max(1, min(bins, len(some) // 100))
    levels = torch.linspace(0, 1, number + 1, dtype=left.dtype, device=left.device)[1:-1]
    edges = some[:: max(1, len(some) // 100_000)].quantile(levels) if number > 1 else some[:0]
    place = torch.bucketize(activity, edges)  # (E, L)
    member = torch.nn.functional.one_hot(place, number).to(left)  # (E, L, bins)
    count = torch.einsum("elb,elc->b", member, there.to(left)).clamp_min(1)
    scale = torch.einsum("elb,elc->b", member, square * there) / count
    floor = (scale.mean() * FLOOR).clamp_min(1e-300)
    for _ in range(10):
        u = (TAIL + 1) / (TAIL + square / scale.clamp_min(floor)[place].unsqueeze(-1))
        scale = torch.einsum("elb,elc->b", member, u * square * there) / count
    scales = Scales(edges, scale.clamp_min(floor), 1.0)
    return scales._replace(unit=float(1 / importance(scales, left, activity)[there].mean()))


def importance(scales: Scales, left: Tensor | None, activity: Tensor) -> Tensor:
    """Weights of intervals, (E, L, C) or without residuals (E, L, 1), of mean 1 on the tasks that scales come from."""
    scale = scales.squares[torch.bucketize(activity, scales.edges)].unsqueeze(-1)
    if left is None:
        return scales.unit / scale
    return scales.unit * (TAIL + 1) / (TAIL * scale + left.square())
