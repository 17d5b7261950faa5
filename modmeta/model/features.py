"""What an edge module sees of a pair of entities."""

import torch
from torch import Tensor

from modmeta.structure.relations import senders

# Distances are measured in robust scales of the data; below this the logarithm stops telling closeness apart.
CLOSEST = 1e-3


def pair_states(states: Tensor) -> tuple[Tensor, Tensor]:
    """States (B, N, T, D) to those of receiver and sender of every pair, each (B, N, S, T, D)."""
    n = states.shape[1]
    sender = states[:, senders(n, states.device)]  # (B, N, S, T, D)
    return states.unsqueeze(2).expand_as(sender), sender


class AbsoluteFeatures:
    """Both states side by side, as in the paper: 2 D numbers a pair."""

    def size(self, num_features: int) -> int:
        return 2 * num_features

    def __call__(self, receiver: Tensor, sender: Tensor) -> Tensor:
        """(..., D) and (..., D) to (..., 2 D)."""
        return torch.cat((receiver, sender), dim=-1)


class RelativeFeatures:
    """Differences of states, with the distance and its logarithm: D + 2 numbers a pair.

    Laws of interaction rarely depend on where a pair is, and often on how far apart it is. With absolute states the
    assignment of modules can break into regions (module 1 attracts on the left and repels on the right).

    Args:
        positions: how many leading features are coordinates, over which the distance is taken.
    """

    def __init__(self, positions: int) -> None:
        self.positions = positions

    def size(self, num_features: int) -> int:
        return num_features + 2

    def __call__(self, receiver: Tensor, sender: Tensor) -> Tensor:
        """(..., D) and (..., D) to (..., D + 2)."""
        difference = sender - receiver
        distance = difference[..., : self.positions].norm(dim=-1, keepdim=True)
        return torch.cat((difference, distance, distance.clamp_min(CLOSEST).log()), dim=-1)
