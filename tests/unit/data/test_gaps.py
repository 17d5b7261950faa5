"""Frames that are not seen: which are bridged, and by what."""

from pathlib import Path

import numpy as np
import pytest

from modmeta.data import formats
from modmeta.data.reading import Reading
from modmeta.data.trajectories import Trajectories
from modmeta.data.transforms.gaps import known_steps, masked, steps_seen
from modmeta.errors import DataError
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


@pytest.mark.parametrize("suffix", ["npz", "csv"])
def test_entities_that_a_frame_does_not_show_are_left_out_with_a_note(suffix: str, tmp_path: Path) -> None:
    """A value that is lost beside others is refused, and everything is where that is asked for."""
    states, path = np.random.default_rng(0).normal(size=(3, 4, 9, 2)), tmp_path / f"a.{suffix}"

    def written(lost: np.ndarray) -> Path:
        if suffix == "npz":
            np.savez(path, states=lost)
            return path
        rows = [(task, t, i, *lost[task, i, t]) for task, i, t in np.ndindex(lost.shape[:3])]
        lines = [",".join("" if np.isnan(value) else f"{value:.17g}" for value in row) for row in rows]
        path.write_text("\n".join(["task,frame,entity,x,y", *lines]))
        return path

    lost = states.copy()
    lost[1, 2, 3] = np.nan
    (data,) = formats.load(written(lost)).values()
    assert data.mask is not None
    assert np.argwhere(~data.mask).tolist() == [[1, 2, 3]]
    assert [note for note in data.notes if "0.93% of all states" in note]
    np.testing.assert_allclose(data.states[data.mask], states[data.mask])
    with pytest.raises(DataError, match="missing=mask"):
        formats.load(path, how=Reading(missing="error"))
    lost[0, 0, 0, 1] = np.nan
    with pytest.raises(DataError, match=r"task 0, entity 0, frame 0.*missing=mask"):
        formats.load(written(lost))


def test_a_task_without_any_state_is_named_before_gaps_of_others(tmp_path: Path) -> None:
    states = np.cumsum(np.random.default_rng(0).normal(size=(3, 3, 20, 2)), 2)
    states[2], states[0, 1, 4] = np.nan, np.nan
    np.savez(tmp_path / "a.npz", states=states)
    with pytest.raises(DataError, match="task 2, entity 0, frame 0"):
        formats.load(tmp_path / "a.npz")
