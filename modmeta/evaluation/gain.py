"""How much better structures explain frames than no relations do, in a measure that no scale of errors can win.

    gain = sum w log(u / r) / sum w,   w = sqrt(u)

over tasks, entities and features, with `r` the root mean squared error over frames and `u` that without relations. An
energy may be low because some entities or frames are predicted to the last digit, whatever becomes of the others. Here
entities count by the roots of their changes: with equal shares those at rest would decide, and with shares in
proportion those in a collision.
"""

import torch
from torch import Tensor

from modmeta.model.sight import counted

SMALL = 1e-3  # of a typical change, not worth explaining


def gain(error: Tensor, targets: Tensor, states: Tensor, mask: Tensor | None = None) -> Tensor:
    """Nats a number gained over a model without relations.

    Without relations an entity changes at a rate of its own, or also linearly in its own state, whichever predicts its
    changes better; both are fitted to the same frames.

    Args:
        error: of predicted changes, (B, N, L, D).
        targets: the changes, (B, N, L, D).
        states: at the start of every step, (B, N, L, D).
        mask: how well steps are known, (B, N, T - 1); None for all observed.
    """
    counts = torch.ones_like(error) if mask is None else counted(mask).unsqueeze(-1).expand_as(error).to(error)
    typical = (targets.abs() * counts).sum() / counts.sum().clamp_min(1)
    small = (SMALL * typical).square().clamp_min(torch.finfo(error.dtype).tiny)

    def size(of: Tensor) -> Tensor:
        return ((of.square() * counts).sum(2) / counts.sum(2).clamp_min(1) + small).sqrt()

    level, slope = _own(targets, states, counts)
    without = torch.minimum(size(targets - level), size(targets - level - slope))
    weight = without.sqrt()
    return (weight * (without / size(error)).log()).sum() / weight.sum()


def _own(targets: Tensor, states: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Rates of every entity, (B, N, 1, D), and what is linear in the states, (B, N, L, D), by least squares."""

    def mean(of: Tensor) -> Tensor:
        return (of * counts).sum(2, keepdim=True) / counts.sum(2, keepdim=True).clamp_min(1)

    moved, level = states - mean(states), mean(targets)
    x, y = ((part * counts).flatten(0, 2).double() for part in (moved, targets - level))
    ridge = 1e-9 * torch.eye(x.shape[1], dtype=x.dtype, device=x.device) * x.square().sum().clamp_min(1e-300)
    slope = torch.linalg.solve(x.mT @ x + ridge, x.mT @ y).to(states.dtype)
    return level, moved @ slope
