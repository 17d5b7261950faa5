"""What features are taken for, from their names and values."""

import numpy as np
import pytest

from modmeta.data.describe import find_positions
from modmeta.data.trajectories import Trajectories

FRAMES = 40


def turning(names: tuple[str, ...], modulo: bool) -> Trajectories:
    """Angles that turn at steady rates, and these rates."""
    rate = np.linspace(0.2, 0.4, 20).reshape(5, 4, 1) + np.zeros(FRAMES)
    phase = np.arange(20.0).reshape(5, 4, 1) + rate * np.arange(FRAMES)
    angle = phase % (2 * np.pi) if modulo else phase
    return Trajectories(np.stack([angle, rate], -1), None, frame_step=1.0, features=names)


@pytest.mark.parametrize("names", [("angle", "speed"), ("theta", "vtheta"), ("x", "vx")])
def test_angles_are_no_coordinates(names: tuple[str, ...]) -> None:
    assert find_positions(turning(names, modulo=False)) == (1, True)
    assert find_positions(turning(names, modulo=True)) == (0, False), "jumps by a turn are no motion"
