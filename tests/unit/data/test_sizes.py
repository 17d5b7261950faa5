"""Tasks of different numbers of entities: files, batches, structures, measures."""

from collections import Counter
from pathlib import Path

import h5py
import hydra
import numpy as np
import pytest
import torch

from modmeta.cli.main import main
from modmeta.data import formats
from modmeta.data.formats.columns import write_columns
from modmeta.data.formats.relations import relations_table
from modmeta.data.generation import generate, generate_sizes, interleaved
from modmeta.data.loading.batches import TaskBatches, as_dataset, by_size
from modmeta.data.loading.datamodule import TrajectoryDataModule
from modmeta.data.loading.filemodule import FileDataModule, filled_from_file
from modmeta.data.reading import Reading
from modmeta.data.trajectories import Trajectories
from modmeta.data.transforms.gaps import known_steps
from modmeta.data.units import Units
from modmeta.errors import DataError
from modmeta.evaluation.protocol import BySize
from modmeta.graph.bank import Structure, StructureBank, mark_absent, random_structure
from modmeta.graph.relations import from_matrix
from modmeta.keys import OBSERVED, RELATIONS, STATES
from modmeta.simulators import Springs
from tests.conftest import make_model
from tests.runs import compose

SIZES = (3, 5, 4)
UNITS = Units((0.0,) * 4, (1.0,) * 4)


def springs(size: int, tasks: int = 6, frames: int = 12) -> Trajectories:
    return generate(Springs(num_entities=size), {"all": (tasks, frames)}, seed=size, progress=False)["all"]


@pytest.fixture(scope="module")
def parts() -> list[Trajectories]:
    """Six tasks of three, five and four entities each."""
    return [springs(size) for size in SIZES]


@pytest.fixture(scope="module")
def mixed(parts: list[Trajectories]) -> Trajectories:
    """All of them, one of every size after the other."""
    return interleaved(parts).validate("mixed")


# ---- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["npz", "h5", "csv", "parquet"])
def test_files_hold_tasks_of_different_sizes(ending: str, mixed: Trajectories, tmp_path: Path) -> None:
    path = tmp_path / f"a.{ending}"
    formats.save(path, {"test": mixed})
    how = Reading()
    if ending in ("csv", "parquet"):
        write_columns(tmp_path / "relations.csv", relations_table(mixed), False)
        how = Reading(relations=str(tmp_path / "relations.csv"))
    back = formats.load(path, how=how)["test"]
    np.testing.assert_array_equal(back.mask, mixed.mask)
    np.testing.assert_array_equal(back.relations, mixed.relations)
    np.testing.assert_allclose(back.states, mixed.states, rtol=1e-12, atol=1e-12)
    assert back.sizes == [3, 4, 5]
    assert known_steps(back) is None


@pytest.mark.parametrize("missing", ["error", "mask"])
def test_an_entity_that_is_nan_throughout_is_not_there(missing: str, tmp_path: Path) -> None:
    """Wherever it stands; it is moved behind the others, its relations may be anything, gaps stay gaps."""
    data = springs(4, tasks=3)
    states, relations = data.states.copy(), data.relations.copy()
    states[1, 1] = np.nan
    relations[1, 1, :] = relations[1, :, 1] = -1
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["states"], file["relations"] = states, relations
    back = formats.load(tmp_path / "a.h5", how=Reading(missing=missing))["test"]
    assert back.counts.tolist() == [4, 3, 4]
    np.testing.assert_array_equal(back.states[1, :3], data.states[1, [0, 2, 3]])
    np.testing.assert_array_equal(back.relations[1, :3, :3], data.relations[1][np.ix_([0, 2, 3], [0, 2, 3])])
    assert back.entity_names[1].tolist() == [0, 2, 3, 1]
    assert not back.relations[1, 3].any()
    states[2, 0, 5] = np.nan
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["states"] = states
    if missing == "error":
        with pytest.raises(DataError, match=r"task 2, entity 0, frame 5.*missing=mask"):
            formats.load(tmp_path / "b.h5", how=Reading(missing=missing))
        return
    back = formats.load(tmp_path / "b.h5", how=Reading(missing=missing))["test"]
    assert (known_steps(back) == OBSERVED).sum((1, 2)).tolist() == [44, 44, 42]


