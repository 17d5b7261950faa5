"""Whether coordinates and their velocities follow a law of any state better than one of motion in space.

Letters: B tasks, N entities, T frames, L = T - 1 steps, G own functions.
"""

import torch
from torch import Tensor

from modmeta.model.basis import Kind, family_named, own_functions
from modmeta.search.cold_start.answers import left_of
from modmeta.search.cold_start.start import ENOUGH, cold_start

__all__ = ["bends_otherwise", "differ_otherwise"]

MUCH, SURE = 0.2, 5.0  # nats a number that such a law explains more, and its standard errors
TASKS, PAIRS, MOST_FRAMES, STARTS = 50, 1_000, 50, 6  # that cold starts look at, at most; of laws
FEWEST, FRAMES = 6, 8  # tasks and frames, from which on such cold starts say something
NUMBERS = 1_000_000  # that are looked at, at most, each with some thirty functions


def bends_otherwise(states: Tensor) -> bool:
    """Whether velocities on a line change by more than fields and friction, whatever entities do to one another.

    As of a van der Pol oscillator, whose friction depends on where it is. A law of any state, fitted to half of the
    tasks, must foretell changes in the others much better than fields and friction do.

    Args:
        states: one coordinate and its velocity, (B, N, T, 2); of long recordings the first frames are looked at.
    """
    states = states[:, :, : max(3, NUMBERS // max(states[:, :, 0, 0].numel(), 1))]
    if len(states) < 4 or not bool(states.isfinite().all()):
        return False
    middle = (states[:, :, 1:] + states[:, :, :-1]) / 2
    scaled = (middle - middle.mean((0, 1, 2))) / middle.std((0, 1, 2)).clamp_min(1e-12)
    change = states[..., 1].diff(dim=2)
    at, v = scaled.unbind(-1)
    plain = torch.stack([torch.ones_like(at), at, at**3, v, v * v.abs(), v**3], -1)
    left = [
        _left(functions, change)
        for functions in (plain, torch.cat([plain, own_functions(Kind(0, (False, False)), scaled)], -1))
    ]
    size = change[len(change) // 2 :].square().mean(2).sqrt()
    weight = (size + 1e-12 * size.max()).sqrt()  # as in `modmeta.evaluation.gain`
    gains = (weight * (left[0] / left[1]).log()).sum(1) / weight.sum(1)
    return float(gains.mean()) > max(MUCH, SURE * float(gains.std()) / len(gains) ** 0.5)


def differ_otherwise(states: Tensor, frame_step: float) -> bool:
    """Whether a law of differences of states, in which entities have more of their own, explains changes of velocities
    on a line much better than laws of bodies do. As of oscillators of unlike stiffness.

    Args:
        states: one coordinate and its velocity, (B, N, T, 2), each task with a structure of its own.
        frame_step: time between frames.
    """
    n = states.shape[1]
    states = states[: min(TASKS, max(FEWEST, PAIRS // max(n * (n - 1), 1))), :, :MOST_FRAMES]
    if len(states) < FEWEST or states.shape[2] < FRAMES or not bool(states.isfinite().all()):
        return False
    bodies = cold_start(
        states, Kind(1, (False, False)), num_kinds=2, frame_step=frame_step, starts=STARTS, slopes=False,
        strengths=False,
    )  # fmt: skip
    if bodies.gains.mean() > ENOUGH:
        return False
    plain = cold_start(
        states, Kind(0, (False, False)), num_kinds=2, frame_step=frame_step, starts=STARTS,
        family=family_named("difference"), strengths=False,
    )  # fmt: skip
    if bodies.form.smoothing != plain.form.smoothing:  # whose changes are not the same
        return False
    more = (left_of(bodies, states, [1]) - left_of(plain, states, [1])).mean(1) / 2
    return float(more.mean()) > max(MUCH, SURE * float(more.std()) / len(more) ** 0.5)


def _left(functions: Tensor, change: Tensor) -> Tensor:
    """Root mean squares, (B / 2, N), of what functions (B, N, L, G) of the first half leave of the last changes."""
    half = len(change) // 2
    x, y = functions[:half].flatten(0, 2), change[:half].flatten()
    normal = x.mT @ x
    size = normal.diagonal()
    law = torch.linalg.solve(normal + torch.diag(1e-9 * size + 1e-12 * size.max().clamp_min(1e-300)), x.mT @ y)
    left = change[half:] - functions[half:] @ law
    return left.square().mean(2).sqrt() + 1e-6 * change.square().mean().sqrt() + 1e-300
