"""Where commands write: what is ours is replaced, whole; nothing else is touched."""

import errno
import json
import os
import signal
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from modmeta import outputs
from modmeta.errors import DataError
from modmeta.io import (
    TEMPORARY,
    Interrupted,
    Unwritable,
    check_free,
    interruptible,
    remove_temporary,
    write_durably,
    write_file,
)
from modmeta.outputs import MANIFEST, OutputDirectory


def write(path: Path, files: dict[str, str], overwrite: bool = False, reads: tuple[Path, ...] = ()) -> None:
    """An output of some files."""
    with OutputDirectory(path, "infer", overwrite, reads).written() as directory:
        for name, text in files.items():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            (directory / name).write_text(text)


def content(path: Path) -> dict[str, str]:
    """Files of a directory, links by their target, without the manifest."""
    parts = [part for part in sorted(path.rglob("*")) if part.is_symlink() or part.is_file()]
    return {
        part.relative_to(path).as_posix(): f"-> {os.readlink(part)}" if part.is_symlink() else part.read_text()
        for part in parts
        if part.name != MANIFEST
    }


# ---- directories -----------------------------------------------------------------------------------------------------


def test_overwriting_removes_what_the_manifest_lists_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(out, {"a.csv": "1", "figures/a.png": "1", "graphs/deep/0": "1"})
    (out / "mine.txt").write_text("mine")
    (out / "figures" / "mine.txt").write_text("mine")
    (out / "notes" / "empty").mkdir(parents=True)
    (out / "notes" / "b").write_text("mine")
    (out / "notes").chmod(0o750)
    (out / "link").symlink_to("notes")
    inode = (out / "mine.txt").stat().st_ino
    write(out, {"b.csv": "2"}, overwrite=True)
    kept = {"mine.txt": "mine", "figures/mine.txt": "mine", "notes/b": "mine", "link": "-> notes"}
    assert content(out) == kept | {"b.csv": "2"}
    assert (out / "mine.txt").stat().st_ino == inode  # whoever has it open goes on writing to it
    assert (out / "notes" / "empty").is_dir()
    assert stat.S_IMODE((out / "notes").stat().st_mode) == 0o750
    assert not (out / "graphs").exists()
    assert os.listdir(tmp_path) == ["out"]
    assert outputs.read_manifest(out).keys() == {"b.csv"}


