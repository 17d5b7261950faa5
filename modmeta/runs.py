"""Care of a run around its training."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytorch_lightning as pl
from omegaconf import DictConfig
from pytorch_lightning.loggers import WandbLogger

from modmeta.bouncegrad import BounceGrad
from modmeta.checkpoint import read_checkpoint
from modmeta.errors import UserError
from modmeta.report.run import RunRecord

ADVICE = (
    "warning: structures look arbitrary: the first and the last frames of validation tasks agree on them no better "
    "than {:.2f} (1: always, 0: by chance). Try restarts=3, a longer run (trainer.max_epochs), a hotter start "
    "(temperature.start), another model (model=continuous) or likelihood (likelihood=student_t)."
)
RESULTS = ("checkpoints", "metrics.json", "curves.json", "curves.png")


def check_resume(path: str | None) -> None:
    """Reads the checkpoint that a run is to take up, before anything long starts.

    Raises:
        UserError: it is missing or damaged.
    """
    if path is None:
        return
    if Path(path).is_dir():
        raise UserError(f"ckpt_path={path} is a directory; name the file, {path}/checkpoints/last.ckpt")
    read_checkpoint(path)


@dataclass
class Fit:
    """A fitted module, its trainer and where they wrote."""

    trainer: pl.Trainer
    module: BounceGrad
    directory: Path

    @property
    def energy(self) -> float:
        """Energy of validation tasks, which needs no labels."""
        return float(self.trainer.callback_metrics.get("val/energy", float("inf")))

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


def restarted(config: DictConfig, number: int) -> DictConfig:
    """The configuration of a restart: other initial modules and draws of the search, the same data."""
    again = config.copy()
    again.bouncegrad.seed = config.seed + 1000 * number
    again.directory = f"{config.directory}/restart_{number}"
    return again


def promote(winner: Fit, directory: Path) -> None:
    """Puts the results of a restart in the run's own directory; those of the first attempt move to `restart_0`."""
    first = directory / "restart_0"
    if not first.exists():
        first.mkdir()
        for name in RESULTS:
            if (directory / name).exists():
                shutil.move(directory / name, first / name)
    for name in RESULTS:
        source, target = winner.directory / name, directory / name
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True)
        elif source.exists():
            shutil.copy2(source, target)
    winner.record.directory = directory
