"""Charged particles, some of whose pairs are also joined by springs."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from modmeta.simulators.charged import Charged


@dataclass(frozen=True)
class Mixed(Charged):
    """Charged particles as in `Charged`; each pair is also joined by a spring with probability one half.

    `F_ij = strength * q_i * q_j * (r_i - r_j) / |r_i - r_j|^3 - spring_strength * s_ij * (r_i - r_j)`. Relations are
    symmetric, label = charge label + 2 * spring label: 0 repel, 1 attract, 2 repel and spring, 3 attract and spring.

    Args:
        spring_strength: spring force per unit length.
    """

    name: ClassVar[str] = "mixed"
    streams: ClassVar[tuple[str, ...]] = ("task",)

    spring_strength: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_positive("spring_strength")

    @property
    def edge_values(self) -> tuple[float, ...]:
        return (0.0, 1.0, 2.0, 3.0)  # the labels; this world has no published data

    def _draw_shape(self) -> tuple[int, ...]:
        n = self.num_entities
        return (n + n * (n - 1) // 2,)  # charges, then springs

    def _relate(self, uniform: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        n = self.num_entities
        relations, charges = super()._relate(uniform[:, :n])
        sprung = uniform[:, n:] >= 0.5  # (B, P)
        first, second = np.triu_indices(n, 1)
        for one, other in ((first, second), (second, first)):
            relations[:, one, other] += 2 * sprung
        return relations, np.stack([charges, self.spring_strength * sprung.T])  # (2, P, B)

    def _weigh(self, strengths: np.ndarray, positions: np.ndarray, weights: np.ndarray) -> None:
        charges, springs = strengths
        super()._weigh(charges, positions, weights)
        np.subtract(weights, springs, out=weights)
