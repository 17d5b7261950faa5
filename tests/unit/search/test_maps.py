"""Relations from steps as maps of free functions."""

import math

import pytest
import torch

from modmeta.model.basis import families
from modmeta.search import halfway, maps
from modmeta.search.cold_start import Kind, cold_start, steepness_of_maps
from modmeta.search.cold_start.data import Data, table_of
from modmeta.search.cold_start.far import better_halfway
from modmeta.search.cold_start.features import MAPPED
from modmeta.search.cold_start.grams import residuals
from tests.unit.search.test_slow import _graph, _right

TURN = 2.0  # radians a frame


def _turning(tasks: int, graph: torch.Tensor, noise: float = 0.05) -> tuple[torch.Tensor, torch.Tensor]:
    """Steps (M, N, 3): a plane turns, senders act by a sine; the third feature is noise of heavy tails."""
    generator = torch.Generator().manual_seed(0)
    size, angle = torch.rand(2, tasks, len(graph), generator=generator, dtype=torch.float64) * 6
    x, y = size * angle.cos(), size * angle.sin()
    cos, sin = math.cos(TURN), math.sin(TURN)
    left = noise * torch.randn(2, tasks, len(graph), generator=generator, dtype=torch.float64)
    rest = torch.randn(2, tasks, len(graph), generator=generator, dtype=torch.float64) ** 3
    x, y, u, v = x, y, cos * x - sin * y + x.sin() @ graph.mT + left[0], sin * x + cos * y + left[1]
    return torch.stack([x, y, rest[0]], -1), torch.stack([u, v, rest[1]], -1)


@pytest.fixture(scope="module")
def steps() -> tuple[torch.Tensor, torch.Tensor]:
    return _turning(120, _graph(8, 1))


def test_functions_are_flat_along_what_foretells_nothing(steps: tuple[torch.Tensor, torch.Tensor]) -> None:
    told = maps.told(*steps)
    assert [one > 0 for one in told.steep] == [True, False, False]
    assert told.steps.left.shape[-1] == 1  # one feature is foretold


def test_what_messages_gain_is_what_noise_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maps, "STEEP", (2.0,))
    graph, noise = _graph(8, 1), 0.5
    before, after = _turning(800, graph, noise)
    variance = torch.stack([(before[..., 0].sin() @ graph.mT).var(0).mean(), torch.tensor(noise**2)])
    gain = 0.5 * math.log(float(variance.sum() / variance[1])) / before.shape[-1]
    assert maps.told(before, after).gain == pytest.approx(gain, rel=0.1)


def test_relations_are_told_where_laws_halfway_see_none(steps: tuple[torch.Tensor, torch.Tensor]) -> None:
    assert _right(halfway.log_odds(halfway.Ends(*steps)), _graph(8, 1)) == 1.0


def test_laws_alone_would_not(steps: tuple[torch.Tensor, torch.Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(halfway, "CLEAR", -math.inf)
    assert _right(halfway.log_odds(halfway.Ends(*steps)), _graph(8, 1)) < 0.9


def test_senders_of_other_tasks_foretell_nothing(steps: tuple[torch.Tensor, torch.Tensor]) -> None:
    before, after = steps
    graph_free = [torch.stack([part[:, i].roll(7 * i, 0) for i in range(8)], 1) for part in (before, after)]
    assert maps.told(*graph_free).gain == 0.0


@pytest.mark.parametrize("number", [2, 6])
def test_few_steps_and_states_that_stay_tell_nothing(number: int) -> None:
    before = torch.randn(number, 5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    after = before + torch.randn(number, 5, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert maps.told(before, after).gain == 0.0
    assert maps.told(before, before).gain == 0.0


def _frames(tasks: int, graph: torch.Tensor, kicks: float = 0.0) -> torch.Tensor:
    """The same plane for ten frames, (B, N, 10, 2); where there are kicks across, it shrinks by half."""
    generator = torch.Generator().manual_seed(0)
    kept, size = (0.5, 1.0) if kicks else (1.0, 3.0)
    cos, sin = kept * math.cos(TURN), kept * math.sin(TURN)
    x, y = size * torch.randn(2, tasks, len(graph), generator=generator, dtype=torch.float64)
    frames = []
    for _ in range(10):
        frames.append(torch.stack([x, y], -1))
        kick = kicks * torch.randn(tasks, len(graph), generator=generator, dtype=torch.float64)
        x, y = cos * x - sin * y + x.sin() @ graph.mT, sin * x + cos * y + kick
    return torch.stack(frames, 2)


def test_laws_of_maps_follow_their_structures() -> None:
    graph, groups, kind = _graph(6, 1), torch.zeros(30, dtype=torch.long), Kind(0, (False,) * 2)
    states, others = _frames(38, graph, 2.0).split([30, 8])
    steep = steepness_of_maps(states, kind)
    assert steep is not None
    start = cold_start(states, kind, groups=groups, smooth=False, constants=False, steep=steep)
    assert (start.form.basis.family, start.slow) == (MAPPED, "halfway")
    assert _right(2.0 * start.answer.structures[0] - 1, graph) == 1.0
    assert not start.kinds.laws[0].any(), "no relation sends nothing"
    table = table_of(Data(others, None, groups[:8]), start.form)
    rows = start.answer.structures[0].repeat(8, 1)
    left = [residuals(table, start.kinds.laws[some], start.kinds.own)[..., 0].std() for some in (rows, 0 * rows)]
    assert float(left[0]) < 0.2 * float(left[1]), "new tasks are foretold by the law of relations"


def test_strangers_are_no_maps() -> None:
    states = _frames(30, _graph(6, 1), 2.0)
    assert steepness_of_maps(states, Kind(0, (False,) * 2)) is not None
    strangers = torch.stack([states[:, i].roll(i, 0) for i in range(6)], 1)
    assert steepness_of_maps(strangers, Kind(0, (False,) * 2)) is None
    assert steepness_of_maps(states, Kind(0, (True, False))) is None, "turns of angles have no slope"


@pytest.mark.slow
def test_a_cold_start_takes_relations_of_maps_where_laws_tell_none() -> None:
    graph, groups, generator = _graph(6, 1), torch.zeros(30, dtype=torch.long), torch.Generator()
    states = _frames(30, graph)
    kind, settings = Kind(0, (False,) * 2), {"num_kinds": 2, "groups": groups, "starts": 1, "constants": False}
    (family,) = [family for family in families(kind, False) if family.name == "rich sender"]
    start = cold_start(states, kind, family=family, **settings)
    assert _right(2.0 * start.answer.structures[0] - 1, graph) in (0.0, 1.0)  # the laws tell all relations
    lost, data = start._replace(kinds=start.kinds._replace(laws=0 * start.kinds.laws)), Data(states, None, groups)
    assert isinstance(halfway.law_of(halfway.ends(states)), maps.Maps)
    assert not better_halfway(start, data, generator)
    assert better_halfway(lost, data, generator)
