"""Functions of pairs and of entities that laws are linear in.

A family says what a message may depend on. Its functions of a pair are `left` x `right`: functions of the receiver
times functions of the sender, or of both.

Letters: ... any leading dimensions, D features of a state, P coordinates, H left and V right functions, G own
functions, Q nodes of a quadrature, L intervals between frames.
"""

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = [
    "BOOLE",
    "MAPPED",
    "PLACES",
    "SHIFTS",
    "VECTORS",
    "WAVES",
    "Family",
    "FoundLaws",
    "Kind",
    "cartesian",
    "coarser",
    "cubics",
    "families",
    "family_named",
    "finer",
    "left_functions",
    "own_functions",
    "polar",
    "right_functions",
    "saturated",
    "unsaturated",
]

SHIFTS = 12  # shifted tanh of each feature in a rich family
WAVES = 60  # of all features of a sender together, where steps are maps
STEPS = (-1.5, -1.0, -0.5, 0.5, 1.0, 1.5)  # of an entity's own functions of plain states, in standard deviations
SATURATED = 0.9999  # share of the bound beyond which a rate says no more
PLACES = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the nodes of a frame, and Boole's weights
BOOLE = (7 / 90, 32 / 90, 12 / 90, 32 / 90, 7 / 90)


class Kind(NamedTuple):
    """What the features of a state are.

    Attributes:
        coordinates: number P of Cartesian coordinates that come first; 0 for plain states. With P features the motion
            is of first order, with 2 P (velocities follow) of second.
        angles: which features are angles in radians, (D,) of booleans.
        constant: which plain features never change, (D,); none for no feature. They follow no law, and only what an
            entity does by itself depends on them: what they do to others is in the weights of edges.
        circles: pairs of features that are an angle's cosine and sine. Laws see the angle in place of the first one, a
            constant 1 in place of the second (`polar`), as `angles` and `constant` say.
    """

    coordinates: int
    angles: tuple[bool, ...]
    constant: tuple[bool, ...] = ()
    circles: tuple[tuple[int, int], ...] = ()

    @property
    def changing(self) -> list[int]:
        """Places of features that change."""
        return [at for at in range(len(self.angles)) if not (self.constant and self.constant[at])]

    @property
    def second_order(self) -> bool:
        """Whether velocities follow the coordinates."""
        return self.coordinates > 0 and len(self.angles) == 2 * self.coordinates


class Family(NamedTuple):
    """What a message depends on.

    Attributes:
        name: in words.
        right: `sender`, `difference`, `waves` of all features of the sender together (slopes in place of the places of
            shifted functions, and phases in the first row of their widths; a constant comes last), or for coordinates
            `line` (along the line), `steep` (along it, by powers of the inverse distance; if rich also by functions
            placed where distances are), `across` (also across it; in three dimensions across it and the relative
            velocity), `moving` (also velocities relative to the receiver's, along all directions).
        rich: many functions of each argument instead of one.
        power: the highest power of the receiver's state on the left, or multiple of an angle; above 0 a constant comes
            last on the right.
        growth: explain rates of growth (increments of logarithms) of positive states.
        shifts: number of shifted functions of each argument where there are many.
        saturating: what acts is summed inside a saturating function.
    """

    name: str
    right: str
    rich: bool = False
    power: int = 0
    growth: bool = False
    shifts: int = SHIFTS
    saturating: bool = False

    @property
    def of_distances(self) -> bool:
        """Whether its shifted functions are functions of the distance."""
        return self.right == "steep" or (self.right == "line" and self.shifts > SHIFTS)


class FoundLaws(NamedTuple):
    """Laws that were found, with the units of their functions.

    Attributes:
        edges: coefficients of every edge module on whitened functions, (K, left x right).
        own: of an entity's own functions, (D O,) or, for coordinates, (O,).
        step: time between two frames, in the unit of the laws' rates.
        rest: standard deviation of what they leave unexplained, in that unit.
        offset, span: physical states are span x state + offset, (D,) each.
        centre, scale: functions see (physical - centre) / scale, (D,) each.
        places, widths: of shifted functions, (D, shifts) each.
        left: left functions to uncorrelated ones, block by block for every feature, (D H, up to D H).
        right: right functions to uncorrelated ones, (V, up to V).
        link: leak and size of every channel of a saturating family, (D, D + 2); else none, (0, ...).
        lag: frames by which velocities lag coordinates.
        shapes: functions that entities have of sizes of their own, of every channel, (D, O); else none, (0, ...).
        spread: what strengths of edges of a module vary along, in messages of modules, (K, K), see
            `modmeta.model.strengths`; none where strengths do not differ, (0, ...).
    """

    edges: Tensor
    own: Tensor
    step: Tensor
    rest: Tensor
    offset: Tensor
    span: Tensor
    centre: Tensor
    scale: Tensor
    places: Tensor
    widths: Tensor
    left: Tensor
    right: Tensor
    link: Tensor = torch.zeros(0, 0)
    lag: Tensor = torch.zeros(())
    shapes: Tensor = torch.zeros(0, 0)
    spread: Tensor = torch.zeros(0, 0)


