"""The reliability page, and what its committed rows say."""

import json
from typing import Any

import pytest
import torch

from benchmarks.verdicts import COSTS, PAGE, REFUSED, RESULTS, measure, page, picture, scores
from modmeta.evaluation.verdict import FOUND, NOTHING, UNRESOLVED
from modmeta.graph.relations import to_matrix


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]


def test_the_page_is_that_of_the_rows(rows: list[dict[str, Any]]) -> None:
    assert PAGE.read_text() == page(rows, json.loads(COSTS.read_text()))


def test_nulls_are_not_found(rows: list[dict[str, Any]]) -> None:
    null = [row["trained"]["name"] for row in rows if not row["real"]]
    assert len(null) >= 40
    assert sum(name in (FOUND, UNRESOLVED) for name in null) <= 2


@pytest.mark.parametrize("tasks", [1, 7])
def test_types_are_named_by_the_labels_of_other_tasks(tasks: int) -> None:
    """Modules that swap two types between the halves are right in neither; those that swap them everywhere, in all."""
    relations = torch.randint(2, (tasks, 4, 3), generator=torch.Generator().manual_seed(0))
    half = torch.arange(tasks).view(-1, 1, 1) < (tasks + 1) // 2
    for named, right in ((1 - relations, 1.0), (torch.where(half, relations, 1 - relations), float(tasks == 1))):
        chances = torch.nn.functional.one_hot(named, 2) * 0.8 + 0.1
        modules = torch.nn.functional.one_hot(to_matrix(named), 2)
        told = scores(chances, modules, relations)
        assert told["right"] == right
        assert told["calibration_error"] == pytest.approx(abs(right - 0.9))


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
