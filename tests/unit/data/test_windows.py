"""Windows of long recordings, single recordings in files, and splits of tasks that share a structure."""

from dataclasses import replace
from pathlib import Path

import hydra
import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pytest

from modmeta.cli.main import main
from modmeta.data import formats
from modmeta.data.describe import Known
from modmeta.data.formats.relations import pairs_of
from modmeta.data.loading.filemodule import filled_from_file, tasks_of
from modmeta.data.loading.for_model import Options, load_for_model
from modmeta.data.reading import Reading
from modmeta.data.trajectories import Trajectories
from modmeta.data.transforms.gaps import absent_last, known_steps
from modmeta.data.transforms.windows import automatic_length, windows
from modmeta.errors import DataError
from modmeta.keys import OBSERVED, UNKNOWN
from tests.runs import compose

N, D = 3, 2


def recordings(tasks: int = 2, frames: int = 23, **more: np.ndarray) -> Trajectories:
    """States that tell task, entity, frame and feature."""
    states = np.arange(tasks * N * frames * D, dtype=float).reshape(tasks, N, frames, D)
    relations = np.zeros((tasks, N, N), np.int64)
    relations[:, 0, 1] = np.arange(tasks) % 2
    return Trajectories(states, relations, ("u", "v"), 0.1, **more)


@pytest.mark.parametrize("length", [3, 5, 6, 23])
def test_every_step_lies_in_exactly_one_window(length: int) -> None:
    data = recordings(task_names=np.array(["a", "b"]), types=np.array([[0, 1, 0], [1, 1, 0]]))
    cut = windows(data, length).validate("cut")
    steps: dict[tuple[str, int], int] = {}
    for i, name in enumerate(cut.task_names.tolist()):
        task, first = name.split(":")
        source = data[np.flatnonzero(data.task_names == task)]
        assert cut.group_names[i] == task
        np.testing.assert_array_equal(cut.states[i], source.states[0, :, int(first) : int(first) + length])
        np.testing.assert_array_equal(cut.relations[i], source.relations[0])
        np.testing.assert_array_equal(cut.types[i], source.types[0])
        for frame in range(int(first), int(first) + length - 1):
            steps[task, frame] = steps.get((task, frame), 0) + 1
    assert set(steps.values()) == {1}
    for task in "ab":
        frames = sorted(frame for name, frame in steps if name == task)
        assert frames == list(range(len(frames)))
        assert 22 - len(frames) <= length - 2


def test_windows_keep_a_group_of_their_task() -> None:
    data = recordings(3, group_names=np.array([5, 5, 9]))
    data = replace(data, relations=data.relations[[0, 0, 1]])
    cut = windows(data, 12).validate("cut")
    assert cut.group_names.tolist() == [5, 5, 5, 5, 9, 9]
    assert cut.task_names.tolist() == ["0:0", "0:11", "1:0", "1:11", "2:0", "2:11"]
    assert windows(recordings(), 12).group_names.tolist() == [0, 0, 1, 1]


def test_windows_have_the_entities_of_their_recording_whoever_is_seen() -> None:
    mask = np.ones((2, N, 21), bool)
    mask[0, 1, 4:9] = False  # nowhere in frames 4 to 8
    mask[1, 2] = False  # an entity that its task lacks
    cut = windows(recordings(2, 21, mask=mask), 5).validate("cut")
    assert cut.task_names.tolist() == [f"{task}:{first}" for task in "01" for first in range(0, 20, 4)]
    np.testing.assert_array_equal(cut.mask[1], mask[0, :, 4:9])
    assert cut.counts.tolist() == [3] * 5 + [2] * 5
    steps = known_steps(cut)
    assert (steps[1] == np.array([OBSERVED, UNKNOWN, OBSERVED])[:, None]).all()
    assert (steps[5:, :2] == OBSERVED).all()
    np.testing.assert_array_equal(absent_last(cut, 5).states, cut.states)
    np.testing.assert_array_equal(pairs_of(cut[1:2])[1], [0, 0, 1, 1, 2, 2])
    mask[0] = np.arange(21) % 5 != np.arange(N)[:, None]
    assert len(windows(recordings(2, 21, mask=mask), 5).validate("cut").states) == 10, "gaps are no matter"
    mask[0, :, :] = np.arange(21) % 2 == np.arange(N)[:, None] % 2
    with pytest.raises(DataError, match=r"a\.csv: task 0 has no two frames in a row.*resample"):
        windows(recordings(2, 21, mask=mask), 5, "a.csv")
    mask[0, :2, 20:] = mask[0, :2, 19:20] = True  # but the last window would end before
    with pytest.raises(DataError, match=r"a\.csv: task 0 has no window that sees two of its entities"):
        windows(recordings(2, 21, mask=mask), 8, "a.csv")


