"""Observation models: additive noise, and velocities estimated from positions."""

from dataclasses import replace

import numpy as np

from modmeta.data.describe import find_positions
from modmeta.data.trajectories import Trajectories


def add_noise(data: Trajectories, share: float, spread: np.ndarray, seed: int) -> Trajectories:
    """Adds white noise to all states.

    Args:
        data: trajectories without noise.
        share: standard deviation of the noise as a fraction of `spread`.
        spread: standard deviation of every feature, (D,).
        seed: seed of the noise.
    """
    noise = np.random.default_rng(seed).standard_normal(data.states.shape)
    return replace(data, states=data.states + share * spread * noise)


def estimate_velocities(data: Trajectories, positions: int, observed: int) -> Trajectories:
    """Replaces velocities by finite differences of positions.

    The first `observed` frames use central differences, one-sided at both ends. Later frames use backward differences,
    so that no estimate uses frames after the start of a forecast.

    Args:
        data: coordinates first, then their velocities.
        positions: number of coordinates.
        observed: number of frames that structures are inferred from.
    """
    x, step = data.states[..., :positions], data.frame_step
    v = np.empty_like(x)
    v[:, :, :observed] = np.gradient(x[:, :, :observed], step, axis=2, edge_order=2)
    for t in range(observed, x.shape[2]):
        v[:, :, t] = (3 * x[:, :, t] - 4 * x[:, :, t - 1] + x[:, :, t - 2]) / (2 * step)
    return replace(data, states=np.concatenate((x, v, data.states[..., 2 * positions :]), axis=-1))


def with_room_for_velocities(data: Trajectories, positions: int) -> Trajectories:
    """Adds zero velocities after the coordinates, to be estimated later, unless the data has velocities."""
    if find_positions(data) == (positions, True):
        return data
    x, rest = np.split(data.states, [positions], axis=-1)
    names = data.features[:positions]
    features = (*names, *(f"v{name}" for name in names), *data.features[positions:])
    return replace(data, states=np.concatenate((x, np.zeros_like(x), rest), axis=-1), features=features)
