"""When a run saves its state: after every epoch, every few minutes of a long one, and when it is asked to go."""

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
    """Saves the whole state of a run as `checkpoints/last.ckpt` of its directory.

    SIGTERM, by which schedulers announce that a machine is to be given back, saves in the middle of an epoch and ends
    the run; of several processes one that was asked is enough.

    Args:
        directory: of the run.
        minutes: of training at most between two checkpoints; epochs end with one in any case.
    """

    def __init__(self, directory: str, minutes: float = 10.0) -> None:
        self.path = Path(directory) / "checkpoints" / LAST
        self.directory, self.minutes = Path(directory), minutes
        self.asked_to_go = False
        self.stopped = False  # by early stopping: training is over, though epochs are left
        self._saved = time.monotonic()

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.should_stop = trainer.should_stop or self.stopped

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._listen()
        self._saved = time.monotonic()

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._listen()

    def _listen(self) -> None:
        """In place of Lightning's handler, which stops without a checkpoint; Lightning takes this one away."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked_to_go = True

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.is_last_batch:  # the epoch's own checkpoint follows
            return
        due = time.monotonic() - self._saved > 60 * self.minutes
        if self._any(trainer, self.asked_to_go or due):
            self._save(trainer)
            self._leave(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.stopped = trainer.should_stop
        self._save(trainer)
        self._leave(trainer)

    def on_test_batch_end(self, trainer: pl.Trainer, *rest: Any) -> None:
        if self.asked_to_go:
            raise Preempted(self.directory)

    def _leave(self, trainer: pl.Trainer) -> None:
        if self._any(trainer, self.asked_to_go):
            raise Preempted(self.directory)

    @staticmethod
    def _any(trainer: pl.Trainer, asked: bool) -> bool:
        """Whether any process asks."""
        return trainer.strategy.reduce_boolean_decision(asked, all=False) if trainer.world_size > 1 else asked

    def _save(self, trainer: pl.Trainer) -> None:
        trainer.save_checkpoint(self.path, weights_only=False)
        self._saved = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        return {"stopped": self.stopped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.stopped = bool(state_dict["stopped"])
