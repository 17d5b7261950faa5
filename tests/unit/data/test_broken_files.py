"""Broken files and settings: one clear error that names the place, exit code 2, nothing left behind."""

import re
from collections.abc import Callable
from pathlib import Path

import h5py
import hydra
import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as parquet
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modmeta.cli.main import main
from modmeta.data.formats import load
from modmeta.data.loading.filemodule import filled_from_file, tasks_of
from modmeta.data.reading import Reading
from modmeta.errors import DataError, UserError
from tests.runs import ROOT, compose

Columns = dict[str, list]
PRETRAINED = ROOT / "modmeta" / "pretrained" / "springs5.ckpt"


def columns(tasks: int = 2, n: int = 3, t: int = 6) -> Columns:
    """A table of smooth paths; row (task * n + entity) * t + frame."""
    out: Columns = {name: [] for name in ("task", "frame", "entity", "x", "y", "vx", "vy")}
    for task, entity, frame in np.ndindex(tasks, n, t):
        phase = 0.1 * frame + entity + 10 * task
        states = (np.sin(phase), np.cos(phase), np.cos(phase), -np.sin(phase))
        for name, value in zip(out, (task, frame, entity, *map(float, states)), strict=True):
            out[name].append(value)
    return out


def row(task: int, entity: int, frame: int) -> int:
    return (task * 3 + entity) * 6 + frame


def put(name: str, place: int, value: object) -> Callable[[Columns], None]:
    def change(table: Columns) -> None:
        table[name] = [value if i == place else old for i, old in enumerate(table[name])]

    return change


def every(name: str, value: Callable[[object], object]) -> Callable[[Columns], None]:
    return lambda table: table.update({name: [value(old) for old in table[name]]})


def drop(*places: int) -> Callable[[Columns], None]:
    def change(table: Columns) -> None:
        for name in table:
            table[name] = [old for i, old in enumerate(table[name]) if i not in places]

    return change


def twice(place: int) -> Callable[[Columns], None]:
    return lambda table: [column.append(column[place]) for column in table.values()] and None


def lose(name: str) -> Callable[[Columns], None]:
    return lambda table: table.pop(name) and None


TABLES = [
    ("no task column", lose("task"), {}, "entity 0, frame 0(.0)? is repeated.*name the column of the task"),
    (
        "no key columns",
        lambda t: [t.pop(f) for f in ("task", "frame")] and None,
        {},
        "no column 'frame'.*add a column frame",
    ),
    ("no frame column", lose("frame"), {}, "no column 'frame'"),
    ("no entity column", lose("entity"), {}, "no column 'entity'"),
    ("foreign task column", lambda t: None, {"task": "scene"}, "no column 'scene'"),
    ("foreign feature", lambda t: None, {"features": ("x", "z")}, "no column 'z'"),
    ("column asked for twice", lambda t: None, {"features": ("x", "x")}, "'x' is used twice"),
    ("feature that is a key", lambda t: None, {"features": ("x", "task")}, "'task' is used twice"),
    ("no features", lambda t: [t.pop(f) for f in ("x", "y", "vx", "vy")] and None, {}, "add features"),
    ("NaN", put("vx", row(1, 2, 3), float("nan")), {}, "task 1, entity 2, frame 3, column 'vx' is nan"),
    ("infinite", put("y", row(0, 1, 5), float("inf")), {}, "task 0, entity 1, frame 5, column 'y' is inf"),
    ("null", put("x", row(1, 0, 0), None), {}, "task 1, entity 0, frame 0, column 'x' is nan"),
    ("row twice", twice(row(1, 1, 4)), {}, "task 1, entity 1, frame 4(.0)? is repeated"),
    ("row gone", drop(row(1, 2, 3)), {}, "task 1, entity 2 lacks frame 3"),
    ("frame gone", drop(*(row(1, e, 2) for e in range(3))), {}, "task 1 lacks frame 2 for all entities"),
    ("last frames gone", drop(*(row(0, e, 5) for e in range(3))), {}, "task 0 has 5 frames but task 1 has 6"),
    ("first frame of one gone", drop(row(0, 1, 0)), {}, "task 0, entity 1 lacks frame 0"),
    ("all but one gone", drop(*(row(0, e, f) for e in (1, 2) for f in range(6))), {}, "entities of task 0 is 1"),
    ("uneven step", put("frame", row(1, 0, 5), 4.5), {}, "task 1, frame 4.5 is not a multiple of 1"),
    ("entity without frame", put("frame", row(1, 0, 5), None), {}, "has no frame"),
    ("frame NaN", put("frame", row(1, 0, 5), float("nan")), {}, "has no frame"),
    ("frame infinite", put("frame", row(1, 0, 5), float("inf")), {}, "not a finite number"),
    ("row without task", put("task", row(1, 0, 5), None), {}, "has no task"),
    ("row without entity", put("entity", row(1, 0, 5), None), {}, "has no entity"),
    ("entity of fractions", every("entity", lambda e: e + 0.5), {}, "'entity' is of type double"),
    ("task of booleans", every("task", bool), {}, "'task' is of type bool"),
    ("frames as text", every("frame", lambda f: f"f{f}"), {}, "'frame' is of type string"),
    ("feature as text", every("x", str), {}, "'x' is of type string"),
    ("feature of lists", every("x", lambda x: [x]), {}, "'x' is of type list"),
    ("one entity", drop(*(row(t, e, f) for t in range(2) for e in (1, 2) for f in range(6))), {}, "2 entities"),
    ("no rows", lambda t: [column.clear() for column in t.values()] and None, {}, "no rows|is of type null"),
    ("unknown split", lambda t: t.update(split=["train"] * 36), {"split": "dev"}, "no split 'dev'"),
    ("negative resample", lambda t: None, {"resample": -1.0}, "resample=-1"),
    ("endless resample", lambda t: None, {"resample": float("inf")}, "resample=inf"),
    ("resample too long", lambda t: None, {"resample": 99.0}, "resample=99 leaves task 0"),
    ("frame step of nothing", lambda t: None, {"frame_step": 0.0}, "frame_step=0"),
    ("unknown policy", lambda t: None, {"missing": "ignore"}, "missing='ignore'"),
    ("no such labels", lambda t: None, {"relations": "nowhere.csv"}, r"nowhere\.csv cannot be read"),
]


