"""Hidden entities against simulations, closed forms and dense algebra; the truth is never looked at."""

import numpy as np
import pytest
import torch
from torch import Tensor

from modmeta.api import path_of
from modmeta.data.generation import generate
from modmeta.data.units import Units, robust_scales
from modmeta.graph.bank import Structure, random_structure
from modmeta.graph.relations import MUTUAL, all_rows, from_matrix, to_matrix
from modmeta.hidden.chains import Chains, Improver
from modmeta.hidden.count import choose
from modmeta.hidden.infer import Found, find, informed
from modmeta.hidden.measures import Truth, matched, measures, modules_of
from modmeta.hidden.paths import PRIOR, Linear, linearise, refit
from modmeta.hidden.scene import Scene
from modmeta.hidden.starts import _distinct, guess
from modmeta.model.dynamics.continuous import ContinuousDynamics
from modmeta.model.features import IsotropicFeatures
from modmeta.model.likelihood import FixedGaussian, StudentT
from modmeta.model.model import RelationalModel
from modmeta.search.search import Search
from modmeta.search.selection import greedy
from modmeta.simulators import Springs
from modmeta.training.checkpoints.loading import load_model
from tests.conftest import make_model
from tests.known import KnownLaw

FRAMES = 30


class ExactSprings(KnownLaw):
    """The law of springs in the units of a `ContinuousDynamics`: module 0 does nothing, module 1 pulls."""

    def __init__(self, dynamics: ContinuousDynamics, units: Units) -> None:
        super().__init__()
        length = float(dynamics.state_scale[0]) * units.scale[0]  # of one scaled unit of distance
        self.strength = 0.1 * 0.1 * length / (float(dynamics.change_scale[2]) * units.scale[2])  # per frame of 0.1

    def forward(self, seen: Tensor) -> Tensor:
        pull = torch.cat((self.strength * seen[:, :1], torch.zeros_like(seen[:, :1])), dim=1)
        return torch.stack((torch.zeros_like(pull), pull))


def known_springs() -> tuple[RelationalModel, Tensor, Tensor]:
    """A model that knows the law of springs; states of tasks with entity 4 to be hidden, and matrices of relations."""
    data = generate(Springs(), {"test": (60, FRAMES)}, seed=3, progress=False)["test"]
    units = Units.of_range(data.states.min((0, 1, 2)), data.states.max((0, 1, 2)), 2)
    states = units.normalised(data.states)
    dynamics, likelihood = ContinuousDynamics(4, 2, IsotropicFeatures(2)), StudentT(4, 2)
    dynamics.set_scales(robust_scales(states, 2, units, data.frame_step))
    dynamics.edge_modules = ExactSprings(dynamics, units)  # type: ignore[assignment]
    torch.nn.init.zeros_(dynamics.node_modules.linear.weight)  # type: ignore[union-attr, arg-type]
    dynamics.lag.data.fill_(0.005)
    for parameter in likelihood.own.parameters():
        torch.nn.init.zeros_(parameter)
    likelihood.offset.data.fill_(float(np.log(1e-4)))
    model = RelationalModel(dynamics, likelihood).eval().requires_grad_(False)
    relations = torch.from_numpy(data.relations)
    connected = relations[:, :4, 4].sum(1)
    chosen = torch.cat([(connected == number).nonzero().squeeze(1)[:1] for number in (0, 1, 2, 3)])
    return model, states[chosen], relations[chosen]


@pytest.fixture(scope="module")
def springs() -> tuple[RelationalModel, Tensor, Tensor]:
    return known_springs()


def test_a_completed_scene_is_a_scene_like_any_other(states: Tensor) -> None:
    model = make_model("continuous")
    structure = random_structure(3, 4, 2, 1, torch.Generator().manual_seed(0))
    whole = model.dynamics.messages(states)
    for hidden in (1, 2):
        scene = Scene(model, states[:, :-hidden], hidden)
        torch.testing.assert_close(scene.all_messages(states[:, -hidden:]), whole)
        later = scene.frames(3, 9)
        torch.testing.assert_close(later.all_messages(states[:, -hidden:, 3:9]), whole[..., 3:8, :])
    rows, types = structure.edge_modules.unsqueeze(2), structure.node_modules.unsqueeze(2)
    energies = model.likelihood.energy(
        scene.errors(states[:, -2:], rows, types).squeeze(2), scene.log_scale(states[:, -2:])
    ).sum((-1, -2))
    torch.testing.assert_close(energies, model.receiver_energies(states, whole, rows, types).squeeze(2))


