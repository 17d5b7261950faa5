"""Files of one set of trajectories, written in the ways that people and their programs write them."""

# ruff: noqa: E501  one habit a line

import bz2
import gzip
import lzma
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as parquet
import pytest
import scipy.io

Columns = dict[str, list]
TASKS, N, FRAMES, STEP = 4, 3, 12, 0.1
TIME = STEP * np.arange(FRAMES)
PHASE = np.arange(TASKS * N).reshape(TASKS, N, 1) + 0.3
STATES = np.round(
    np.stack([np.sin(TIME + PHASE), 2 * np.cos(0.7 * TIME + PHASE), np.cos(TIME + PHASE), -1.4 * np.sin(0.7 * TIME + PHASE)], -1), 6
)  # fmt: skip
NAMES = ("x", "y", "vx", "vy")


def columns(tasks: int = TASKS, names: tuple[str, ...] = NAMES, entities: tuple = (0, 1, 2)) -> Columns:
    """Rows of a long table, by task, frame and entity; frames are numbered."""
    out: Columns = {name: [] for name in ("task", "frame", "entity", *names)}
    for task, frame, entity in np.ndindex(tasks, FRAMES, N):
        values = STATES[task, entity, frame][[NAMES.index(name) for name in names]].tolist()
        for name, value in zip(out, (task, frame, entities[entity], *values), strict=True):
            out[name].append(value)
    return out


def wide(form: str, names: tuple[str, ...] = NAMES, entities: tuple = (1, 2, 3), task: int = 0) -> Columns:
    """One row for every frame: a column for every entity and feature, named by a format of `e` and `f`."""
    out: Columns = {"time": TIME.tolist()}
    for i, entity in enumerate(entities):
        out |= {form.format(e=entity, f=name): STATES[task, i, :, NAMES.index(name)].tolist() for name in names}
    return out


def renamed(table: Columns, **names: str) -> Columns:
    return {names.get(name, name): values for name, values in table.items()}


def text(
    table: Columns, separator: str = ",", decimal: str = ".", end: str = "\n", last: str = "", head: bool = True
) -> str:
    """Text of a table."""

    def cell(value: object) -> str:
        return "" if value is None else str(value).replace(".", decimal) if isinstance(value, float) else str(value)

    rows = [[*map(cell, row)] for row in zip(*table.values(), strict=True)]
    return end.join(separator.join(row) + last for row in ([[*table], *rows] if head else rows)) + end


Make = Callable[[Path], Path]


def file(name: str, content: str | bytes) -> Make:
    """A maker of a file with this content."""
    raw = content.encode() if isinstance(content, str) else content

    def make(here: Path) -> Path:
        (here / name).write_bytes(raw)
        return here / name

    return make


def csv(table: Columns, name: str = "a.csv", **how: str) -> Make:
    return file(name, text(table, **how))  # type: ignore[arg-type]


def arrow(table: Columns | pa.Table, name: str = "a.parquet") -> Make:
    def make(here: Path) -> Path:
        value = table if isinstance(table, pa.Table) else pa.table(table)
        if name.endswith(".feather"):
            feather.write_feather(value, here / name)
        else:
            parquet.write_table(value, here / name)
        return here / name

    return make


def directory(**parts: Make) -> Make:
    def make(here: Path) -> Path:
        (here / "parts").mkdir()
        for part in parts.values():
            part(here / "parts")
        return here / "parts"

    return make


