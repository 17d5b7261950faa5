"""Checks free disk space before training."""

import shutil
from pathlib import Path
from typing import cast

import pytorch_lightning as pl
from rich.console import Console
from torch import Tensor

from modmeta.errors import UserError
from modmeta.io import write_durably
from modmeta.training.bouncegrad import BounceGrad

COPIES = 3  # checkpoints on disk while one is written: previous, last and new
LOGS = 20e6  # bytes for curves, pictures and offline logs


class Room(pl.Callback):
    """Prints how much disk space a run needs, and stops it if its disk has less.

    Args:
        directory: directory of the run.
    """

    def __init__(self, directory: str) -> None:
        self.directory = Path(directory)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """
        Raises:
            UserError: the directory cannot be written to, or its disk has too little free space.
        """
        if not trainer.is_global_zero:
            return
        module = cast(BounceGrad, pl_module)
        tasks = trainer.datamodule.splits["train"].states  # type: ignore[attr-defined]
        disk, free = COPIES * checkpoint_bytes(module, tasks) + LOGS, self._free()
        Console(stderr=True).print(f"needs about {disk / 1e6:,.0f} MB of disk, {free / 1e6:,.0f} MB are free")
        if disk > free:
            raise UserError(
                f"{self.directory}: checkpoints and logs need about {disk / 1e6:,.0f} MB, but {free / 1e6:,.0f} MB are "
                "free; free some space, or choose another disk with hydra.run.dir"
            )

    def _free(self) -> int:
        """Free bytes on the directory's disk, after a test write.

        Raises:
            UserError: the test write failed.
        """
        trial = self.directory / "checkpoints" / "trial"
        try:
            trial.parent.mkdir(parents=True, exist_ok=True)
            write_durably(trial, bytes(1 << 16))
            trial.unlink()
        except OSError as error:
            raise UserError(
                f"{self.directory} cannot be written to ({error.strerror}); choose another directory with hydra.run.dir"
            ) from error
        return shutil.disk_usage(self.directory).free


def checkpoint_bytes(module: BounceGrad, states: Tensor) -> float:
    """Estimated size of a checkpoint in bytes: weights, Adam's two moments of each, structures of all tasks.

    Args:
        module: module of the run.
        states: training tasks (tasks, N, T, D).
    """
    weights = sum(part.numel() * part.element_size() for part in module.state_dict().values())
    tasks, entities = states.shape[:2]
    return 3 * weights + tasks * (entities * entities + 20) + 1e5