@pytest.mark.parametrize(("change", "how", "told"), [case[1:] for case in TABLES], ids=[case[0] for case in TABLES])
def test_broken_tables(change: Callable[[Columns], None], how: dict, told: str, tmp_path: Path) -> None:
    table = columns()
    change(table)
    path = tmp_path / "table.parquet"
    parquet.write_table(pa.table(table), path)
    how = dict(how)
    split = how.pop("split", None)
    with pytest.raises(DataError, match=told) as caught:
        load(path, split, Reading(**how))
    assert "\n" not in str(caught.value)


CSV = [
    ("empty", "", "Empty CSV"),
    ("a header alone", "task,frame,entity,x\n", "no rows|Empty"),
    ("mixed types", "task,frame,entity,x\n0,0,a,1.5\n0,0,b,2.5\n0,1,a,oops\n0,1,b,1\n", "oops"),
    ("a row too short", "task,frame,entity,x\n0,0,a,1\n0,0,b\n", "Expected 4 columns, got 3"),
    ("a row too long", "task,frame,entity,x\n0,0,a,1,9\n0,0,b,2\n", "Expected 4 columns, got 5"),
    ("a name twice", "task,frame,entity,x,x\n0,0,a,1,2\n", "'x' is repeated"),
    ("one entity, another separator", "task;frame;entity;x\n0;0;a;1\n", "2 entities"),
    ("no header", "0,1,7,1.5\n0,1,8,2\n", "no line of names.*--frame column1"),
    ("cut short", "task,frame,entity,x\n0,0,a,1\n0,0,b,2\n0,1,a,3\n0,1,", "Expected 4 columns"),
    ("no task in a row", "task,frame,entity,x\n,0,a,1\n0,0,b,2\n", "has no task"),
    ("thousands", 'task,frame,entity,x\n0,0,a,"1,500.5"\n0,0,b,2.5\n', "1,500.5"),
    ("frames as words", "task,frame,entity,x\n0,first,a,1\n0,first,b,2\n", "first"),
]


@pytest.mark.parametrize(("text", "told"), [case[1:] for case in CSV], ids=[case[0] for case in CSV])
def test_broken_csv(text: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=told) as caught:
        load(path)
    assert str(path) in str(caught.value)


def good(path: Path) -> Path:
    """A CSV file that is as it should be."""
    csv.write_csv(pa.table(columns(tasks=4, n=5, t=12)), path)
    return path


