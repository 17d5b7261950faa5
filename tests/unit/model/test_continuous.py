"""Continuous dynamics against simulations: weak form, walls, close pairs, forecasts, noise."""

import numpy as np
import pytest
import torch
from torch import Tensor

from modmeta.data.generation import generate
from modmeta.data.trajectories import Trajectories
from modmeta.data.transforms.observation import add_noise, estimate_velocities
from modmeta.data.units import Units, find_walls, robust_scales
from modmeta.errors import UserError
from modmeta.graph.bank import Structure
from modmeta.graph.relations import from_matrix
from modmeta.model.dynamics.acting import Acting
from modmeta.model.dynamics.continuous import ContinuousDynamics, _Weighed
from modmeta.model.features import IsotropicFeatures
from modmeta.model.likelihood import StudentT
from modmeta.model.model import RelationalModel
from modmeta.model.noise import GAIN, ObservationNoise
from modmeta.simulators import Charged
from tests.known import KnownLaw


class ExactCharges(KnownLaw):
    """The law of charged particles in the units of a `ContinuousDynamics`: module 0 repels, module 1 attracts."""

    def __init__(self, dynamics: ContinuousDynamics, units: Units) -> None:
        super().__init__()
        length = float(dynamics.state_scale[0]) * units.scale[0]  # of one scaled unit of distance
        per_frame = float(dynamics.change_scale[2]) * units.scale[2] / 0.1  # acceleration of one unit of output
        self.strength = 1 / (length**2 * per_frame)

    def forward(self, seen: Tensor) -> Tensor:
        towards = self.strength / seen[:, :1].square()
        nothing = torch.zeros_like(towards)
        return torch.stack((torch.cat((-towards, nothing), 1), torch.cat((towards, nothing), 1)))


@pytest.mark.parametrize("nodes", [4, 5])
def test_the_exact_law_explains_and_forecasts_the_simulation(nodes: int) -> None:
    """The weak form and the integrator hold on simulated charges, particles that meet or touch a wall left out."""
    data = generate(Charged(), {"test": (200, 20)}, seed=5, progress=False)["test"]
    units = Units.of_range(data.states.min((0, 1, 2)), data.states.max((0, 1, 2)), 2)
    places = torch.from_numpy(data.states[..., :2])
    apart = torch.cdist(places.transpose(1, 2), places.transpose(1, 2)) + 9 * torch.eye(5)
    calm = (apart.flatten(1).amin(1) > 0.7) & (places.abs().flatten(1).amax(1) < 4.5)
    assert calm.sum() >= 4
    states = units.normalised(data.states)[calm]
    structure = Structure(from_matrix(torch.from_numpy(data.relations))[calm], torch.zeros(int(calm.sum()), 5).long())
    dynamics = ContinuousDynamics(4, 2, IsotropicFeatures(2), nodes=nodes)
    dynamics.set_scales(robust_scales(states, 2, units, data.frame_step))
    dynamics.edge_modules = ExactCharges(dynamics, units)
    torch.nn.init.zeros_(dynamics.node_modules.linear.weight)
    dynamics.lag.data.fill_(0.005)  # a kick comes half a step of 0.001 before the place it is stored with
    with torch.no_grad():
        change = dynamics.change(
            states[:, :, :-1],
            dynamics.messages(states),
            structure.edge_modules.unsqueeze(2),
            structure.node_modules.unsqueeze(2),
        )
        error = change.squeeze(2) - dynamics.targets(states)
        assert error.square().mean() < 1e-6 * dynamics.targets(states).square().mean()
        forecast = dynamics.rollout(states[:, :, :1], *structure, 10).squeeze(2)
        assert (forecast - states[:, :, 1:11]).abs().max() < 1e-5


