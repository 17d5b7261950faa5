"""Saves checkpoints: after every epoch, every few minutes of a long epoch, and on SIGTERM."""

import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl

from modmeta.errors import Preempted
from modmeta.training.checkpoints.files import LAST


class Checkpoints(pl.callbacks.Checkpoint):
    """Saves the whole state of a run as `checkpoints/last.ckpt` in its directory.

    On SIGTERM, which schedulers send before they reclaim a machine, saves in the middle of an epoch and ends the run
    with `Preempted`. With several processes, one that received the signal suffices.

    Args:
        directory: directory of the run.
        minutes: longest time between two checkpoints within an epoch. Every epoch also ends with a checkpoint.
    """

    def __init__(self, directory: str, minutes: float = 10.0) -> None:
        self.path = Path(directory) / "checkpoints" / LAST
        self.directory, self.minutes = Path(directory), minutes
        self.sigterm_received = False
        self.stopped = False  # early stopping ended the training although epochs are left
        self._saved = time.monotonic()

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.should_stop = trainer.should_stop or self.stopped

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._listen()
        self._saved = time.monotonic()

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._listen()

    def _listen(self) -> None:
        """Replaces Lightning's SIGTERM handler, which stops without a checkpoint; Lightning removes this one."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.sigterm_received = True

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.is_last_batch:  # the epoch's own checkpoint follows
            return
        due = time.monotonic() - self._saved > 60 * self.minutes
        if self._any(trainer, self.sigterm_received or due):
            self._save(trainer)
            self._stop_if_preempted(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.stopped = trainer.should_stop
        self._save(trainer)
        self._stop_if_preempted(trainer)

    def on_test_batch_end(self, trainer: pl.Trainer, *rest: Any) -> None:
        if self.sigterm_received:
            raise Preempted(self.directory)

    def _stop_if_preempted(self, trainer: pl.Trainer) -> None:
        if self._any(trainer, self.sigterm_received):
            raise Preempted(self.directory)

    @staticmethod
    def _any(trainer: pl.Trainer, value: bool) -> bool:
        """Whether `value` is true in any process."""
        return trainer.strategy.reduce_boolean_decision(value, all=False) if trainer.world_size > 1 else value

    def _save(self, trainer: pl.Trainer) -> None:
        trainer.save_checkpoint(self.path, weights_only=False)
        self._saved = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        return {"stopped": self.stopped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.stopped = bool(state_dict["stopped"])
