"""Tables and HDF5: what is written comes back, in any order of rows; what is missing is named, or masked on request."""

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modmeta.data.formats import load, save
from modmeta.data.formats.columns import write_columns
from modmeta.data.formats.relations import relations_table
from modmeta.data.reading import Reading
from modmeta.data.trajectories import Trajectories
from modmeta.data.transforms.gaps import known_steps
from modmeta.errors import DataError
from modmeta.keys import OBSERVED
from tests.unit.data.test_files import assert_same, example

ENDINGS = ["csv", "tsv", "parquet", "h5", "npz"]


def written(path: Path, data: Trajectories, **splits: Trajectories) -> Path:
    """A file of `data`, or of several splits."""
    if path.suffix == ".tsv":  # not a form that we write
        save(path.with_suffix(".csv"), splits or {"test": data})
        table = csv.read_csv(path.with_suffix(".csv"))
        csv.write_csv(table, path, csv.WriteOptions(delimiter="\t"))
    else:
        save(path, splits or {"test": data})
    return path


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_format_comes_back(ending: str, tmp_path: Path) -> None:
    data = replace(example(tasks=12), relations=None, frame_step=1.0, settings={})
    back = load(written(tmp_path / f"data.{ending}", data))["test"]
    assert_same(data, back)
    splits = {"train": data[:5], "valid": data[5:7], "test": data[7:]}
    many = load(written(tmp_path / f"many.{ending}", data, **splits))
    assert list(many) == ["train", "valid", "test"]
    for name, part in splits.items():
        np.testing.assert_array_equal(many[name].states, part.states)
    assert list(load(tmp_path / f"many.{ending}", "valid")) == ["valid"]
    with pytest.raises(DataError, match=r"no split 'dev'"):
        load(tmp_path / f"many.{ending}", "dev")


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_relations_are_a_table_of_their_own(ending: str, tmp_path: Path) -> None:
    data = example(tasks=4)
    path, labels = tmp_path / f"data.{ending}", tmp_path / f"labels.{ending}"
    save(path, {"test": data})
    write_columns(labels, relations_table(data), False)
    back = load(path, how=Reading(relations=str(labels), frame_step=data.frame_step))["test"]
    np.testing.assert_array_equal(back.relations, data.relations)
    assert back.frame_step == data.frame_step


def test_hdf5_groups_and_attributes(tmp_path: Path) -> None:
    data = example()
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_group("train")["states"] = data.states
        file["train"]["relations"] = data.relations
        file.attrs["features"] = ["x", "y", "vx", "vy"]
        file.attrs["frame_step"] = 0.1
    back = load(tmp_path / "a.h5")["train"]
    assert_same(replace(data, settings={}), back)


@given(seed=st.integers(0, 10**6), names=st.sampled_from(["numbers", "strings"]))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_order_of_rows_means_nothing_and_names_come_back(seed: int, names: str, tmp_path: Path) -> None:
    data = replace(example(tasks=11, seed=seed), relations=None, frame_step=1.0, settings={})
    prefix = "" if names == "numbers" else "é-"
    columns = {"scene": [], "t": [], "who": [], "x": [], "y": [], "vx": [], "vy": []}
    for task, entity, frame in np.ndindex(data.states.shape[:3]):
        columns["scene"].append(f"{prefix}{task + 5}")
        columns["t"].append(100 + 2 * frame)
        columns["who"].append(f"{prefix}{10 * task + entity}")
        for feature, value in zip(["x", "y", "vx", "vy"], data.states[task, entity, frame], strict=True):
            columns[feature].append(value)
    order = np.random.default_rng(seed).permutation(len(columns["t"]))
    csv.write_csv(pa.table(columns).take(order), tmp_path / "a.csv")
    back = load(tmp_path / "a.csv", how=Reading(task="scene", frame="t", entity="who"))["test"]
    expected = [f"{prefix}{task + 5}" for task in range(11)]
    if names == "strings":  # sorted as text
        place = [expected.index(str(name)) for name in back.task_names]
        assert sorted(expected) == back.task_names.tolist()
    else:
        place = list(range(11))
        assert [str(name) for name in back.task_names] == expected
    for here, task in enumerate(place):
        own = [f"{prefix}{10 * task + entity}" for entity in range(4)]
        assert sorted(own) == sorted(map(str, back.entity_names[here]))
        index = [own.index(str(name)) for name in back.entity_names[here]]
        np.testing.assert_array_equal(back.states[here], data.states[task, index])
    assert back.frame_step == 2.0
    assert back.mask is None


