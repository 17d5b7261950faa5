"""Base class of all baselines: training, selection on validation tasks, the protocol's measures, exact resuming."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from modmeta.errors import UserError
from modmeta.evaluation.matching import match_labels, matched_accuracy
from modmeta.keys import RELATIONS, STATES
from modmeta.training.module import ResumableModule, Scheduler

# Takes observed frames (B, N, T, D), the last of which is the start, and a number of steps; returns (B, N, steps, D).
Forecast = Callable[[Tensor, int], Tensor]


class Baseline(ResumableModule):
    """Trains on training tasks, keeps the weights that are best on validation tasks, and tests with them.

    Args:
        optimizer: partial that is called with the parameters; None if nothing is trained.
        scheduler: partial of the learning-rate schedule, called with optimiser, `steps` and `epochs` of the run.
        gradient_clip: largest norm of the gradient.
        num_modules: number of edge modules that are matched to relations; 0 if edges are not inferred.
        num_relations: number of relation types in the labels; used by measures only.
        observed_frames: number of frames that are trained on, and that relations are inferred from.
        forecast_steps: frames ahead at which forecasts are scored.
        seed: seed of the random generators of training.
    """

    matched = True  # modules are in arbitrary order and are matched to relations on validation tasks

    def __init__(
        self,
        optimizer: Callable[..., Optimizer] | None = None,
        scheduler: Callable[..., Scheduler] | None = None,
        gradient_clip: float = float("inf"),
        num_modules: int = 0,
        num_relations: int = 2,
        observed_frames: int = 49,
        forecast_steps: tuple[int, ...] = (1, 10, 20),
        seed: int = 0,
    ) -> None:
        super().__init__(num_modules, num_relations, observed_frames, forecast_steps, seed)
        self.make_optimizer, self.make_scheduler, self.gradient_clip = optimizer, scheduler, gradient_clip
        self.num_modules = num_modules
        self.best: dict[str, Any] = {}  # `state`: best weights; `energy`: their loss on validation tasks

    # ---- what a subclass defines -----------------------------------------------------------------------------------

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The training loss, a scalar, and further values to log."""
        raise NotImplementedError

    def validation_loss(self, batch: dict[str, Tensor]) -> Tensor:
        """The deterministic loss by which weights are chosen."""
        return self.loss(batch)[0]

    def infer(self, states: Tensor) -> Tensor | None:
        """Probabilities of modules (B, N, S, K) from observed frames (B, N, T, D); None if edges are not inferred."""
        return None

    def forecaster(self, batch: dict[str, Tensor], chance: Tensor | None) -> Forecast | None:
        """A function that forecasts the tasks of a batch; None if the baseline makes no forecasts.

        Args:
            batch: B tasks.
            chance: probabilities of modules (B, N, S, K) from `infer`, or None.
        """
        return None

    # ---- training --------------------------------------------------------------------------------------------------

    @property
    def trained(self) -> bool:
        """Whether the baseline is trained."""
        return self.make_optimizer is not None

    def configure_optimizers(self) -> Any:
        if self.make_optimizer is None:
            return []
        optimizer = self.make_optimizer(self.parameters())
        return [optimizer], self.scheduled(optimizer, self.make_scheduler)

    def on_fit_start(self) -> None:
        if any(tasks.mask is not None for tasks in self.trainer.datamodule.splits.values()):  # type: ignore[attr-defined]
            raise UserError("baselines need every frame, but frames are missing in these tasks; use complete data")
        super().on_fit_start()

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.count_step()
        if not self.trained:
            return
        loss, extra = self.loss(batch)
        if not bool(torch.isfinite(loss)):
            raise UserError(
                f"training stopped at step {int(self.steps_done)}: the loss is not finite; lower "
                "method.optimizer.lr or set method.gradient_clip=1"
            )
        (optimizer,) = self.all_optimizers()
        optimizer.zero_grad()
        self.backward_everywhere(loss)
        nn.utils.clip_grad_norm_(self.parameters(), self.gradient_clip)
        optimizer.step()
        self.step_schedulers()
        values = {"loss": loss} | extra
        self.keep_means({f"train/{name}": value.detach() for name, value in values.items()}, len(batch[STATES]))

    # ---- validation and test ---------------------------------------------------------------------------------------

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        with torch.autocast(self.device.type, enabled=False):  # measures use full precision, whatever training uses
            self.validate(batch)

    def validate(self, batch: dict[str, Tensor]) -> None:
        """Adds a batch of validation tasks to the mean loss and to the counts for matching labels."""
        if self.trained:
            self.keep_means({"val/energy": self.validation_loss(batch)}, len(batch[STATES]))
        chance = self.infer(self._observed(batch))
        if chance is not None and RELATIONS in batch:
            self.confusion.update(chance.argmax(-1), batch[RELATIONS])

    def on_validation_epoch_end(self) -> None:
        energy = float(self.log_means("val/").get("val/energy", torch.inf))
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

    # ---- persistence -----------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["modmeta"]["best"] = self.best

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.best = self.restored.get("best", {})

    def _observed(self, batch: dict[str, Tensor]) -> Tensor:
        """The first `observed_frames` frames of a batch, (B, N, T, D)."""
        return batch[STATES][:, :, : self.observed_frames]
