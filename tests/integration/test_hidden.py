"""Whole searches for hidden particles, where the law is known exactly."""

import pytest
import torch
from torch import Tensor

from modmeta.graph.relations import from_matrix, to_matrix
from modmeta.hidden.count import count_hidden
from modmeta.hidden.infer import find
from modmeta.hidden.measures import Truth, located, measures, silent_modules
from modmeta.model.model import RelationalModel
from modmeta.search.search import Search
from modmeta.search.selection import greedy
from tests.unit.hidden.test_unseen import known_springs


@pytest.fixture(scope="module")
def springs() -> tuple[RelationalModel, Tensor, Tensor]:
    return known_springs()


def test_hidden_particles_are_found(springs: tuple[RelationalModel, Tensor, Tensor]) -> None:
    """With relations known and unknown; what acts on nobody is said to be lost."""
    model, states, relations = springs
    silent = silent_modules(model, states[:, :4])
    assert silent.tolist() == [True, False]
    truth, search = Truth(states[:, 4:], relations), Search(greedy)
    known = find(model, search, states[:, :4], relations=from_matrix(relations))
    unknown = find(model, search, states[:, :4])
    for found in (known, unknown):
        assert located(found, model, silent).squeeze(1).tolist() == [False, True, True, True]
        error = (found.paths - truth.states).square().flatten(1).mean(1)
        assert error[1:].max() < 2e-6
        assert (found.excess[:, 0] == 0).all()
        assert (found.excess >= 0).all()
    assert torch.equal(known.structure.edge_modules, from_matrix(relations))
    out = measures(unknown, truth, torch.arange(2), silent)
    assert out["visible_accuracy"] == 1
    assert out["to_visible_accuracy"] == 1
    right = to_matrix(unknown.structure.edge_modules)[1:] == relations[1:]
    assert right.all()
    assert set(out["mse_by_relations"]) == {"0", "1", "2", "3"}


@pytest.mark.slow
def test_hidden_particles_are_counted(springs: tuple[RelationalModel, Tensor, Tensor]) -> None:
    model, states, _ = springs
    search = Search(greedy)
    complete = count_hidden(model, search, states)
    assert complete.number.tolist() == [0] * 4
    assert complete.energies[:, 1:].isnan().all()
    assert count_hidden(model, search, states[2:, :4]).number.tolist() == [1, 1]