def packed(name: str, content: str) -> Make:
    def make(here: Path) -> Path:
        with zipfile.ZipFile(here / name, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a.csv", content)
        return here / name

    return make


def arrays(name: str = "a.npz", **values: np.ndarray) -> Make:
    def make(here: Path) -> Path:
        if name.endswith(".mat"):
            scipy.io.savemat(here / name, values)
        elif name.endswith(".h5") or name.endswith(".hdf5"):
            with h5py.File(here / name, "w") as store:
                for key, value in values.items():
                    store[key] = value
        else:
            np.savez(here / name, **values)
        return here / name

    return make


def workbook(**sheets: dict[str, list]) -> Make:
    def make(here: Path) -> Path:
        book = pytest.importorskip("openpyxl").Workbook()
        book.remove(book.active)
        for name, table in sheets.items():
            sheet = book.create_sheet(name)
            for row in [list(table), *zip(*table.values(), strict=True)]:
                sheet.append(list(row))
        book.save(here / "a.xlsx")
        return here / "a.xlsx"

    return make


def matlab73(name: str = "a.mat", **values: np.ndarray) -> Make:
    """As MATLAB does: a header of 512 bytes, then HDF5 with reversed axes."""

    def make(here: Path) -> Path:
        with h5py.File(here / name, "w", userblock_size=512) as store:
            for key, value in values.items():
                store[key] = value.T
        with (here / name).open("r+b") as raw:
            raw.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\0\2IM")
        return here / name

    return make


@dataclass(frozen=True)
class Habit:
    """A file and what must come of it.

    Args:
        make: writes the file.
        options: of `modmeta inspect`.
        step: time between its frames.
        tasks: number of its recordings, the first of `STATES`.
        features: that it has, by name in `STATES`.
        note: part of a note that the reader must give.
    """

    make: Make
    options: tuple[str, ...] = ()
    step: float = 1.0
    tasks: int = TASKS
    features: tuple[str, ...] = NAMES
    note: str = ""
    more: dict = field(default_factory=dict)


LONG = columns()
XY = columns(names=("x", "y"))
ONE = columns(tasks=1)
CSV = text(LONG)


def timed(values: object) -> Columns:
    """A table whose frames have these times."""
    known = list(values)  # type: ignore[call-overload]
    return LONG | {"frame": [known[frame] for frame in LONG["frame"]]}


def moments(rate: float, form: str = "") -> list:
    start = datetime(2024, 5, 1, 12, tzinfo=UTC).replace(tzinfo=None)
    times = [start + timedelta(seconds=frame / rate) for frame in range(FRAMES)]
    return [time.strftime(form) if form else time for time in times]


WITH_MISSING = LONG | {"x": [None if i == 40 else x for i, x in enumerate(LONG["x"])]}
INDEXED = {"": list(range(len(LONG["x"]))), **LONG}
MISSING_WORDS = (
    "",
    "NA",
    "NaN",
    "nan",
    "null",
    "NULL",
    "None",
    "-",
    "?",
    "N/A",
    "n/a",
    "#N/A",
    "<NA>",
    "NaT",
    ".",
    "--",
)


def missing(word: str) -> str:
    return text(WITH_MISSING | {"x": [word if x is None else x for x in WITH_MISSING["x"]]})


HABITS: dict[str, Habit] = {
    # separators, decimal marks, line ends
    "csv": Habit(csv(LONG)),
    "numbered recordings": Habit(arrays(**{f"trial{i}": STATES[i].transpose(1, 0, 2) for i in range(TASKS)},
                                        features=np.array(NAMES)), note="of a task each"),
    "the larger sheet": Habit(workbook(remarks={"by": ["me"], "when": ["today"]}, tracks=LONG), note="'tracks'"),
    "semicolon": Habit(csv(LONG, separator=";"), note="semicolons"),
    "decimal comma": Habit(csv(LONG, separator=";", decimal=","), note="','"),
    "tabs": Habit(csv(LONG, separator="\t")),
    "tsv": Habit(csv(LONG, "a.tsv", separator="\t")),
    "tabs and decimal comma": Habit(csv(LONG, "a.tsv", separator="\t", decimal=",")),
    "tsv with commas": Habit(csv(LONG, "a.tsv")),
    "bars": Habit(csv(LONG, separator="|")),
    "blanks": Habit(csv(LONG, "a.txt", separator=" ")),
    "aligned": Habit(file("a.txt", "\n".join("   ".join(f"{cell:>9}" for cell in line.split(",")) for line in CSV.split()))),
    "blanks after commas": Habit(csv(LONG, separator=", ")),
    "quoted decimal comma": Habit(file("a.csv", "\n".join(
        [CSV.split()[0], *(",".join(f'"{cell}"'.replace(".", ",") for cell in line.split(",")) for line in CSV.split()[1:])]))),
    "Windows lines": Habit(csv(LONG, end="\r\n")),
    "old Mac lines": Habit(csv(LONG, end="\r")),
    "no last line end": Habit(file("a.csv", CSV.rstrip())),
    "empty lines": Habit(file("a.csv", CSV.replace("\n", "\n\n"))),
    "trailing separators": Habit(csv(LONG, last=",")),
    "trailing separators but in the header": Habit(file("a.csv", CSV.split("\n")[0] + "\n" + text(LONG, last=",", head=False))),
    "sep=": Habit(file("a.csv", "sep=;\n" + text(LONG, separator=";"))),
    "txt": Habit(csv(LONG, "a.txt")),
    "dat": Habit(csv(LONG, "a.dat", separator="\t")),
    "no ending": Habit(csv(LONG, "table")),
    "an unknown ending": Habit(csv(LONG, "a.export")),
    "capital ending": Habit(csv(LONG, "A.CSV")),
    # comments and titles
    "comment": Habit(file("a.csv", "# by a tracker\n" + CSV)),
    "comments in the middle": Habit(file("a.csv", CSV.replace("\n1,0,0", "\n# trial 2\n1,0,0", 1).replace("task,", "# one\ntask,", 1))),
    "percent comment": Habit(file("a.csv", "% MATLAB\n" + CSV)),
    "commented header": Habit(file("a.txt", "# " + text(LONG, separator=" "))),
    "title lines": Habit(file("a.csv", "Experiment 7\n\n" + CSV), note="1 lines before"),
    "units below the names": Habit(file("a.csv", CSV.replace("\n", "\n,s,,m,m,m/s,m/s\n", 1)), note="units"),
    # encodings
    "UTF-8 with mark": Habit(file("a.csv", CSV.encode("utf-8-sig"))),
    "UTF-16": Habit(file("a.csv", CSV.encode("utf-16")), note="utf-16"),
    "UTF-16 without mark": Habit(file("a.csv", CSV.encode("utf-16-le"))),
    "Windows-1252": Habit(file("a.csv", text(columns(entities=("grün", "weiß", "Öl"))).encode("cp1252")), note="Windows-1252"),
    "Unicode names": Habit(csv(columns(entities=("é", "日", "ω")))),
    # compression
    "gz": Habit(file("a.csv.gz", gzip.compress(CSV.encode()))),
    "tsv gz": Habit(file("a.tsv.gz", gzip.compress(text(LONG, "\t").encode()))),
    "bz2": Habit(file("a.csv.bz2", bz2.compress(CSV.encode()))),
    "xz": Habit(file("a.csv.xz", lzma.compress(CSV.encode()))),
    "zst": Habit(file("a.csv.zst", pa.compress(CSV.encode(), "zstd", asbytes=True))),
    "zip": Habit(packed("a.zip", CSV)),
    "csv zip": Habit(packed("a.csv.zip", CSV)),
    # binary tables
    "parquet": Habit(arrow(LONG)),
    "feather": Habit(arrow(LONG, "a.feather")),
    "arrow": Habit(arrow(LONG, "a.feather")),
    "parquet without an ending": Habit(arrow(LONG, "table")),
    "float16": Habit(arrow(pa.table(LONG).set_column(2, "entity", pa.array(LONG["entity"], pa.uint8())))),
    "decimals": Habit(arrow(pa.table(LONG).set_column(3, "x", pa.array(LONG["x"]).cast(pa.decimal128(12, 6))))),
    "dictionaries": Habit(arrow(pa.table(LONG).set_column(0, "task", pa.array([f"t{t}" for t in LONG["task"]]).dictionary_encode()))),
    "parts": Habit(directory(one=arrow(columns(2), "part-0.parquet"), two=arrow(
        {name: [value for value, task in zip(values, LONG["task"], strict=True) if task > 1] for name, values in LONG.items()},
        "part-1.parquet")), note="2 files"),
    "a directory of recordings": Habit(directory(
        **{f"r{task}": csv({name: [value for value, of in zip(values, LONG["task"], strict=True) if of == task]
                            for name, values in LONG.items() if name != "task"}, f"r{task}.csv") for task in range(TASKS)}),
        note="each of 4 files is a recording"),
    # names of columns
    "upper case": Habit(csv(renamed(LONG, **{name: name.upper() for name in LONG}))),
    "capitals": Habit(csv(renamed(LONG, task="Task", frame="Frame", entity="Entity", x="X", y="Y", vx="Vx", vy="Vy"))),
    "blanks around names": Habit(csv(renamed(LONG, x=" x", y="y ", frame=" frame "))),
    "survey": Habit(csv(renamed(XY, x="Easting", y="Northing")), features=("x", "y")),
    "pos_x": Habit(csv(renamed(LONG, x="pos_x", y="pos_y", vx="vel_x", vy="vel_y"))),
    "posX": Habit(csv(renamed(LONG, x="posX", y="posY", vx="velX", vy="velY"))),
    "x_px": Habit(csv(renamed(LONG, x="x_px", y="y_px", vx="vx_px", vy="vy_px"))),
    "centroid_x": Habit(csv(renamed(XY, x="centroid_x", y="centroid_y")), features=("x", "y")),
    "Position X": Habit(csv(renamed(XY, x="Position X", y="Position Y")), features=("x", "y")),
    "units in brackets": Habit(csv(renamed(LONG, x="x [mm]", y="y [mm]", vx="vx [mm/s]", vy="vy [mm/s]"))),
    "units in parentheses": Habit(csv(renamed(XY, x="X (cm)", y="Y (cm)")), features=("x", "y")),
    "y before x": Habit(csv({name: XY[name] for name in ("task", "frame", "entity", "y", "x")}), features=("x", "y")),
    "velocities first": Habit(csv({name: LONG[name] for name in ("vx", "vy", "x", "y", "task", "frame", "entity")})),
    "interleaved": Habit(csv({name: LONG[name] for name in ("task", "frame", "entity", "x", "vx", "y", "vy")})),
    "xdot": Habit(csv(renamed(LONG, vx="xdot", vy="ydot"))),
    "dx/dt": Habit(csv(renamed(LONG, vx="dx/dt", vy="dy/dt"))),
    "particle": Habit(csv(renamed(LONG, entity="particle")), note="'particle'"),
    "track_id": Habit(csv(renamed(LONG, entity="track_id"))),
    "Track ID": Habit(csv(renamed(LONG, entity="Track ID"))),
    "id": Habit(csv(renamed(LONG, entity="id"))),
    "object_id": Habit(csv(renamed(LONG, entity="object_id"))),
    "agent": Habit(csv(renamed(LONG, entity="Agent"))),
    "animal": Habit(csv(renamed(LONG, entity="animal"))),
    "trial": Habit(csv(renamed(LONG, task="trial")), note="'trial'"),
    "video": Habit(csv(renamed(LONG, task="video"))),
    "frame_number": Habit(csv(renamed(LONG, frame="frame_number"))),
    "Frame No.": Habit(csv(renamed(LONG, frame="Frame No."))),
    "t": Habit(csv(renamed(timed(TIME.round(3).tolist()), frame="t")), step=STEP),
    "time_s": Habit(csv(renamed(timed(TIME.round(3).tolist()), frame="time_s")), step=STEP),
    "own names": Habit(csv(renamed(LONG, task="scene no", frame="when", entity="who")),
                       ("--task", "scene no", "--frame", "when", "--entity", "who")),
    "names of formulas": Habit(csv(renamed(LONG, entity="'=who")), ("--entity", "=who")),
    "features chosen": Habit(csv(LONG | {"q": LONG["x"]}), ("--features", "x,y,vx,vy")),
    "features by another case": Habit(csv(renamed(LONG, x="X", y="Y")), ("--features", "x,y,vx,vy")),
    # columns that are no states
    "index of pandas": Habit(csv(INDEXED), note="left out"),
    "Unnamed: 0": Habit(csv(renamed(INDEXED, **{"": "Unnamed: 0"})), note="left out"),
    "index of Parquet": Habit(arrow(renamed(INDEXED, **{"": "__index_level_0__"})), note="left out"),
    "row numbers": Habit(csv(renamed(INDEXED, **{"": "n"})), note="'n'"),
    "index of R": Habit(file("a.txt", text(LONG, " ") .split("\n")[0] + "\n" + text(
        {"i": [f'"{i + 1}"' for i in range(len(LONG["x"]))], **LONG}, " ", head=False)), note="left out"),
    "relation column": Habit(csv(LONG | {"relation": [0] * len(LONG["x"])}), note="'relation'"),
    "label column": Habit(csv(LONG | {"label": [f"ID{i}" for i in LONG["entity"]]}), note="'label'"),
    "empty column": Habit(csv(LONG | {"remarks": [None] * len(LONG["x"])}), note="'remarks'"),
    "frame and time": Habit(csv(LONG | {"time": [0.1 * frame for frame in LONG["frame"]]}), note="'time'"),
    "spot and track": Habit(csv({"spot_id": [7 * i % 1000 for i in range(len(LONG["x"]))], **renamed(LONG, entity="track_id")})),
    # types
    "whole floats": Habit(csv(LONG | {"entity": [f"{e}.0" for e in LONG["entity"]], "task": [f"{t}.0" for t in LONG["task"]]})),
    "whole floats in Parquet": Habit(arrow(LONG | {"entity": list(map(float, LONG["entity"]))})),
    "frames as floats": Habit(csv(LONG | {"frame": [f"{f}.0" for f in LONG["frame"]]})),
    "entities of text": Habit(csv(LONG | {"entity": [f"mouse {e}" for e in LONG["entity"]]})),
    "exponents": Habit(csv(LONG | {"x": [f"{x:.6e}" for x in LONG["x"]]})),
    "plus signs": Habit(csv(LONG | {"x": [f"{x:+}" for x in LONG["x"]]})),
    # time
    "times": Habit(csv(timed(TIME.round(3).tolist())), step=STEP),
    "frames from 1000 in steps of 10": Habit(csv(timed(range(1000, 1120, 10))), step=10.0),
    "frames from 1": Habit(csv(timed(range(1, FRAMES + 1)))),
    "negative frames": Habit(csv(timed(range(-5, FRAMES - 5)))),
    "30 a second in ms": Habit(csv(timed([round(1000 * f / 30) for f in range(FRAMES)])), step=1000 / 30),
    "30 a second cut to ms": Habit(csv(timed([int(1000 * f / 30) for f in range(FRAMES)])), step=1000 / 30),
    "30 a second in 3 decimals": Habit(csv(timed([round(f / 30, 3) for f in range(FRAMES)])), step=1 / 30),
    "30 a second in 2 decimals": Habit(csv(timed([round(f / 30, 2) for f in range(FRAMES)])), step=1 / 30),
    "29.97 a second": Habit(csv(timed([round(f * 1001 / 30000, 4) for f in range(FRAMES)])), step=1001 / 30000),
    "29.97 a second in us": Habit(csv(timed([round(f * 1001e6 / 30000) for f in range(FRAMES)])), step=1001e6 / 30000),
    "25 a second": Habit(csv(timed([f / 25 for f in range(FRAMES)])), step=0.04),
    "60 a second in ms": Habit(csv(timed([round(1000 * f / 60) for f in range(FRAMES)])), step=1000 / 60),
    "epoch seconds": Habit(csv(timed([1714564800 + f / 10 for f in range(FRAMES)])), step=STEP),
    "epoch seconds of 30 a second": Habit(csv(timed([f"{1714564800 + f / 30:.3f}" for f in range(FRAMES)])), step=1 / 30),
    "epoch milliseconds": Habit(csv(timed([1714564800000 + 100 * f for f in range(FRAMES)])), step=100.0),
    "epoch nanoseconds": Habit(csv(timed([1714564800 * 10**9 + 10**8 * f for f in range(FRAMES)])), step=1e8),
    "epoch nanoseconds in Parquet": Habit(arrow(timed([1714564800 * 10**9 + 10**8 * f for f in range(FRAMES)])), step=1e8),
    "ISO dates": Habit(csv(timed([time.isoformat(timespec="milliseconds") for time in moments(10)])), step=STEP),
    "ISO dates with a blank": Habit(csv(timed([str(time) for time in moments(1)])), step=1.0),
    "ISO dates with a zone": Habit(csv(timed([time.isoformat(timespec="milliseconds") + "Z" for time in moments(10)])), step=STEP),
    "ISO dates of 30 a second": Habit(csv(timed([time.isoformat(timespec="milliseconds") for time in moments(30)])), step=1 / 30),
    "German dates": Habit(csv(timed(moments(1, "%d.%m.%Y %H:%M:%S")))),
    "American dates": Habit(csv(timed(moments(1, "%m/%d/%Y %H:%M:%S")))),
    "days": Habit(csv(timed([f"2024-05-{day:02d}" for day in range(1, FRAMES + 1)])), step=86400.0),
    "clock": Habit(csv(timed([f"12:00:{f:02d}" for f in range(FRAMES)]))),
    "stop watch": Habit(csv(timed([f"0:00:{f / 10:06.3f}" for f in range(FRAMES)])), step=STEP),
    "durations of pandas": Habit(csv(timed([f"0 days 00:00:00.{f:02d}0000" for f in range(FRAMES)])), step=0.01),
    "timestamps in Parquet": Habit(arrow(timed(moments(10))), step=STEP),
    "durations in Parquet": Habit(arrow(timed([timedelta(seconds=f / 10) for f in range(FRAMES)])), step=STEP),
    "jitter": Habit(csv(timed([0.1 * f + 0.002 * (-1) ** f for f in range(FRAMES)])), step=STEP, note="off an even grid"),
    "a frame step": Habit(csv(LONG), ("--frame-step", "0.1"), step=STEP),
    # one recording
    "no task": Habit(csv({name: values for name, values in ONE.items() if name != "task"}), tasks=1, note="one recording"),
    "trackpy": Habit(csv({"": list(range(36)), "y": ONE["y"], "x": ONE["x"], "mass": [9.0] * 36, "frame": ONE["frame"],
                          "particle": ONE["entity"]}), ("--features", "x,y"), tasks=1, features=("x", "y")),
    # wide
    "x1": Habit(csv(wide("{f}{e}")), step=STEP, tasks=1, note="3 entities"),
    "x_1": Habit(csv(wide("{f}_{e}")), step=STEP, tasks=1),
    "1_x": Habit(csv(wide("{e}_{f}")), step=STEP, tasks=1),
    "ant1_x": Habit(csv(wide("ant{e}_{f}")), step=STEP, tasks=1),
    "mouse_a_x": Habit(csv(wide("mouse_{e}_{f}", entities=("a", "b", "c"))), step=STEP, tasks=1),
    "nose.x": Habit(csv(wide("{e}.{f}", ("x", "y"), ("nose", "paw", "tail"))), step=STEP, tasks=1, features=("x", "y")),
    "x_nose": Habit(csv(wide("{f}_{e}", ("x", "y"), ("nose", "paw", "tail"))), step=STEP, tasks=1, features=("x", "y")),
    "X1 [mm]": Habit(csv(renamed(wide("{f}{e} [mm]", ("x", "y")))), step=STEP, tasks=1, features=("x", "y")),
    "wide without time": Habit(csv({name: values for name, values in wide("{f}{e}").items() if name != "time"}), tasks=1,
                               note="rows are frames"),
    "wide with an index": Habit(csv({"": list(range(FRAMES)), **{n: v for n, v in wide("{f}{e}").items() if n != "time"}}), tasks=1),
    "wide semicolons": Habit(csv(wide("{f}{e}"), separator=";", decimal=","), step=STEP, tasks=1),
    "wide Parquet": Habit(arrow(wide("{f}{e}")), step=STEP, tasks=1),
    "a column for every neuron": Habit(csv(wide("n{e}", ("x",))), step=STEP, tasks=1, features=("x",), note="3 entities"),
    "a matrix": Habit(file("a.csv", text({n: v for n, v in wide("n{e}", ("y",)).items() if n != "time"}, head=False)), tasks=1,
                      features=("y",), note="no line of names"),
    "DeepLabCut": Habit(file("a.csv", "scorer" + ",net" * 9 + "\nbodyparts" + "".join(f",{p}" * 3 for p in ("nose", "paw", "tail"))
        + "\ncoords" + ",x,y,likelihood" * 3 + "\n" + text({"i": list(range(FRAMES)), **{
            f"{e}{f}": (np.ones(FRAMES) if f == "p" else STATES[0, e, :, NAMES.index(f)]).tolist()
            for e in range(3) for f in ("x", "y", "p")}}, head=False)), ("--features", "x,y"), tasks=1, features=("x", "y"),
        note="DeepLabCut"),
    # arrays
    "npz": Habit(arrays(states=STATES, features=np.array(NAMES), frame_step=np.array(STEP)), step=STEP),
    "npz with another name": Habit(arrays(positions=STATES, features=np.array(NAMES)), note="'positions'"),
    "npz in another order": Habit(arrays(states=STATES[..., [1, 0, 3, 2]], features=np.array(["y", "x", "vy", "vx"]))),
    "hdf5": Habit(arrays("a.h5", states=STATES, features=np.array(NAMES).astype("S"))),
    "mat": Habit(arrays("a.mat", states=STATES, features=np.array(NAMES, object), frame_step=np.array(STEP)), step=STEP),
    "mat of one array": Habit(arrays("a.mat", tracks=STATES), features=NAMES, note="'tracks'", more={"names": False}),
    "mat 7.3": Habit(matlab73(states=STATES, frame_step=np.array(STEP)), step=STEP, more={"names": False}),
    "mat 7.3 without an ending": Habit(matlab73("recording.mat", states=STATES), more={"names": False}),
    "idtracker.ai": Habit(lambda here: _idtracker(here), step=1 / 25, tasks=1, features=("x", "y"), note="idtracker.ai"),
}  # fmt: skip


def _idtracker(here: Path) -> Path:
    content = {"trajectories": STATES[0, ..., :2].transpose(1, 0, 2).copy(), "frames_per_second": 25, "version": "5.1"}
    np.save(here / "trajectories.npy", np.array(content, dtype=object), allow_pickle=True)
    return here / "trajectories.npy"
