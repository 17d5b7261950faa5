"""The reliability page, and what its committed rows say."""

import json
from typing import Any

import pytest

from benchmarks.verdicts import COSTS, PAGE, REFUSED, RESULTS, measure, page, picture
from modmeta.evaluation.verdict import FOUND, NOTHING, UNRESOLVED


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]


def test_the_page_is_that_of_the_rows(rows: list[dict[str, Any]]) -> None:
    assert PAGE.read_text() == page(rows, json.loads(COSTS.read_text()))


def test_nulls_are_not_found(rows: list[dict[str, Any]]) -> None:
    null = [row["trained"]["name"] for row in rows if not row["real"]]
    assert len(null) >= 40
    assert sum(name in (FOUND, UNRESOLVED) for name in null) <= 2


def test_nulls_take_few_of_the_seconds() -> None:
    for row in json.loads(COSTS.read_text())["rows"]:
        assert row["train_nulls_seconds"] <= 0.3 * row["train_seconds"]
        assert row["infer_with_nulls_seconds"] - row["infer_seconds"] <= 0.2 * row["infer_with_nulls_seconds"]


def test_the_picture_has_a_point_for_every_row_with_labels(rows: list[dict[str, Any]]) -> None:
    _, *drawn = picture(rows).axes[0].lines
    assert sum(len(line.get_xdata()) for line in drawn) == sum(
        "right" in row and "model.num_edge_modules=1" not in row["words"] for row in rows
    )


@pytest.mark.slow
@pytest.mark.parametrize(("source", "names"), [("coupled=0.3", (FOUND, UNRESOLVED)), ("coupled=0", (NOTHING,))])
def test_a_row(source: str, names: tuple[str, ...]) -> None:
    row = measure(source, "real", 60, 7)
    assert row["trained"]["name"] in names
    assert abs(row["claimed"] - row["right"]) <= 0.1


@pytest.mark.slow
def test_states_that_grow_without_bound_are_refused() -> None:
    row = measure("coupled=0.5", "real", 60, 0)
    assert row["new"]["name"] == REFUSED
    assert "overflow" in row["message"]