def test_errors_are_linear_near_a_path(states: Tensor) -> None:
    """Derivatives against differences, every frame and hidden entity moving at once."""
    model = make_model("continuous")
    structure = random_structure(3, 4, 2, 1, torch.Generator().manual_seed(0))
    rows, types = structure.edge_modules.unsqueeze(2), structure.node_modules.unsqueeze(2)
    scene, paths = Scene(model, states[:, :2], 2), states[:, 2:]
    errors, start, end = linearise(scene, paths, rows, types)
    move = 1e-3 * torch.randn(3, 11, 8)  # (C, T, H D)
    moved = paths + (move.unflatten(-1, (2, 4)).transpose(1, 2) * model.dynamics.state_scale)
    expected = Linear(errors.squeeze(2), start.squeeze(3), end.squeeze(3)).moved(move)
    actual = scene.errors(moved, rows, types).squeeze(2)
    assert (actual - expected).abs().max() < 0.02 * (actual - errors.squeeze(2)).abs().max()


def test_refitting_solves_the_least_squares_problem() -> None:
    """Blocks against one dense system, errors, derivatives and prior written out."""
    torch.manual_seed(4)
    c, m, n, t, d = 2, 4, 3, 6, 4
    linear = Linear(torch.randn(c, n, t - 1, d), torch.randn(c, m, n, t - 1, d), torch.randn(c, m, n, t - 1, d))
    places = 0.1 * torch.randn(c, t, m)
    log_scale = torch.full((c, n, t - 1, d), 3.0)  # so wide that no entity is an outlier
    move, _, _ = refit(linear, FixedGaussian(), log_scale, places, rounds=1)
    weight = np.exp(-3.0)
    for i in range(c):
        dense = torch.zeros(n, t - 1, d, t, m, dtype=torch.float64)
        for step in range(t - 1):
            dense[:, step, :, step] = linear.start[i].double().permute(1, 2, 3, 0)[:, step]
            dense[:, step, :, step + 1] = linear.end[i].double().permute(1, 2, 3, 0)[:, step]
        dense = dense.reshape(-1, t * m)
        rows = torch.cat((weight * dense, torch.eye(t * m, dtype=torch.float64) / PRIOR))
        sides = torch.cat((weight * linear.errors[i].double().flatten(), places[i].double().flatten() / PRIOR))
        best = torch.linalg.lstsq(rows, -sides.unsqueeze(1)).solution.view(t, m)
        torch.testing.assert_close(move[i], best, rtol=1e-6, atol=1e-8)


def test_the_best_guess_of_each_structure_is_kept() -> None:
    scores = torch.tensor([[5.0, 1.0, 2.0, 3.0]])
    codes = torch.tensor([[[0, 1], [1, 1], [1, 1], [0, 0]]])
    assert _distinct(scores, codes, 3, differ=True).tolist() == [[1, 3, 0]]
    assert _distinct(scores, codes, 4, differ=True).tolist() == [[1, 3, 0, 2]]
    assert _distinct(scores, codes, 3, differ=False).tolist() == [[1, 2, 3]]


def test_guesses_score_as_the_model_does(springs: tuple[RelationalModel, Tensor, Tensor]) -> None:
    """Scores and rows against the errors of the completed scenes, one row after the other."""
    model, states, _ = springs
    scene = Scene(model, states[:, :3, :8], 1)
    best = guess(scene, 20, 4, torch.Generator().manual_seed(0))
    for rank in range(4):
        least = torch.full((len(states), 3), torch.inf)
        kept = torch.zeros(len(states), 3)
        for code in range(8):
            row = torch.tensor([code >> 2 & 1, code >> 1 & 1, code & 1]).expand(len(states), 4, 1, 3)
            errors = scene.errors(best.paths[:, rank], row, torch.zeros(len(states), 4, 1, dtype=torch.long))[:, :3, 0]
            errors = errors * (-model.log_scale(scene.visible)).exp()
            energy = 0.5 * 28 * torch.log1p(errors.square().flatten(2).mean(2))
            least = torch.minimum(least, energy)
            kept = torch.where((row[:, :3, 0] == best.rows[:, rank]).all(-1), energy, kept)
        torch.testing.assert_close(least.sum(1), best.scores[:, rank], rtol=1e-3, atol=1e-2)
        torch.testing.assert_close(kept, least, rtol=1e-3, atol=1e-2)


def test_mutual_relations_of_hidden_particles(springs: tuple[RelationalModel, Tensor, Tensor]) -> None:
    model, states, relations = springs
    search = Search(greedy, symmetric=True)
    found = find(model, search, states[1:3, :4])
    assert torch.equal(to_matrix(found.structure.edge_modules), relations[1:3].long())
    structure = random_structure(3, 5, 2, 1, torch.Generator().manual_seed(0))
    rows, receivers = torch.randint(2, (6, 4)), torch.tensor([0, 0, 2, 3, 4, 4])
    improver = Improver(Scene(model, states[:3, :4], 1), search, torch.Generator())
    places = improver._mirrored(structure, rows, receivers)  # (Q, C, N), in counting order
    for q in range(3):
        for c, receiver in enumerate(receivers.tolist()):
            matrix = to_matrix(structure.edge_modules)[q]
            others = [entity for entity in range(5) if entity != receiver]
            matrix[receiver, others] = matrix[others, receiver] = rows[c]
            assert torch.equal(all_rows(4, 2)[places[q, c]], from_matrix(matrix))


