"""Steps between frames as regression: increments on features along the path.

Letters: B tasks, N entities, T frames, L = T - 1 intervals, Q nodes of a quadrature, D features, C channels.
"""

import itertools
import math
from typing import NamedTuple

import torch
from torch import Tensor

from modmeta.model.basis import BOOLE, PLACES, Kind, cubics, polar, unsaturated

__all__ = [
    "Kind",
    "Steps",
    "Units",
    "averaged",
    "measure_units",
    "never_changing",
    "roughness",
    "steps",
    "straightened",
    "unwrap",
    "usual_change",
    "weights_of_entities",
    "with_circles",
]

DIFFER = 1.0  # standard deviation of logarithms of how much entities change, from which each has a weight of its own
AGREES = 0.01  # relative difference up to which the time between frames is the one that was given
ON_CIRCLE = 1e-4  # by which squares of cosine and sine may add up to more or less than 1: a float's rounding errors
HEAVY = 30.0  # mean over median squared change, from which a few large ones are nearly all
USUAL = 10.0  # times the median squared change, from which changes are large
EXACT = 1e-3  # of changes of velocities, up to which coordinates are exact
LEAST = 1e-2  # of the largest change, from which on an entity's changes are worth explaining


class Units(NamedTuple):
    """Scales that make a state a number: `(state - centre) / scale`, (D,) each; `step` is the time between frames.

    `lag` is how many frames velocities lag coordinates: half a frame in simulators that move coordinates by velocities
    after these have changed.
    `usual` is the size of a change from which on squared residuals weigh less, by the square of what it is larger; None
    where large changes are not rare.
    `stepped` is whether coordinates move by the velocities of frames and nothing between, as in simulators whose frames
    are steps.
    `entities` is how much squared residuals of every entity weigh, (N,), where they differ; None where all are alike.
    """

    centre: Tensor
    scale: Tensor
    step: float
    entities: Tensor | None = None
    lag: float = 0.0
    usual: float | None = None
    stepped: bool = False


class Steps(NamedTuple):
    """Intervals between frames.

    Attributes:
        nodes: scaled states where the quadrature looks, (B, N, Q, L, D).
        quadrature: its weights, (Q,), of sum 1.
        targets: rates of change of what a law explains, (B, N, L, C).
        seen: 1 where an entity was observed around the interval, else 0, (B, N, L).
        weight: of a target, (B, N, L, C): 1, or for growth rates the squared state, for saturating ones the squared
            slope, so that residuals keep their unit.
    """

    nodes: Tensor
    quadrature: Tensor
    targets: Tensor
    seen: Tensor
    weight: Tensor


def never_changing(states: Tensor, seen: Tensor | None = None) -> tuple[bool, ...]:
    """Which features of states (B, N, T, D) never change, of entities observed (B, N, T); none if all do not."""
    moved = states.diff(dim=2).abs()
    if seen is not None:
        moved = moved * (seen[:, :, 1:] & seen[:, :, :-1]).unsqueeze(-1)
    still = moved.amax((0, 1, 2)) == 0
    return tuple(still.tolist()) if bool(still.any()) and not bool(still.all()) else ()


def with_circles(kind: Kind, states: Tensor, seen: Tensor | None = None) -> Kind:
    """The same where pairs of plain states (B, N, T, D), observed or not (B, N, T), always lie on the unit circle."""
    there = states if seen is None else states[seen.bool()]
    plain = [at for at in kind.changing if not kind.angles[at]]
    angles, constant = list(kind.angles), list(kind.constant or (False,) * len(kind.angles))
    circles: list[tuple[int, int]] = []
    for first, other in itertools.combinations([] if kind.coordinates else plain, 2):
        off = there[..., first].double().square() + there[..., other].double().square() - 1
        if not any({first, other} & {*pair} for pair in circles) and float(off.abs().max()) < ON_CIRCLE:
            circles.append((first, other))
            angles[first], constant[other] = True, True
    return Kind(0, tuple(angles), tuple(constant), tuple(circles)) if circles else kind


def straightened(states: Tensor, kind: Kind) -> Tensor:
    """States (B, N, T, D) as laws see them, in double precision: angles of circles, no jumps of angles."""
    return unwrap(polar(states.double(), kind), kind.angles)


def unwrap(states: Tensor, angles: tuple[bool, ...]) -> Tensor:
    """States (B, N, T, D) with the jumps of angles taken out."""
    if not any(angles):
        return states
    wrapped = torch.tensor(angles, device=states.device)
    turns = torch.round(states.diff(dim=2) / (2 * math.pi)).cumsum(2) * wrapped
    return torch.cat([states[:, :, :1], states[:, :, 1:] - 2 * math.pi * turns], 2)


