"""Structures that the tasks of a group share: sums over tasks against brute force, long rows against the truth."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from modmeta.graph.bank import Structure, random_structure
from modmeta.model.model import RelationalModel
from modmeta.search import pooled as pooled_module
from modmeta.search.candidates import enumerate_rows, propose_rows
from modmeta.search.infer import infer
from modmeta.search.pooled import PooledProblem, Quadratic, best_rows, in_batches, infer_pooled
from modmeta.search.search import Search
from modmeta.search.selection import gibbs
from tests.conftest import make_model

GROUPS = torch.tensor([1, 0, 1, 2, 0, 2, 1])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def recorded(n: int = 4, tasks: int = 7, frames: int = 11) -> Tensor:
    return torch.randn(tasks, n, frames, 4, generator=seeded(1))


def pooled(model: RelationalModel, states: Tensor, groups: Tensor, mask: Tensor | None = None) -> PooledProblem:
    number = int(groups.max()) + 1
    return PooledProblem(
        model, states.new_zeros(number, states.shape[1], 1, states.shape[-1]), batches=in_batches(states, groups, mask)
    )


@pytest.mark.parametrize("kind", ["additive", "mlp", "continuous"])
@pytest.mark.parametrize("at_once", [1, 2**24])
def test_energies_of_a_group_are_the_sums_over_its_tasks(
    kind: str, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modmeta.search.pooled.AT_ONCE", at_once)
    model, states = make_model(kind), recorded()
    mask = torch.randint(3, (7, 4, 10), generator=seeded(3))
    structure = random_structure(3, 4, 2, 1, seeded())
    candidates = propose_rows(structure, None, 3, True, 2, 1, seeded())
    with torch.no_grad():
        found = pooled(model, states, GROUPS, mask).energies(candidates)
        rows, types = candidates.rows[GROUPS], candidates.types[GROUPS]
        each = model.receiver_energies(states, model.messages(states, mask=mask), rows, types, mask=mask).double()
    expected = torch.stack([each[group == GROUPS].sum(0) for group in range(3)])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-3)


def test_groups_of_one_task_are_inferred_as_tasks_are() -> None:
    model, states = make_model("additive"), recorded()
    search = Search(gibbs)
    one = infer(search, model, None, states, seeded())
    found = infer_pooled(search, pooled(model, states, torch.arange(7)), seeded())
    assert torch.equal(found.structure.edge_modules, one.structure.edge_modules)
    torch.testing.assert_close(found.probabilities, one.probabilities, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found.energies.float(), one.energies, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("likelihood", ["gaussian", "student_t"])
def test_gram_matrices_give_energies_of_rows(likelihood: str) -> None:
    """Differences of Gaussian energies; of Student's t the parabola touches at the structure and lies above."""
    model, states = make_model("additive", likelihood), recorded()
    problem, structure = pooled(model, states, GROUPS), random_structure(3, 4, 2, 1, seeded())
    candidates = enumerate_rows(structure, 2, 1)
    with torch.no_grad():
        square, linear, _ = problem.quadratic(structure, structure.node_modules)
        exact = problem.energies(candidates)
    z = torch.nn.functional.one_hot(candidates.rows[0, 0], 2).double().flatten(1)  # (M, S K)
    by_grams = (torch.einsum("mx,gnxy,my->gnm", z, square, z) - 2 * torch.einsum("gnx,mx->gnm", linear, z)) / 2
    here = candidates.current.unsqueeze(-1)
    rise, bound = exact - exact.gather(-1, here), by_grams - by_grams.gather(-1, here)
    if likelihood == "gaussian":
        torch.testing.assert_close(rise, bound, rtol=1e-3, atol=1e-2)
    else:
        assert (bound >= rise - 1e-2).all()


