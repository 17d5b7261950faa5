"""Files: what is written comes back, and whatever is wrong is one sentence that names file and key."""

import contextlib
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from modmeta.data.formats import arrays, load, save
from modmeta.data.formats.nri import check_writable as check_free_nri
from modmeta.data.formats.nri import write as save_nri
from modmeta.data.trajectories import Trajectories
from modmeta.errors import DataError
from tests.runs import ROOT

PUBLISHED = sorted((ROOT / "tests" / "data").glob("nri_generator_*.npz"))
in_one_directory = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def example(tasks: int = 3, n: int = 4, frames: int = 5, seed: int = 0) -> Trajectories:
    rng = np.random.default_rng(seed)
    relations = rng.integers(0, 2, (tasks, n, n))
    relations[:, np.eye(n, dtype=bool)] = 0
    states = rng.standard_normal((tasks, n, frames, 4))
    return Trajectories(states, relations, ("x", "y", "vx", "vy"), 0.1, {"world": "springs", "edge_values": [0.0, 1.0]})


def assert_same(a: Trajectories, b: Trajectories) -> None:
    np.testing.assert_array_equal(a.states, b.states)
    assert a.states.dtype == b.states.dtype
    assert (a.relations is None) == (b.relations is None)
    if a.relations is not None:
        np.testing.assert_array_equal(a.relations, b.relations)
        assert b.relations.dtype == np.int64
    assert (a.features, a.frame_step, a.settings) == (b.features, b.frame_step, b.settings)


@st.composite
def trajectories(draw: st.DrawFn) -> Trajectories:
    tasks, n, frames, d = (draw(st.integers(low, 4)) for low in (1, 2, 1, 1))
    dtype = draw(st.sampled_from([np.float64, np.float32]))
    width = 64 if dtype is np.float64 else 32
    finite = st.floats(-(2.0**100), 2.0**100, width=width).map(lambda x: x if abs(x) > 2.0**-100 else 0.0)
    states = draw(hnp.arrays(dtype, (tasks, n, frames, d), elements=finite))
    relations = draw(st.none() | hnp.arrays(np.int64, (tasks, n, n), elements=st.integers(0, 9)))
    if relations is not None:
        relations[:, np.eye(n, dtype=bool)] = 0
    name = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=5)
    features = tuple(draw(st.lists(name, min_size=d, max_size=d, unique=True)))
    step = draw(st.floats(1e-6, 1e6))
    return Trajectories(
        states, relations, features, step, draw(st.dictionaries(name, st.integers() | name, max_size=3))
    )


