"""Types of entities: node modules that scale forces, their search beside edges, labels in files and measures."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from modmeta.data import formats
from modmeta.data.generation import generate
from modmeta.data.loading.batches import as_dataset
from modmeta.data.trajectories import Trajectories
from modmeta.data.units import Units, robust_scales
from modmeta.errors import DataError
from modmeta.evaluation.protocol import ProtocolMeasures
from modmeta.graph.bank import Structure, random_structure
from modmeta.graph.relations import from_matrix
from modmeta.keys import TYPES
from modmeta.model.dynamics.base import GAIN
from modmeta.model.dynamics.continuous import ContinuousDynamics
from modmeta.model.features import IsotropicFeatures
from modmeta.model.likelihood import FixedGaussian
from modmeta.model.model import RelationalModel
from modmeta.search.infer import Inferred, infer
from modmeta.search.search import Search
from modmeta.search.selection import gibbs
from modmeta.simulators import Masses
from tests.conftest import make_model
from tests.known import KnownLaw

FRICTION, STRENGTH = 0.1, 3.0


class ExactSprings(KnownLaw):
    """Springs of module 1 in the units of a `ContinuousDynamics`; module 0 sends nothing."""

    def __init__(self, dynamics: ContinuousDynamics, units: Units) -> None:
        super().__init__()
        length = float(dynamics.state_scale[0]) * units.scale[0]
        self.strength = STRENGTH * length / (float(dynamics.change_scale[2]) * units.scale[2] / 0.1)

    def forward(self, seen: Tensor) -> Tensor:
        pull = self.strength * seen[:, :1]
        nothing = torch.zeros_like(pull)
        return torch.stack((torch.cat((nothing, nothing), 1), torch.cat((pull, nothing), 1)))


def exact(data: Trajectories, units: Units) -> ContinuousDynamics:
    """Dynamics that know the law of `Masses`: node module 0 is light, 1 is heavy."""
    dynamics = ContinuousDynamics(4, 2, IsotropicFeatures(2), num_node_modules=2).requires_grad_(False)
    dynamics.set_scales(robust_scales(units.normalised(data.states), 2, units, data.frame_step))
    dynamics.edge_modules = ExactSprings(dynamics, units)  # type: ignore[assignment]
    dynamics.lag.fill_(0.005)
    assert dynamics.log_mobility is not None
    dynamics.log_mobility.copy_(-torch.tensor([1.0, 3.0]).log() / GAIN)
    linear, rest = dynamics.node_modules.linear, dynamics.rest
    assert linear is not None
    linear.weight.zero_()
    for module, mass in enumerate((1.0, 3.0)):
        rate = FRICTION / mass * 0.1  # in a frame
        loses = np.expm1(-rate)  # of its velocity
        lags = -loses / rate - 1  # of the way that it would have gone
        for axis in range(2):
            at = dynamics.centre[2 + axis] - rest[axis]
            for feature, part in ((axis, lags * dynamics.step_scale), (2 + axis, loses)):
                linear.weight[module, 2 + axis, feature] = (
                    part * dynamics.state_scale[2 + axis] / dynamics.change_scale[feature]
                )
                linear.bias[module, 0, feature] = part * at / dynamics.change_scale[feature]
    return dynamics


@pytest.fixture(scope="module")
def masses() -> tuple[ContinuousDynamics, Tensor, Structure]:
    """Exact dynamics, states in protocol units and true structures of particles that often touch walls."""
    world = Masses(box=1.0, position_std=0.4, speed=0.8, friction=FRICTION, strength=STRENGTH)
    data = generate(world, {"test": (60, 25)}, seed=3, progress=False)["test"]
    units = Units.of_range(data.states.min((0, 1, 2)), data.states.max((0, 1, 2)), 2)
    assert data.relations is not None
    assert data.types is not None
    structure = Structure(from_matrix(torch.from_numpy(data.relations)), torch.from_numpy(data.types))
    return exact(data, units), units.normalised(data.states), structure


def test_forecasts_know_masses_drag_and_walls(masses: tuple[ContinuousDynamics, Tensor, Structure]) -> None:
    dynamics, states, structure = masses

    def errors(types: Tensor) -> Tensor:
        forecast = dynamics.rollout(states[:, :, :-1], structure.edge_modules, types, 1).squeeze(3)
        return (forecast - states[:, :, 1:]).abs().amax(-1)

    hit = dynamics._unfold(states)[1].any(-1)
    right, wrong = errors(structure.node_modules), errors(1 - structure.node_modules)
    assert right[~hit].median() < 1e-3
    assert right[~hit].median() < wrong[~hit].median() / 20
    assert right[hit].median() < 3e-3


def test_paths_of_close_pairs_follow_from_types(masses: tuple[ContinuousDynamics, Tensor, Structure]) -> None:
    dynamics, states, structure = masses
    hit = dynamics._unfold(states)[1]
    tasks, frames = dynamics._close(states, torch.zeros_like(hit))
    rows, types = structure.edge_modules.unsqueeze(2), structure.node_modules.unsqueeze(2)
    apart = ~hit.any(-1).any(1)[tasks, frames]

    def residuals(path: Tensor) -> Tensor:
        messages = dynamics.refined(dynamics.messages(states), states, Structure(structure.edge_modules, path))
        error = dynamics.change(states[:, :, :-1], messages, rows, types).squeeze(2) - dynamics.targets(states)
        return error.norm(dim=-1).transpose(1, 2)[tasks, frames][apart]

    assert residuals(structure.node_modules).median() < residuals(1 - structure.node_modules).median()


@pytest.mark.parametrize("enumerate_up_to", [1024, 0])
def test_types_and_edges_are_found_together(enumerate_up_to: int) -> None:
    """All 32 candidates of a receiver at once, and a block of slots with the type at a time."""
    data = generate(Masses(strength=STRENGTH, box=50.0), {"test": (20, 30)}, seed=4, progress=False)["test"]
    units = Units.of_range(data.states.min((0, 1, 2)), data.states.max((0, 1, 2)), 2)
    model = RelationalModel(exact(data, units), FixedGaussian(0.05))
    search = Search(gibbs, enumerate_up_to=enumerate_up_to, uniform=True, sweeps=2)
    found = infer(search, model, None, units.normalised(data.states), torch.Generator().manual_seed(0)).structure
    assert (found.node_modules == torch.from_numpy(data.types)).float().mean() >= 0.99
    assert (found.edge_modules == from_matrix(torch.from_numpy(data.relations))).float().mean() >= 0.99


def test_type_accuracy_follows_the_matching() -> None:
    model, types = make_model(g=3), torch.randint(2, (6, 4))
    structure = random_structure(6, 4, 2, 3, torch.Generator().manual_seed(1))
    inferred = Inferred(structure, torch.full((6, 4, 3, 2), 0.5), torch.zeros(6), None)
    measures, matched = ProtocolMeasures(2, 2, 10, (1,), num_types=2), torch.tensor([1, 0, 1])
    for part in (slice(0, 4), slice(4, 6)):
        piece = inferred._replace(structure=Structure(structure.edge_modules[part], structure.node_modules[part]))
        measures.update(
            model,
            piece,
            torch.randn(6, 4, 5, 4)[part],
            None,
            torch.arange(2),
            types=types[part],
            module_to_type=matched,
        )
    expected = float((matched[structure.node_modules] == types).float().mean())
    assert float(measures.compute()["type_accuracy"]) == pytest.approx(expected)
    assert "type_accuracy" not in ProtocolMeasures(2, 2, 10, (1,)).compute()


@pytest.mark.parametrize("ending", ["npz", "h5"])
def test_types_survive_files_and_batches(ending: str, tmp_path: Path) -> None:
    data = generate(Masses(), {"test": (5, 4)}, progress=False)["test"]
    formats.save(tmp_path / f"a.{ending}", {"test": data})
    back = formats.load(tmp_path / f"a.{ending}")["test"]
    np.testing.assert_array_equal(back.types, data.types)
    batch = as_dataset(back[1:4], Units((0.0,) * 4, (1.0,) * 4))[[2, 0]]
    np.testing.assert_array_equal(batch[TYPES], data.types[[3, 1]])
    assert TYPES not in as_dataset(replace(back, types=None), Units((0.0,) * 4, (1.0,) * 4))[[0]]


def test_types_that_are_no_labels_are_refused() -> None:
    data = generate(Masses(), {"test": (5, 4)}, progress=False)["test"]
    for wrong in (data.types - 1, data.types[:, 1:], data.types.astype(float)):
        with pytest.raises(DataError, match="integer labels from 0"):
            replace(data, types=wrong).validate("memory")
