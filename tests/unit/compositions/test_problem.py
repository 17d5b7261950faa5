"""Compositions as a problem of the search: the kernels of graphs, libraries of different sizes, cold start, births."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from modmeta.compositions import Chain, ComposedModel, Concatenate, Library, SetProposal, Sum
from modmeta.compositions.births import necessity, renew, without
from modmeta.compositions.cold_start import cold_start
from modmeta.compositions.problem import CompositionProblem, enumerates, every_structure, kernel_of, random_slots
from modmeta.errors import UserError
from modmeta.graph.bank import Structure, StructureBank
from modmeta.search.search import Search
from modmeta.search.selection import gibbs, greedy, metropolis
from modmeta.simulators.functions import HiddenFunctions

COLD = torch.tensor(1e-6)


def model() -> ComposedModel:
    """Slots of two types, with libraries of three and two modules, and a head that all tasks share."""
    libraries = {"f": Library(3, hidden=8), "g": Library(2, hidden=8), "head": Library(1, inputs=2, hidden=8)}
    return ComposedModel(libraries, Chain([Concatenate(["f", "g"]), "head"]))


def tasks(made: ComposedModel, number: int = 12) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Examples, values and structures of tasks that the model itself makes."""
    rows = random_slots(number, made.sizes, torch.Generator().manual_seed(3)).edge_modules[:, 0]
    x = torch.randn(number, 10, 1)
    return x, made(x, rows).detach(), rows


@pytest.mark.parametrize(
    ("search", "steps"),
    [
        (Search(greedy), 1),  # all structures
        (Search(greedy, enumerate_up_to=0, samples=2), 30),  # changes of one slot, and samples
        (Search(metropolis, receivers="one", horizon=10, enumerate_up_to=0, samples=1, flips=False), 300),  # published
    ],
)
def test_kernels_of_graphs_find_structures(search: Search, steps: int) -> None:
    made = model()
    x, y, rows = tasks(made)
    problem, generator = CompositionProblem(made, x, y), torch.Generator().manual_seed(0)
    structure, kernel = random_slots(len(x), made.sizes, generator), kernel_of(search, made)
    for _ in range(steps):
        structure, info = kernel(generator, structure, problem, COLD)
    assert structure.edge_modules[:, 0].tolist() == rows.tolist()
    torch.testing.assert_close(info.energies, made.energy(made.squares(x, y, rows), 10), rtol=1e-3, atol=1e-2)


def test_energies_of_candidates_are_those_of_structures_and_exclude_modules_that_do_not_fit() -> None:
    made = model()
    x, y, rows = tasks(made)
    problem = CompositionProblem(made, x, y)
    structure = Structure(rows.unsqueeze(1), torch.zeros(len(x), 1, dtype=torch.long))
    every = every_structure(torch.Generator(), structure, problem)
    assert (every.rows[0, 0][every.current[:, 0]] == rows).all()
    energies = problem.energies(every)[:, 0]
    for number, row in enumerate(made.structures()):
        alone = made.energy(made.squares(x, y, row.expand(len(x), -1)), 10)
        torch.testing.assert_close(energies[:, number], alone, rtol=1e-3, atol=1e-2)
    wrong = every._replace(rows=torch.tensor([0, 2, 0]).expand(len(x), 1, 1, 3))  # g has two modules
    assert (problem.energies(wrong) > 1e8).all()


def test_proposal_gives_modules_that_fit_alone() -> None:
    made = model()
    x, y, _ = tasks(made)
    logits = SetProposal([3, 2, 1])(x, y)
    chance = logits.softmax(-1)
    assert chance.shape == (12, 1, 3, 3)
    assert (chance[:, 0, 1, 2] == 0).all()
    assert (chance[:, 0, 2, 0] == 1).all()
    shuffled = torch.randperm(10)
    torch.testing.assert_close(SetProposal([3])(x, y).shape, torch.Size((12, 1, 1, 3)))
    network = SetProposal([3, 2, 1])
    torch.testing.assert_close(network(x, y), network(x[:, shuffled], y[:, shuffled]))


def test_bank_holds_any_number_of_slots() -> None:
    start = random_slots(6, (20, 20, 20), torch.Generator().manual_seed(0))
    bank = StructureBank(torch.arange(6), start)
    assert torch.equal(bank.get(torch.tensor([1, 4])).edge_modules, start.edge_modules[[1, 4]])
    new = random_slots(2, (20, 20, 20), torch.Generator().manual_seed(1))
    bank.put(torch.tensor([1, 4]), new, torch.zeros(2))
    assert torch.equal(bank.get(torch.tensor([4])).edge_modules, new.edge_modules[1:])


