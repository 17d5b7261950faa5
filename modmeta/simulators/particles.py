"""Base class of particles in a box with pairwise forces."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from modmeta.errors import DataError
from modmeta.simulators.stepped import Stepped
from modmeta.simulators.streams import Rng
from modmeta.simulators.world import Draws


@dataclass(frozen=True)
class Particles(Stepped, ABC):
    """Particles of mass 1 in a square box with reflecting walls (Kipf et al., Neural Relational Inference, ICML 2018).

    A step updates velocities by the forces at the old positions, then positions by the new velocities, then reflects at
    the walls. Frames are stored after the reflection, so velocities lag positions by half a step. The initial state is
    not stored.

    Args:
        num_entities, time_step, sample_every: see `Stepped`.
        observation_noise: standard deviation of the noise added to stored positions and velocities.
        box: half-width of the box, length units.
        speed: initial speed of every particle, length units per time unit.
        max_force: bound on each component of a particle's force.

    Raises:
        DataError: a setting is invalid.
    """

    features: ClassVar[tuple[str, ...]] = ("x", "y", "vx", "vy")
    streams: ClassVar[tuple[str, ...]] = ("task", "nri")

    box: float = 5.0
    speed: float = 0.5
    max_force: float = 100.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_positive("box", "speed", "max_force")

    @property
    @abstractmethod
    def edge_values(self) -> tuple[float, ...]: ...

    @abstractmethod
    def _draw_shape(self) -> tuple[int, ...]:
        """Shape of the uniform random numbers that determine a task's relations."""

    @abstractmethod
    def _relate(self, uniform: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Maps uniform numbers (B, ...) to relations (B, N, N) and strengths of undirected pairs (P, B)."""

    @abstractmethod
    def _move(self, strengths: np.ndarray, positions: np.ndarray, velocities: np.ndarray) -> None:
        """Advances particles (2, N, B) by `sample_every` steps, in place."""

    def draw(self, rng: Rng, num_frames: int, published: bool) -> Draws:
        n = self.num_entities
        draws = {"uniform": rng.random(self._draw_shape()), "start": rng.standard_normal((2, 2, n))}
        if self.observation_noise > 0:
            draws["noise"] = rng.standard_normal((2, num_frames, 2, n))
        elif published:
            rng.standard_normal((2, num_frames, 2, n))  # the published generator draws noise and multiplies it by 0
        return draws

    def integrate(self, draws: Draws, num_frames: int) -> tuple[np.ndarray, np.ndarray]:
        relations, strengths = self._relate(draws["uniform"])
        positions, velocities = self._start(draws["start"])
        frames = np.empty((2, num_frames, *positions.shape))  # (2, T, 2, N, B)
        for frame in range(num_frames):
            self._move(strengths, positions, velocities)
            frames[0, frame], frames[1, frame] = positions, velocities
        if not (np.abs(frames[0]) <= self.box).all():  # also false for NaN
            raise DataError(f"{self.name}: particles left the box or coincided; choose a shorter time_step")
        if self.observation_noise > 0:
            frames += draws["noise"].transpose(1, 2, 3, 4, 0) * self.observation_noise
        states = frames.transpose(4, 3, 1, 0, 2).reshape(*relations.shape[:2], num_frames, 4)  # (B, N, T, 4)
        return states, relations

    @property
    @abstractmethod
    def start_spread(self) -> float:
        """Standard deviation of each initial coordinate."""

    def _start(self, normal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Maps standard normal numbers (B, 2, 2, N) to initial positions and velocities (2, N, B) inside the box."""
        normal = np.ascontiguousarray(normal.transpose(1, 2, 3, 0))
        positions = normal[0] * self.start_spread
        velocities = normal[1] * self.speed / np.sqrt((normal[1] ** 2).sum(axis=0))
        for side in (1, -1):
            beyond = side * positions > self.box
            positions[beyond] = side * 2 * self.box - positions[beyond]
            velocities[beyond] = -side * np.abs(velocities[beyond])
        return positions, velocities


def pick(uniform: np.ndarray, probabilities: Sequence[float]) -> np.ndarray:
    """Maps uniform numbers to indices drawn with the given probabilities, as `RandomState.choice` does."""
    cumulative = np.cumsum(probabilities)
    return np.searchsorted(cumulative / cumulative[-1], uniform, side="right")
