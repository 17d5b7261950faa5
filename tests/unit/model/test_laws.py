"""Dynamics of laws: the same regression as the cold start, exact forecasts, constants of entities."""

import math

import pytest
import torch
from torch import Tensor

from modmeta.graph.bank import Structure
from modmeta.keys import OBSERVED
from modmeta.model.basis import Family, FoundLaws, Kind, family_named
from modmeta.model.dynamics.base import summed
from modmeta.model.dynamics.laws import LawDynamics
from modmeta.model.features import AbsoluteFeatures
from modmeta.model.likelihood import Gaussian
from modmeta.model.model import RelationalModel
from modmeta.search.cold_start.features import Basis, columns, fit_basis
from modmeta.search.cold_start.weak_form import measure_units, steps, unwrap

B, N, T, K = 3, 4, 12, 2


def smooth(d: int, low: float = 0.5) -> Tensor:
    """Smooth positive paths (B, N, T, D), double precision."""
    generator = torch.Generator().manual_seed(d)
    time = torch.linspace(0, 1, T, dtype=torch.float64).view(1, 1, T, 1)
    parts = torch.rand(3, B, N, 1, d, generator=generator, dtype=torch.float64)
    return low + parts[0] + 0.4 * torch.sin(2 * parts[1] * time + 6 * parts[2])


def link_of(family: Family, kind: Kind) -> Tensor | None:
    """Leak and size of saturating rates, within which those of `smooth` stay."""
    row = [0.1, *[-0.5] * len(kind.angles), 30.0]
    return torch.tensor([row] * len(kind.changing), dtype=torch.float64) if family.saturating else None


def with_laws(
    states: Tensor, kind: Kind, family: Family, is_smooth: bool, step: float = 0.1, constants: bool = False
) -> tuple[LawDynamics, Basis, Tensor, Tensor]:
    """Dynamics that hold random laws of a family, whose functions lie where states (B, N, T, D) are."""
    units = measure_units(states, kind, step)
    link = link_of(family, kind)
    ready = steps(unwrap(states, kind.angles), kind, units, smooth=is_smooth, growth=family.growth, link=link)
    basis = fit_basis(family, kind, ready)._replace(steep=True)  # whatever the number of steps
    table = columns(basis, kind, ready)
    generator = torch.Generator().manual_seed(1)
    laws = torch.randn(K, basis.left.shape[1] * basis.right.shape[1], generator=generator, dtype=torch.float64)
    own = torch.randn(table.own.shape[-1], generator=generator, dtype=torch.float64)
    d = states.shape[-1]
    dynamics = LawDynamics(
        d, K, AbsoluteFeatures(), family=family.name, coordinates=kind.coordinates, angles=kind.angles,
        smooth=is_smooth, constants=constants, constant=kind.constant,
    )  # fmt: skip
    offset, span = torch.full((d,), 0.3).double(), torch.full((d,), 1.7).double()
    dynamics.change_scale.fill_(0.05)
    step_of = torch.tensor(units.step)
    one = torch.ones(())
    found = FoundLaws(
        laws, own, step_of, one, offset, span, units.centre, units.scale, basis.places, basis.widths, basis.left,
        basis.right, torch.zeros(0, 0) if link is None else link,
    )  # fmt: skip
    dynamics.begin(found)
    return dynamics, basis, laws, own


CASES = [
    (Kind(0, (False,)), "difference", True),
    (Kind(0, (False, False)), "receiver x rich sender", True),
    (Kind(0, (False, False)), "rich difference", False),
    (Kind(0, (False,) * 3, (False, True, False)), "receiver x rich sender", True),
    (Kind(0, (False,) * 2, (True, False)), "saturating, rich sender", True),
    (Kind(0, (False,)), "growth, rich sender", True),
    (Kind(0, (False, False)), "saturating, rich sender", True),
    (Kind(0, (False,)), "fine rich sender", True),
    (Kind(2, (False, False)), "fine along the line", True),
    (Kind(0, (True,)), "difference", True),
    (Kind(2, (False, False)), "along and across the line", True),
    (Kind(3, (False,) * 3), "along the line", False),
]


