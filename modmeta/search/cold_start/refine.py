"""Laws and weights together: Levenberg-Marquardt on the projected problem, many starts in one batch.

Every edge has R real weights, one for each shared law; a law's coefficients are `left` x `right`, an outer product (a
function of the receiver times a function of the sender; `left` of length 1 leaves a law that is linear in the
features). Given laws and own part, weights are
solved in closed form and drop out (variable projection: Golub and Pereyra 1973, with Kaufman's Jacobian).

Letters: P starts, E receivers, S senders, R laws, F = H V features (H on the left, V on the right), G own features.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from modmeta.search.cold_start.grams import Grams

STILL = 1e-5  # share of the loss that a step gains, below which a start has arrived

__all__ = ["Laws", "laws_of", "refine", "solve_own", "solve_weights"]


class Laws(NamedTuple):
    """Starts of shared laws.

    Attributes:
        left: (P, R, H), of unit length.
        right: (P, R, V), of unit length.
        own: coefficients of the own part, (P, G).
        loss: sum of squares left, (P,).
        damping: of the next step, (P,).
    """

    left: Tensor
    right: Tensor
    own: Tensor
    loss: Tensor
    damping: Tensor

    @property
    def coefficients(self) -> Tensor:
        """Of every law, (P, R, F)."""
        return (self.left.unsqueeze(-1) * self.right.unsqueeze(-2)).flatten(-2)

    def select(self, starts: Tensor) -> "Laws":
        """Some of the starts."""
        return Laws(*(part[starts] for part in self))


class _Solved(NamedTuple):
    weights: Tensor  # (P, E, S, R)
    mean: Tensor  # that ridge pulls them to, (P, R)
    loss: Tensor  # (P,)
    sent: Tensor  # pair features with messages, (P, R, E, S, S', F)
    cross: Tensor  # messages with [own, target], (P, E, S R, G + 1)
    inverse: Tensor  # of the messages' Gram matrix, (P, E, S R, S R)


def solve_own(total: Tensor, ridge: float = 1e-9) -> Tensor:
    """Coefficients (G,) of the own part without relations, from sums (G + 1, G + 1) of [own, target] with itself."""
    normal, right = total[:-1, :-1], total[:-1, -1]
    size = normal.diagonal().clamp_min(1e-12)
    return torch.linalg.solve(normal + torch.diag(ridge * size), right)


def laws_of(left: Tensor, right: Tensor, own: Tensor) -> Laws:
    """Laws from coefficients, scaled to unit length, loss not known."""
    left, right = _unit(left), _unit(right)
    infinite = torch.full(left.shape[:1], float("inf"), dtype=left.dtype, device=left.device)
    return Laws(left, right, own.expand(len(left), -1), infinite, torch.full_like(infinite, 1e-2))


def solve_weights(grams: Grams, laws: Laws, ridge: float, mean: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Weights (P, E, S, R) of every edge, and the mean (P, R) that ridge pulls them to, or pulled if given."""
    solved = _solve(grams, laws, ridge, mean)
    return solved.weights, solved.mean


def refine(grams: Grams, laws: Laws, iterations: int, ridge: float = 1e-6) -> Laws:
    """Moves every start downhill.

    Args:
        grams: of the receivers.
        laws: starts.
        iterations: number of Levenberg-Marquardt steps, at most; they end where steps that are taken gain nothing more.
        ridge: pull of every weight to their mean, as a share of a message's mean sum of squares.
    """
    solved = _solve(grams, laws, ridge)
    laws = laws._replace(loss=solved.loss)
    still = torch.zeros_like(solved.loss, dtype=torch.bool)
    for _ in range(iterations):
        if bool(still.all()):
            break
        moved = _step(grams, laws, solved)
        again = _solve(grams, moved, ridge)
        better = again.loss < laws.loss
        still |= better & (again.loss > laws.loss * (1 - STILL))
        damping = torch.where(better, laws.damping / 4, laws.damping * 6).clamp(1e-9, 1e9)
        laws = Laws(*(_choose(better, new, old) for new, old in zip(moved, laws, strict=True)))
        laws = laws._replace(loss=torch.where(better, again.loss, solved.loss), damping=damping)
        solved = _Solved(
            _choose(better, again.weights, solved.weights),
            _choose(better, again.mean, solved.mean),
            laws.loss,
            _choose(better, again.sent, solved.sent),
            _choose(better, again.cross, solved.cross),
            _choose(better, again.inverse, solved.inverse),
        )
    return laws


def _choose(better: Tensor, new: Tensor, old: Tensor) -> Tensor:
    return torch.where(better.view(-1, *[1] * (new.dim() - 1)), new, old)


def _unit(vector: Tensor) -> Tensor:
    return vector / vector.norm(dim=-1, keepdim=True).clamp_min(1e-30)