@pytest.mark.parametrize("length", [2, 24])
def test_lengths_that_do_not_fit_are_refused(length: int) -> None:
    with pytest.raises(DataError, match=f"windows of {length} frames; choose 3 to 23"):
        windows(recordings(), length)


def test_few_long_recordings_give_about_twenty_windows() -> None:
    assert automatic_length(recordings(10, 1000)) is None
    assert automatic_length(recordings(1, 59)) is None
    for tasks, frames in ((1, 60), (1, 220), (1, 600), (1, 6000), (3, 100), (9, 60), (9, 600)):
        length = automatic_length(recordings(tasks, frames))
        assert length is not None
        assert 10 <= length <= 50
        assert windows(recordings(tasks, frames), length).num_tasks >= 20 or length == 10
    mask = np.ones((2, N, 1000), bool)
    mask[1, :, 59:] = False
    assert automatic_length(recordings(2, 1000, mask=mask)) is None  # not all are long
    mask[1, :, 59:101] = True
    assert automatic_length(recordings(2, 1000, mask=mask)) == 11


# ---- splits ----------------------------------------------------------------------------------------------------------


def split_of(path: Path, data: Trajectories, window: int | str | None = None, seed: int = 0) -> dict[str, Trajectories]:
    if not path.exists():
        formats.save(path, {"test": data})
    return tasks_of(str(path), Reading(), 0.2, 0.2, seed, window)


def test_of_many_groups_whole_ones_are_held_out(tmp_path: Path) -> None:
    data = recordings(30, 6, group_names=np.arange(30) % 10)
    splits = split_of(tmp_path / "a.npz", data)
    groups = {name: set(part.group_names.tolist()) for name, part in splits.items()}
    assert {name: len(of) for name, of in groups.items()} == {"train": 6, "valid": 2, "test": 2}
    assert set().union(*groups.values()) == set(range(10))
    assert {name: part.num_tasks for name, part in splits.items()} == {"train": 18, "valid": 6, "test": 6}
    again = split_of(tmp_path / "a.npz", data)
    other = split_of(tmp_path / "a.npz", data, seed=1)
    assert set(again["test"].group_names.tolist()) == groups["test"]
    assert set(other["test"].group_names.tolist()) != groups["test"]


def test_few_groups_give_tasks_to_every_split(tmp_path: Path) -> None:
    names = np.repeat(["a", "b"], [5, 10])
    data = recordings(15, 6, group_names=names)
    data = replace(data, relations=data.relations[(names == "b").astype(int)])
    splits = split_of(tmp_path / "a.npz", data)
    counts = {name: [int((part.group_names == group).sum()) for group in "ab"] for name, part in splits.items()}
    assert counts == {"train": [3, 6], "valid": [1, 2], "test": [1, 2]}
    states = np.concatenate([part.states for part in splits.values()])
    assert len(np.unique(states[:, 0, 0, 0])) == 15
    with pytest.raises(DataError, match=r"group a has 2 tasks, too few.*data.window=N"):
        split_of(tmp_path / "b.npz", data[3:])


def test_without_groups_the_draw_is_as_ever(tmp_path: Path) -> None:
    """Tasks by their numbers, which runs of earlier versions were trained on."""
    splits = split_of(tmp_path / "a.npz", recordings(10, 6))
    drawn = {name: (part.states[:, 0, 0, 0] / (N * 6 * D)).astype(int).tolist() for name, part in splits.items()}
    order = np.random.default_rng(0).permutation(10)
    assert drawn == {"train": sorted(order[4:]), "valid": sorted(order[:2]), "test": sorted(order[2:4])}
    assert all(part.group_names is None for part in splits.values())


