"""Compositions against naive loops over tasks, structures and modules."""

import copy
import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from modmeta.compositions import Attend, Chain, Composition, Concatenate, Graph, Library, Sum
from modmeta.errors import UserError
from modmeta.graph.bank import Structure
from modmeta.model.dynamics.discrete import ModularDynamics
from modmeta.model.features import AbsoluteFeatures
from modmeta.model.likelihood import FixedGaussian
from modmeta.model.model import RelationalModel

torch.manual_seed(0)  # random modules may come out as one function
LIBRARIES = {
    "f": Library(3, hidden=8),
    "g": Library(2, outputs=2, hidden=8, layers=2),
    "head": Library(1, inputs=3, hidden=8),
    "a": Library(2, hidden=8),
}
# Each composition, and the same function of one point written out.
Run = Callable[[str, Tensor, int], Tensor]
CASES: dict[str, tuple[Composition, Callable[[Run, Tensor, list[int]], Tensor]]] = {
    "sum": (Sum(["f", "f", "a"]), lambda m, x, z: m("f", x, z[0]) + m("f", x, z[1]) + m("a", x, z[2])),
    "chain": (Chain(["f", "a", "g"]), lambda m, x, z: m("g", m("a", m("f", x, z[0]), z[1]), z[2])),
    "concatenate": (
        Chain([Concatenate(["f", "g"]), "head"]),
        lambda m, x, z: m("head", torch.cat((m("f", x, z[0]), m("g", x, z[1])), -1), z[2]),
    ),
    "attend": (
        Attend(["f", "f"], ["a", "a"]),
        lambda m, x, z: (
            (torch.stack((m("a", x, z[2]), m("a", x, z[3]))).softmax(0))
            * torch.stack((m("f", x, z[0]), m("f", x, z[1])))
        ).sum(0),
    ),
    "nested": (
        Chain([Sum(["f", Chain(["a", "f"])]), "a"]),
        lambda m, x, z: m("a", m("f", x, z[0]) + m("f", m("a", x, z[1]), z[2]), z[3]),
    ),
}


def alone(name: str, x: Tensor, module: int) -> Tensor:
    """One module, by its own weights."""
    network = LIBRARIES[name].networks
    for number, layer in enumerate(network.affine):
        x = (torch.relu(x) if number else x) @ layer.weight[module] + layer.bias[module]
    return x


@pytest.mark.parametrize("name", CASES)
def test_tasks_of_different_structures_are_evaluated_at_once(name: str) -> None:
    composition, naive = CASES[name]
    structures = composition.structures(LIBRARIES)
    assert structures.tolist() == [list(z) for z in itertools.product(*map(range, composition.sizes(LIBRARIES)))]
    x = torch.randn(len(structures), 5, 1)
    got = composition.chosen(LIBRARIES, x, structures)
    for task, row in enumerate(structures.tolist()):
        torch.testing.assert_close(got[task], naive(alone, x[task], row), rtol=1e-4, atol=1e-5)
    assert got.shape[-1] == composition.width(LIBRARIES, 1)


@pytest.mark.parametrize("name", CASES)
def test_every_structure_of_every_task(name: str) -> None:
    composition, x = CASES[name][0], torch.randn(3, 4, 1)
    structures = composition.structures(LIBRARIES)
    want = torch.stack([composition.chosen(LIBRARIES, x, row.expand(3, -1)) for row in structures], 1)
    torch.testing.assert_close(composition.every(LIBRARIES, x), want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [*CASES, "graph", "graphs"])
def test_some_structures_of_some_inputs_share_what_they_have_in_common(name: str) -> None:
    step = Graph(3, "g", "node")
    libraries = LIBRARIES | {"g": Library(2, inputs=2, hidden=8), "node": Library(2, inputs=2, hidden=8)}
    composition = {"graph": step, "graphs": Chain([step, step])}.get(name) or CASES[name][0]
    libraries = libraries if name.startswith("graph") else LIBRARIES
    every, x = composition.structures(libraries), torch.randn(4, 5, 3 if name.startswith("graph") else 1)
    which, structure = torch.randint(4, (60,)), every[torch.randint(min(len(every), 7), (60,))]
    out, index = composition.shared(libraries, x, which, structure)
    torch.testing.assert_close(out[index], composition.chosen(libraries, x[which], structure), rtol=1e-4, atol=1e-5)
    assert len(out) < 30  # at most four inputs under seven structures


def test_many_inputs_of_a_library_are_multiplied_by_module() -> None:
    library, module = (
        Library(3, hidden=8),
        torch.tensor([0] * 19 + [2] * 30),
    )  # no tile is full of one, one has no input
    x = torch.randn(49, 4, 1)
    torch.testing.assert_close(library.many(x, module), library(x, module))


