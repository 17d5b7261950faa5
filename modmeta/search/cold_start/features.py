"""Features of pairs and of entities: what shared laws are linear in.

A family says what a message may depend on. Its pair features are `left` x `right`, functions of the receiver times
functions of the sender or of both; all are averaged over the nodes of a quadrature.

Letters: B tasks, N entities, S senders, Q nodes, L intervals, D features of a state, P coordinates, C channels, H left
and V right features, G own features.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from modmeta.search.cold_start.grams import Columns
from modmeta.search.cold_start.weak_form import Kind, Steps

__all__ = ["Basis", "Family", "columns", "families", "fit_basis"]

SHIFTS = 12  # shifted tanh of each feature in a rich family


class Family(NamedTuple):
    """What a message depends on.

    Attributes:
        name: in words.
        right: `sender`, `difference`, or for coordinates `line` (along the line), `steep` (along it, by functions
            placed where distances are, powers of the inverse among them), `across` (also across it), `moving` (also
            velocities relative to the receiver's, along all directions).
        rich: many functions of each argument instead of one.
        power: the highest power of the receiver's state on the left.
        growth: explain rates of growth (increments of logarithms) of positive states.
    """

    name: str
    right: str
    rich: bool = False
    power: int = 0
    growth: bool = False


class Basis(NamedTuple):
    """A family with its functions' places, as the data have them, and its whitening.

    Attributes:
        family: what a message depends on.
        places: centres of shifted functions, (D, SHIFTS); of steep ones distances, (1, SHIFTS).
        widths: theirs, of the same shape.
        left: whitening of left features, (H', H).
        right: whitening of right features, (V', V).
        spread: root mean squares of the unwhitened principal components, (V,), largest first.
    """

    family: Family
    places: Tensor
    widths: Tensor
    left: Tensor
    right: Tensor
    spread: Tensor


def families(kind: Kind, positive: bool) -> list[Family]:
    """Families worth trying, cheapest first; `positive` where no state is zero or less."""
    if kind.coordinates:
        found = [Family("springs", "line"), Family("along the line", "line", True)]
        if kind.coordinates == 2:
            found.append(Family("along and across the line", "across", True))
        if kind.second_order:
            found.append(Family("relative velocity", "moving"))
            found.append(Family("line and relative velocity", "moving", True))
        return [*found, Family("steep along the line", "steep", True)]
    found = [Family("difference", "difference"), Family("sender", "sender")]
    if not all(kind.angles):
        found.append(Family("rich sender", "sender", True))
        if positive:
            found.append(Family("growth, rich sender", "sender", True, growth=True))
        found.append(Family("receiver x sender", "sender", False, 2))
        found.append(Family("receiver x rich sender", "sender", True, 2))
        found.append(Family("rich difference", "difference", True))
    return found


def fit_basis(family: Family, kind: Kind, steps: Steps) -> Basis:
    """Places the functions of a family where the data are, and whitens them."""
    nodes, d = steps.nodes, steps.nodes.shape[-1]
    places, widths = _places(_arguments(family, kind, nodes))
    one = torch.eye(1, dtype=nodes.dtype, device=nodes.device)
    raw = Basis(family, places, widths, one, one, one[0])
    receiver, sender = _ends(nodes)
    left = _left(raw, kind, receiver)
    h = left.shape[-1]
    whiten_left, _ = _whitening(left.flatten(0, -2))
    right = _average(_right(raw, kind, receiver, sender), steps.quadrature)
    right = right - right.mean(3, keepdim=True)
    whiten_right, spread = _whitening(right.flatten(0, -2))
    if h == 1:
        whiten_left = one
    if not kind.coordinates:
        whiten_left = torch.block_diag(*[whiten_left] * d)
    return raw._replace(left=whiten_left, right=whiten_right, spread=spread)


def _arguments(family: Family, kind: Kind, nodes: Tensor) -> Tensor:
    """What functions are of, (samples, D): states, their differences, or distances."""
    argument = nodes.mean(2).flatten(0, 2)
    if family.right in ("difference", "steep"):
        receiver, sender = _ends(nodes)
        argument = (sender - receiver)[:, :, :, 0].flatten(0, -2)
    if family.right == "steep":
        argument = argument[:, : kind.coordinates].norm(dim=-1, keepdim=True)
        argument = argument[argument[:, 0] > 0]
    return argument[:: max(1, len(argument) // 50_000)]


def _places(argument: Tensor) -> tuple[Tensor, Tensor]:
    """Centres and widths of shifted functions: between even steps and quantiles."""
    levels = torch.linspace(0.02, 0.98, SHIFTS, dtype=argument.dtype, device=argument.device)
    quantiles = argument.quantile(levels, 0).mT  # (D, SHIFTS)
    even = quantiles[:, :1] + (quantiles[:, -1:] - quantiles[:, :1]) * (levels - 0.02) / 0.96
    places = (quantiles + even) / 2
    widths = (1.5 * (quantiles[:, -1:] - quantiles[:, :1]) / SHIFTS).expand_as(places).clamp_min(1e-9)
    return places, widths


def columns(basis: Basis, kind: Kind, steps: Steps) -> Columns:
    """Features and targets of every receiver, (E = B N, ...)."""
    receiver, sender = _ends(steps.nodes)
    right = _right(basis, kind, receiver, sender) @ basis.right  # (B, N, S, Q, L, [P,] V')
    c = steps.targets.shape[-1]
    if kind.coordinates:
        pair = _average(right, steps.quadrature)
    else:
        left = _left(basis, kind, receiver)  # (B, N, 1, Q, L, H)
        h = left.shape[-1]
        both = _average((left.unsqueeze(-1) * right.unsqueeze(-2)).flatten(-2), steps.quadrature)
        both = both.unflatten(-1, (h, -1))  # (B, N, S, L, H, V')
        turn = basis.left.view(c, h, -1)  # channel and left feature to whitened left
        pair = torch.einsum("bnslhv,chk->bnslckv", both, turn).flatten(-2)
    own = _average(_own(kind, steps.nodes), steps.quadrature, 2)
    if not kind.coordinates:
        own = torch.einsum("bnlg,cd->bnlcdg", own, torch.eye(c, dtype=own.dtype, device=own.device)).flatten(-2)
    weight = steps.seen.unsqueeze(-1) * steps.weight
    others = _ends(steps.seen.unsqueeze(2).unsqueeze(-1))[1][:, :, :, 0, :, 0]  # (B, N, S, L)
    pair = pair * others[..., None, None]
    return Columns(pair.flatten(0, 1), own.flatten(0, 1), steps.targets.flatten(0, 1), weight.flatten(0, 1))


def _ends(nodes: Tensor) -> tuple[Tensor, Tensor]:
    """Receivers (B, N, 1, ...) and their senders (B, N, S, ...)."""
    n = nodes.shape[1]
    index = torch.arange(n, device=nodes.device)
    others = torch.arange(n - 1, device=nodes.device)
    others = others + (others >= index.unsqueeze(1)).long()
    return nodes.unsqueeze(2), nodes[:, others]


def _average(features: Tensor, quadrature: Tensor, at: int = 3) -> Tensor:
    if features.shape[at] == 1:
        return features.squeeze(at)
    return torch.tensordot(features.movedim(at, 0), quadrature, ([0], [0]))


def _whitening(rows: Tensor) -> tuple[Tensor, Tensor]:
    second = rows.mT @ rows / max(len(rows), 1)
    size = second.diagonal().clamp_min(1e-30).sqrt()
    values, vectors = torch.linalg.eigh(second / size / size.unsqueeze(1))
    keep = values > values[-1] * 1e-9
    values, vectors = values[keep].flip(0), vectors[:, keep].flip(1)
    return vectors / size.unsqueeze(1) / values.sqrt(), values.sqrt()


def _left(basis: Basis, kind: Kind, receiver: Tensor) -> Tensor:
    """Powers of the receiver's features, (..., H)."""
    parts = [torch.ones_like(receiver[..., :1])]
    if not kind.coordinates:
        parts += [receiver**power for power in range(1, basis.family.power + 1)]
    return torch.cat(parts, -1)


def _right(basis: Basis, kind: Kind, receiver: Tensor, sender: Tensor) -> Tensor:
    if kind.coordinates:
        return _vectors(basis, kind, receiver, sender)
    angles = torch.tensor(kind.angles, device=receiver.device)
    argument = sender - receiver if basis.family.right == "difference" else sender
    straight, turning = argument[..., ~angles], argument[..., angles]
    parts = [straight]
    if basis.family.rich:
        shifted = (straight.unsqueeze(-1) - basis.places[~angles]) / basis.widths[~angles]
        parts.append(torch.tanh(shifted).flatten(-2))
    if turning.shape[-1]:
        parts += [turning.sin(), turning.cos(), (2 * turning).sin(), (2 * turning).cos()]
    return torch.cat(parts, -1)


def _vectors(basis: Basis, kind: Kind, receiver: Tensor, sender: Tensor) -> Tensor:
    """Vectors (..., P, V) that turn with the coordinate system."""
    p = kind.coordinates
    apart = sender[..., :p] - receiver[..., :p]
    squared = apart.square().sum(-1, keepdim=True)
    family = basis.family
    sizes = torch.ones_like(squared)  # (..., V)
    if family.right == "steep":
        sizes = _steep_sizes(squared, basis)
    elif family.rich:
        sizes = _sizes(squared)
    sizes = sizes.unsqueeze(-2)
    parts = [apart.unsqueeze(-1) * sizes]
    if family.right == "across":
        turned = torch.stack([-apart[..., 1], apart[..., 0]], -1)
        parts.append(turned.unsqueeze(-1) * sizes)
    if family.right == "moving":
        parts.append((sender[..., p:] - receiver[..., p:]).unsqueeze(-1) * sizes)
    return torch.cat(parts, -1)


def _sizes(squared: Tensor) -> Tensor:
    """Functions of a squared distance, (..., 1) to (..., V)."""
    poles = [(squared + soft) ** (-power / 2) for power, soft in ((1, 0.01), (2, 0.01), (3, 0.01), (2, 0.1), (2, 1.0))]
    hills = [torch.exp(-squared / (2 * width**2)) for width in (0.3, 0.7, 1.5)]
    return torch.cat([torch.ones_like(squared), *poles, *hills], -1)


def _steep_sizes(squared: Tensor, basis: Basis) -> Tensor:
    """Powers of the inverse distance, 1 where few come closer, and hills over the distances that occur."""
    nearest = basis.places[0, 0]
    near = nearest**2 / (squared + 0.1 * nearest**2)
    poles = [near ** (power / 2) for power in (1, 2, 3, 4, 6, 8, 11, 14)]
    hills = torch.exp(-((squared.sqrt() - basis.places[0]) / basis.widths[0]).square() / 2)
    return torch.cat([torch.ones_like(squared), *poles, hills[..., ::2]], -1)


def _own(kind: Kind, nodes: Tensor) -> Tensor:
    """Features of entities themselves: (B, N, Q, L, P, G) for coordinates, else (B, N, Q, L, G)."""
    if kind.coordinates:
        return _own_vectors(kind, nodes)
    angles = torch.tensor(kind.angles, device=nodes.device)
    straight, turning = nodes[..., ~angles], nodes[..., angles]
    parts = [torch.ones_like(nodes[..., :1]), straight]
    d = straight.shape[-1]
    if d:
        pairs = torch.combinations(torch.arange(d, device=nodes.device), 2, True)
        triples = torch.combinations(torch.arange(d, device=nodes.device), 3, True)
        parts += [straight[..., pairs].prod(-1), straight[..., triples].prod(-1)]
        parts += [straight**4, straight**5, torch.tanh(straight), torch.tanh(2 * straight)]
    if turning.shape[-1]:
        parts += [turning.sin(), turning.cos(), (2 * turning).sin(), (2 * turning).cos()]
    return torch.cat(parts, -1)


def _own_vectors(kind: Kind, nodes: Tensor) -> Tensor:
    p = kind.coordinates
    at = nodes[..., :p]
    parts = [at, at * at.square().sum(-1, keepdim=True)]
    if kind.second_order:
        v = nodes[..., p:]
        parts += [v, v * v.norm(dim=-1, keepdim=True), v * v.square().sum(-1, keepdim=True)]
    if p == 2:
        parts += [
            torch.stack([-part[..., 1], part[..., 0]], -1) for part in (parts[0], parts[2 if kind.second_order else 1])
        ]
    constant = torch.eye(p, dtype=nodes.dtype, device=nodes.device).expand(*nodes.shape[:-1], p, p)
    return torch.cat([torch.stack(parts, -1), constant], -1)
