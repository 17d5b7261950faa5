"""Textbook worlds with hidden relations, vectorised over tasks; to measure with.

    states, relations, own = make("neurons", tasks=400, seed=0)

Letters: B tasks, N entities, D features. Graphs are drawn anew for every task; relations are (B, receiver, sender).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["WORLDS", "Made", "World", "advanced", "apart", "make"]

SMALL = 10  # steps of the integrator between frames
FAR = 1e3  # states beyond that have run away; such tasks are drawn anew


class World(NamedTuple):
    """A world.

    Attributes:
        kinds: number of kinds of relations, "nothing" among them.
        coordinates: number of Cartesian coordinates that come first; 0 for plain states.
        angles: which features are angles.
        frame_step: time between frames.
        mutual: whether relations go both ways.
        begin: initial states (B, N, D) from (B, N) and a generator.
        rate: rates of change (B, N, D) of states, relations and constants of entities (B, N).
    """

    kinds: int
    coordinates: int
    angles: tuple[bool, ...]
    frame_step: float
    mutual: bool
    begin: Callable[[int, int, torch.Generator], Tensor]
    rate: Callable[[Tensor, Tensor, Tensor], Tensor]


class Made(NamedTuple):
    """Tasks.

    Attributes:
        states: (B, N, T, D), angles within one turn.
        relations: kinds, (B, receiver, sender).
        own: constants of entities, (B, N).
    """

    states: Tensor
    relations: Tensor
    own: Tensor


def make(name: str, tasks: int, seed: int, entities: int = 5, frames: int = 50) -> Made:
    """Tasks of a world of `WORLDS`."""
    world = WORLDS[name]
    generator = torch.Generator().manual_seed(seed)
    kept: list[Made] = []
    while sum(len(made.own) for made in kept) < tasks:
        made = _draw(world, tasks, generator, entities, frames)
        kept.append(Made(*(part[made.states.abs().nan_to_num(FAR).amax((1, 2, 3)) < FAR] for part in made)))
    states, relations, own = (torch.cat(list(part))[:tasks] for part in zip(*kept, strict=True))
    angles = torch.tensor(world.angles)
    return Made(torch.where(angles, states.remainder(2 * torch.pi), states), relations, own)


def advanced(world: World, state: Tensor, relations: Tensor, own: Tensor) -> Tensor:
    """States (B, N, D) one frame later, without noise."""
    for _ in range(SMALL):
        state = _runge_kutta(lambda s: world.rate(s, relations, own), state, world.frame_step / SMALL)
    return state


def apart(world: World, a: Tensor, b: Tensor) -> Tensor:
    """Differences of states (..., D), those of angles within half a turn."""
    left = a - b
    return torch.where(torch.tensor(world.angles), (left + torch.pi).remainder(2 * torch.pi) - torch.pi, left)


def _draw(world: World, tasks: int, generator: torch.Generator, entities: int, frames: int) -> Made:
    relations = torch.randint(world.kinds, (tasks, entities, entities), generator=generator)
    if world.mutual:
        relations = relations.triu(1) + relations.triu(1).mT
    relations = relations * (1 - torch.eye(entities, dtype=torch.long))
    state = world.begin(tasks, entities, generator)
    own = torch.randn(tasks, entities, generator=generator, dtype=torch.float64)
    path = [state]
    for _ in range(frames - 1):
        state = advanced(world, state, relations, own)
        path.append(state)
    return Made(torch.stack(path, 2), relations, own)


def _runge_kutta(rate: Callable[[Tensor], Tensor], s: Tensor, dt: float) -> Tensor:
    a = rate(s)
    b = rate(s + dt / 2 * a)
    c = rate(s + dt / 2 * b)
    return s + dt / 6 * (a + 2 * b + 2 * c + rate(s + dt * c))


def _normal(d: int, size: float = 1.0, shift: float = 0.0) -> Callable[[int, int, torch.Generator], Tensor]:
    return lambda b, n, g: shift + size * torch.randn(b, n, d, generator=g, dtype=torch.float64)


def _apart(
    d: int, velocities: bool, size: float = 1.5, speed: float = 0.5
) -> Callable[[int, int, torch.Generator], Tensor]:
    """Coordinates that begin no closer than 0.6 of a unit, by a few rounds of pushing apart; velocities at random."""

    def begin(b: int, n: int, g: torch.Generator) -> Tensor:
        x = size * torch.randn(b, n, d, generator=g, dtype=torch.float64)
        for _ in range(50):
            line, distance = _lines(x)
            push = (1.1 - distance).clamp_min(0) / 2
            x = x - (line / distance.unsqueeze(-1) * push.unsqueeze(-1)).sum(2)
        v = speed * torch.randn(b, n, d, generator=g, dtype=torch.float64)
        return torch.cat([x, v], -1) if velocities else x

    return begin


def _lines(x: Tensor) -> tuple[Tensor, Tensor]:
    """Vectors (B, receiver, sender, D) to senders, and distances, infinite to oneself."""
    line = x.unsqueeze(1) - x.unsqueeze(2)
    distance = (line.square().sum(-1) + 1e-12).sqrt()
    return line, distance + torch.eye(x.shape[1], dtype=x.dtype) * 1e9


def _neurons(s: Tensor, z: Tensor, own: Tensor) -> Tensor:
    v, w = s.unbind(-1)
    drive = (z * torch.sigmoid(4 * (v - 0.5)).unsqueeze(1)).sum(2)
    return torch.stack([v - v**3 / 3 - w + 0.5 - 0.6 * drive * (v + 1), 0.2 * (v + 0.7 - 0.8 * w)], -1)


def _grid(s: Tensor, z: Tensor, own: Tensor) -> Tensor:
    angle, speed = s.unbind(-1)
    pull = (z * torch.sin(angle.unsqueeze(1) - angle.unsqueeze(2))).sum(2)
    return torch.stack([speed, 0.5 * own - 0.3 * speed + 0.8 * pull], -1)


def _rossler(s: Tensor, z: Tensor, own: Tensor) -> Tensor:
    x, y, w = s.unbind(-1)
    pull = (z * (x.unsqueeze(1) - x.unsqueeze(2))).sum(2)
    return torch.stack([-y - w + 0.15 * pull, x + 0.2 * y, 0.2 + w * (x - 5.7)], -1)


def _rates(s: Tensor, z: Tensor, own: Tensor) -> Tensor:
    x = s[..., 0]
    sign = torch.tensor([0.0, 1.0, -1.0], dtype=s.dtype)[z]
    return (-x + torch.tanh(1.2 * (sign * torch.tanh(2 * x).unsqueeze(1)).sum(2) + 0.5 * own)).unsqueeze(-1)


def _flock(s: Tensor, z: Tensor, own: Tensor) -> Tensor:
    x, v = s[..., :2], s[..., 2:]
    line, distance = _lines(x)
    other = v.unsqueeze(1) - v.unsqueeze(2)
    push = 0.5 * line * torch.exp(-(distance**2)).unsqueeze(-1)
    return torch.cat([v, (z.unsqueeze(-1) * (other / (1 + distance.unsqueeze(-1) ** 2) - push)).sum(2)], -1)


def _opinions(s: Tensor, z: Tensor, own: Tensor) -> Tensor:
    x = s[..., 0]
    apart = x.unsqueeze(1) - x.unsqueeze(2)
    return (z * apart * torch.exp(-(apart**2))).sum(2).unsqueeze(-1)


def _central(force: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Bodies in a soft trap that pull each other by `force` of the distance; positive pulls."""

    def rate(s: Tensor, z: Tensor, own: Tensor) -> Tensor:
        x, v = s[..., :2], s[..., 2:]
        line, distance = _lines(x)
        pull = z * force(distance) / distance
        return torch.cat([v, (pull.unsqueeze(-1) * line).sum(2) - 0.3 * x], -1)

    return rate


