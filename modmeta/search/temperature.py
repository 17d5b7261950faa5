"""Temperatures of the search over a run."""

import math

import torch
from torch import Tensor, nn


class Temperature(nn.Module):
    """A temperature that is asked every step, told what the search did, and may adapt after every epoch."""

    value: Tensor

    def at(self, progress: float) -> Tensor:
        """Temperature when a fraction `progress` of the run is done."""
        return self.value

    def observe(self, worse: Tensor, accepted: Tensor) -> None:
        """Takes in the number of worse moves on offer in a step, and how many of them were accepted."""

    def end_epoch(self, progress: float) -> None:
        """Adapts."""


class Annealed(Temperature):
    """Falls from `start` to `end` geometrically, then stays.

    Modules that begin almost alike stay so while it is hot, because structures are drawn almost uniformly and every
    module learns the average law. On cooling they part along the direction that explains the data best (deterministic
    annealing: Rose 1998). Energies are sums over all frames and features of a receiver, hundreds of terms, so
    differences that matter weigh hundreds of nats; started near 1, the random first difference between modules decides,
    and few tasks end in a division of labour of their own.

    Args:
        start: temperature at the beginning, in units of energy (nats).
        end: temperature at the end.
        until: fraction of the run after which `end` is reached.
    """

    def __init__(self, start: float = 1000.0, end: float = 1.0, until: float = 0.5) -> None:
        super().__init__()
        self.start, self.end, self.until = start, end, until
        self.register_buffer("value", torch.tensor(float(start)))

    def at(self, progress: float) -> Tensor:
        part = min(progress / self.until, 1.0)
        return self.value.fill_(self.start * (self.end / self.start) ** part)


class AcceptanceSteered(Temperature):
    """Steered so that the acceptance of worse moves follows a schedule, as in the published code.

    The target is exp(start - fall * progress). After every pass over the tasks the temperature is multiplied by
    `factor` if a running mean of the acceptance of worse moves is below the target, and divided by it otherwise.

    Args:
        initial: first temperature, in units of energy.
        start: logarithm of the target acceptance at the beginning.
        fall: by how much that logarithm falls over the run.
        factor: change of temperature a pass.
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
