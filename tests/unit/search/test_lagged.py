"""Relations that act on the next frame through a law that may saturate, by draws."""

import pytest
import torch

from modmeta.search import lagged
from modmeta.search.lagged import drawn, left_over
from modmeta.search.slow import fit, foretold, log_odds, moments, scaled


def _recorded(tasks: int, signs: bool = False, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise-driven entities, (B, 8, 40), and their weights (8, 8)."""
    generator = torch.Generator().manual_seed(seed)
    graph = (torch.rand(8, 8, generator=generator) < 0.2).double().fill_diagonal_(0)
    if signs:
        graph *= 2 * (torch.rand(8, 8, generator=generator) < 0.6).double() - 1
    x = torch.randn(tasks, 8, generator=generator, dtype=torch.float64)
    frames = [x]
    for _ in range(39):
        noise = 0.3 * torch.randn(x.shape, generator=generator, dtype=torch.float64)
        x = 0.5 * x + 0.5 * torch.tanh(x @ graph.mT) + noise
        frames.append(x)
    return torch.stack(frames, -1), graph


@pytest.fixture(autouse=True)
def few_sweeps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lagged, "SWEEPS", 30)


@pytest.mark.parametrize("signs", [False, True])
def test_relations_of_either_sign_are_told_with_their_direction(signs: bool) -> None:
    states, graph = _recorded(15, signs)
    off = ~torch.eye(8, dtype=torch.bool)
    found = log_odds(moments(states), "lagged").flatten()
    assert torch.equal(found > 0, graph[off] != 0)
    weights = fit(moments(states), "lagged").weights
    assert torch.equal(weights[graph != 0].sign(), graph[graph != 0])


def test_the_law_is_the_one_that_made_the_steps() -> None:
    states, graph = _recorded(30)
    before, after = moments(states)[1:3]
    law = drawn(before, after)
    assert law.size == pytest.approx(0.5, abs=0.05)
    assert law.variance == pytest.approx(0.09, rel=0.1)
    assert law.own[1] == pytest.approx(0.5, abs=0.05)
    torch.testing.assert_close(law.weights, 0.5 * graph, atol=0.15, rtol=0.0)
    exact = after - 0.5 * before - 0.5 * torch.tanh(before @ graph.mT)
    assert left_over(before, after, law) == pytest.approx(
        float(exact.square().mean() / 0.09 + torch.tensor(0.09).log()) / 2, abs=0.02
    )


def test_relations_foretell_held_out_steps_and_none_are_found_where_none_are() -> None:
    states, _ = _recorded(15)
    train, judge = moments(states[:10]), moments(states[10:])
    (train, _), (judge, _) = scaled(train, train), scaled(judge, train)
    assert foretold(judge, fit(train, "lagged")) < foretold(judge, fit(train, "lagged", relations=False)) - 0.05
    alone = torch.randn(10, 8, 40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert float(log_odds(moments(alone), "lagged").sigmoid().mean()) < 0.05


def test_draws_are_the_same_for_the_same_steps() -> None:
    steps = moments(_recorded(3)[0])
    assert torch.equal(log_odds(steps, "lagged"), log_odds(steps, "lagged"))