def _masses(s: Tensor, z: Tensor, own: Tensor) -> Tensor:
    """Stars in a soft trap, each of a mass of its own, of which some pairs attract each other."""
    x, v = s[..., :3], s[..., 3:]
    line, distance = _lines(x)
    pull = z * torch.exp(0.5 * own).unsqueeze(1) * 0.8 / (distance.square() + 0.2) ** 1.5
    return torch.cat([v, (pull.unsqueeze(-1) * line).sum(2) - 0.2 * x], -1)


def _lennard_jones(r: Tensor) -> Tensor:
    r = r.clamp_min(0.5)
    return -1.2 * (2 * r**-13 - r**-7)


def _yukawa(r: Tensor) -> Tensor:
    return -torch.exp(-r) * (1 / r + 1 / r**2)


def _lorenz(s: Tensor, z: Tensor, own: Tensor) -> Tensor:
    x, y, w = s.unbind(-1)
    pull = (z * (x.unsqueeze(1) - x.unsqueeze(2))).sum(2)
    return torch.stack([10 * (y - x) + pull, x * (28 - w) - y, x * y - 8 / 3 * w], -1)


def _species(s: Tensor, z: Tensor, own: Tensor) -> Tensor:
    """Lotka-Volterra: nothing, competition, help."""
    x = s[..., 0]
    acts = torch.tensor([0.0, -0.5, 0.3], dtype=s.dtype)[z]
    return (x * (1.2 + 0.3 * own - 1.5 * x + (acts * x.unsqueeze(1)).sum(2))).unsqueeze(-1)