@pytest.mark.parametrize("lag", [0.5, -0.5])
def test_the_exact_law_of_steps_explains_and_forecasts_them(lag: float) -> None:
    """Frames that are steps of a simulator, whose coordinates move by the new velocities, or by the old ones."""
    rng = np.random.default_rng(0)
    signs = rng.choice((-1, 1), (8, 1, 4, 1))
    x, v = rng.uniform(-3, 3, (8, 4, 2)), rng.normal(0, 0.3, (8, 4, 2))
    path = []
    for _ in range(12):
        path.append(np.concatenate((x, v), -1))
        apart = x[:, None] - x[:, :, None]
        far = np.linalg.norm(apart, axis=-1, keepdims=True) + np.eye(4)[..., None]
        kicked = v - 0.1 * (signs * signs.transpose(0, 2, 1, 3) * apart / far**3).sum(2)
        x, v = x + 0.1 * (kicked if lag > 0 else v), kicked
    raw = np.stack(path, 2).astype(np.float32)
    units = Units.of_range(raw.min((0, 1, 2)), raw.max((0, 1, 2)), 2)
    states = units.normalised(raw)
    attracts = from_matrix(torch.from_numpy((signs * signs.transpose(0, 2, 1, 3) < 0)[..., 0].astype(int)))
    structure = Structure(attracts, torch.zeros(8, 4).long())
    dynamics = ContinuousDynamics(4, 2, IsotropicFeatures(2), smooth=False)
    dynamics.set_scales(robust_scales(states, 2, units, 0.1))
    dynamics.walls[0], dynamics.walls[1], dynamics.limit[:] = -torch.inf, torch.inf, torch.inf
    dynamics.step_scale.fill_(0.1 * units.scale[2] / units.scale[0])
    dynamics.change_scale[:2] = dynamics.step_scale * dynamics.change_scale[2:]
    dynamics.edge_modules = ExactCharges(dynamics, units)
    torch.nn.init.zeros_(dynamics.node_modules.linear.weight)
    dynamics.lag.data.fill_(lag)
    with torch.no_grad():
        rows, types = structure.edge_modules.unsqueeze(2), structure.node_modules.unsqueeze(2)
        change = dynamics.change(states[:, :, :-1], dynamics.messages(states), rows, types).squeeze(2)
        error = change - dynamics.targets(states)
        assert error.square().mean() < 1e-8 * dynamics.targets(states).square().mean()
        forecast = dynamics.rollout(states[:, :, :1], *structure, 6).squeeze(2)
        assert (forecast - states[:, :, 1:7]).abs().max() < 1e-4


@pytest.mark.parametrize(("k", "g", "null"), [(3, 1, False), (2, 2, True)])
def test_only_the_module_of_an_edge_need_be_evaluated(k: int, g: int, null: bool) -> None:
    """Also where the two edges of a pair differ, on more pairs than a block holds, and on none."""
    torch.manual_seed(0)
    dynamics = ContinuousDynamics(4, k, IsotropicFeatures(2), num_node_modules=g, hidden=8, null_module=null)
    torch.nn.init.normal_(dynamics.edge_modules.layers[-1].weight)  # type: ignore[arg-type, union-attr]
    torch.nn.init.normal_(dynamics.decay)  # type: ignore[arg-type]
    states, relations, types = torch.randn(60, 5, 4), torch.randint(k, (60, 5, 4)), torch.randint(g, (60, 5))
    some = torch.tensor([3, 17, 40])
    for scenes in (torch.arange(60), some, some[:0]):
        with torch.no_grad():
            alone = Acting(dynamics, relations, types).of(scenes).received(states[scenes])
        every = _Weighed(dynamics, relations, types).of(scenes).received(states[scenes])
        torch.testing.assert_close(alone, every)
        assert not len(scenes) or every.abs().mean() > 0.1


def test_continuous_dynamics_refuse_what_they_cannot_do() -> None:
    with pytest.raises(
        UserError, match=r"5 features is an odd number\. Name them, for example data\.reading\.features="
    ):
        ContinuousDynamics(5, 2, IsotropicFeatures(2))
    with pytest.raises(UserError, match=r"the data have 2 coordinates and 6 features\. Name coordinates"):
        ContinuousDynamics(6, 2, IsotropicFeatures(2)).set_scales(
            robust_scales(torch.rand(3, 4, 5, 6), 2, Units((0.0,) * 6, (1.0,) * 6), 1.0)
        )
    with pytest.raises(ValueError, match="nodes=1"):
        ContinuousDynamics(4, 2, IsotropicFeatures(2), nodes=1)


@pytest.fixture(scope="module")
def charges() -> tuple[Trajectories, Units, Tensor, Structure]:
    """Simulated charges in physical and in protocol units, with their structure."""
    data = generate(Charged(), {"test": (80, 30)}, seed=6, progress=False)["test"]
    units = Units.of_range(data.states.min((0, 1, 2)), data.states.max((0, 1, 2)), 2)
    assert data.relations is not None
    structure = Structure(from_matrix(torch.from_numpy(data.relations)), torch.zeros(80, 5).long())
    return data, units, units.normalised(data.states), structure