def roughness(states: Tensor, kind: Kind) -> float:
    """Third over first differences of what moves, medians: small for smooth paths, 2.4 for random walks.

    Medians, as a few collisions make third differences large and a path no random walk.
    """
    moving = states[..., kind.coordinates :] if kind.second_order else states[..., kind.changing]
    if states.shape[2] < 4:
        return 0.0
    first, third = (moving.diff(n=n, dim=2).abs().flatten(0, 2).median(0).values for n in (1, 3))
    alive = first > 1e-10
    return float((third[alive] / first[alive]).median()) if alive.any() else 0.0


def measure_units(states: Tensor, kind: Kind, frame_step: float) -> Units:
    """Scales of states (B, N, T, D), one for all coordinates, one for all velocities, none for angles.

    Velocities may be in any unit: the time between frames is what makes increments of the coordinates agree with them.
    """
    centre, scale = states.mean((0, 1, 2)), states.std((0, 1, 2)).clamp_min(1e-12)
    p, step = kind.coordinates, frame_step
    if p:
        apart = (states[..., :p] - states[..., :p].mean((1, 2), keepdim=True)).square().mean().sqrt()
        scale[:p] = apart.clamp_min(1e-12)
    if kind.second_order:
        moved, mean = states[..., :p].diff(dim=2), (states[:, :, 1:, p:] + states[:, :, :-1, p:]) / 2
        slope = (moved * mean).sum() / mean.square().sum().clamp_min(1e-30)
        step = float(slope) if slope > 0 and abs(float(slope) / frame_step - 1) > AGREES else frame_step
        centre[p:], scale[p:] = 0.0, scale[p:].square().mean().sqrt()
    angles = torch.tensor(kind.angles, device=states.device)
    centre, scale = centre.where(~angles, torch.zeros_like(centre)), scale.where(~angles, torch.ones_like(scale))
    if kind.second_order and (by := _by_frames(states, kind)):
        return Units(centre, scale, by[0], lag=by[1], stepped=True)
    return Units(centre, scale, step, lag=_lag(states, kind, step) if kind.second_order else 0.0)


def _by_frames(states: Tensor, kind: Kind) -> tuple[float, float] | None:
    """Time between frames and lag, if coordinates move by the velocities of one of two frames, and by nothing else.

    Not by both alike, as they do on circles.
    """
    x, v = states.split(kind.coordinates, -1)
    moved, change = x.diff(dim=2).flatten(), v.diff(dim=2).flatten()
    columns = torch.stack([v[:, :, :-1].flatten(), change], -1)
    step, gained = torch.linalg.lstsq(columns.mT @ columns, (columns.mT @ moved).unsqueeze(1))[0].flatten().tolist()
    off = (moved - columns @ columns.new_tensor([step, gained])).square().mean().sqrt()
    exact = step > 0 and off <= EXACT * step * change.square().mean().sqrt()
    if not exact or abs(abs(gained / step - 0.5) - 0.5) > EXACT:
        return None
    return step, gained / step - 0.5


def _lag(states: Tensor, kind: Kind, step: float) -> float:
    """Frames by which velocities lag coordinates, which else gain half of what the velocity gains in a frame."""
    x, v = states.split(kind.coordinates, -1)
    change = v.diff(dim=2)
    gained = x.diff(dim=2) / step - v[:, :, :-1]
    lag = float((change * gained).sum() / change.square().sum().clamp_min(1e-300)) - 0.5
    return lag if abs(lag) <= 1 else 0.0


