"""What cannot be read says so in one line, and the remedy that it names works."""

from pathlib import Path

import numpy as np
import pytest

from modmeta.data.formats import load
from modmeta.data.loading.filemodule import tasks_of
from modmeta.data.reading import Reading
from modmeta.errors import DataError
from tests.unit.data.habits import (
    FRAMES,
    LONG,
    STATES,
    TIME,
    Make,
    arrays,
    arrow,
    columns,
    csv,
    file,
    renamed,
    text,
    timed,
    wide,
    workbook,
)
from tests.unit.data.test_habits import read

COUNT = len(LONG["x"])
MARKED = LONG | {"x": [None if i == 40 else x for i, x in enumerate(LONG["x"])]}
WORDS = (
    "",
    "NA",
    "NaN",
    "nan",
    "NAN",
    "null",
    "NULL",
    "None",
    "none",
    "-",
    "--",
    "?",
    "N/A",
    "n/a",
    "#N/A",
    "<NA>",
    "NaT",
    ".",
    "missing",
)


def with_word(word: str) -> Make:
    return csv(MARKED | {"x": [word if x is None else x for x in MARKED["x"]]})


@pytest.mark.parametrize("word", WORDS)
def test_words_for_missing_values(word: str, tmp_path: Path) -> None:
    path = with_word(word)(tmp_path)
    with pytest.raises(DataError, match=r"task 1, entity 1, frame 1, column 'x' is nan; .*missing=mask"):
        read(path)
    data = read(path, ("--missing", "mask"))
    assert (~data.mask).sum() == 1  # type: ignore[operator]
    assert not data.mask[1, 1, 1]  # type: ignore[index]