@pytest.mark.parametrize(("kind", "name", "is_smooth"), CASES, ids=str)
def test_errors_are_the_residuals_of_the_cold_start(kind: Kind, name: str, is_smooth: bool) -> None:
    family, states = family_named(name), smooth(len(kind.angles))
    for at in set(range(len(kind.angles))) - set(kind.changing):
        states[..., at] = states[:, :, :1, at]
    if any(kind.angles):
        states = (2 * states * math.pi).remainder(2 * math.pi)
    dynamics, basis, laws, own = with_laws(states, kind, family, is_smooth)
    units = measure_units(unwrap(states, kind.angles), kind, 0.1)
    straight, link = unwrap(states, kind.angles), link_of(family, kind)
    table = columns(basis, kind, steps(straight, kind, units, smooth=is_smooth, growth=family.growth, link=link))
    relations = torch.randint(K, (B, N, N - 1), generator=torch.Generator().manual_seed(2))
    chosen = torch.nn.functional.one_hot(relations, K).flatten(0, 1).double()  # (E, S, K)
    predicted = torch.einsum("eslck,esk->elc", table.sent(laws), chosen) + table.own @ own
    expected = (table.target - predicted) * table.weight.sqrt() * units.step  # growth: times the scaled state
    expected = (expected * units.scale[kind.changing]).view(B, N, T - 1, -1) / (1.7 * 0.05)
    seen = ((states - 0.3) / 1.7).float()
    received = summed(dynamics.messages(seen), relations.unsqueeze(2))
    change = dynamics.along(seen)(received, torch.zeros(B, N, 1, dtype=torch.long)).squeeze(2)
    error = dynamics.targets(seen) - change
    still = error[..., sorted(set(range(len(kind.angles))) - set(kind.changing))]
    assert not still.any(), "what never changes is foretold"
    error = error[..., kind.changing]
    torch.testing.assert_close(error.double(), expected, rtol=2e-3, atol=2e-3 * float(expected.abs().mean()))


def exchange(constants: Tensor | None = None) -> tuple[LawDynamics, Tensor, Tensor, Tensor]:
    """Heat on a complete graph: dynamics, their exact flow (N, N), states (1, N, T, 1), drives (1, N, 1)."""
    step, rate, n, frames = 0.2, 0.7, 4, 14
    kind = Kind(0, (False,))
    dynamics = LawDynamics(1, 1, AbsoluteFeatures(), family="difference", smooth=True, constants=constants is not None)
    one = torch.ones(1, 1, dtype=torch.float64)
    dynamics.begin(
        FoundLaws(
            rate * one,
            torch.zeros(dynamics.own_laws.numel()),
            torch.tensor(step),
            torch.ones(()),
            torch.zeros(1),
            torch.ones(1),
            torch.zeros(1),
            torch.ones(1),
            one.expand(1, 12),
            one.expand(1, 12),
            one,
            one,
        )
    )
    assert kind == dynamics.kind
    flow = step * rate * (torch.ones(n, n, dtype=torch.float64) - n * torch.eye(n, dtype=torch.float64))
    drive = torch.zeros(n, dtype=torch.float64) if constants is None else constants * step
    whole = torch.zeros(n + 1, n + 1, dtype=torch.float64)  # of states and a constant 1
    whole[:n, :n], whole[:n, n] = flow, drive
    state = torch.cat((torch.tensor([1.0, -0.5, 0.3, 0.8], dtype=torch.float64), torch.ones(1, dtype=torch.float64)))
    path = [state]
    for _ in range(frames - 1):
        path.append(torch.matrix_exp(whole) @ path[-1])
    states = torch.stack(path, 1)[:n].view(1, n, frames, 1).float()
    return dynamics, torch.matrix_exp(flow), states, drive.view(1, n, 1).float()


