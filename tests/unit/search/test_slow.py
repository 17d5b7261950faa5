"""Relations of groups whose frames are far apart."""

import pytest
import torch
from scipy.linalg import expm, solve_continuous_lyapunov

from modmeta.graph.bank import random_structure
from modmeta.graph.relations import to_matrix
from modmeta.search import slow
from modmeta.search.cold_start import Kind, cold_start
from modmeta.search.pooled import PooledProblem, in_batches, infer_pooled
from modmeta.search.search import Search
from modmeta.search.selection import gibbs
from modmeta.search.slow import (
    Fitted,
    Moments,
    fit,
    foretold,
    foretold_at_best,
    joined,
    log_odds,
    moments,
    odds,
    parted,
    scaled,
)
from tests.conftest import make_model


def _graph(n: int, seed: int, share: float = 0.25) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return ((torch.rand(n, n, generator=generator) < share) & ~torch.eye(n, dtype=torch.bool)).double()


def _driven(tasks: int, frames: int, seed: int, step: float = 1.5, n: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """An Ornstein-Uhlenbeck process sampled slowly, by its exact transition: (B, N, T), and the graph (N, N)."""
    graph = _graph(n, seed)
    drift = 0.4 * graph - torch.eye(n)
    generator = torch.Generator().manual_seed(seed + 1)
    rest = torch.from_numpy(solve_continuous_lyapunov(drift.numpy(), -torch.eye(n).double().numpy()))
    move = torch.from_numpy(expm(drift.numpy() * step))
    root, first = (torch.linalg.cholesky(part) for part in (rest - move @ rest @ move.mT, rest))
    x = [torch.randn(tasks, n, generator=generator, dtype=torch.float64) @ first.mT]
    for _ in range(frames - 1):
        x.append(x[-1] @ move.mT + torch.randn(tasks, n, generator=generator, dtype=torch.float64) @ root.mT)
    return torch.stack(x, -1), graph


def _right(log_odds: torch.Tensor, graph: torch.Tensor) -> float:
    off = ~torch.eye(len(graph), dtype=torch.bool)
    return float(((log_odds.flatten() > 0) == (graph[off] > 0)).double().mean())


def test_noise_within_a_frame_tells_relations_with_their_direction(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(slow.ITERATIONS, "diffusion", 80)
    states, graph = _driven(10, 200, 3)
    assert _right(log_odds(moments(states), "diffusion"), graph) == 1.0


def test_the_likelihood_of_the_truth_is_that_of_the_exact_transition() -> None:
    states, graph = _driven(4, 60, 5)
    n, steps = len(graph), moments(states)
    parameters = torch.cat([(0.6 * graph).flatten(), torch.zeros(2 * n + 6, dtype=torch.float64)])
    parameters = torch.cat([parameters, torch.tensor([1.5, 1.5], dtype=torch.float64).log() * torch.tensor([1.0, 0.5])])
    drift = 1.5 * (0.4 * graph - torch.eye(n))
    move = torch.from_numpy(expm(drift.numpy()))
    rest = torch.from_numpy(solve_continuous_lyapunov(drift.numpy(), -1.5 * torch.eye(n).double().numpy()))
    cover = rest - move @ rest @ move.mT
    error = steps.after - steps.before @ move.mT
    alone = torch.distributions.MultivariateNormal(torch.zeros(n).double(), cover).log_prob(error)
    expected = -alone.mean() / n - torch.log(torch.tensor(2 * torch.pi)) / 2
    found = foretold(steps, Fitted(drift, drift, parameters, "diffusion"))
    torch.testing.assert_close(torch.tensor(found), expected.float(), rtol=1e-4, atol=1e-5)


def test_moments_of_parts_add_up_and_steps_that_do_not_count_leave_no_trace() -> None:
    states, _ = _driven(4, 30, 7)
    whole, parts = moments(states), joined(moments(states[:1]), moments(states[1:]))
    torch.testing.assert_close(whole.second, parts.second)
    counts = torch.ones(4, 29)
    counts[2, 10:12] = 0  # the frame between them is missing
    missing = states.clone()
    missing[2, :, 11] = 1e6
    torch.testing.assert_close(moments(states, counts).second, moments(missing, counts).second)


def test_units_have_no_say() -> None:
    states, _ = _driven(4, 30, 7)
    one, other = (scaled(steps, steps)[0] for steps in (moments(states), moments(100 * states - 7)))
    assert isinstance(one, Moments)
    torch.testing.assert_close(one.second, other.second, rtol=1e-8, atol=1e-6)


def test_steps_of_a_law_that_is_not_linear_are_integrated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(slow.ITERATIONS, "path", 40)
    graph, generator = _graph(6, 1), torch.Generator().manual_seed(0)
    x = 1 + torch.rand(20, 6, generator=generator, dtype=torch.float64)
    frames, degree = [x], graph.sum(1).clamp_min(1)
    for _ in range(4):
        for _ in range(100):
            x = x + 0.02 * (-x + ((x / (1 + x)) @ graph.mT) / degree)
        frames.append(x)
    states = torch.stack(frames, -1)
    assert _right(log_odds(moments(states), "path"), graph) == 1.0


def _opinions(tasks: int, rounds: int, n: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """Opinions so many rounds apart, and first ones, which entities hold on to: (B, N, 4, 2), and the graph (N, N)."""
    graph, generator = _graph(n, 1), torch.Generator().manual_seed(0)
    x, held = 2 * torch.rand(2, tasks, n, generator=generator, dtype=torch.float64) - 1
    frames = []
    for step in range(4 * rounds):
        if step % rounds == 0:
            frames.append(torch.stack([x, held], -1))
        x = (x @ graph.mT + held) / (graph.sum(1) + 1)
    return torch.stack(frames, 2), graph


def test_rounds_between_frames_are_counted_and_what_entities_hold_on_to_drives_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(slow.ITERATIONS, "map", 60)
    monkeypatch.setattr(slow, "TIMES", (2, 3))
    states, graph = _opinions(12, 3)
    values, drives = parted(states)
    assert (values.shape, drives.shape) == ((12, 6, 4, 1), (12, 6, 1))
    steps = moments(values[..., 0], None, drives)
    fitted = fit(scaled(steps, steps)[0], "map")
    assert fitted.times == 3
    assert _right(fitted.log_odds, graph) == 1.0


def test_constant_features_drive_entities_of_every_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(slow.ITERATIONS, "map", 60)
    monkeypatch.setattr(slow, "TIMES", (1,))
    states, graph = _opinions(12, 1)
    groups = torch.zeros(12, dtype=torch.long)
    problem = PooledProblem(
        make_model("additive"), states.new_zeros(1, 6, 1, 2), batches=in_batches(states, groups, None)
    )
    assert _right(problem.by_steps("map")[0], graph) == 1.0


def test_errors_of_held_out_steps_count_at_the_size_that_they_have() -> None:
    states, _ = _driven(4, 60, 5)
    steps = moments(states)
    n = steps.before.shape[1]
    parameters = torch.zeros(n * n + 2 * n + 8, dtype=torch.float64)
    parameters[-2:] = torch.tensor([1.5, 1.5]).log() * torch.tensor([1.0, 0.5])
    costs = []
    for louder in (-1.0, 0.0, 1.0):
        fitted = Fitted(states, states, parameters + louder * torch.eye(len(parameters)).double()[-1], "diffusion")
        costs.append((foretold(steps, fitted), foretold_at_best(steps, fitted)))
    assert costs[0][1] == pytest.approx(costs[1][1], abs=1e-6)
    assert costs[2][1] == pytest.approx(costs[1][1], abs=1e-6)
    assert min(cost for cost, _ in costs) > costs[0][1]


@pytest.mark.slow
def test_a_cold_start_takes_the_way_that_foretells_held_out_frames() -> None:
    states, graph = _driven(8, 100, 3)
    groups = torch.zeros(8, dtype=torch.long)
    start = cold_start(states.unsqueeze(-1), Kind(0, (False,)), num_kinds=2, groups=groups, starts=4)
    assert start.slow == "diffusion"
    off = ~torch.eye(len(graph), dtype=torch.bool)
    assert float((start.answer.structures[0].flatten() == graph[off]).double().mean()) == 1.0
    assert start.kinds.laws.shape[0] == 2


def test_without_relations_a_fit_has_none() -> None:
    states, _ = _driven(3, 50, 9)
    steps = scaled(moments(states), moments(states))[0]
    assert fit(steps, "diffusion", relations=False).weights.abs().max() < 1e-3


def test_groups_are_told_by_steps_whatever_modules_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(slow.ITERATIONS, "diffusion", 60)
    (states, graph), (others, other) = _driven(6, 120, 3), _driven(6, 120, 11)
    states = torch.cat([states, others]).unsqueeze(-1).float()[[0, 6, 1, 7, 2, 8, 3, 9, 4, 10, 5, 11]]
    groups = torch.arange(12) % 2
    search = Search(gibbs, slow="diffusion")
    problem = PooledProblem(
        make_model("additive"), states.new_zeros(2, 6, 1, 1), batches=in_batches(states, groups, None)
    )
    with torch.inference_mode():  # as in validation
        found = infer_pooled(search, problem, torch.Generator().manual_seed(0))
    for group, truth in enumerate((graph, other)):
        assert _right(found.structure.edge_modules[group] - 0.5, truth) > 0.9
    assert torch.equal(found.probabilities.argmax(-1), found.structure.edge_modules)
    hot = infer_pooled(search, problem, torch.Generator().manual_seed(0), temperature=10.0)
    assert hot.probabilities.amax(-1).mean() < found.probabilities.amax(-1).mean()
    kept = infer_pooled(search, problem, torch.Generator(), random_structure(2, 6, 2, 1, torch.Generator()), draw=True)
    assert not torch.equal(kept.structure.edge_modules, found.structure.edge_modules)


def test_of_few_steps_relations_back_and_forth_are_alike() -> None:
    states, _ = _driven(1, 80, 3)
    steps = moments(states)
    found = fit(scaled(steps, steps)[0], "diffusion")

    def alike(told: torch.Tensor) -> float:
        matrix = to_matrix(told)
        return float(torch.corrcoef(torch.stack([matrix.flatten(), matrix.mT.flatten()]))[0, 1])

    assert alike(found.log_odds) > alike(odds(found.weights)) + 0.05
