"""Does to every command what disks, schedulers and impatient people do, and prints what came of it as a table.

    python -m tests.faults
    python -m tests.faults --only generate prune

Faults are real: a file system of a few pages that is full, or read-only (where mounting is allowed; else a limit on the
size of files, an immutable directory), signals sent while files are written, two processes with one output. Commands
are forked from a process that has imported everything, which saves seconds. The status is 1 where a command did not end
with one line and a status that says so, where the older output was not intact, or where more than temporary files were
left.
"""

import argparse
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: a process with threads should not be forked

import torch

from modmeta.api import load, path_of
from modmeta.cli.main import main
from modmeta.data import files
from modmeta.io import TEMPORARY
from modmeta.outputs import MANIFEST, OutputDirectory

ROOT = Path(__file__).resolve().parents[1]
PAGE, ROOM, LIMIT, TRIES = 4096, 16 << 20, 300.0, 8


@dataclass
class Case:
    """A command and where it writes; nowhere for one that only prints."""

    name: str
    words: list[str]
    output: str | None = None
    check: Callable[[Path], object] = field(default=lambda path: OutputDirectory(path, "", True))

    def line(self, place: Path, overwrite: bool) -> list[str]:
        """The words of the command with its output in a directory."""
        if self.output is None:
            return self.words
        option = "--json" if self.name == "evaluate" else "-o"
        return [*self.words, option, str(place / self.output), *(["--overwrite"] if overwrite else [])]


@dataclass
class End:
    """How a process ended: its status as a shell gives it, and what it wrote to standard error."""

    status: int
    said: str


def cases(here: Path) -> list[Case]:
    """All commands, on small files that are made here."""
    data, prunable, results = str(here / "data.npz"), here / "prunable.ckpt", here / "results"
    assert main(["generate", "springs", "--test", "2", "--test-frames", "60", "-o", data]) == 0
    content = torch.load(path_of("springs5"), weights_only=True)
    content["state_dict"]["usage"] = torch.tensor([0.999, 0.001])
    torch.save(content, prunable)
    results.mkdir()
    for path in sorted((ROOT / "results").glob("springs5_*.json"))[:2]:
        shutil.copy(path, results)
    world = ["generate", "springs", "--test", "300", "--test-frames", "60", "--threads", "1"]
    return [
        Case("generate", world, "new.npz", files.load),
        Case("generate --format nri", [*world, "--format", "nri"], "new"),
        Case("inspect", ["inspect", data]),
        Case("infer", ["infer", "springs5", data], "new"),
        Case(
            "evaluate",
            ["evaluate", str(path_of("springs5")), "--data", data],
            "new.json",
            Path.read_text,
        ),
        Case("prune", ["prune", str(prunable)], "new.ckpt", load),
        Case("unseen", ["unseen", "springs5", data, "--tasks", "1", "--hide", "0"], "new"),
        Case("report", ["report", str(results)], "new"),
    ]


def start(words: list[str], said: Path, prepare: Callable[[], None] = lambda: None, stdout: str = os.devnull) -> int:
    """A command in a process of its own."""
    child = os.fork()
    if child:
        return child
    try:
        os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        os.dup2(os.open(stdout, os.O_WRONLY), 1)
        prepare()
        os._exit(main(words))
    except BaseException:
        sys.excepthook(*sys.exc_info())
        os._exit(70)


def wait(child: int, said: Path, seconds: float = LIMIT) -> End | None:
    """Waits for the end of a process; none where it is still alive after some seconds, killed after many."""
    limit = time.monotonic() + seconds
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            return End(128 - code if code < 0 else code, said.read_text(errors="replace"))
        if time.monotonic() > limit:
            if seconds < LIMIT:
                return None
            os.kill(child, signal.SIGKILL)
        time.sleep(1e-3)


