"""The particle integrator as a plain NumPy loop: a reference for speed, and an independent one for tests.

Shares no code with `modmeta`. The constants are those of the published generator (Kipf et al. 2018).
"""

import numpy as np

BOX, SPEED, TIME_STEP, MAX_FORCE, SAMPLE_EVERY = 5.0, 0.5, 0.001, 100.0, 100
POSITION_STD = {"springs": 0.5, "charged": 1.0}
STRENGTH = {"springs": 0.1, "charged": 1.0}


def draw(world: str, rng: np.random.RandomState, entities: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draws edges (N, N), initial positions and velocities (2, N) in the published order of random numbers."""
    if world == "springs":
        edges = np.tril(rng.choice([0, 0.5, 1], size=(entities, entities), p=[0.5, 0, 0.5]), -1)
        edges = edges + edges.T
    else:
        charges = rng.choice([-1.0, 0.0, 1.0], size=entities, p=[0.5, 0, 0.5])
        edges = np.outer(charges, charges)
    positions = rng.randn(2, entities) * POSITION_STD[world]
    velocities = rng.randn(2, entities)
    velocities = velocities * SPEED / np.linalg.norm(velocities, axis=0)
    return edges, positions, velocities


def forces(world: str, edges: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Force on every particle, (2, N)."""
    difference = positions[:, :, None] - positions[:, None, :]  # (2, receiver, sender)
    if world == "springs":
        weights = -STRENGTH[world] * edges
    else:
        norms = (positions.T**2).sum(axis=1)
        squared = norms[:, None] + norms[None, :] - 2 * positions.T.dot(positions)
        with np.errstate(divide="ignore", invalid="ignore"):  # the diagonal, replaced below
            weights = STRENGTH[world] * edges / np.power(np.maximum(squared, 0), 1.5)
    np.fill_diagonal(weights, 0)
    return np.clip((weights * difference).sum(axis=-1), -MAX_FORCE, MAX_FORCE)


def reflect(positions: np.ndarray, velocities: np.ndarray) -> None:
    """Reflects particles beyond a wall, in place."""
    over = positions > BOX
    positions[over] = 2 * BOX - positions[over]
    velocities[over] = -np.abs(velocities[over])
    under = positions < -BOX
    positions[under] = -2 * BOX - positions[under]
    velocities[under] = np.abs(velocities[under])


def integrate(
    world: str, edges: np.ndarray, positions: np.ndarray, velocities: np.ndarray, frames: int
) -> tuple[np.ndarray, np.ndarray]:
    """Positions and velocities of the stored frames, each (T, 2, N)."""
    positions, velocities = positions.copy(), velocities.copy()
    stored: list[tuple[np.ndarray, np.ndarray]] = []
    reflect(positions, velocities)
    for step in range(1, frames * SAMPLE_EVERY + 1):
        velocities += TIME_STEP * forces(world, edges, positions)
        positions += TIME_STEP * velocities
        reflect(positions, velocities)
        if step % SAMPLE_EVERY == 0:
            stored.append((positions.copy(), velocities.copy()))
    return np.stack([p for p, _ in stored]), np.stack([v for _, v in stored])


def trajectory(
    world: str, rng: np.random.RandomState, entities: int, frames: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """States (N, T, 4) and edges (N, N) of the next trajectory of the published stream, and the noise that it draws."""
    edges, positions, velocities = draw(world, rng, entities)
    stored = integrate(world, edges, positions, velocities, frames)
    noise = rng.randn(2, frames, 2, entities)
    return np.concatenate(stored, axis=1).transpose(2, 0, 1), edges, noise
