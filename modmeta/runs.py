"""Care of a run around its training: processes beside this one, attempts, their results."""

import contextlib
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import hydra
import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from pytorch_lightning.loggers import WandbLogger

from modmeta.bouncegrad import BounceGrad
from modmeta.configs import rebound
from modmeta.errors import Preempted, UserError, cause_of
from modmeta.io import why, write_durably
from modmeta.report.run import RunRecord
from modmeta.report.runs import FAILED

ADVICE = (
    "warning: structures look arbitrary: the first and the last frames of validation tasks agree on them no better "
    "than {:.2f} (1: always, 0: by chance). Try restarts=3, a longer run (trainer.max_epochs), a hotter start "
    "(temperature.start), another model (model=continuous) or likelihood (likelihood=student_t)."
)
# Instruction sets of CPUs, as torch names them, on which products in bfloat16 take ten times as long as in float32.
WITHOUT_BFLOAT16 = ("DEFAULT", "NO AVX", "AVX2")
RESULTS = ("checkpoints", "metrics.json", "curves.json", "curves.png")


def group_of(mode: Any, sweep: str, name: str) -> str:
    """The name under which a dashboard shows runs together: that of the sweep's directory, or of the run."""
    return Path(sweep).name if str(mode).endswith("MULTIRUN") else name


OmegaConf.register_new_resolver("run_directory", lambda resume, fresh: resume or fresh, replace=True)
OmegaConf.register_new_resolver("group_of", group_of, replace=True)


def trainer_of(config: DictConfig) -> pl.Trainer:
    """The trainer of a run with its callbacks and loggers; mixed precision is used where the processor gains by it."""
    callbacks, loggers = (
        [hydra.utils.instantiate(part) for part in (config.get(group) or {}).values() if part]
        for group in ("callbacks", "logger")
    )
    precision = _precision(config.trainer.precision, config.trainer.get("accelerator", "auto"))
    return hydra.utils.instantiate(config.trainer, precision=precision, callbacks=callbacks, logger=loggers)


def _precision(asked: str | int | None, accelerator: str) -> str | int | None:
    elsewhere = accelerator not in ("auto", "cpu") or (
        accelerator == "auto" and (torch.cuda.is_available() or torch.backends.mps.is_available())
    )
    if asked not in ("bf16", "bf16-mixed") or elsewhere:
        return asked
    if has_bfloat16():
        return asked
    warnings.warn(
        f"this processor has no products in bfloat16: trainer.precision=32-true is used, faster here than {asked}",
        stacklevel=2,
    )
    return "32-true"


def has_bfloat16() -> bool:
    """Whether the CPU gains by products of matrices in bfloat16."""
    return torch.backends.cpu.get_cpu_capability() not in WITHOUT_BFLOAT16


def as_single_run() -> None:
    """In a sweep, the processes that Lightning starts beside this one do this run alone, not the sweep once more."""
    running: Any = HydraConfig.instance().cfg
    if running is None or running.hydra.mode != RunMode.MULTIRUN:
        return
    sys.argv = [sys.argv[0], *running.hydra.overrides.task]
    with read_write(running.hydra), open_dict(running.hydra):
        running.hydra.run.dir = running.hydra.runtime.output_dir


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
        print(f"error: {directory} cannot be written {why(error)}, with {setting}", file=sys.stderr)
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


@contextlib.contextmanager
def failure_noted(directory: Path) -> Iterator[None]:
    """Leaves a file that says why in the directory of a run that ends with an error, and takes an earlier one away.

    A run that was killed, interrupted or asked to go has not failed and leaves none.
    """
    note = directory / FAILED
    note.unlink(missing_ok=True)
    try:
        yield
    except Preempted:
        raise
    except Exception as error:
        cause = cause_of(error)
        with contextlib.suppress(OSError):  # a full disk must not hide the error
            write_durably(note, f"{type(cause).__name__}: {cause}\n".encode())
        raise


@dataclass
class Fit:
    """A fitted module, its trainer and where they wrote."""

    trainer: pl.Trainer
    module: BounceGrad
    directory: Path

    def __post_init__(self) -> None:
        if not any(isinstance(part, RunRecord) for part in self.trainer.callbacks):  # type: ignore[attr-defined]
            raise UserError("callbacks.record is missing, which keeps curves and results; leave out others one by one")

    @property
    def energy(self) -> float:
        """Energy of validation tasks, which needs no labels."""
        known = [row["val/energy"] for row in self.record.history if "val/energy" in row]
        return known[-1] if known else float("inf")

    @property
    def record(self) -> RunRecord:
        """Keeper of its curves."""
        return next(part for part in self.trainer.callbacks if isinstance(part, RunRecord))  # type: ignore[attr-defined]

    def finish(self) -> None:
        """Closes the wandb run, so that the next one starts afresh; nothing is logged any more."""
        for logger in self.trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.experiment.finish()
        self.trainer.loggers = []


def attempt(config: DictConfig, number: int) -> DictConfig:
    """The configuration of an attempt: of a restart, other initial modules and draws of the search, the same data."""
    moved = Path(config.directory) / f"restart_{number}"
    if number == 0 and not moved.exists():
        return config.copy()
    plain = rebound(OmegaConf.to_container(config), config.directory, str(moved))
    if number:
        plain = rebound(plain, config.run_id, f"{config.run_id}-{number}")
        plain["bouncegrad"]["seed"] = config.seed + 1000 * number
    return OmegaConf.create(plain)


def promote(winner: Fit, directory: Path) -> None:
    """Puts the results of a restart in the run's own directory; those of the first attempt move to `restart_0`.

    May be broken off anywhere and done again.
    """
    first, partial = directory / "restart_0", directory / "restart_0.partial"
    if not first.exists():
        shutil.rmtree(partial, ignore_errors=True)
        _copy(directory, partial)
        os.replace(partial, first)
    _copy(winner.directory, directory)
    winner.record.directory = directory


def _copy(source: Path, target: Path) -> None:
    (target / "checkpoints").mkdir(parents=True, exist_ok=True)
    for name in RESULTS:
        part = source / name
        for file in sorted(part.glob("*.ckpt")) if part.is_dir() else [part] if part.exists() else []:
            write_durably(target / file.relative_to(source), file.read_bytes())
