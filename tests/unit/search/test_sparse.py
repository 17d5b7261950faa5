"""Which weights of many regressions with one prior are not zero."""

import torch

from modmeta.search.slow import SURE
from modmeta.search.sparse import Regressions, joined, log_odds, shortened
from tests.unit.search.test_slow import _graph, _right


def _regressions(graph: torch.Tensor, steps: int, noise: float = 1e-6, seed: int = 0) -> Regressions:
    """Targets that are sums over senders and twice an own function, (N, M)."""
    generator = torch.Generator().manual_seed(seed)
    n = len(graph)
    columns = torch.randn(n, steps, n + 1, generator=generator, dtype=torch.float64)
    targets = (columns[..., :n] @ graph.double().unsqueeze(-1)).squeeze(-1) + 2 * columns[..., n]
    targets = targets + noise * torch.randn(targets.shape, generator=generator, dtype=torch.float64)
    return Regressions(columns, targets, targets.numel())


def _mutual(n: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    upper = (torch.rand(n, n, generator=generator) < 0.12).double().triu(1)
    return upper + upper.mT


def test_weights_are_found_from_fewer_steps_than_senders() -> None:
    graph = _mutual(30, 1)
    assert _right(log_odds(_regressions(graph, 16)), graph) == 1.0


def test_that_relations_are_mutual_tells_them() -> None:
    """What the steps of both ends say counts for both, where so few of each do not suffice."""
    graph = _mutual(30, 1)
    few = _regressions(graph, 10)
    generator = torch.Generator().manual_seed(2)
    turned = torch.stack([row[torch.randperm(30, generator=generator)] for row in graph])
    turned.fill_diagonal_(0)
    assert _right(log_odds(few), graph) > _right(log_odds(_regressions(turned, 10)), turned) + 0.01


def test_directed_relations_and_noise() -> None:
    graph = _graph(12, 1)
    assert _right(log_odds(_regressions(graph, 60, noise=0.1)), graph) == 1.0


def test_steps_are_shortened_without_loss_and_receivers_joined() -> None:
    graph = _graph(8, 2)
    whole = _regressions(graph, 50, noise=0.3)
    short = shortened(whole)
    assert short.columns.shape == (8, 10, 9)
    assert short.number == whole.number
    parts = [
        Regressions(whole.columns[some], whole.targets[some], whole.targets[some].numel())
        for some in ([0, 1, 2], slice(3, 8))
    ]
    for one in (short, joined(parts)):
        assert log_odds(one).allclose(log_odds(whole), rtol=1e-4, atol=1e-4)


def test_nothing_that_changes_has_no_relations() -> None:
    nothing = _regressions(torch.zeros(4, 4), 20)._replace(targets=torch.zeros(4, 20, dtype=torch.float64))
    assert log_odds(nothing).eq(-SURE).all()
