"""Packaged models say, and small seeded runs end with, what they did before (`tests/golden/cases.py`)."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.golden.cases import HERE, STORED, WORLDS, digest, packaged, trained

REFERENCES = json.loads((HERE / "references.json").read_text())


def close(found: Any, expected: Any, where: str, rtol: float) -> None:
    """Fails where nested values differ; labels may in one of a hundred, which rounding may tip."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for key in expected:
            close(found[key], expected[key], f"{where}.{key}", rtol)
    elif isinstance(expected, str):
        assert len(found) == len(expected), where
        assert sum(a != b for a, b in zip(found, expected, strict=True)) <= len(expected) / 100, where
    else:
        assert found == pytest.approx(expected, rel=rtol, abs=rtol), where


@pytest.mark.parametrize("name", WORLDS)
def test_packaged_models_say_the_same(name: str) -> None:
    close(digest(packaged(name)), REFERENCES[f"packaged_{name}"], name, 1e-3)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name in ("slots", "symmetric_types") else ()) for name in STORED],
)
def test_seeded_runs_end_the_same(name: str, tmp_path: Path) -> None:
    close(digest(trained(name, tmp_path / "run")), REFERENCES[name], name, 1e-2)
