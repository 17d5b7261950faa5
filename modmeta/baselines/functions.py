"""Baselines of few-shot regression: one network for all tasks, fine-tuned, and MAML.

Letters: B tasks, P points, I inputs, O outputs, L tensors of weights.
"""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from modmeta.keys import INPUTS, OUTPUTS
from modmeta.training.fewshot import FewShot
from modmeta.training.module import Scheduler

Weights = list[Tensor]


class _Network(FewShot):
    """A perceptron whose weights are adapted to the examples of every task by gradient steps.

    Args:
        optimizer: partial, called with the parameters.
        scheduler: partial of the learning-rate schedule.
        inputs, outputs: I, O.
        hidden: width of the two hidden layers.
        adapt_steps: gradient steps on the examples of a validation or test task.
        adapt_rate: their learning rate.
        gradient_clip: largest norm of the gradient.
        support: examples of a task.
        searched: points of a training task that weights are adapted to; others give the loss.
        seed: of training.
    """

    def __init__(
        self,
        optimizer: Callable[..., Optimizer],
        scheduler: Callable[..., Scheduler] | None = None,
        inputs: int = 1,
        outputs: int = 1,
        hidden: int = 64,
        adapt_steps: int = 10,
        adapt_rate: float = 0.01,
        gradient_clip: float = 1.0,
        support: int = 8,
        searched: int = 8,
        seed: int = 0,
    ) -> None:
        super().__init__(support, searched, seed)
        self.make_optimizer, self.make_scheduler = optimizer, scheduler
        self.adapt_steps, self.adapt_rate = adapt_steps, adapt_rate
        self.gradient_clip = gradient_clip
        self.weights = nn.ParameterList()
        for a, b in pairwise((inputs, hidden, hidden, outputs)):
            bound = 1 / math.sqrt(a)
            self.weights += [nn.Parameter(torch.empty(size).uniform_(-bound, bound)) for size in ((a, b), (1, b))]

    def configure_optimizers(self) -> tuple[list[Optimizer], list[Scheduler]]:
        optimizer = self.make_optimizer(self.parameters())
        return [optimizer], self.scheduled(optimizer, self.make_scheduler)

    def adapted(self, x: Tensor, y: Tensor, steps: int, second_order: bool) -> Weights:
        """Weights of every task, (B, ...) each, after gradient steps on examples (B, P, I), (B, P, O)."""
        weights = [part.expand(len(x), *part.shape) for part in self.weights]
        for _ in range(steps):
            loss = (_forward(weights, x) - y).square().mean((-1, -2)).sum()
            slopes = torch.autograd.grad(loss, weights, create_graph=second_order)
            weights = [part - self.adapt_rate * slope for part, slope in zip(weights, slopes, strict=True)]
        return weights

    def predict(self, x: Tensor, y: Tensor, queries: Tensor) -> Tensor:
        return _forward(self.adapted(x, y, self.adapt_steps, False), queries)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Of a batch of training tasks."""
        raise NotImplementedError

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        loss = self.loss(batch[INPUTS], batch[OUTPUTS])
        self.descend(loss, list(self.parameters()), self.gradient_clip)
        self.count_step()
        self.step_schedulers()
        self.keep_means({"train/loss": loss.detach()}, len(batch[INPUTS]))


def _forward(weights: Weights, x: Tensor) -> Tensor:
    """Inputs (B, P, I) through weights of every task to (B, P, O)."""
    h = x
    for number in range(0, len(weights), 2):
        h = torch.baddbmm(weights[number + 1], torch.relu(h) if number else h, weights[number])
    return h


class Pooled(_Network):
    """One network, trained on the points of all tasks as if they were one, then fine-tuned on a new task's examples."""

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        return (_forward([part.expand(len(x), *part.shape) for part in self.weights], x) - y).square().mean()


class MAML(_Network):
    """Model-agnostic meta-learning (Finn et al. 2017), second order, all tasks of a batch at once.

    Args:
        inner_steps: gradient steps on a training task's examples.
        options: of `Pooled`.
    """

    def __init__(self, optimizer: Callable[..., Optimizer], inner_steps: int = 1, **options: Any) -> None:
        super().__init__(optimizer, **options)
        self.inner_steps = inner_steps

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        n = self.searched
        weights = self.adapted(x[:, :n], y[:, :n], self.inner_steps, True)
        return (_forward(weights, x[:, n:]) - y[:, n:]).square().mean()