# name, file, what is said, and the options that then work; None where the file must change
ODD: dict[str, tuple[Make, str, tuple[str, ...] | None]] = {
    "separators of thousands": (
        csv(LONG | {"x": [f"{1e4 * x:,.1f}" for x in LONG["x"]]}, separator=";"),
        "column 'x' has separators of thousands, such as '.*'; write numbers without",
        None,
    ),
    "names in another language": (
        csv(renamed(LONG, task="Versuch", frame="Zeit", entity="Tier")),
        r"no column 'frame' among .* among \['Versuch', 'Zeit', 'Tier'\] by --frame NAME",
        ("--task", "Versuch", "--frame", "Zeit", "--entity", "Tier"),
    ),
    "sheets of recordings": (
        workbook(first=columns(tasks=1), second=columns(tasks=1)),
        r"sheets \['first', 'second'\] have the same columns; join them in one, with a column task",
        None,
    ),
    "an archive": (file("a.tar.gz", b"-"), "is an archive; unpack it", None),
    "R": (file("a.rds", b"-"), "convert it in R: write.csv", None),
    "text column": (
        csv(LONG | {"species": ["mouse"] * COUNT}),
        r"column 'species' is of type string, such as 'mouse'; features must be numbers.*--features x,y,vx,vy",
        ("--features", "x,y,vx,vy"),
    ),
    "text column in Parquet": (
        arrow(LONG | {"species": ["mouse"] * COUNT}),
        r"column 'species' is of type string, such as 'mouse'; .*--features x,y,vx,vy",
        ("--features", "x,y,vx,vy"),
    ),
    "dates as a feature": (
        csv(LONG | {"born": ["2024-05-01"] * COUNT}),
        "column 'born' is of type date32.*--features x,y,vx,vy",
        ("--features", "x,y,vx,vy"),
    ),
    "dates as a feature in Parquet": (
        arrow(LONG | {"born": [np.datetime64("2024-05-01", "s")] * COUNT}),
        "column 'born' is of type timestamp.*--features",
        ("--features", "x,y,vx,vy"),
    ),
    "lists": (
        arrow(LONG | {"box": [[1.0, 2.0]] * COUNT}),
        "column 'box' is of type list.*--features x,y,vx,vy",
        ("--features", "x,y,vx,vy"),
    ),
    "a word among numbers": (
        file("a.csv", text(LONG | {"x": [*LONG["x"][:-1], "oops"]})),
        "column 'x' is of type string, such as 'oops'",
        None,
    ),
    "a word far below": (
        file(
            "a.csv",
            text({name: values * 3 for name, values in LONG.items()}).replace("task", "q", 0) + "0,0,0,oops,1,1,1\n",
        ),
        "column 'x' is of type string; 'oops' in row 433 is no number",
        None,
    ),
    "no entity": (csv(renamed(LONG, entity="who")), "no column 'entity' among .*--entity who", ("--entity", "who")),
    "no entity in Parquet": (
        arrow(renamed(LONG, entity="who")),
        "no column 'entity' among .*--entity who",
        ("--entity", "who"),
    ),
    "no frame": (csv(renamed(LONG, frame="when")), "no column 'frame' among .*--frame when", ("--frame", "when")),
    "another task column": (
        csv(renamed(LONG, task="scene no")),
        "is repeated; remove one, or name the column of the task",
        ("--task", "scene no"),
    ),
    "an unknown column": (csv(LONG), "no column 'scene'", ()),
    "an unknown feature": (csv(LONG), "no column 'z' among", ("--features", "x,y,vx,vy")),
    "no names, frames first": (
        file("a.txt", text(columns(tasks=1), "\t", head=False)),
        "no line of names.*--frame column1",
        (
            "--task",
            "column1",
            "--frame",
            "column2",
            "--entity",
            "column3",
            "--features",
            "column4,column5,column6,column7",
        ),
    ),
    "short row": (file("a.csv", text(LONG) + "3,11\n"), "Expected 7 columns, got 2 in the row '3,11'", None),
    "long row": (file("a.csv", text(LONG) + "3,11,0,1,1,1,1,1,1\n"), "Expected 7 columns, got 9", None),
    "a total below": (file("a.csv", text(LONG) + "Total;144\n"), "Expected 7 columns, got 1", None),
    "the same name twice": (
        file("a.csv", text(LONG).replace("vx", "x", 1)),
        "column 'x' is repeated; rename one",
        None,
    ),
    "a row twice": (
        file("a.csv", text(LONG) + text(LONG).splitlines()[-1] + "\n"),
        "the row of task 3, entity 2, frame 11 is repeated",
        None,
    ),
    "empty": (file("a.csv", ""), "Empty CSV file", None),
    "blank": (file("a.csv", "\n\n \n"), "Empty CSV file", None),
    "only comments": (file("a.csv", "# nothing\n"), "Empty CSV file", None),
    "only names": (file("a.csv", "task,frame,entity,x\n"), "no rows|Empty CSV file", None),
    "binary": (file("a.csv", bytes(range(256)) * 9), r"a\.csv", None),
    "an unknown format": (
        file("a.bin", bytes(range(256)) * 9),
        r"neither a \.npz nor a \.npy file.*\.csv, \.tsv",
        None,
    ),
    "an image": (file("a.png", b"\x89PNG\r\n\x1a\n" + bytes(100)), "neither a .npz", None),
    "HTML": (file("a.csv", "<!DOCTYPE html>\n<html><body>not found</body></html>\n"), r"a\.csv", None),
    "JSON": (file("a.json", '{"a": [1, 2]}\n{"a": [1, 2]}\n'), r"a\.json", None),
    "a directory of nothing": (lambda here: here, "holds no file like", None),
    "two kinds of tables": (
        lambda here: [csv(LONG)(here), arrow(LONG)(here), here][-1],
        "holds files .csv, .parquet",
        None,
    ),
    "tables that differ": (
        lambda here: [csv(LONG)(here), csv(renamed(LONG, vx="u"), "b.csv")(here), here][-1],
        "differ in column 'u'|differ in column 'vx'",
        None,
    ),
    "uneven times": (csv(timed(TIME**1.3)), "steps must be even, or give resample=", ("--resample", "0.1")),
    "a time that jumps": (csv(timed([*range(11), 10.4])), "frame 10.4 is not a multiple of 1 after the first", None),
    "a mistyped frame": (
        csv(LONG | {"frame": [*LONG["frame"][:-1], 10**9]}),
        "steps after the previous one, 11|steps after the previous one, 10",
        None,
    ),
    "words as times": (
        csv(timed([f"f{i}" for i in range(FRAMES)])),
        "column 'frame' is of type string; 'f0' is neither a number nor a time",
        None,
    ),
    "a missing entity": (
        csv(LONG | {"entity": ["", *LONG["entity"][1:]]}),
        "has no entity; add it or remove the row",
        None,
    ),
    "a missing frame": (
        csv(LONG | {"frame": ["", *LONG["frame"][1:]]}),
        "has no frame; add it or remove the row",
        None,
    ),
    "half entities": (csv(LONG | {"entity": [e + 0.5 for e in LONG["entity"]]}), "", ()),
    "half entities in Parquet": (
        arrow(LONG | {"entity": [e + 0.5 for e in LONG["entity"]]}),
        "'entity' is of type double",
        None,
    ),
    "one entity": (
        csv(
            {name: [v for v, e in zip(values, LONG["entity"], strict=True) if e == 0] for name, values in LONG.items()}
        ),
        "2 entities",
        None,
    ),
    "coordinates of one": (
        csv({"time": TIME.tolist(), "x": TIME.tolist(), "y": TIME.tolist()}),
        "no column 'entity'",
        None,
    ),
    "wide with a text column": (
        csv(
            wide("{f}{e}") | {"x4": ["a"] * FRAMES, "y4": ["b"] * FRAMES, "vx4": [1.0] * FRAMES, "vy4": [1.0] * FRAMES}
        ),
        "column 'x4' is of type string",
        None,
    ),
    "rows lost": (
        csv({name: values[:40] + values[41:] for name, values in LONG.items()}),
        "task 1, entity 1 lacks frame 1; add it, or mask such frames with missing=mask",
        ("--missing", "mask"),
    ),
    "infinity": (
        csv(LONG | {"x": ["inf", *LONG["x"][1:]]}),
        "column 'x' is inf; correct it, or mask such frames with missing=mask",
        ("--missing", "mask"),
    ),
    "two files in a zip": (lambda here: _two(here), "holds 2 files", None),
    "gz that is cut": (lambda here: _cut(here), r"a\.csv\.gz", None),
    "no zip": (file("a.zip", "not a zip\n" * 9), r"a\.zip", None),
    "xlsx that is none": (file("a.xlsx", b"PK\x05\x06" + bytes(18)), "no workbook of Excel", None),
    "feather that is cut": (file("a.feather", b"ARROW1\0\0" + bytes(50)), r"a\.feather", None),
    "mat that is cut": (file("a.mat", b"MATLAB 5.0 MAT-file" + bytes(150)), r"a\.mat", None),
    "slp that is none": (file("a.slp", b"nothing"), r"a\.slp", None),
    "xml of others": (file("a.xml", "<?xml version='1.0'?><svg/>"), "holds no tracks of TrackMate", None),
    "xml that expands": (
        file("a.xml", "<?xml version='1.0'?><!DOCTYPE a [<!ENTITY b 'c'>]><Tracks>&b;</Tracks>"),
        "declares entities",
        None,
    ),
    "axes unknown": (arrays(positions=STATES[0]), r"the axes of 'positions', of shape \(3, 12, 4\), are unknown", None),
    "two arrays": (arrays(a=STATES, b=STATES), r"no states among its keys \['a', 'b'\]", None),
    "no array": (arrays(a=np.zeros(3)), "no states among its keys", None),
    "pickled objects": (lambda here: _pickled(here), "no trajectories of idtracker.ai", None),
    "pickle that runs": (
        lambda here: _running(here),
        "holds pickled objects that are no arrays .posix.system|holds pickled objects that are no arrays .nt.system",
        None,
    ),
    "too confident": (csv(LONG), "no column 'likelihood'", ()),
}


