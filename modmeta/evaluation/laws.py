"""Laws that edge modules have learned: pull over distance."""

import numpy as np
import torch
from torch import Tensor

from modmeta.model.dynamics.base import Dynamics

POINTS = 120


@torch.no_grad()
def pull(dynamics: Dynamics, positions: int, distances: Tensor) -> Tensor:
    """Message of every edge module between two entities at rest, (K, points), in usual changes.

    The component towards the sender, positive for attraction: of the change of velocity, or of position where there are
    no velocities. If messages have more channels than states, their norm.

    Args:
        dynamics: trained dynamics.
        positions: number of leading features that are coordinates.
        distances: (points,), in protocol units.
    """
    centre, moved = dynamics.centre, slice(positions, 2 * positions)
    apart = distances.to(centre)
    states = centre.repeat(1, 2, len(apart), 1)  # (1, 2, points, D)
    states[..., moved] = dynamics.resting[moved]
    states[0, 0, :, 0] -= apart / 2
    states[0, 1, :, 0] += apart / 2
    sent = dynamics.pair_law(states)[0, 0, 0]  # (K, points, C)
    d, channels = len(centre), sent.shape[-1]
    first = 0 if channels < d or d < 2 * positions else positions  # continuous dynamics send accelerations alone
    return (sent[..., first] if channels <= d else sent.norm(dim=-1)).cpu()


def laws(dynamics: Dynamics, positions: int, distances: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """`pull` as the change in one frame, for distances between two bounds, all in protocol units.

    Returns:
        Distances (points,), and pulls (K, points).
    """
    apart = torch.from_numpy(np.geomspace(*distances, POINTS)).float()
    scale = dynamics.change_scale[positions if len(dynamics.centre) >= 2 * positions else 0].cpu()
    return apart.numpy(), (pull(dynamics, positions, apart) * scale).numpy()
