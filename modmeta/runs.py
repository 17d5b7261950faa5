"""Care of a run around its training."""

from collections.abc import Sequence
from pathlib import Path

from pytorch_lightning.loggers import Logger, WandbLogger

from modmeta.checkpoint import read_checkpoint
from modmeta.errors import UserError


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


def finish_loggers(loggers: Sequence[Logger]) -> None:
    """Closes the wandb run, so that a sweep starts each of its runs afresh."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.finish()
