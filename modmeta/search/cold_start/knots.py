"""Distances at which forces end or bend, found from residuals: knots of splines (Friedman 1991).

A force that ends at a distance is exact only where a function ends at just this distance. All functions of one
distance each are tried, and the one moved there that explains most of what is left.

Letters: B tasks, N entities, E = B N receivers, S senders, L intervals, P coordinates, K kinds, F features of a pair,
G own features, M rows, R distances.
"""

import torch
from torch import Tensor

from modmeta.search.cold_start.data import Data, by_task, steps_of, table_of
from modmeta.search.cold_start.features import Basis, fit_basis
from modmeta.search.cold_start.records import Form
from modmeta.search.cold_start.structures import Posterior

__all__ = ["knotted"]

DISTANCES, ZOOMS = 32, 4  # tried at once; grids, each finer than the one before
KNOTS = 3  # at most
GAINS = 0.1  # share of squares left that a knot must explain
QUIET = 0.01  # of the mean square left, below which receivers count alike
SLIGHT = 1e-10  # share of squares that is rounding errors


def knotted(form: Form, search: Data, beliefs: Posterior) -> Form | None:
    """The form with functions that end where forces do, structures believed; None where tasks tell of no such place.

    The nearest function is moved there.
    """
    few = search.part(search.parts()[0])
    basis, slots, taken = form.basis, by_task(beliefs.slots, search), set[int]()
    slots = slots[: len(slots) // len(search.states) * len(few.states)]
    for _ in range(KNOTS):
        place = _best(form._replace(basis=basis), few, slots)
        if place is None:
            break
        apart = (basis.places[0] - place).abs()
        apart[list(taken)] = torch.inf
        taken.add(int(apart.argmin()))
        places = basis.places.clone()
        places[0, int(apart.argmin())] = place
        basis = fit_basis(basis.family, form.kind, steps_of(few, form), places=places)
    return form._replace(basis=basis) if taken else None


def _best(form: Form, few: Data, slots: Tensor) -> float | None:
    """The distance whose function explains most of what is left; None if none explains `GAINS` of it."""
    table = table_of(few, form)
    known = torch.cat([table.own, *torch.einsum("esk,eslch->kelch", slots, table.pair)], -1)  # (E, L, C, G + K F)
    target, root = table.target.unsqueeze(-1), table.weight.sqrt().unsqueeze(-1)
    for weighed in range(3):  # receivers whose structures are wrong would be most of what is left
        across = _orthonormal((known * root).flatten(0, 2))
        left = _rest((target * root).flatten(0, 2), across)
        if weighed < 2:
            off = (left.view_as(root) / root.clamp_min(1e-30)).square().mean((1, 2), keepdim=True)
            root = (table.weight.unsqueeze(-1) / (off / off.mean().clamp_min(1e-300) + QUIET)).sqrt()
    low, high = float(form.basis.places[0, 0]) / 2, float(form.basis.places[0, -1])
    best = low
    for _ in range(ZOOMS):
        grid = torch.linspace(max(low, 1e-6), high, DISTANCES, dtype=left.dtype, device=left.device)
        pair = table_of(few, form._replace(basis=_at(form.basis, grid))).pair[..., -DISTANCES:]
        ends = (torch.einsum("esk,eslcr->elckr", slots, pair).flatten(3) * root).flatten(0, 2)
        each = _rest(ends, across)  # (M, K R)
        size = each.square().sum(0)
        trusted = size > SLIGHT * ends.square().sum(0)
        explained = (each.mT @ left).squeeze(-1).square() / size.clamp_min(1e-300) * trusted
        explained = explained.view(-1, DISTANCES).amax(0)
        if not explained.amax() > GAINS * left.square().sum():
            return None
        best, step = float(grid[explained.argmax()]), float(grid[1] - grid[0])
        low, high = best - step, best + step
    return best


def _orthonormal(columns: Tensor) -> Tensor:
    """Orthonormal columns (M, Y) that span those (M, X), some of which may follow from others."""
    columns = columns / columns.square().sum(0).sqrt().clamp_min(1e-150)
    values, vectors = torch.linalg.eigh(columns.mT @ columns)
    told = values > SLIGHT
    return columns @ (vectors[:, told] / values[told].sqrt())


def _rest(of: Tensor, across: Tensor) -> Tensor:
    """What orthonormal columns (M, X) leave of others (M, Y)."""
    return of - across @ (across.mT @ of)


def _at(basis: Basis, places: Tensor) -> Basis:
    """Functions as they are, without whitening, with distances (R,) in place of their own, which come last."""
    count = basis.right.shape[0] - basis.places.shape[1] + len(places)
    right = torch.eye(count, dtype=places.dtype, device=places.device)
    return basis._replace(places=places.unsqueeze(0), widths=torch.ones_like(places).unsqueeze(0), right=right)
