"""Files made to mislead, fill memory or lead elsewhere: one clear line each, within a bounded time and memory."""

import io
import json
import pickle
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modmeta.data.formats import load, pickles, save
from modmeta.data.formats.pickles import unpickled
from modmeta.data.reading import Reading
from modmeta.data.trajectories import Trajectories
from modmeta.errors import DataError

STATES = np.random.default_rng(0).standard_normal((2, 3, 6, 4))
Maker = Callable[[Path], Path]


# ---- .npz and .npy ---------------------------------------------------------------------------------------------------


def npz(**arrays: object) -> Maker:
    """A `.npz` of good states and these arrays."""

    def make(here: Path) -> Path:
        np.savez(here / "a.npz", **({"states": STATES} | arrays))  # type: ignore[arg-type]
        return here / "a.npz"

    return make


def header(shape: str, kind: str = "'<f8'", version: int = 1) -> bytes:
    text = f"{{'descr': {kind}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY" + bytes((version, 0)) + len(text).to_bytes(2 if version == 1 else 4, "little") + text


def npy(content: bytes) -> Maker:
    return lambda here: here.joinpath("a.npy").write_bytes(content) and here / "a.npy"


def members(*parts: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Maker:
    def make(here: Path) -> Path:
        with zipfile.ZipFile(here / "a.npz", "w", method) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a name that is there twice
            for name, content in parts:
                file.writestr(name, content)
        return here / "a.npz"

    return make


def as_npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def bomb(here: Path) -> Path:
    np.savez_compressed(here / "a.npz", states=np.zeros((12, 10, 10_000, 4)))
    return here / "a.npz"


def wrong_codes(here: Path) -> Path:
    np.savez(here / "a.npz", states=STATES, task_names=np.array([0x41, 0x7FFFFFFF], np.uint32).view("<U1"))
    return here / "a.npz"


def nested(levels: int) -> np.ndarray:
    return np.array('{"a":' * levels + "1" + "}" * levels)


class Pickled:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> tuple:
        return (Path("executed").touch, ())


OBJECTS = np.array([Pickled()], dtype=object)
GOOD = as_npy(STATES)
PLACES = np.array([[0.0, 0.0], [1.0, 0.0]])
ARRAYS: list[tuple[str, Maker, str]] = [
    ("zeros compressed a thousand times", bomb, "key states: the declared size is 38.4 MB"),
    ("npy of exabytes", npy(header("(1000000000, 3, 1000000, 4)")), "shape is .1000000000, 3"),
    ("npy whose size overflows", npy(header("(4294967296, 4294967296, 2, 4)")), "shape is .4294967296"),
    ("npy of a negative length", npy(header("(-1, 3, 6, 4)")), "shape is .-1"),
    ("npy of lengths that are no numbers", npy(header("('a', 3)")), "key states: damaged"),
    ("npy whose header is a program", npy(header("__import__('os').system('touch executed')")), "key states: damaged"),
    ("npy with a deep header", npy(header("(" * 3000 + ")" * 3000)), "key states: damaged"),
    ("npy with an endless header", npy(b"\x93NUMPY\x02\x00\xff\xff\xff\x7f{"), "key states: damaged"),
    ("npy of a future version", npy(header("(1,)", version=9)), "unknown version"),
    ("npy of objects", npy(header("(1,)", "'|O'") + b"\x80\x04."), "pickled objects, which are never loaded"),
    ("npy of a table with objects", npy(header("(1,)", "[('a', '|O')]")), "pickled objects"),
    ("member of exabytes", members(("states.npy", header("(9999999999, 3, 6, 4)"))), "key states: damaged"),
    ("objects", npz(states=OBJECTS), "key states: holds pickled objects"),
    ("pickled names", npz(task_names=OBJECTS), "key task_names: holds pickled objects"),
    ("pickled settings", npz(settings=OBJECTS), "key settings: holds pickled objects"),
    ("structured", npz(states=np.zeros(3, [("x", float), ("y", float)])), "key states: the type is"),
    ("dates", npz(states=np.zeros((1, 2, 3, 4), "M8[s]")), "the type is datetime64"),
    ("times", npz(states=np.zeros((1, 2, 3, 4), "m8[s]")), "the type is timedelta64"),
    ("complex", npz(states=STATES + 1j), "the type is complex128"),
    ("booleans", npz(states=STATES > 0), "the type is bool"),
    ("long doubles", npz(states=STATES.astype(np.longdouble)), "the type is"),
    ("bytes", npz(states=np.array([b"a"])), "the type is .S1"),
    ("two arrays of one name", members(("states.npy", GOOD), ("states.npy", GOOD)), "'states' is repeated"),
    ("an absolute name", members(("/etc/states.npy", GOOD)), "is a path, not the name of an array"),
    ("a name above", members(("../../states.npy", GOOD)), "is a path, not the name of an array"),
    ("no array", members(("states.npy", b"hello")), "not an array"),
    ("another compression", members(("states.npy", GOOD), method=zipfile.ZIP_LZMA), "NumPy does not use"),
    ("a bomb of another compression", members(("states.npy", bytes(10**7)), method=zipfile.ZIP_BZIP2), "does not use"),
    ("a scalar", npz(states=np.float64(1)), "states have shape"),
    ("nothing", npz(states=np.zeros((0, 2, 3, 4))), "at least 1 task"),
    ("feature names of numbers", npz(features=np.arange(4)), "not a list of names"),
    ("feature names too few", npz(features=np.array(["x"])), "4 features but 1 names"),
    ("feature names alike", npz(features=np.array(["x", "x", "y", "z"])), "feature name 'x' is repeated"),
    ("feature names of a megabyte", npz(features=np.array(["x" * 10**5, "y", "z", "u"])), "has 100000 characters"),
    ("task names too few", npz(task_names=np.array(["a"])), "task_names are <U1 of shape .1,."),
    ("task names of fractions", npz(task_names=np.array([0.5, 1.5])), "task_names are float64"),
    ("task names alike", npz(task_names=np.array(["a", "a"])), "task name 'a' is repeated"),
    ("names beyond Unicode", wrong_codes, "key task_names: damaged.*beyond Unicode"),
    ("entity names of one task", npz(entity_names=np.array(["a", "b", "c"])), "entity_names are"),
    (
        "entity names alike",
        npz(entity_names=np.array([["a", "b", "c"], ["a", "b", "b"]])),
        "task 1: the entity name 'b'",
    ),
    ("mask of numbers", npz(mask=np.ones((2, 3, 6))), "mask is float64"),
    ("mask of a task", npz(mask=np.ones((3, 6), bool)), "mask is bool of shape .3, 6."),
    ("labels of a billion", npz(relations=np.full((2, 3, 3), 10**9) * ~np.eye(3, dtype=bool)), "labels range from 0"),
    ("labels beyond int64", npz(relations=np.full((2, 3, 3), 2**64 - 1, np.uint64)), "key relations"),
    ("types of a billion", npz(types=np.full((2, 3), 10**9)), "type of entity 0 is 1000000000"),
    ("types of a task", npz(types=np.zeros(3, int)), "types are int64 of shape .3,."),
    ("deep settings", npz(settings=nested(100_000)), "nested more than 32 levels"),
    ("settings a little too deep", npz(settings=nested(40)), "nested more than 32 levels"),
    ("settings of a list", npz(settings=np.array("[1]")), "not a JSON object"),
    ("settings of numbers", npz(settings=np.arange(5)), "is not text"),
    ("settings of a huge number", npz(settings=np.array('{"a": ' + "9" * 5000 + "}")), "not a JSON object"),
    ("a format of text", npz(format=np.array("one")), "format, of type <U3"),
    ("a step of nothing", npz(frame_step=np.float64(0)), "frame_step is 0"),
    ("a step below floats", npz(frame_step=np.float64(5e-324)), "frame_step is 5e-324"),
    ("states at the end of floats", npz(states=np.sign(STATES) * 1e308), "the limit is 1e.32"),
    ("states below floats", npz(states=STATES * 1e-310), "less than 1e-32"),
    ("labels of the published layout", npz(loc=0, vel=0, edges=np.arange(200.0).reshape(2, 10, 10)), "200 different"),
    ("published, without axes", npz(loc=np.zeros(3), vel=np.zeros(3)), "the shape is"),
]


# ---- HDF5 ------------------------------------------------------------------------------------------------------------


def h5(fill: Callable[[h5py.File, Path], object]) -> Maker:
    def make(here: Path) -> Path:
        with h5py.File(here / "a.h5", "w") as file:
            fill(file, here)
        return here / "a.h5"

    return make


def other(here: Path) -> Path:
    with h5py.File(here / "secret.h5", "w") as file:
        file["states"] = STATES
    return here / "secret.h5"


def external(file: h5py.File, here: Path) -> None:
    (here / "secret.bin").write_bytes(STATES.tobytes())
    file.create_dataset("states", STATES.shape, "f8", external=[(str(here / "secret.bin"), 0, STATES.nbytes)])


def virtual(file: h5py.File, here: Path) -> None:
    layout = h5py.VirtualLayout(STATES.shape, "f8")
    layout[:] = h5py.VirtualSource(other(here), "states", STATES.shape)
    file.create_virtual_dataset("states", layout)


def overfull_chunk(file: h5py.File, here: Path) -> None:
    data = file.create_dataset("states", STATES.shape, "f8", chunks=STATES.shape, compression="gzip")
    data.id.write_direct_chunk((0, 0, 0, 0), zlib.compress(bytes(10**8)))


def damaged_chunk(file: h5py.File, here: Path) -> None:
    data = file.create_dataset("states", STATES.shape, "f8", chunks=STATES.shape, compression="gzip")
    data.id.write_direct_chunk((0, 0, 0, 0), b"no stream of deflate")


def deep(file: h5py.File, here: Path) -> None:
    group = file
    for _ in range(50):
        group = group.create_group("a")
    group["states"] = STATES


def in_a_circle(file: h5py.File, here: Path) -> None:
    file["group/loop"] = file["/"] if "group" in file else file.create_group("group")
    file["group/up"] = file["/"]


def long_names(file: h5py.File, here: Path) -> None:
    file["states"], file["task_names"] = STATES, np.array(["a" * 10**6, "b"], object)


def linked_out(file: h5py.File, here: Path) -> None:
    file["states"] = h5py.ExternalLink(other(here), "states")


def linked_in_a_group(file: h5py.File, here: Path) -> None:
    file["test/states"] = h5py.ExternalLink("x.h5", "states")


def zeros(file: h5py.File, here: Path) -> None:
    file.create_dataset("states", data=np.zeros((50, 10, 5000, 4)), compression=9)


def deep_settings(file: h5py.File, here: Path) -> None:
    file["states"], file["settings"] = STATES, "[" * 10**5


def referring(file: h5py.File, here: Path) -> None:
    file["states"] = STATES
    file.attrs.create("features", file["/"].ref, dtype=h5py.ref_dtype)


def of_type(kind: object) -> Maker:
    return h5(lambda file, here: file.create_dataset("states", (1, 2, 3, 4), kind))


def sized(shape: tuple[int, ...], **how: object) -> Maker:
    return h5(lambda file, here: file.create_dataset("states", shape, "f8", **how))


HDF5: list[tuple[str, Maker, str]] = [
    ("values in another file", h5(external), "key states: its values are stored in another file"),
    ("virtual", h5(virtual), "key states: virtual data sets are not read"),
    ("external link", h5(linked_out), "link to another"),
    ("soft link", h5(lambda f, here: f.__setitem__("states", h5py.SoftLink("/elsewhere"))), "a link to another place"),
    ("link in a group", h5(linked_in_a_group), "link to another f"),
    ("terabytes, nothing stored", sized((10**4, 10, 10**6, 4)), "the declared size is 3.2 TB"),
    ("terabytes in chunks", sized((10**4, 10, 10**6, 4), chunks=(1, 10, 100, 4)), "the declared size is"),
    ("a chunk of gigabytes", sized((2, 2, 10, 4), maxshape=(None, 2, 10, 4), chunks=(10**7, 2, 2, 4)), "its chunks"),
    ("a chunk that swells", h5(overfull_chunk), "holds more than its size"),
    ("a chunk that is damaged", h5(damaged_chunk), "damaged or truncated"),
    ("zeros compressed", h5(zeros), "the declared size is"),
    ("groups without end", h5(deep), "groups deep"),
    ("a circle of groups", h5(in_a_circle), "no states among its keys"),
    ("references", of_type(h5py.ref_dtype), "references"),
    ("lists", of_type(h5py.vlen_dtype(np.float64)), "lists"),
    ("compound", of_type([("x", "f8")]), "the type is"),
    ("complex numbers", of_type("c16"), "the type is"),
    ("opaque", of_type("V8"), "the type is"),
    ("empty", h5(lambda f, h: f.__setitem__("states", h5py.Empty("f8"))), "empty"),
    ("a type", h5(lambda f, h: f.__setitem__("states", np.dtype("f8"))), "a type, not an array"),
    ("names of a megabyte", h5(long_names), "a text has 1000000 characters"),
    ("an attribute of references", h5(referring), "references"),
    ("deep settings", h5(deep_settings), "nested"),
]


# ---- tables ----------------------------------------------------------------------------------------------------------


def columns(tasks: int = 2, n: int = 3, t: int = 6) -> dict[str, list]:
    task, entity, frame = (part.ravel() for part in np.indices((tasks, n, t)))
    out = {"task": task, "frame": frame.astype(float), "entity": entity, "x": np.sin(task + entity + 0.1 * frame)}
    return {name: part.tolist() for name, part in out.items()}


def text(content: str | bytes, name: str = "a.csv") -> Maker:
    raw = content.encode() if isinstance(content, str) else content
    return lambda here: here.joinpath(name).write_bytes(raw) and here / name


def table(ending: str = "csv", **change: Callable[[list], list]) -> Maker:
    def make(here: Path) -> Path:
        parts = columns()
        parts |= {name: value(parts[name]) for name, value in change.items()}
        path = here / f"a.{ending}"
        if ending == "csv":
            csv.write_csv(pa.table(parts), path)
        else:
            parquet.write_table(pa.table(parts), path)
        return path

    return make


def last(value: object) -> Callable[[list], list]:
    return lambda old: [*old[:-1], value]


def scattered(here: Path) -> Path:
    """As many tasks as entities, and every row of its own."""
    count = 2000
    parts = {"task": [0] * count + list(range(count)), "frame": list(range(count)) + [0] * count}
    csv.write_csv(pa.table(parts | {"entity": list(range(2 * count)), "x": [0.5] * (2 * count)}), here / "a.csv")
    return here / "a.csv"


def rows_without_end(here: Path) -> Path:
    count = 2_000_000
    zeros = pa.array(np.zeros(count, np.int8))
    parquet.write_table(pa.table(dict.fromkeys(("task", "frame", "entity", "x"), zeros)), here / "a.parquet")
    return here / "a.parquet"


def long_dictionary(here: Path) -> Path:
    names = pa.DictionaryArray.from_arrays(pa.array(np.zeros(36, np.int32)), pa.array(["a" * 10**6]))
    parquet.write_table(pa.table(columns() | {"task": names}), here / "a.parquet")
    return here / "a.parquet"


def wide_parquet(here: Path) -> Path:
    parquet.write_table(pa.table(columns() | {f"f{i}": [0.0] * 36 for i in range(5000)}), here / "a.parquet")
    return here / "a.parquet"


HEAD, LINE = "task,frame,entity,x\n", "0,0,0,1\n0,0,1,1\n"
TABLES: list[tuple[str, Maker, str]] = [
    ("a mistyped frame", table(frame=last(2e9)), "task 1, frame 2000000000 is 2e.09 steps after the previous one, 5"),
    ("a mistyped frame, parquet", table("parquet", frame=last(2e9)), "is 2e.09 steps after"),
    ("a frame beyond all", table(frame=last(1e300)), "the limit is 2.53"),
    ("floats beyond 2^53", table("parquet", frame=lambda old: [f + 2.0**60 for f in old]), "the limit is 2.53"),
    ("floats below -2^53", table("parquet", frame=lambda old: [-f - 2.0**60 for f in old]), "the limit is 2.53"),
    ("a time between", table(frame=last(1e-300)), "frame 1e-300 is (repeated|not a multiple)"),
    ("a scattered table", scattered, "4000 rows, far too few"),
    ("a value beyond floats", table(x=last(1e308)), "the limit is 1e.32"),
    ("a hundred thousand columns", text("a," * 100_000 + "\n"), "100001 columns; give at most"),
    ("a million letters without a line", text("a" * 2_000_000), "first line is longer"),
    ("a quotation without end", text('"' + "a,\n" * 500_000), "first line is longer"),
    ("a huge cell", text(HEAD + LINE + "0,1,0," + "a" * 20_000_000 + "\n"), r"a\.csv"),
    ("a huge name", text(HEAD + LINE + "0,1," + "a" * 5000 + ",1\n"), "a name has 5000 bytes"),
    ("no UTF-8", text(b"task,frame,entity,x\n0,0,\xff\xfe,1\n"), r"a\.csv"),
    ("no UTF-8 in a header", text(b"task,frame,entity,\xff\n0,0,0,1\n"), r"a\.csv"),
    ("NUL", text(HEAD + "0,0,0,1\x00\n"), r"a\.csv"),
    ("only NUL", text(bytes(1000)), r"a\.csv"),
    ("columns alike", text("task,frame,entity,x,x\n0,0,0,1,1\n"), "'x' is repeated"),
    ("columns alike but for an apostrophe", text("task,frame,entity,'=x,=x\n0,0,0,1,1\n"), "'=x' is repeated"),
    ("integers beyond int64", table(entity=last(2**63 - 1), frame=last(2.0**63)), r"a\.csv"),
    ("rows of other lengths", text(HEAD + LINE + "0,1,0\n"), r"a\.csv"),
    ("two million equal rows", rows_without_end, "rows: the declared size is"),
    ("a dictionary of megabytes", long_dictionary, "a name has 1000000 bytes|the declared size is"),
    ("five thousand columns", wide_parquet, "5004 columns"),
    ("tasks of lists", table("parquet", task=lambda old: [[t] for t in old]), "is of type list"),
]  # fmt: skip
CASES = [("array: ", *case) for case in ARRAYS] + [("hdf5: ", *case) for case in HDF5]
CASES += [("table: ", *case) for case in TABLES]


@pytest.mark.parametrize(("make", "told"), [case[2:] for case in CASES], ids=[case[0] + case[1] for case in CASES])
def test_one_line(make: Maker, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = make(tmp_path)
    for missing in ("error", "mask"):
        with pytest.raises(DataError, match=told) as caught:
            load(path, how=Reading(missing=missing))
    message = str(caught.value)
    assert str(path) in message
    assert message.isprintable()
    assert not (tmp_path / "executed").exists()


PAIRS = [(task, r, s) for task in range(2) for r in range(3) for s in range(3) if r != s]
RELATIONS = [
    ("a label of a billion", "1000000000", "relation 1000000000.*from 0 to 127"),
    ("a label beyond int64", "9" * 30, "from 0 to 127"),
    ("infinity", "inf", "relation inf"),
    ("NaN", "nan", "relation None"),
    ("nothing", "", "relation None"),
]


@pytest.mark.parametrize(("label", "told"), [case[1:] for case in RELATIONS], ids=[case[0] for case in RELATIONS])
def test_hostile_labels(label: str, told: str, tmp_path: Path) -> None:
    rows = "".join(f"{t},{r},{s},{label if (t, r, s) == PAIRS[-1] else 0}\n" for t, r, s in PAIRS)
    (tmp_path / "labels.csv").write_text("task,receiver,sender,relation\n" + rows)
    with pytest.raises(DataError, match=told):
        load(table()(tmp_path), how=Reading(relations=str(tmp_path / "labels.csv")))


def test_pairs_without_rows(tmp_path: Path) -> None:
    """A table of twenty thousand entities would ask for four hundred million pairs."""
    count = 20_000
    parts = {"task": [0] * count * 2, "frame": [0] * count + [1] * count, "entity": list(range(count)) * 2}
    csv.write_csv(pa.table(parts | {"x": [0.5] * count * 2}), tmp_path / "a.csv")
    (tmp_path / "labels.csv").write_text("task,receiver,sender,relation\n0,0,1,1\n")
    with pytest.raises(DataError, match=r"labels\.csv: 1 rows, far too few"):
        load(tmp_path / "a.csv", how=Reading(relations=str(tmp_path / "labels.csv")))


def test_resampling_to_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"resample=1e-12 makes 5e\+12 frames"):
        load(table()(tmp_path), how=Reading(resample=1e-12))


def test_gaps_that_recordings_have(tmp_path: Path) -> None:
    """What is refused as mistyped is not what a camera that fails for a while leaves."""
    parts = columns(t=200)
    parts["frame"] = [frame + 900 * (frame > 100) for frame in parts["frame"]]
    csv.write_csv(pa.table(parts), tmp_path / "a.csv")
    data = load(tmp_path / "a.csv", how=Reading(missing="mask"))["test"]
    assert data.num_frames == 1100
    assert data.mask is not None
    assert data.mask.sum() == 2 * 3 * 200


def test_not_a_file() -> None:
    with pytest.raises(DataError, match="/dev/zero is neither a file nor a directory"):
        load("/dev/zero")


# ---- damage ----------------------------------------------------------------------------------------------------------


def test_heaps_of_texts_within_one_another(tmp_path: Path) -> None:
    """Each a text in all heaps before it, and as large as the file: they are not walked one after the other."""
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        text = (1).to_bytes(8, "little") + (16).to_bytes(8, "little")
        heap = text + b"GCOL\x01\0\0\0" + (2**40).to_bytes(8, "little")
        file["states"] = np.frombuffer(heap * 100_000, np.uint8)
    with pytest.raises(DataError, match="heap of texts"):
        load(path)


def test_a_heap_of_texts_without_end(tmp_path: Path) -> None:
    """HDF5 itself never comes back from reading it."""
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["states"] = STATES
        file["features"] = np.array(["x", "y", "vx", "vy"], dtype=h5py.string_dtype())
    raw = bytearray(path.read_bytes())
    first = raw.index(b"GCOL") + 16
    raw[first : first + 16] = bytes(16)
    path.write_bytes(raw)
    with pytest.raises(DataError, match=r"a\.h5 is damaged \(a heap of texts without end\)"):
        load(path)


ENDINGS = ("npz", "npy", "h5", "csv", "parquet")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A valid file of every format."""
    here, out = tmp_path_factory.mktemp("whole"), {}
    mask = np.ones(STATES.shape[:3], bool)
    names = np.array([["a", "b", "c"], ["a", "b", "d"]])
    relations = np.zeros((2, 3, 3), np.int64)
    data = Trajectories(STATES, relations, ("x", "y", "vx", "vy"), 0.1, {"a": [1]}, mask, np.array([3, 4]), names)
    for ending in ENDINGS:
        if ending == "npy":
            np.save(here / "a.npy", STATES)
        else:
            save(here / f"a.{ending}", {"test": data})
        out[ending] = (here / f"a.{ending}").read_bytes()
    return out


PLACE = st.floats(0, 1, exclude_max=True)  # as a share of the file: how long that is must not steer what is drawn
CHANGES = st.lists(st.tuples(PLACE, st.integers(0, 255)), min_size=1, max_size=4)


def damaged(content: bytes, changes: list[tuple[float, int]], end: float | None) -> bytes:
    raw = bytearray(content)
    for place, byte in changes:
        raw[int(place * len(raw))] = byte
    return bytes(raw if end is None else raw[: int(end * len(raw))])


@pytest.mark.parametrize("ending", ENDINGS)
@given(changes=CHANGES, end=st.none() | PLACE)
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_damage_is_one_line_or_none(
    ending: str, whole: dict[str, bytes], tmp_path: Path, changes: list[tuple[float, int]], end: float | None
) -> None:
    path = tmp_path / f"a.{ending}"
    path.write_bytes(damaged(whole[ending], changes, end))
    said, splits = "", {}
    try:
        splits = load(path, how=Reading(missing="mask"))
    except DataError as error:
        said = str(error)
    assert splits or str(path) in said
    assert said.isprintable()
    for part in splits.values():
        part.validate("read")
        json.dumps(part.settings)


def test_pickles_of_trackers_grow_and_spoil_nothing() -> None:
    """A list that holds the same list twice, thirty times over; an attribute set on what a name stands for."""
    grown: list[Any] = [1.0]
    for _ in range(30):
        grown = [grown, grown]
    with pytest.raises(DataError, match="nested too deep"):
        unpickled("a.npy", pickle.dumps(grown))
    spoils = b"\x80\x02c_codecs\nencode\nN}X\x05\x00\x00\x00spoilK\x01s\x86b."
    unpickled("a.npy", spoils)
    assert not hasattr(pickles._encoded, "spoil")
    array = {"trajectories": np.arange(12.0).reshape(2, 3, 2), "names": ["a", "b"]}
    found = unpickled("a.npy", pickle.dumps(array))
    np.testing.assert_array_equal(found["trajectories"], array["trajectories"])