def test_relations_are_mutual_where_those_of_training_were() -> None:
    search, model = Search(greedy), make_model("continuous")
    assert informed(search, model, 0.97, 5).symmetric
    assert not search.symmetric
    assert not informed(search, model, 0.9, 5).symmetric
    assert not informed(search, model, None, 5).symmetric
    assert not informed(search, model, 1.0, 20).symmetric
    assert not informed(Search(greedy, receivers="one"), model, 1.0, 5).symmetric
    assert informed(Search(greedy, symmetric=True), model, None, 5).symmetric


@pytest.mark.parametrize("name", ["springs5", "charged5", "kuramoto5"])
def test_models_that_come_along_know_how_mutual_relations_were(name: str) -> None:
    assert load_model(path_of(name))[1]["reciprocity"] > MUTUAL


@pytest.mark.parametrize(("n", "k"), [(8, 2), (5, 3)])
def test_mutual_relations_of_long_rows(n: int, k: int) -> None:
    """More rows than paths are refitted to, more structures than are weighed one by one; one chain has gone astray."""
    torch.manual_seed(0)
    model, generator = make_model("continuous", k=k), torch.Generator().manual_seed(0)
    scene = Scene(model, 0.5 * torch.randn(2, n - 1, 6, 4), 1)
    improver = Improver(scene, Search(greedy, symmetric=True), generator)
    paths, structure = 0.5 * torch.randn(2, 1, 6, 4), random_structure(2, n, k, 1, generator)
    paths[1] = torch.nan
    chains = Chains(torch.arange(2), paths, structure, torch.full((2, n), torch.inf))
    moved = improver.restructured(improver.judged(chains), torch.arange(n))
    matrix = to_matrix(moved.structure.edge_modules[0])
    assert torch.equal(matrix, matrix.T)


def test_the_least_number_that_suffices_is_chosen() -> None:
    nan = torch.nan
    energies = torch.tensor(
        [[-5.0, nan, nan], [1.0, -5.0, nan], [1.0, 0.95, 0.97], [1.0, -2.0, -5.0], [1.0, 2.0, -5.0], [1.0, -5.0, -5.05]]
    )
    assert choose(energies).tolist() == [0, 1, 0, 2, 2, 1]


def test_measures_by_hand() -> None:
    truth_matrix = torch.tensor([[[0, 1, 1], [1, 0, 0], [1, 0, 0]], [[0, 0, 0], [0, 0, 0], [0, 0, 0]]])
    found_matrix = torch.tensor([[[0, 1, 1], [1, 0, 1], [1, 0, 0]], [[0, 1, 0], [0, 0, 0], [1, 0, 0]]])
    paths = torch.zeros(2, 1, 3, 4)
    found = Found(
        paths + torch.tensor([1.0, 2.0]).view(2, 1, 1, 1), Structure(1 - from_matrix(found_matrix), torch.zeros(2, 3)),
        torch.zeros(2, 3), paths, paths.unsqueeze(1), torch.zeros(2, 1),
    )  # fmt: skip
    relation = torch.tensor([1, 0])  # of modules
    out = measures(found, Truth(paths, truth_matrix), relation, torch.tensor([False, True]))
    assert (out["mse"], out["median"]) == (2.5, 1.0)
    assert (out["mse_connected"], out["median_connected"]) == (1.0, 1.0)
    assert out["visible_accuracy"] == 0.75
    assert out["to_visible_accuracy"] == 0.75
    assert out["to_hidden_accuracy"] == 0.75
    assert out["hidden_accuracy"] == 0.75
    assert {number: part["tasks"] for number, part in out["mse_by_relations"].items()} == {"0": 1, "1": 1}
    assert torch.equal(modules_of(relation, truth_matrix), 1 - truth_matrix)


def test_two_hidden_entities_have_no_names() -> None:
    """They are scored in the order that fits, their relations with them."""
    truth = Truth(torch.randn(3, 2, 5, 4), torch.randint(2, (3, 4, 4)) * ~torch.eye(4, dtype=torch.bool))
    swap = torch.tensor([0, 1, 3, 2])
    found = Found(
        truth.states.flip(1) + 0.01, Structure(from_matrix(truth.relations[:, swap][:, :, swap]), torch.zeros(3, 4)),
        torch.zeros(3, 4), torch.zeros(3, 2, 5, 4), torch.zeros(3, 1, 2, 5, 4), torch.zeros(3, 1),
    )  # fmt: skip
    ordered = matched(found, truth)
    torch.testing.assert_close(ordered.paths, truth.states + 0.01)
    assert torch.equal(to_matrix(ordered.structure.edge_modules), truth.relations)
