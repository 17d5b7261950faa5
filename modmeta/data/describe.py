"""Detects which features of trajectories are coordinates and velocities, and the time between frames."""

from dataclasses import replace

import numpy as np

from modmeta.data.trajectories import Trajectories
from modmeta.errors import DataError

MIN_EXPLAINED = 0.9  # features are velocities if they explain more than this share of the changes of coordinates
SAMPLE = 500  # number of tasks used


def in_order(data: Trajectories) -> Trajectories:
    """Reorders features: coordinates, then their velocities, then the rest. `vx` is the velocity of `x`."""
    names = data.features
    coordinates = [name for name in names if f"v{name}" in names]
    order = [*coordinates, *(f"v{name}" for name in coordinates)]
    order += [name for name in names if name not in order]
    if tuple(order) == names or len(set(names)) < len(names):
        return data
    return replace(data, states=data.states[..., [names.index(name) for name in order]], features=tuple(order))


def check_moving(data: Trajectories, where: str) -> None:
    """Rejects constant trajectories.

    Raises:
        DataError: all states equal those of the first frame.
    """
    if (data.states == data.states[:, :, :1]).all():
        raise DataError(f"{where}: all states are constant; relations show only in changes, so check the features")


def find_positions(data: Trajectories) -> tuple[int, bool]:
    """Number P of leading features that are coordinates, and whether P velocities follow, from names or values."""
    names, d = data.features, data.num_features
    named = next((p for p in range(d // 2, 0, -1) if names[p : 2 * p] == tuple(f"v{name}" for name in names[:p])), 0)
    if named:
        return named, True
    axes = next((p for p in range(min(d, 3), 0, -1) if names[:p] == tuple("xyz"[:p])), 0)
    if d % 2 == 0 and frame_motion(data, d // 2)[1] > MIN_EXPLAINED:
        return d // 2, True
    return axes, False


def frame_motion(data: Trajectories, positions: int) -> tuple[float, float]:
    """Change of a coordinate per frame at velocity 1, and the share of the coordinates' changes that it explains.

    Args:
        data: coordinates first, then their velocities.
        positions: number of coordinates.

    Returns:
        Median ratio of changes to velocities, and a share of at most 1 (from median absolute residuals); 0, 0 if there
        are no velocities or fewer than 3 frames.
    """
    if data.num_frames < 3 or not positions or data.num_features < 2 * positions:
        return 0.0, 0.0
    x, v = data.states[:SAMPLE, :, :, :positions], data.states[:SAMPLE, :, :, positions : 2 * positions]
    moved = x[:, :, 2:] - x[:, :, :-2]
    path = (v[:, :, :-2] + 4 * v[:, :, 1:-1] + v[:, :, 2:]) / 3  # Simpson's rule
    if data.mask is not None:
        seen = data.mask[:SAMPLE]
        whole = seen[:, :, 2:] & seen[:, :, 1:-1] & seen[:, :, :-2]
        moved, path = moved[whole], path[whole]
    if not (path**2).sum() or not (moved**2).sum():
        return 0.0, 0.0
    fast = np.abs(path) > np.median(np.abs(path))
    motion = float(np.median(moved[fast] / path[fast])) if fast.any() else 0.0
    off = np.abs(moved - motion * path)
    return motion, float(1 - np.median(off) / np.median(np.abs(moved))) if np.median(np.abs(moved)) else 0.0
