"""What features are taken for, from their names and values."""

import numpy as np
import pytest

from modmeta.data.describe import Known, find_positions, frame_motion
from modmeta.data.loading.for_model import Options, prepared
from modmeta.data.trajectories import Trajectories
from modmeta.errors import DataError

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


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.1])
def test_noisy_files_of_the_same_process_fit_the_model(noise: float) -> None:
    """Noise neither biases the time between frames nor has single recordings refused; others' times are."""

    def recorded(seed: int, tasks: int = 1, rate: float = 0.1) -> Trajectories:
        rng, time = np.random.default_rng(seed), np.arange(50).reshape(1, 1, -1, 1)
        phase = rng.uniform(0, 6, size=(tasks, 5, 1, 2))
        states = np.concatenate([np.sin(rate * time + phase), np.cos(rate * time + phase)], -1)
        states += noise * rng.normal(size=states.shape)
        return Trajectories(states, None, frame_step=1.0, features=("x", "y", "vx", "vy"))

    train = recorded(0, 40)
    motion, explained = frame_motion(train, 2)
    assert motion == pytest.approx(0.1, rel=0.005)
    assert explained > 0.85
    low, high, centre = train.states.min((0, 1, 2)), train.states.max((0, 1, 2)), train.states.mean((0, 1, 2))
    spread = train.states.std((0, 1, 2))
    known = Known(train.features, 2, False, (5,), 2, None, low, high, centre, spread, motion)
    for seed in range(201, 211):
        prepared(recorded(seed), known, Options(), "file")
        with pytest.raises(DataError, match="time units per frame"):
            prepared(recorded(seed, rate=0.13), known, Options(), "file")


def test_few_changes_over_many_frames_explain_nothing() -> None:
    """Of two of them, what is common left out, any velocity explains all."""
    states = np.random.default_rng(0).normal(size=(1, 2, 17, 2))
    states[..., 0] = states[..., 0].cumsum(2)
    assert frame_motion(Trajectories(states, None, frame_step=1.0, features=("a", "b")), 1)[1] < 0.5
