"""Relations of entities with several features, from regression on what lies halfway between frames."""

import pytest
import torch

from modmeta.errors import UserError
from modmeta.search.cold_start import Kind, cold_start
from modmeta.search.cold_start import start as start_module
from modmeta.search.cold_start.data import Data
from modmeta.search.cold_start.far import better_halfway
from modmeta.search.halfway import Ends, ends, joined, laws_of, log_odds
from modmeta.search.pooled import PooledProblem, in_batches
from tests.unit.search.test_slow import _graph, _right, make_model


def _springs(tasks: int, graph: torch.Tensor) -> torch.Tensor:
    """Springs in the plane, (B, N, 12, 4)."""
    generator = torch.Generator().manual_seed(0)
    place, speed = torch.randn(2, tasks, len(graph), 2, generator=generator, dtype=torch.float64)
    frames = []
    for step in range(12 * 20):
        if step % 20 == 0:
            frames.append(torch.cat([place, speed], -1))
        speed = speed + 0.005 * (graph @ place - graph.sum(1, keepdim=True) * place)
        place = place + 0.005 * speed
    return torch.stack(frames, 2)


def _phases(tasks: int, graph: torch.Tensor) -> torch.Tensor:
    """Phase oscillators of different frequencies, (B, N, 10, 1), unwrapped."""
    generator = torch.Generator().manual_seed(0)
    natural = torch.randn(len(graph), generator=generator, dtype=torch.float64)
    phase = 6 * torch.rand(tasks, len(graph), generator=generator, dtype=torch.float64)
    frames = []
    for step in range(10 * 20):
        if step % 20 == 0:
            frames.append(phase)
        apart = phase.unsqueeze(1) - phase.unsqueeze(2)
        phase = phase + 0.01 * (natural + (graph * apart.sin()).sum(2))
    return torch.stack(frames, -1).unsqueeze(-1)


def test_accelerations_tell_directed_springs() -> None:
    graph = _graph(8, 1)
    assert _right(log_odds(ends(_springs(6, graph))), graph) == 1.0


def test_phases_act_by_the_sine_of_their_difference() -> None:
    graph = _graph(8, 2)
    assert _right(log_odds(ends(_phases(12, graph))), graph) == 1.0


def test_laws_of_second_order_come_first_and_a_single_feature_acts_on_itself() -> None:
    assert [(law.inputs, law.outputs) for law in laws_of(1)[:1]] == [((0,), (0,))]
    assert (laws_of(4)[0].inputs, laws_of(4)[0].outputs) == ((0, 1), (2, 3))


def test_steps_of_parts_are_those_of_the_whole_and_some_do_not_count() -> None:
    states = _springs(4, _graph(5, 1))
    whole, parts = ends(states), joined(ends(states[:1]), ends(states[1:]))
    assert isinstance(whole, Ends)
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other)
    counts = torch.ones(4, 11)
    counts[2, 3] = 0
    assert len(ends(states, counts).before) == len(whole.before) - 1


def test_groups_of_several_features_are_told_a_few_tasks_at_a_time() -> None:
    graph, other = _graph(6, 3), _graph(6, 4)
    states = torch.cat([_springs(6, graph), _springs(6, other)]).float()[[0, 6, 1, 7, 2, 8, 3, 9, 4, 10, 5, 11]]
    groups = torch.arange(12) % 2
    problem = PooledProblem(
        make_model("additive"), states.new_zeros(2, 6, 1, 4), batches=in_batches(states, groups, None)
    )
    told = problem.by_steps("halfway")
    assert _right(told[0], graph) == 1.0
    assert _right(told[1], other) == 1.0
    with pytest.raises(UserError, match=r"search[.]slow=lagged is for states of one feature, not 4; set it to halfway"):
        problem.by_steps("lagged")


def test_a_cold_start_takes_structures_that_foretell_held_out_intervals_better(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, groups, generator = _graph(6, 1), torch.zeros(6, dtype=torch.long), torch.Generator()
    states, off = _springs(6, graph), ~torch.eye(6, dtype=torch.bool)
    settings = {"num_kinds": 2, "groups": groups, "starts": 2}
    start = cold_start(states, Kind(2, (False,) * 4), **settings)
    assert start.slow is None  # the laws tell all relations
    lost = start._replace(kinds=start.kinds._replace(laws=torch.zeros_like(start.kinds.laws)))
    data = Data(states, None, groups)
    assert not better_halfway(start, data, generator)
    assert better_halfway(lost, data, generator)
    monkeypatch.setattr(start_module, "better_halfway", lambda *_: True)
    start = cold_start(states, Kind(2, (False,) * 4), **settings)
    assert (start.slow, start.suggested) == ("halfway", 2)
    assert torch.equal(start.answer.structures[0].flatten(), graph[off].long())
