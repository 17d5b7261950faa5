"""Compiled integration steps of the particle simulators, on blocks of tasks.

Tasks are the innermost dimension, so that the compiler vectorises over them. For each task the operations and their
order are those of NumPy and BLAS in the published generator, so results agree bit for bit. Shapes: `B` tasks of a
block, `N` particles, `P` = N(N-1)/2 undirected pairs (i < j) in the order of `numpy.triu_indices(N, 1)`.
"""

from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic

from modmeta.simulators.compiled import compiled

UNROLL = 8  # number of partial sums in NumPy's reduction of 8 to 128 terms


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
    """Advances particles in place under pairwise forces `weight * (own position - other's position)`.

    Every step updates velocities, then positions, then reflects particles at the walls.

    Args:
        weights: (P, B), constant during the steps.
        positions: (2, N, B).
        velocities: (2, N, B).
        steps: number of steps.
        time_step: length of a step.
        box: half-width of the box.
        max_force: bound on each component of a particle's force.
    """
    axes, entities, tasks = positions.shape
    forces = np.empty((entities, tasks))
    partial = np.empty((UNROLL, tasks))
    for _ in range(steps):
        for axis in range(axes):  # axes are independent, because weights do not depend on positions here
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
    """`advance` for particles of any mass, with linear drag.

    Args:
        weights: (P, B), constant during the steps.
        mobilities: inverse mass of every particle, (N, B).
        friction: drag force per unit velocity.
        positions, velocities, steps, time_step, box, max_force: as in `advance`.
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


@compiled(inline="always")  # inlining shows the compiler that the arrays do not overlap
def _add_up_few(weights: np.ndarray, coordinates: np.ndarray, forces: np.ndarray) -> None:
    """Forces (N, B) along an axis for N < 8, summed over senders in order, as NumPy sums fewer than 8 terms."""
    entities, tasks = coordinates.shape
    forces[:] = 0.0
    pair = 0
    for i in range(entities):
        for j in range(i + 1, entities):
            weight, a, b, on_a, on_b = weights[pair], coordinates[i], coordinates[j], forces[i], forces[j]
            for task in range(tasks):
                force = weight[task] * (a[task] - b[task])
                on_a[task] += force
                on_b[task] -= force
            pair += 1


@compiled(inline="always")
def _add_up_many(weights: np.ndarray, coordinates: np.ndarray, partial: np.ndarray, forces: np.ndarray) -> None:
    """`_add_up_few` for 8 to 128 entities: like NumPy, 8 interleaved partial sums, then the remaining terms."""
    entities, tasks = coordinates.shape
    interleaved = entities - entities % UNROLL
    for receiver in range(entities):
        own, total = coordinates[receiver], forces[receiver]
        partial[:] = 0.0
        for sender in range(entities):
            if sender != receiver:
                low, high = min(receiver, sender), max(receiver, sender)
                weight = weights[low * (2 * entities - low - 1) // 2 + high - low - 1]
                other, into = coordinates[sender], partial[sender % UNROLL] if sender < interleaved else total
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
    """Squared distance of every pair as |a|^2 + |b|^2 - 2 a.b, which reproduces the published cancellation errors.

    The dot product uses a fused multiply-add for its second term, as BLAS does.

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
