"""Frames that are not seen: which are bridged, and by what."""

import numpy as np

from modmeta.data.trajectories import Trajectories
from modmeta.data.transforms.gaps import known_steps, masked, steps_seen
from modmeta.keys import BRIDGED, OBSERVED, UNKNOWN


def gap_in_turn(states: np.ndarray) -> Trajectories:
    """Frame t lacks entity t mod N."""
    lost = np.array(states)
    for frame in range(states.shape[2]):
        lost[:, frame % states.shape[1], frame] = np.nan
    return masked(Trajectories(lost, None, ("x",), 1.0))


def test_single_frames_of_smooth_paths_are_bridged() -> None:
    """Though no frame shows all entities; at the ends nothing is known."""
    phase = np.arange(5)[:, None] + 0.1 * np.arange(40)
    states = np.sin(phase)[None, ..., None]
    data = gap_in_turn(states)
    np.testing.assert_allclose(data.states[:, :, 5:-5], states[:, :, 5:-5], atol=1e-4)
    known = known_steps(data)
    assert known is not None
    assert known.shape == (1, 5, 39)
    assert (known[0, 0, 4:6] == BRIDGED).all()
    assert (known[0, 0, 6:9] == OBSERVED).all()
    assert known[0, 0, 0] == known[0, 1, 0] == known[0, 1, 1] == UNKNOWN
    assert steps_seen(data.mask).all()


def test_frames_of_walks_are_not() -> None:
    walk = np.random.default_rng(0).normal(size=(1, 5, 40, 1)).cumsum(2)
    known = known_steps(gap_in_turn(walk))
    assert known is not None
    assert set(np.unique(known)) == {UNKNOWN, OBSERVED}
