"""Births of modules where they weigh others, with affine modules, whose true weights are known."""

import torch

from modmeta.compositions import Attend, Chain, ComposedModel, Concatenate, Library
from modmeta.compositions.births import _contexts, renew
from modmeta.compositions.problem import random_slots

COMPOSITION = Attend(["f", "f"], ["score", "score"])


def attention() -> tuple[ComposedModel, torch.Tensor, torch.Tensor]:
    """Three values and three scores, and tasks that they make."""
    torch.manual_seed(0)
    made = ComposedModel({"f": Library(3, layers=0), "score": Library(3, layers=0)}, COMPOSITION)
    x = torch.rand(60, 24, 1) * 2 - 1
    rows = random_slots(60, made.sizes, torch.Generator().manual_seed(3)).edge_modules[:, 0]
    return made, x, made(x, rows).detach()


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


def test_a_module_that_is_needed_stays_where_a_new_one_explains_less() -> None:
    made, x, y = attention()
    y[:4] += torch.sin(20 * x[:4])  # no module explains these
    before = [part.clone() for part in made.parameters()]
    assert renew(made, x, y, 1e-3, torch.Generator().manual_seed(0)) == []
    for part, was in zip(made.parameters(), before, strict=True):
        torch.testing.assert_close(part, was, rtol=0, atol=0)
