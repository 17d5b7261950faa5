"""Accelerations that a cold start found, beside which modules of continuous time learn."""

import numpy as np
import pytest
import torch

from modmeta.data.units import Units, robust_scales
from modmeta.graph.bank import Structure
from modmeta.graph.relations import from_matrix
from modmeta.keys import OBSERVED
from modmeta.model.basis import FoundLaws, Kind, family_named, own_functions
from modmeta.model.dynamics.acting import Acting
from modmeta.model.dynamics.continuous import ContinuousDynamics, _Weighed
from modmeta.model.features import IsotropicFeatures
from modmeta.model.likelihood import Gaussian
from modmeta.model.model import RelationalModel
from modmeta.search.cold_start import cold_start, infer
from modmeta.search.cold_start.weak_form import measure_units

FLAT = Kind(2, (False,) * 4)
STEP, TRAP = 0.1, 0.4


def springs(tasks: int, seed: int, small: int = 20, field: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """States (B, 4, 30, 4) of bodies in a trap, between some of which are springs, and relations (B, 4, 4).

    Coordinates are moved by velocities that have changed already; with `small` steps a frame. A field of the size given
    pushes each body its own way.
    """
    draw = np.random.default_rng(seed)
    relations = np.triu(draw.integers(0, 2, (tasks, 4, 4)), 1)
    relations = relations + relations.transpose(0, 2, 1)
    x, v = draw.normal(size=(tasks, 4, 2)), 0.3 * draw.normal(size=(tasks, 4, 2))
    push, states = field * np.random.default_rng([seed, 1]).normal(size=x.shape), []
    for _ in range(30):
        states.append(np.concatenate([x, v], -1))
        for _ in range(small):
            pull = push + (relations[..., None] * (x[:, None] - x[:, :, None])).sum(2) - TRAP * x
            v = v + pull * STEP / small
            x = x + v * STEP / small
    return torch.tensor(np.stack(states, 2)), torch.tensor(relations)


def exact(units: Units, rest: float, lag: float) -> FoundLaws:
    """Nothing, and a spring of strength 1; the trap is each body's own."""
    own = torch.zeros(9).double()
    own[0] = -TRAP
    scale, one, zero = torch.ones(4).double(), torch.eye(1).double(), torch.zeros(4).double()
    places = torch.ones(1, family_named("springs").shifts).double()
    return FoundLaws(
        torch.tensor([[0.0], [1.0]]).double(), own, torch.tensor(STEP), torch.tensor(rest),
        torch.tensor(units.offset).double(), torch.tensor(units.scale).double(), zero, scale, places, places, one, one,
        lag=torch.tensor(lag),
    )  # fmt: skip


def test_laws_that_are_exact_foretell_motion_before_any_training() -> None:
    physical, relations = springs(3, 0)
    units = Units.of_range(physical.numpy().min((0, 1, 2)), physical.numpy().max((0, 1, 2)), 2)
    states = units.normalised(physical.numpy())
    dynamics = ContinuousDynamics(4, 2, IsotropicFeatures(2), family="springs")
    dynamics.set_scales(robust_scales(states, 2, units, STEP))
    dynamics.begin(exact(units, 1e-6, 0.5 / 20))
    structure = Structure(from_matrix(relations), torch.zeros(3, 4, dtype=torch.long))
    with torch.no_grad():
        error = RelationalModel(dynamics, Gaussian(4)).errors(states, structure)
        assert float(error.abs().max()) < 2e-3 * float(dynamics.targets(states).abs().max())
        ahead = dynamics.rollout(states[:, :, :1], *structure, 10).squeeze(2)
    torch.testing.assert_close(ahead, states[:, :, 1:11], atol=2e-3, rtol=0)


@pytest.mark.parametrize("masked", [False, True])
def test_constant_accelerations_are_left_out_of_errors_and_carried_on(masked: bool) -> None:
    physical, relations = springs(3, 0, field=0.5)
    units = Units.of_range(physical.numpy().min((0, 1, 2)), physical.numpy().max((0, 1, 2)), 2)
    states, structure = units.normalised(physical.numpy()), Structure(from_matrix(relations), torch.zeros(3, 4).long())
    mask = OBSERVED * (torch.arange(29) % 3 > 0).expand(3, 4, 29) if masked else None
    errors, ahead = {}, {}
    for constants in (False, True):
        dynamics = ContinuousDynamics(4, 2, IsotropicFeatures(2), family="springs", constants=constants)
        dynamics.set_scales(robust_scales(states, 2, units, STEP))
        dynamics.begin(exact(units, 1e-6, 0.5 / 20))
        model = RelationalModel(dynamics, Gaussian(4))
        with torch.no_grad():
            of_steps = model.errors(states, structure, mask)
            errors[constants] = (of_steps if mask is None else of_steps[mask > 0]).abs().mean()
            drive = model.drive(states, structure, mask)
            ahead[constants] = dynamics.rollout(states[:, :, :1], *structure, 10, drive=drive).squeeze(2)
    assert drive is not None
    assert float(errors[True]) < 5e-3 * float(errors[False])
    torch.testing.assert_close(ahead[True], states[:, :, 1:11], atol=2e-3, rtol=0)
    assert float((ahead[False] - states[:, :, 1:11]).abs().max()) > 0.05
    paths = dynamics.disturbed(states[:, :, 0], *structure, 10, lambda tasks, frames, now: now, drive)
    torch.testing.assert_close(paths, ahead[True], atol=1e-5, rtol=0)


def test_constant_accelerations_are_found() -> None:
    states, relations = springs(40, 2, field=0.5)
    start = cold_start(states[:30], FLAT, num_kinds=2, frame_step=STEP, family=family_named("springs"), starts=2)
    found, true = infer(start, states[30:]).structures, from_matrix(relations[30:])
    assert start.form.constants
    assert float((found == true).double().mean()) in (0.0, 1.0), "all are right, by either name"


@pytest.mark.parametrize(("small", "lag"), [(1, 0.5), (20, 0.025)])
def test_lag_of_velocities(small: int, lag: float) -> None:
    assert measure_units(springs(10, 1, small)[0], FLAT, STEP).lag == pytest.approx(lag, abs=0.02)


def test_laws_of_simulators_whose_velocities_lag() -> None:
    states, relations = springs(40, 2, small=1)
    start = cold_start(states[:30], FLAT, num_kinds=2, frame_step=STEP, family=family_named("springs"), starts=2)
    found, true = infer(start, states[30:]).structures, from_matrix(relations[30:])
    assert float((found == true).double().mean()) in (0.0, 1.0), "all are right, by either name"
    assert start.gain > 3
    assert not start.form.constants


@pytest.mark.parametrize(("family", "g", "null"), [("springs", 1, False), ("along and across the line", 2, True)])
def test_only_the_law_of_an_edge_need_be_evaluated(family: str, g: int, null: bool) -> None:
    """Also where the two edges of a pair differ, and a perceptron has learned something beside the law."""
    torch.manual_seed(0)
    dynamics = ContinuousDynamics(
        4, 2, IsotropicFeatures(2), num_node_modules=g, hidden=8, null_module=null, family=family
    )
    assert dynamics.found is not None
    for part in (dynamics.edge_modules.layers[-1].weight, dynamics.found.edges):
        torch.nn.init.normal_(part)  # type: ignore[arg-type]
    states, relations = torch.randn(20, 5, 4), torch.randint(2, (20, 5, 4))
    types, some = torch.randint(g, (20, 5)), torch.tensor([3, 17])
    with torch.no_grad():
        alone, every = (of(dynamics, relations, types).of(some).received(states[some]) for of in (Acting, _Weighed))
        torch.testing.assert_close(alone, every)
    assert every.abs().mean() > 0.1


def test_an_entity_on_a_line_may_do_what_is_not_alike_at_both_ends() -> None:
    """The oscillators of van der Pol and of Duffing, pushed, in units whose origin is elsewhere."""
    states = 0.7 * torch.randn(200, 2, generator=torch.Generator().manual_seed(0)).double() + 0.3
    x, v = (0.5 * states - 0.2).unbind(-1)
    functions = own_functions(Kind(1, (False, False)), states)[:, 0]
    for change in ((1 - x**2) * v - x + 0.3, x - x**3 - 0.1 * v + 0.2 * x**2):
        left = change - functions @ torch.linalg.lstsq(functions, change.unsqueeze(-1), driver="gelsd").solution[:, 0]
        assert float(left.abs().max()) < 1e-9
