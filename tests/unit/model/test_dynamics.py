"""Messages, steps, rollouts and energies against naive loops, and the symmetries they must have."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from benchmarks.published_step import Published, ours
from modmeta.graph.bank import Structure, random_structure
from modmeta.graph.relations import senders, to_matrix
from modmeta.model.dynamics import base
from modmeta.model.dynamics.base import GAIN
from modmeta.model.features import IsotropicFeatures, ProductFeatures, RelativeFeatures
from modmeta.model.grouped import GroupedMLP, Kept
from modmeta.model.model import RelationalModel
from modmeta.search.problem import Problem
from modmeta.search.search import Search
from modmeta.search.selection import metropolis
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
            total = total if dynamics.log_mobility is None else total * (GAIN * dynamics.log_mobility[g]).exp()
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
        matrices = to_matrix(structure.edge_modules)
        for task in range(len(states)):
            for start in range(2):
                state = states[task, :, start]
                for step in range(3):
                    state = naive_step(model, state, matrices[task], structure.node_modules[task])
                    torch.testing.assert_close(rollout[task, :, start, step], state, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_energies_restart_from_observed_frames(states: Tensor, kind: str) -> None:
    """Eleven frames, horizon 4: rollouts from frames 0, 4 and 8, the last one short."""
    model = make_model(kind, "squared")
    structure = structures(states, 2, 1)
    with torch.no_grad():
        expected = torch.zeros(states.shape[:2])
        for task, matrix in enumerate(to_matrix(structure.edge_modules)):
            for frame in range(1, 11):
                start = (frame - 1) // 4 * 4
                state = states[task, :, start]
                for _ in range(frame - start):
                    state = naive_step(model, state, matrix, structure.node_modules[task])
                error = (state - states[task, :, frame]) / model.dynamics.change_scale
                expected[task] -= torch.distributions.Normal(0.0, 0.5).log_prob(error).sum(-1)
        torch.testing.assert_close(model.energies(states, structure, horizon=4), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", ALL_KINDS)
@pytest.mark.parametrize("horizon", [1, 5])
def test_permuting_entities_permutes_energies(states: Tensor, kind: str, horizon: int) -> None:
    model, structure = make_model(kind), structures(states, 2, 1)
    order = torch.tensor([2, 0, 3, 1])
    matrices = to_matrix(structure.edge_modules)[:, order][:, :, order]
    rows = torch.stack([matrices[:, i, senders(4)[i]] for i in range(4)], dim=1)
    with torch.no_grad():
        before = model.energies(states, structure, horizon)
        after = model.energies(states[:, order], Structure(rows, structure.node_modules[:, order]), horizon)
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
        after = model.energies(states, Structure(order[structure.edge_modules], structure.node_modules), 2)
    torch.testing.assert_close(after, before)


@pytest.mark.parametrize("kind", ["additive", "continuous"])
def test_relabelling_node_modules_changes_nothing(states: Tensor, kind: str) -> None:
    model, structure = make_model(kind, g=3), structures(states, 2, 3)
    dynamics = model.dynamics
    with torch.no_grad():
        before = model.energies(states, structure, 2), dynamics.refined(dynamics.messages(states), states, structure)
        order = torch.tensor([2, 0, 1])  # module m becomes module order[m]
        for parameter in [*dynamics.node_modules.parameters(), dynamics.log_mobility]:
            parameter.copy_(parameter[order.argsort()])
        other = Structure(structure.edge_modules, order[structure.node_modules])
        after = model.energies(states, other, 2), dynamics.refined(dynamics.messages(states), states, other)
    torch.testing.assert_close(after, before)


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_a_single_node_module_has_no_mobility(kind: str) -> None:
    """So that checkpoints of models without types stay what they are."""
    assert not any("mobility" in name for name in make_model(kind).state_dict())


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


def test_the_sine_of_a_difference_is_linear_in_products() -> None:
    phases = 6 * torch.rand(2, 50)
    states = torch.stack((phases.sin(), phases.cos()), dim=-1)
    seen = ProductFeatures()(states[0], states[1])
    assert seen.shape == (50, ProductFeatures().size(2))
    target = (phases[1] - phases[0]).sin()
    weights = torch.linalg.lstsq(seen, target.unsqueeze(1)).solution
    torch.testing.assert_close((seen @ weights).squeeze(1), target)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("null_module", [False, True])
@pytest.mark.usefixtures("either_device")
def test_sorted_edges_have_the_gradients_of_all_modules_on_all_edges(
    states: Tensor, kind: str, null_module: bool
) -> None:
    """The sum over senders before the last layer, and tasks left out of the backward pass, change no gradient."""
    model = make_model(kind, "squared", k=3, g=2)
    dynamics = model.dynamics
    dynamics.null_module = null_module
    relations, types = structures(states, 3, 2)

    def slowly(start: Tensor) -> Tensor:
        change = dynamics.change(start, dynamics.pair_law(start), relations.unsqueeze(2), types.unsqueeze(2))
        return start + change.squeeze(2) * dynamics.change_scale

    start, chosen, kept = states[:, :, :3], torch.arange(len(states)) % 2 == 0, Kept()
    expected = slowly(slowly(start))
    expected[chosen].square().sum().backward()
    gradients = [parameter.grad for parameter in dynamics.parameters()]
    dynamics.zero_grad()
    got = dynamics.rollout(start, relations, types, 2, kept)[..., -1, :]
    kept.choose(chosen.nonzero().squeeze(1))
    got[chosen].square().sum().backward()
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    for parameter, gradient in zip(dynamics.parameters(), gradients, strict=True):
        mine = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        wanted = torch.zeros_like(parameter) if gradient is None else gradient
        torch.testing.assert_close(mine, wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()))


@pytest.mark.usefixtures("either_device")
def test_gradients_of_the_paper_search_are_those_of_its_new_structures(states: Tensor) -> None:
    model = make_model("paper", "squared")
    search = Search(metropolis, receivers="one", horizon=4, enumerate_up_to=0, samples=3, flips=False, uniform=True)
    generator = torch.Generator().manual_seed(1)
    problem, kernel = Problem(model, states, horizon=4, gradients=True), search.kernel(model, 4)
    new, info = kernel(generator, structures(states, 2, 1), problem, torch.tensor(1e9))
    assert info.moved.any()
    info.energies.sum().backward()
    gradients = [parameter.grad for parameter in model.dynamics.parameters()]
    model.zero_grad()
    energies = model.energies(states, new, 4).sum(-1)
    energies.sum().backward()
    torch.testing.assert_close(info.energies, energies, rtol=1e-4, atol=1e-3)
    for parameter, gradient in zip(model.dynamics.parameters(), gradients, strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-3, atol=1e-4 * float(gradient.abs().max()))


@pytest.mark.parametrize("kind", ["additive", "paper", "continuous"])
def test_pairs_in_chunks_are_pairs_at_once(states: Tensor, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    dynamics = make_model(kind).dynamics
    expected = dynamics.messages(states).detach()
    monkeypatch.setattr(base, "CHUNK", 7)
    with torch.no_grad():
        torch.testing.assert_close(dynamics.messages(states), expected)


@pytest.mark.usefixtures("either_device")
def test_the_published_way_gives_the_same_energies() -> None:
    """The yardstick of `benchmarks/published_step.py` and the program's own rollouts agree, and so do their choices."""
    model = make_model("paper", "squared", k=2)
    model.dynamics.edge_modules.activation = model.dynamics.node_modules.activation = torch.relu
    search = Search(metropolis, receivers="one", horizon=4, enumerate_up_to=0)
    module = SimpleNamespace(model=model, search=search)
    states = torch.randn(3, 4, 11, 4, generator=torch.Generator().manual_seed(1))
    current, other = structures(states, 2, 1), random_structure(3, 4, 2, 1, torch.Generator().manual_seed(9))
    relations = torch.where(torch.arange(4).view(1, 4, 1) == 2, other.edge_modules, current.edge_modules)
    proposed, threshold = Structure(relations, current.node_modules), torch.tensor([0.0, 1e9, -1e9])
    expected = Published(module).step(states, current, proposed, threshold)  # type: ignore[arg-type]
    got = ours(module, states, current, proposed, threshold)  # type: ignore[arg-type]
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-2)