def _solve(grams: Grams, laws: Laws, ridge: float, mean: Tensor | None = None) -> _Solved:
    a = laws.coefficients
    p, r, f = a.shape
    e, s = grams.cross.shape[:2]
    sent = grams.through(a.view(p * r, f)).view(p, r, e, s, s, f)
    both = torch.einsum("prestf,pqf->pesqtr", sent, a).reshape(p, e, s * r, s * r)
    rest = (a.view(p * r, f) @ grams.cross).view(e, s, p, r, -1)
    cross = rest.permute(2, 0, 1, 3, 4).reshape(p, e, s * r, -1)
    own = torch.cat([-laws.own, torch.ones_like(laws.own[:, :1])], -1)
    right = (cross @ own.view(p, 1, -1, 1)).squeeze(-1)
    penalty = ridge * both.diagonal(dim1=-2, dim2=-1).mean((-2, -1)) + 1e-30
    eye = torch.eye(s * r, dtype=both.dtype, device=both.device)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky_ex(both + eye * penalty.view(p, 1, 1, 1))[0])
    weights = (inverse @ right.unsqueeze(-1)).squeeze(-1)
    # the mean that all weights are pulled to: what is least in sum, in closed form
    to_mean = penalty.view(p, 1, 1, 1) * inverse.view(p, e, s * r, s, r).sum(3)  # (P, E, S R, R)
    if mean is None:
        kept = eye[:r, :r] * (e * s * (1 + 1e-9)) - to_mean.view(p, e, s, r, r).sum((1, 2))
        total = weights.view(p, e, s, r).sum((1, 2)).unsqueeze(-1)
        mean = torch.linalg.solve_ex(kept, total)[0].squeeze(-1)
    weights = weights + (to_mean @ mean.view(p, 1, r, 1)).squeeze(-1)
    loss = torch.einsum("px,xy,py->p", own, grams.own.sum(0), own) - (weights * right).sum((-2, -1))
    loss = loss + penalty * (mean * (mean * e * s - weights.view(p, e, s, r).sum((1, 2)))).sum(-1)
    loss = torch.where(loss.isfinite(), loss, torch.full_like(loss, float("inf")))
    return _Solved(weights.view(p, e, s, r), mean, loss, sent, cross, inverse)


def _step(grams: Grams, laws: Laws, solved: _Solved) -> Laws:
    p, r, h = laws.left.shape
    v = laws.right.shape[-1]
    f, g = h * v, laws.own.shape[-1]
    e, s = grams.cross.shape[:2]
    w, cross = solved.weights, solved.cross
    own = torch.cat([-laws.own, torch.ones_like(laws.own[:, :1])], -1)
    # Gauss-Newton matrix of coefficients and own part, messages projected out
    products = torch.einsum("pesr,petq->prqest", w, w).reshape(p * r * r, -1)
    second = grams.within(products).view(p, r, r, f, f).transpose(2, 3).reshape(p, r * f, r * f)
    mixed = w.permute(0, 3, 1, 2).reshape(p * r, e * s) @ grams.cross.reshape(e * s, -1)  # a slice is copied
    mixed = mixed.view(p, r * f, g + 1)
    # residual with features of pairs and with own features
    slope = (mixed @ own.unsqueeze(-1) - second @ laws.coefficients.view(p, r * f, 1)).squeeze(-1)
    mixed = mixed[..., :g]
    slope_own = own @ grams.own.sum(0)[:, :g] - torch.einsum("pek,pekg->pg", w.flatten(2), cross[..., :g])
    inner = torch.einsum("pesr,pqestf->petqrf", w, solved.sent).reshape(p, e, s * r, r, h, v)
    by_left = torch.einsum("pekrhv,prv->pekrh", inner, laws.right).flatten(3)
    by_right = torch.einsum("pekrhv,prh->pekrv", inner, laws.left).flatten(3)
    columns = torch.cat([by_left, by_right, cross[..., :g]], -1)  # messages with factors and own part, (P, E, S R, ...)
    whole = torch.cat(
        [torch.cat([second, mixed], -1), torch.cat([mixed.mT, grams.own.sum(0)[:g, :g].expand(p, g, g)], -1)], 1
    )
    into = _factors(laws)  # from coefficients to their factors
    normal = into.mT @ whole @ into - columns.flatten(1, 2).mT @ (solved.inverse @ columns).flatten(1, 2)
    right = (into.mT @ torch.cat([slope, slope_own], -1).unsqueeze(-1)).squeeze(-1)
    diagonal = normal.diagonal(dim1=-2, dim2=-1)
    floor = diagonal.amax(-1, keepdim=True) * 1e-8 + 1e-30
    damped = normal + torch.diag_embed(laws.damping.unsqueeze(-1) * diagonal.clamp_min(0) + floor)
    move = torch.linalg.solve_ex(damped, right)[0]
    move = torch.where(move.isfinite(), move, torch.zeros_like(move))
    left = _unit(laws.left + move[:, : r * h].view(p, r, h))
    right_ = _unit(laws.right + move[:, r * h : r * (h + v)].view(p, r, v))
    return Laws(left, right_, laws.own + move[:, r * (h + v) :], laws.loss, laws.damping)


def _factors(laws: Laws) -> Tensor:
    """Derivatives (P, R H V + G, R H + R V + G) of coefficients by their factors; the own part is itself."""
    p, r, h = laws.left.shape
    v, g = laws.right.shape[-1], laws.own.shape[-1]
    into = laws.left.new_zeros(p, r, h, v, r * (h + v) + g)
    eye = torch.eye(max(h, v, g), dtype=into.dtype, device=into.device)
    for law in range(r):
        into[:, law, :, :, law * h : (law + 1) * h] = torch.einsum("pv,hk->phvk", laws.right[:, law], eye[:h, :h])
        first = r * h + law * v
        into[:, law, :, :, first : first + v] = torch.einsum("ph,vk->phvk", laws.left[:, law], eye[:v, :v])
    own = torch.cat([into.new_zeros(g, r * (h + v)), eye[:g, :g]], -1).expand(p, -1, -1)
    return torch.cat([into.flatten(1, 3), own], 1)