def _regulation(s: Tensor, z: Tensor, own: Tensor) -> Tensor:
    """Genes: nothing, activation, repression by Hill functions."""
    x = s[..., 0]
    square = x.square() / (0.5 + x.square())
    acts = torch.stack([torch.zeros_like(square), square, 1 - square], -1)  # (B, sender, kind)
    level = torch.gather(acts.unsqueeze(1).expand(*z.shape, 3), 3, z.unsqueeze(-1)).squeeze(-1).sum(2)
    return (0.1 + 0.8 * level - 0.7 * x).unsqueeze(-1)


def _contagion(s: Tensor, z: Tensor, own: Tensor) -> Tensor:
    """Susceptible, infected: the share of a town that is ill."""
    ill = s[..., 0]
    return ((1 - ill) * (0.3 * ill + 0.4 * (z * ill.unsqueeze(1)).sum(2)) - 0.6 * ill).unsqueeze(-1)


def _susceptible(s: Tensor, z: Tensor, own: Tensor) -> Tensor:
    """Susceptible, infected, susceptible: every town catches the disease at a rate of its own."""
    ill = s[..., 0]
    return ((1 - ill) * torch.exp(0.4 * own) * 0.6 * (z * ill.unsqueeze(1)).sum(2) - 0.5 * ill).unsqueeze(-1)


def _brusselators(s: Tensor, z: Tensor, own: Tensor) -> Tensor:
    """A chemical clock in every vessel; walls between some let the second substance through."""
    x, y = s.unbind(-1)
    leak = (z * (y.unsqueeze(1) - y.unsqueeze(2))).sum(2)
    return torch.stack([1 - 3.5 * x + x * x * y, 2.5 * x - x * x * y + 0.2 * leak], -1)


def _traffic(s: Tensor, z: Tensor, own: Tensor) -> Tensor:
    """Vehicles on a line that keep a speed for the gap to those they heed (optimal velocity)."""
    x, v = s.unbind(-1)
    gap = x.unsqueeze(1) - x.unsqueeze(2)
    return torch.stack([v, 0.3 * (1 - v) + 0.5 * (z * torch.tanh(gap)).sum(2)], -1)


def _amplitudes(s: Tensor, z: Tensor, own: Tensor) -> Tensor:
    """Stuart-Landau oscillators, each with a frequency of its own, whose amplitudes diffuse."""
    x, y = s.unbind(-1)
    pull = (z.unsqueeze(-1) * (s.unsqueeze(1) - s.unsqueeze(2))).sum(2)
    turn = (1 + 0.4 * own).unsqueeze(-1) * torch.stack([-y, x], -1)
    return s * (1 - s.square().sum(-1, keepdim=True)) + turn + 0.5 * pull


