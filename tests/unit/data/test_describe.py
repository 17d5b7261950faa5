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


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_velocities_are_recognised_under_noise(noise: float) -> None:
    """Over more frames, in which coordinates change by more than their noise; trends and walks are not velocities."""
    rng, time = np.random.default_rng(0), np.arange(FRAMES).reshape(1, 1, -1, 1)
    phase = rng.uniform(0, 6, size=(20, 5, 1, 2))
    motion = np.concatenate([np.sin(time / 10 + phase), np.cos(time / 10 + phase)], -1)
    shape = (20, 5, FRAMES, 4)

    def found(states: np.ndarray) -> tuple[int, bool]:
        return find_positions(Trajectories(states, None, frame_step=1.0, features=tuple("abcd")))

    assert found(motion + noise * rng.normal(size=shape)) == (2, True)
    assert found(rng.normal(size=shape).cumsum(2)) == (0, False)
    assert found(time * [0.2, 0.2, 0, 0] + [0, 0, 1, 1] + 0.2 * rng.normal(size=shape)) == (0, False)
