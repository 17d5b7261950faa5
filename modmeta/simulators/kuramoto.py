"""Phase-coupled oscillators."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from modmeta.simulators.compiled import compiled
from modmeta.simulators.stepped import Stepped
from modmeta.simulators.streams import Rng
from modmeta.simulators.world import Draws


@dataclass(frozen=True)
class Kuramoto(Stepped):
    """Oscillators, each pair coupled with probability one half (Kipf et al., Neural Relational Inference, ICML 2018).

    `d phi_i / dt = omega_i + coupling * sum_j s_ij * sin(phi_i - phi_j)`, with omega_i uniform in [1, 10) and initial
    phases uniform in [0, 2 pi). The sign follows the paper: a positive coupling is repulsive, whereas Kuramoto's
    original `sin(phi_j - phi_i)` synchronises. Relations are symmetric; label 1 means coupled.

    Integrated by the classical Runge-Kutta method of order 4. The initial state is not stored. A frame holds sin phi,
    cos phi, d phi / dt and the constant omega. The paper omits cos phi, which leaves the phase ambiguous.

    Args:
        num_entities, time_step, sample_every: see `Stepped`.
        observation_noise: standard deviation of the noise added to all stored features except omega.
        coupling: strength of a coupled pair, radians per time unit.

    Raises:
        DataError: a setting is invalid.
    """

    name: ClassVar[str] = "kuramoto"
    features: ClassVar[tuple[str, ...]] = ("sin_phase", "cos_phase", "phase_velocity", "frequency")
    streams: ClassVar[tuple[str, ...]] = ("task",)

    time_step: float = 0.01
    sample_every: int = 10
    coupling: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_positive("coupling")

    @property
    def edge_values(self) -> tuple[float, ...]:
        return (0.0, 1.0)

    def draw(self, rng: Rng, num_frames: int, published: bool) -> Draws:
        n = self.num_entities
        draws = {"uniform": rng.random(n * (n - 1) // 2), "start": rng.random((2, n))}
        if self.observation_noise > 0:
            draws["noise"] = rng.standard_normal((n, num_frames, 3))
        return draws

    def integrate(self, draws: Draws, num_frames: int) -> tuple[np.ndarray, np.ndarray]:
        coupled = draws["uniform"] >= 0.5  # (B, P)
        tasks, n = len(coupled), self.num_entities
        relations = np.zeros((tasks, n, n), np.int64)
        first, second = np.triu_indices(n, 1)
        relations[:, first, second] = relations[:, second, first] = coupled
        frequencies, phases = self._start(draws["start"])
        couplings = np.ascontiguousarray(self.coupling * coupled.T)  # (P, B)
        states = np.empty((tasks, n, num_frames, 4))
        states[..., 3] = frequencies.T[:, :, None]
        for frame in range(num_frames):
            advance_phases(phases, frequencies, couplings, self.sample_every, self.time_step)
            velocities = phase_velocities(phases, frequencies, couplings)
            for feature, values in enumerate((np.sin(phases), np.cos(phases), velocities)):
                states[:, :, frame, feature] = values.T
        if self.observation_noise > 0:
            states[..., :3] += draws["noise"] * self.observation_noise
        return states, relations

    def _start(self, uniform: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Maps uniform numbers (B, 2, N) to frequencies and initial phases (N, B)."""
        frequencies, phases = np.ascontiguousarray(uniform.transpose(1, 2, 0))
        return 1 + 9 * frequencies, 2 * np.pi * phases


@compiled()
def phase_velocities(phases: np.ndarray, frequencies: np.ndarray, couplings: np.ndarray) -> np.ndarray:
    """d phi / dt (N, B) for phases and frequencies (N, B) and couplings (P, B); pair order as in `kernels`."""
    entities, tasks = phases.shape
    sine, cosine = np.sin(phases), np.cos(phases)  # 2 N evaluations instead of N (N - 1) / 2
    velocities = frequencies.copy()
    pair = 0
    for i in range(entities):
        for j in range(i + 1, entities):
            for task in range(tasks):
                apart = sine[i, task] * cosine[j, task] - cosine[i, task] * sine[j, task]  # sin(phi_i - phi_j)
                velocities[i, task] += couplings[pair, task] * apart
                velocities[j, task] -= couplings[pair, task] * apart
            pair += 1
    return velocities


@compiled()
def advance_phases(
    phases: np.ndarray, frequencies: np.ndarray, couplings: np.ndarray, steps: int, time_step: float
) -> None:
    """Advances phases in place by the classical Runge-Kutta method.

    Args:
        phases: (N, B).
        frequencies: (N, B).
        couplings: (P, B).
        steps: number of steps.
        time_step: length of a step.
    """
    for _ in range(steps):
        a = phase_velocities(phases, frequencies, couplings)
        b = phase_velocities(phases + time_step / 2 * a, frequencies, couplings)
        c = phase_velocities(phases + time_step / 2 * b, frequencies, couplings)
        d = phase_velocities(phases + time_step * c, frequencies, couplings)
        phases += time_step / 6 * (a + 2 * b + 2 * c + d)
