"""Small seeded runs end with what they did before (`tests/golden/cases.py`)."""

from pathlib import Path

import pytest

from tests.golden.cases import STORED, digest, trained
from tests.unit.test_golden import REFERENCES, close_to_one


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name in ("slots", "symmetric_types") else ()) for name in STORED],
)
def test_seeded_runs_end_the_same(name: str, tmp_path: Path) -> None:
    close_to_one(digest(trained(name, tmp_path / "run")), REFERENCES[name], name, 1e-2)