VECTORS = (
    Family("springs", "line"),
    Family("inverse powers", "steep"),
    Family("along the line", "line", True),
    Family("along and across the line", "across", True),
    Family("relative velocity", "moving"),
    Family("line and relative velocity", "moving", True),
    Family("steep along the line", "steep", True),
)
PLAIN = (
    Family("difference", "difference"),
    Family("sender", "sender"),
    Family("rich sender", "sender", True),
    Family("growth, rich sender", "sender", True, growth=True),
    Family("saturating, rich sender", "sender", True, saturating=True),
    Family("receiver x sender", "sender", False, 2),
    Family("receiver x rich sender", "sender", True, 1),
    Family("rich difference", "difference", True),
)
# Where steps are maps, whose structures are told first (`search.maps`): the first edge module sends nothing.
MAPPED = Family("waves of the sender", "waves", shifts=WAVES)
FINE = tuple(
    family._replace(name=f"fine {family.name}", shifts=2 * SHIFTS)
    for family in (*VECTORS, *PLAIN)
    if family.rich and family.right in ("difference", "sender", "line", "steep")
)  # to finish with; a search from random laws would get lost in them


def families(kind: Kind, positive: bool) -> list[Family]:
    """Families worth trying, cheapest first; `positive` where no state is zero or less."""
    if kind.coordinates:
        turning = kind.coordinates == 2 or (kind.coordinates == 3 and kind.second_order)
        fitting = {"line": True, "steep": True, "across": turning, "moving": kind.second_order}
        return [family for family in VECTORS if fitting[family.right]]
    turning = all(kind.angles[at] for at in kind.changing)
    return [
        family
        for family in PLAIN
        if not (turning and family.rich)
        and (positive or not family.growth)
        and not (family.saturating and any(kind.angles))
    ]


def family_named(name: str) -> Family:
    """
    Raises:
        ValueError: there is none of that name.
    """
    for family in (*VECTORS, *PLAIN, MAPPED, *FINE):
        if family.name == name:
            return family
    names = ", ".join(repr(family.name) for family in (*VECTORS, *PLAIN, MAPPED, *FINE))
    raise ValueError(f"model.family is {name!r}; it must be one of {names}, or null for the one that fits best")


def coarser(family: Family) -> Family:
    """The family that a fine one is searched with; any other is itself."""
    return family_named(family.name.removeprefix("fine "))


def finer(family: Family) -> Family | None:
    """The same with more functions of each argument; none where it has few, or as many already."""
    return next((fine for fine in FINE if fine.name == f"fine {family.name}"), None)


def polar(states: Tensor, kind: Kind) -> Tensor:
    """States (..., D) with angles, within half a turn, in place of cosines, and 1 in place of sines."""
    if not kind.circles:
        return states
    states = states.clone()
    for cosine, sine in kind.circles:
        states[..., cosine] = torch.atan2(states[..., sine], states[..., cosine])
        states[..., sine] = 1
    return states


def cartesian(states: Tensor, kind: Kind) -> Tensor:
    """The inverse of `polar`, on the unit circle."""
    if not kind.circles:
        return states
    states = states.clone()
    for cosine, sine in kind.circles:
        states[..., sine] = states[..., cosine].sin()
        states[..., cosine] = states[..., cosine].cos()
    return states


def left_functions(family: Family, kind: Kind, receiver: Tensor) -> Tensor:
    """Powers of the receiver's features (..., D), of angles sines and cosines of multiples, (..., H)."""
    parts = [torch.ones_like(receiver[..., :1])]
    if not kind.coordinates:
        straight, turning = ([at for at in kind.changing if kind.angles[at] == turns] for turns in (False, True))
        for power in range(1, family.power + 1):
            multiple = power * receiver[..., turning]
            parts += [receiver[..., straight] ** power, multiple.sin(), multiple.cos()]
    return torch.cat(parts, -1)


