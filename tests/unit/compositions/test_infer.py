"""Structures of new tasks and their probabilities, against naive sums over all structures."""

import pytest
import torch

from modmeta.compositions import ComposedModel, Library, Sum
from modmeta.compositions.infer import infer
from modmeta.compositions.problem import CompositionProblem
from modmeta.search.search import Search
from modmeta.search.selection import gibbs


@pytest.mark.parametrize("most", [9, 0])
def test_probabilities_are_those_of_functions(most: int) -> None:
    """A sum of two modules is the same function both ways; without enumeration, changes of one slot are weighed."""
    torch.manual_seed(1)
    model = ComposedModel({"f": Library(3, hidden=8)}, Sum(["f", "f"]), scale=1.0)
    x, y = torch.randn(2, 5, 6, 1)
    found = infer(CompositionProblem(model, x, y), Search(gibbs, enumerate_up_to=most), 2.0, 0)
    for task in range(5):
        weights = {}
        for a in range(3):
            for b in range(3):
                squares = model.squares(x[task : task + 1], y[task : task + 1], torch.tensor([[a, b]]))
                weights[a, b] = float(torch.exp(-model.energy(squares.detach(), 6) / 2))
        a, b = found.structures[task].tolist()
        assert weights[a, b] == pytest.approx(max(weights.values()), rel=1e-4)
        tried = {pair: part for pair, part in weights.items() if most or a == pair[0] or b == pair[1]}
        total, same = sum(tried.values()), {(a, b), (b, a)} & tried.keys()
        assert float(found.probability[task]) == pytest.approx(sum(tried[pair] for pair in same) / total, rel=1e-3)
        low = [sum(part for pair, part in tried.items() if min(pair) == module) / total for module in range(3)]
        assert found.modules[task, 0].tolist() == pytest.approx(low, rel=1e-3, abs=1e-6)
