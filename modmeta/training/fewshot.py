"""The LightningModule under all methods of few-shot regression: errors on queries, of seen and unseen combinations.

Letters: B tasks, P points, I inputs, O outputs.
"""

from typing import Any

import torch
from torch import Tensor, nn

from modmeta.errors import UserError
from modmeta.keys import INPUTS, OUTPUTS, UNSEEN
from modmeta.training.module import ResumableModule


class FewShot(ResumableModule):
    """Predicts the values of queries of a task from its examples, the first `support` points.

    Args:
        support: examples of a validation or test task.
        searched: first points of a training task, from which it is inferred; gradients come from the others.
        seed: of the random generators of training.
    """

    def __init__(self, support: int = 8, searched: int = 8, seed: int = 0) -> None:
        super().__init__(0, 1, 1, (), seed)
        self.support, self.searched = support, searched

    def predict(self, x: Tensor, y: Tensor, queries: Tensor) -> Tensor:
        """Values (B, Q, O) of queries (B, Q, I), from examples (B, P, I) and their values (B, P, O)."""
        raise NotImplementedError

    def errors(self, batch: dict[str, Tensor]) -> Tensor:
        """Mean squared error on the queries of every task, (B,)."""
        n = self.support
        with torch.inference_mode(False), torch.enable_grad():  # methods may adapt by gradients
            x, y = batch[INPUTS].clone(), batch[OUTPUTS].clone()
            values = self.predict(x[:, :n], y[:, :n], x[:, n:])
        return (values.detach() - y[:, n:]).square().mean((-1, -2))

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        errors = self.errors(batch)
        # Mean over tasks, nats a number at the best scale of each, as energies of compositions.
        means = {"val/error": errors.mean(), "val/energy": 0.5 * errors.clamp_min(1e-8).log().mean()}
        self.keep_means(means, len(errors))

    def on_validation_epoch_end(self) -> None:
        self.log_means("val/")

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        errors, unseen = self.errors(batch), batch[UNSEEN]
        self.keep_means({"test/error": errors.mean()}, len(errors))
        for name, which in (("seen", ~unseen), ("unseen", unseen)):
            if which.any():
                self.keep_means({f"test/error_{name}": errors[which].mean()}, int(which.sum()))

    def on_test_epoch_end(self) -> None:
        self.log_means("test/")

    def descend(self, loss: Tensor, parameters: list[nn.Parameter], gradient_clip: float, number: int = 0) -> None:
        """A step of an optimiser.

        Raises:
            UserError: the gradient is not finite.
        """
        optimizer = self.all_optimizers()[number]
        optimizer.zero_grad()
        self.backward_everywhere(loss)
        norm = nn.utils.clip_grad_norm_(parameters, gradient_clip)
        if not bool(torch.isfinite(norm)):
            raise UserError(
                f"training stopped at step {self.done}: the gradient is not finite; lower the learning rate"
            )
        optimizer.step()

    def on_fit_start(self) -> None:
        """
        Raises:
            UserError: the data are no tasks of functions, or `searched` leaves no points.
        """
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        if not hasattr(data, "support"):
            raise UserError(f"{type(self).__name__} learns from tasks of functions; use data=functions")
        points = data.splits["train"].x.shape[1]
        if not 1 <= self.searched < points:
            raise UserError(
                f"method.searched={self.searched} must be at least 1 and below data.points={points}, the points of a "
                "training task; gradients come from the others"
            )
        super().on_fit_start()
