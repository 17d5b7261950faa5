"""Layouts of relations against plain loops; the bank of structures."""

import itertools

import pytest
import torch

from modmeta.graph.bank import Structure, StructureBank, random_structure
from modmeta.graph.relations import all_rows, from_matrix, reciprocity, senders, to_matrix


@pytest.mark.parametrize("n", [2, 3, 6])
def test_rows_and_matrices_agree_entry_by_entry(n: int) -> None:
    matrix = torch.randint(1, 5, (2, n, n))
    rows = from_matrix(matrix)
    for task, receiver in itertools.product(range(2), range(n)):
        others = [j for j in range(n) if j != receiver]
        assert senders(n)[receiver].tolist() == others
        assert rows[task, receiver].tolist() == [int(matrix[task, receiver, j]) for j in others]
    back = to_matrix(rows)
    assert (back.diagonal(dim1=1, dim2=2) == 0).all()
    off_diagonal = ~torch.eye(n, dtype=torch.bool)
    assert torch.equal(back[:, off_diagonal], matrix[:, off_diagonal])


@pytest.mark.parametrize(("s", "k"), [(1, 2), (3, 2), (2, 4)])
def test_all_rows_counts(s: int, k: int) -> None:
    assert all_rows(s, k).tolist() == [list(row) for row in itertools.product(range(k), repeat=s)]


def test_reciprocity_by_hand() -> None:
    """Three of four pairs agree; five of eight edges hold module 1. The last task has two entities."""
    matrices = torch.tensor([[[0, 1, 0], [1, 0, 1], [0, 0, 0]], [[0, 1, -1], [1, 0, -1], [-1, -1, -1]]])
    assert reciprocity(from_matrix(matrices)) == pytest.approx((3 / 4 - (25 + 9) / 64) / (1 - (25 + 9) / 64))
    assert reciprocity(torch.zeros(2, 3, 2, dtype=torch.int8)) is None
    assert reciprocity(torch.zeros(0, 3, 2, dtype=torch.int8)) is None
    independent = torch.randint(2, (2000, 5, 4), generator=torch.Generator().manual_seed(0))
    assert abs(reciprocity(independent) or 1) < 0.03
    mutual = torch.randint(2, (9, 4, 4), generator=torch.Generator().manual_seed(0)).triu(1)
    assert reciprocity(from_matrix(mutual + mutual.mT)) == 1


def test_bank_keeps_what_it_is_given() -> None:
    generator = torch.Generator().manual_seed(0)
    ids = torch.tensor([1, 3, 5, 7])
    bank = StructureBank(ids, random_structure(4, 3, 5, 2, generator))
    new = Structure(torch.full((2, 3, 2), 4), torch.ones(2, 3, dtype=torch.long))
    untouched = bank.get(torch.tensor([1, 5]))
    bank.put(torch.tensor([7, 3]), new, torch.tensor([0.5, 0.25]))
    assert torch.equal(bank.get(torch.tensor([3])).edge_modules, new.edge_modules[:1])
    assert bank.energies.tolist() == [float("inf"), 0.25, float("inf"), 0.5]
    assert bank.visits.tolist() == [0, 1, 0, 1]
    assert torch.equal(bank.get(torch.tensor([1, 5])).edge_modules, untouched.edge_modules)
    with pytest.raises(KeyError, match="4"):
        bank.get(torch.tensor([4]))


def test_bank_of_other_shards_takes_back_its_own_tasks() -> None:
    generator = torch.Generator().manual_seed(0)
    whole = StructureBank(torch.arange(10), random_structure(10, 4, 2, 1, generator))
    whole.visits += torch.arange(10)
    order = torch.randperm(10)
    shuffled = {name: value[order] for name, value in whole.state_dict().items()}
    mine = torch.arange(1, 10, 3)
    shard = StructureBank(mine, random_structure(3, 4, 2, 1, generator))
    shard.load_state_dict(shuffled)
    assert torch.equal(shard.get(mine).edge_modules, whole.get(mine).edge_modules)
    assert shard.visits.tolist() == mine.tolist()


def test_a_bank_takes_its_tasks_from_any_shards() -> None:
    """Saved by three processes, in their order; taken back by two: every task has its own structure again."""
    structure = Structure(torch.arange(7 * 6).view(7, 3, 2) % 5, torch.arange(7 * 3).view(7, 3) % 3)
    shards = [StructureBank(torch.arange(rank, 7, 3), Structure(*(p[rank::3] for p in structure))) for rank in range(3)]
    for shard in shards:
        shard.put(shard.task_ids, shard.get(shard.task_ids), shard.task_ids.float())
    saved = {name: torch.cat([shard.state_dict()[name] for shard in shards]) for name in shards[0].state_dict()}
    for rank in range(2):
        ids = torch.arange(rank, 9, 2)  # two tasks are new
        bank = StructureBank(ids, Structure(torch.zeros(len(ids), 3, 2), torch.zeros(len(ids), 3)))
        bank.load_state_dict(saved)
        old = ids < 7
        assert torch.equal(bank.get(ids[old]).edge_modules, structure.edge_modules[ids[old]])
        assert torch.equal(bank.get(ids[old]).node_modules, structure.node_modules[ids[old]])
        assert bank.energies[old].tolist() == ids[old].tolist()
        assert bank.visits.tolist() == old.long().tolist()
