"""Temperature schedules of the search."""

import math

import torch
from torch import Tensor, nn


class Temperature(nn.Module):
    """Base class. Every step calls `at`, then `observe`; every epoch ends with `end_epoch`."""

    value: Tensor

    def at(self, progress: float) -> Tensor:
        """Temperature (scalar, nats) at a fraction `progress` of the run."""
        return self.value

    def observe(self, worse: Tensor, accepted: Tensor) -> None:
        """Records the number of worse candidates of a step, and how many of them were accepted."""

    def end_epoch(self, progress: float) -> None:
        """Adapts the temperature."""


class Annealed(Temperature):
    """Falls geometrically from `start` to `end`, then stays constant.

    At high temperature structures are drawn almost uniformly, so modules that start almost equal stay so and learn the
    average law. On cooling they separate along the direction that explains the data best (deterministic annealing:
    Rose 1998). Energies are sums over hundreds of frames and features, so relevant differences are hundreds of nats.
    If the temperature starts near 1, random initial differences between modules decide, and with few tasks the modules
    divide the data in an arbitrary way.

    Args:
        start: initial temperature, in nats.
        end: final temperature, in nats.
        until: fraction of the run at which `end` is reached.
    """

    def __init__(self, start: float = 1000.0, end: float = 1.0, until: float = 0.5) -> None:
        super().__init__()
        self.start, self.end, self.until = start, end, until
        self.register_buffer("value", torch.tensor(float(start)))

    def at(self, progress: float) -> Tensor:
        part = min(progress / self.until, 1.0)
        return self.value.fill_(self.start * (self.end / self.start) ** part)


class AcceptanceSteered(Temperature):
    """Adapts the temperature so that the acceptance rate of worse moves follows a schedule, as in the published code.

    The target is exp(start - fall * progress). After every epoch the temperature is multiplied by `factor` if the
    running mean of the acceptance of worse moves is below the target, and divided by it otherwise.

    Args:
        initial: initial temperature, in nats.
        start: initial logarithm of the target acceptance.
        fall: decrease of that logarithm over the run.
        factor: change of temperature per epoch.
        memory: weight of a worse move in the running mean.
    """

    accepted: Tensor

    def __init__(
        self, initial: float = 1.0, start: float = 0.0, fall: float = 5.0, factor: float = 1.1, memory: float = 0.01
    ) -> None:
        super().__init__()
        self.start, self.fall, self.factor, self.memory = start, fall, factor, memory
        self.register_buffer("value", torch.tensor(float(initial)))
        self.register_buffer("accepted", torch.tensor(1.0))

    def observe(self, worse: Tensor, accepted: Tensor) -> None:
        keep = (1 - self.memory) ** worse
        rate = accepted / worse.clamp_min(1)
        self.accepted.mul_(keep).add_((1 - keep) * rate)

    def end_epoch(self, progress: float) -> None:
        target = math.exp(self.start - self.fall * progress)
        self.value.mul_(torch.where(self.accepted < target, self.factor, 1 / self.factor))
