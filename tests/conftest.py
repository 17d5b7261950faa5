"""Small models and trajectories that tests share."""

from pathlib import Path

import pytest
import torch
from hypothesis import settings

from modmeta import machine
from modmeta.data import formats
from modmeta.data.formats.columns import write_columns
from modmeta.data.formats.relations import relations_table
from modmeta.data.generation import generate
from modmeta.data.trajectories import Trajectories
from modmeta.data.units import Scales
from modmeta.model.dynamics.base import Dynamics
from modmeta.model.dynamics.continuous import ContinuousDynamics
from modmeta.model.dynamics.discrete import ModularDynamics
from modmeta.model.features import AbsoluteFeatures, IsotropicFeatures, RelativeFeatures
from modmeta.model.likelihood import FixedGaussian, Gaussian, StudentT
from modmeta.model.model import RelationalModel
from modmeta.simulators import Springs

# `make test` has the same examples each time; `pytest --hypothesis-profile=default` draws new ones.
settings.register_profile("fixed", derandomize=True, deadline=None)
settings.load_profile("fixed")
# Their assertions say what they compared, as those in files of tests do.
pytest.register_assert_rewrite("tests.contracts", "tests.contracts_data", "tests.contracts_methods", "tests.runs")
# Runs of this process are compared bit by bit with runs of others, which have one thread (tests/runs.py).
torch.set_num_threads(1)

LIKELIHOODS = {
    "squared": lambda: FixedGaussian(0.5),
    "gaussian": lambda: Gaussian(4),
    "student_t": lambda: StudentT(4, 2),
}
DYNAMICS = {
    "additive": {"features": RelativeFeatures(2), "additive": True},
    "mlp": {"features": RelativeFeatures(2), "additive": False},
    "paper": {"features": AbsoluteFeatures(), "additive": False, "linear_path": False, "robust": False},
    "isotropic": {"features": IsotropicFeatures(2)},
    "continuous": {"features": IsotropicFeatures(2)},
    "gated": {"features": AbsoluteFeatures(gated=True)},
}


def random_scales() -> Scales:
    """Scales of four features that are not 1."""
    return Scales(
        torch.randn(4),
        torch.rand(4) + 0.5,
        torch.rand(4) + 0.5,
        torch.randn(4),
        torch.tensor(0.3),
        torch.tensor([[-torch.inf], [torch.inf]]).repeat(1, 2),
        torch.full((2,), 1.0),
    )


def make_model(kind: str = "additive", likelihood: str = "student_t", k: int = 2, g: int = 1) -> RelationalModel:
    """A small model with random weights everywhere and scales that are not 1."""
    kind_of = ContinuousDynamics if kind == "continuous" else ModularDynamics
    dynamics: Dynamics = kind_of(4, k, num_node_modules=g, hidden=8, **DYNAMICS[kind])
    dynamics.set_scales(random_scales())
    wild = kind in ("isotropic", "continuous")  # long rollouts under large random laws diverge
    for parameter in dynamics.parameters():  # perceptrons beside a linear path start at zero
        torch.nn.init.normal_(parameter, std=0.02 if wild else 0.4)
    return RelationalModel(dynamics, LIKELIHOODS[likelihood]()).eval()


@pytest.fixture(autouse=True)
def _same_numbers_each_time() -> None:
    """Tests draw the same random numbers in whatever order they run."""
    torch.manual_seed(0)


@pytest.fixture(params=["cpu", "gpu"])
def either_device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps written for the CPU, whose shapes depend on structures, and those for a GPU, on the CPU."""
    monkeypatch.setattr(machine, "waits", lambda values: request.param == "gpu")


@pytest.fixture
def states() -> torch.Tensor:
    """Three tasks of four entities over eleven frames."""
    return torch.randn(3, 4, 11, 4, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="session")
def springs() -> Trajectories:
    """Twelve spring systems that the packaged model has never seen."""
    return generate(Springs(), {"test": (12, 49)}, seed=99, progress=False)["test"]


@pytest.fixture(scope="session")
def springs_file(springs: Trajectories, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of them, and one of their relations, `truth.csv` beside it."""
    path = tmp_path_factory.mktemp("springs") / "springs.csv"
    formats.save(path, {"test": springs})
    write_columns(path.with_name("truth.csv"), relations_table(springs), False)
    return path


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