def test_cold_start_finds_sums() -> None:
    x, y, slots = (torch.from_numpy(part) for part in HiddenFunctions("sum", 4, 2, 0.2).draw(60, 20, 0, "train"))
    made = ComposedModel({"f": Library(4)}, Sum(["f", "f"]))
    start = cold_start(made, x, y, 0)
    assert start.unexplained < 1e-3
    pairs = {
        (tuple(a), tuple(b))
        for a, b in zip(start.structures.sort(1).values.tolist(), slots.sort(1).values.tolist(), strict=True)
    }
    assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})  # one name for each, throughout


@pytest.mark.slow
def test_a_module_is_born_where_one_is_missing() -> None:
    x, y, _ = (torch.from_numpy(part) for part in HiddenFunctions("sum", 3, 2, 0.0).draw(60, 32, 0, "train"))
    made = ComposedModel({"f": Library(3)}, Sum(["f", "f"]))
    optimizer = torch.optim.Adam(made.parameters(), lr=1e-2)
    world = HiddenFunctions("sum", 3, 2, 0.0).draw(60, 32, 0, "train")
    for _ in range(400):
        loss = made.squares(x, y, torch.from_numpy(world.slots)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    structures = made.structures()
    squares = made.every(x, y)
    needed = necessity(squares, without(squares, structures, [0, 1], 3), 0.01)
    assert (needed > 10).all()
    with torch.no_grad():
        for part in made.libraries["f"].parameters():
            part[2] = part[1]  # twice the same, and one is gone
    before = int((made.every(x, y).amin(1) < 0.01).sum())
    (replaced,) = renew(made, x, y, 0.01, torch.Generator().manual_seed(0))
    assert replaced.modules.tolist() in ([1], [2])
    assert int((made.every(x, y).amin(1) < 0.01).sum()) > before


def test_enumeration_ends_where_structures_are_too_many() -> None:
    made = ComposedModel({"f": Library(20)}, Sum(["f"] * 3))
    assert made.num_structures == 8000
    assert not enumerates(Search(gibbs), made)
    assert enumerates(Search(gibbs, enumerate_up_to=8000), made)


def test_libraries_that_no_slot_takes_are_named() -> None:
    with pytest.raises(UserError, match=r"model\.libraries\.g is in no slot"):
        ComposedModel({"f": Library(2), "g": Library(2)}, "f")
    with pytest.raises(UserError, match="returns 1 numbers, but y has 2"):
        ComposedModel({"f": Library(2)}, "f", outputs=2)


def test_the_composition_of_the_how_to_runs_and_multiplies() -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "how-to" / "compositions.md").read_text()
    code = re.findall(r"```python\n(.*?)```", page.split("## My own composition")[1], re.DOTALL)[0]
    assert len(code.splitlines()) <= 32
    names: dict[str, Any] = {"__name__": "how_to"}
    exec(compile(code, "how-to", "exec"), names)
    made, x, rows = names["model"], names["x"], names["structure"].edge_modules[:, 0]
    one, other = (made.libraries["f"](x, rows[:, slot]) for slot in range(2))
    torch.testing.assert_close(made(x, rows), one * other)
    squares = made.every(x, names["y"]).amin(1)
    torch.testing.assert_close(names["info"].energies, made.energy(squares, 8))


def test_a_task_alone_has_its_own_candidates() -> None:
    """Rows of one task have the shape of rows that all tasks share."""
    made = ComposedModel({"f": Library(5)}, Sum(["f", "f"]))
    x, y, _ = tasks(made)
    generator, kernel = torch.Generator().manual_seed(0), kernel_of(Search(greedy, enumerate_up_to=0), made)
    start = random_slots(12, made.sizes, generator)
    alone = Structure(*(part[:1] for part in start))
    _, info = kernel(generator, alone, CompositionProblem(made, x[:1], y[:1]), COLD)
    for row, energy in zip(info.candidates.rows[0, 0], info.scores[0, 0], strict=True):
        torch.testing.assert_close(energy, made.energy(made.squares(x[:1], y[:1], row[None])[0].detach(), 10))
