"""Spring systems simulated without modmeta, by SciPy's integrator, written as a CSV file: a stand-in for your own data.

python examples/springs_scipy.py springs.csv        # and the true springs, to compare with, to springs_truth.csv

Five particles of mass 2 in a box of half-width 3, each pair joined by a spring of stiffness 0.3 with probability one
half; a frame every 0.2 time units. modmeta's own springs have mass 1, half-width 5, stiffness 0.1, a frame every 0.1.
"""

import csv
import sys
from itertools import permutations
from pathlib import Path

import numpy as np
from scipy.integrate import solve_ivp

TASKS, PARTICLES, FRAMES, STEP = 300, 5, 49, 0.2
MASS, STIFFNESS, BOX, SPEED = 2.0, 0.3, 3.0, 0.8


def fold(free: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates that walls reflect, from those that go on behind them; -1 where that is a mirror image."""
    phase = np.mod(free + BOX, 4 * BOX)
    return np.where(phase < 2 * BOX, phase, 4 * BOX - phase) - BOX, np.where(phase < 2 * BOX, 1.0, -1.0)


def simulate(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """States (frames, particles, 4) and springs (particles, particles) of one task."""
    springs = np.triu(rng.random((PARTICLES, PARTICLES)) < 0.5, 1)
    springs = (springs | springs.T).astype(float)
    angle = rng.uniform(0, 2 * np.pi, PARTICLES)
    place = np.clip(rng.normal(0, 0.6, (PARTICLES, 2)), -BOX, BOX)
    start = np.concatenate((place, SPEED * np.stack((np.cos(angle), np.sin(angle)), axis=1)))

    def motion(_: float, flat: np.ndarray) -> np.ndarray:
        free, velocity = flat.reshape(2, PARTICLES, 2)
        inside, direction = fold(free)
        force = -STIFFNESS * (springs.sum(1, keepdims=True) * inside - springs @ inside)
        return np.concatenate((velocity, direction * force / MASS)).ravel()

    times = STEP * np.arange(FRAMES)
    path = solve_ivp(motion, (0, times[-1]), start.ravel(), t_eval=times, rtol=1e-8, atol=1e-10, max_step=STEP / 2)
    free, velocity = path.y.T.reshape(FRAMES, 2, PARTICLES, 2).transpose(1, 0, 2, 3)
    inside, direction = fold(free)
    return np.concatenate((inside, direction * velocity), axis=-1), springs.astype(int)


def main(path: Path) -> None:
    """Writes both files."""
    rng = np.random.default_rng(0)
    truth = path.with_name(f"{path.stem}_truth.csv")
    with path.open("w", newline="") as file, truth.open("w", newline="") as truth_file:
        rows, pairs = csv.writer(file), csv.writer(truth_file)
        rows.writerow(["task", "frame", "entity", "x", "y", "vx", "vy"])
        pairs.writerow(["task", "receiver", "sender", "relation"])
        for task in range(TASKS):
            states, springs = simulate(rng)
            for frame, entity in np.ndindex(FRAMES, PARTICLES):
                rows.writerow([task, frame, f"p{entity}", *(f"{value:.9g}" for value in states[frame, entity])])
            for receiver, sender in permutations(range(PARTICLES), 2):
                pairs.writerow([task, f"p{receiver}", f"p{sender}", springs[receiver, sender]])
    print(f"{path}, {truth}: {TASKS} systems of {PARTICLES} particles, {FRAMES} frames")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/springs_scipy.py FILE.csv")
    main(Path(sys.argv[1]))
