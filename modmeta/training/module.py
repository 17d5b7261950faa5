"""What every trained method shares: its place in a run that resumes exactly, means over epochs, one optimiser step."""

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
from modmeta.training.checkpoints.compat import FORMAT, upgraded_state
from modmeta.training.distributed import (
    check_same_config,
    gather,
    generator_states,
    mixed_seed,
    set_generator_states,
)

Scheduler = LRScheduler | ReduceLROnPlateau


class ResumableModule(pl.LightningModule):
    """A module whose run can be killed after any step and resumed with the same outcome, to the bit.

    Lightning restores weights, optimisers and loops. This class adds the part `modmeta` of a checkpoint: the generators
    of every process, the place of the data loader, and the means of the epoch so far (Lightning's own means are lost,
    and give every process the same weight). Optimisation is manual.

    A subclass that keeps more state extends `on_fit_start`, `on_save_checkpoint`, `epoch_state` and `add_epoch_state`.

    Args:
        num_modules: edge modules whose labels are matched to relations; 0 where edges are not inferred.
        num_relations: relation types in the labels, for measures.
        observed_frames: frames that structures are inferred from.
        forecast_steps: steps at which forecasts are scored.
        seed: of what is drawn in training.
        num_types: types of entities in the labels, for measures.
    """

    module_to_relation: Tensor
    steps_done: Tensor
    usage: Tensor
    agreement: Tensor

    def __init__(
        self,
        num_modules: int,
        num_relations: int,
        observed_frames: int,
        forecast_steps: tuple[int, ...],
        seed: int,
        num_types: int = 1,
    ) -> None:
        super().__init__()
        if num_relations < 1:
            raise ValueError(f"num_relations={num_relations} must be at least 1")
        self.automatic_optimization = False
        self.num_relations, self.observed_frames, self.seed = num_relations, observed_frames, seed
        self.register_buffer("module_to_relation", torch.arange(num_modules) % num_relations)
        self.register_buffer("steps_done", torch.zeros((), dtype=torch.int64))
        self.register_buffer("usage", torch.full((num_modules,), torch.nan))  # share of validation edges of each module
        self.register_buffer("agreement", torch.tensor(torch.nan))  # of structures from two halves of the frames
        self.confusion = Confusion(max(num_modules, 1), num_relations)  # of validation tasks
        self.measures = ProtocolMeasures(
            num_modules, num_relations, observed_frames, tuple(forecast_steps), num_types
        )  # fmt: skip
        self.sums: dict[str, Tensor] = {}  # of what is logged, over the epoch so far, each with its weight
        self.logged: set[str] = set()  # names of what was logged of the last epoch
        self.generator: torch.Generator | None = None  # made in on_fit_start
        self.run_config: dict[str, Any] = {}
        self.restored: dict[str, Any] = {}  # part `modmeta` of the checkpoint that the run resumes from

    def join_run(self, config: dict[str, Any]) -> None:
        """Gives the module the configuration of its run; the part that composed it is saved in checkpoints."""
        self.run_config = config

    @property
    def priors(self) -> list[str]:
        """What the method is given beyond trajectories."""
        return []

    @property
    def stuck(self) -> bool:
        """Whether other initial modules may find more."""
        return False

    # ---- a run that resumes ----------------------------------------------------------------------------------------

    def on_fit_start(self) -> None:
        check_same_config(self.run_config)
        place, done = self.seed * 1000 + self.global_rank, int(self.steps_done)
        # A run that resumes with another number of processes draws other numbers.
        self.generator = torch.Generator(self.device).manual_seed(mixed_seed(place, done) if done else place)
        rank, processes = self.global_rank, self.trainer.world_size
        states = self.restored.get("generators", [])
        if len(states) == processes:
            set_generator_states(self.generator, states[rank])
        for part in self.restored.get("epoch", [])[rank::processes]:  # sums may be added up by any process
            self.add_epoch_state(part)

    def on_train_start(self) -> None:
        loop, loader = self.trainer.fit_loop, self.trainer.train_dataloader
        if loop.restarted_mid_epoch and isinstance(loader, TaskLoader):
            # Lightning restores only loaders that are made after the checkpoint is read.
            loader.load_state_dict({"served": loop.batch_idx + 1})
        if loop.restarted_mid_epoch:
            self._validate_at_the_end()  # such an epoch has no start
        self.restored = {}

    def on_train_epoch_start(self) -> None:
        self._validate_at_the_end()

    def _validate_at_the_end(self) -> None:
        """The last epoch ends with a validation: it matches labels, and the run is judged by it."""
        if self.trainer.current_epoch + 1 == self.trainer.max_epochs:
            self.trainer.check_val_every_n_epoch = 1

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        data = self.trainer.datamodule.description()  # type: ignore[attr-defined]
        checkpoint["modmeta"] = {"format": FORMAT, "config": self.run_config.get("method"), "data": data}
        if self.generator is not None:
            checkpoint["modmeta"]["generators"] = gather(generator_states(self.generator))
            checkpoint["modmeta"]["epoch"] = gather(self.epoch_state())

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["state_dict"] = upgraded_state(checkpoint["state_dict"])
        self.restored = checkpoint.get("modmeta", {})  # used in on_fit_start, when tasks and processes are known

    def epoch_state(self) -> dict[str, Any]:
        """Sums over the epoch so far, of this process."""
        return {"sums": self.sums}

    def add_epoch_state(self, state: dict[str, Any]) -> None:
        """Adds the sums of a process of the run that is resumed."""
        for name, values in state["sums"].items():
            self.sums[name] = self.sums.get(name, torch.zeros(())) + values.to(self.device)

    # ---- what is logged --------------------------------------------------------------------------------------------

    def keep_means(self, values: dict[str, Tensor], size: int) -> None:
        """Adds the values of a batch of `size` tasks to the means of an epoch."""
        for name, value in values.items():
            weighted = torch.stack((value.double() * size, value.new_tensor(size, dtype=torch.float64)))
            self.sums[name] = self.sums[name] + weighted if name in self.sums else weighted

    def log_means(self, split: str) -> dict[str, Tensor]:
        """Logs the means of a split over all processes, returns them, and begins them anew."""
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
        """Whether the batch just done is the last of its epoch."""
        return bool(self.trainer.is_last_batch or self.trainer.should_stop)

    def on_train_batch_end(self, outputs: Any, batch: dict[str, Tensor], batch_idx: int) -> None:
        if self.ends_epoch:
            self.logged = set(self.log_means("train/"))

    def on_test_epoch_end(self) -> None:
        self.log_dict({f"test/{name}": value for name, value in self.measures.compute().items()})
        self.measures.reset()

    # ---- optimisation ----------------------------------------------------------------------------------------------

    def scheduled(self, optimizer: Optimizer, make: Callable[..., Scheduler] | None) -> list[Scheduler]:
        """The schedule of an optimiser's learning rate over this run; empty without one.

        Args:
            optimizer: whose rate is scheduled.
            make: takes optimiser, steps and epochs of the run.
        """
        if make is None:
            return []
        steps, epochs = int(self.trainer.estimated_stepping_batches), self.trainer.max_epochs or 1
        return [make(optimizer, steps=steps, epochs=epochs)]

    def backward_everywhere(self, loss: Tensor) -> None:
        """One backward pass; with several processes every parameter gets a gradient, also one that a task never uses.

        DDP waits for the gradients of all.
        """
        if self.trainer.world_size > 1:
            loss = loss + sum(0 * parameter.sum() for parameter in self.parameters())
        self.manual_backward(loss)

    def all_optimizers(self) -> list[LightningOptimizer]:
        """As a list, also of one."""
        found = self.optimizers()
        return cast(list[LightningOptimizer], found if isinstance(found, list) else [found])

    def all_schedulers(self) -> list[Scheduler]:
        """As a list, also of one or none."""
        found = self.lr_schedulers()
        return cast(list[Scheduler], found if isinstance(found, list) else [] if found is None else [found])

    def step_schedulers(self) -> None:
        """Moves the learning rates by a step; those that follow the loss of an epoch move at its end."""
        for scheduler in self.all_schedulers():
            if not isinstance(scheduler, ReduceLROnPlateau):
                scheduler.step()

    def on_train_epoch_end(self) -> None:
        for scheduler in self.all_schedulers():
            if isinstance(scheduler, ReduceLROnPlateau):
                scheduler.step(self.trainer.callback_metrics["train/loss"])
