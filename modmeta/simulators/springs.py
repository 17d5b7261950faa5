"""Particles joined by springs."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from modmeta.simulators.kernels import advance
from modmeta.simulators.particles import Particles, pick


@dataclass(frozen=True)
class Springs(Particles):
    """Particles whose pairs are joined by springs of rest length 0, `F_ij = -strength * s_ij * (r_i - r_j)`.

    Relations are symmetric; label k is a spring of relative strength s_ij = `relation_strengths[k]`. By default label 0
    means no spring and label 1 a spring.

    Args:
        position_std: standard deviation of each initial coordinate, length units.
        strength: force per unit length of a spring of relative strength 1.
        relation_strengths: relative strength of every label, such as (0, 0.5, 1).
        probabilities: probability of every label; they sum to 1.
    """

    name: ClassVar[str] = "springs"

    position_std: float = 0.5
    strength: float = 0.1
    relation_strengths: tuple[float, ...] = (0.0, 1.0)
    probabilities: tuple[float, ...] = (0.5, 0.5)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("relation_strengths", "probabilities"):  # configs pass lists
            object.__setattr__(self, name, tuple(float(value) for value in getattr(self, name)))
        self._check_positive("position_std", "strength")
        finite = all(0 <= strength < np.inf for strength in self.relation_strengths)
        self._check(
            "relation_strengths", finite and len(self.relation_strengths) > 0, "non-negative numbers, one per label"
        )
        fine = len(self.probabilities) == len(self.relation_strengths) and min(self.probabilities) >= 0
        rule = f"{len(self.relation_strengths)} non-negative numbers that sum to 1, one per label"
        self._check("probabilities", fine and abs(sum(self.probabilities) - 1) < 1e-6, rule)

    @property
    def edge_values(self) -> tuple[float, ...]:
        return self.relation_strengths

    @property
    def start_spread(self) -> float:
        return self.position_std

    def _draw_shape(self) -> tuple[int, ...]:
        return (self.num_entities, self.num_entities)  # as published; only those below the diagonal are used

    def _relate(self, uniform: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        below = np.tril(pick(uniform, self.probabilities), -1)
        relations = below + below.transpose(0, 2, 1)
        first, second = np.triu_indices(self.num_entities, 1)
        strengths = -self.strength * np.array(self.relation_strengths)[relations[:, first, second].T]
        return relations, np.ascontiguousarray(strengths)

    def _move(self, strengths: np.ndarray, positions: np.ndarray, velocities: np.ndarray) -> None:
        advance(strengths, positions, velocities, self.sample_every, self.time_step, self.box, self.max_force)
