"""Charged particles."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from modmeta.simulators.kernels import advance, squared_distances
from modmeta.simulators.particles import Particles, pick

PRODUCTS = (1.0, -1.0)  # product of the two charges of a pair, by label; 1 on the diagonal, whose label is 0


@dataclass(frozen=True)
class Charged(Particles):
    """Particles of charge -1 or 1, all interacting: `F_ij = strength * q_i * q_j * (r_i - r_j) / |r_i - r_j|^3`.

    Relations are symmetric: label 1 for opposite charges (attraction), 0 for equal charges (repulsion).

    Close encounters amplify rounding errors of a force a million times. To reproduce the published generator, powers
    are computed by NumPy, whose last bit depends on the processor, and distances by `squared_distances`.

    Args:
        position_std: standard deviation of each initial coordinate, length units.
        strength: force between two unit charges at distance 1.
        positive: probability that a charge is 1.
    """

    name: ClassVar[str] = "charged"

    position_std: float = 1.0
    strength: float = 1.0
    positive: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_positive("position_std", "strength")
        self._check("positive", 0 <= self.positive <= 1, "a probability between 0 and 1")

    @property
    def edge_values(self) -> tuple[float, ...]:
        return PRODUCTS

    @property
    def start_spread(self) -> float:
        return self.position_std

    def _draw_shape(self) -> tuple[int, ...]:
        return (self.num_entities,)

    def _relate(self, uniform: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        charges = pick(uniform, (1 - self.positive, self.positive))  # 0 for a charge of -1
        relations = (charges[:, :, None] != charges[:, None, :]).astype(np.int64)
        first, second = np.triu_indices(self.num_entities, 1)
        strengths = self.strength * np.array(PRODUCTS)[relations[:, first, second].T]
        return relations, np.ascontiguousarray(strengths)

    def _move(self, strengths: np.ndarray, positions: np.ndarray, velocities: np.ndarray) -> None:
        weights = np.empty(strengths.shape[-2:])  # (P, B)
        with np.errstate(divide="ignore", invalid="ignore"):  # coinciding particles: `integrate` raises an error
            for _ in range(self.sample_every):
                self._weigh(strengths, positions, weights)
                advance(weights, positions, velocities, 1, self.time_step, self.box, self.max_force)

    def _weigh(self, strengths: np.ndarray, positions: np.ndarray, weights: np.ndarray) -> None:
        """Writes the force per distance of every pair at positions (2, N, B) to `weights` (P, B)."""
        squared_distances(positions, weights)
        np.power(weights, 1.5, out=weights)
        np.divide(strengths, weights, out=weights)
