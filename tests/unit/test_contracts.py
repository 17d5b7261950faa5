"""Every part that is shipped holds its contract (`tests/contracts.py`)."""

import runpy
import sys

import hydra
import pytest
import torch
from torch import Tensor

from modmeta.model.basis import STEPS
from modmeta.model.dynamics.base import Dynamics
from modmeta.model.dynamics.continuous import ContinuousDynamics
from modmeta.model.features import PairFeatures
from modmeta.model.likelihood import Likelihood
from modmeta.search import problem
from modmeta.search.search import Search
from tests.conftest import make_model, random_scales
from tests.contracts import DynamicsContract, FeaturesContract, LikelihoodContract, SearchContract, shapes  # noqa: F401
from tests.runs import ROOT, configured


def shipped(group: str) -> list[str]:
    """The choices of a group of the configuration."""
    return sorted(path.stem for path in (ROOT / "conf" / group).glob("*.yaml"))


def random_weights(dynamics: Dynamics) -> Dynamics:
    """Small ones everywhere: perceptrons beside a linear path start at zero. Scales are not 1.

    Steep steps among own functions are ten times smaller, or states run away and rounding errors with them.
    """
    dynamics.set_scales(random_scales())
    for name, parameter in dynamics.named_parameters():
        torch.nn.init.normal_(parameter, std=0.05)
        if name == "own_laws":
            with torch.no_grad():
                parameter[..., -len(STEPS) * dynamics.centre.numel() :] *= 0.1
    return dynamics


class TestDynamics(DynamicsContract):
    """With one node module and with two, with the features that they come with."""

    @pytest.fixture(params=[(name, g) for name in shipped("model") if name != "composed" for g in (1, 2)], ids=str)
    def dynamics(self, request: pytest.FixtureRequest) -> Dynamics:
        name, g = request.param
        words = [f"model={name}", f"model.num_node_modules={g}", "model.hidden=8", "model.num_edge_modules=3"]
        if name == "laws":  # a cold start chooses these
            words += [
                "model.family='receiver x sender'", "model.coordinates=0", "model.smooth=true", "model.constants=false",
            ]  # fmt: skip
        return random_weights(hydra.utils.instantiate(configured(*words).model))


class TestDynamicsBesideLaws(DynamicsContract):
    """In continuous time, beside laws that a cold start found."""

    @pytest.fixture
    def dynamics(self) -> Dynamics:
        words = ("model=continuous", "model.family='along and across the line'", "model.hidden=8")
        dynamics = random_weights(hydra.utils.instantiate(configured(*words).model))
        assert isinstance(dynamics, ContinuousDynamics)
        assert dynamics.found is not None
        for law in (dynamics.found.edges, dynamics.found.alone):
            torch.nn.init.normal_(law, std=0.02)
        return dynamics


class TestDynamicsWithSlopes(DynamicsContract):
    """Laws beside constants and slopes of entities."""

    @pytest.fixture
    def dynamics(self) -> Dynamics:
        words = ["model=laws", "model.family='receiver x sender'", "model.coordinates=0", "model.smooth=true"]
        own = ["model.constants=true", "model.slopes=true", "model.num_edge_modules=3", "model.hidden=8"]
        return random_weights(hydra.utils.instantiate(configured(*words, *own).model))


class TestDynamicsOfFeatures(DynamicsContract):
    """In discrete time, with features of every kind."""

    @pytest.fixture(params=shipped("features"))
    def dynamics(self, request: pytest.FixtureRequest) -> Dynamics:
        words = ("model=default", f"features@model.features={request.param}", "model.hidden=8")
        return random_weights(hydra.utils.instantiate(configured(*words).model))


class TestFeatures(FeaturesContract):
    @pytest.fixture(params=shipped("features"))
    def features(self, request: pytest.FixtureRequest) -> PairFeatures:
        config = configured("model=default", f"features@model.features={request.param}")
        features = hydra.utils.instantiate(config.model.features)
        assert isinstance(features, PairFeatures)
        return features


class TestLikelihoods(LikelihoodContract):
    @pytest.fixture(params=shipped("likelihood"))
    def likelihood(self, request: pytest.FixtureRequest) -> Likelihood:
        likelihood = hydra.utils.instantiate(configured(f"likelihood={request.param}").likelihood)
        assert isinstance(likelihood, Likelihood)
        return likelihood


SEARCHES = {name: (f"search={name}",) for name in shipped("search")} | {
    "blocks": ("search.enumerate_up_to=0",),
    "sampled": ("search.enumerate_up_to=0", "search.flips=false"),
    "one": ("search.receivers=one", "search.edge_cost=0.3"),
    "flips": ("search.receivers=one", "search.enumerate_up_to=0", "search.uniform=true"),
    "mutual": ("search.symmetric=true",),
    "metropolis": ("search.selection._target_=modmeta.search.selection.metropolis",),
}


class TestSearches(SearchContract):
    """The searches of the configuration, and the other kernels that their settings choose."""

    @pytest.fixture(params=SEARCHES)
    def search(self, request: pytest.FixtureRequest) -> Search:
        search = hydra.utils.instantiate(configured(*SEARCHES[request.param]).search)
        assert isinstance(search, Search)
        return search


def test_wrong_shapes_are_noticed() -> None:
    """The contracts check annotations: a task too many dimensions, rows of real numbers."""

    with pytest.raises(Exception, match="B N T D"):
        make_model().dynamics.messages(torch.zeros(2, 3, 4))
    with pytest.raises(Exception, match="M S"):
        problem.prior_energies(torch.zeros(1, 1, 1, 2), torch.zeros(1, 1, 4, 3))


def test_shapes_need_no_further_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without jaxtyping, as in an installation without the tests' packages, annotations are plain tensors."""
    monkeypatch.setitem(sys.modules, "jaxtyping", None)
    made = runpy.run_path(str(ROOT / "modmeta" / "shapes.py"))
    for name in ("Bool", "Float", "Int"):
        assert made[name][Tensor, "B N"] is Tensor
