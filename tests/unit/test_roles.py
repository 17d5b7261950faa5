"""Models of tasks whose entities have roles: files with gaps, with errors that overflow, and that tell nothing."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from modmeta.api import Model, load, path_of
from modmeta.cli.prune import pruned
from modmeta.data.generation import generate
from modmeta.data.trajectories import Trajectories
from modmeta.errors import TaskError
from modmeta.evaluation.posterior import same_roles
from modmeta.simulators import Springs
from modmeta.training import judge
from modmeta.training.checkpoints.loading import read_checkpoint
from tests.tape import taped


@pytest.fixture
def model() -> Model:
    """Of three entities, the first of which acts on all."""
    one = load("springs5")
    one.module.search = replace(one.module.search, roles=[[[0.1, 0.9], [0.9, 0.1]]] * 3)
    return one


@pytest.fixture(scope="module")
def tasks() -> Trajectories:
    return generate(Springs(num_entities=3), {"test": (4, 60)}, seed=1, progress=False)["test"]


def test_longer_recordings_with_gaps_are_evaluated(model: Model, tasks: Trajectories) -> None:
    mask = np.ones(tasks.states.shape[:3], bool)
    mask[:, 1, 10:13] = False
    assert model.module.observed_frames < tasks.num_frames
    assert np.isfinite(model.evaluate(replace(tasks, mask=mask))["test/mse_1"])


def test_the_task_whose_errors_overflow_is_named(
    model: Model, tasks: Trajectories, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overflown(*args: object) -> None:
        raise TaskError(1, "errors overflow")

    monkeypatch.setattr(judge, "of_edges", overflown)
    monkeypatch.setattr(judge, "SOME", 2)
    with pytest.raises(TaskError, match="task c: errors overflow"):
        model.infer(replace(tasks, task_names=np.array(list("abcd"))))


@pytest.mark.parametrize("k", [2, 3, 4])
def test_tasks_that_tell_nothing_have_these_roles(k: int) -> None:
    """Sums of many numbers are rounded."""
    roles = -torch.rand(200, 5, 4, k, generator=torch.Generator().manual_seed(0)).log()
    assert all(same_roles(one, torch.full((10, 5, 4, k), 1 / k)) for one in roles)


def test_steps_with_roles_can_be_recorded(model: Model) -> None:
    search, states = model.module.search, torch.zeros(3)
    before = search.of_roles(3, states)
    out, _ = taped(lambda: search.of_roles(3, states), [])
    assert before is not None
    assert out is not None
    assert torch.equal(out, before)


def test_roles_are_of_the_modules_of_a_model(model: Model) -> None:
    """Also of one: probabilities of 1 would be none of anything else."""
    for number in (1, 3):
        with pytest.raises(ValueError, match=f"of {number} modules"):
            replace(model.module.search, roles=[[[1 / number] * number] * 2] * 3).check_roles(2)


def test_modules_that_are_pruned_have_no_roles(tmp_path: Path, tasks: Trajectories) -> None:
    content = read_checkpoint(path_of("springs5"))
    content["state_dict"]["usage"] = torch.tensor([0.001, 0.999])
    content["modmeta"]["config"]["search"]["roles"] = [[[0.1, 0.9], [0.9, 0.1]]] * 3
    torch.save(pruned(content, 0.01)[0], tmp_path / "small.ckpt")
    assert load(tmp_path / "small.ckpt").infer(tasks).roles
