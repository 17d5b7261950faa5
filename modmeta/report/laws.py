"""What modules have learned, read off: how strongly each pulls or pushes over the distance."""

import numpy as np
import torch

from modmeta.training.bouncegrad import BounceGrad

POINTS = 120


@torch.no_grad()
def laws(module: BounceGrad, positions: int, distances: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Messages of every module to an entity at rest from another at rest, over their distance.

    Args:
        module: trained.
        positions: how many leading features are coordinates.
        distances: least and greatest, in the model's units.

    Returns:
        Distances (points,), and the change of the receiver's velocity in a frame towards the sender (or of its place,
        where there are no velocities), (K, points), in the model's units: positive where they attract.
    """
    dynamics = module.model.dynamics
    apart = torch.from_numpy(np.geomspace(*distances, POINTS)).float()
    states = dynamics.centre.repeat(1, 2, POINTS, 1)  # (1, 2, points, D)
    states[..., positions : 2 * positions] = dynamics.resting[positions : 2 * positions]
    states[0, 0, :, 0] -= apart / 2
    states[0, 1, :, 0] += apart / 2
    sent = dynamics.pair_law(states)[0, 0, 0]  # (K, points, C)
    d, channels = states.shape[-1], sent.shape[-1]
    first = 0 if channels < d or d < 2 * positions else positions  # continuous dynamics send accelerations alone
    scale = dynamics.change_scale[positions if d >= 2 * positions else 0]
    pull = sent[..., first] if channels <= d else sent.norm(dim=-1)
    return apart.numpy(), (pull * scale).numpy()