def exact(charges: tuple[Trajectories, Units, Tensor, Structure], **options: float) -> ContinuousDynamics:
    """Dynamics that know the law of charges, with scales of the data."""
    data, units, states, _ = charges
    dynamics = ContinuousDynamics(4, 2, IsotropicFeatures(2), **options)  # type: ignore[arg-type]
    dynamics.set_scales(robust_scales(states, 2, units, data.frame_step))
    dynamics.edge_modules = ExactCharges(dynamics, units)  # type: ignore[assignment]
    torch.nn.init.zeros_(dynamics.node_modules.linear.weight)  # type: ignore[union-attr]
    dynamics.lag.data.fill_(0.005)
    return dynamics.requires_grad_(False)


def distances(data: Trajectories) -> Tensor:
    """Of every particle to the closest other one, at the closer end of every frame, (B, N, T - 1), physical units."""
    places = torch.from_numpy(data.states[..., :2])
    apart = (places.unsqueeze(2) - places.unsqueeze(1)).norm(dim=-1)
    closest = apart.masked_fill(apart == 0, 9).amin(2)
    return torch.minimum(closest[:, :, :-1], closest[:, :, 1:])


def residuals(dynamics: ContinuousDynamics, states: Tensor, structure: Structure, paths: bool) -> Tensor:
    """Errors one step ahead (B, N, T - 1), with integrated paths or with cubics."""
    messages = dynamics.messages(states)
    messages = dynamics.refined(messages, states, structure) if paths else messages
    rows, types = structure.edge_modules.unsqueeze(2), structure.node_modules.unsqueeze(2)
    change = dynamics.change(states[:, :, :-1], messages, rows, types).squeeze(2)
    return (change - dynamics.targets(states)).norm(dim=-1)


def test_walls_are_found_where_there_are_any(charges: tuple[Trajectories, Units, Tensor, Structure]) -> None:
    data, units, states, _ = charges
    scales = robust_scales(states, 2, units, data.frame_step)
    physical = scales.walls * torch.tensor(units.scale[:2]) + torch.tensor(units.offset[:2])
    torch.testing.assert_close(physical, torch.tensor([[-5.0, -5.0], [5.0, 5.0]]), atol=0.02, rtol=0.0)
    inside = torch.from_numpy(data.states[..., :2]).abs().flatten(1).amax(1) < 4
    assert inside.sum() > 3
    assert find_walls(states[inside], 2, scales.rest, float(scales.step)).isinf().all()


def test_reflections_are_explained_and_forecast(charges: tuple[Trajectories, Units, Tensor, Structure]) -> None:
    data, _, states, structure = charges
    dynamics = exact(charges)
    hit = dynamics._unfold(states)[1].any(-1)
    calm = distances(data) > 1
    assert (hit & calm).sum() > 20
    error = residuals(dynamics, states, structure, paths=True)
    assert error[hit & calm].median() < 0.2 * dynamics.targets(states)[hit & calm].norm(dim=-1).median()
    forecast = dynamics.rollout(states[:, :, :-1], *structure, 1).squeeze(3)
    error = (forecast - states[:, :, 1:]).abs().amax(-1)
    assert error[hit & calm].quantile(0.9) < 2e-3  # they move by 1


def test_integrated_paths_explain_close_pairs(charges: tuple[Trajectories, Units, Tensor, Structure]) -> None:
    data, _, states, structure = charges
    dynamics = exact(charges)
    close = (distances(data) > 0.2) & (distances(data) < 0.4)
    cubic, integrated = (residuals(dynamics, states, structure, paths)[close].median() for paths in (False, True))
    assert integrated < cubic / 2
    hit = dynamics._unfold(states)[1].any(-1).any(1)
    far = (distances(data).amin(1) > 2) & ~hit  # nothing happens in the task: cubics, both times
    cubic, integrated = (residuals(dynamics, states, structure, paths) for paths in (False, True))
    torch.testing.assert_close(cubic.movedim(1, 2)[far], integrated.movedim(1, 2)[far])


def test_forecasts_take_care_where_pairs_are_close(charges: tuple[Trajectories, Units, Tensor, Structure]) -> None:
    data, _, states, structure = charges
    close = (distances(data) > 0.1) & (distances(data) < 0.5)

    def error(**options: float) -> Tensor:
        forecast = exact(charges, **options).rollout(states[:, :, :-1], *structure, 1).squeeze(3)
        return (forecast - states[:, :, 1:]).square().mean(-1)[close].mean()

    assert error() < error(substeps=1) / 10