@pytest.mark.parametrize("kind", ["additive", "mlp"])
def test_long_rows_of_a_group_are_told_by_its_tasks_together(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve tasks of seven steps each; one alone has too few numbers for eleven senders."""
    model, n = make_model(kind, "gaussian"), 12 if kind == "additive" else 7
    with torch.no_grad():
        model.likelihood.log_scales.fill_(-5.0)  # type: ignore[union-attr, operator]
    states, truth = recorded(n, 12, 8), random_structure(1, n, 2, 1, seeded(2))

    def change(seen: Tensor) -> Tensor:
        with torch.no_grad():  # one step ahead of every frame, so that no error adds up
            messages, rows = model.dynamics.messages(seen), truth.edge_modules.expand(len(seen), -1, -1).unsqueeze(2)
            types = truth.node_modules.expand(len(seen), -1).unsqueeze(2)
            return model.dynamics.change(seen[:, :, :-1], messages, rows, types).squeeze(2)

    monkeypatch.setattr(model.dynamics, "targets", change)
    search = Search(gibbs, enumerate_up_to=1, samples=0)
    together = infer_pooled(search, pooled(model, states, torch.zeros(12, dtype=torch.long)), seeded())
    assert torch.equal(together.structure.edge_modules, truth.edge_modules)
    assert (together.probabilities.argmax(-1) == truth.edge_modules).all()
    assert together.gap is not None
    assert (together.gap > 0).all()


def test_draws_begin_at_the_structure_and_follow_the_temperature() -> None:
    model, states, search = make_model("additive"), recorded(), Search(gibbs, enumerate_up_to=1, samples=0)
    problem = pooled(model, states, GROUPS)
    best = infer_pooled(search, problem, seeded())
    cold = infer_pooled(search, problem, seeded(), best.structure, 1e-6, draw=True)
    hot = infer_pooled(search, problem, seeded(), best.structure, 1e9, draw=True)
    assert torch.equal(cold.structure.edge_modules, best.structure.edge_modules)
    assert not torch.equal(hot.structure.edge_modules, best.structure.edge_modules)
    assert isinstance(best.structure, Structure)


def test_every_receiver_goes_on_from_its_cheapest_rows() -> None:
    generator = torch.Generator().manual_seed(0)
    messages, wanted = (torch.randn(2, 3, *size, generator=generator).double() for size in ((8, 20), (20,)))
    columns = messages + 3 * messages[:, :, :1]  # collective
    square, linear = columns @ columns.mT, (columns @ wanted.unsqueeze(-1)).squeeze(-1)
    quadratic = Quadratic(square, linear, wanted.square().sum(-1))
    tried = torch.randint(2, (5, 2, 3, 4), generator=generator)
    prior = torch.tensor([0.1, 2.0]).double()
    best = best_rows(quadratic, tried, prior)
    for g, n in itertools.product(range(2), range(3)):
        sent = columns[g, n].unflatten(0, (4, 2))
        costs = [
            float((wanted[g, n] - sent[torch.arange(4), rows].sum(0)).square().sum() / 2 + prior[rows].sum())
            for rows in tried[:, g, n]
        ]
        assert torch.equal(best[g, n], tried[int(np.argmin(costs)), g, n])


def test_rows_told_cost_no_more_than_the_best_ones_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weak messages, under which draws often lead away from them."""
    generator, n, s, size = seeded(), 8, 11, 0.3
    messages = size * torch.randn(1, n, 2 * s, 40, generator=generator).double()
    columns = messages + size * torch.randn(1, n, 1, 40, generator=generator).double()
    truth = torch.randint(2, (1, n, s), generator=generator)
    sent = columns.unflatten(2, (s, 2)).gather(3, truth[..., None, None].expand(-1, -1, -1, 1, 40)).sum((2, 3))
    wanted = sent + torch.randn(1, n, 40, generator=generator).double()
    quadratic = Quadratic(columns @ columns.mT, (columns @ wanted.unsqueeze(-1)).squeeze(-1), wanted.square().sum(-1))
    problem = SimpleNamespace(
        num_edge_modules=2, quadratic=lambda structure, types: quadratic, prior=torch.zeros(2).double()
    )
    tried: list[tuple[Tensor, Tensor]] = []

    def remembered(quadratic: Quadratic, rows: Tensor, prior: Tensor) -> Tensor:
        tried.append((rows, prior))
        return best_rows(quadratic, rows, prior)

    monkeypatch.setattr(pooled_module, "best_rows", remembered)
    told = pooled_module._by_grams(problem, generator, None, torch.zeros(1, n).long(), 1.0, False)  # type: ignore[arg-type]
    rows, prior = torch.cat([rows for rows, _ in tried]), tried[0][1]
    best = best_rows(quadratic, torch.cat((told.structure.edge_modules[None], rows)), prior)
    assert torch.equal(best, told.structure.edge_modules)
