"""Whatever people's programs write: read right, or one line whose remedy works."""

import argparse
from pathlib import Path

import numpy as np
import pytest

from modmeta.cli.options import add_reading, reading_of
from modmeta.data import formats
from modmeta.data.describe import in_order
from modmeta.data.trajectories import Trajectories
from tests.unit.data.habits import HABITS, NAMES, STATES, Habit


def read(path: Path, options: tuple[str, ...] = ()) -> Trajectories:
    parser = argparse.ArgumentParser()
    add_reading(parser)
    return in_order(formats.load(path, how=reading_of(parser.parse_args(options)))["test"])


@pytest.mark.parametrize("habit", HABITS.values(), ids=HABITS.keys())
def test_what_people_write_is_read(habit: Habit, tmp_path: Path) -> None:
    data = read(habit.make(tmp_path), habit.options)
    expected = STATES[: habit.tasks][..., [NAMES.index(name) for name in habit.features]]
    assert data.states.shape == expected.shape
    order = np.arange(3) if data.entity_names is None else _order(data)
    np.testing.assert_allclose(data.states, expected[:, order], atol=1e-6)
    assert data.frame_step == pytest.approx(habit.step, rel=1e-5)
    assert data.mask is None
    if habit.note:
        assert any(habit.note in note for note in data.notes), data.notes


def _order(data: Trajectories) -> list[int]:
    """Places in `STATES` of the entities, which are sorted by name where they are text."""
    names = [str(name) for name in data.entity_names[0]]  # type: ignore[index]
    known = {"grün": 0, "weiß": 1, "Öl": 2, "é": 0, "日": 1, "ω": 2}
    return [known[name] for name in names] if set(names) <= set(known) else list(range(3))
