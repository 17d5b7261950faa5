"""What any dynamics, features of a pair, likelihood or search must hold, as mixins.

A subclass gives the part as a fixture: `dynamics`, `features`, `likelihood` or `search`. `test_contracts.py` does so
for every YAML of `conf/model`, `conf/features`, `conf/likelihood` and `conf/search`: a new part that has a YAML is
tested. Meanwhile the shapes in the annotations of `CHECKED` are checked, too.
"""

import inspect
import sys
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any

import pytest
import torch
from beartype import beartype
from jaxtyping import jaxtyped
from torch import Tensor

from modmeta.graph.bank import Structure, random_structure
from modmeta.graph.relations import senders, to_matrix
from modmeta.model.dynamics.base import Dynamics, summed
from modmeta.model.features import PairFeatures
from modmeta.model.likelihood import Likelihood
from modmeta.model.model import RelationalModel
from modmeta.search.problem import Info, Problem, clamped, one_step_problem
from modmeta.search.search import Search
from modmeta.search.selection import greedy
from tests.conftest import make_model

CHECKED = ("modmeta.search", "modmeta.model.dynamics", "modmeta.model.features")
B, N, T, D = 3, 4, 7, 4


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function whose annotations are checked at every call."""
    return jaxtyped(function, typechecker=beartype)


@pytest.fixture(scope="module", autouse=True)
def shapes() -> Iterator[None]:
    """Checks the annotations of all functions and methods in `CHECKED`, wherever they are imported."""
    ours = {name: module for name, module in sys.modules.items() if name.startswith(("modmeta.", "tests."))}
    replaced: dict[int, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        for name, module in ours.items():
            if not name.startswith(CHECKED):
                continue
            for part in list(vars(module).values()):
                if getattr(part, "__module__", None) != name:
                    continue
                if isinstance(part, FunctionType):
                    replaced[id(part)] = checked(part)
                elif inspect.isclass(part):
                    for key, method in list(vars(part).items()):
                        if (isinstance(method, FunctionType) and not key.startswith("_")) or key == "__call__":
                            patch.setattr(part, key, checked(method))
        for module in ours.values():
            for key, value in list(vars(module).items()):
                if id(value) in replaced:
                    patch.setattr(module, key, replaced[id(value)])
        yield


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some_states(n: int = N) -> Tensor:
    """Tasks of n entities."""
    return torch.randn(B, n, T, D, generator=seeded(1))


class DynamicsContract:
    """A dynamics with K edge modules and G node modules, of four features, its parameters random and small."""

    @pytest.fixture
    def dynamics(self) -> Dynamics:
        raise NotImplementedError

    def structure(self, dynamics: Dynamics, n: int = N) -> Structure:
        return random_structure(B, n, dynamics.num_edge_modules, dynamics.num_node_modules, seeded(2))

    @torch.no_grad()
    def test_shapes_for_any_number_of_entities(self, dynamics: Dynamics) -> None:
        for n in (2, 5):
            states, structure = some_states(n), self.structure(dynamics, n)
            k, g = dynamics.num_edge_modules, dynamics.num_node_modules
            messages = dynamics.refined(dynamics.messages(states), states, structure)
            assert messages.shape[:5] == (B, n, n - 1, k, T - 1)
            rows, types = structure.edge_modules.unsqueeze(2), structure.node_modules.unsqueeze(2)
            change = dynamics.change(states[:, :, :-1], messages, rows, types)
            assert change.shape == (B, n, 1, T - 1, D)
            assert dynamics.targets(states).shape == (B, n, T - 1, D)
            assert dynamics.pair_law(states).shape[:5] == (B, n, n - 1, k, T)
            assert dynamics.rollout(states[:, :, :2], *structure, 3).shape == (B, n, 2, 3, D)
            assert dynamics.coast(states[:, :, :1], 5).shape == (B, n, 5, D)
            assert dynamics.resting.shape == (D,)
            assert dynamics.own_changes(torch.zeros(1, dynamics.node_modules.affine[0].weight.shape[1])).shape[0] == g

    @torch.no_grad()
    def test_a_step_depends_on_the_own_row_alone(self, dynamics: Dynamics) -> None:
        """One step ahead: what the search rests on."""
        states, (relations, types) = some_states(), self.structure(dynamics)
        other = relations.clone()
        other[:, 1] = (other[:, 1] + 1) % dynamics.num_edge_modules
        messages, respond = dynamics.messages(states), dynamics.responder(states[:, :, :-1])
        one, two = (respond(summed(messages, rows.unsqueeze(2)), types.unsqueeze(2)) for rows in (relations, other))
        differs = (one != two).flatten(2).any(-1)
        assert not differs[:, [0, 2, 3]].any()
        assert differs[:, 1].all()

    @torch.no_grad()
    def test_candidates_are_judged_together_as_alone(self, dynamics: Dynamics) -> None:
        states, k, g = some_states(), dynamics.num_edge_modules, dynamics.num_node_modules
        rows = torch.randint(k, (B, N, 6, N - 1), generator=seeded(3))
        types = torch.randint(g, (B, N, 6), generator=seeded(4))
        messages = dynamics.messages(states)
        every = dynamics.change(states[:, :, :-1], messages, rows, types)
        for m in range(6):
            alone = dynamics.change(states[:, :, :-1], messages, rows[:, :, m : m + 1], types[:, :, m : m + 1])
            torch.testing.assert_close(every[:, :, m], alone[:, :, 0], rtol=1e-4, atol=1e-5)

    @torch.no_grad()
    def test_rollouts_are_steps_in_turn(self, dynamics: Dynamics) -> None:
        states, structure = some_states()[:, :, :2], self.structure(dynamics)
        rollout = dynamics.rollout(states, *structure, 3)
        for step in range(3):
            states = dynamics.step(states, *structure)
            torch.testing.assert_close(rollout[..., step, :], states, rtol=1e-4, atol=1e-5)

    @torch.no_grad()
    def test_entities_have_no_order(self, dynamics: Dynamics) -> None:
        states, structure, order = some_states(), self.structure(dynamics), torch.tensor([2, 0, 3, 1])
        matrices = to_matrix(structure.edge_modules)[:, order][:, :, order]
        rows = torch.stack([matrices[:, i, senders(N)[i]] for i in range(N)], dim=1)
        before = dynamics.step(states, *structure)
        after = dynamics.step(states[:, order], rows, structure.node_modules[:, order])
        torch.testing.assert_close(after, before[:, order], rtol=1e-4, atol=1e-4)

    @torch.no_grad()
    def test_a_null_module_sends_nothing(self, dynamics: Dynamics) -> None:
        states, before = some_states(), dynamics.null_module
        dynamics.null_module = True
        messages = dynamics.messages(states)
        dynamics.null_module = before
        assert not messages[:, :, :, 0].any()
        assert messages[:, :, :, 1:].any()

    def test_every_parameter_learns(self, dynamics: Dynamics) -> None:
        """From messages and responses; weight decay applies to parameters of its own, each once."""
        states, (relations, types) = some_states(), self.structure(dynamics)
        messages = dynamics.refined(dynamics.messages(states), states, Structure(relations, types))
        change = dynamics.change(states[:, :, :-1], messages, relations.unsqueeze(2), types.unsqueeze(2))
        (change.squeeze(2) - dynamics.targets(states)).square().sum().backward()
        silent = [name for name, parameter in dynamics.named_parameters() if parameter.grad is None]
        assert not silent
        decayed, every = [id(part) for part in dynamics.perceptrons()], {id(part) for part in dynamics.parameters()}
        assert len(set(decayed)) == len(decayed)
        assert set(decayed) <= every


class FeaturesContract:
    """What an edge module sees of a pair, of four features that are two coordinates and their velocities."""

    @pytest.fixture
    def features(self) -> PairFeatures:
        raise NotImplementedError

    def pairs(self) -> tuple[Tensor, Tensor]:
        receiver, sender = torch.randn(2, 5, 6, D, generator=seeded(1))
        return receiver, sender

    def answers(self, features: PairFeatures, channels: int) -> Tensor:
        return torch.randn(3, 5, 6, features.answers(channels), generator=seeded(2))

    def powers(self, features: PairFeatures) -> Tensor | None:
        return torch.tensor([0.0, 1.0, -0.5]).view(3, 1, 1, 1) if features.power_law else None

    @pytest.mark.parametrize("channels", [2, 4])
    def test_numbers_are_as_many_as_told(self, features: PairFeatures, channels: int) -> None:
        receiver, sender = self.pairs()
        seen = features(receiver, sender)
        assert seen.shape == (5, 6, features.size(D))
        answers = self.answers(features, channels)
        sent = features.messages(answers, seen, receiver, sender, self.powers(features))
        assert sent.shape == (3, 5, 6, channels)
        if features.direct:
            assert torch.equal(sent, answers)

    def test_pairs_are_seen_one_by_one(self, features: PairFeatures) -> None:
        receiver, sender = self.pairs()
        torch.testing.assert_close(features(receiver, sender)[2, 3], features(receiver[2, 3], sender[2, 3]))

    def test_both_ends_see_the_same_where_they_share_an_answer(self, features: PairFeatures) -> None:
        receiver, sender = self.pairs()
        one, other = features(receiver, sender), features(sender, receiver)
        if not features.mutual:
            return
        torch.testing.assert_close(one, other)
        answers, powers = self.answers(features, D), self.powers(features)
        forth = features.messages(answers, one, receiver, sender, powers)
        torch.testing.assert_close(forth, -features.messages(answers, other, sender, receiver, powers))

    def test_a_pair_at_one_place_is_finite(self, features: PairFeatures) -> None:
        """Also where gradients are taken."""
        place = torch.zeros(1, D, requires_grad=True)
        seen = features(place, torch.zeros(1, D))
        assert seen.isfinite().all()
        seen.sum().backward()
        assert place.grad is not None
        assert place.grad.isfinite().all()


class LikelihoodContract:
    """A density of errors, of four features."""

    @pytest.fixture
    def likelihood(self) -> Likelihood:
        raise NotImplementedError

    @torch.no_grad()
    def test_scales_broadcast_to_states(self, likelihood: Likelihood) -> None:
        log_scale = likelihood.log_scale(some_states())
        assert torch.broadcast_shapes(log_scale.shape, (B, N, T, D)) == (B, N, T, D)
        assert log_scale.isfinite().all()

    @torch.no_grad()
    @pytest.mark.parametrize("log_scale", [-1.0, 0.0, 0.7])
    def test_energies_are_those_of_a_density(self, likelihood: Likelihood, log_scale: float) -> None:
        """Its integral is 1; it is even, and the less the larger the error."""
        error = torch.cat((-torch.logspace(4, -4, 4000), torch.logspace(-4, 4, 4000))).double().unsqueeze(-1)
        energy = likelihood.energy(error, torch.tensor([log_scale]).double())
        assert energy.shape == error.shape
        assert float(torch.trapezoid((-energy).exp().squeeze(), error.squeeze())) == pytest.approx(1, abs=2e-3)
        torch.testing.assert_close(energy, energy.flip(0))
        assert (energy[4000:].diff(dim=0) >= 0).all()

    def test_scales_learn(self, likelihood: Likelihood) -> None:
        parameters = list(likelihood.parameters())
        if not parameters:
            return
        likelihood.energy(torch.randn(B, N, T, D), likelihood.log_scale(some_states())).mean().backward()
        likelihood.follow()
        assert any(parameter.grad is not None for parameter in parameters)


class SearchContract:
    """A search as it is configured, of tasks that a small random model judges."""

    @pytest.fixture
    def search(self) -> Search:
        raise NotImplementedError

    @pytest.fixture(params=[1, 2])
    def model(self, request: pytest.FixtureRequest) -> RelationalModel:
        model = make_model("additive", "squared", k=2, g=request.param)
        with torch.no_grad():
            for parameter in model.dynamics.parameters():  # rollouts stay bounded
                parameter.mul_(0.25)
        return model

    def problem(self, search: Search, model: RelationalModel, known: Tensor | None = None) -> Problem:
        states = torch.randn(B, N, 11, D, generator=seeded(1))
        with torch.no_grad():
            if search.horizon == 1:
                return one_step_problem(model, states, known=known, edge_cost=search.edge_cost)
        return Problem(model, states, horizon=search.horizon, known=known, edge_cost=search.edge_cost)

    def start(self, search: Search, model: RelationalModel, known: Tensor | None = None) -> Structure:
        return clamped(random_structure(B, N, 2, model.dynamics.num_node_modules, seeded(2)), known)

    def moves(
        self, search: Search, model: RelationalModel, problem: Problem, structure: Structure, temperature: float
    ) -> Iterator[tuple[Structure, Structure, Info]]:
        """Structures before and after each of some steps."""
        kernel, generator = checked(search.kernel(model, N)), seeded(3)
        for _ in range(6):
            new, info = kernel(generator, structure, problem, torch.tensor(temperature))
            yield structure, new, info
            structure = new

    @pytest.mark.parametrize("temperature", [1e-3, 1e6])
    def test_what_a_step_says_of_itself_is_true(
        self, search: Search, model: RelationalModel, temperature: float
    ) -> None:
        """Energies are those of rescoring the new structure as a whole."""
        problem = self.problem(search, model)
        for old, new, info in self.moves(search, model, problem, self.start(search, model), temperature):
            assert new.edge_modules.shape == old.edge_modules.shape
            assert int(new.edge_modules.min()) >= 0
            assert int(new.edge_modules.max()) < 2
            assert int(new.node_modules.max()) < model.dynamics.num_node_modules
            with torch.no_grad():
                energies = model.energies(problem.states, new, search.horizon).sum(-1)
            paid = search.edge_cost * (new.edge_modules != 0).flatten(1).sum(-1)
            torch.testing.assert_close(info.energies, energies + paid, rtol=1e-3, atol=1e-2)
            moved = (new.edge_modules != old.edge_modules).flatten(1).any(-1) | (
                new.node_modules != old.node_modules
            ).any(-1)
            assert torch.equal(info.moved, moved)
            assert 0 <= int(info.accepted) <= int(info.worse)
            assert 0 <= float(info.changed) <= 1

    def test_steps_are_pure(self, search: Search, model: RelationalModel) -> None:
        """The same generator, structure and problem: the same step; and nothing that is given changes."""
        problem, start = self.problem(search, model), self.start(search, model)
        before = Structure(start.edge_modules.clone(), start.node_modules.clone())
        kernel, one = search.kernel(model, N), torch.tensor(1.0)
        first, _ = kernel(seeded(5), start, problem, one)
        again, _ = kernel(seeded(5), start, problem, one)
        for a, b, now, then in zip(first, again, start, before, strict=True):
            assert torch.equal(a, b)
            assert torch.equal(now, then)

    def test_known_relations_stay(self, search: Search, model: RelationalModel) -> None:
        truth = random_structure(B, N, 2, 1, seeded(7)).edge_modules
        known = torch.where(torch.rand(truth.shape, generator=seeded(8)) < 0.5, truth, -1)
        if search.symmetric:  # mutual relations may be known of whole pairs alone
            known = torch.where(known >= 0, torch.zeros_like(known), -1)
        problem = self.problem(search, model, known)
        for _, new, _ in self.moves(search, model, problem, self.start(search, model, known), 1e4):
            assert torch.equal(new.edge_modules[known >= 0], known[known >= 0])

    def test_greedy_steps_never_get_worse(self, search: Search, model: RelationalModel) -> None:
        problem, structure = self.problem(search, model), self.start(search, model)
        kernel, generator, energies = search.kernel(model, N, greedy), seeded(4), []
        for _ in range(6):
            structure, info = kernel(generator, structure, problem, torch.tensor(1e-30))
            energies.append(info.energies)
        assert (torch.stack(energies).diff(dim=0) <= 1e-3).all()
