"""Kills a small training again and again, takes it up each time, and compares it with one that was never killed.

    python -m tests.crash --kills 200

Every training is a process of its own, ended by SIGKILL. Half of the kills come at a random moment of the run, half
while a checkpoint is being written. Processes are forked from one that has imported everything, which saves seconds.
In a second round the newest checkpoint is cut at random after every kill, so that the one before it has to do.
"""

import argparse
import os
import signal
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: a process with threads cannot be forked

import numpy as np
import torch
from rich.progress import Progress

from modmeta.io import TEMPORARY
from modmeta.training.checkpoints.files import LAST, PREVIOUS, find_newest, load
from modmeta.training.resume import finished
from tests.runs import QUICK, run, same_run

SMALL = (*QUICK, "trainer.max_epochs=6", "callbacks.last.minutes=0")  # a checkpoint after every step
LIMIT = 120.0  # seconds after which a process counts as hanging


@dataclass
class Tally:
    """What happened to the runs of a round."""

    kills: int = 0
    while_writing: int = 0
    cut: int = 0
    finished: int = 0


def start(directory: Path) -> int:
    """A training in a process of its own; what it says goes to a file beside its directory."""
    child = os.fork()
    if child:
        return child
    try:
        said = os.open(directory.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(said, 1)
        os.dup2(said, 2)
        run(directory, *SMALL)
        os._exit(0)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        os._exit(1)


def writing_in(directory: Path) -> bool:
    """Whether a checkpoint is being written there."""
    return any(directory.glob(f".{LAST}.*{TEMPORARY}"))


def wait(child: int, moment: float, saving: Path | None) -> bool:
    """Waits until `moment`, and on until a checkpoint is being written there; whether the process is alive then.

    Raises:
        RuntimeError: it failed, or hangs.
    """
    begun = time.monotonic()
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            if status:
                raise RuntimeError("a run failed; what it said last:")
            return False
        passed = time.monotonic() - begun
        if passed > moment and (saving is None or writing_in(saving)):
            return True
        if passed > LIMIT:
            raise RuntimeError("a run hangs; what it said last:")
        time.sleep(1e-4 if saving else 1e-3)


def newest(directory: Path) -> int:
    """Steps of the newest whole checkpoint, one at least of two; -1 before the first."""
    with warnings.catch_warnings(action="ignore"):  # the last one may still be cut since the kill before
        path = find_newest(directory / "checkpoints")
    return int(load(path)["state_dict"]["steps_done"]) if path else -1


def cut(directory: Path, generator: np.random.Generator) -> bool:
    """Cuts the newest checkpoint anywhere, where there is one before it and the run goes on."""
    last, previous = (directory / "checkpoints" / name for name in (LAST, PREVIOUS))
    if not (last.exists() and previous.exists()) or finished(directory):
        return False
    os.truncate(last, int(generator.integers(last.stat().st_size)))
    return True


def torment(place: Path, whole: Path, seconds: float, kills: int, cutting: bool) -> Tally:
    """Kills and takes up runs until enough were killed and the last one has finished.

    Raises:
        AssertionError: a checkpoint was lost, or a run did not end as the one that was never killed.
    """
    generator, tally = np.random.default_rng(int(cutting)), Tally()
    with Progress(transient=True) as progress:
        bar = progress.add_task("newest checkpoint cut" if cutting else "killed", total=kills)
        while tally.kills < kills or tally.finished == 0:
            directory, steps, alive = place / f"{'cut' if cutting else 'run'}_{tally.finished}", -1, True
            while alive:
                child = start(directory)
                writing = bool(generator.integers(2))
                saving = directory / "checkpoints" if writing else None
                moment = float(generator.uniform(0, 0.7 * seconds)) if tally.kills < kills else LIMIT
                try:
                    alive = wait(child, moment, saving)
                except RuntimeError as error:
                    said = directory.with_suffix(".log").read_text(errors="replace")
                    raise RuntimeError(f"{error}\n{said[-3000:]}") from None
                if alive:
                    time.sleep(generator.uniform(0, 2e-3) if writing else 0)
                    os.kill(child, signal.SIGKILL)
                    os.waitpid(child, 0)
                    tally.kills += 1
                    tally.while_writing += bool(saving and writing_in(saving))
                    before, steps = steps, newest(directory)
                    assert steps >= before or cutting, f"{directory}: the checkpoint of step {before} is lost"
                    tally.cut += cutting and cut(directory, generator)
                    progress.update(bar, completed=tally.kills)
            same_run(whole, directory)
            tally.finished += 1
    return tally


def main() -> None:
    """Both rounds; prints what happened."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="of each round, at least")
    kills = parser.parse_args().kills
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        whole = Path(place) / "whole"
        for directory in (whole, Path(place) / "again"):  # the first one also makes the data
            begun = time.monotonic()
            wait(start(directory), LIMIT, None)
            seconds = time.monotonic() - begun
        same_run(whole, Path(place) / "again")
        for cutting in (False, True):
            tally = torment(Path(place), whole, seconds, kills, cutting)
            print(
                f"{tally.kills} kills, {tally.while_writing} of them while a checkpoint was written, "
                f"{tally.cut} times the newest checkpoint cut; {tally.finished} runs finished, all of them to the bit "
                "as the run that was never killed, no checkpoint lost"
            )


if __name__ == "__main__":
    main()