def right_functions(
    family: Family, kind: Kind, places: Tensor, widths: Tensor, receiver: Tensor, sender: Tensor
) -> Tensor:
    """Functions of scaled states of receiver and sender, each (..., D): (..., V); of coordinates, vectors
    (..., P, V).

    Args:
        family: which functions.
        kind: what features are.
        places: centres of shifted functions, (D, shifts).
        widths: theirs, (D, shifts).
        receiver, sender: their states.
    """
    if kind.coordinates:
        return _vectors(family, kind, places, widths, receiver, sender)
    if family.right == "waves":
        waves = torch.cos(sender @ places.to(sender) + widths[0].to(sender))
        return torch.cat([sender[..., kind.changing], waves, torch.ones_like(waves[..., :1])], -1)
    angles = torch.tensor(kind.angles, device=receiver.device)
    argument = sender - receiver if family.right == "difference" else sender
    plain = [at for at in kind.changing if not kind.angles[at]]
    straight, turning = argument[..., plain], argument[..., angles]
    parts = [straight]
    if family.rich:
        shifted = (straight.unsqueeze(-1) - places[plain]) / widths[plain]
        parts.append(torch.tanh(shifted).flatten(-2))
    if turning.shape[-1]:
        parts += [turning.sin(), turning.cos(), (2 * turning).sin(), (2 * turning).cos()]
    if family.power:  # what a sender of any state does to a receiver's; without functions of this it is a mere constant
        parts.append(torch.ones_like(argument[..., :1]))
    return torch.cat(parts, -1)


def _vectors(family: Family, kind: Kind, places: Tensor, widths: Tensor, receiver: Tensor, sender: Tensor) -> Tensor:
    """Vectors (..., P, V) that turn with the coordinate system."""
    p = kind.coordinates
    apart = sender[..., :p] - receiver[..., :p]
    squared = apart.square().sum(-1)
    sizes = torch.ones_like(squared).unsqueeze(-1)  # (..., V)
    if family.right == "steep":
        sizes = _steep_sizes(squared, places, widths, family.rich)
    elif family.rich:
        sizes = _sizes(squared)
        if family.of_distances:
            sizes = torch.cat([sizes, _reaches(squared, places)], -1)
    sizes = sizes.unsqueeze(-2)
    parts = [apart.unsqueeze(-1) * sizes]
    if family.right == "across":
        if p == 2:
            turned = torch.stack([-apart[..., 1], apart[..., 0]], -1)
        else:
            turned = torch.linalg.cross(apart, sender[..., p:] - receiver[..., p:])
        parts.append(turned.unsqueeze(-1) * sizes)
    if family.right == "moving":
        parts.append((sender[..., p:] - receiver[..., p:]).unsqueeze(-1) * sizes)
    return torch.cat(parts, -1) if len(parts) > 1 else parts[0]


def _sizes(squared: Tensor) -> Tensor:
    """Functions of a squared distance, (...) to (..., V)."""
    near = (squared + 0.01).rsqrt()
    poles = [near, near.square(), near**3, 1 / (squared + 0.1), 1 / (squared + 1.0)]
    hills = [torch.exp(-squared / (2 * width**2)) for width in (0.3, 0.7, 1.5)]
    return torch.stack([torch.ones_like(squared), *poles, *hills]).movedim(0, -1)


def _reaches(squared: Tensor, places: Tensor) -> Tensor:
    """Forces over the distance that end at a place and grow evenly on the way in, (...) to (..., shifts)."""
    distance = squared.sqrt().clamp_min(1e-6).unsqueeze(-1)
    return (places[0] / distance - 1).clamp_min(0)


def _steep_sizes(squared: Tensor, places: Tensor, widths: Tensor, rich: bool) -> Tensor:
    """Powers of the inverse distance, 1 where few come closer; if rich, more, and hills over the distances that occur.

    Powers are products: they take a tenth of the time.
    """
    nearest = places[0, 0]
    near = nearest**2 / (squared + 0.1 * nearest**2)
    root, second, third, fourth = near.sqrt(), near.square(), near**3, near.square().square()
    powers = [torch.ones_like(squared), root, near, root * near, second]  # up to the fourth
    if not rich:
        return torch.stack(powers).movedim(0, -1)
    powers += [third, fourth, root * near * fourth, third * fourth]  # the sixth, eighth, eleventh, fourteenth
    distance = squared.sqrt()
    places_widths = zip(places[0, ::2], widths[0, ::2], strict=True)
    hills = [torch.exp(-((distance - place) / width).square() / 2) for place, width in places_widths]
    return torch.stack([*powers, *hills]).movedim(0, -1)


