"""One broken or hostile file of results hides no other in `modmeta report`, and names in it are text."""

import csv
import io
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from modmeta.cli.main import main
from modmeta.report.collect import SWEEP, collect, not_started
from modmeta.report.results import results
from modmeta.report.tables import in_markdown
from modmeta.text import for_plot, for_sheet, from_sheet, plain
from tests.unit.report.test_report import RESULTS, written


def content_with(**changes: Any) -> str:
    content = json.loads((RESULTS / "springs5" / "500tasks_seed0.json").read_text())
    config = changes.pop("config", {})
    content |= changes
    content["config"] = content["config"] | config if isinstance(config, dict) else config
    return json.dumps(content)


GOOD_CONFIG = "name: springs5\nseed: 0\ndata:\n  num_tasks: 100\n"
BROKEN: dict[str, str | bytes] = {
    "empty": "",
    "not JSON": "{",
    "words": "hello",
    "invalid UTF-8": b'{"config": {}, "train/tasks": 1, "x": "\xff"}',
    "zeros": b"\0" * 100,
    "byte order mark": b"\xef\xbb\xbf{}",
    "deep lists": "[" * 100_000,
    "deep lists that end": "[" * 100_000 + "]" * 100_000,
    "deep dictionaries": '{"a":' * 100_000,
    "less deep": content_with(x=json.loads("[" * 80 + "]" * 80)),
    "long list": "[" + "1," * 1_100_000 + "1]",
    "large file": '"' + "x" * (17 << 20) + '"',
    "digits": content_with().replace('"seed": 0', '"seed": 1' + "0" * 5000),
    "integer of 400 digits": content_with(seed=10**400),
    "surrogate": content_with(x="\ud800"),
    "config a list": content_with(config=[]),
    "config a word": content_with(config="name"),
    "config null": content_with(config=None),
    "name a list": content_with(config={"name": ["springs5"]}),
    "name a number": content_with(config={"name": 5}),
    "name null": content_with(config={"name": None}),
    "name of 1 MB": content_with(config={"name": "x" * 10**6}),
    "seed a dictionary": content_with(seed={}),
    "seed a list": content_with(seed=[0]),
    "seed a word": content_with(seed="0"),
    "seed a boolean": content_with(seed=True),
    "seed infinite": content_with(seed=float("inf")),
    "seed beyond": content_with(seed=2**63),
    "tasks negative": content_with(**{"train/tasks": -5}),
    "tasks none": content_with(**{"train/tasks": 0}),
    "tasks a fraction": content_with(**{"train/tasks": 0.5}),
    "tasks not a number": content_with(**{"train/tasks": float("nan")}),
    "tasks infinite": content_with(**{"train/tasks": float("inf")}),
    "tasks beyond": content_with(**{"train/tasks": 10**30}),
    "tasks a list": content_with(**{"train/tasks": [500]}),
    "tasks null": content_with(**{"train/tasks": None}),
    "seconds a word": content_with(**{"train/seconds": "60"}),
    "seconds not a number": content_with(**{"train/seconds": float("nan")}),
    "seconds negative": content_with(**{"train/seconds": -1}),
    "steps infinite": content_with(**{"train/steps": float("inf")}),
    "accuracy a boolean": content_with(**{"test/edge_accuracy": True}),
    "accuracy a word": content_with(**{"test/edge_accuracy": "0.9"}),
    "accuracy beyond 1": content_with(**{"test/edge_accuracy": 5}),
    "accuracy below 0": content_with(**{"test/edge_accuracy": -1e300}),
    "accuracy infinite": content_with(**{"test/edge_accuracy": float("-inf")}),
    "error a list": content_with(**{"test/mse_1": [1.0]}),
    "error null": content_with(**{"test/mse_1": None}),
    "error huge": content_with(**{"test/mse_10": 1e308}),
    "priors a number": content_with(priors=5),
    "priors unhashable": content_with(priors=[{}]),
    "history a word": content_with(history="x"),
    "history of lists": content_with(history=[[1, 2]]),
    "history of words": content_with(history=[{"steps": "1", "train/edge_accuracy": "2"}]),
    "history of nulls": content_with(history=[{"steps": None}]),
    "history of booleans": content_with(history=[{"steps": True}]),
    "history huge": content_with(history=[{"steps": 1, "train/edge_accuracy": 1e308}]),
    "yaml tag": "name: !!python/object/apply:os.system [touch pwned]\n",
    "yaml own tag": "name: !x springs5\n",
    "yaml bomb": "a: &a [x, x, x]\nb: &b [*a, *a, *a]\nname: springs5\n",
    "yaml deep": "a: " + "[" * 50_000,
    "yaml list": "- name\n",
    "yaml text": "name\n",
    "yaml empty": "",
    "yaml damaged": "name: [\n",
    "yaml keys": "1: 2\n",
    "yaml large": "name: " + "x" * (1 << 20),
    "yaml zeros": b"\0" * 50,
}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> str:
    return text_of(good(tmp_path_factory.mktemp("good")))