LABELS = [
    ("a column missing", {"task": [0], "receiver": [0], "relation": [1]}, "no columns 'receiver' and 'sender'"),
    ("an unknown entity", {"task": [0], "receiver": [9], "sender": [1], "relation": [1]}, "no entity 9"),
    ("a fraction", {"task": [0], "receiver": [0], "sender": [1], "relation": [0.5]}, "relation 0.5"),
    ("below zero", {"task": [0], "receiver": [0], "sender": [1], "relation": [-1]}, "relation -1"),
    ("twice", {"task": [0] * 2, "receiver": [0] * 2, "sender": [1] * 2, "relation": [1] * 2}, "is repeated"),
]


@pytest.mark.parametrize(("table", "told"), [case[1:] for case in LABELS], ids=[case[0] for case in LABELS])
def test_broken_labels(table: dict, told: str, tmp_path: Path) -> None:
    csv.write_csv(pa.table(table), tmp_path / "labels.csv")
    with pytest.raises(DataError, match=told):
        load(good(tmp_path / "a.csv"), how=Reading(relations=str(tmp_path / "labels.csv")))


def hdf5(path: Path, **arrays: object) -> Path:
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array
    return path


HDF5 = [
    ("other keys", {"data": np.zeros((2, 3, 4, 5)), "more": np.zeros((2, 3, 4, 5))}, "no states among its keys"),
    ("three axes", {"states": np.zeros((3, 4, 5))}, "tasks, entities, frames, features"),
    ("text", {"states": np.array([b"a", b"b"])}, "save it as numbers"),
    ("NaN", {"states": np.full((1, 2, 3, 4), np.nan)}, "task 0, entity 0, frame 0"),
    ("a mask of numbers", {"states": np.zeros((1, 2, 3, 4)), "mask": np.ones((1, 2, 3))}, "mask is float64"),
    ("a small mask", {"states": np.zeros((1, 2, 3, 4)), "mask": np.ones((1, 2, 2), bool)}, "shape \\(1, 2, 2\\)"),
]


@pytest.mark.parametrize(("arrays", "told"), [case[1:] for case in HDF5], ids=[case[0] for case in HDF5])
def test_broken_hdf5(arrays: dict, told: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=told):
        load(hdf5(tmp_path / "a.h5", **arrays))


@pytest.mark.parametrize("name", ["a.h5", "a.parquet", "a.csv", "a.npz", "a.npy"])
def test_files_that_are_not_what_they_are_called(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"{name} cannot be read \(No such file"):
        load(tmp_path / name)
    (tmp_path / name).write_bytes(b"\x80\x04K\x01.")  # a pickle
    with pytest.raises(DataError, match=name):
        load(tmp_path / name)
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    with pytest.raises(DataError, match=name):
        load(tmp_path / name)


