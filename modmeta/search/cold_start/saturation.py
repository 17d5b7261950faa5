"""Rates of change within bounds, as those of saturating entities are: the bounds, from the states alone.

    rate_c = leak_c (1, s) + size_c tanh(u_c / size_c)

Where the sum u of what acts is often large, rates less the leak fill an interval; its ends are what the regression of
least largest error (Chebyshev) finds.

Letters: B tasks, N entities, L intervals, D features, C channels.
"""

import torch
from torch import Tensor

from modmeta.search.cold_start.weak_form import Steps, averaged

__all__ = ["link_columns", "measure_link", "saturates"]

POWERS = (2, 4, 8, 16, 32, 64, 128, 256, 512)  # of norms that end near the largest
FULL = 0.7  # share of the largest error that a tenth of saturated rates exceed
LINEAR = 1e4  # times the largest error: the size of what does not saturate


def measure_link(ready: Steps) -> Tensor:
    """Leak and size of every channel, (C, 1 + D + 1); sizes are too large to matter where rates do not saturate."""
    seen = averaged(ready)
    one = torch.ones_like(seen[..., :1])
    design = torch.cat([one, seen], -1)[ready.seen > 0]
    targets = ready.targets[ready.seen > 0]
    step = max(1, len(targets) // 50_000)
    design, targets = design[::step], targets[::step]
    weight = torch.ones_like(targets)  # (rows, C)
    leak = torch.zeros(targets.shape[1], design.shape[1], dtype=design.dtype, device=design.device)
    for power in POWERS:
        for _ in range(10):
            normal = torch.einsum("rx,rc,ry->cxy", design, weight, design)
            right = torch.einsum("rx,rc->cx", design, weight * targets)
            found = torch.linalg.lstsq(normal, right.unsqueeze(-1)).solution.squeeze(-1)
            leak = leak + (found - leak) / (power - 1)
            error = (targets - design @ leak.mT).abs()
            weight = (error / error.amax(0).clamp_min(1e-300)).clamp_min(1e-6) ** (power - 2)
    most = error.amax(0)
    size = torch.where(error.quantile(0.9, 0) > FULL * most, most, LINEAR * most.clamp_min(1e-12))
    return torch.cat([leak, size.unsqueeze(1)], 1)


def saturates(link: Tensor, ready: Steps) -> bool:
    """Whether any channel has bounds."""
    return bool((link[:, -1] < ready.targets.abs().amax((0, 1, 2)).clamp_min(1e-12) * LINEAR / 2).any())


def link_columns(ready: Steps, link: Tensor) -> Tensor:
    """Derivatives of what is explained by leak and size, (B N, L, C, C (D + 2)), for a Gauss-Newton step."""
    size, gain = link[:, -1], ready.weight.sqrt().clamp_min(1e-12)
    tau = torch.tanh(ready.targets / size)
    seen = averaged(ready)
    linear = torch.cat([torch.ones_like(seen[..., :1]), seen], -1)  # (B, N, L, 1 + D)
    by_leak = linear.unsqueeze(-2) / gain.unsqueeze(-1)
    by_size = tau / gain - ready.targets / size
    each = torch.cat([by_leak, by_size.unsqueeze(-1)], -1)  # (B, N, L, C, D + 2)
    eye = torch.eye(len(link), dtype=link.dtype, device=link.device)
    return torch.einsum("bnlcx,cd->bnlcdx", each, eye).flatten(-2).flatten(0, 1)
