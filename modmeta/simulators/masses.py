"""Particles of several masses joined by springs, slowed by a drag."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from modmeta.simulators.kernels import advance_masses
from modmeta.simulators.springs import Springs
from modmeta.simulators.world import Draws


@dataclass(frozen=True)
class Masses(Springs):
    """Springs between particles whose masses differ, `a_i = (F_i - friction * v_i) / m_i`.

    Relations and forces are those of `Springs`. The type of a particle is the place of its mass in `masses`, all of
    them equally likely. The drag is there for particles that no spring holds, one in sixteen of five particles: without
    it they move uniformly whatever their mass, and nothing tells a light one from a heavy one.

    Args:
        masses: mass units, one for every type of particle.
        friction: drag, force per velocity, 0 for none; at 0.1 a particle of mass 1 loses 1% of its speed in a frame.
    """

    name: ClassVar[str] = "masses"
    streams: ClassVar[tuple[str, ...]] = ("task",)

    masses: tuple[float, ...] = (1.0, 3.0)
    friction: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "masses", tuple(float(mass) for mass in self.masses))  # configs bring lists
        positive = all(0 < mass < np.inf for mass in self.masses)
        self._check("masses", positive and len(self.masses) > 0, "positive, one for each type")
        self._check("friction", 0 <= self.friction < np.inf, "0 or positive")

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
