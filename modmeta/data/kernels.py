"""Compiled steps of the particle simulators, on blocks of tasks.

Tasks lie innermost in memory, so that the compiler works on several at once, while the arithmetic of each is, operation
by operation, that of NumPy and BLAS in the published generator: results can be compared bit for bit. Shapes: `B` tasks
of a block, `N` particles, `P` = N(N-1)/2 unordered pairs (i < j) in the order of `numpy.triu_indices(N, 1)`.
"""

from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic

from modmeta.data.compiled import compiled

UNROLL = 8  # partial sums that NumPy keeps in a reduction of 8 to 128 terms


@intrinsic
def _fused_multiply_add(typing_context: Any, a: Any, b: Any, c: Any) -> Any:
    """a * b + c with a single rounding."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fma(*arguments)

    return types.float64(types.float64, types.float64, types.float64), generate


@compiled()
def advance(
    weights: np.ndarray,
    positions: np.ndarray,
    velocities: np.ndarray,
    steps: int,
    time_step: float,
    box: float,
    max_force: float,
) -> None:
    """Moves particles on, in place, under pairwise forces `weight * (own position - other's position)`.

    Every step is a kick, then a move, then a reflection at the walls.

    Args:
        weights: (P, B), fixed during the steps.
        positions: (2, N, B).
        velocities: (2, N, B).
        steps: how many.
        time_step: of one.
        box: half-width of the box.
        max_force: bound of each component of a particle's force.
    """
    axes, entities, tasks = positions.shape
    forces = np.empty((entities, tasks))
    partial = np.empty((UNROLL, tasks))
    for _ in range(steps):
        for axis in range(axes):  # one axis after the other, because weights do not depend on places here
            if entities < UNROLL:
                _add_up_few(weights, positions[axis], forces)
            else:
                _add_up_many(weights, positions[axis], partial, forces)
            for entity in range(entities):
                force, position, velocity = forces[entity], positions[axis, entity], velocities[axis, entity]
                for task in range(tasks):
                    v = velocity[task] + time_step * min(max(force[task], -max_force), max_force)
                    x = position[task] + time_step * v
                    over = x > box
                    x = 2 * box - x if over else x
                    v = -abs(v) if over else v
                    under = x < -box
                    position[task] = -2 * box - x if under else x
                    velocity[task] = abs(v) if under else v


@compiled()
def advance_masses(
    weights: np.ndarray,
    mobilities: np.ndarray,
    friction: float,
    positions: np.ndarray,
    velocities: np.ndarray,
    steps: int,
    time_step: float,
    box: float,
    max_force: float,
) -> None:
    """The same for particles of other masses than 1, which a drag slows.

    Args:
        weights: (P, B), fixed during the steps.
        mobilities: one over the mass of every particle, (N, B).
        friction: force per velocity, against it.
        positions, velocities, steps, time_step, box, max_force: as of `advance`.
    """
    axes, entities, tasks = positions.shape
    forces = np.empty((entities, tasks))
    partial = np.empty((UNROLL, tasks))
    for _ in range(steps):
        for axis in range(axes):
            if entities < UNROLL:
                _add_up_few(weights, positions[axis], forces)
            else:
                _add_up_many(weights, positions[axis], partial, forces)
            for entity in range(entities):
                force, mobility = forces[entity], mobilities[entity]
                position, velocity = positions[axis, entity], velocities[axis, entity]
                for task in range(tasks):
                    pull = min(max(force[task], -max_force), max_force) - friction * velocity[task]
                    v = velocity[task] + time_step * mobility[task] * pull
                    x = position[task] + time_step * v
                    over = x > box
                    x = 2 * box - x if over else x
                    v = -abs(v) if over else v
                    under = x < -box
                    position[task] = -2 * box - x if under else x
                    velocity[task] = abs(v) if under else v


@compiled(inline="always")  # inlined, the compiler sees that the arrays do not overlap
def _add_up_few(weights: np.ndarray, places: np.ndarray, forces: np.ndarray) -> None:
    """Forces (N, B) along an axis; each adds up its senders from first to last, as NumPy does a row of less than 8."""
    entities, tasks = places.shape
    forces[:] = 0.0
    pair = 0
    for i in range(entities):
        for j in range(i + 1, entities):
            weight, a, b, on_a, on_b = weights[pair], places[i], places[j], forces[i], forces[j]
            for task in range(tasks):
                force = weight[task] * (a[task] - b[task])
                on_a[task] += force
                on_b[task] -= force
            pair += 1


@compiled(inline="always")
def _add_up_many(weights: np.ndarray, places: np.ndarray, partial: np.ndarray, forces: np.ndarray) -> None:
    """The same for 8 to 128 entities: NumPy adds up 8 interleaved partial sums, then what 8 does not divide."""
    entities, tasks = places.shape
    interleaved = entities - entities % UNROLL
    for receiver in range(entities):
        own, total = places[receiver], forces[receiver]
        partial[:] = 0.0
        for sender in range(entities):
            if sender != receiver:
                low, high = min(receiver, sender), max(receiver, sender)
                weight = weights[low * (2 * entities - low - 1) // 2 + high - low - 1]
                other, into = places[sender], partial[sender % UNROLL] if sender < interleaved else total
                for task in range(tasks):
                    into[task] += weight[task] * (own[task] - other[task])
            if sender == interleaved - 1:
                p = partial
                for task in range(tasks):
                    left = (p[0, task] + p[1, task]) + (p[2, task] + p[3, task])
                    right = (p[4, task] + p[5, task]) + (p[6, task] + p[7, task])
                    total[task] = left + right


@compiled()
def squared_distances(positions: np.ndarray, out: np.ndarray) -> None:
    """Squared distance of every pair, |a|^2 + |b|^2 - 2 a.b as published, with its cancellation.

    The dot product is the one of BLAS, which rounds once in its second multiplication and addition.

    Args:
        positions: (2, N, B).
        out: (P, B), overwritten; never negative.
    """
    _, entities, tasks = positions.shape
    pair = 0
    for i in range(entities):
        for j in range(i + 1, entities):
            xi, yi, xj, yj = positions[0, i], positions[1, i], positions[0, j], positions[1, j]
            row = out[pair]
            for task in range(tasks):
                norms = (xi[task] * xi[task] + yi[task] * yi[task]) + (xj[task] * xj[task] + yj[task] * yj[task])
                dot = _fused_multiply_add(yi[task], yj[task], xi[task] * xj[task])  # type: ignore[call-arg, var-annotated]
                row[task] = max(norms - 2.0 * dot, 0.0)
            pair += 1