@pytest.mark.parametrize("seed", range(4))
def test_held_out_windows_are_blocks(seed: int, tmp_path: Path) -> None:
    splits = split_of(tmp_path / "a.npz", recordings(1, 201), 11, seed)
    firsts = {name: [int(task.split(":")[1]) // 10 for task in part.task_names] for name, part in splits.items()}
    assert {name: len(of) for name, of in firsts.items()} == {"train": 12, "valid": 4, "test": 4}
    assert sorted(first for of in firsts.values() for first in of) == list(range(20))
    for name in ("valid", "test"):
        assert np.diff(firsts[name]).tolist() == [1, 1, 1]


def test_few_long_recordings_are_cut_and_many_tasks_are_not(tmp_path: Path) -> None:
    one = split_of(tmp_path / "one.npz", recordings(1, 400), "auto")
    assert one["train"].num_frames == 20
    assert {name for part in one.values() for name in part.group_names.tolist()} == {0}
    many = split_of(tmp_path / "many.npz", recordings(10, 400), "auto")
    assert many["train"].num_frames == 400
    assert many["train"].group_names is None
    with pytest.raises(DataError, match=r"1 tasks, but at least 3 are needed.*data.window=N"):
        split_of(tmp_path / "one.npz", recordings(), None)
    with pytest.raises(DataError, match=r"data.window='long' must be a number of frames, auto, or null"):
        split_of(tmp_path / "one.npz", recordings(), "long")


def test_splits_of_a_file_are_cut_where_asked(tmp_path: Path) -> None:
    """Task 0 of one split is not task 0 of another."""
    path = tmp_path / "a.npz"
    formats.save(path, dict.fromkeys(("train", "valid", "test"), recordings(1, 100)))
    assert tasks_of(str(path), Reading(), 0.2, 0.2, 0)["train"].num_frames == 100
    splits = tasks_of(str(path), Reading(), 0.2, 0.2, 0, 12)
    assert {name: set(part.group_names.tolist()) for name, part in splits.items()} == {
        name: {f"{name}:0"} for name in ("train", "valid", "test")
    }


def test_a_configuration_takes_groups_and_windows(tmp_path: Path) -> None:
    formats.save(tmp_path / "a.npz", {"test": recordings(1, 400)})
    words = ["data=files", f"data.path={tmp_path / 'a.npz'}", "data.num_entities=3"]
    config = filled_from_file(compose(tmp_path / "run", *words))
    assert (config.data.window, config.data.observed_frames, config.data.num_tasks) == (20, 20, 13)
    module = hydra.utils.instantiate(config.data)
    module.setup()
    assert module.group_names.tolist() == [0]
    formats.save(tmp_path / "b.npz", {"test": replace(recordings(12, 6), relations=None)})
    words[1] = f"data.path={tmp_path / 'b.npz'}"
    for given, names in (([], None), (["data.group=all"], ["all"]), (["data.reading.group=all"], ["all"])):
        config = filled_from_file(compose(tmp_path / "run", *words, *given))
        assert config.data.window is None
        module = hydra.utils.instantiate(config.data)
        module.setup()
        assert (None if module.group_names is None else module.group_names.tolist()) == names


def test_a_model_may_be_given_windows(tmp_path: Path) -> None:
    formats.save(tmp_path / "a.npz", {"test": recordings(2, 41)})
    low, high = np.zeros(D), np.full(D, 500.0)
    known = Known(("u", "v"), 0, False, (N,), 2, None, low, high, high / 2, high / 2, 0.0)
    loaded = load_for_model(tmp_path / "a.npz", known, Options(window=21))
    assert loaded.data.task_names.tolist() == ["0:0", "0:20", "1:0", "1:20"]
    assert loaded.observed == 21
    assert load_for_model(tmp_path / "a.npz", known).data.num_frames == 41
    mask = np.ones((2, N, 41), bool)
    mask[1, 2, :10] = False
    data = replace(recordings(2, 41, mask=mask, group_names=np.array([4, 4])), relations=None)
    formats.save(tmp_path / "b.npz", {"test": data})
    assert load_for_model(tmp_path / "b.npz", known, Options(observed=20)).data.group_names.tolist() == [4, 4]
    with pytest.raises(DataError, match=r"b\.npz, first 9 frames: group 4: entities of task 1 and of task 0 differ"):
        load_for_model(tmp_path / "b.npz", known, Options(observed=9))


# ---- one recording ---------------------------------------------------------------------------------------------------


def test_a_table_without_tasks_is_one_recording(tmp_path: Path) -> None:
    entity, frame = (place.ravel() for place in np.meshgrid(range(N), range(8), indexing="ij"))
    columns = {"frame": frame, "entity": entity, "u": np.sin(frame + entity)}
    csv.write_csv(pa.table(columns), tmp_path / "a.csv")
    data = formats.load(tmp_path / "a.csv")["test"]
    assert (data.task_names.tolist(), data.features) == ([0], ("u",))
    np.testing.assert_allclose(data.states[0, :, :, 0].ravel(), np.sin(frame + entity))
    with pytest.raises(DataError, match=r"no column 'scene'.*task=u"):
        formats.load(tmp_path / "a.csv", how=Reading(task="scene"))
    half = {"split": np.where(frame < 4, "train", "test")}
    csv.write_csv(pa.table(columns | half), tmp_path / "b.csv")
    splits = formats.load(tmp_path / "b.csv")
    assert {name: part.states.shape for name, part in splits.items()} == {"train": (1, N, 4, 1), "test": (1, N, 4, 1)}


@pytest.mark.parametrize("ending", ["npz", "npy"])
def test_states_of_three_axes_are_one_recording(ending: str, tmp_path: Path) -> None:
    states = recordings(1, 9).states[0].transpose(1, 0, 2)  # (frames, entities, features)
    path = tmp_path / f"a.{ending}"
    if ending == "npy":
        np.save(path, states)
    else:
        mask = np.ones((9, N), bool)
        mask[4, 1] = False
        names = np.array(["a", "b", "c"])
        np.savez(path, states=states, mask=mask, relations=np.eye(N, k=1, dtype=int), entity_names=names)
    data = formats.load(path)["test"]
    np.testing.assert_array_equal(data.states, recordings(1, 9).states)
    if ending == "npz":
        assert np.argwhere(~data.mask).tolist() == [[0, 1, 4]]
        assert data.relations.tolist() == [[[0, 1, 0], [0, 0, 1], [0, 0, 0]]]
        assert data.entity_names.tolist() == [["a", "b", "c"]]
    np.save(tmp_path / "b.npy", recordings(1, 9).states[0])
    with pytest.raises(DataError, match=r"read as \(frames, entities, features\), 3 frames of 9 entities"):
        formats.load(tmp_path / "b.npy")


def test_relations_of_two_axes_are_those_of_all_tasks(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", states=recordings(4, 5).states, relations=np.eye(N, k=1, dtype=int))
    data = formats.load(tmp_path / "a.npz", how=Reading(group="all"))["test"]
    assert data.relations.tolist() == [np.eye(N, k=1, dtype=int).tolist()] * 4


def test_inspect_counts_groups_and_windows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    formats.save(tmp_path / "a.npz", {"test": recordings(1, 400)})
    assert main(["inspect", str(tmp_path / "a.npz")]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "21 windows of 20 frames" in out
    data = recordings(4, 6, group_names=np.array(["a", "b", "a", "b"]))
    formats.save(tmp_path / "b.npz", {"train": data, "test": data[:3]})
    assert main(["inspect", str(tmp_path / "b.npz")]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "train: 2 groups of 2 tasks" in out
    assert "test: 2 groups of 1 to 2 tasks" in out
    formats.save(tmp_path / "c.npz", {"test": replace(data, relations=None)})
    assert main(["inspect", str(tmp_path / "c.npz"), "--group", "all"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "test: 1 group of 4 tasks" in out
    assert out.endswith("c.npz data.group=all")
