"""Whether the disk suffices, found out before training."""

import shutil
from pathlib import Path
from typing import cast

import pytorch_lightning as pl
from rich.console import Console
from torch import Tensor

from modmeta.errors import UserError
from modmeta.io import write_durably
from modmeta.training.bouncegrad import BounceGrad

COPIES = 3  # checkpoints on disk while one is written: the last, the one before it, the new one
LOGS = 20e6  # bytes of curves, pictures and offline logs


class Room(pl.Callback):
    """Prints how much disk a run needs, and stops it where its directory cannot take the checkpoints.

    Args:
        directory: of the run.
    """

    def __init__(self, directory: str) -> None:
        self.directory = Path(directory)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """
        Raises:
            UserError: the directory cannot be written to, or its disk is too full.
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
        """Free bytes of the directory's disk, after a trial of writing there."""
        trial = self.directory / "checkpoints" / "trial"
        try:
            trial.parent.mkdir(parents=True, exist_ok=True)
            write_durably(trial, bytes(1 << 16))
            trial.unlink()
        except OSError as error:
            raise UserError(
                f"{self.directory} cannot be written to ({error.strerror}); choose another place with hydra.run.dir"
            ) from error
        return shutil.disk_usage(self.directory).free


def checkpoint_bytes(module: BounceGrad, states: Tensor) -> float:
    """Estimated size of a checkpoint: weights, two moments of each for the optimiser, structures of all tasks."""
    weights = sum(part.numel() * part.element_size() for part in module.state_dict().values())
    tasks, entities = states.shape[:2]
    return 3 * weights + tasks * (entities * entities + 20) + 1e5
