"""Base class of worlds integrated in small time steps, with a frame stored every few steps."""

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np

from modmeta.errors import DataError
from modmeta.simulators.world import Draws


@dataclass(frozen=True)
class Stepped:
    """Settings shared by all worlds; subclasses add the physics.

    Args:
        num_entities: N, at least 2.
        time_step: step of the integrator, time units.
        sample_every: number of steps between two frames.
        observation_noise: standard deviation of the noise added to measured features.

    Raises:
        DataError: a setting is invalid.
    """

    name: ClassVar[str]

    num_entities: int = 5
    time_step: float = 0.001
    sample_every: int = 100
    observation_noise: float = 0.0

    def __post_init__(self) -> None:
        self._check(
            "num_entities", isinstance(self.num_entities, int) and self.num_entities >= 2, "an integer of at least 2"
        )
        self._check(
            "sample_every", isinstance(self.sample_every, int) and self.sample_every >= 1, "an integer of at least 1"
        )
        self._check_positive("time_step")
        self._check("observation_noise", 0 <= self.observation_noise < np.inf, "non-negative")

    def _check_positive(self, *names: str) -> None:
        for name in names:
            self._check(name, 0 < getattr(self, name) < np.inf, "positive")

    def _check(self, name: str, fine: bool, rule: str) -> None:
        if not fine:
            raise DataError(f"{self.name}: {name}={getattr(self, name)} must be {rule}")

    @property
    def num_types(self) -> int:
        return 1

    def types(self, draws: Draws) -> np.ndarray:
        return np.zeros((len(next(iter(draws.values()))), self.num_entities), np.int64)

    @property
    def frame_step(self) -> float:
        return self.time_step * self.sample_every

    def settings(self) -> dict[str, Any]:
        values = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        return {"world": self.name, **values}