def content(path: Path) -> dict[str, bytes]:
    """All files of an output."""
    if path.is_file():
        return {"": path.read_bytes()}
    return {part.relative_to(path).as_posix(): part.read_bytes() for part in sorted(path.rglob("*")) if part.is_file()}


def left(place: Path, case: Case) -> list[str]:
    """Names of what lies beside the output."""
    return sorted(part.name for part in place.iterdir() if part.name not in (case.output, "filler", "lost+found"))


@contextmanager
def mounted(place: Path) -> Iterator[bool]:
    """A small file system of its own, where one may be mounted."""
    place.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", str(place)]
    allowed = shutil.which("mount") is not None and subprocess.run(words, capture_output=True).returncode == 0
    try:
        yield allowed
    finally:
        if allowed:
            subprocess.run(["umount", str(place)], check=True)


class Torment:
    """All faults of one command.

    Args:
        case: the command.
        here: an empty directory.
    """

    def __init__(self, case: Case, here: Path) -> None:
        self.case, self.here, self.said = case, here, here / "said"
        self.plain = here / "plain"
        self.plain.mkdir(parents=True)
        begun = time.monotonic()
        end = self._run(case.line(self.plain, False))
        assert end.status == 0, end
        self.seconds = time.monotonic() - begun
        self.older = content(self.plain / case.output) if case.output else {}

    def _run(self, words: list[str], prepare: Callable[[], None] = lambda: None, stdout: str = os.devnull) -> End:
        end = wait(start(words, self.said, prepare, stdout), self.said)
        assert end is not None
        return end

    def _copied(self, place: Path) -> None:
        if self.case.output is None:
            return
        source = self.plain / self.case.output
        (shutil.copytree if source.is_dir() else shutil.copy)(source, place / self.case.output)

    def _judged(self, place: Path, end: End, status: int) -> tuple[str, str, str, bool]:
        """Status, line, what is left, and whether that is as promised."""
        lines = end.said.strip().splitlines()
        line = lines[-1] if lines else ""
        others = left(place, self.case) if self.case.output else []
        good = end.status == status and len(lines) == (status not in (0, 137)) and "Traceback" not in end.said
        good &= all(name.endswith(TEMPORARY) for name in others) and (not others or status == 137)
        told = "nothing" if self.case.output is None else "no output"
        if self.case.output and (place / self.case.output).exists():
            path = place / self.case.output
            told = "the older output"
            if content(path) != self.older:
                self.case.check(path)
                told = "the new output, whole"
        elif self.case.output:
            good &= not self.older
        if others:
            told += f", {', '.join(others)}"
        if status == 2 and self.case.output:
            good &= str(place) in line
        return str(end.status), line.replace(str(self.here), "…"), told, good

    def full_disk(self) -> tuple[str, str, str, bool]:
        """No space is left, or too little."""
        if self.case.output is None:
            return self._judged(self.plain, self._run(self.case.words, stdout="/dev/full"), 2)
        with mounted(self.here / "full") as allowed:
            place = self.here / "full"
            self._copied(place)
            size = max(len(part) for name, part in self.older.items() if name != MANIFEST)
            if not allowed:
                limit = (size // 2, resource.getrlimit(resource.RLIMIT_FSIZE)[1])
                return self._judged(
                    place,
                    self._run(self.case.line(place, True), lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit)),
                    2,
                )
            with open(place / "filler", "wb", buffering=0) as filler, suppress(OSError):
                while True:
                    filler.write(bytes(PAGE))
            os.truncate(place / "filler", (place / "filler").stat().st_size - size // 2 // PAGE * PAGE)
            return self._judged(place, self._run(self.case.line(place, True)), 2)

    def read_only(self) -> tuple[str, str, str, bool]:
        """Nothing can be written."""
        with mounted(self.here / "fixed") as allowed:
            place = self.here / "fixed"
            self._copied(place)
            if allowed:
                subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
                words = self.case.line(place, True)
                return self._judged(place, self._run(words), 0 if self.case.output is None else 2)
            words = ["chattr", "+i", str(place)]
            if shutil.which("chattr") is None or subprocess.run(words, capture_output=True).returncode:
                return "-", "", "skipped: neither mounts nor chattr", True
            try:
                words = self.case.line(place, True)
                return self._judged(place, self._run(words), 0 if self.case.output is None else 2)
            finally:
                subprocess.run(["chattr", "-i", str(place)], check=True)

    def sent(self, number: int) -> tuple[str, str, str, bool]:
        """A signal while files are written, or halfway where none are."""
        place = self.here / signal.Signals(number).name
        place.mkdir()
        self._copied(place)
        for share in range(TRIES):
            child = start(self.case.line(place, True), self.said)
            if self.case.output is None:
                time.sleep(self.seconds * (0.5 - share / 20))
            else:
                limit = time.monotonic() + LIMIT
                while not any(place.glob(f".*{TEMPORARY}")) and time.monotonic() < limit:
                    if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                        break
                time.sleep(share * 1e-4 if self.seconds < 2 else 0.1 * self.seconds / TRIES * share)
            os.kill(child, number)
            end = wait(child, self.said)
            assert end is not None
            if end.status != 0:
                break
        return self._judged(place, end, 128 + number)

    def twin(self) -> tuple[str, str, str, bool]:
        """Two processes with one output."""
        place = self.here / "twin"
        place.mkdir()
        words = self.case.line(place, False)
        saids = [self.here / f"said_{number}" for number in range(2)]
        children = [start(words, said) for said in saids]
        ends = sorted(
            (end for child, said in zip(children, saids, strict=True) if (end := wait(child, said))),
            key=lambda end: end.status,
        )
        loser = ends[1]
        _, line, told, good = self._judged(place, loser, 0 if self.case.output is None else 2)
        if told == "the older output":
            told = "one output, whole"
        good &= ends[0].status == 0 and not ends[0].said
        return f"{ends[0].status} and {loser.status}", line, told, good

    def all(self) -> Iterator[tuple[str, tuple[str, str, str, bool]]]:
        """Every fault with what came of it."""
        yield "full disk", self.full_disk()
        yield "read-only", self.read_only()
        yield "SIGTERM", self.sent(signal.SIGTERM)
        yield "SIGKILL", self.sent(signal.SIGKILL)
        yield "twin", self.twin()


def table(only: list[str] | None) -> bool:
    """Prints the table; whether all is as promised."""
    whole = True
    print("| command | fault | status | line | left behind | |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as place:
        made = Path(place) / "made"
        made.mkdir()
        with open(os.devnull, "w") as nowhere, redirected(nowhere.fileno()):
            known = cases(made)
        for i, case in enumerate(known):
            if only and not {case.name, case.name.split()[0]} & set(only):
                continue
            for fault, (status, line, told, good) in Torment(case, Path(place) / str(i)).all():
                whole &= good
                cells = (f"`{case.name}`", fault, status, line.replace("|", "\\|"), told, "" if good else "WRONG")
                print(f"| {' | '.join(cells)} |", flush=True)
    return whole


@contextmanager
def redirected(handle: int) -> Iterator[None]:
    """Standard output goes elsewhere."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(handle, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)


def run() -> None:
    """The table, in a name space of mounts of its own where the system allows one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="COMMAND", help="these commands")
    only = parser.parse_args().only
    apart = ["unshare", "-m", sys.executable, "-m", "tests.faults", *sys.argv[1:]]
    unasked = "MODMETA_FAULTS" not in os.environ and shutil.which("unshare") is not None
    if unasked and subprocess.run([*apart[:2], "true"], capture_output=True).returncode == 0:
        os.execvpe("unshare", apart, os.environ | {"MODMETA_FAULTS": "apart"})
    torch.set_num_threads(1)
    sys.exit(0 if table(only) else 1)


if __name__ == "__main__":
    run()
