"""A command that trains: Hydra composes its configuration, does one run or a sweep, and mistakes end in one line."""

import contextlib
import os
import shlex
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
    """Runs `job` with the configuration that words ask for, or with each of those of a sweep.

    What `hydra.main` does, but for words that are given instead of read from `sys.argv`.

    Args:
        words: in Hydra's grammar, options first.
        configuration: where `train.yaml` is: a directory, or `pkg://` and a package.
    """
    version.setbase("1.3")
    parser = get_args_parser()
    args = parser.parse_args(list(words))
    _run_hydra(args, parser, job, config_path=configuration, config_name="train")


def job(config: DictConfig) -> float | None:
    """One run; what a sweep optimises is the energy of validation tasks, which needs no labels."""
    try:
        with as_single_run():
            return train(config)["val/energy"]
    except (UserError, InstantiationException) as error:
        return failed(config, error, f"error: {plain(cause_of(error))}")
    except OSError as error:
        place = error.filename or config.directory
        return failed(config, error, f"error: {plain(place)} cannot be read or written {reason_and_remedy(error)}")
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
    """Within it, processes that Lightning starts for a run of a sweep do this run alone, not the sweep once more.

    Lightning's launcher knows no other way: it starts them with `sys.argv` and the `run.dir` of Hydra's configuration.
    """
    running: Any = HydraConfig.instance().cfg
    if running.hydra.mode != RunMode.MULTIRUN:
        yield
        return
    words, directory = sys.argv, running.hydra.run.dir
    of_modmeta = words[1:2] if words[1:2] == ["train"] else []  # `modmeta train`, not train.py
    sys.argv = [words[0], *of_modmeta, *running.hydra.overrides.task]
    with read_write(running.hydra), open_dict(running.hydra):
        running.hydra.run.dir = running.hydra.runtime.output_dir
    try:
        yield
    finally:
        sys.argv = words
        with read_write(running.hydra), open_dict(running.hydra):
            running.hydra.run.dir = directory


class Ending(Callback):
    """Of Hydra: refuses a place that cannot be written before anything begins; a sweep with a failed run has status 1.

    Failed runs are those that `failed` heard of in this process, and those that left a new `failed.txt`, for launchers
    may have other processes do them.
    """

    failed: ClassVar[list[str]] = []
    notes: ClassVar[dict[str, int] | None] = None  # of runs of a sweep, and when each was written; none in a worker

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """
        Raises:
            SystemExit: the directory of the run cannot be written to.
        """
        known = HydraConfig.instance().cfg
        HydraConfig.instance().set_config(config)  # the name of the directory is made of it
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
                f"error: {len(failed)} of the runs failed: {', '.join(failed)}. Those that are finished are kept; the "
                f"same command with hydra.sweep.dir={sweep} does the others again",
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


def failed(config: DictConfig, error: Exception, told: str) -> float:
    """Says why a run ended. The others of a sweep go on, which is told by a result that is not a number.

    Raises:
        SystemExit: it was a single run.
        Exception: `error`, in a process of a sweep that could not leave word of it in the run's directory.
    """
    print(told, file=sys.stderr)
    running: Any = HydraConfig.instance().cfg
    if running.hydra.mode != RunMode.MULTIRUN:
        sys.exit(2)
    if Ending.notes is None and not (Path(config.directory) / FAILED).exists():
        raise error
    Ending.failed.append(os.path.relpath(config.directory))
    return float("nan")
