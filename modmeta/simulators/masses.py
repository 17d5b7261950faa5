"""Particles of several masses joined by springs, with linear drag."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from modmeta.simulators.kernels import advance_masses
from modmeta.simulators.springs import Springs
from modmeta.simulators.world import Draws


@dataclass(frozen=True)
class Masses(Springs):
    """Springs between particles of different masses, `a_i = (F_i - friction * v_i) / m_i`.

    Relations and forces are those of `Springs`. The type of a particle is the index of its mass in `masses`; types are
    equally likely. Drag makes the mass of particles without a spring observable (one in sixteen of five particles):
    without drag they move uniformly whatever their mass.

    Args:
        masses: mass of every type of particle, mass units.
        friction: drag force per unit velocity, 0 or positive. At 0.1 a mass of 1 loses 1% of its speed per frame.
    """

    name: ClassVar[str] = "masses"
    streams: ClassVar[tuple[str, ...]] = ("task",)

    masses: tuple[float, ...] = (1.0, 3.0)
    friction: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "masses", tuple(float(mass) for mass in self.masses))  # configs pass lists
        positive = all(0 < mass < np.inf for mass in self.masses)
        self._check("masses", positive and len(self.masses) > 0, "positive numbers, one per type")
        self._check("friction", 0 <= self.friction < np.inf, "non-negative")

    @property
    def num_types(self) -> int:
        return len(self.masses)

    def types(self, draws: Draws) -> np.ndarray:
        return self._types(draws["uniform"])

    def _types(self, uniform: np.ndarray) -> np.ndarray:
        return (uniform[:, self.num_entities**2 :] * self.num_types).astype(np.int64)  # (B, N)

    def _draw_shape(self) -> tuple[int, ...]:
        return (self.num_entities**2 + self.num_entities,)  # springs, then masses

    def _relate(self, uniform: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        n = self.num_entities
        relations, strengths = super()._relate(uniform[:, : n**2].reshape(-1, n, n))
        mobilities = 1 / np.array(self.masses)[self._types(uniform).T]  # (N, B)
        return relations, np.concatenate([strengths, mobilities])  # (P + N, B)

    def _move(self, strengths: np.ndarray, positions: np.ndarray, velocities: np.ndarray) -> None:
        springs, mobilities = np.split(strengths, [-self.num_entities])
        advance_masses(
            springs, mobilities, self.friction, positions, velocities,
            self.sample_every, self.time_step, self.box, self.max_force,
        )  # fmt: skip