@pytest.mark.parametrize("name", CASES)
def test_alike_structures_are_the_same_function_and_have_one_name(name: str) -> None:
    composition, x = CASES[name][0], torch.randn(1, 50, 1)
    structures = composition.structures(LIBRARIES)
    out = composition.every(LIBRARIES, x)[0]
    renamed = composition.alike(structures)
    torch.testing.assert_close(composition.alike(renamed), renamed)
    every = x.expand(len(structures), -1, -1)
    torch.testing.assert_close(composition.chosen(LIBRARIES, every, renamed), out, rtol=1e-4, atol=1e-5)
    far = torch.cdist(out.flatten(1), out.flatten(1), p=torch.inf, compute_mode="donot_use_mm_for_euclid_dist") > 1e-4
    assert (far == (renamed[:, None] != renamed).any(-1)).all()


def test_graph_is_the_one_of_trajectories() -> None:
    """One step of `Graph` is that of `ModularDynamics` with the same weights."""
    n, d, hidden = 4, 3, 8
    dynamics = ModularDynamics(
        d, 2, features=AbsoluteFeatures(), num_node_modules=2, hidden=hidden, edge_layers=1, node_layers=1,
        additive=False, linear_path=False, robust=False, activation=torch.relu,
    )  # fmt: skip
    model = RelationalModel(dynamics, FixedGaussian(0.5)).eval()
    channels = dynamics.edge_modules.affine[-1].weight.shape[2]
    libraries = {
        "edge": Library(2, 2 * d, channels, hidden, 1),
        "node": Library(2, d + channels, d, hidden, 1),
    }
    for name, network in (("edge", dynamics.edge_modules), ("node", dynamics.node_modules)):
        libraries[name].networks.load_state_dict(network.state_dict())
    structure = Structure(torch.randint(2, (2, n, n - 1)), torch.randint(2, (2, n)))
    states = torch.randn(2, n, 6, d)
    graph = Graph(n)
    assert graph.width(libraries, n * d) == n * d
    slots = torch.cat((structure.edge_modules.flatten(1), structure.node_modules), 1)
    got = graph.chosen(libraries, states.transpose(1, 2).flatten(2), slots).unflatten(-1, (n, d)).transpose(1, 2)
    errors = (states[:, :, 1:] - got[:, :, :-1]).abs()
    torch.testing.assert_close(model.errors(states, structure).abs(), errors, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("composition", "inputs", "told"),
    [
        (Chain(["f", "missing"]), 1, "missing"),
        (Chain(["g", "f"]), 1, "model.libraries.f.inputs=1"),
        (Sum(["f", "g"]), 1, "outputs"),
        (Attend(["f"], ["g"]), 1, "scores"),
    ],
)
def test_parts_that_do_not_fit_are_named(composition: Composition, inputs: int, told: str) -> None:
    with pytest.raises(UserError, match=told):
        composition.width(LIBRARIES, inputs)
    with pytest.raises(UserError, match="one score for each"):
        Attend(["f", "f"], ["a"])
    with pytest.raises(UserError, match="no parts"):
        Sum([])


def test_scores_of_two_values_may_have_the_other_sign_in_each_others_slot() -> None:
    attend, x = CASES["attend"][0], torch.randn(1, 6, 1)
    structures = attend.structures(LIBRARIES)
    negated = copy.deepcopy(LIBRARIES["a"])
    with torch.no_grad():
        for part in negated.networks.affine[-1].parameters():
            part.neg_()
    own, other = attend.twins()
    assert own == [0, 1, 2, 3]
    torch.testing.assert_close(
        attend.chosen(LIBRARIES | {"a": negated}, x.expand(len(structures), -1, -1), structures[:, other]),
        attend.chosen(LIBRARIES, x.expand(len(structures), -1, -1), structures),
    )
    assert all(len(one.twins()) == 1 for name, (one, _) in CASES.items() if name != "attend")


def test_a_head_may_read_slots_of_one_library_in_any_order() -> None:
    x, head = torch.randn(1, 6, 1), Library(1, inputs=2)
    libraries = {"f": Library(3), "head": head}
    tree = Chain([Concatenate(["f", "f"]), "head"])
    turned = copy.deepcopy(head)
    with torch.no_grad():
        turned.networks.affine[0].weight.copy_(head.networks.affine[0].weight.flip(1))
    structures = tree.structures(libraries)
    own, other = tree.twins()
    assert own == [0, 1, 2]
    torch.testing.assert_close(
        tree.chosen(libraries | {"head": turned}, x.expand(len(structures), -1, -1), structures[:, other]),
        tree.chosen(libraries, x.expand(len(structures), -1, -1), structures),
    )
    assert len(Chain([Concatenate(["f", "g", "f"]), "head"]).twins()) == 2
    assert len(Chain(["f", Concatenate(["f", "f", "f"]), "head"]).twins()) == 6
    assert len(Chain([Concatenate(["f", "f"]), "f"]).twins()) == 1  # the head is a module of other slots, too


def test_libraries_without_modules_or_layers_are_refused() -> None:
    with pytest.raises(UserError, match=r"modules=0 of a library in model\.libraries must be at least 1"):
        Library(0)
    with pytest.raises(UserError, match="layers=-1 of a library"):
        Library(2, layers=-1)
