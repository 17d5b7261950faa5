"""What all baselines share: training, selection on validation tasks, the protocol's measures, exact resuming."""

from collections.abc import Callable
from typing import Any

import torch
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from modmeta.checkpoints.compat import FORMAT
from modmeta.data.loading.batches import TaskLoader
from modmeta.errors import UserError
from modmeta.evaluation.matching import Confusion, match_labels, matched_accuracy
from modmeta.evaluation.protocol import ProtocolMeasures
from modmeta.keys import RELATIONS, STATES
from modmeta.means import EpochMeans
from modmeta.processes import check_same_config, gather, generator_states, mixed_seed, set_generator_states

# From frames seen (B, N, T, D), the last of them the start, and a number of steps to (B, N, steps, D).
Forecast = Callable[[Tensor, int], Tensor]


class Baseline(EpochMeans):
    """Learns from training tasks; keeps the weights that are best on validation tasks; meets test tasks with them.

    Args:
        optimizer: a partial waiting for parameters; none where nothing is trained.
        scheduler: of the learning rate, moved every step; a partial waiting for optimiser, steps and epochs of the run.
        gradient_clip: largest norm of the gradient.
        num_modules: edge modules whose labels are matched to relations; 0 where edges are not inferred.
        num_relations: relation types in the labels, for measures.
        observed_frames: frames that are trained on, and that relations are inferred from.
        forecast_steps: steps at which forecasts are scored.
        seed: of what is drawn in training.
    """

    module_to_relation: Tensor
    steps_done: Tensor
    usage: Tensor
    agreement: Tensor
    stuck = False  # nothing that a restart would mend is looked for
    matched = True  # modules are in arbitrary order, and matched to relations on validation tasks
    priors: tuple[str, ...] = ()  # what the method is told beyond trajectories

    def __init__(
        self,
        optimizer: Callable[..., Optimizer] | None = None,
        scheduler: Callable[..., LRScheduler] | None = None,
        gradient_clip: float = float("inf"),
        num_modules: int = 0,
        num_relations: int = 2,
        observed_frames: int = 49,
        forecast_steps: tuple[int, ...] = (1, 10, 20),
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.make_optimizer, self.make_scheduler, self.gradient_clip = optimizer, scheduler, gradient_clip
        self.num_modules, self.num_relations, self.observed_frames = num_modules, num_relations, observed_frames
        self.seed = seed
        self.register_buffer("module_to_relation", torch.arange(num_modules) % num_relations)
        self.register_buffer("steps_done", torch.zeros((), dtype=torch.int64))
        self.register_buffer("usage", torch.full((num_modules,), torch.nan))  # share of validation edges
        self.register_buffer("agreement", torch.tensor(torch.nan))
        self.confusion = Confusion(max(num_modules, 1), num_relations)  # of validation tasks
        self.measures = ProtocolMeasures(num_modules, num_relations, observed_frames, tuple(forecast_steps))
        self.config: dict[str, Any] = {}  # of the whole run
        self.generator: torch.Generator | None = None
        self.best: dict[str, Any] = {}  # weights chosen on validation tasks, and their loss there
        self._saved: dict[str, Any] = {}

    # ---- what a baseline is ----------------------------------------------------------------------------------------

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """What training makes small, and further values to log."""
        raise NotImplementedError

    def validation_loss(self, batch: dict[str, Tensor]) -> Tensor:
        """What the weights are chosen by: nothing in it is drawn."""
        return self.loss(batch)[0]

    def infer(self, states: Tensor) -> Tensor | None:
        """Probabilities of modules, (B, N, S, K), from observed frames (B, N, T, D); none where edges are no matter."""
        return None

    def forecaster(self, batch: dict[str, Tensor], chance: Tensor | None) -> Forecast | None:
        """What forecasts the tasks of a batch, given what `infer` found; none where there are no forecasts."""
        return None

    # ---- training --------------------------------------------------------------------------------------------------

    @property
    def trained(self) -> bool:
        """Whether there is anything to train."""
        return self.make_optimizer is not None

    def configure_optimizers(self) -> Any:
        if self.make_optimizer is None:
            return []
        optimizer = self.make_optimizer(self.parameters())
        if self.make_scheduler is None:
            return optimizer
        steps = int(self.trainer.estimated_stepping_batches)
        return [optimizer], [self.make_scheduler(optimizer, steps=steps, epochs=self.trainer.max_epochs or 1)]

    def on_fit_start(self) -> None:
        if any(tasks.mask is not None for tasks in self.trainer.datamodule.splits.values()):  # type: ignore[attr-defined]
            raise UserError("baselines need every frame; some are missing in these tasks")
        check_same_config(self.config)
        place, done = self.seed * 1000 + self.global_rank, int(self.steps_done)
        self.generator = torch.Generator(self.device).manual_seed(mixed_seed(place, done) if done else place)
        if self._saved:
            self._restore(self._saved)
            self._saved = {}

    def on_train_start(self) -> None:
        loop = self.trainer.fit_loop
        loader = self.trainer.train_dataloader
        if loop.restarted_mid_epoch and isinstance(loader, TaskLoader):
            loader.load_state_dict({"served": loop.batch_idx + 1})

    def on_train_epoch_start(self) -> None:
        if self.trainer.current_epoch + 1 == self.trainer.max_epochs:
            self.trainer.check_val_every_n_epoch = 1

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.steps_done += 1
        if not self.trained:
            return
        loss, told = self.loss(batch)
        if not bool(torch.isfinite(loss)):
            raise UserError(f"training stopped at step {int(self.steps_done)}: the loss is not finite")
        optimizer = self.optimizers()
        assert isinstance(optimizer, LightningOptimizer)
        optimizer.zero_grad()
        if self.trainer.world_size > 1:
            loss = loss + sum(0 * parameter.sum() for parameter in self.parameters())
        self.manual_backward(loss)
        nn.utils.clip_grad_norm_(self.parameters(), self.gradient_clip)
        optimizer.step()
        if self.make_scheduler is not None:
            self.lr_schedulers().step()  # type: ignore[union-attr]
        values = {"loss": loss} | told
        self._keep_means({f"train/{name}": value.detach() for name, value in values.items()}, len(batch[STATES]))

    def on_train_batch_end(self, outputs: Any, batch: dict[str, Tensor], batch_idx: int) -> None:
        if self.trainer.is_last_batch or self.trainer.should_stop:
            self.logged = set(self._log_means("train/"))

    # ---- tasks never trained on ------------------------------------------------------------------------------------

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        with torch.autocast(self.device.type, enabled=False):  # measured in full precision, however trained
            self.validate(batch)

    def validate(self, batch: dict[str, Tensor]) -> None:
        """Takes in validation tasks: the loss that weights are chosen by, and what modules found."""
        if self.trained:
            self._keep_means({"val/energy": self.validation_loss(batch)}, len(batch[STATES]))
        chance = self.infer(self._observed(batch))
        if chance is not None and RELATIONS in batch:
            self.confusion.update(chance.argmax(-1), batch[RELATIONS])

    def on_validation_epoch_end(self) -> None:
        energy = float(self._log_means("val/").get("val/energy", torch.inf))
        if self.confusion.update_called:
            counts = self.confusion.compute()
            if self.matched:
                self.module_to_relation.copy_(match_labels(counts))
            self.usage.copy_(counts.sum(1) / counts.sum())
            self.log("val/edge_accuracy", matched_accuracy(counts, self.module_to_relation))
            self.confusion.reset()
        if energy < self.best.get("energy", torch.inf):
            state = {name: value.detach().clone() for name, value in self.state_dict().items()}
            self.best = {"energy": energy, "state": state}

    def on_test_start(self) -> None:
        if self.best:
            self.load_state_dict(self.best["state"])

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        with torch.autocast(self.device.type, enabled=False):
            chance = self.infer(self._observed(batch))
            if chance is not None and RELATIONS in batch:
                of_module = F.one_hot(self.module_to_relation, self.num_relations).to(chance.dtype)
                found = self.module_to_relation[chance.argmax(-1)]
                self.measures.update_edges(found, chance @ of_module, batch[RELATIONS])
            forecast = self.forecaster(batch, chance)
            if forecast is not None:
                self.measures.update_forecasts(forecast, batch[STATES])

    def on_test_epoch_end(self) -> None:
        self.log_dict({f"test/{name}": value for name, value in self.measures.compute().items()})
        self.measures.reset()

    # ---- persistence -----------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        data = self.trainer.datamodule.description()  # type: ignore[attr-defined]
        checkpoint["modmeta"] = {
            "format": FORMAT,
            "config": self.config.get("bouncegrad"),
            "data": data,
            "best": self.best,
        }
        if self.generator is not None:
            checkpoint["modmeta"]["generators"] = gather(generator_states(self.generator))
            checkpoint["modmeta"]["epoch"] = gather({"sums": self.sums})

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._saved = checkpoint.get("modmeta", {})
        self.best = self._saved.get("best", {})

    def _restore(self, saved: dict[str, Any]) -> None:
        assert self.generator is not None
        rank, world_size = self.global_rank, self.trainer.world_size
        if len(saved.get("generators", [])) == world_size:
            set_generator_states(self.generator, saved["generators"][rank])
        for part in saved.get("epoch", [])[rank::world_size]:
            for name, values in part["sums"].items():
                self.sums[name] = self.sums.get(name, torch.zeros(())) + values.to(self.device)

    def _observed(self, batch: dict[str, Tensor]) -> Tensor:
        """The frames that are trained on, and that relations are inferred from, (B, N, T, D)."""
        return batch[STATES][:, :, : self.observed_frames]
