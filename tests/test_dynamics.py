"""Messages, steps, rollouts and energies against naive loops, and the symmetries they must have."""

import pytest
import torch
from torch import Tensor

from modmeta.data.scaling import Units, robust_scales
from modmeta.data.simulators import Charged, generate
from modmeta.model.continuous import ContinuousDynamics
from modmeta.model.features import IsotropicFeatures, RelativeFeatures
from modmeta.model.grouped import GroupedMLP
from modmeta.model.model import RelationalModel
from modmeta.structure.bank import Structure, random_structure
from modmeta.structure.relations import from_matrix, senders, to_matrix
from tests.conftest import make_model

KINDS = ["additive", "mlp", "paper"]
ALL_KINDS = [*KINDS, "isotropic", "continuous"]


def run_alone(mlp: GroupedMLP, group: int, x: Tensor) -> Tensor:
    """One network of a group, one input vector, written out layer by layer."""
    h = x
    for i, layer in enumerate(mlp.layers):
        h = h @ layer.weight[group] + layer.bias[group, 0]
        if i < len(mlp.layers) - 1:
            h = mlp.activation(h)
    return h if mlp.linear is None else h + x @ mlp.linear.weight[group] + mlp.linear.bias[group, 0]


def naive_step(model: RelationalModel, state: Tensor, relations: Tensor, types: Tensor) -> Tensor:
    """Next state (N, D) of one task from its state now, edge by edge; relations as a matrix [receiver, sender]."""
    dynamics = model.dynamics
    scaled = (state - dynamics.centre) / dynamics.state_scale
    out = []
    for i in range(len(state)):
        total = 0
        for j in range(len(state)):
            if i == j:
                continue
            if isinstance(dynamics.features, RelativeFeatures):
                difference = scaled[j] - scaled[i]
                distance = difference[:2].square().sum().sqrt()
                seen = torch.cat((difference, torch.stack((distance, distance.log()))))
            else:
                seen = torch.cat((scaled[i], scaled[j]))
            total = total + run_alone(dynamics.edge_modules, int(relations[i, j]), seen)
        g = int(types[i])
        if dynamics.additive:
            change = total + run_alone(dynamics.node_modules, g, scaled[i])
        else:
            change = run_alone(dynamics.node_modules, g, torch.cat((scaled[i], total)))
        out.append(state[i] + change * dynamics.change_scale)
    return torch.stack(out)


def structures(states: Tensor, k: int, g: int) -> Structure:
    return random_structure(len(states), states.shape[1], k, g, torch.Generator().manual_seed(3))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("k", "g"), [(2, 1), (3, 2)])
def test_rollouts_equal_a_loop_over_edges(states: Tensor, kind: str, k: int, g: int) -> None:
    model = make_model(kind, k=k, g=g)
    structure = structures(states, k, g)
    with torch.no_grad():
        rollout = model.dynamics.rollout(states[:, :, :2], *structure, steps=3)
        matrices = to_matrix(structure.relations)
        for task in range(len(states)):
            for start in range(2):
                state = states[task, :, start]
                for step in range(3):
                    state = naive_step(model, state, matrices[task], structure.types[task])
                    torch.testing.assert_close(rollout[task, :, start, step], state, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_energies_restart_from_observed_frames(states: Tensor, kind: str) -> None:
    """Eleven frames, horizon 4: rollouts from frames 0, 4 and 8, the last one short."""
    model = make_model(kind, "squared")
    structure = structures(states, 2, 1)
    with torch.no_grad():
        expected = torch.zeros(states.shape[:2])
        for task, matrix in enumerate(to_matrix(structure.relations)):
            for frame in range(1, 11):
                start = (frame - 1) // 4 * 4
                state = states[task, :, start]
                for _ in range(frame - start):
                    state = naive_step(model, state, matrix, structure.types[task])
                error = (state - states[task, :, frame]) / model.dynamics.change_scale
                expected[task] += 0.5 * (error / 0.5).square().sum(-1)
        torch.testing.assert_close(model.energies(states, structure, horizon=4), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", ALL_KINDS)
@pytest.mark.parametrize("horizon", [1, 5])
def test_permuting_entities_permutes_energies(states: Tensor, kind: str, horizon: int) -> None:
    model, structure = make_model(kind), structures(states, 2, 1)
    order = torch.tensor([2, 0, 3, 1])
    matrices = to_matrix(structure.relations)[:, order][:, :, order]
    rows = torch.stack([matrices[:, i, senders(4)[i]] for i in range(4)], dim=1)
    with torch.no_grad():
        before = model.energies(states, structure, horizon)
        after = model.energies(states[:, order], Structure(rows, structure.types[:, order]), horizon)
    torch.testing.assert_close(after, before[:, order])


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_relabelling_modules_changes_nothing(states: Tensor, kind: str) -> None:
    model, structure = make_model(kind, k=3), structures(states, 3, 1)
    with torch.no_grad():
        before = model.energies(states, structure, 2)
        order = torch.tensor([2, 0, 1])  # module m becomes module order[m]
        decay = [model.dynamics.decay] if isinstance(model.dynamics.features, IsotropicFeatures) else []
        for parameter in [*model.dynamics.edge_modules.parameters(), *decay]:
            parameter.copy_(parameter[order.argsort()])
        after = model.energies(states, Structure(order[structure.relations], structure.types), 2)
    torch.testing.assert_close(after, before)


def test_linear_path_starts_as_a_linear_network() -> None:
    mlp = GroupedMLP(2, [3, 8, 5], linear_path=True)
    x, y = torch.randn(4, 3), torch.randn(4, 3)
    torch.testing.assert_close(mlp(x + y) + mlp(torch.zeros(4, 3)), mlp(x) + mlp(y))


@pytest.mark.parametrize("kind", ["isotropic", "continuous"])
def test_rotating_and_reflecting_the_world_rotates_messages(states: Tensor, kind: str) -> None:
    model = make_model(kind)
    dynamics = model.dynamics
    for scale in (dynamics.centre, dynamics.state_scale, dynamics.change_scale):  # of velocities too: one a group
        scale.copy_(torch.tensor([scale[0], scale[0], scale[2], scale[2]]))
    angle = torch.tensor(0.7)
    turn = torch.stack((angle.cos(), -angle.sin(), -angle.sin(), -angle.cos())).view(2, 2)  # a rotation, mirrored
    both = torch.block_diag(turn, turn)
    with torch.no_grad():
        torch.testing.assert_close(
            dynamics.messages(states @ both), dynamics.messages(states) @ both, rtol=1e-3, atol=1e-3
        )


class ExactCharges(torch.nn.Module):
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
            states[:, :, :-1], dynamics.messages(states), structure.relations.unsqueeze(2), structure.types.unsqueeze(2)
        )
        error = change.squeeze(2) - dynamics.targets(states)
        assert error.square().mean() < 1e-6 * dynamics.targets(states).square().mean()
        forecast = dynamics.rollout(states[:, :, :1], *structure, 10).squeeze(2)
        assert (forecast - states[:, :, 1:11]).abs().max() < 1e-5


def test_continuous_dynamics_refuse_what_they_cannot_do() -> None:
    with pytest.raises(ValueError, match="velocity for every coordinate; 5 features"):
        ContinuousDynamics(5, 2, IsotropicFeatures(2))
    with pytest.raises(ValueError, match="nodes=1"):
        ContinuousDynamics(4, 2, IsotropicFeatures(2), nodes=1)