def test_forecasts_follow_the_exact_flow() -> None:
    dynamics, _, states, _ = exchange()
    structure = Structure(torch.zeros(1, 4, 3, dtype=torch.long), torch.zeros(1, 4, dtype=torch.long))
    ahead = dynamics.rollout(states[:, :, :1], *structure, 13).squeeze(2)
    torch.testing.assert_close(ahead, states[:, :, 1:], atol=1e-5, rtol=1e-5)


def test_saturating_forecasts_follow_a_finer_integration() -> None:
    """Two rate neurons of hand-made laws, against Euler steps of a hundredth of a frame."""
    dynamics = LawDynamics(1, 1, AbsoluteFeatures(), family="saturating, rich sender", smooth=True)
    v = dynamics.right.shape[0]
    own = torch.zeros(dynamics.own_laws.numel()).double()
    own[0] = 0.3  # a constant within the saturating function
    places = torch.linspace(-1, 1, 12).double().view(1, 12)
    law = torch.zeros(1, v).double()
    law[0, 0] = 2.0  # times the sender's state
    link = torch.tensor([[0.05, -1.0, 0.8]]).double()
    one, zero = torch.ones(1).double(), torch.zeros(1).double()
    step = torch.tensor(0.2)
    dynamics.begin(
        FoundLaws(law, own, step, one[0], zero, one, zero, one, places, places * 0 + 1, one[None], torch.eye(v), link)
    )
    state = torch.tensor([0.9, -0.4]).double()
    path = [state]
    for _ in range(20):
        for _ in range(100):
            state = state + 0.002 * (0.05 - state + 0.8 * torch.tanh((0.3 + 2 * state.flip(0)) / 0.8))
        path.append(state)
    states = torch.stack(path, 1).view(1, 2, 21, 1).float()
    structure = Structure(torch.zeros(1, 2, 1, dtype=torch.long), torch.zeros(1, 2, dtype=torch.long))
    ahead = dynamics.rollout(states[:, :, :1], *structure, 20).squeeze(2)
    torch.testing.assert_close(ahead, states[:, :, 1:], atol=3e-3, rtol=3e-3)
    received = summed(dynamics.messages(states), structure.edge_modules.unsqueeze(2))
    change = dynamics.along(states)(received, structure.node_modules.unsqueeze(2)).squeeze(2)
    assert float((dynamics.targets(states) - change).detach().abs().max()) < 0.01 * float(
        states.diff(dim=2).abs().max()
    )


def test_constants_of_entities_are_found_left_out_of_errors_and_carried_on() -> None:
    own = torch.tensor([0.5, -0.2, 0.1, -0.6], dtype=torch.float64)
    dynamics, _, states, drive = exchange(own)
    structure = Structure(torch.zeros(1, 4, 3, dtype=torch.long), torch.zeros(1, 4, dtype=torch.long))
    model = RelationalModel(dynamics, Gaussian(1))
    found = model.drive(states[:, :, :9], structure)
    assert found is not None
    torch.testing.assert_close(found, drive, atol=1e-4, rtol=1e-3)
    forecast = model.forecast(states[:, :, 8], structure, 5, found)
    torch.testing.assert_close(forecast, states[:, :, 9:], atol=1e-3, rtol=1e-3)
    errors = torch.randn(1, 4, 2, 13, 1, generator=torch.Generator().manual_seed(0))
    shifted = dynamics.without_constants(errors + drive.view(1, 4, 1, 1, 1), states)
    torch.testing.assert_close(shifted, dynamics.without_constants(errors, states))
    mask = OBSERVED * (torch.arange(13) < 7).expand(*states.shape[:2], 13)
    left = dynamics.without_constants(errors, states, mask)
    torch.testing.assert_close(left[..., :7, :].mean(-2), torch.zeros(1, 4, 2, 1), atol=1e-6, rtol=0)