def _two(here: Path) -> Path:
    import zipfile

    with zipfile.ZipFile(here / "a.zip", "w") as archive:
        archive.writestr("a.csv", text(LONG))
        archive.writestr("b.csv", text(LONG))
    return here / "a.zip"


def _cut(here: Path) -> Path:
    import gzip

    return file("a.csv.gz", gzip.compress(text(LONG).encode())[:-200])(here)


def _pickled(here: Path) -> Path:
    np.save(here / "a.npy", np.array({"a": 1}, dtype=object), allow_pickle=True)
    return here / "a.npy"


class _Command:
    def __reduce__(self) -> tuple:
        import os

        return os.system, ("touch executed",)


def _running(here: Path) -> Path:
    np.save(here / "a.npy", np.array({"trajectories": _Command()}, dtype=object), allow_pickle=True)
    return here / "a.npy"


ASKED = {
    "an unknown column": ("--task", "scene"),
    "an unknown feature": ("--features", "x,z"),
    "too confident": ("--mask-below", "likelihood=0.5"),
    "another task column": (),
}


@pytest.mark.parametrize("name", [name for name in ODD if ODD[name][1]])
def test_one_line_names_the_remedy(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make, told, remedy = ODD[name]
    path = make(tmp_path)
    with pytest.raises(DataError, match=told) as caught:
        read(path, ASKED.get(name, ()))
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert not (tmp_path / "executed").exists()
    if remedy is not None:
        data = read(path, remedy)
        assert data.num_entities == 3
        assert np.isfinite(data.states).all()


@pytest.mark.parametrize("kind", ["json", "jsonl", "pkl", "dta"])
def test_tables_of_other_programs_name_the_lines_that_convert_them(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pandas = pytest.importorskip("pandas")
    monkeypatch.chdir(tmp_path)
    frame = pandas.DataFrame(LONG)
    write = {"json": frame.to_json, "pkl": frame.to_pickle, "dta": frame.to_stata}
    write.get(kind, lambda path: frame.to_json(path, orient="records", lines=True))(f"a.{kind}")
    with pytest.raises(DataError, match=rf"a\.{kind}: \.{kind} is not read; convert it in Python") as caught:
        read(Path(f"a.{kind}"))
    exec(str(caught.value).partition("in Python: ")[2].partition("; a pickle")[0], {})
    np.testing.assert_allclose(read(Path("a.csv")).states, STATES, atol=1e-6)


def test_recordings_of_very_different_lengths_take_no_memory(tmp_path: Path) -> None:
    short = {f"trial{i}": np.ones((2, 2, 1)) for i in range(1, 3000)}
    np.savez_compressed(tmp_path / "a.npz", trial0=np.zeros((100_000, 2, 1)), **short)
    with pytest.raises(DataError, match="its recordings at equal lengths: the declared size"):
        read(tmp_path / "a.npz")


def test_arrays_that_are_not_read_are_noted(tmp_path: Path) -> None:
    more = {"feature_names": np.array(["x", "y"]), "masks": np.ones(3), "test_relation": np.ones(3), "date": np.ones(3)}
    np.savez(tmp_path / "a.npz", test_states=np.zeros((3, 2, 4, 2)), frame_step=0.1, **more)
    (note,) = read(tmp_path / "a.npz").notes
    assert note == (
        "not read: 'date', 'feature_names' (the key is 'features'), 'masks' (the key is 'mask'), "
        "'test_relation' (the key is 'test_relations')"
    )
    np.savez(tmp_path / "b.npz", test_states=np.zeros((3, 2, 4, 2)), frame_step=0.1, test_mask=np.ones((3, 2, 4), bool))
    assert not read(tmp_path / "b.npz").notes


def test_entities_of_fractions_are_names(tmp_path: Path) -> None:
    assert read(ODD["half entities"][0](tmp_path)).entity_names[0].tolist() == ["0.5", "1.5", "2.5"]  # type: ignore[index]


def test_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import io
    import sys

    from modmeta.data import formats

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text(LONG, ";").encode())))
    assert formats.load("-")["test"].num_tasks == 4


