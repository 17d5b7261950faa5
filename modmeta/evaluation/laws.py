"""What edge modules have learned, read off: how strongly each pulls or pushes over the distance."""

import numpy as np
import torch
from torch import Tensor

from modmeta.model.dynamics.base import Dynamics

POINTS = 120


@torch.no_grad()
def pull(dynamics: Dynamics, positions: int, distances: Tensor) -> Tensor:
    """What every module sends to an entity at rest from another at rest, (K, points), in usual changes.

    The component towards the sender: of the change of velocity, or of place where there are no velocities. It is
    positive where they attract. Where a message is no change of the state, its magnitude.

    Args:
        dynamics: trained.
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
    """`pull` as the change in a frame, over distances between two bounds; all in protocol units.

    Returns:
        Distances (points,), and pulls (K, points).
    """
    apart = torch.from_numpy(np.geomspace(*distances, POINTS)).float()
    scale = dynamics.change_scale[positions if len(dynamics.centre) >= 2 * positions else 0].cpu()
    return apart.numpy(), (pull(dynamics, positions, apart) * scale).numpy()
