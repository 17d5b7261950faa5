"""Laws that are known, in place of edge modules."""

import torch
from torch import Tensor


class KnownLaw(torch.nn.Module):
    """A subclass defines `forward`: pair features (P, F) to outputs of all modules (K, P, A)."""

    widest = 2

    def chosen(self, x: Tensor, group: Tensor) -> Tensor:
        """Pair features (E, P, F) through one module each, (E,), to (E, P, A)."""
        return self(x.flatten(0, 1)).unflatten(1, x.shape[:2])[group, torch.arange(len(group))]
