"""Groups: tasks that share a structure, from the file to the batch."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from modmeta.data import formats
from modmeta.data.loading.batches import as_dataset
from modmeta.data.loading.datamodule import TrajectoryDataModule
from modmeta.data.reading import Reading
from modmeta.data.trajectories import Trajectories
from modmeta.data.units import Units
from modmeta.errors import DataError
from modmeta.keys import GROUP, TASK

N, T = 3, 6


def trials(groups: list, seed: int = 0) -> Trajectories:
    """Tasks of the given groups, whose relations depend on the group alone."""
    names = np.array(groups)
    states = np.random.default_rng(seed).standard_normal((len(groups), N, T, 2))
    relations = np.zeros((len(groups), N, N), np.int64)
    relations[:, 0, 1] = np.unique(names, return_inverse=True)[1]
    entities = np.array([["a", "b", "c"]] * len(groups))
    tasks = np.array([f"task {i}" for i in range(len(groups))])
    return Trajectories(
        states, relations, ("u", "v"), 0.1, task_names=tasks, entity_names=entities, group_names=names
    ).validate("made")


def test_a_group_is_its_first_task() -> None:
    data = trials(["z", "b", "z", "a", "b"])
    assert data.group_index().tolist() == [2, 1, 2, 0, 1]
    one = data.by_group()
    assert one.task_names is not None
    assert one.task_names.tolist() == ["a", "b", "z"]
    assert one.group_names is None
    np.testing.assert_array_equal(one.states, data.states[[3, 1, 0]])
    np.testing.assert_array_equal(one.relations[data.group_index()], data.relations)
    assert data[np.array([4, 0])].group_names.tolist() == ["b", "z"]
    alone = replace(data, group_names=None)
    assert alone.by_group() is alone
    assert alone.group_index().tolist() == [0, 1, 2, 3, 4]


def mask_of(task: int, entity: int) -> np.ndarray:
    mask = np.ones((4, N, T), bool)
    mask[task, entity] = False
    return mask


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda d: {"mask": mask_of(2, 2)}, "group z: entities of task task 2 and of task task 0 differ.*leave out"),
        (lambda d: {"entity_names": np.array([list("abc")] * 3 + [list("acb")])}, "group b: entities of task task 3"),
        (lambda d: {"relations": d.relations[[0, 1, 1, 3]]}, "group z: relations of task task 2.*different groups"),
        (lambda d: {"types": np.array([[0, 0, 1]] * 3 + [[0, 1, 1]])}, "group b: types of task task 3"),
        (lambda d: {"group_names": np.arange(3)}, "group_names are int64 of shape"),
        (lambda d: {"group_names": np.arange(4) / 2}, "group_names are float64"),
        (lambda d: {"group_names": np.array(["a" * 999] * 4)}, "a name has 999 characters"),
    ],
)
def test_tasks_of_a_group_share_what_a_structure_needs(change: Callable, told: str) -> None:
    data = trials(["z", "b", "z", "b"])
    with pytest.raises(DataError, match=f"file, split x.*{told}"):
        replace(data, **change(data)).validate("file, split x")


def test_names_of_absent_entities_are_ignored() -> None:
    data, mask = trials(["z", "z"]), np.ones((2, N, T), bool)
    mask[:, 2] = False
    names = np.array([["a", "b", "c"], ["a", "b", "d"]])
    replace(data, mask=mask, entity_names=names).validate("file")
    with pytest.raises(DataError, match="group z: entities"):
        replace(data, entity_names=names).validate("file")


# ---- files -----------------------------------------------------------------------------------------------------------


def table(path: Path, **columns: list) -> Path:
    """A table of 4 tasks of 3 entities; columns of 4 values are repeated for every row of a task."""
    task, entity, frame = (place.ravel() for place in np.meshgrid(range(4), range(N), range(T), indexing="ij"))
    rows = {"task": task, "frame": frame, "entity": entity, "u": np.sin(frame + entity + 2.0 * task)}
    parquet.write_table(pa.table(rows | {name: np.array(values)[task] for name, values in columns.items()}), path)
    return path


def test_a_column_names_the_groups(tmp_path: Path) -> None:
    path = table(tmp_path / "a.parquet", group=[3, 20, 3, 20], subject=["b", "b", "a", "b"])
    data = formats.load(path, how=Reading(features=("u",)))["test"]
    assert data.group_names.tolist() == [3, 20, 3, 20]
    data = formats.load(path, how=Reading(group="subject", features=("u",)))["test"]
    assert data.group_names.tolist() == ["b", "b", "a", "b"]
    path = table(tmp_path / "b.parquet", group=[3, 20, 3, 20])
    data = formats.load(path)["test"]
    assert data.features == ("u",)
    assert data.num_tasks == 4
    ignored = formats.load(path, how=Reading(group=None))["test"]
    assert (ignored.features, ignored.group_names) == (("u",), None)
    pooled = formats.load(path, how=Reading(group="all"))["test"]
    assert (pooled.features, pooled.group_names.tolist()) == (("u",), ["all"] * 4)
    feature = formats.load(path, how=Reading(features=("u", "group")))["test"]
    assert (feature.features, feature.group_names) == (("u", "group"), None)
    path = table(tmp_path / "c.parquet", group=[3, 4, 5, 6])
    named = formats.load(path, how=Reading(task="group", features=("u",)))["test"]
    assert (named.task_names.tolist(), named.group_names) == ([3, 4, 5, 6], None)


def test_a_column_named_all_comes_before_the_word(tmp_path: Path) -> None:
    path = table(tmp_path / "a.parquet", all=[1, 2, 1, 2])
    assert formats.load(path, how=Reading(group="all"))["test"].group_names.tolist() == [1, 2, 1, 2]
    path = table(tmp_path / "b.parquet")
    assert formats.load(path, how=Reading(group="all"))["test"].group_names.tolist() == ["all"] * 4


def test_groups_are_the_same_across_splits(tmp_path: Path) -> None:
    path = table(tmp_path / "a.parquet", group=["s 2", "s 1", "s 1", "s 2"], split=["train", "test", "train", "valid"])
    splits = formats.load(path)
    assert {name: data.group_names.tolist() for name, data in splits.items()} == {
        "train": ["s 2", "s 1"], "valid": ["s 2"], "test": ["s 1"],
    }  # fmt: skip


def test_what_is_no_group_is_refused(tmp_path: Path) -> None:
    path = table(tmp_path / "a.parquet", group=[1, 1, 2, 2], blank=["a", "", "b", "b"], half=[0.5, 0.5, 1.0, 1.0])
    with pytest.raises(DataError, match=r"a\.parquet: no 'subject' among \['blank', 'entity', .*group=all"):
        formats.load(path, how=Reading(group="subject", features=("u",)))
    with pytest.raises(DataError, match="has no blank"):
        formats.load(path, how=Reading(group="blank", features=("u",)))
    with pytest.raises(DataError, match="'half' is of type double"):
        formats.load(path, how=Reading(group="half", features=("u",)))
    with pytest.raises(DataError, match="'task' is used twice"):
        Reading(group="task")
    rows = parquet.read_table(path)
    changed = rows["group"].to_numpy().copy()
    changed[-1] = 7
    parquet.write_table(rows.set_column(rows.column_names.index("group"), "group", pa.array(changed)), path)
    with pytest.raises(DataError, match="task 3 has the groups 2 and 7 in column 'group'"):
        formats.load(path, how=Reading(features=("u",)))


@pytest.mark.parametrize("ending", ["npz", "h5"])
def test_arrays_hold_groups(ending: str, tmp_path: Path) -> None:
    data = trials(["z", "b", "z", "b"])
    path = tmp_path / f"a.{ending}"
    formats.save(path, {"train": data, "test": data[:1]})
    assert formats.load(path)["train"].group_names.tolist() == ["z", "b", "z", "b"]
    assert formats.load(path, "test", Reading(group=None))["test"].group_names is None
    with pytest.raises(DataError, match=r"no 'subject' among .*'groups'"):
        formats.load(path, how=Reading(group="subject"))
    with pytest.raises(DataError, match="split train has groups but split test has none"):
        formats.save(path, {"train": data, "test": replace(data, group_names=None)}, overwrite=True)


def test_a_single_split_needs_no_prefix(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "a.npz", states=trials([0, 0, 1]).states, groups=np.array([4, 4, 5]), subject=np.array([1, 2, 1])
    )
    assert formats.load(tmp_path / "a.npz")["test"].group_names.tolist() == [4, 4, 5]
    assert formats.load(tmp_path / "a.npz", how=Reading(group="subject"))["test"].group_names.tolist() == [1, 2, 1]


# ---- batches ---------------------------------------------------------------------------------------------------------


def test_a_batch_holds_the_groups_of_its_tasks() -> None:
    data, units = trials(["z", "b", "z", "a"]), Units((0.0, 0.0), (1.0, 1.0))
    tasks = as_dataset(data, units)
    assert tasks.groups.tolist() == [2, 1, 2, 0]
    batch = tasks[[3, 0]]
    assert batch[GROUP].tolist() == [0, 2]
    assert batch[TASK].tolist() == [3, 0]
    alone = as_dataset(replace(data, group_names=None), units)
    assert alone.groups is None
    assert GROUP not in alone[[0]]


def module_of(path: Path, splits: dict[str, Trajectories]) -> TrajectoryDataModule:
    formats.save(path, splits)
    sizes = {"num_tasks": splits["train"].num_tasks, "num_entities": N, "num_features": 2, "observed_frames": T}
    module = TrajectoryDataModule(path=str(path), num_relations=4, positions=0, **sizes)
    module.setup()
    return module


def test_indices_agree_between_splits(tmp_path: Path) -> None:
    splits = {"train": trials([30, 4, 30]), "valid": trials([4]), "test": trials([5, 30])}
    module = module_of(tmp_path / "a.npz", splits)
    assert module.group_names.tolist() == [4, 5, 30]
    assert module.num_groups == 3
    assert {name: data.groups.tolist() for name, data in module.splits.items()} == {
        "train": [2, 0, 2], "valid": [0], "test": [1, 2],
    }  # fmt: skip
    assert module.description()["grouped"] is True
    assert module.owned_tasks().tolist() == [0, 1, 2]
    alone = module_of(tmp_path / "b.npz", {name: replace(data, group_names=None) for name, data in splits.items()})
    assert (alone.group_names, alone.num_groups) == (None, None)
    assert alone.description()["grouped"] is False


def test_numbers_in_one_split_may_be_text_in_another(tmp_path: Path) -> None:
    splits = {"train": trials([30, 4]), "valid": trials([4]), "test": trials(["x", "30"])}
    module = module_of(tmp_path / "a.npz", splits)
    assert module.group_names.tolist() == ["30", "4", "x"]
    assert module.splits["test"].groups.tolist() == [2, 0]
    assert module.splits["train"].groups.tolist() == [0, 1]