def test_slopes_of_entities_are_found_left_out_of_errors_and_carried_on() -> None:
    """Four planar rotations, each at a rate of its own about a point of its own; no laws."""
    dynamics = LawDynamics(
        2, 1, AbsoluteFeatures(), family="difference", angles=[False] * 2, smooth=True, constants=True, slopes=True
    )
    v, zero, one = dynamics.right.shape[0], torch.zeros(2), torch.ones(2)
    places, own = torch.zeros(2, 12), torch.zeros(dynamics.own_laws.numel())
    found = (torch.zeros(1, dynamics.blocks * v), own, one[0], one[0], zero, one, zero, one, places, places + 1)
    dynamics.begin(FoundLaws(*found, torch.eye(dynamics.blocks), torch.eye(v)))
    angle = torch.tensor([0.3, -0.2, 0.1, 0.4]).view(1, 4, 1) * torch.arange(14.0)
    states = torch.stack([angle.cos(), angle.sin()], -1) * 0.7 + torch.linspace(-0.3, 0.3, 4).view(1, 4, 1, 1)
    structure = Structure(torch.zeros(1, 4, 3, dtype=torch.long), torch.zeros(1, 4, dtype=torch.long))
    model = RelationalModel(dynamics, Gaussian(2))
    typical = float(dynamics.targets(states).abs().mean())
    assert float(model.errors(states, structure).detach().abs().mean()) < 1e-3 * typical
    drive = model.drive(states[:, :, :9], structure)
    assert drive is not None
    assert drive.shape == (1, 4, 2, 3)
    ahead = model.forecast(states[:, :, 8], structure, 5, drive)
    torch.testing.assert_close(ahead, states[:, :, 9:], atol=1e-3, rtol=1e-3)
    noise = torch.randn(1, 4, 3, 13, 2, generator=torch.Generator().manual_seed(0))
    mask = OBSERVED * (torch.arange(13) < 9).expand(1, 4, 13)
    left = dynamics.without_constants(noise, states, mask)[..., :9, :]
    middle = (states[:, :, :9] + states[:, :, 1:10]).unsqueeze(2) / 2
    assert float((left * middle).sum(-2).abs().max()) < 0.05, "nothing is left that is linear in states"
    assert float((noise[..., :9, :] * middle).sum(-2).abs().max()) > 1