def test_an_ensemble_forecasts_its_mean(charges: tuple[Trajectories, Units, Tensor, Structure]) -> None:
    _, _, states, whole = charges
    likelihood, structure = StudentT(4, 2), Structure(whole.edge_modules[:20], whole.node_modules[:20])
    single = RelationalModel(exact(charges), likelihood).forecast(states[:20, :, 0], structure, 3)
    many = RelationalModel(exact(charges), likelihood, members=4)
    first, again = (many.forecast(states[:20, :, 0], structure, 3) for _ in range(2))
    assert first.shape == single.shape
    torch.testing.assert_close(first, again, rtol=0.0, atol=0.0)
    torch.testing.assert_close(many.forecast(states[:20, :, 0], structure, 3, single=True), single)
    assert not torch.equal(first, single)


def test_the_scale_follows_the_errors() -> None:
    likelihood = StudentT(4, 2)
    states, error = torch.randn(3, 4, 30, 4), 1e-3 * torch.distributions.StudentT(3.0).sample((3, 4, 30, 4))
    own = likelihood.log_scale(states).mean().item()
    for _ in range(40):
        likelihood.energy(error, likelihood.log_scale(states)).mean().backward()
        likelihood.follow()
    assert own + likelihood.offset.item() == pytest.approx(np.log(1e-3), abs=0.2)


def test_noise_is_whitened() -> None:
    """The energy of errors is the density of what noise on the states makes of them."""
    noise, steps = ObservationNoise(), 6
    x, v = 2.0, 0.7
    noise.ratios.data.copy_(torch.tensor([x, v]).log() / GAIN)
    error = torch.randn(5, steps, 4)
    white, constant = noise(error)
    ex, ev = x * torch.randn(200_000, steps + 1), v * torch.randn(200_000, steps + 1)
    drawn = torch.stack((ex.diff() - ev[:, :-1], ev.diff()), dim=-1).flatten(1) + torch.randn(200_000, 2 * steps)
    factor = noise.factor(steps).float().detach()
    torch.testing.assert_close(factor @ factor.T, drawn.T.cov(), atol=0.15, rtol=0.02)
    density = torch.distributions.MultivariateNormal(torch.zeros(2 * steps), scale_tril=factor)
    expected = -sum(density.log_prob(error[..., axis::2].flatten(1)) for axis in (0, 1))
    energy = 0.5 * white.square().flatten(1).sum(1) + constant + 2 * steps * np.log(2 * np.pi)
    torch.testing.assert_close(energy, expected, rtol=1e-3, atol=1e-3)


def test_velocities_are_estimated_from_what_is_seen() -> None:
    time = 0.1 * np.arange(12)
    x = np.stack([time**2, 1 - 3 * time], axis=-1)[None, None].repeat(2, 1)
    data = Trajectories(np.concatenate((x, np.full_like(x, 9.0)), -1), None, ("x", "y", "vx", "vy"), 0.1)
    seen = estimate_velocities(data, 2, observed=8)
    np.testing.assert_allclose(seen.states[0, 0, :, 2], 2 * time, atol=1e-9)
    np.testing.assert_allclose(seen.states[0, 0, :, 3], -3, atol=1e-9)
    for frame in (7, 8, 10):  # the last observed one, and those where forecasts may start
        later = data.states.copy()
        later[:, :, frame + 1 :] = 77.0
        changed = estimate_velocities(Trajectories(later, None, data.features, 0.1), 2, observed=8)
        np.testing.assert_array_equal(changed.states[:, :, : frame + 1], seen.states[:, :, : frame + 1])


def test_noise_is_a_share_of_each_features_spread() -> None:
    data = Trajectories(np.zeros((50, 4, 30, 4)), None, ("x", "y", "vx", "vy"), 0.1)
    spread = np.array([1.0, 2.0, 3.0, 4.0])
    noisy = add_noise(data, 0.1, spread, seed=3)
    np.testing.assert_allclose(noisy.states.std((0, 1, 2)), 0.1 * spread, rtol=0.05)
    np.testing.assert_array_equal(noisy.states, add_noise(data, 0.1, spread, seed=3).states)
