"""The table of rows run again."""

import pytest

from benchmarks import regress
from benchmarks.runs import Row

OLD = {"commit": "a" * 12, "test/edge_accuracy": 0.99, "test/mse_1": 1.0e-4, "test/mse_10": 1.0e-3}
SPREADS = {"test/edge_accuracy": 0.001, "test/mse_1": 1.0e-5, "test/mse_10": 1.0e-4}


@pytest.mark.parametrize(
    ("changes", "behind"),
    [
        ({}, ""),
        ({"test/edge_accuracy": 0.995, "test/mse_1": 0.0}, ""),
        ({"test/edge_accuracy": 0.9881}, ""),
        ({"test/edge_accuracy": 0.987}, "edge_accuracy"),
        ({"test/mse_1": 1.3e-4, "test/mse_10": 1.3e-3}, "mse_1, mse_10"),
    ],
)
def test_names_what_is_worse_by_more_than_twice_the_spread(monkeypatch, changes, behind):
    monkeypatch.setattr(regress, "before", lambda row, seed: OLD)
    monkeypatch.setattr(regress, "now", lambda row, seed: OLD | {"commit": "b" * 12} | changes)
    line = regress.line(Row("springs5", 500), 0, SPREADS)
    assert line is not None
    assert line.split(" | ")[-1].strip(" |\n") == behind


def test_a_row_that_was_not_run_again_has_no_line(monkeypatch):
    monkeypatch.setattr(regress, "before", lambda row, seed: OLD)
    monkeypatch.setattr(regress, "now", lambda row, seed: None)
    assert regress.line(Row("springs5", 500), 0, SPREADS) is None


def test_every_row_named_is_there_once():
    rows = [(row.name or row.experiment, row.tasks) for row in regress.rows()]
    assert len(set(rows)) == len(rows) == len(regress.NAMES) + 2 * len(regress.TASKS)
