"""The LightningModule under every trained method: exact resuming, means over epochs, optimisation."""

from collections.abc import Callable
from typing import Any, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from modmeta.data.loading.batches import TaskLoader
from modmeta.evaluation.matching import Confusion
from modmeta.evaluation.protocol import ProtocolMeasures
from modmeta.training.checkpoints.compat import FORMAT, grown_state, upgraded_state
from modmeta.training.distributed import (
    check_same_config,
    gather,
    generator_states,
    mixed_seed,
    set_generator_states,
)
from modmeta.training.trained import Progress

Scheduler = LRScheduler | ReduceLROnPlateau


class ResumableModule(Progress, pl.LightningModule):
    """A module whose run can be killed after any step and resumes with bit-identical results.

    Lightning restores weights, optimisers and loops. This class adds the entry `modmeta` of a checkpoint: the random
    generators of every process, the position of the data loader, and the means of the unfinished epoch. (Lightning
    loses its own means on resume, and weighs all processes equally.) Optimisation is manual.

    A subclass with more state extends `on_fit_start`, `on_save_checkpoint`, `epoch_state` and `add_epoch_state`.

    Arguments are those of `Progress`.
    """

    def __init__(
        self,
        num_modules: int,
        num_relations: int,
        observed_frames: int,
        forecast_steps: tuple[int, ...],
        seed: int,
        num_types: int = 1,
    ) -> None:
        super().__init__(num_modules, num_relations, observed_frames, forecast_steps, seed, num_types)
        self.automatic_optimization = False
        self.done = 0  # like `steps_done`, without waiting for the device that the buffer is on
        self.confusion = Confusion(max(num_modules, 1), num_relations)  # counts over validation tasks
        self.measures = ProtocolMeasures(
            num_modules, num_relations, observed_frames, self.forecast_steps, num_types
        )  # fmt: skip
        self.sums: dict[str, Tensor] = {}  # weighted sum and weight of every logged value over the epoch so far
        self.logged: set[str] = set()  # names of the values logged for the last epoch
        self.generator: torch.Generator | None = None  # created in on_fit_start
        self.run_config: dict[str, Any] = {}
        self.restored: dict[str, Any] = {}  # entry `modmeta` of the checkpoint that the run resumes from

    def join_run(self, config: dict[str, Any]) -> None:
        """Sets the configuration of the run; checkpoints store its key `method`."""
        self.run_config = config

    @property
    def priors(self) -> list[str]:
        """Names of what the method knows beyond trajectories, such as structural priors or labels."""
        return []

    @property
    def stuck(self) -> bool:
        """Whether the run looks stuck, so that a restart from other initial modules may find more."""
        return False

    # ---- resuming --------------------------------------------------------------------------------------------------

    def on_fit_start(self) -> None:
        check_same_config(self.run_config)
        seed, done = self.seed * 1000 + self.global_rank, int(self.steps_done)
        self.done = done
        # A run that resumes with another number of processes cannot continue the old generators; it seeds new ones.
        self.generator = torch.Generator(self.device).manual_seed(mixed_seed(seed, done) if done else seed)
        rank, processes = self.global_rank, self.trainer.world_size
        states = self.restored.get("generators", [])
        if len(states) == processes:
            set_generator_states(self.generator, states[rank])
        for part in self.restored.get("epoch", [])[rank::processes]:  # any process may hold any part of the sums
            self.add_epoch_state(part)

    def on_train_start(self) -> None:
        loop, loader = self.trainer.fit_loop, self.trainer.train_dataloader
        if loop.restarted_mid_epoch and isinstance(loader, TaskLoader):
            # Lightning creates the loader before it reads the checkpoint and does not restore it.
            loader.load_state_dict({"served": loop.batch_idx + 1})
        if loop.restarted_mid_epoch:
            self._validate_at_the_end()  # such an epoch has no start
        self.restored = {}

    def on_train_epoch_start(self) -> None:
        self._validate_at_the_end()

    def _validate_at_the_end(self) -> None:
        """Makes the last epoch end with a validation, which matches labels and gives the energy of the run."""
        if self.trainer.current_epoch + 1 == self.trainer.max_epochs:
            self.trainer.check_val_every_n_epoch = 1

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        data = self.trainer.datamodule.description()  # type: ignore[attr-defined]
        checkpoint["modmeta"] = {"format": FORMAT, "config": self.run_config.get("method"), "data": data}
        if self.generator is not None:
            checkpoint["modmeta"]["generators"] = gather(generator_states(self.generator))
            checkpoint["modmeta"]["epoch"] = gather(self.epoch_state())

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        config = checkpoint.get("modmeta", {}).get("config")
        checkpoint["state_dict"] = grown_state(upgraded_state(checkpoint["state_dict"], config), self.state_dict())
        self.restored = checkpoint.get("modmeta", {})  # used in on_fit_start, when tasks and processes are known

    def epoch_state(self) -> dict[str, Any]:
        """Sums of this process over the epoch so far."""
        return {"sums": self.sums}

    def add_epoch_state(self, state: dict[str, Any]) -> None:
        """Adds the `epoch_state` of one process of the interrupted run."""
        for name, values in state["sums"].items():
            self.sums[name] = self.sums.get(name, torch.zeros(())) + values.to(self.device)

    # ---- logging ---------------------------------------------------------------------------------------------------

    def keep_means(self, values: dict[str, Tensor], size: int) -> None:
        """Adds the means of a batch of `size` tasks to the means over the epoch."""
        for name, value in values.items():
            value = value.double()
            weighted = torch.stack((value * size, torch.full_like(value, size)))
            self.sums[name] = self.sums[name] + weighted if name in self.sums else weighted

    def log_means(self, split: str) -> dict[str, Tensor]:
        """Logs and returns the means of all values whose names start with `split`, over all processes; resets them."""
        mine = {name: self.sums.pop(name).cpu() for name in list(self.sums) if name.startswith(split)}
        totals: dict[str, Tensor] = {}
        for part in gather(mine):
            for name, weighted in part.items():
                totals[name] = totals.get(name, torch.zeros(())) + weighted
        means = {name: total / weight for name, (total, weight) in totals.items()}
        self.log_dict(means, on_step=False, on_epoch=True)
        return means

    @property
    def ends_epoch(self) -> bool:
        """Whether the current batch is the last of its epoch."""
        return bool(self.trainer.is_last_batch or self.trainer.should_stop)

    def on_train_batch_end(self, outputs: Any, batch: dict[str, Tensor], batch_idx: int) -> None:
        if self.ends_epoch:
            self.logged = set(self.log_means("train/"))

    def on_test_epoch_end(self) -> None:
        self.log_dict({f"test/{name}": value for name, value in self.measures.compute().items()})
        self.measures.reset()

    # ---- optimisation ----------------------------------------------------------------------------------------------

    def scheduled(self, optimizer: Optimizer, make: Callable[..., Scheduler] | None) -> list[Scheduler]:
        """The learning-rate schedule of an optimiser over this run, as a list of one; empty without a schedule.

        Args:
            optimizer: optimiser whose learning rate is scheduled.
            make: creates the schedule; called with the optimiser and the run's `steps` and `epochs`.
        """
        if make is None:
            return []
        steps, epochs = int(self.trainer.estimated_stepping_batches), self.trainer.max_epochs or 1
        return [make(optimizer, steps=steps, epochs=epochs)]

    def backward_everywhere(self, loss: Tensor) -> None:
        """One backward pass. With several processes every parameter gets a gradient, since DDP waits for each."""
        if self.trainer.world_size > 1:
            loss = loss + sum(0 * parameter.sum() for parameter in self.parameters())
        self.manual_backward(loss)

    def count_step(self) -> None:
        """Counts a step of optimisation."""
        self.done += 1
        self.steps_done += 1

    def all_optimizers(self) -> list[LightningOptimizer]:
        """All optimisers as a list; Lightning returns a single one without a list."""
        found = self.optimizers()
        return cast(list[LightningOptimizer], found if isinstance(found, list) else [found])

    def all_schedulers(self) -> list[Scheduler]:
        """All schedulers as a list; Lightning returns a single one or None without a list."""
        found = self.lr_schedulers()
        return cast(list[Scheduler], found if isinstance(found, list) else [] if found is None else [found])

    def step_schedulers(self) -> None:
        """Steps all schedulers except `ReduceLROnPlateau`, which steps at the end of an epoch."""
        for scheduler in self.all_schedulers():
            if not isinstance(scheduler, ReduceLROnPlateau):
                scheduler.step()

    def on_train_epoch_end(self) -> None:
        for scheduler in self.all_schedulers():
            if isinstance(scheduler, ReduceLROnPlateau):
                scheduler.step(self.trainer.callback_metrics["train/loss"])
