"""Data modules: worlds, batches, mistakes in files."""

from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pytest

from modmeta.data.generation import generate
from modmeta.data.loading.batches import TaskBatches
from modmeta.data.loading.datamodule import TrajectoryDataModule
from modmeta.data.loading.filemodule import tasks_of
from modmeta.data.reading import Reading
from modmeta.data.trajectories import Trajectories
from modmeta.errors import DataError
from modmeta.simulators import Springs
from tests.runs import ROOT, compose


def data_file(path: Path, entities: int = 5, **change: Any) -> Path:
    """A file of a few spring systems, with parts of the test split replaced."""
    splits = generate(
        Springs(num_entities=entities), {"train": (6, 49), "valid": (4, 49), "test": (4, 60)}, progress=False
    )
    test = splits["test"]
    splits["test"] = Trajectories(**({name: getattr(test, name) for name in test.__dataclass_fields__} | change))
    arrays: dict[str, Any] = {"features": np.array(test.features), "frame_step": 0.1, "settings": "{}", "format": 1}
    for name, split in splits.items():  # written by hand: `files.save` would refuse what these tests need
        arrays |= {f"{name}_states": split.states}
        if split.relations is not None:
            arrays |= {f"{name}_relations": split.relations}
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize("named", [False, True])
def test_only_coordinates_and_velocities_are_used_unless_others_are_named(tmp_path: Path, named: bool) -> None:
    lines = ["task,frame,entity,mass,x,y,vx,vy,likelihood"]
    states = np.random.default_rng(0).standard_normal((5, 3, 6, 4))
    for task, entity, frame in np.ndindex(5, 3, 6):
        x, y, vx, vy = states[task, entity, frame]
        lines.append(f"{task},{frame},{entity},{entity},{x},{y},{vx},{vy},0.9")
    file = tmp_path / "tracks.csv"
    file.write_text("\n".join(lines))
    every = ("x", "y", "vx", "vy", "mass", "likelihood")
    train = tasks_of(str(file), Reading(features=every if named else None), 0.2, 0.2, 0)["train"]
    assert train.features == (every if named else every[:4])
    assert train.num_features == train.states.shape[-1]
    said = "not used unless data.reading.features names them: mass, likelihood"
    assert (said in train.notes) is not named
    assert (np.abs(states[..., 0]) == np.abs(train.states[0, 0, 0, 0])).any()


def test_missing_file_names_itself(tmp_path: Path) -> None:
    data = TrajectoryDataModule(path=str(tmp_path / "nowhere.npz"), num_tasks=2)
    with pytest.raises(DataError, match=r"nowhere\.npz"):
        data.setup()


def test_truncated_file_names_itself(tmp_path: Path) -> None:
    path = data_file(tmp_path / "short.npz")
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(DataError, match=r"short\.npz"):
        TrajectoryDataModule(path=str(path), num_tasks=2).setup()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_states_that_are_not_finite_are_placed(tmp_path: Path, value: float) -> None:
    states = np.zeros((4, 5, 60, 4))
    states[2, 3, 7, 1] = value
    path = data_file(tmp_path / "holes.npz", states=states)
    with pytest.raises(DataError, match=r"holes\.npz.*task 2.*entity 3.*frame 7"):
        TrajectoryDataModule(path=str(path), num_tasks=2).setup()


def test_wrong_shapes(tmp_path: Path) -> None:
    path = data_file(tmp_path / "flat.npz", states=np.zeros((4, 5, 60)))
    with pytest.raises(DataError, match=r"flat\.npz"):
        TrajectoryDataModule(path=str(path), num_tasks=2).setup()
    path = data_file(tmp_path / "small.npz", relations=np.zeros((4, 4, 4), np.int64))
    with pytest.raises(DataError, match=r"small\.npz"):
        TrajectoryDataModule(path=str(path), num_tasks=2).setup()


def test_too_few_tasks_and_other_entities(tmp_path: Path) -> None:
    path = str(data_file(tmp_path / "few.npz"))
    with pytest.raises(DataError, match=r"6 training tasks.*num_tasks=7"):
        TrajectoryDataModule(path=path, num_tasks=7).setup()
    with pytest.raises(DataError, match=r"5 entities.*num_entities=6"):
        TrajectoryDataModule(path=path, num_tasks=2, num_entities=6).setup()
    three = np.zeros((4, 5, 5), np.int64)
    three[0, 0, 1] = 2
    path = str(data_file(tmp_path / "three.npz", relations=three))
    with pytest.raises(DataError, match=r"relation 2.*num_relations=2"):
        TrajectoryDataModule(path=path, num_tasks=2).setup()


OTHERS = {"simulated", "files", "functions", "sines"}  # of no world, or of functions
WORLDS = sorted({path.stem for path in (ROOT / "conf/data").glob("*.yaml")} - OTHERS)


@pytest.mark.parametrize("world", WORLDS)
def test_every_data_file_describes_its_world(world: str, tmp_path: Path) -> None:
    data = hydra.utils.instantiate(compose(tmp_path / "run", f"data={world}").data)
    assert f"{data.world.name}{data.sizes[0]}" == world.replace("3kinds", "")
    assert len(data.world.features) == data.num_features
    assert len(data.world.edge_values) == data.num_relations
    names = data.world.features
    assert names[data.positions : 2 * data.positions] == tuple(f"v{name}" for name in names[: data.positions])


def test_batches_are_passes_in_random_order() -> None:
    sampler = TaskBatches(10, 3, 4, seed=1)
    served = []
    for epoch in range(6):
        sampler.set_epoch(epoch)
        served += list(sampler)
    assert all(len(batch) == len(set(batch)) == 3 for batch in served)
    for start in range(0, 24, 3):  # three batches to a pass, no task twice in it
        assert len({task for batch in served[start : start + 3] for task in batch}) == 9
    assert served[:3] != served[3:6]
    sampler.set_epoch(2)
    assert list(sampler) == served[8:12]


def test_ranks_share_the_tasks_without_overlap() -> None:
    parts = [{task for batch in TaskBatches(11, 4, None, 0, rank, 2) for task in batch} for rank in range(2)]
    assert not parts[0] & parts[1]
    assert parts[0] <= set(range(0, 11, 2))
    assert len(TaskBatches(11, 4, None, 0, 0, 2)) == len(TaskBatches(11, 4, None, 0, 1, 2)) == 2
    everything = [task for rank in range(2) for batch in TaskBatches(11, 4, None, None, rank, 2) for task in batch]
    assert sorted(everything) == list(range(11))