def good(directory: Path) -> Path:
    written(directory / "a.json", seed=0, edge_accuracy=0.9)
    written(directory / "z.json", seed=1, edge_accuracy=0.8)
    return directory


def text_of(directory: Path) -> str:
    files = results(collect([directory]))
    return files["RESULTS.md"].decode()


def parts(text: str) -> tuple[str, list[str]]:
    """A report without the list of files that could not be read, and that list."""
    before, _, after = text.partition("## Files that could not be read\n\n")
    lines, _, rest = after.partition("\n\n## Provenance")
    return (before + "## Provenance" + rest, lines.split("\n")) if after else (text, [])


def broken(directory: Path, name: str) -> Path:
    """Writes one of the broken files into a directory."""
    is_run = name.startswith("yaml")
    path = directory / name / ".hydra" / "config.yaml" if is_run else directory / f"m {name}.json"
    path.parent.mkdir(exist_ok=True, parents=True)
    content = BROKEN[name]
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_named_and_hides_nothing(tmp_path: Path, name: str) -> None:
    expected = collect([good(tmp_path)]).runs
    path = broken(tmp_path, name)
    found = collect([tmp_path])
    assert found.runs == expected
    (line,) = found.unreadable
    assert path.relative_to(tmp_path).as_posix() in line
    assert "\n" not in line
    assert len(line) < 300


def test_many_broken_files_leave_the_report_as_it_was(tmp_path: Path, expected: str) -> None:
    for name in BROKEN:
        broken(tmp_path, name)
    text, unread = parts(text_of(good(tmp_path)))
    assert text == expected
    assert len(unread) == len(BROKEN) > 40


def test_what_is_no_file(tmp_path: Path, expected: str) -> None:
    """Pipes are not waited for, links that lead back not followed, directories of such names looked into."""
    good(tmp_path)
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "loop.json").symlink_to("loop.json")
    (tmp_path / "gone.json").symlink_to("nowhere")
    (tmp_path / "device.json").symlink_to("/dev/zero")
    (tmp_path / "directory.json").mkdir()
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "back").symlink_to(tmp_path)
    (tmp_path / "run").mkdir()
    os.mkfifo(tmp_path / "run" / "metrics.json")
    deep = tmp_path.joinpath(*["d"] * 40)
    deep.mkdir(parents=True)
    shutil.copy(tmp_path / "a.json", deep / "far.json")
    start = time.monotonic()
    text, unread = parts(text_of(tmp_path))
    assert time.monotonic() - start < 10
    assert text == expected
    assert sorted(line.split(" ")[1].strip("d/") for line in unread if "deep" not in line) == [
        "evice.json", "gone.json", "loop.json", "pipe.json", "run/metrics.json",
    ]  # fmt: skip
    assert len(unread) == 6


def test_files_of_a_run_that_are_odd(tmp_path: Path, expected: str) -> None:
    """A run without results is still listed, whatever its other files are."""
    good(tmp_path)
    for name, other, content in (
        ("one", "failed.txt", b"\xff\xfe"), ("two", "failed.txt", b"<b>no</b> | room\nmore"),
        ("three", "failed.txt", b""),
        ("four", "curves.csv", b"epoch\nnan\n"), ("five", "curves.csv", b"epoch\n1e999\n"),
        ("six", "curves.csv", b"\xff"),
        ("seven", "curves.csv", b'"' + b"x" * 200_000), ("eight", "curves.csv", b"epoch\n3\n"),
    ):  # fmt: skip
        (tmp_path / name / ".hydra").mkdir(parents=True)
        (tmp_path / name / ".hydra" / "config.yaml").write_text(GOOD_CONFIG + "home: ${oc.env:HOME}\nk: [{}, [1]]\n")
        (tmp_path / name / other).write_bytes(content)
    found = collect([tmp_path])
    assert len(found.finished) == 2
    states = {run.where: (run.state, run.note) for run in found.unfinished}
    assert states["two"] == ("failed", "<b>no</b> | room")
    assert states["one"][1] == "failed.txt cannot be read"
    assert states["eight"][1].startswith("4 of ? epochs")
    assert len(states) == 8
    assert all(states[name][1].startswith("0 of") for name in ("four", "five", "six", "seven"))
    text = results(found)["RESULTS.md"].decode()
    assert "<b>" not in text
    assert expected.split("## All runs")[1].split("## Provenance")[0] in text


