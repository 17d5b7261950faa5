"""The cold start: laws, weights and structures of small worlds made here, against the truth and plain least squares."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.textbook import make
from modmeta.data.describe import looks_like_angles
from modmeta.data.transforms.smoothing import smoothed
from modmeta.graph.relations import from_matrix
from modmeta.model.basis import STEPS, cartesian, families, family_named, own_functions, polar
from modmeta.search.cold_start import (
    Form,
    Kind,
    alone,
    bends_otherwise,
    cold_start,
    differ_otherwise,
    infer,
    judging,
    roles,
)
from modmeta.search.cold_start.certainty import kappa, temperature_of_halves
from modmeta.search.cold_start.cluster import cluster, clusterings
from modmeta.search.cold_start.data import Data, split_sums_of, sums_of, table_of
from modmeta.search.cold_start.features import Family, columns, fit_basis
from modmeta.search.cold_start.grams import Columns, Grams, added, centred, grams, joined, residuals
from modmeta.search.cold_start.judging import problem_of, tried
from modmeta.search.cold_start.knots import knotted
from modmeta.search.cold_start.noise import driven_by_noise, observation_noise, smoothing_width
from modmeta.search.cold_start.refine import Laws, laws_of, refine, solve_own, solve_weights
from modmeta.search.cold_start.saturation import measure_link, saturates
from modmeta.search.cold_start.scales import importance, measure_scales
from modmeta.search.cold_start.structures import Kinds, explain, fit_kinds, from_labels, rounds_of, spread_of, united
from modmeta.search.cold_start.weak_form import measure_units, roughness, steps, unwrap, usual_change, with_circles

PHASE, PLAIN = Kind(0, (True,)), Kind(0, (False,))


def phases(tasks: int, seed: int, frames: int = 30) -> tuple[Tensor, Tensor]:
    """Phase oscillators with frequencies of their own, modulo two pi, and relations (B, N, S)."""
    g = torch.Generator().manual_seed(seed)
    n, dt, small = 4, 0.1, 5
    relations = torch.randint(2, (tasks, n, n), generator=g) * (1 - torch.eye(n, dtype=torch.long))
    x = 6.28 * torch.rand(tasks, n, generator=g, dtype=torch.float64)
    speed = torch.randn(tasks, n, generator=g, dtype=torch.float64)
    path = [x]
    for _ in range(frames - 1):
        for _ in range(small):
            middle = x + dt / small / 2 * rate(x, relations, speed)
            x = x + dt / small * rate(middle, relations, speed)
        path.append(x)
    return torch.stack(path, 2).remainder(2 * torch.pi).unsqueeze(-1), from_matrix(relations)


def rate(x: Tensor, relations: Tensor, speed: Tensor) -> Tensor:
    return speed + (relations * torch.sin(x.unsqueeze(1) - x.unsqueeze(2) + 0.3)).sum(2)


def integrated(tasks: int, law: Callable[[Tensor, Tensor], Tensor], low: float, high: float) -> tuple[Tensor, Tensor]:
    """Four entities (B, N, T, 1) that begin between two values, by their rates, and relations (B, N, S)."""
    g = torch.Generator().manual_seed(0)
    relations = torch.randint(2, (tasks, 4, 4), generator=g) * (1 - torch.eye(4, dtype=torch.long))
    x = low + (high - low) * torch.rand(tasks, 4, generator=g, dtype=torch.float64)
    path = [x]
    for _ in range(29):
        for _ in range(10):
            half = x + 0.005 * law(x, relations)
            x = x + 0.01 * law(half, relations)
        path.append(x)
    return torch.stack(path, 2).unsqueeze(-1), from_matrix(relations)


def right(found: Tensor, truth: Tensor) -> float:
    """Edges right with the better of the two names of two kinds."""
    share = float((found == truth).double().mean())
    return max(share, 1 - share)


@pytest.fixture(scope="module")
def oscillators() -> tuple[Tensor, Tensor]:
    return phases(40, 0)


def test_phases_with_unseen_frequencies_are_found_on_new_tasks(oscillators: tuple[Tensor, Tensor]) -> None:
    states, relations = oscillators
    kind = Kind(0, looks_like_angles(states.numpy()))
    assert kind == PHASE
    start = cold_start(states, kind, num_kinds=2, frame_step=0.1)
    assert right(start.answer.structures, relations) > 0.99
    assert start.form.constants, "frequencies are constants of entities"
    assert start.gain > 2
    new, truth = phases(20, 1)
    answer = infer(start, new)
    assert right(answer.structures, truth) > 0.99
    assert float(answer.certainty.mean()) > 0.95
    again = infer(start, new[:, [2, 0, 3, 1]])  # entities in another order: the same edges
    as_matrix = torch.zeros(20, 4, 4, dtype=torch.long)
    off = ~torch.eye(4, dtype=torch.bool)
    as_matrix[:, off] = answer.structures.flatten(1)
    moved = as_matrix[:, [2, 0, 3, 1]][:, :, [2, 0, 3, 1]]
    torch.testing.assert_close(again.structures.flatten(1), moved[:, off])


def test_frequencies_of_rotation_are_slopes_of_entities() -> None:
    made = make("amplitudes", 24, 0, entities=4, frames=40)
    relations = from_matrix(made.relations)
    start = cold_start(made.states, Kind(0, (False, False)), num_kinds=2, starts=4, search_tasks=10)
    assert start.form.slopes
    assert right(start.answer.structures, relations) > 0.98
    family = start.form.basis.family
    without = cold_start(
        made.states,
        Kind(0, (False, False)),
        num_kinds=2,
        starts=4,
        search_tasks=10,
        family=family,
        slopes=False,
        shapes=False,
    )
    assert right(without.answer.structures, relations) < 0.9, "the world needs them"


def test_cosines_and_sines_of_phases_are_told_as_phases(oscillators: tuple[Tensor, Tensor]) -> None:
    phases, relations = oscillators
    states = torch.cat([phases.cos(), torch.ones_like(phases), phases.sin()], -1).float()
    states[..., 1] = torch.linspace(-1, 1, states.shape[2])
    kind = with_circles(Kind(0, (False,) * 3), states)
    assert kind == Kind(0, (True, False, False), (False, False, True), ((0, 2),))
    assert with_circles(Kind(0, (False,) * 3), states * 1.001) == Kind(0, (False,) * 3)
    kind, plain = Kind(0, (True, False), (False, True), ((0, 1),)), states[..., [0, 2]]
    start = cold_start(plain, kind, num_kinds=2, frame_step=0.1)
    assert right(start.answer.structures, relations) > 0.99
    torch.testing.assert_close(cartesian(polar(plain, kind), kind), plain)


@pytest.mark.slow
def test_a_damping_of_entities_own_is_found() -> None:
    """Van der Pol oscillators, 90% right without; the function is (1 - x^2) y."""
    made = make("dampings", 24, 3, entities=4, frames=40)
    kind, relations = Kind(0, (False, False)), from_matrix(made.relations)
    family = family_named("difference")
    start = cold_start(made.states, kind, num_kinds=2, starts=4, search_tasks=10, family=family)
    assert start.form.shapes is not None
    assert right(start.answer.structures, relations) > 0.98
    without = cold_start(made.states, kind, num_kinds=2, starts=4, search_tasks=10, family=family, shapes=False)
    assert without.form.shapes is None
    assert right(without.answer.structures, relations) < 0.95, "the world needs them"


def conducting(tasks: int) -> tuple[Tensor, Tensor]:
    """Entities that take up what others lose each at a speed of its own, (B, N, T, 1), and relations (B, N, S)."""
    speed = (0.4 * torch.randn(tasks, 4, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)).exp()

    def law(x: Tensor, z: Tensor) -> Tensor:
        return (0.6 * speed * z * (x.unsqueeze(1) - x.unsqueeze(2))).sum(2) - 0.2 * x

    return integrated(tasks, law, -2.0, 2.0)


@pytest.mark.parametrize("differ", [None, False])
def test_strengths_of_edges_may_differ(differ: bool | None) -> None:
    """Where they may not, structures are wrong: the world needs them."""
    states, relations = conducting(40)
    found = cold_start(
        states, PLAIN, num_kinds=2, starts=4, search_tasks=20, family=family_named("difference"), constants=False,
        shapes=False, strengths=differ,
    )  # fmt: skip
    assert found.form.strengths == (differ is None)
    assert (right(found.answer.structures, relations) > 0.95) == (differ is None)


def test_strengths_do_not_stand_in_for_a_kind_that_is_missing() -> None:
    """Three kinds, of no, some and twice that effect; two are told."""
    g = torch.Generator().manual_seed(0)
    relations = torch.randint(3, (40, 4, 4), generator=g)

    def law(x: Tensor, z: Tensor) -> Tensor:
        return (0.4 * relations * (x.unsqueeze(1) - x.unsqueeze(2))).sum(2) - 0.2 * x

    states, _ = integrated(40, law, -2.0, 2.0)
    found = cold_start(
        states, PLAIN, num_kinds=2, starts=4, search_tasks=20, family=family_named("difference"), constants=False,
        shapes=False,
    )  # fmt: skip
    assert not found.form.strengths


def test_strengths_are_told_where_they_are_said_to_differ(oscillators: tuple[Tensor, Tensor]) -> None:
    """However little that explains: here all are alike."""
    states, relations = oscillators
    found = cold_start(
        states, PHASE, num_kinds=2, frame_step=0.1, starts=4, search_tasks=9, family=family_named("difference"),
        strengths=True,
    )  # fmt: skip
    assert found.form.strengths
    assert right(found.answer.structures, relations) > 0.99


def test_number_of_kinds_is_found_from_held_out_frames(oscillators: tuple[Tensor, Tensor]) -> None:
    states, relations = oscillators
    start = cold_start(states, PHASE, frame_step=0.1)
    assert start.suggested == len(start.kinds.laws) == 2
    assert right(start.answer.structures, relations) > 0.99


def bounded_confidence(x: Tensor, z: Tensor) -> Tensor:
    apart = x.unsqueeze(1) - x.unsqueeze(2)
    return (z * apart * torch.exp(-(apart**2))).sum(2)


def contagion(x: Tensor, z: Tensor) -> Tensor:
    return (1 - x) * (0.3 * x + 0.4 * (z * x.unsqueeze(1)).sum(2)) - 0.6 * x


def saturated_sums(x: Tensor, z: Tensor) -> Tensor:
    return 0.2 - x + 0.7 * torch.tanh(2 * (z * torch.sin(3 * x).unsqueeze(1)).sum(2))


def test_fine_functions_finish_what_coarse_ones_begin() -> None:
    states, relations = integrated(40, bounded_confidence, -2.5, 2.5)
    coarse, fine = (
        cold_start(states, PLAIN, num_kinds=2, frame_step=0.1, family=family_named(name), constants=False, starts=4)
        for name in ("rich difference", "fine rich difference")
    )
    assert coarse.form.basis.family.name == "rich difference", "a family that was given stays"
    assert fine.form.basis.family.name == "fine rich difference"
    assert float(fine.gains.mean()) > float(coarse.gains.mean()) + 1
    assert right(fine.answer.structures, relations) > max(0.97, right(coarse.answer.structures, relations))
    assert fine.trials[0].form is fine.form


def test_senders_whose_mean_matters_to_a_receivers_state() -> None:
    """Products with the receiver's state need a constant beside the sender's: 94% without it."""
    states, relations = integrated(40, contagion, 0.0, 0.6)
    start = cold_start(
        states, PLAIN, num_kinds=2, frame_step=0.1, family=family_named("receiver x sender"), constants=False
    )
    assert start.trials[0].without - 2 * float(start.gains.mean()) < -25
    assert right(start.answer.structures, relations) > 0.99


def test_pulls_across_in_three_dimensions_are_found() -> None:
    """Bodies pushed across the line to others and their relative velocity; a mirror turns the push round."""
    g = torch.Generator().manual_seed(0)
    relations = torch.randint(2, (40, 3, 3), generator=g) * (1 - torch.eye(3, dtype=torch.long))
    x, v = torch.randn(2, 40, 3, 3, generator=g, dtype=torch.float64)
    path = [torch.cat([x, v], -1)]
    for _ in range(29):
        for _ in range(10):
            line, other = (part.unsqueeze(1) - part.unsqueeze(2) for part in (x + 0.0025 * v, v))
            push = torch.linalg.cross(line, other) / (1 + line.square().sum(-1, keepdim=True))
            v = v + 0.005 * ((relations.unsqueeze(-1) * push).sum(2) - x)
            x = x + 0.005 * v
        path.append(torch.cat([x, v], -1))
    states, kind = torch.stack(path, 2), Kind(3, (False,) * 6)
    family = family_named("along and across the line")
    assert family in families(kind, False)
    start = cold_start(states, kind, num_kinds=2, family=family, constants=False, starts=4, search_tasks=15)
    assert right(start.answer.structures, from_matrix(relations)) > 0.99
    mirrored = states * torch.tensor([1.0, 1.0, -1.0] * 2)
    assert right(infer(start, mirrored).structures, from_matrix(relations)) < 0.9


def test_wide_laws_are_finished_on_as_many_tasks_as_memory_holds(
    oscillators: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    states, relations = oscillators
    sizes = []

    def counted(columns: Columns) -> Grams:
        if columns.apart:  # sums of messages are small, and of all tasks
            sizes.append(len(columns.target) // 4)
        return grams(columns)

    monkeypatch.setattr("modmeta.search.cold_start.finish.grams", counted)
    monkeypatch.setattr("modmeta.search.cold_start.finish.NUMBERS", 12 * 4 * (3 * 4) ** 2)
    start = cold_start(
        states, PHASE, num_kinds=2, frame_step=0.1, family=family_named("difference"), starts=4, search_tasks=9
    )
    assert max(sizes) == 12
    assert right(start.answer.structures, relations) > 0.99


def test_bounds_of_saturating_rates_are_found_and_the_sums_within() -> None:
    states, relations = integrated(40, saturated_sums, -1.5, 1.5)
    family = family_named("saturating, rich sender")
    units = measure_units(states, PLAIN, 0.1)
    ready = steps(states, PLAIN, units, smooth=True)
    link = measure_link(ready)
    assert saturates(link, ready)
    size, slope = float(link[0, 2] * units.scale), float(link[0, 1])
    assert (size, slope) == (pytest.approx(0.7, rel=0.03), pytest.approx(-1.0, rel=0.03))
    start = cold_start(states, PLAIN, num_kinds=2, frame_step=0.1, family=family, constants=False, starts=4)
    assert right(start.answer.structures, relations) > 0.95, "71% where the sums are not within a saturating function"
    assert start.form.link is not None
    assert float(start.form.link[0, 2] * units.scale) == pytest.approx(0.7, rel=0.02)


def test_rates_without_bounds_do_not_saturate(oscillators: tuple[Tensor, Tensor]) -> None:
    states = unwrap(oscillators[0], (True,))
    ready = steps(states, PHASE, measure_units(states, PHASE, 0.1), smooth=True)
    assert not saturates(measure_link(ready), ready)


def test_collisions_are_no_noise() -> None:
    """One jump in forty steps of a smooth path leaves it smooth; a random walk is not."""
    time = torch.linspace(0, 6, 40, dtype=torch.float64)
    path = torch.sin(time + torch.arange(12).view(4, 3, 1)).unsqueeze(-1)
    path[:, :, 20:] += 0.5
    assert roughness(path, PLAIN) < 0.5
    walk = torch.randn(4, 3, 40, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64).cumsum(2)
    assert roughness(walk, PLAIN) > 1.5


@pytest.mark.parametrize("name", ["springs", "inverse powers", "steep along the line", "along and across the line"])
def test_pairs_that_are_looked_at_once_have_the_features_of_both_ends(name: str) -> None:
    """Undirected pairs beside every receiver with its senders."""
    g, kind = torch.Generator().manual_seed(0), Kind(2, (False,) * 4)
    states = torch.randn(3, 4, 9, 4, generator=g, dtype=torch.float64).cumsum(2)
    ready = steps(states, kind, measure_units(states, kind, 1.0), smooth=True)
    basis = fit_basis(family_named(name), kind, ready)
    once, each = columns(basis, kind, ready), columns(basis, kind, ready, torch.arange(4))
    torch.testing.assert_close(once.pair, each.pair)


def test_large_changes_weigh_less_where_few_are_nearly_all() -> None:
    g, kind = torch.Generator().manual_seed(0), PLAIN
    path = torch.randn(4, 3, 200, 1, generator=g, dtype=torch.float64).cumsum(2)
    assert usual_change(path, kind, measure_units(path, kind, 1.0)) is None
    path[:, :, 100:] += 200.0  # one jump
    units = measure_units(path, kind, 1.0)
    usual = usual_change(path, kind, units)
    assert usual is not None
    ready = steps(path, kind, units._replace(usual=usual), smooth=False)
    assert float(ready.weight[:, :, 99].max()) < 1e-2
    assert float(ready.weight.median()) > 0.8


def test_kappa_is_none_by_chance() -> None:
    g = torch.Generator().manual_seed(0)
    one, other = (torch.rand(40_000, generator=g) < 0.1).long(), (torch.rand(40_000, generator=g) < 0.1).long()
    assert kappa(one, one, 2) == pytest.approx(1.0)
    assert kappa(one, other, 2) == pytest.approx(0.0, abs=0.02)
    assert kappa(torch.zeros_like(one), torch.zeros_like(one), 2) == 0.0, "a single kind says nothing"


def test_noise_of_observation_is_told_from_noise_that_drives() -> None:
    generator = torch.Generator().manual_seed(0)
    kick = torch.randn(100, 5, 60, 1, generator=generator, dtype=torch.float64)
    for memory in (0.5, 1.0):
        walk = kick.clone()
        for t in range(1, 60):
            walk[:, :, t] += memory * walk[:, :, t - 1]
        assert smoothing_width(walk, observation_noise(walk)) == 0
    follows = torch.randint(2, (36, 5, 5), generator=generator).double() * (1 - torch.eye(5, dtype=torch.float64))
    states = [torch.randn(36, 5, 1, generator=generator, dtype=torch.float64)]
    for _ in range(49):  # nearly white: entities are soon pulled to those they follow
        pulled = 0.95 * states[-1] + 0.35 * (follows @ states[-1] - follows.sum(-1, keepdim=True) * states[-1])
        states.append(pulled + 0.3 * torch.randn(36, 5, 1, generator=generator, dtype=torch.float64))
    driven = torch.stack(states, 2)
    assert smoothing_width(driven, observation_noise(driven)) == 0
    alone = driven.clone()
    for entity in range(5):  # the same of strangers is smoothed
        alone[:, entity] = alone[torch.arange(36).roll(entity), entity]
    assert smoothing_width(alone, observation_noise(alone)) > 2
    clean = phases(40, 0)[0]
    clean = unwrap(clean, (True,))
    assert smoothing_width(clean, observation_noise(clean)) == 0
    noisy = clean + 0.05 * torch.randn(clean.shape, generator=generator, dtype=torch.float64)
    found = observation_noise(noisy)
    assert float(found.sqrt()) == pytest.approx(0.05, rel=0.05)
    width = smoothing_width(noisy, found)
    assert width > 2
    assert float((smoothed(noisy, width) - clean).std()) < 0.7 * 0.05


def test_few_windows_that_noise_drives_are_not_taken_for_observed_with_noise() -> None:
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        speed = torch.randn(12, 6, 25, 2, generator=generator, dtype=torch.float64).cumsum(2)
        moving = torch.cat([speed.cumsum(2), speed], -1)
        assert driven_by_noise(moving, Kind(2, (False,) * 4))
        white = torch.randn(12, 6, 25, 4, generator=generator, dtype=torch.float64)
        assert not driven_by_noise(white, Kind(2, (False,) * 4))


def test_laws_of_one_structure_are_judged_by_frames_that_do_not_tell_it() -> None:
    generator = torch.Generator().manual_seed(0)
    follows = torch.tensor([[0, 1, 0], [0, 0, 1], [0, 0, 0]], dtype=torch.float64)
    states = [torch.randn(30, 3, 1, generator=generator, dtype=torch.float64)]
    for _ in range(40):
        states.append(0.5 * states[-1] + 0.4 * follows @ states[-1])
        states[-1] += torch.randn(30, 3, 1, generator=generator, dtype=torch.float64)
    data = Data(torch.stack(states, 2), None, torch.zeros(30, dtype=torch.long), parted=True)
    units = measure_units(data.states, PLAIN, 1.0)
    family = Family("sender", "sender")
    basis = fit_basis(family, PLAIN, steps(data.states, PLAIN, units, smooth=False))
    form = Form(PLAIN, units, False, basis, False, 0.0)
    told, judge = split_sums_of(data, form)
    torch.testing.assert_close(sums_of(data, form).own, told.own)
    torch.testing.assert_close(sums_of(data._replace(parted=False), form).own, told.own + judge.own)
    trial = tried(problem_of(form, data, data), 1e-3, 1, 3, generator)
    problem = problem_of(form, data, data)
    weights = solve_weights(told, trial.laws, 1e-3, trial.mean)[0][0] @ trial.laws.coefficients[0]
    table = table_of(data._replace(parted=False), form)
    both = residuals(table, weights.repeat(30, 1, 1), trial.laws.own[0]), table.target - table.own @ problem.own
    held = torch.arange(40) * 5 // 40
    left, without = (of[:, (held == 1) | (held == 4)].flatten() for of in both)
    gains = (without.square() - left.square()) / (2 * left.square().mean())
    assert trial.gain == pytest.approx(0.5 * float((2 * gains.mean()).log1p()), rel=1e-3)
    assert trial.gain_error == pytest.approx(float(gains.std()) / len(gains) ** 0.5, rel=0.1)
    assert trial.gain > 5 * trial.gain_error


def test_starts_of_wide_laws_are_told_apart_by_a_part_of_the_receivers(
    oscillators: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = Data(unwrap(oscillators[0][:20], (True,)), None, None)
    units = measure_units(data.states, PHASE, 1.0)
    basis = fit_basis(family_named("sender"), PHASE, steps(data.states, PHASE, units, smooth=True))
    problem = problem_of(Form(PHASE, units, True, basis, True, 0.0), data, data)
    seen: list[int] = []

    def counted(sums: Grams, *rest: Any) -> Laws:
        seen.append(len(sums.cross))
        return refine(sums, *rest)

    monkeypatch.setattr(judging, "refine", counted)
    whole = tried(problem, 1e-3, 1, 9, torch.Generator().manual_seed(0))
    monkeypatch.setattr(judging, "WIDE", 1)
    part = tried(problem, 1e-3, 1, 9, torch.Generator().manual_seed(0))
    assert seen == [80, 80, 80, 48, 48, 80]
    assert part.gain == pytest.approx(whole.gain, abs=0.02)
    assert whole.gain > 1


@pytest.mark.parametrize("own", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_oscillators_of_unlike_stiffness_are_read_as_states_and_others_as_bodies(own: bool) -> None:
    """Springs between masses, each of which is held by a spring, whose stiffnesses differ or not."""
    rng, tasks, n = np.random.default_rng(0), 16, 3
    x, v, frames = rng.normal(size=(tasks, n)), rng.normal(size=(tasks, n)), []
    stiff, acts = np.exp(own * rng.normal(size=(tasks, n))), rng.integers(2, size=(tasks, n, n))
    for _ in range(40):
        frames.append(np.stack((x, v), -1))
        for _ in range(20):
            v = v + 0.005 * ((acts * (x[:, None] - x[:, :, None])).sum(-1) - stiff * x)
            x = x + 0.005 * v
    assert differ_otherwise(torch.tensor(np.stack(frames, 2)), 0.1) == own


def test_own_laws_on_a_line_are_looked_for_in_a_part_of_long_recordings(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Size] = []

    def counted(kind: Kind, states: Tensor) -> Tensor:
        seen.append(states.shape)
        return own_functions(kind, states)

    monkeypatch.setattr(alone, "own_functions", counted)
    monkeypatch.setattr(alone, "NUMBERS", 400)
    assert not bends_otherwise(torch.randn(4, 5, 1000, 2, generator=torch.Generator().manual_seed(0)).double())
    assert seen == [(4, 5, 19, 2)]


@pytest.mark.slow
def test_phases_are_found_under_noise_of_observation() -> None:
    """Without smoothing 85% of the edges are right."""
    states, relations = phases(60, 0)
    noise = 0.05 * torch.randn(states.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    start = cold_start((states + noise).remainder(2 * torch.pi), PHASE, num_kinds=2, frame_step=0.1)
    assert start.form.smoothing > 2
    assert right(start.answer.structures, relations) > 0.9


def test_quiet_intervals_weigh_more() -> None:
    """Scales follow activity: residuals of quiet intervals are weighed up."""
    generator = torch.Generator().manual_seed(0)
    activity = torch.randn(200, 30, generator=generator, dtype=torch.float64)
    left = torch.randn(200, 30, 2, generator=generator, dtype=torch.float64) * activity.exp().unsqueeze(-1)
    found = measure_scales(left, torch.ones_like(left), activity, 16)
    quiet, loud = activity < -1, activity > 1
    weights = importance(found, left, activity)
    assert float(weights[quiet].mean() / weights[loud].mean()) > 20
    assert float(weights.mean()) == pytest.approx(1.0)
    plain = measure_scales(left, torch.ones_like(left), activity, 1)
    assert plain.squares.shape == (1,)


def test_units_of_states_and_time_do_not_matter() -> None:
    generator = torch.Generator().manual_seed(3)
    states = torch.randn(6, 3, 12, 1, generator=generator, dtype=torch.float64).cumsum(2)
    tables = []
    for size, shift, step in ((1.0, 0.0, 1.0), (250.0, 40.0, 0.01)):
        other = states * size + shift
        ready = steps(other, PLAIN, measure_units(other, PLAIN, step), smooth=True)
        basis = fit_basis(Family("x", "sender", True, 1), PLAIN, ready)
        table = columns(basis, PLAIN, ready)
        tables.append((table.pair.abs(), table.target * step))  # whitening is free to turn signs
    torch.testing.assert_close(tables[0][0], tables[1][0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(tables[0][1], tables[1][1], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("alike", [True, False])
def test_blocks_of_channels_give_the_sums_of_one_table(alike: bool) -> None:
    """Three channels with features in common and coefficients of their own, beside a table padded with zeros."""
    g = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    e, s, length, c, h = 3, 2, 5, 3, 4
    weight = draw(e, length, 1 if alike else c).square().expand(e, length, c)
    table = Columns(draw(e, s, length, 1, h), draw(e, length, c, 2), draw(e, length, c), weight, apart=True)
    padded = torch.einsum("eslf,cd->eslcdf", table.pair[:, :, :, 0], torch.eye(c).double()).flatten(4)
    padded_table = table._replace(pair=padded, apart=False)
    laws, coefficients, products = draw(2, c * h), draw(e, s, c * h), draw(2, e * s * s)
    torch.testing.assert_close(table.sent(laws), padded @ laws.mT)
    table, padded_table = centred(table, weight), centred(padded_table, weight)
    torch.testing.assert_close(*(residuals(of, coefficients, draw(2) * 0 + 1) for of in (table, padded_table)))
    sums, one = grams(table), grams(padded_table)
    assert len(sums.pairs) == (1 if alike else c)
    naive = torch.einsum("eslcf,etlcg,elc->estfg", padded_table.pair, padded_table.pair, weight)
    torch.testing.assert_close(one.pairs[0], naive)
    for of in (sums, one, joined([sums.select(slice(1)), sums.select(slice(1, None))])):
        torch.testing.assert_close(of.cross, one.cross)
        torch.testing.assert_close(of.through(laws), torch.einsum("estfg,ag->aestf", naive, laws))
        torch.testing.assert_close(of.within(products), torch.einsum("ax,xfg->afg", products, naive.flatten(0, 2)))
        expected = torch.einsum("esf,estfg,etg->e", coefficients, naive, coefficients)
        torch.testing.assert_close(of.squares(coefficients), expected)
        torch.testing.assert_close(of.scaled(expected).squares(coefficients), expected.square())


def test_sums_of_tasks_that_weigh_channels_alike_join_those_that_do_not() -> None:
    g = torch.Generator().manual_seed(0)
    parts = []
    for channels in (1, 2):
        weight = torch.rand(3, 5, channels, generator=g, dtype=torch.float64).expand(3, 5, 2)
        pair, own = torch.randn(2, 3, 2, 5, 1, 2, generator=g, dtype=torch.float64)[0], torch.ones(3, 5, 2, 1).double()
        parts.append(grams(Columns(pair, own, torch.ones(3, 5, 2).double(), weight, apart=True)))
    coefficients = torch.randn(3, 2, 4, generator=g, dtype=torch.float64)
    each = [part.squares(coefficients) for part in parts]
    torch.testing.assert_close(joined(parts).squares(torch.cat([coefficients] * 2)), torch.cat(each))
    torch.testing.assert_close(added(*parts).squares(coefficients), each[0] + each[1])


def test_kinds_given_the_structure_are_plain_least_squares(oscillators: tuple[Tensor, Tensor]) -> None:
    states, relations = oscillators
    table, sums = regression(states)
    labels = torch.nn.functional.one_hot(relations.flatten(0, 1), 2).double()
    kinds = fit_kinds(sums, from_labels(labels), torch.full((2, 2), 0.25, dtype=torch.float64), ridge=0.0)
    by_kind = torch.einsum("eslcf,esk->elckf", table.pair, labels).flatten(3)
    design = torch.cat([by_kind, table.own], -1).flatten(0, 2).numpy()
    solution, *_ = np.linalg.lstsq(design, table.target.flatten().numpy(), rcond=None)
    rest = table.target.flatten().numpy() - design @ solution
    assert float(kinds.variance) == pytest.approx(np.square(rest).mean(), rel=1e-4)
    found = torch.cat([kinds.laws.flatten(), kinds.own]).numpy()
    np.testing.assert_allclose(design @ found, design @ solution, atol=1e-4)


def test_weights_are_plain_least_squares(oscillators: tuple[Tensor, Tensor]) -> None:
    table, sums = regression(oscillators[0])
    f = table.pair.shape[-1]
    right_ = torch.randn(1, 1, f, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    laws = laws_of(torch.ones(1, 1, 1, dtype=torch.float64), right_, solve_own(sums.own.sum(0)))
    weights = solve_weights(sums, laws, 1e-12)[0][0, 7, :, 0]
    sent = (table.pair[7] @ laws.coefficients[0, 0]).flatten(1).T
    target = (table.target[7] - table.own[7] @ laws.own[0]).flatten()
    expected, *_ = np.linalg.lstsq(sent.numpy(), target.numpy(), rcond=None)
    np.testing.assert_allclose(weights.numpy(), expected, rtol=1e-6)


def test_refining_never_loses_and_its_loss_is_what_weights_leave(oscillators: tuple[Tensor, Tensor]) -> None:
    table, sums = regression(oscillators[0])
    draw = torch.randn(6, 1, table.pair.shape[-1], dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    laws = laws_of(torch.ones(6, 1, 1, dtype=torch.float64), draw, solve_own(sums.own.sum(0)))
    short, long = refine(sums, laws, 2, 1e-9), refine(sums, laws, 12, 1e-9)
    assert (long.loss <= short.loss).all()
    assert long.loss.min() < 0.01 * short.loss.max()
    weights = solve_weights(sums, long, 1e-9)[0]
    sent = torch.einsum("eslcf,pesr,prf->pelc", table.pair, weights, long.coefficients)
    left = table.target - sent - torch.einsum("elcg,pg->pelc", table.own, long.own)
    torch.testing.assert_close(left.square().sum((1, 2, 3)), long.loss, rtol=1e-3, atol=1e-6)


def test_long_rows_are_told_slot_by_slot_as_if_enumerated(monkeypatch: pytest.MonkeyPatch) -> None:
    states, relations = phases(12, 5)
    _, sums = regression(states)
    pairs = torch.full((2, 2), 0.25, dtype=torch.float64)
    kinds: Kinds = fit_kinds(sums, from_labels(torch.nn.functional.one_hot(relations.flatten(0, 1), 2).double()), pairs)
    exact = explain(sums, kinds, 12)[0].slots.argmax(-1)
    monkeypatch.setattr("modmeta.search.cold_start.structures.MOST_ROWS", 1)
    approximate = explain(sums, kinds, 12)[0].slots.argmax(-1)
    torch.testing.assert_close(exact, relations.flatten(0, 1))
    assert float((approximate == exact).double().mean()) > 0.9  # mean field gets caught now and then


def mutual(b: int, noise: float) -> tuple[Tensor, Grams]:
    """Mutual relations (b, 3, 2) that let pass what a sender shows, and sums over ten frames with noise of a size."""
    generator = torch.Generator().manual_seed(0)
    n, frames = 3, 10
    upper = torch.randint(2, (b, n, n), generator=generator).triu(1)
    relations = from_matrix(upper + upper.mT)
    pair = torch.randn(b * n, n - 1, frames, 1, 1, generator=generator, dtype=torch.float64)
    target = (pair[..., 0] * relations.flatten(0, 1)[..., None, None]).sum(1)
    target = target + noise * torch.randn(b * n, frames, 1, generator=generator, dtype=torch.float64)
    own = torch.ones(b * n, frames, 1, 1, dtype=torch.float64)
    return relations, grams(Columns(pair, own, target, torch.ones_like(target)))


def test_two_kinds_of_one_law_are_made_one() -> None:
    """Of three kinds two share a law and both ends of a relation; of all ways to merge, theirs costs nothing."""
    relations, sums = mutual(100, 0.1)
    generator = torch.Generator().manual_seed(1)
    halves = from_matrix(torch.randint(2, (100, 3, 3), generator=generator).triu(1) * (1 - torch.eye(3)).long())
    labels = relations * (1 + halves)  # 0; 1 or 2 at random
    beliefs = from_labels(torch.nn.functional.one_hot(labels.flatten(0, 1), 3).double())
    kinds = fit_kinds(sums, beliefs, torch.full((3, 3), 1 / 9, dtype=torch.float64))
    posterior, pairs = explain(sums, kinds, 100)
    found = {}
    for first, other in ((0, 1), (0, 2), (1, 2)):
        merged, both = united(kinds, posterior, pairs, first, other)
        torch.testing.assert_close(both.slots.sum(-1), torch.ones_like(both.slots[..., 0]))
        torch.testing.assert_close(both.slots[..., first], posterior.slots[..., [first, other]].sum(-1))
        torch.testing.assert_close(merged.pairs.sum(), pairs.sum())
        torch.testing.assert_close(merged.pairs, merged.pairs.mT)
        found[first, other] = rounds_of(sums, merged, both, 100)
    assert float(found[1, 2].variance) == pytest.approx(0.01, rel=0.1)
    assert min(float(found[way].variance) for way in ((0, 1), (0, 2))) >= float(found[1, 2].variance) * 0.99
    torch.testing.assert_close(found[1, 2].laws, torch.tensor([[0.0], [1.0]]).double(), atol=0.02, rtol=0)
    beliefs, table = explain(sums, found[1, 2], 100)
    torch.testing.assert_close(beliefs.slots.argmax(-1), relations.flatten(0, 1))
    assert table.diagonal().sum() > 0.95, "what is mutual stays so"


def test_weak_kinds_vary_along_their_own_messages() -> None:
    """Kinds of 1, 0.15 and nothing: only the last varies in messages of the strongest, by a little at least."""
    pair = torch.randn(4, 2, 30, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    none = torch.zeros(4, 30, 1, 1, dtype=torch.float64)
    sums = grams(Columns(pair, none, none[..., 0], torch.ones_like(none[..., 0])))
    spread = torch.tensor([0.09, 0.002, 1e-9], dtype=torch.float64)
    one = torch.ones(1, dtype=torch.float64)
    kinds = Kinds(torch.tensor([[1.0], [0.15], [0.0]], dtype=torch.float64), 0 * one, one[0], torch.eye(3) / 3, spread)
    expected = torch.tensor([[0.3, 0, 0], [0, 0.002**0.5 / 0.15, 0], [0.03, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(spread_of(sums, kinds), expected)


def test_unequal_strengths_are_integrated_out_of_rows() -> None:
    """Against sums over a fine grid of the strengths of two senders."""
    _, sums = mutual(3, 1.0)
    double = {"dtype": torch.float64}
    laws, variance = torch.tensor([[0.1], [1.0]], **double), torch.tensor(0.7, **double)
    spread = torch.tensor([0.005, 0.2], **double)
    kinds = Kinds(laws, torch.zeros(1, **double), variance, torch.full((2, 2), 0.25, **double), spread)
    found, _ = explain(sums, kinds, 3, rounds=0)
    grid = torch.linspace(-6, 6, 121, **double)
    more = torch.cartesian_prod(grid, grid)  # of both senders, normal
    for e in range(len(sums.own)):
        weights, coefficients, chosen = [], [], []
        for row in torch.cartesian_prod(torch.arange(2), torch.arange(2)):
            each = torch.nn.functional.one_hot(row, 2).double().expand(len(more), 2, 2).clone()
            each[..., 1] += more * spread[row].sqrt()  # what is faint has additions of the other kind's law
            sent = (each @ laws).squeeze(-1)  # (grid, S)
            squares = torch.einsum("gs,st,gt->g", sent, sums.pairs[0, e, :, :, 0, 0], sent)
            squares = squares - 2 * sent @ sums.cross[e, :, 0, -1] + sums.own[e, -1, -1]
            weights.append(-squares / (2 * variance) - more.square().sum(-1) / 2)
            coefficients.append(each)
            chosen.append(torch.nn.functional.one_hot(row, 2).double().expand_as(each))
        share = torch.cat(weights).softmax(0)
        each = torch.cat(coefficients)
        torch.testing.assert_close(found.slots[e], torch.einsum("g,gsk->sk", share, torch.cat(chosen)))
        torch.testing.assert_close(found.sent[e], torch.einsum("g,gsk->sk", share, each))
        second = torch.einsum("g,gx,gy->xy", share, each.flatten(1), each.flatten(1))
        torch.testing.assert_close(found.second[e], second)


def test_mutual_relations_share_what_both_ends_say() -> None:
    """Beliefs of one end are unsure; the table of pairs lets the other end speak for it."""
    b = 200
    relations, sums = mutual(b, 1.5)
    laws = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    kinds = Kinds(
        laws, torch.zeros(1, dtype=torch.float64), torch.tensor(2.25, dtype=torch.float64), laws.new_full((2, 2), 0.25)
    )
    alone, _ = explain(sums, kinds, b, rounds=0)
    together, table = explain(sums, kinds, b, rounds=10)
    accuracy = [float((p.slots.argmax(-1) == relations.flatten(0, 1)).double().mean()) for p in (alone, together)]
    assert accuracy[1] > accuracy[0] + 0.03
    assert table.diagonal().sum() > 0.9


def test_clusters_of_weights() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.randint(3, (900,), generator=generator)
    weights = (truth * 2.0 + 0.2 * torch.randn(900, generator=generator)).double().unsqueeze(1)
    found = cluster(weights, 3, generator)
    order = found.centre[:, 0].argsort().argsort()
    assert float((order[found.probability.argmax(-1)] == truth).double().mean()) > 0.99


def test_one_of_several_clusterings_is_right_where_a_peak_is_narrow_and_tails_are_wide() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.randint(3, (900,), generator=generator)
    places, widths = torch.tensor([-1.0, 0.0, 2.0]), torch.tensor([0.2, 0.01, 0.2])
    weights = (places[truth] + widths[truth] * torch.randn(900, generator=generator)).double().unsqueeze(1)
    shares = []
    for found in clusterings(weights, 3, generator):
        order = found.centre[:, 0].argsort().argsort()
        shares.append(float((order[found.probability.argmax(-1)] == truth).double().mean()))
    assert max(shares) > 0.99


def test_unseen_frames_do_not_count() -> None:
    states, _ = phases(6, 2)
    seen = torch.ones(6, 4, 30)
    seen[:, 1, 10:15] = 0
    spoilt = unwrap(states, (True,))
    units = measure_units(spoilt, PHASE, 0.1)
    spoilt = torch.where(seen.unsqueeze(-1) > 0, spoilt, 1e6)
    both = [steps(s, PHASE, units, smooth=True, seen=seen) for s in (unwrap(states, (True,)), spoilt)]
    kept = both[0].seen > 0
    torch.testing.assert_close(both[0].targets[kept], both[1].targets[kept])
    torch.testing.assert_close(both[0].nodes.movedim(2, 3)[kept], both[1].nodes.movedim(2, 3)[kept])
    assert not kept[:, 1, 9:15].any()


def regression(states: Tensor) -> tuple[Columns, Grams]:
    """Columns and sums of phase oscillators, constants taken out."""
    unwrapped = unwrap(states, (True,))
    ready = steps(unwrapped, PHASE, measure_units(unwrapped, PHASE, 0.1), smooth=True)
    table = columns(fit_basis(Family("difference", "difference"), PHASE, ready), PHASE, ready)
    table = centred(table, table.weight)
    return table, grams(table)


@pytest.mark.slow
def test_tasks_of_a_group_tell_its_structure_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """One graph of eight, forty noisy recordings of eleven frames; laws searched from three of the receivers."""
    monkeypatch.setattr("modmeta.search.cold_start.start.MOST_PAIRS", 3 * 49)
    g, n, b = torch.Generator().manual_seed(3), 8, 40
    relations = (torch.rand(n, n, generator=g) < 0.3) * (1 - torch.eye(n, dtype=torch.long))
    x = torch.randn(b, n, generator=g, dtype=torch.float64)
    path = [x]
    for _ in range(10):
        for _ in range(10):
            x = x + 0.02 * (relations * (x.unsqueeze(1) - x.unsqueeze(2))).sum(2)
        path.append(x)
    states = torch.stack(path, 2).unsqueeze(-1)
    states = states + 0.008 * torch.randn(states.shape, generator=g, dtype=torch.float64)
    groups, truth = torch.full((b,), 7), from_matrix(relations[None])
    start = cold_start(states, PLAIN, num_kinds=2, groups=groups, family=Family("difference", "difference"))
    assert start.answer.structures.shape == (1, n, n - 1)
    assert start.answer.constants.shape == (b, n, 1)
    assert right(start.answer.structures, truth) > 0.96
    alone = infer(start, states[:1]).structures
    assert right(alone, truth) < right(start.answer.structures, truth), "a single recording tells less"
    again = infer(start, states[:20], groups=torch.arange(20) % 2)
    assert again.structures.shape == (2, n, n - 1)
    assert right(again.structures, truth.expand(2, -1, -1)) > 0.93


@pytest.mark.slow
def test_rows_too_long_to_enumerate() -> None:
    """Twelve bodies, a tenth of the pairs joined by springs: 2^11 rows a receiver."""
    g, n, b, dt = torch.Generator().manual_seed(0), 12, 12, 0.02
    relations = torch.triu(torch.rand(b, n, n, generator=g) < 0.1, 1).double()
    relations = relations + relations.mT
    x, v = (torch.randn(b, n, 2, generator=g, dtype=torch.float64) for _ in range(2))
    path = []
    for _ in range(40):
        path.append(torch.cat([x, v], -1))
        for _ in range(5):
            v = v + dt * (relations @ x - relations.sum(2, keepdim=True) * x)
            x = x + dt * v
    states, truth = torch.stack(path, 2), from_matrix(relations.long())
    kind, springs = Kind(2, (False,) * 4), Family("springs", "line")
    start = cold_start(states[:8], kind, num_kinds=2, family=springs, constants=False)
    assert right(infer(start, states[8:]).structures, truth[8:]) > 0.99


def suns_and_planets(tasks: int = 8, frames: int = 30, frame: float = 0.2) -> Tensor:
    """A sun, nearly at rest, and four light planets, the last far from all others."""
    g, mass = torch.Generator().manual_seed(0), torch.tensor([1.0, 1e-3, 3e-4, 5e-4, 1e-4], dtype=torch.float64)
    usual = torch.tensor([1.0, 1.7, 3.0, 5.5], dtype=torch.float64)
    radius = (usual * (0.95 + 0.1 * torch.rand(tasks, 4, generator=g).double())).unsqueeze(-1)
    phase = 2 * torch.pi * torch.rand(tasks, 4, generator=g).double()
    bent = 1 + 0.05 * torch.randn(tasks, 4, 1, generator=g).double()
    speed = bent * radius.rsqrt() * torch.stack([-phase.sin(), phase.cos()], -1)
    state = torch.cat([radius * torch.stack([phase.cos(), phase.sin()], -1), speed], -1)
    state = torch.cat([torch.zeros(tasks, 1, 4).double(), state], 1)
    x, v = (state - (mass[:, None] * state).sum(1, keepdim=True) / mass.sum()).split(2, -1)

    def pull(x: Tensor) -> Tensor:
        apart = x.unsqueeze(1) - x.unsqueeze(2)
        cube = (apart.square().sum(-1) + torch.eye(5)) ** 1.5
        return (mass.view(1, 1, 5, 1) * apart / cube.unsqueeze(-1)).sum(2)

    states, step = [torch.cat([x, v], -1)], frame / 10
    for _ in range(frames - 1):
        for _ in range(10):
            v = v + step / 2 * pull(x)
            x = x + step * v
            v = v + step / 2 * pull(x)
        states.append(torch.cat([x, v], -1))
    return torch.stack(states, 2)


def test_a_body_at_rest_that_pulls_is_no_field() -> None:
    start = cold_start(
        suns_and_planets(), Kind(2, (False,) * 4), num_kinds=2, frame_step=0.2, starts=6,
        family=family_named("inverse powers"), constants=False, strengths=False,
    )  # fmt: skip
    pulls = start.answer.structures[:, 1:, 0]
    assert (pulls == pulls[0, 0]).all(), "every planet by the sun"
    assert (start.answer.structures[:, 1:, 1:] != pulls[0, 0]).all(), "and by nobody else"
    assert start.form.free


def test_windows_of_three_frames_hold_out_their_last_step() -> None:
    states, _ = phases(12, 0, frames=3)
    start = cold_start(states, PHASE, num_kinds=2, starts=2, family=Family("difference", "difference"), constants=False)
    assert start.answer.structures.shape == (12, 4, 3)
    assert bool(start.gains.isfinite().all())


@pytest.mark.parametrize("steepness", [1.0, 9.0])
def test_temperature_of_halves_is_how_much_too_steep_likelihoods_are(steepness: float) -> None:
    g = torch.Generator().manual_seed(0)
    truth = torch.randint(2, (4000, 3), generator=g)
    logs = []
    for _ in range(2):  # normal evidence of mean 1 and standard deviation 1: the log odds are twice the number
        seen = (2 * truth - 1) + torch.randn(4000, 3, generator=g, dtype=torch.float64)
        logs.append(steepness * torch.stack([-seen, seen], -1))
    found = temperature_of_halves(lambda t: ((logs[0] / t).softmax(-1), (logs[1] / t).softmax(-1)), 1.0)
    assert found == pytest.approx(steepness, rel=0.1)


@pytest.mark.parametrize(("tasks", "steep"), [(8, False), (90, True)])
def test_own_functions_are_steep_where_data_are_many(tasks: int, steep: bool) -> None:
    kind, states = Kind(0, (False,)), torch.randn(tasks, 3, 20, 1, generator=torch.Generator().manual_seed(0)).double()
    ready = steps(states, kind, measure_units(states, kind, 1.0), smooth=False)
    own = columns(fit_basis(family_named("difference"), kind, ready), kind, ready).own
    assert bool((own[..., -len(STEPS) :] != 0).any()) == steep
    assert bool((own[..., : -len(STEPS)] != 0).any((0, 1, 2)).all())


def pushes(tasks: int, reach: float, old: bool = False) -> tuple[Tensor, Tensor]:
    """Three bodies (B, N, T, 4) some of which push others within a reach, frames being steps, and relations (B, N, S).

    Coordinates move by the new velocities, or by the old ones.
    """
    g = torch.Generator().manual_seed(0)
    relations = torch.randint(2, (tasks, 3, 3), generator=g) * (1 - torch.eye(3, dtype=torch.long))
    x = 3 * torch.rand(tasks, 3, 2, generator=g, dtype=torch.float64) - 1.5
    v = 0.03 * torch.randn(tasks, 3, 2, generator=g, dtype=torch.float64) - 0.03 * x
    path = []
    for _ in range(40):
        path.append(torch.cat([x, v], -1))
        apart = x.unsqueeze(1) - x.unsqueeze(2)
        size = (relations * 0.05 * (1 / apart.norm(dim=-1).clamp_min(1e-9) - 1 / reach)).clamp_min(0)
        pushed = v - (size.unsqueeze(-1) * apart).sum(2)
        x, v = x + (v if old else pushed), pushed
    return torch.stack(path, 2), from_matrix(relations)


@pytest.mark.parametrize("old", [True, False])
def test_coordinates_that_move_by_the_velocities_of_frames_are_told(old: bool) -> None:
    kind = Kind(2, (False,) * 4)
    units = measure_units(pushes(20, 0.8, old)[0].float().double(), kind, 1.0)
    assert units.stepped
    assert units.lag == pytest.approx(-0.5 if old else 0.5, abs=1e-4)
    t = 0.3 * torch.arange(30, dtype=torch.float64)
    circle = torch.stack([t.cos(), t.sin(), -0.3 * t.sin(), 0.3 * t.cos()], -1)
    assert not measure_units(circle.expand(2, 3, -1, -1), kind, 1.0).stepped, "this moves between frames, too"


def test_the_distance_at_which_a_force_ends_is_found() -> None:
    """Functions that end at others leave a hundred times as much."""
    states, relations = pushes(30, 0.8)
    kind, data = Kind(2, (False,) * 4), Data(states, None, None)
    units = measure_units(states, kind, 1.0)
    basis = fit_basis(family_named("fine along the line"), kind, steps(states, kind, units, smooth=False))
    form = Form(kind, units, False, basis, False, 0.0)
    beliefs = from_labels(torch.nn.functional.one_hot(relations, 2).flatten(0, 1).double())
    beliefs.slots[0] = beliefs.slots[0].flip(-1)  # a receiver whose structure is wrong
    ended = knotted(form, data, beliefs)
    assert ended is not None
    found = ended.basis.places[0] * units.scale[0]
    assert float((found - 0.8).abs().min()) < 1e-3
    beliefs = from_labels(torch.nn.functional.one_hot(relations, 2).flatten(0, 1).double())
    flat = torch.full((2, 2), 0.25, dtype=torch.float64)
    left = [fit_kinds(sums_of(data, one), beliefs, flat).variance for one in (form, ended)]
    assert left[1] < left[0] / 1e4
    halves = torch.cat(states.double().split(states.shape[2] // 2, 2)[:2])  # tasks that share structures
    shared = Data(halves, None, torch.arange(len(states)).repeat(2))
    ended = knotted(form, shared, beliefs)
    assert ended is not None
    assert float((ended.basis.places[0] * units.scale[0] - 0.8).abs().min()) < 1e-3


@pytest.mark.slow
def test_forces_that_end_of_steps_are_found() -> None:
    states, relations = pushes(60, 0.8)
    start = cold_start(states, Kind(2, (False,) * 4), num_kinds=2)
    assert (start.form.basis.family.name, start.form.smooth) == ("fine along the line", False)
    met = torch.cdist(*[states[..., :2].transpose(1, 2)] * 2).amin(1) < 0.7
    told = start.answer.structures
    told = told if float(start.kinds.laws[0].norm()) < float(start.kinds.laws[1].norm()) else 1 - told
    assert bool((told == relations)[from_matrix(met)].all())


def test_one_entity_that_acts_on_all_is_no_role_where_it_is_another_in_every_task() -> None:
    g, taken = torch.Generator().manual_seed(0), 0
    for _ in range(300):
        acts = torch.nn.functional.one_hot(torch.randint(4, (60,), generator=g), 4).unsqueeze(1).expand(-1, 4, -1)
        taken += roles(torch.nn.functional.one_hot(from_matrix(acts), 2).double()) is not None
    assert taken / 300 < 0.04, "2 in 100; edge by edge, 7 in 100 would be beyond chance"


def test_entities_with_roles_tell_what_a_task_does_not_show() -> None:
    """Of random structures all pairs have one table."""
    g = torch.Generator().manual_seed(0)
    same = torch.tensor([[0, 1, 0], [1, 1, 0], [0, 0, 0], [1, 0, 1]])
    for labels in (same.expand(40, -1, -1), torch.randint(2, (40, 4, 3), generator=g)):
        slots = torch.nn.functional.one_hot(labels, 2).double()
        slots[torch.rand(40, 4, 3, generator=g) < 0.6] = 0.5
        found = roles(slots)
        if labels[0].equal(same):
            assert found is not None
            assert found.argmax(-1).equal(same)
            assert torch.allclose(found.sum(-1), torch.ones(4, 3).double())
        else:
            assert found is None