def test_what_makes_no_sense_is_refused(mixed: Trajectories, tmp_path: Path) -> None:
    alone = np.array(mixed.mask)
    alone[3, 1:] = False
    with pytest.raises(DataError, match=r"number of entities of task 3 is 1; relations need 2"):
        Trajectories(**(vars(mixed) | {"mask": alone})).validate("file")
    hole = np.array(mixed.mask)
    hole[1, 1] = False
    with pytest.raises(DataError, match=r"task 1 lacks entity 1 but has the next"):
        Trajectories(**(vars(mixed) | {"mask": hole})).validate("file")
    path = tmp_path / "a.npz"
    formats.save(path, dict.fromkeys(("train", "valid", "test"), mixed))
    with pytest.raises(DataError, match=r"3, 4, 5 entities.*num_entities=5; set it to \[3,4,5\]"):
        TrajectoryDataModule(path=str(path), num_tasks=18).setup()
    for wrong in ([], [5, 5], [5, 2.5]):
        with pytest.raises(DataError, match=r"data\.num_entities="):
            TrajectoryDataModule(world=Springs(), num_entities=wrong)
    with pytest.raises(DataError, match=r"data\.valid=1 must be at least 2, one task of every size"):
        TrajectoryDataModule(world=Springs(), num_entities=[3, 4], valid=1)