def test_finer_frames_than_the_file_has_are_noted(tmp_path: Path) -> None:
    path = csv(LONG)(tmp_path)
    assert any("--frame-step" in note for note in read(path, ("--resample", "0.1")).notes)
    assert not any("--frame-step" in note for note in read(path, ("--resample", "2")).notes)


def test_masks_need_a_number() -> None:
    with pytest.raises(DataError, match="must give the least value of columns"):
        Reading(mask_below={"likelihood": "high"})


def test_arrays_named_like_splits_are_their_states(tmp_path: Path) -> None:
    states = np.random.default_rng(0).normal(size=(9, 3, 8, 2)).astype(np.float32)
    labels = np.zeros((4, 3, 3), int)
    np.savez(tmp_path / "a.npz", train=states, test=states[:4], test_relations=labels)
    parts = load(tmp_path / "a.npz")
    assert {name: part.num_tasks for name, part in parts.items()} == {"train": 9, "test": 4}
    assert parts["test"].relations is not None
    assert parts["train"].notes == ("'train', 'test': taken for the states of these splits",)
    split = tasks_of(str(tmp_path / "a.npz"), Reading(), 0.2, 0.2, 0)
    assert {name: part.num_tasks for name, part in split.items()} == {"train": 7, "valid": 2, "test": 4}
    assert split["train"].notes[-1] == "tasks drawn from 'train': 2 for valid"
    drawn = np.concatenate((split["train"].states, split["valid"].states))
    assert sorted(drawn[:, 0, 0, 0]) == sorted(states[:, 0, 0, 0])


def test_files_without_training_tasks_are_refused(tmp_path: Path) -> None:
    states = np.random.default_rng(0).normal(size=(9, 3, 8, 2))
    np.savez(tmp_path / "a.npz", valid_states=states, test_states=states)
    with pytest.raises(DataError, match=r"a\.npz has splits \['test', 'valid'\] but no 'train'"):
        tasks_of(str(tmp_path / "a.npz"), Reading(), 0.2, 0.2, 0)
