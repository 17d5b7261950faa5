"""Runs a training command: Hydra composes the configuration and starts one run or a sweep; errors become one line."""

import contextlib
import os
import shlex
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from hydra import version
from hydra._internal.utils import _run_hydra, get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict, read_write

from modmeta.errors import Preempted, UserError, cause_of
from modmeta.io import reason_and_remedy
from modmeta.text import plain
from modmeta.training.configs import FAILED
from modmeta.training.run import train


def launch(words: Sequence[str], configuration: str) -> None:
    """Composes the configuration and runs `job`, once or for every run of a sweep.

    Does what `hydra.main` does, with the given words instead of `sys.argv`.

    Args:
        words: command line in Hydra's grammar, options first.
        configuration: location of `train.yaml`: a directory, or `pkg://` and a package.

    Raises:
        SystemExit: see `job`; with status 130 after SIGINT before training, which else ends by itself.
    """
    version.setbase("1.3")
    parser = get_args_parser()
    args = parser.parse_args(list(words))
    try:
        _run_hydra(args, parser, job, config_path=configuration, config_name="train")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)


def job(config: DictConfig) -> float | None:
    """Does one run and returns `val/energy`, the objective of a sweep, which needs no labels.

    Returns:
        NaN if a run of a sweep failed.

    Raises:
        SystemExit: with status 2 after an error of a single run, with status 0 after SIGTERM.
    """
    try:
        with as_single_run():
            return train(config)["val/energy"]
    except (UserError, InstantiationException) as error:
        return failed(config, error, f"error: {plain(cause_of(error))}")
    except OSError as error:
        path = error.filename or config.directory
        return failed(config, error, f"error: {plain(path)} cannot be read or written {reason_and_remedy(error)}")
    except Preempted as preempted:
        again = f"modmeta train --resume {shlex.quote(str(preempted))}"
        print(f"SIGTERM received, checkpoint saved. Resume with: {again}", file=sys.stderr)
        sys.exit(0)
    except Exception as error:
        if HydraConfig.get().mode != RunMode.MULTIRUN:
            raise
        return failed(config, error, traceback.format_exc())


@contextlib.contextmanager
def as_single_run() -> Iterator[None]:
    """Makes the processes that Lightning starts for a run of a sweep do this run only, not the whole sweep.

    Lightning's launcher starts processes with `sys.argv` and `hydra.run.dir`, so both are replaced within the block.
    """
    running: Any = HydraConfig.instance().cfg
    if running.hydra.mode != RunMode.MULTIRUN:
        yield
        return
    words, directory = sys.argv, running.hydra.run.dir
    subcommand = words[1:2] if words[1:2] == ["train"] else []  # `modmeta train`, not train.py
    sys.argv = [words[0], *subcommand, *running.hydra.overrides.task]
    with read_write(running.hydra), open_dict(running.hydra):
        running.hydra.run.dir = running.hydra.runtime.output_dir
    try:
        yield
    finally:
        sys.argv = words
        with read_write(running.hydra), open_dict(running.hydra):
            running.hydra.run.dir = directory


class Ending(Callback):
    """Hydra callback: checks that the output directory is writable, and gives a sweep with a failed run status 1.

    Failed runs are those that `failed` recorded in this process, and those with a new `failed.txt`, since a launcher
    may start runs in other processes.
    """

    failed: ClassVar[list[str]] = []
    # Every `failed.txt` of the sweep before it started, with its modification time; None in a worker process.
    notes: ClassVar[dict[str, int] | None] = None

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """
        Raises:
            SystemExit: the directory of the run cannot be written to.
        """
        known = HydraConfig.instance().cfg
        HydraConfig.instance().set_config(config)  # hydra.run.dir refers to it
        _check_place(Path(config.hydra.run.dir), "hydra.run.dir")
        HydraConfig.instance().cfg = known

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """
        Raises:
            SystemExit: the directory of the sweep cannot be written to.
        """
        _check_place(Path(config.hydra.sweep.dir), "hydra.sweep.dir")
        Ending.failed, Ending.notes = [], _notes(Path(config.hydra.sweep.dir))

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """
        Raises:
            SystemExit: a run failed.
        """
        sweep = Path(config.hydra.sweep.dir)
        before, after = Ending.notes or {}, _notes(sweep)
        Ending.notes = None
        failed = sorted({*Ending.failed, *(run for run, written in after.items() if before.get(run) != written)})
        if failed:
            print(
                f"error: {len(failed)} of the runs failed: {', '.join(failed)}. Finished runs are kept; the same "
                f"command with hydra.sweep.dir={sweep} repeats the others",
                file=sys.stderr,
            )
            sys.exit(1)


def _notes(sweep: Path) -> dict[str, int]:
    return {os.path.relpath(note.parent): note.stat().st_mtime_ns for note in sweep.glob(f"**/{FAILED}")}


def _check_place(directory: Path, setting: str) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory) as trial:
            trial.write(bytes(1 << 12))
    except OSError as error:
        print(f"error: {directory} cannot be written {reason_and_remedy(error)}, with {setting}", file=sys.stderr)
        sys.exit(2)


def failed(config: DictConfig, error: Exception, message: str) -> float:
    """Prints why a run failed. Returns NaN in a sweep, so that its other runs continue.

    Raises:
        SystemExit: with status 2, if this is a single run.
        Exception: `error`, in a worker process of a sweep that could not write `failed.txt`.
    """
    print(message, file=sys.stderr)
    running: Any = HydraConfig.instance().cfg
    if running.hydra.mode != RunMode.MULTIRUN:
        sys.exit(2)
    if Ending.notes is None and not (Path(config.directory) / FAILED).exists():
        raise error
    Ending.failed.append(os.path.relpath(config.directory))
    return float("nan")