def own_functions(kind: Kind, states: Tensor) -> Tensor:
    """Functions of scaled states (..., D) of entities themselves: (..., G), or vectors (..., P, G) of coordinates."""
    if kind.coordinates:
        return _own_vectors(kind, states)
    angles = torch.tensor(kind.angles, device=states.device)
    straight, turning = states[..., ~angles], states[..., angles]
    parts = [torch.ones_like(states[..., :1]), straight]
    d = straight.shape[-1]
    if d:
        pairs = torch.combinations(torch.arange(d, device=states.device), 2, True)
        triples = torch.combinations(torch.arange(d, device=states.device), 3, True)
        parts += [straight[..., pairs].prod(-1), straight[..., triples].prod(-1)]
        parts += [straight**4, straight**5, torch.tanh(straight), torch.tanh(2 * straight)]
    if turning.shape[-1]:
        parts += [turning.sin(), turning.cos(), (2 * turning).sin(), (2 * turning).cos()]
    parts += [torch.tanh(3 * (straight - place)) for place in STEPS]
    return torch.cat(parts, -1)


def _own_vectors(kind: Kind, states: Tensor) -> Tensor:
    p = kind.coordinates
    at = states[..., :p]
    parts = [at, at * at.square().sum(-1, keepdim=True)]
    if kind.second_order:
        v = states[..., p:]
        parts += [v, v * v.norm(dim=-1, keepdim=True), v * v.square().sum(-1, keepdim=True)]
    if p == 2:
        parts += [
            torch.stack([-part[..., 1], part[..., 0]], -1) for part in (parts[0], parts[2 if kind.second_order else 1])
        ]
    constant = torch.eye(p, dtype=states.dtype, device=states.device).expand(*states.shape[:-1], p, p)
    if p > 1:
        return torch.cat([torch.stack(parts, -1), constant], -1)
    # A line has two ends, which need not be alike, nor need drag be the same everywhere.
    products = [at * at]
    if kind.second_order:
        products += [at * v, v * v, at * at * v, at * v * v]
    return torch.cat([torch.stack(parts, -1), constant, torch.stack(products, -1)], -1)


def unsaturated(rates: Tensor, seen: Tensor, link: Tensor) -> tuple[Tensor, Tensor]:
    """What rates (..., C) at scaled states (..., D) are saturating functions of, and the slope there, (..., C) each.

        rate = leak (1, s) + size tanh(u / size)

    Args:
        rates: observed.
        seen: states.
        link: leak and size of every channel, (C, D + 2).
    """
    size = link[:, -1]
    share = ((rates - link[:, 0] - seen @ link[:, 1:-1].mT) / size).clamp(-SATURATED, SATURATED)
    return size * torch.atanh(share), 1 - share.square()


def saturated(sums: Tensor, seen: Tensor, link: Tensor) -> Tensor:
    """Rates (..., C) from what acts, the inverse of `unsaturated`."""
    return link[:, 0] + seen @ link[:, 1:-1].mT + link[:, -1] * torch.tanh(sums / link[:, -1])


def cubics(states: Tensor, places: tuple[float, ...] = PLACES) -> Tensor:
    """Values (B, N, Q, L, D) at places within each interval of states (B, N, T, D), on cubics through four frames."""
    t = states.shape[2]
    first = (torch.arange(t - 1, device=states.device) - 1).clamp(0, t - 4)
    u = torch.tensor(places, dtype=states.dtype, device=states.device)
    at = torch.arange(t - 1, device=states.device) - first + u.unsqueeze(1)  # (Q, L), in frames since `first`
    value = torch.zeros((), dtype=states.dtype, device=states.device)
    for k in range(4):
        weight = torch.ones_like(at)
        for other in range(4):
            if other != k:
                weight = weight * (at - other) / (k - other)
        value = value + weight.unsqueeze(-1) * states[:, :, first + k].unsqueeze(2)
    return value