def _dampings(s: Tensor, z: Tensor, own: Tensor) -> Tensor:
    """Van der Pol oscillators, each with a damping of its own."""
    x, y = s.unbind(-1)
    pull = (z * (x.unsqueeze(1) - x.unsqueeze(2))).sum(2)
    return torch.stack([y, (1 + 0.4 * own) * (1 - x**2) * y - x + 0.4 * pull], -1)


def _pulses(s: Tensor, z: Tensor, own: Tensor) -> Tensor:
    """Winfree's oscillators, as cosine and sine of a phase: what a pulse does depends on the phase it meets."""
    x, y = s.unbind(-1)
    rate = 1.5 + 0.3 * own - 0.4 * (z * (1 + x).unsqueeze(1)).sum(2) * y
    return torch.stack([-y * rate, x * rate], -1)


def _clocks(s: Tensor, z: Tensor, own: Tensor) -> Tensor:
    """Goodwin's clocks of cells: a product that represses its own making steeply; some exchange the first substance."""
    x, y, w = s.unbind(-1)
    pull = (z * (x.unsqueeze(1) - x.unsqueeze(2))).sum(2)
    return torch.stack([2 / (1 + w**10) - 0.5 * (1 + 0.1 * own) * x + 0.2 * pull, x - 0.5 * y, y - 0.5 * w], -1)


def _on_circle(b: int, n: int, g: torch.Generator) -> Tensor:
    phase = 2 * torch.pi * torch.rand(b, n, generator=g, dtype=torch.float64)
    return torch.stack([phase.cos(), phase.sin()], -1)


def _positive(low: float, high: float, d: int = 1) -> Callable[[int, int, torch.Generator], Tensor]:
    return lambda b, n, g: low + (high - low) * torch.rand(b, n, d, generator=g, dtype=torch.float64)


PLAIN, PAIR, THREE = (False,), (False, False), (False, False, False)
WORLDS: dict[str, World] = {
    "neurons": World(2, 0, PAIR, 0.2, False, _normal(2), _neurons),
    "grid": World(2, 0, (True, False), 0.2, True, _normal(2), _grid),
    "rossler": World(2, 0, THREE, 0.1, False, _normal(3, 1.0), _rossler),
    "lorenz": World(2, 0, THREE, 0.02, False, _normal(3, 5.0), _lorenz),
    "rates": World(3, 0, PLAIN, 0.1, False, _normal(1), _rates),
    "opinions": World(2, 0, PLAIN, 0.1, False, _normal(1, 1.5), _opinions),
    "flock": World(2, 2, (False,) * 4, 0.1, False, _apart(2, True), _flock),
    "lennard_jones": World(2, 2, (False,) * 4, 0.1, True, _apart(2, True), _central(_lennard_jones)),
    "yukawa": World(2, 2, (False,) * 4, 0.1, True, _apart(2, True), _central(_yukawa)),
    "species": World(3, 0, PLAIN, 0.1, False, _positive(0.1, 2.0), _species),
    "regulation": World(3, 0, PLAIN, 0.1, False, _positive(0.0, 3.0), _regulation),
    "contagion": World(2, 0, PLAIN, 0.1, False, _positive(0.0, 0.5), _contagion),
    "brusselators": World(2, 0, PAIR, 0.1, True, _normal(2, 0.4, 1.5), _brusselators),
    "amplitudes": World(2, 0, PAIR, 0.1, False, _normal(2), _amplitudes),
    "dampings": World(2, 0, PAIR, 0.15, False, _normal(2), _dampings),
    "pulses": World(2, 0, PAIR, 0.15, False, _on_circle, _pulses),
    "clocks": World(2, 0, THREE, 0.3, False, _positive(0.5, 1.5, 3), _clocks),
    "masses": World(2, 3, (False,) * 6, 0.1, True, _apart(3, True), _masses),
    "susceptible": World(2, 0, PLAIN, 0.2, False, _positive(0.05, 0.45), _susceptible),
    "traffic": World(2, 1, PAIR, 0.1, False, _normal(2, 1.0), _traffic),
}