def test_without_exchange_of_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on systems other than Linux."""
    monkeypatch.setattr(outputs.sys, "platform", "darwin")
    test_overwriting_removes_what_the_manifest_lists_and_nothing_else(tmp_path)


def test_manifests_are_the_same_whenever_they_are_written(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / name, {"z": "1", "y/x": "2"})
    assert (tmp_path / "a" / MANIFEST).read_bytes() == (tmp_path / "b" / MANIFEST).read_bytes()
    assert json.loads((tmp_path / "a" / MANIFEST).read_text())["command"] == "infer"


def refuse(path: Path, words: str, reads: tuple[Path, ...] = ()) -> None:
    """Fails unless the directory is refused before and after work, and all is as it was."""
    before = sorted(str(part) for part in path.parent.rglob("*"))
    with pytest.raises(DataError, match=words) as told:
        OutputDirectory(path, "infer", True, reads)
    assert "\n" not in str(told.value)
    assert sorted(str(part) for part in path.parent.rglob("*")) == before


def test_what_is_not_ours_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    write(tmp_path / "home", {"a": "1"})
    monkeypatch.setenv("HOME", str(home))
    refuse(home, "home directory.*choose another directory")
    work = tmp_path / "work"
    write(work, {"a/b": "1"})
    monkeypatch.chdir(work / "a")
    refuse(work, "working directory")
    with pytest.raises(DataError, match="mounted"):
        OutputDirectory(Path("/"), "infer", True)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "a.txt").write_text("mine")
    refuse(foreign, "modmeta did not write, which --overwrite never replaces; choose another directory")
    (tmp_path / "link").symlink_to(foreign)
    refuse(tmp_path / "link", "symbolic link")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    refuse(tmp_path / "dangling", "symbolic link")
    refuse(foreign / "a.txt", "is a file")
    refuse(tmp_path / "none" / "out", "none is not a directory; create it first")
    out = tmp_path / "out"
    write(out, {"a": "1"})
    (out / "data.csv").write_text("mine")
    (tmp_path / "data.csv").symlink_to(out / "data.csv")
    for read in (out / "data.csv", out, tmp_path / "data.csv"):
        refuse(out, "is or contains .*choose another directory", (read,))
    with pytest.raises(DataError, match="out exists; choose another directory, or add --overwrite"):
        write(out, {"a": "2"})
    write(out, {"a": "2"}, True, (tmp_path,))  # the output may lie in what is read


@pytest.mark.parametrize(
    "change",
    [
        lambda out: (out / "a").write_text("2"),
        lambda out: (out / "a").write_text("longer"),
        lambda out: ((out / "a").unlink(), (out / "a").mkdir()),
        lambda out: ((out / "a").unlink(), (out / "a").symlink_to(out / "d" / "b")),
        lambda out: ((out / "d").rename(out.parent / "d"), (out / "d").symlink_to(out.parent / "d")),
    ],
)
def test_a_file_that_was_changed_is_not_removed(change: Callable[[Path], object], tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(out, {"a": "1", "d/b": "1"})
    change(out)
    refuse(out, r"was changed since modmeta wrote it.*move it")


def test_a_file_that_was_removed_is_no_obstacle(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(out, {"a": "1", "d/b": "1"})
    (out / "d" / "b").unlink()
    (out / "d").rmdir()
    write(out, {"c": "1"}, overwrite=True)
    assert content(out) == {"c": "1"}


ENTRY = {"bytes": 4, "sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}


@pytest.mark.parametrize(
    "hostile",
    [
        "{",
        "[]",
        "[" * 100_000,
        json.dumps({"format": 2, "files": {}}),
        json.dumps({"format": 1}),
        json.dumps({"format": 1, "files": ["a"]}),
        json.dumps({"format": 1, "files": {"a": 3}}),
        json.dumps({"format": 1, "files": {"a": ENTRY | {"bytes": True}}}),
        *(
            json.dumps({"format": 1, "files": {name: ENTRY}})
            for name in (
                "../kept.txt",
                "d/../../kept.txt",
                "/etc/hostname",
                "",
                ".",
                "./a",
                "a//b",
                "a\nb",
                "\ud800",
                MANIFEST,
                "x" * 5000,
                "..\\kept",
            )
        ),
    ],
)
def test_a_manifest_of_a_stranger_is_data(hostile: str, tmp_path: Path) -> None:
    (tmp_path / "kept.txt").write_text("kept")
    out = tmp_path / "out"
    out.mkdir()
    (out / MANIFEST).write_text(hostile)
    refuse(out, "is not a manifest that modmeta wrote")


def meanwhile(path: Path, change: Callable[[], object], overwrite: bool = True, name: str = "b") -> None:
    """An output of one file; something happens while it is made."""
    with OutputDirectory(path, "infer", overwrite).written() as directory:
        (directory / name).write_text("2")
        change()


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("late", ["late.txt", "late/late.txt"])
def test_a_place_that_came_meanwhile_is_not_replaced(late: str, overwrite: bool, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def come() -> None:
        (out / late).parent.mkdir(parents=True)
        (out / late).write_text("mine")

    with pytest.raises(DataError, match="modmeta did not write"):
        meanwhile(out, come, overwrite)
    assert content(out) == {late: "mine"}
    assert os.listdir(tmp_path) == ["out"]


def test_a_place_that_changed_meanwhile(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(out, {"a": "1"})
    with pytest.raises(DataError, match="was changed while"):
        meanwhile(out, lambda: write(out, {"a": "3"}, overwrite=True))
    assert content(out) == {"a": "3"}
    with pytest.raises(DataError, match=r"mine was not written by modmeta"):
        meanwhile(out, lambda: (out / "mine").write_text("mine"), name="mine")
    assert content(out) == {"a": "3", "mine": "mine"}
    meanwhile(out, lambda: (out / "late").write_text("mine"))
    assert content(out) == {"b": "2", "mine": "mine", "late": "mine"}
    assert os.listdir(tmp_path) == ["out"]


def test_an_empty_directory_is_filled(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir(mode=0o700)
    write(out, {"a": "1"})
    assert content(out) == {"a": "1"}
    assert stat.S_IMODE(out.stat().st_mode) == 0o700


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("so"), OSError(errno.ENOSPC, "full")])
def test_a_directory_that_fails_leaves_nothing(error: BaseException, tmp_path: Path) -> None:
    write(tmp_path / "out", {"a": "1"})

    def fail() -> None:
        raise error

    with pytest.raises((DataError, type(error))):
        meanwhile(tmp_path / "out", fail)
    assert content(tmp_path / "out") == {"a": "1"}
    assert os.listdir(tmp_path) == ["out"]


# ---- files -----------------------------------------------------------------------------------------------------------


def test_files_that_may_not_be_written(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_text("mine")
    (tmp_path / "link").symlink_to(kept)
    os.link(kept, tmp_path / "other_name")
    os.mkfifo(tmp_path / "pipe")
    for path, words in (
        (tmp_path, "is a directory"),
        (tmp_path / "link", "symbolic link"),
        (tmp_path / "pipe", "not a regular file"),
        (Path("/dev/null"), "not a regular file"),
        (kept, "is the input"),
        (tmp_path / "other_name", "is the input"),
        (tmp_path / "none" / "a", "none is not a directory"),
    ):
        with pytest.raises(DataError, match=words):
            check_free(path, True, [kept])
    with pytest.raises(DataError, match="kept exists"):
        check_free(kept, False)
    with pytest.raises(DataError, match="part of it"):
        check_free(kept, True, [tmp_path])
    check_free(tmp_path / "new", False, [tmp_path])


def test_a_file_that_came_meanwhile_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    link = os.link

    def late(*names: Path, **how: bool) -> None:
        path.write_text("mine")
        link(*names, **how)

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", late)
        with pytest.raises(DataError, match="created by another process meanwhile"):
            write_file(path, lambda file: file.write(b"1"), False)
    assert path.read_text() == "mine"

    def unknown(*names: Path, **how: bool) -> None:
        raise OSError(errno.EPERM, "no links here")

    path.unlink()
    monkeypatch.setattr(os, "link", unknown)
    write_file(path, lambda file: file.write(b"1"), False)
    assert path.read_text() == "1"
    assert os.listdir(tmp_path) == ["a"]


def test_modes_are_those_of_other_programs(tmp_path: Path) -> None:
    (tmp_path / "theirs").write_text("")
    write_file(tmp_path / "ours", lambda file: file.write(b"1"), False)
    write(tmp_path / "out", {"a": "1"})
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "theirs").stat().st_mode
    (tmp_path / "theirs").chmod(0o640)
    write_file(tmp_path / "theirs", lambda file: file.write(b"1"), True)
    assert stat.S_IMODE((tmp_path / "theirs").stat().st_mode) == 0o640


def test_long_names(tmp_path: Path) -> None:
    name = "ä" * 127  # 254 bytes, of 255
    write_file(tmp_path / name, lambda file: file.write(b"1"), False)
    assert os.listdir(tmp_path) == [name]
    with pytest.raises(Unwritable, match="shorter name"):
        write_file(tmp_path / "x", lambda file: (tmp_path / ("a" * 300)).touch(), False)


def test_signals_clean_up_and_wait_for_names_to_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modmeta.io._Signals.last", float("-inf"))  # no test before this one counts
    before, inherited = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # tests started in the background ignore it
    for number in (signal.SIGTERM, signal.SIGINT):
        with pytest.raises(Interrupted) as told, interruptible():
            write_file(tmp_path / "a", lambda file, number=number: signal.raise_signal(number), False)  # type: ignore[misc]
        assert told.value.number == number
        assert os.listdir(tmp_path) == []
        time.sleep(1.1)  # a second signal within a second counts as the first one
    assert signal.getsignal(signal.SIGTERM) is before
    signal.signal(signal.SIGINT, inherited)


def test_what_killed_writers_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / f".last.ckpt.abc{TEMPORARY}").write_text("half")
    (tmp_path / "checkpoints" / "last.ckpt").write_text("whole")
    remove_temporary(tmp_path)
    assert content(tmp_path) == {"checkpoints/last.ckpt": "whole"}


def test_writers_side_by_side(tmp_path: Path) -> None:
    """Names of temporary files are never shared, and every reader finds a whole file."""
    path, sizes = tmp_path / "a", set()
    write_durably(path, b"0" * 1000)

    def go(digit: bytes) -> None:
        for _ in range(20):
            write_durably(path, digit * 1000)
            sizes.add(len(set(path.read_bytes())))

    threads = [threading.Thread(target=go, args=(str(number).encode(),)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sizes == {1}
    assert os.listdir(tmp_path) == ["a"]