def test_status_and_lines_of_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad\n\x1b[2J.json"
    bad.write_text("{")
    assert main(["report", str(bad), "-o", str(tmp_path / "out")]) == 2
    assert "no run could be read" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    first = written(tmp_path / "good.json")
    assert main(["report", str(bad), str(first), "-o", str(tmp_path / "out")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if line.startswith("not read: ")]) == 1
    assert not any("\x1b" in line for line in lines)


NAMES = [
    "<script>alert(1)</script>", "a|b|c", "x\n\n# Heading", "![x](http://a.b/c.png)", "[x](javascript:1)",
    "$\\frac{1}{0}$",
    "$", "{world.__class__}", "{", "=cmd|'/C calc'!A0", "+1+1", "-2+3", "@SUM(A1)", "'quoted", "\x1b[31mred",
    "a\u202eb",
    "../../etc", "nul\0nul", "&lt;b&gt;", "**bold** `code` ~~x~~ @user www.a.b", "\t=1", "\r=1", "名前",
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:Glyph")  # fonts lack letters
def test_names_are_text(tmp_path: Path) -> None:
    """As the name of an experiment, a method, a machine, a prior, a commit, and of a directory."""
    for place, name in enumerate(NAMES):
        for end in ("", "_springs5"):
            changes = {"config": {"name": name + end}, "commit": name, "priors": [name], "hardware": {"cpu": name}}
            (tmp_path / f"{place}{end}.json").write_text(content_with(**changes))
        folder = tmp_path / f"{name}{place}".replace("\0", "").replace("/", "_").replace("..", "__")
        (folder / ".hydra").mkdir(parents=True)
        (folder / ".hydra" / "config.yaml").write_text(GOOD_CONFIG)
    files = results(collect([tmp_path]))
    text = files["RESULTS.md"].decode()
    assert not {"<", "\x1b", "\u202e", "\0", "\r", "\t"} & set(text)
    assert "](http" not in text
    assert "](java" not in text
    assert "\n# Heading" not in text
    table: list[str] = []
    for line in text.splitlines():
        table = [*table, line] if line.startswith("|") else []
        assert len({row.replace("\\|", "").count("|") for row in table}) <= 1, line
    rows = list(csv.reader(io.StringIO(files["efficiency.csv"].decode(), newline="")))
    assert len(rows) > len(NAMES)
    assert not any(cell.startswith(("=", "+", "@", "\t", "\r")) for row in rows for cell in row)
    assert {from_sheet(row[1]) for row in rows} > {name.replace("_", " ") for name in NAMES if name.isprintable()}
    assert b"<script" not in files["efficiency.svg"]


@pytest.mark.parametrize("name", [*NAMES, "", "plain", "''", "'=1"])
def test_escaped_names_are_read_back(name: str) -> None:
    cell = for_sheet(name)
    assert isinstance(cell, str)
    assert from_sheet(cell) == name
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r"))
    assert "\n" not in plain(name) + in_markdown(name) + for_plot(name)
    assert "$" not in for_plot(name).replace("\\$", "")


@pytest.mark.parametrize(
    ("task", "count"),
    [
        (["seed=1,2,3"], 3), (["seed=range(0,1000000000000)"], 10**12), (["a=1,2", "b=range(1,4)"], 6), (["a=1"], 1),
        ([f"k{i}={','.join(map(str, range(100)))}" for i in range(6)], 10**12),
        (["a=[[[[", "b"], 0), (["a=" + "[" * 5000], 0), (["a=" + "[" * 150], 0),
        (["x" * 20_000], 0), ([{"a": 1}], 0), ("seed=1,2", 0), (None, 0), (["a=glob(*)"], 0), (["a=interval(0,1)"], 0),
        (["a=${oc.env:HOME}"], 1), (["a=range(0,1,0)"], 0),
    ],
)  # fmt: skip
def test_sweeps_are_counted_without_a_look_at_each_run(tmp_path: Path, task: Any, count: int) -> None:
    sweeper = {"_target_": "hydra._internal.core_plugins.basic_sweeper.BasicSweeper", "params": None}
    (tmp_path / SWEEP).write_text(json.dumps({"hydra": {"sweeper": sweeper, "overrides": {"task": task}}}))
    start = time.monotonic()
    assert not_started(tmp_path) == count
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(
    "content", ["", "[]", "hydra: 1", "hydra: {sweeper: 1}", "a: &a 1\nb: *a", "hydra: !!x 1", "[" * 9999]
)
def test_odd_records_of_sweeps_count_nothing(tmp_path: Path, content: str) -> None:
    (tmp_path / SWEEP).write_text(content)
    assert not_started(tmp_path) == 0