def test_inspect_counts_tasks_by_size(mixed: Trajectories, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    formats.save(tmp_path / "a.csv", {"all": mixed[:7]})
    assert main(["inspect", str(tmp_path / "a.csv")]) == 0
    said = capsys.readouterr().out
    assert "tasks by number of entities: 3 of 3, 2 of 4, 2 of 5" in said
    assert "3 to 5" in said
    assert "missing=mask" not in said  # nothing is missing


def test_an_entity_seen_too_late_is_not_there(tmp_path: Path) -> None:
    """Training looks at the first frames only; what comes after them is not taken for another entity."""
    data = springs(4, tasks=3)
    states = data.states.copy()
    states[:, 1, :9] = np.nan
    np.savez(tmp_path / "a.npz", states=states, relations=data.relations, features=data.features)
    words = ["data=files", f"data.path={tmp_path / 'a.npz'}", "data.reading.missing=mask", "data.observed_frames=8"]
    config = filled_from_file(compose(tmp_path / "run", *words))
    assert config.data.num_entities == [3, 4]  # the test task has them all
    train = hydra.utils.instantiate(config.data).load()["train"]
    assert train.counts.tolist() == [3]
    assert any(np.array_equal(train.states[0, :3], data.states[task, [0, 2, 3], :8]) for task in range(3))


# ---- simulation ------------------------------------------------------------------------------------------------------


def test_simulated_sizes_come_in_turn() -> None:
    counts = {"train": (7, 5), "test": (4, 6)}
    made = generate_sizes(Springs(), [3, 4], counts, seed=1, stream="task")
    assert made["train"].counts.tolist() == [3, 4, 3, 4, 3, 4, 3]
    assert made["test"].counts.tolist() == [3, 4, 3, 4]
    more = generate_sizes(Springs(), [3, 4], {"train": (20, 5)}, seed=1, stream="task")["train"]
    np.testing.assert_array_equal(more.states[:7], made["train"].states)
    one = generate_sizes(Springs(), [3], counts, seed=1, stream="task")["test"]
    np.testing.assert_array_equal(one.states, generate(Springs(num_entities=3), counts, seed=1)["test"].states)


def test_fillers_enter_no_statistics(tmp_path: Path) -> None:
    """Units, scales and spread of tasks that are padded are those of the same tasks without."""
    data = springs(4, tasks=8, frames=30)
    states = np.full((8, 7, 30, 4), np.nan)
    states[:, :4] = data.states
    made, units = [], []
    for name, values in (("plain", data.states), ("padded", states)):
        np.savez(tmp_path / f"{name}.npz", states=values, features=data.features, frame_step=data.frame_step)
        module = FileDataModule(
            str(tmp_path / f"{name}.npz"), Reading(), num_tasks=4, num_entities=4, observed_frames=30
        )
        module.setup()
        spread = module.load()["train"].present().std((0, 1, 2))
        made.append((*module.model_scales(), torch.from_numpy(spread)))
        units.append((module.units, module.meta["frame_motion"]))
    assert units[0] == units[1]
    for one, other in zip(*made, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


# ---- batches and structures ------------------------------------------------------------------------------------------


def test_a_batch_is_that_of_its_tasks_alone(parts: list[Trajectories], mixed: Trajectories) -> None:
    """States, labels and energies of tasks among others are those of the tasks of their size by themselves."""
    model, dataset = make_model(), as_dataset(mixed, UNITS)
    for ids in by_size(torch.arange(len(dataset)), dataset.counts):
        batch = dataset[ids.tolist()]
        alone = parts[SIZES.index(int(dataset.counts[ids[0]]))]
        assert torch.equal(batch[STATES], UNITS.normalised(alone.states))
        assert torch.equal(batch[RELATIONS], from_matrix(torch.from_numpy(alone.relations)))
        zeros = torch.zeros(batch[STATES].shape[:2], dtype=torch.long)
        energies = model.energies(batch[STATES], Structure(batch[RELATIONS], zeros))
        one = as_dataset(alone, UNITS)[list(range(6))]
        assert torch.equal(energies, model.energies(one[STATES], Structure(one[RELATIONS], zeros)))
    with pytest.raises(ValueError, match="not of one size"):
        dataset[[0, 1]]


def test_the_bank_keeps_structures_of_every_size() -> None:
    generator, counts = torch.Generator().manual_seed(0), torch.tensor([5, 3, 4, 3])
    start = mark_absent(random_structure(4, 5, 3, 2, generator), counts)
    assert [(row >= 0).sum().item() for row in start.edge_modules] == [20, 6, 12, 6]
    assert [(row >= 0).sum().item() for row in start.node_modules] == counts.tolist()
    bank, ids = StructureBank(torch.arange(4), start), torch.tensor([3, 1])
    assert torch.equal(bank.get(ids, entities=3).edge_modules, start.edge_modules[ids, :3, :2])
    new = random_structure(2, 3, 3, 2, generator)
    bank.put(ids, new, torch.zeros(2))
    assert all(torch.equal(a, b) for a, b in zip(bank.get(ids, entities=3), new, strict=True))
    assert torch.equal(bank.relations >= 0, start.edge_modules >= 0)
    assert torch.equal(bank.get(torch.tensor([0])).edge_modules, start.edge_modules[:1])


COUNTS = torch.tensor([3, 4] * 11 + [7])


def served(epochs: int, **settings: int) -> list[list[int]]:
    sampler = TaskBatches(len(COUNTS), 4, seed=1, counts=COUNTS, **{"batches": 5, **settings})
    batches = []
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        batches += list(sampler)
    return batches


def test_sizes_are_served_in_proportion() -> None:
    """Every task once a pass, batches of one size and nearly equal length, sizes in random order; always the same."""
    batches = served(14)
    per_pass = 3 + 3 + 1
    for start in range(0, 70, per_pass):
        assert Counter(task for batch in batches[start : start + per_pass] for task in batch) == dict.fromkeys(
            range(23), 1
        )
    assert {len(set(COUNTS[batch].tolist())) for batch in batches} == {1}
    assert {len(batch) for batch in batches} == {1, 3, 4}
    orders = {tuple(COUNTS[batch[0]].item() for batch in batches[i : i + per_pass]) for i in range(0, 70, per_pass)}
    assert len(orders) > 5
    assert served(14) == batches
    sampler = TaskBatches(23, 4, 5, seed=1, counts=COUNTS)
    sampler.set_epoch(3)
    sampler.skipped = 2
    assert list(sampler) == batches[17:20]
    assert len(TaskBatches(23, 4, None, 1, counts=COUNTS)) == per_pass
    assert sorted(task for batch in TaskBatches(23, 4, None, None, counts=COUNTS) for task in batch) == list(range(23))


def test_processes_share_every_size() -> None:
    shares = [served(1, rank=rank, world_size=3, batches=9) for rank in range(3)]
    tasks = [Counter(task for batch in share for task in batch) for share in shares]
    assert not set(tasks[0]) & set(tasks[1])
    assert sorted(set().union(*tasks)) == list(range(23))
    for size in (3, 4):
        assert {sum(COUNTS[task] == size for task in share).item() for share in tasks} <= {3, 4}
    lengths = {len(TaskBatches(23, 4, None, 1, rank, 3, COUNTS)) for rank in range(3)}
    assert len(lengths) == 1  # DDP waits for a process that has fewer steps


# ---- measures --------------------------------------------------------------------------------------------------------


def test_accuracy_by_size() -> None:
    measure = BySize()
    measure.update(torch.tensor([True, True, False, True]), 3)
    measure.update(torch.tensor([False, True]), 5)
    measure.update(torch.tensor([True, True, True, True]), 3)
    assert {n: float(value) for n, value in measure.compute().items()} == {3: 7 / 8, 5: 0.5}
