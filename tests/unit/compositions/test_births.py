"""Births of modules where they weigh others, with affine modules, whose true weights are known."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch

from modmeta.compositions import Attend, Chain, ComposedModel, Concatenate, Library
from modmeta.compositions.births import _contexts, renew
from modmeta.compositions.problem import random_slots
from modmeta.graph.bank import StructureBank
from modmeta.search.search import Search
from modmeta.search.selection import greedy
from modmeta.search.temperature import Annealed
from modmeta.training.composed import ComposedBounceGrad

COMPOSITION = Attend(["f", "f"], ["score", "score"])


def attention() -> tuple[ComposedModel, torch.Tensor, torch.Tensor]:
    """Three values and three scores, and tasks that they make."""
    torch.manual_seed(0)
    made = ComposedModel({"f": Library(3, layers=0), "score": Library(3, layers=0)}, COMPOSITION)
    x = torch.rand(60, 24, 1) * 2 - 1
    rows = random_slots(60, made.sizes, torch.Generator().manual_seed(3)).edge_modules[:, 0]
    return made, x, made(x, rows).detach()


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer fits than usual."""
    for name, number in {"TASKS": 2, "WEIGHED": 6, "GO_ON": 12, "REFINED": 1, "SHOWN": 12}.items():
        monkeypatch.setattr(f"modmeta.compositions.births.{name}", number)


def every_score_is_good() -> dict[str, torch.Tensor]:
    return {name: torch.ones(3, dtype=torch.bool) for name in ("f", "score")}


def test_contexts_are_those_in_which_a_fresh_module_matters_each_once() -> None:
    made, generator = attention()[0], torch.Generator().manual_seed(0)
    rows, task = _contexts(made, "score", 2, every_score_is_good(), generator)
    fresh = rows[:, 2:] == -1
    assert (fresh.sum(1) == 1).all()  # the same score twice, or for the same value twice, weighs nothing
    assert (rows[:, 0] != rows[:, 1]).all()
    assert len(rows) == 2 * 3 * 2 * 3  # tasks, pairs of values, which of them it weighs, the other's score
    assert len(torch.cat((rows, task.unsqueeze(1)), 1).unique(dim=0)) == len(rows)
    rows, _ = _contexts(made, "f", 5, every_score_is_good(), generator)
    assert ((rows[:, :2] == -1).all(1)).sum() == 5  # a value in both slots is the task's own function
    beside = ComposedModel({"f": Library(3), "head": Library(1, inputs=2)}, Chain([Concatenate(["f", "f"]), "head"]))
    good = {"f": torch.ones(3, dtype=torch.bool), "head": torch.ones(1, dtype=torch.bool)}
    rows, _ = _contexts(beside, "f", 1, good, generator)
    assert sorted(rows[:, :2].tolist()) == [[-1, -1], [-1, 0], [-1, 1], [-1, 2], [0, -1], [1, -1], [2, -1]]


@pytest.mark.usefixtures("few")
def test_a_score_is_born_that_explains_all_tasks() -> None:
    made, x, y = attention()
    with torch.no_grad():
        for part in made.libraries["score"].parameters():
            part[2] = part[1]
    missing = int((made.every(x, y).amin(1) >= 1e-3).sum())
    assert missing > 10
    (replaced,) = renew(made, x, y, 1e-3, torch.Generator().manual_seed(0))
    assert replaced.library == "score"
    assert int((made.every(x, y).amin(1) >= 1e-3).sum()) < missing / 5


@pytest.mark.usefixtures("few")
def test_a_module_that_is_needed_stays_where_a_new_one_explains_less() -> None:
    made, x, y = attention()
    y[:4] += torch.sin(20 * x[:4])  # no module explains these
    before = [part.clone() for part in made.parameters()]
    assert renew(made, x, y, 1e-3, torch.Generator().manual_seed(0)) == []
    for part, was in zip(made.parameters(), before, strict=True):
        torch.testing.assert_close(part, was, rtol=0, atol=0)


def test_after_a_birth_structures_of_all_tasks_are_searched_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modmeta.training.composed.AT_ONCE", 25)
    made, x, y = attention()
    method = ComposedBounceGrad(made, Search(greedy), Annealed(1.0), partial(torch.optim.Adam), searched=12)
    method.bank = StructureBank(torch.arange(60), random_slots(60, made.sizes, torch.Generator()))
    method.generator = torch.Generator()
    method._search_all(SimpleNamespace(x=x, y=y))
    found = method.bank.get(torch.arange(60)).edge_modules[:, 0]
    torch.testing.assert_close(made(x, found), y, atol=1e-2, rtol=1e-2)