@given(share=st.floats(0, 0.99), ending=st.sampled_from(["parquet", "h5"]))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_truncated_binaries(share: float, ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"cut.{ending}"
    if ending == "h5":
        hdf5(path, states=np.random.default_rng(0).standard_normal((4, 5, 6, 4)))
    else:
        parquet.write_table(pa.table(columns()), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(DataError, match=path.name):
        load(path)


COMMANDS = [
    ("no such model", ["springs6", "FILE", "-o", "out"], "springs6 does not exist.*springs5"),
    ("no such file", ["springs5", "none.csv", "-o", "out"], r"none\.csv cannot be read"),
    ("forecast of nothing", ["springs5", "FILE", "-o", "out", "--steps", "0"], "--steps 0"),
    ("no process", ["springs5", "FILE", "-o", "out", "--devices", "0"], "--devices 0 must be 1 to"),
    ("too many processes", ["springs5", "FILE", "-o", "out", "--devices", "100000"], "--devices 100000 must be 1 to"),
    ("two frames observed", ["springs5", "FILE", "-o", "out", "--observed", "2"], "12 frames, 2 of them to observe"),
    ("too many observed", ["springs5", "FILE", "-o", "out", "--observed", "99"], "12 frames, 99 of them to observe"),
    ("other frame step", ["springs5", "FILE", "-o", "out", "--resample", "0.5"], "resample the data with --resample"),
    ("fewer features", ["springs5", "FILE", "-o", "out", "--features", "x,y"], "--velocities estimated"),
    ("other features", ["springs5", "FILE", "-o", "out", "--features", "x,y,vx"], "3 features"),
    ("output is a file", ["springs5", "FILE", "-o", "FILE"], "is a file"),
    ("output exists", ["springs5", "FILE", "-o", "full"], "full exists.*--overwrite"),
    ("nowhere to write", ["springs5", "FILE", "-o", "none/out"], "none is not a directory"),
    ("damaged checkpoint", ["cut.ckpt", "FILE", "-o", "out"], r"cut\.ckpt"),
    ("checkpoint of another program", ["foreign.ckpt", "FILE", "-o", "out"], r"foreign\.ckpt.*another program"),
    ("checkpoint of a foreign class", ["class.ckpt", "FILE", "-o", "out"], r"os\.system"),
    ("checkpoint of another shape", ["shape.ckpt", "FILE", "-o", "out"], "does not fit"),
    ("not a run directory", ["full", "FILE", "-o", "out"], "not a run directory"),
    ("NaN in the file", ["springs5", "nan.csv", "-o", "out"], "task 1, entity 0, frame 3, column 'x'"),
    ("constant trajectories", ["springs5", "still.csv", "-o", "out"], "all states are constant"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of files that commands stumble over."""
    here = tmp_path_factory.mktemp("broken")
    good(here / "FILE")
    (here / "FILE").rename(here / "good.csv")
    (here / "full").mkdir()
    (here / "full" / "kept.txt").write_text("mine")
    (here / "cut.ckpt").write_bytes(PRETRAINED.read_bytes()[:5000])
    torch.save({"state_dict": {}}, here / "foreign.ckpt")
    content = torch.load(PRETRAINED, weights_only=True)
    content["modmeta"]["config"]["search"]["selection"] = {"_target_": "os.system", "_partial_": True}
    torch.save(content, here / "class.ckpt")
    content = torch.load(PRETRAINED, weights_only=True)
    content["state_dict"] = {name: value for name, value in content["state_dict"].items() if "decay" not in name}
    torch.save(content, here / "shape.ckpt")
    for name, value in (("nan.csv", None), ("still.csv", 1.0)):
        table = columns(tasks=2, n=5, t=12)
        if value is None:
            table["x"][5 * 12 + 3] = None
        else:
            for feature in ("x", "y", "vx", "vy"):
                table[feature] = [value if feature in "xy" else 0.0] * len(table["x"])
        csv.write_csv(pa.table(table), here / name)
    return here


@pytest.mark.parametrize(("words", "told"), [case[1:] for case in COMMANDS], ids=[case[0] for case in COMMANDS])
def test_infer_refuses(
    words: list[str], told: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    before = sorted(str(path) for path in place.rglob("*"))
    words = ["good.csv" if word == "FILE" else word for word in words]
    assert main(["infer", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert re.search(told, error), error
    assert sorted(str(path) for path in place.rglob("*")) == before


TRAINING = [
    ("no path", [], "data=files needs data.path"),
    ("shares of everything", ["data.path=good.csv", "data.valid_share=0.6", "data.test_share=0.4"], "leave no tasks"),
    ("a share of nothing", ["data.path=good.csv", "data.valid_share=0"], "valid_share=0"),
    ("too many tasks", ["data.path=good.csv", "data.num_tasks=9"], "fewer than data.num_tasks=9"),
    ("too many frames", ["data.path=good.csv", "data.observed_frames=50"], "data.observed_frames=50"),
    ("other entities", ["data.path=good.csv", "data.num_entities=6"], "data.num_entities=6"),
    ("constant trajectories", ["data.path=still.csv", "data.valid_share=0.3"], "all states are constant"),
    ("two tasks", ["data.path=nan.csv", "data.reading.missing=mask"], "2 tasks, but at least 3 are needed"),
]


@pytest.mark.parametrize(("words", "told"), [case[1:] for case in TRAINING], ids=[case[0] for case in TRAINING])
def test_training_refuses(
    words: list[str], told: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    monkeypatch.chdir(place)
    with pytest.raises((UserError, hydra.errors.InstantiationException), match=told):
        hydra.utils.instantiate(filled_from_file(compose(tmp_path / "run", "data=files", *words)).data).setup()


def test_splits_are_drawn_alike(place: Path) -> None:
    first = tasks_of(str(place / "good.csv"), Reading(), 0.25, 0.25, 0)
    again = tasks_of(str(place / "good.csv"), Reading(), 0.25, 0.25, 0)
    names = [sorted(data.task_names.tolist()) for data in first.values()]
    assert names == [sorted(data.task_names.tolist()) for data in again.values()]
    assert sorted(name for part in names for name in part) == [0, 1, 2, 3]