@in_one_directory
@given(data=trajectories())
def test_what_is_saved_comes_back_bit_for_bit(data: Trajectories, tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    save(path, {"train": data, "my_split": data[:1]}, overwrite=True)
    splits = load(path)
    assert list(splits) == ["train", "my_split"]
    assert_same(data, splits["train"])
    assert_same(data[:1], splits["my_split"])
    assert list(load(path, "my_split")) == ["my_split"]
    assert list(tmp_path.iterdir()) == [path]  # no temporary file is left


@pytest.mark.parametrize("form", ["directory", "file.npz"])
def test_published_layout_comes_back(form: str, tmp_path: Path) -> None:
    data = {"train": example(3), "valid": example(2, seed=1), "test": example(2, frames=9, seed=2)}
    save_nri(tmp_path / form, data, suffix="_springs4")
    splits = load(tmp_path / form)
    assert list(splits) == ["train", "valid", "test"]
    for split, trajectories_ in splits.items():
        np.testing.assert_array_equal(trajectories_.states, data[split].states)
        np.testing.assert_array_equal(trajectories_.relations, data[split].relations)
        assert trajectories_.features == ("x", "y", "vx", "vy")
        assert trajectories_.frame_step == 0.1
    assert list(load(tmp_path / form, "valid")) == ["valid"]


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_published_files_are_read_and_written_back(path: Path, tmp_path: Path) -> None:
    splits = load(path)
    copy = tmp_path / "copy.npz"
    save_nri(copy, splits)
    with np.load(path) as original, np.load(copy) as written:
        assert sorted(written.files) == sorted(original.files)
        for key in original.files:
            np.testing.assert_array_equal(written[key], original[key])
        place = original["loc_test"][0, 7, 1, 2]  # task 0, frame 7, y, entity 2
        assert splits["test"].states[0, 2, 7, 1] == place
        if "charged" in path.name:
            assert splits["test"].relations is not None
            np.testing.assert_array_equal(splits["test"].relations, original["edges_test"] < 0)


def test_published_single_split(tmp_path: Path) -> None:
    save_nri(tmp_path / "many.npz", {"valid": example()})
    with np.load(tmp_path / "many.npz") as file:
        np.savez(tmp_path / "one.npz", **{key.removesuffix("_valid"): file[key] for key in file.files})
    assert list(load(tmp_path / "one.npz")) == ["test"]
    np.testing.assert_array_equal(load(tmp_path / "one.npz", "mine")["mine"].states, example().states)


def test_published_edges_of_more_kinds(tmp_path: Path) -> None:
    loc = np.zeros((1, 2, 2, 3))
    kinds = np.array([[[0, 0.5, 1], [0.5, 0, 0], [1, 0, 0]]])
    np.savez(tmp_path / "a.npz", loc_train=loc, vel_train=loc, edges_train=kinds, loc_test=loc, vel_test=loc)
    splits = load(tmp_path / "a.npz")
    np.testing.assert_array_equal(splits["train"].relations, 2 * kinds)
    assert splits["test"].relations is None
    neutral = np.array([[[1, -1, 0], [-1, 1, 0], [0, 0, 0]]])
    np.savez(tmp_path / "b.npz", loc=loc, vel=loc, edges=neutral)
    np.testing.assert_array_equal(load(tmp_path / "b.npz")["test"].relations, [[[0, 1, 2], [1, 0, 2], [2, 2, 0]]])
    like = np.ones((1, 3, 3))
    np.savez(tmp_path / "c.npz", loc=loc, vel=loc, edges=like)
    np.testing.assert_array_equal(load(tmp_path / "c.npz")["test"].relations, np.zeros((1, 3, 3)))


def test_labels_do_not_depend_on_the_split_that_is_read(tmp_path: Path) -> None:
    loc = np.zeros((1, 2, 2, 2))
    for split, value in (("train", 0.5), ("test", 1.0)):
        np.save(tmp_path / f"loc_{split}.npy", loc)
        np.save(tmp_path / f"vel_{split}.npy", loc)
        np.save(tmp_path / f"edges_{split}.npy", np.array([[[0, value], [value, 0]]]))
    assert load(tmp_path, "test")["test"].relations.max() == 2
    assert load(tmp_path)["train"].relations.max() == 1


def test_bare_states(tmp_path: Path) -> None:
    states = np.arange(24, dtype=np.int32).reshape(1, 2, 3, 4)
    np.savez(tmp_path / "a.npz", states=states)
    np.save(tmp_path / "b.npy", states)
    for name in ("a.npz", "b.npy"):
        data = load(tmp_path / name)["test"]
        np.testing.assert_array_equal(data.states, states)
        assert data.states.dtype == np.float64
        assert data.relations is None
        assert len(data.features) == 4
        assert list(load(tmp_path / name, "mine")) == ["mine"]
    np.savez(tmp_path / "a.npz", states=states, relations=np.zeros((1, 2, 2)))
    assert load(tmp_path / "a.npz")["test"].relations.dtype == np.int64


def test_slices() -> None:
    data = example(5)
    assert_same(data.take(2), data[:2])
    assert len(data[1:4]) == 3
    for count in (0, 6):
        with pytest.raises(DataError, match=f"{count} tasks"):
            data.take(count)


# ---- what is wrong ---------------------------------------------------------------------------------------------------


def with_value(array: str, place: tuple[int, ...], value: float) -> Callable[[dict], None]:
    def change(arrays: dict) -> None:
        arrays[array] = arrays[array].astype(float)
        arrays[array][place] = value

    return change


def with_key(**changed: object) -> Callable[[dict], None]:
    return lambda arrays: arrays.update({key: np.asarray(value) for key, value in changed.items()})


def without(key: str) -> Callable[[dict], None]:
    return lambda arrays: arrays.pop(key)


BAD_CONTENT = [
    (with_value("train_states", (2, 1, 3, 2), np.nan), "split train: task 2, entity 1, frame 3, feature 'vx' is nan"),
    (with_value("train_states", (0, 1, 3, 0), -np.inf), "feature 'x' is -inf"),
    (with_value("train_relations", (1, 0, 2), -1), "task 1, relation of receiver 0 and sender 2 is -1"),
    (with_value("train_relations", (1, 0, 2), 0.5), r"train_relations.*\[1, 0, 2\] is 0.5"),
    (with_value("train_relations", (1, 0, 2), np.nan), r"train_relations.*\[1, 0, 2\] is nan"),
    (with_value("train_relations", (1, 2, 2), 1), "receiver 2 and sender 2 is 1"),
    (with_key(train_states=np.zeros((3, 4, 5))), r"shape \(3, 4, 5\)"),
    (with_key(train_states=np.float64(1)), r"shape \(\)"),
    (with_key(train_states=np.zeros((3, 1, 5, 4))), "2 entities"),
    (with_key(train_states=np.zeros((0, 4, 5, 4))), "at least 1 task"),
    (with_key(train_states=np.zeros((3, 4, 5, 3))), "3 features but 4 names"),
    (with_key(train_states=np.full((3, 4, 5, 4), "a")), "train_states.*<U1"),
    (with_key(train_states=np.zeros((3, 4, 5, 4), complex)), "train_states.*complex"),
    (with_key(train_relations=np.zeros((3, 12), int)), r"relations are int64 of shape \(3, 12\)"),
    (with_key(train_relations=np.full((3, 4, 4), "a")), "train_relations.*<U1"),
    (with_key(frame_step=0.0), "frame_step is 0.0"),
    (with_key(frame_step=[0.1, 0.2]), "frame_step"),
    (with_key(features=3), "features"),
    (with_key(settings="{"), "settings"),
    (with_key(settings="[1]"), "settings"),
    (with_key(format=2), "format is 2"),
    (without("train_states"), "no states among its keys"),
    (with_key(train_states=np.array([None, 1], dtype=object)), "train_states.*pickle"),
    (with_key(settings=np.array({"a": 1}, dtype=object)), "settings.*pickle"),
]


@pytest.mark.parametrize(("change", "message"), BAD_CONTENT, ids=[message[:40] for _, message in BAD_CONTENT])
def test_bad_content_is_named(change: Callable[[dict], None], message: str, tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    save(path, {"train": example()})
    with np.load(path) as file:
        arrays = dict(file)
    change(arrays)
    np.savez(path, **arrays)
    with pytest.raises(DataError, match=message) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


BAD_PUBLISHED = [
    (without("vel"), "no vel"),
    (with_key(vel=np.zeros((3, 5, 2, 5))), r"loc has shape .* but vel \(3, 5, 2, 5\)"),
    (with_key(loc=np.zeros((3, 5, 4))), r"loc: the shape is \(3, 5, 4\)"),
    (with_key(loc=np.full((3, 5, 2, 4), "a")), "loc.*<U1"),
    (with_key(edges=np.zeros((3, 4))), "edges: the shape"),
    (with_key(edges=np.zeros((2, 4, 4))), r"relations are int64 of shape \(2, 4, 4\)"),
    (with_value("edges", (1, 2, 3), np.nan), "edges: task 1, edge of receiver 2 and sender 3 is nan"),
    (with_value("edges", (1, 2, 3), -0.5), "is -0.5"),
    (with_value("loc", (1, 2, 1, 3), np.nan), "task 1, entity 3, frame 2, feature 'y' is nan"),
]


@pytest.mark.parametrize(("change", "message"), BAD_PUBLISHED, ids=[message[:30] for _, message in BAD_PUBLISHED])
def test_bad_published_content_is_named(change: Callable[[dict], None], message: str, tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    save_nri(path, {"x": example()})
    with np.load(path) as file:
        arrays = {key.removesuffix("_x"): file[key] for key in file.files}
    change(arrays)
    np.savez(path, **arrays)
    with pytest.raises(DataError, match=message) as caught:
        load(path)
    assert str(path) in str(caught.value)


def test_missing_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing\.npz cannot be read \(No such file"):
        load(tmp_path / "nothing.npz")
    with pytest.raises(DataError, match=r"holds no file like loc_train\.npy"):
        load(tmp_path)
    for content in (b"", b"hello", b"\x80\x04K\x01."):  # the last is a pickle
        (tmp_path / "a.npz").write_bytes(content)
        with pytest.raises(DataError, match=r"a\.npz is neither"):
            load(tmp_path / "a.npz")
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as file:
        file.writestr("states", "text")
    with pytest.raises(DataError, match=r"b\.npz, key states: not an array"):
        load(tmp_path / "b.npz")
    np.save(tmp_path / "c.npy", np.array([None]), allow_pickle=True)
    with pytest.raises(DataError, match=r"c\.npy, key states: .*pickled"):
        load(tmp_path / "c.npy")


def test_unknown_split(tmp_path: Path) -> None:
    save(tmp_path / "a.npz", {"train": example()})
    save_nri(tmp_path / "b.npz", {"train": example()})
    save_nri(tmp_path / "c", {"train": example()})
    for name in ("a.npz", "b.npz", "c"):
        with pytest.raises(DataError, match=rf"{name} has no split 'valid'; choose one of \['train'\]"):
            load(tmp_path / name, "valid")


def test_several_data_sets_in_a_directory(tmp_path: Path) -> None:
    for name, suffix in (("d", "_springs4"), ("e", "_charged4")):
        save_nri(tmp_path / name, {"train": example()}, suffix=suffix)
    for path in (tmp_path / "e").glob("*.npy"):
        path.rename(tmp_path / "d" / path.name)
    with pytest.raises(DataError, match="several data sets"):
        load(tmp_path / "d")


def test_directory_lacks_a_file(tmp_path: Path) -> None:
    save_nri(tmp_path / "d", {"train": example()}, suffix="_springs4")
    (tmp_path / "d" / "vel_train_springs4.npy").unlink()
    with pytest.raises(DataError, match=r"has no vel_train_springs4\.npy"):
        load(tmp_path / "d")
    (tmp_path / "d" / "edges_train_springs4.npy").write_bytes(b"\x93NUMPY\x01")
    with pytest.raises(DataError, match=r"edges_train_springs4\.npy: damaged"):
        load(tmp_path / "d")


@pytest.mark.parametrize("name", ["data.npz", "states.npy"])
def test_damage_is_reported_or_harmless(name: str, tmp_path: Path) -> None:
    path, damaged = tmp_path / name, tmp_path / f"damaged_{name}"
    if name == "data.npz":
        save(path, {"train": example()})
    else:
        np.save(path, example().states)
    content = path.read_bytes()
    for length in range(0, len(content), 23):
        damaged.write_bytes(content[:length])
        with pytest.raises(DataError, match=damaged.name):
            load(damaged)
    rng = np.random.default_rng(0)
    for place in rng.choice(len(content), 400, replace=False):
        altered = bytearray(content)
        altered[place] ^= 1 << rng.integers(8)
        damaged.write_bytes(altered)
        with contextlib.suppress(DataError):  # any other error is a failure
            load(damaged)


# ---- writing ---------------------------------------------------------------------------------------------------------


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    save(path, {"train": example()})
    save_nri(tmp_path / "d", {"train": example()})
    before = {file: file.read_bytes() for file in [path, *(tmp_path / "d").iterdir()]}
    other = {"train": example(seed=1)}
    for write in (save, save_nri):
        with pytest.raises(DataError, match=r"data\.npz exists"):
            write(path, other)
    with pytest.raises(DataError, match=r"d exists.*--overwrite"):
        save_nri(tmp_path / "d", other)
    with pytest.raises(DataError, match="is a directory"):
        save(tmp_path / "d", other, overwrite=True)
    with pytest.raises(DataError, match="is a directory"):
        save(tmp_path / "d", other)
    assert {file: file.read_bytes() for file in before} == before
    save(path, other, overwrite=True)
    save_nri(tmp_path / "d", other, overwrite=True)
    np.testing.assert_array_equal(load(path)["train"].states, other["train"].states)
    np.testing.assert_array_equal(load(tmp_path / "d")["train"].states, other["train"].states)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "data.npz"
    save(path, {"train": example()})
    before = path.read_bytes()

    def full(file: object, **arrays: np.ndarray) -> None:
        file.write(b"half")  # type: ignore[attr-defined]
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(arrays.np, "savez", full)
    with pytest.raises(DataError, match=r"data\.npz cannot be written \(No space left"):
        save(path, {"train": example(seed=1)}, overwrite=True)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    data = {"train": example()}
    with pytest.raises(DataError, match="nowhere is not a directory; create it"):
        save(tmp_path / "nowhere" / "data.npz", data)
    with pytest.raises(DataError, match="nowhere is not a directory; create it"):
        save_nri(tmp_path / "nowhere" / "d", data)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="file is a file"):
        check_free_nri(tmp_path / "file")


def bad_to_save() -> list[tuple[dict, str]]:
    data = example()
    changed = Trajectories(data.states, data.relations, data.features, 0.2, data.settings)
    nan = Trajectories(data.states * np.nan, data.relations, data.features, 0.1)
    odd = Trajectories(data.states[..., :3], data.relations, data.features[:3], 0.1)
    unnamed = Trajectories(data.states, data.relations, data.features, 0.1, {"edge_values": [0.0]})
    fraction = Trajectories(data.states, data.relations + 0.0, data.features, 0.1)
    return [
        ({}, "no split"),
        ({"my split": data}, "'my split' is not a valid split name"),
        ({"train": data, "test": changed}, "frame_step of split test, 0.2, differs"),
        ({"train": nan}, "is nan"),
        ({"train": fraction}, "float64"),
        ({"train": Trajectories(data.states, None, ("x", "y", None, 3), 0.1)}, "must all be strings"),  # type: ignore[arg-type]
        ({"train": Trajectories(data.states, None, data.features, 0.1, {"a": object()})}, "JSON"),
        ({"nri": odd}, "are not positions and their velocities"),
        ({"nri": unnamed}, "has relation 1, but edge_values"),
    ]


@pytest.mark.parametrize(("splits", "message"), bad_to_save(), ids=[message for _, message in bad_to_save()])
def test_what_cannot_be_saved(splits: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        (save_nri if "nri" in splits else save)(tmp_path / "a.npz", splits)
    assert not list(tmp_path.iterdir())


def test_file_is_what_its_documentation_says(tmp_path: Path) -> None:
    save(tmp_path / "a.npz", {"train": example()})
    with np.load(tmp_path / "a.npz", allow_pickle=False) as file:
        assert set(file.files) == {"train_states", "train_relations", "features", "frame_step", "settings", "format"}
        assert json.loads(str(file["settings"]))["world"] == "springs"
        assert file["format"] == 1
        assert file["features"].tolist() == ["x", "y", "vx", "vy"]