def usual_change(states: Tensor, kind: Kind, units: Units, seen: Tensor | None = None) -> float | None:
    """The size of a change of states (B, N, T, D) that few exceed, where these few are most of what is to be explained.

    Of bodies that collide. A law is searched in what happens all the time, and told from it.
    """
    plain = _steps(states, kind, units, False, False, seen)
    square = plain.targets.square().sum(-1)[plain.seen > 0]
    some = square[:: max(1, len(square) // 100_000)]
    median = float(some.median())
    return (USUAL * median) ** 0.5 if some.mean() > HEAVY * median > 0 else None


def weights_of_entities(states: Tensor, kind: Kind, units: Units, seen: Tensor | None = None) -> Tensor | None:
    """Weights (N,) of squared residuals, by the squares of how much entities of states (B, N, T, D) change.

    None where they do not differ: in most worlds any entity may have any place in a task. A sun and its planets have
    places of their own, and the residuals of those that change most would be all that a law is fitted to. What hardly
    changes beside the largest, as the sun does, is not worth explaining: it weighs no more than the largest.
    """
    plain = _steps(states, kind, units, False, False, seen)
    there = plain.seen.unsqueeze(-1)
    count = there.sum(2, keepdim=True).clamp_min(1)
    moved = (plain.targets - (plain.targets * there).sum(2, keepdim=True) / count) * there
    each = (moved.square().sum(2, keepdim=True) / count).mean(-1).sqrt().flatten(1)  # (B, N)
    if not bool(each.max() > 0):
        return None
    size = each.clamp_min(LEAST**2 * float(each.max())).log().mean(0).exp()  # over tasks
    large = size > LEAST * size.max()
    if large.sum() < 2 or float(size[large].log().std()) < DIFFER:
        return None
    return torch.where(large, (size.max() / size).square(), 1.0)


def steps(
    states: Tensor,
    kind: Kind,
    units: Units,
    *,
    smooth: bool,
    growth: bool = False,
    seen: Tensor | None = None,
    link: Tensor | None = None,
) -> Steps:
    """Intervals of states (B, N, T, D), angles unwrapped.

    Args:
        states: as observed.
        kind: what features are.
        units: scales.
        smooth: integrate features along the cubic through four frames (weak form); otherwise features of the frame
            before (a map, or motion driven by noise, where later frames would leak what is to be explained).
        growth: explain rates of growth, increments of logarithms, of positive plain states.
        seen: where entities were observed, (B, N, T); None for everywhere.
        link: leak and size of every channel where rates saturate: explain what the saturating function is of.
    """
    ready = _steps(states, kind, units, smooth, growth, seen)
    if units.usual is not None and not growth and link is None:
        square = ready.targets.square().sum(-1, keepdim=True) / units.usual**2
        ready = ready._replace(weight=ready.weight / (1 + square))
    if link is None:
        if units.entities is not None and len(units.entities) == states.shape[1]:
            return ready._replace(weight=ready.weight * units.entities.view(-1, 1, 1))
        return ready
    targets, gain = unsaturated(ready.targets, averaged(ready), link)
    return ready._replace(targets=targets, weight=gain.square())


def averaged(ready: Steps) -> Tensor:
    """States (B, N, L, D), averaged along the path of every interval."""
    return torch.tensordot(ready.nodes.movedim(2, 0), ready.quadrature, ([0], [0]))


def _steps(states: Tensor, kind: Kind, units: Units, smooth: bool, growth: bool, seen: Tensor | None) -> Steps:
    b, n, t, _ = states.shape
    present = torch.ones(b, n, t, dtype=states.dtype, device=states.device) if seen is None else seen.to(states)
    scaled = torch.where(present.unsqueeze(-1) > 0, (states - units.centre) / units.scale, 0.0)
    p = kind.coordinates
    changing = kind.changing
    moving = scaled[..., p:] if kind.second_order else scaled[..., changing]
    targets = moving.diff(dim=2) / units.step
    weight = torch.ones_like(targets)
    if growth:
        positive = states[..., changing].clamp_min(1e-12)
        targets = positive.log().diff(dim=2) / units.step
        weight = ((positive[:, :, 1:] + positive[:, :, :-1]) / (2 * units.scale[changing])).square()
    whole = present[:, :, 1:] * present[:, :, :-1]
    if not smooth or t < 4:
        one = torch.ones(1, dtype=states.dtype, device=states.device)
        return Steps(scaled[:, :, None, :-1], one, targets, whole, weight)
    places = torch.tensor(PLACES, dtype=states.dtype, device=states.device)
    quadrature = torch.tensor(BOOLE, dtype=states.dtype, device=states.device)
    nodes = cubics(scaled)
    if kind.second_order:
        quadrature[0] += units.lag
        quadrature[-1] -= units.lag
        nodes = torch.cat([_hermite(scaled, p, units, places), nodes[..., p:]], -1)
    first = (torch.arange(t - 1, device=states.device) - 1).clamp(0, t - 4)
    around = torch.stack([present[:, :, first + k] for k in range(4)]).amin(0)
    return Steps(nodes, quadrature, targets, whole * around, weight)


def _hermite(scaled: Tensor, p: int, units: Units, places: Tensor) -> Tensor:
    """Coordinates (B, N, Q, L, P) on the cubics that take up positions and velocities at both ends of an interval."""
    position = scaled[..., :p].unsqueeze(2)
    velocity = scaled[..., p:].unsqueeze(2) * (units.scale[p:] / units.scale[:p] * units.step)
    u = places.view(-1, 1, 1)
    begin, end = slice(None, -1), slice(1, None)
    return (
        position[..., begin, :] * (1 + 2 * u) * (1 - u) ** 2
        + velocity[..., begin, :] * u * (1 - u) ** 2
        + position[..., end, :] * u**2 * (3 - 2 * u)
        + velocity[..., end, :] * u**2 * (u - 1)
    )
