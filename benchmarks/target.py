"""Seconds of training until the edges of validation tasks reach a target accuracy.

    python -m benchmarks.target springs5 0.99 [overrides of train.py]
    python -m benchmarks.target springs5 0.99 search.start=weights trainer.max_epochs=1 data.batches_per_epoch=60
    python -m benchmarks.target springs5 0.99 search.start=laws data.num_tasks=60

A cold start counts. The clock stops while the structures of validation tasks are inferred, from random ones, and
compared with the truth. Beside other work only seconds of the processor, in brackets, mean anything.
"""

import statistics
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import hydra
import pytorch_lightning as pl
import torch
from rich.console import Console

from modmeta.data.loading.filemodule import filled_from_file
from modmeta.evaluation.matching import Confusion, match_labels, matched_accuracy
from modmeta.machine import keep_freed_memory
from modmeta.training.bouncegrad import BounceGrad
from modmeta.training.start import beginning_of, begun

ROOT = Path(__file__).resolve().parents[1]
EVERY = 10  # steps between two measurements
SEEDS = 3


class Clock(pl.Callback):
    """Stops training when the edge accuracy on validation tasks reaches the target, or after `most` busy seconds.

    Attributes:
        seconds: seconds of training so far.
        busy: the same, of the processor.
        curve: step, seconds by clock and processor, accuracy of every measurement.
    """

    def __init__(self, target: float, most: float = float("inf")) -> None:
        self.target, self.most, self.seconds, self.busy = target, most, 0.0, 0.0
        self.curve: list[tuple[int, float, float, float]] = []

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.begun, self.began = time.perf_counter(), time.process_time()

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(module, BounceGrad)
        step = module.done
        if step % EVERY:
            return
        self.seconds += time.perf_counter() - self.begun
        self.busy += time.process_time() - self.began
        module.eval()
        accuracy = self.accuracy(trainer, module)
        module.train()
        self.curve.append((step, self.seconds, self.busy, accuracy))
        trainer.should_stop = accuracy >= self.target or self.busy >= self.most
        self.begun, self.began = time.perf_counter(), time.process_time()

    @torch.no_grad()
    def accuracy(self, trainer: pl.Trainer, module: BounceGrad) -> float:
        """Edge accuracy on validation tasks, with labels matched on the same tasks."""
        confusion = Confusion(module.model.dynamics.num_edge_modules, module.num_relations)
        for batch in trainer.datamodule.val_dataloader():  # type: ignore[attr-defined]
            found = module.infer(batch["states"].to(module.device)).structure.edge_modules.cpu()
            confusion.update(found, batch["relations"])
        counts = confusion.matrix()
        return float(matched_accuracy(counts, match_labels(counts)))


def timed(clock: Clock, *words: str, accelerator: str = "cpu") -> None:
    """Trains as the words of a command say, cold start included, until the clock stops it."""
    keep_freed_memory()
    with TemporaryDirectory() as directory:
        with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            config = hydra.compose("train", [f"directory={directory}", *words])
        pl.seed_everything(config.seed, verbose=False)
        began, busy = time.perf_counter(), time.process_time()
        config = begun(filled_from_file(config))
        beginning = beginning_of(config)
        if beginning is not None:
            clock.seconds, clock.busy = time.perf_counter() - began, time.process_time() - busy
        data = hydra.utils.instantiate(config.data)
        module = hydra.utils.instantiate(config.method)
        if beginning is not None:
            module.begin_with(beginning)
        trainer = pl.Trainer(
            max_epochs=config.trainer.max_epochs, accelerator=accelerator, devices=1, logger=False, callbacks=[clock],
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0,
            use_distributed_sampler=False,
        )  # fmt: skip
        trainer.fit(module, data)


def seconds(experiment: str, target: float, *overrides: str, accelerator: str = "cpu") -> float:
    """Trains, prints the curve and returns the seconds until the target; infinity if it is not reached."""
    clock = Clock(target)
    words = (f"experiment={experiment}", "data.test=2", f"data_dir={ROOT / 'data'}", *overrides)
    timed(clock, *words, accelerator=accelerator)
    console = Console()
    for step, passed, used, accuracy in clock.curve[:: max(1, len(clock.curve) // 10)] + clock.curve[-1:]:
        console.print(f"{experiment}: step {step:5d}  {passed:6.1f} ({used:.1f}) s  {accuracy:.2%}")
    return clock.seconds if clock.curve and clock.curve[-1][-1] >= target else float("inf")


def run(experiment: str, target: float, *overrides: str) -> dict[str, float]:
    """The mean seconds over `SEEDS` seeds."""
    taken = [seconds(experiment, target, *overrides, f"seed={seed}") for seed in range(SEEDS)]
    return {f"{experiment}_seconds_to_{100 * target:.0f}": statistics.mean(taken)}


if __name__ == "__main__":
    print(run(sys.argv[1], float(sys.argv[2]), *sys.argv[3:]))