def test_cosines_and_sines_of_phases_move_as_angles() -> None:
    """Four phases, each at a rate of its own; no laws."""
    dynamics = LawDynamics(
        2, 1, AbsoluteFeatures(), family="difference", angles=[True, False], constant=[False, True], circles=[[0, 1]],
        smooth=True, constants=True,
    )  # fmt: skip
    v, own, span = dynamics.right.shape[0], dynamics.own_laws.shape[-1], torch.tensor([2.0, 3.0])
    zero, one, places = torch.zeros(2), torch.ones(2), torch.zeros(2, 12)
    found = (torch.zeros(1, dynamics.blocks // 2 * v), torch.zeros(own), one[0], one[0], zero, span, zero, one, places)
    dynamics.begin(FoundLaws(*found, places + 1, torch.eye(dynamics.blocks // 2), torch.eye(v)))
    angle = torch.tensor([0.3, -0.2, 0.1, 0.4]).view(1, 4, 1) * torch.arange(24.0)
    states = torch.stack([angle.cos(), angle.sin()], -1) / span
    structure = Structure(torch.zeros(1, 4, 3, dtype=torch.long), torch.zeros(1, 4, dtype=torch.long))
    model = RelationalModel(dynamics, Gaussian(2))
    assert float(model.errors(states, structure).detach().abs().max()) < 1e-5
    ahead = model.forecast(states[:, :, 8], structure, 15, model.drive(states[:, :, :9], structure))
    torch.testing.assert_close(ahead, states[:, :, 9:], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(dynamics.nearest(states, -states), states)


def test_sizes_of_a_damping_are_each_entitys_own() -> None:
    """Rates w_i (1 - x^2) y of the second feature, y of the first; the function is known, its sizes are not."""
    dynamics = LawDynamics(
        2, 1, AbsoluteFeatures(), family="difference", angles=[False] * 2, smooth=True, constants=True, shapes=True
    )
    v, own = dynamics.right.shape[0], dynamics.own_laws.shape[-1]
    zero, one, places = torch.zeros(2), torch.ones(2), torch.zeros(2, 12)
    laws, shapes = torch.zeros(2, own), torch.zeros(2, own)
    laws[0, 2] = 1.0  # own functions begin with 1, x, y, xx, xy, yy, xxx, xxy
    shapes[1, 2], shapes[1, 7] = 1.0, -1.0
    found = (torch.zeros(1, dynamics.blocks * v), laws.flatten(), one[0], one[0], zero, one, zero, one, places)
    eyes = torch.eye(dynamics.blocks), torch.eye(v)
    dynamics.begin(FoundLaws(*found, places + 1, *eyes, shapes=shapes))
    size = torch.tensor([0.02, -0.03, 0.05, 0.04]).view(1, 4)
    path = [torch.stack([torch.linspace(-0.8, 0.8, 4).view(1, 4), torch.full((1, 4), 0.05)], -1)]
    for _ in range(1300):
        x, y = path[-1].unbind(-1)
        path.append(path[-1] + 0.01 * torch.stack([y, size * (1 - x**2) * y], -1))
    states = torch.stack(path[::100], 2)
    structure = Structure(torch.zeros(1, 4, 3, dtype=torch.long), torch.zeros(1, 4, dtype=torch.long))
    model = RelationalModel(dynamics, Gaussian(2))
    drive = model.drive(states[:, :, :9], structure)
    assert drive is not None
    torch.testing.assert_close(drive[..., 1, -1], size, atol=2e-3, rtol=0.02)
    ahead = model.forecast(states[:, :, 8], structure, 5, drive)
    torch.testing.assert_close(ahead, states[:, :, 9:], atol=2e-3, rtol=1e-3)


def test_angles_stay_within_a_turn_and_jumps_do_not_count() -> None:
    dynamics = LawDynamics(1, 1, AbsoluteFeatures(), family="difference", angles=[True], smooth=True, constants=True)
    turn = torch.full((1,), math.pi)
    zero, one = torch.zeros(1), torch.ones(1)
    v = dynamics.right.shape[0]
    dynamics.begin(
        FoundLaws(
            torch.zeros(1, v),
            torch.zeros(dynamics.own_laws.numel()),
            one,
            one[0],
            turn,
            turn,
            zero,
            one,
            torch.zeros(1, 12),
            torch.ones(1, 12),
            torch.ones(1, 1),
            torch.eye(v),
        )
    )
    phase = (5.0 + 0.4 * torch.arange(12.0)).remainder(2 * math.pi)
    states = ((phase - math.pi) / math.pi).view(1, 1, 12, 1).expand(1, 2, 12, 1)
    torch.testing.assert_close(dynamics.targets(states), torch.full((1, 2, 11, 1), 0.4 / math.pi), atol=1e-5, rtol=0)
    structure = Structure(torch.zeros(1, 2, 1, dtype=torch.long), torch.zeros(1, 2, dtype=torch.long))
    model = RelationalModel(dynamics, Gaussian(1))
    ahead = model.forecast(states[:, :, 5], structure, 6, model.drive(states[:, :, :6], structure))
    torch.testing.assert_close(ahead, states[:, :, 6:], atol=1e-4, rtol=0)


def test_settings_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(ValueError, match=r"search\.start=laws"):
        LawDynamics(1, 2, AbsoluteFeatures())
    with pytest.raises(ValueError, match=r"add model\.constants=true"):
        LawDynamics(1, 2, AbsoluteFeatures(), family="sender", slopes=True)
    with pytest.raises(ValueError, match=r"model.shapes=true has constants"):
        LawDynamics(1, 2, AbsoluteFeatures(), family="sender", shapes=True)
    with pytest.raises(ValueError, match="rich sender"):
        LawDynamics(1, 2, AbsoluteFeatures(), family="richsender")
    with pytest.raises(ValueError, match="angles"):
        LawDynamics(2, 2, AbsoluteFeatures(), family="sender", angles=[True])
    with pytest.raises(ValueError, match="coordinates"):
        LawDynamics(4, 2, AbsoluteFeatures(), family="springs", coordinates=2)
