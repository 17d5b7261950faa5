"""Features of pairs and of entities: what shared laws are linear in.

A family says what a message may depend on. Its pair features are `left` x `right`, functions of the receiver times
functions of the sender or of both; all are averaged over the nodes of a quadrature.

Letters: B tasks, N entities, S senders, Q nodes, L intervals, D features of a state, P coordinates, C channels, H left
and V right features, G own features.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from modmeta.graph.relations import undirected_pairs
from modmeta.model.basis import (
    MAPPED,
    STEPS,
    Family,
    Kind,
    coarser,
    families,
    family_named,
    finer,
    left_functions,
    own_functions,
    right_functions,
)
from modmeta.search.cold_start.grams import Columns
from modmeta.search.cold_start.weak_form import Steps
from modmeta.search.maps import waves

__all__ = ["MAPPED", "Basis", "Family", "coarser", "columns", "families", "family_named", "finer", "fit_basis"]

LEAST, SMOOTH = 1e-9, 1e-6  # share of the largest variance that functions have; of waves, which are much alike
MANY = 4000  # intervals of all receivers, from which on own functions are steep


class Basis(NamedTuple):
    """A family with its functions' places, as the data have them, and its whitening.

    Attributes:
        family: what a message depends on.
        places: centres of shifted functions, (D, shifts); or distances, (1, shifts).
        widths: theirs, of the same shape.
        left: whitening of left features, (H', H).
        right: whitening of right features, (V', V).
        spread: root mean squares of the unwhitened principal components, (V,), largest first.
        steep: whether entities' own functions have steep steps, too (`modmeta.model.basis.STEPS`). Fitted to few
            intervals these foretell others badly.
    """

    family: Family
    places: Tensor
    widths: Tensor
    left: Tensor
    right: Tensor
    spread: Tensor
    steep: bool = True


def fit_basis(
    family: Family,
    kind: Kind,
    steps: Steps,
    steepness: Sequence[float] | None = None,
    places: Tensor | None = None,
) -> Basis:
    """Places the functions of a family where the data are, and whitens them.

    Args:
        family: of functions.
        kind: what features are.
        steps: the data.
        steepness: of waves along every feature; None for one turn in about six standard deviations.
        places: of functions, (A, F); None for where the data are.
    """
    nodes, c = steps.nodes, steps.targets.shape[-1]
    if family.right == "waves":
        usual, phases = (part.to(nodes) for part in waves(steepness or (1.0,) * nodes.shape[-1]))
        widths = phases.expand_as(usual)
    else:
        usual, widths = _places(_arguments(family, kind, nodes), family.shifts)
    places = usual if places is None else places
    one = torch.eye(1, dtype=nodes.dtype, device=nodes.device)
    raw = Basis(family, places, widths, one, one, one[0])
    receiver, sender = _ends(nodes)
    left = left_functions(family, kind, receiver)
    h = left.shape[-1]
    whiten_left, _ = _whitening(left.flatten(0, -2))
    if kind.coordinates:
        right = _between(raw, kind, steps, None)
    else:
        right = _average(right_functions(family, kind, places, widths, receiver, sender), steps.quadrature)
    constant = family.power > 0 or family.right == "waves"
    if constant:
        right = right[..., :-1]
    mean = right.mean((0, 1, 2, 3)) if family.right == "waves" else right.mean(3, keepdim=True)
    least = SMOOTH if family.right == "waves" else LEAST
    whiten_right, spread = _whitening((right - mean).flatten(0, -2), least)
    if family.right == "waves":  # of mean zero: what many senders send together would be a constant
        whiten_right = torch.cat([whiten_right, -(mean @ whiten_right).unsqueeze(0)])
    elif constant:
        whiten_right, spread = torch.block_diag(whiten_right, one), torch.cat([spread, spread[:1]])
    if h == 1:
        whiten_left = one
    if not kind.coordinates:
        whiten_left = torch.block_diag(*[whiten_left] * c)
    steep = steps.targets[..., 0].numel() >= MANY
    return raw._replace(left=whiten_left, right=whiten_right, spread=spread, steep=steep)


def _arguments(family: Family, kind: Kind, nodes: Tensor) -> Tensor:
    """What functions are of, (samples, D): states, their differences, or distances."""
    argument = nodes.mean(2).flatten(0, 2)
    if family.right == "difference" or family.of_distances:
        receiver, sender = _ends(nodes)
        argument = (sender - receiver)[:, :, :, 0].flatten(0, -2)
    if family.of_distances:
        argument = argument[:, : kind.coordinates].norm(dim=-1, keepdim=True)
        argument = argument[argument[:, 0] > 0]
    return argument[:: max(1, len(argument) // 50_000)]


def _places(argument: Tensor, shifts: int) -> tuple[Tensor, Tensor]:
    """Centres and widths of shifted functions: between even steps and quantiles."""
    levels = torch.linspace(0.02, 0.98, shifts, dtype=argument.dtype, device=argument.device)
    quantiles = argument.quantile(levels, 0).mT  # (D, shifts)
    even = quantiles[:, :1] + (quantiles[:, -1:] - quantiles[:, :1]) * (levels - 0.02) / 0.96
    places = (quantiles + even) / 2
    widths = (1.5 * (quantiles[:, -1:] - quantiles[:, :1]) / shifts).expand_as(places).clamp_min(1e-9)
    return places, widths


def columns(
    basis: Basis,
    kind: Kind,
    steps: Steps,
    receivers: Tensor | None = None,
    slopes: bool = False,
    shapes: Tensor | None = None,
) -> Columns:
    """Features and targets of every receiver, (E = B N, ...), or of some receivers of every task.

    Args:
        basis: functions of pairs.
        kind: what features are.
        steps: intervals.
        receivers: which; None for all.
        slopes: with states, in which entities have slopes of their own.
        shapes: with functions that they have of sizes of their own, (C, G); None for none.
    """
    some = slice(None) if receivers is None else receivers
    c = steps.targets.shape[-1]
    if kind.coordinates:
        pair = _between(basis, kind, steps, basis.right, receivers)
    else:
        receiver, sender = _ends(steps.nodes, some)
        right = right_functions(basis.family, kind, basis.places, basis.widths, receiver, sender) @ basis.right
        left = left_functions(basis.family, kind, receiver)  # (B, N, 1, Q, L, H)
        h = left.shape[-1]
        left = left @ basis.left[:h, : basis.left.shape[1] // c]  # every channel has the same
        pair = _average((left.unsqueeze(-1) * right.unsqueeze(-2)).flatten(-2), steps.quadrature).unsqueeze(-2)
    own = _average(own_functions(kind, steps.nodes[:, some]), steps.quadrature, 2)
    if not (basis.steep or kind.coordinates):
        own[..., own.shape[-1] - len(STEPS) * kind.angles.count(False) :] = 0
    alone = _alone(kind, steps, some, own, slopes, shapes).flatten(0, 1) if slopes or shapes is not None else None
    if not kind.coordinates:
        own = torch.einsum("bnlg,cd->bnlcdg", own, torch.eye(c, dtype=own.dtype, device=own.device)).flatten(-2)
    weight = (steps.seen.unsqueeze(-1) * steps.weight)[:, some]
    others = _ends(steps.seen.unsqueeze(2).unsqueeze(-1), some)[1][:, :, :, 0, :, 0]  # (B, N, S, L)
    pair = pair * others[..., None, None]
    targets = steps.targets[:, some]
    pair, own, targets, weight = (part.flatten(0, 1) for part in (pair, own, targets, weight))
    return Columns(pair, own, targets, weight, apart=not kind.coordinates, alone=alone)


def _alone(kind: Kind, steps: Steps, some: Tensor | slice, own: Tensor, slopes: bool, shapes: Tensor | None) -> Tensor:
    """One, states that are no angles, and shapes of own functions (B, N, L, G): (B, N, L, C, A), alike for all channels
    without shapes, (B, N, L, 1, A).
    """
    straight = _average(steps.nodes[:, some][..., ~torch.tensor(kind.angles, device=own.device)], steps.quadrature, 2)
    parts = [torch.ones_like(straight[..., :0].sum(-1, keepdim=True)), *([straight] if slopes else [])]
    alike = torch.cat(parts, -1).unsqueeze(-2)
    if shapes is None:
        return alike
    each = (own @ shapes.mT).unsqueeze(-1)  # (B, N, L, C, 1)
    return torch.cat([alike.expand(*each.shape[:-1], -1), each], -1)


def _between(
    basis: Basis, kind: Kind, steps: Steps, whitening: Tensor | None, receivers: Tensor | None = None
) -> Tensor:
    """Vectors (B, N, S, L, P, V) of coordinates, averaged over nodes; once of a pair where both ends have the same."""
    n, turns = steps.nodes.shape[1], basis.family.right == "across" and kind.coordinates == 3
    directed = turns or receivers is not None
    first, second, pair, sign = undirected_pairs(n, steps.nodes.device)
    if directed:
        ends = _ends(steps.nodes, slice(None) if receivers is None else receivers)
    else:
        ends = steps.nodes[:, first], steps.nodes[:, second]
    sent: Tensor | float = 0.0
    for q, weight in enumerate(steps.quadrature):  # one after the other, for memory
        one, other = (end.select(-3, q) for end in ends)
        sent = sent + weight * right_functions(basis.family, kind, basis.places, basis.widths, one, other)
    assert isinstance(sent, Tensor)
    sent = sent if whitening is None else sent @ whitening
    return sent if directed else sent[:, pair] * sign.view(n, n - 1, 1, 1, 1)


def _ends(nodes: Tensor, some: Tensor | slice = slice(None)) -> tuple[Tensor, Tensor]:
    """Receivers (B, N, 1, ...), or some of them, and their senders (B, N, S, ...)."""
    n = nodes.shape[1]
    index = torch.arange(n, device=nodes.device)
    others = torch.arange(n - 1, device=nodes.device)
    others = others + (others >= index.unsqueeze(1)).long()
    return nodes[:, some].unsqueeze(2), nodes[:, others[some]]


def _average(features: Tensor, quadrature: Tensor, at: int = 3) -> Tensor:
    if features.shape[at] == 1:
        return features.squeeze(at)
    return torch.tensordot(features.movedim(at, 0), quadrature, ([0], [0]))


def _whitening(rows: Tensor, least: float = LEAST) -> tuple[Tensor, Tensor]:
    second = rows.mT @ rows / max(len(rows), 1)
    size = second.diagonal().clamp_min(1e-30).sqrt()
    values, vectors = torch.linalg.eigh(second / size / size.unsqueeze(1))
    keep = values > values[-1] * least
    values, vectors = values[keep].flip(0), vectors[:, keep].flip(1)
    return vectors / size.unsqueeze(1) / values.sqrt(), values.sqrt()