def rows(data: Trajectories) -> dict[str, list]:
    """Columns of a table that tests can spoil."""
    columns: dict[str, list] = {name: [] for name in ("task", "frame", "entity", *data.features)}
    for task, entity, frame in np.ndindex(data.states.shape[:3]):
        for name, value in zip(columns, (task, frame, entity, *data.states[task, entity, frame]), strict=True):
            columns[name].append(value)
    return columns


def without(columns: dict[str, list], gone: list[int]) -> dict[str, list]:
    return {name: [value for i, value in enumerate(column) if i not in gone] for name, column in columns.items()}


def test_what_is_missing_is_named_or_masked(tmp_path: Path) -> None:
    data = example(tasks=2, n=3, frames=6)
    place = {key: i for i, key in enumerate(np.ndindex(2, 3, 6))}
    gone = [place[1, 2, 3]]
    parquet.write_table(pa.table(without(rows(data), gone)), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"task 1, entity 2 lacks frame 3.*missing=mask"):
        load(tmp_path / "a.parquet")
    back = load(tmp_path / "a.parquet", how=Reading(missing="mask"))["test"]
    assert back.mask.sum() == 2 * 3 * 6 - 1
    assert not back.mask[1, 2, 3]
    near = data.states[1, 2, [1, 2, 4, 5]]
    np.testing.assert_allclose(back.states[1, 2, 3], (4 * (near[1] + near[2]) - near[0] - near[3]) / 6)
    assert (known_steps(back)[1, 2] == OBSERVED).tolist() == [True, True, False, False, True]
    assert (known_steps(back) == OBSERVED).sum() == 2 * 3 * 5 - 2
    columns = rows(data)
    columns["vx"][place[0, 1, 5]] = None
    csv.write_csv(pa.table(columns), tmp_path / "b.csv")
    with pytest.raises(DataError, match="task 0, entity 1, frame 5, column 'vx' is nan"):
        load(tmp_path / "b.csv")
    assert not load(tmp_path / "b.csv", how=Reading(missing="mask"))["test"].mask[0, 1, 5]
    short = [i for key, i in place.items() if key[0] == 0 and (key[1] == 2 or key[2] == 5)]
    parquet.write_table(pa.table(without(rows(data), short)), tmp_path / "c.parquet")
    with pytest.raises(DataError, match="task 0 has 5 frames but task 1 has 6"):
        load(tmp_path / "c.parquet")
    ragged = load(tmp_path / "c.parquet", how=Reading(missing="mask"))["test"]
    assert ragged.mask[0].any(axis=1).tolist() == [True, True, False]
    assert known_steps(ragged)[0, 0].tolist() == [OBSERVED] * 4 + [0]


def test_uneven_steps_are_named_or_resampled(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    columns: dict[str, list] = {name: [] for name in ("task", "time", "entity", "x", "y")}
    for task in range(3):
        times = np.concatenate(([0.0], np.sort(rng.uniform(0.05, 3.9, 60)), [4.0]))
        for entity in range(2):
            for t in times:
                for name, value in zip(columns, (task, t, entity, np.sin(t + entity), np.cos(t)), strict=True):
                    columns[name].append(value)
    parquet.write_table(pa.table(columns), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"task 0, time .* steps must be even.*resample="):
        load(tmp_path / "a.parquet", how=Reading(frame="time"))
    back = load(tmp_path / "a.parquet", how=Reading(frame="time", resample=0.1))["test"]
    assert back.states.shape == (3, 2, 41, 2)
    assert back.frame_step == 0.1
    at = 0.1 * np.arange(41)
    for entity in range(2):
        np.testing.assert_allclose(back.states[1, entity, :, 0], np.sin(at + entity), atol=2e-3)
    dense = Trajectories(np.sin(0.05 * np.arange(81)).reshape(1, 1, 81, 1).repeat(2, 1), None, ("x",), 0.05)
    save(tmp_path / "b.npz", {"test": dense})
    half = load(tmp_path / "b.npz", how=Reading(resample=0.1))["test"]
    np.testing.assert_allclose(half.states, dense.states[:, :, ::2], atol=1e-12)
