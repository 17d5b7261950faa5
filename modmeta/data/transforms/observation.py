"""What an observer sees of a world: noisy states, or positions alone, whose velocities are estimated."""

from dataclasses import replace

import numpy as np

from modmeta.data.describe import find_positions
from modmeta.data.trajectories import Trajectories


def add_noise(data: Trajectories, share: float, spread: np.ndarray, seed: int) -> Trajectories:
    """Adds white noise to all states.

    Args:
        data: clean.
        share: standard deviation of the noise, as a fraction of each feature's spread.
        spread: standard deviation of every feature, (D,).
        seed: of the noise.
    """
    noise = np.random.default_rng(seed).standard_normal(data.states.shape)
    return replace(data, states=data.states + share * spread * noise)


def estimate_velocities(data: Trajectories, positions: int, observed: int) -> Trajectories:
    """Puts velocities estimated from positions in the place of those given.

    Within the first `observed` frames they are central differences, one-sided at both ends; later frames look back
    only, so that no estimate sees past the frame where a forecast starts.

    Args:
        data: coordinates first, then as many velocities.
        positions: number of coordinates.
        observed: frames that structures are inferred from.
    """
    x, step = data.states[..., :positions], data.frame_step
    v = np.empty_like(x)
    v[:, :, :observed] = np.gradient(x[:, :, :observed], step, axis=2, edge_order=2)
    for t in range(observed, x.shape[2]):
        v[:, :, t] = (3 * x[:, :, t] - 4 * x[:, :, t - 1] + x[:, :, t - 2]) / (2 * step)
    return replace(data, states=np.concatenate((x, v, data.states[..., 2 * positions :]), axis=-1))


def with_room_for_velocities(data: Trajectories, positions: int) -> Trajectories:
    """Trajectories whose coordinates have velocities, zeros where there were none, to be estimated."""
    if find_positions(data) == (positions, True):
        return data
    x, rest = np.split(data.states, [positions], axis=-1)
    names = data.features[:positions]
    features = (*names, *(f"v{name}" for name in names), *data.features[positions:])
    return replace(data, states=np.concatenate((x, np.zeros_like(x), rest), axis=-1), features=features)
