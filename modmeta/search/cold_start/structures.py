"""Structures and the law of each kind: expectation maximisation over a receiver's rows, in closed form.

Letters: B tasks, N entities, E = B N receivers, S senders, K kinds, F features of a pair, G own features, M rows.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from modmeta.search.cold_start.grams import Grams
from modmeta.search.cold_start.refine import Laws
from modmeta.search.relax import decoded

__all__ = [
    "MOST_ROWS",
    "WAVY",
    "Kinds",
    "Posterior",
    "all_rows",
    "as_told",
    "explain",
    "fit_kinds",
    "fit_known",
    "from_labels",
    "requantised",
    "rounds_of",
    "united",
    "with_none",
]

SWEEPS, SETTLED = 4, 1e-6  # over slots, and the change of probabilities at which they end
SLIGHT, LESS = 1e-8, 0.01  # ridge; by which it pulls the own part less, whose functions are many and much alike
WAVY = 1e-3  # ridge of waves: some combinations may be of states that hardly any sender was in
MOST_ROWS = 1024  # more are not enumerated, but told slot by slot


class Kinds(NamedTuple):
    """What was learned of kinds.

    Attributes:
        laws: coefficients of every kind, (K, F).
        own: coefficients of the own part, (G,).
        variance: of a residual.
        pairs: probability of the kinds of an edge and of the edge back, (K, K), symmetric.
    """

    laws: Tensor
    own: Tensor
    variance: Tensor
    pairs: Tensor


class Posterior(NamedTuple):
    """Beliefs in structures.

    Attributes:
        slots: probability of every kind for every edge, (E, S, K).
        second: expected products of indicators, (E, S K, S K).
        evidence: of the receiver's own frames on each slot, the prior divided out, (E, S, K), logarithms.
        squares: expected sum of squared residuals, (E,).
    """

    slots: Tensor
    second: Tensor
    evidence: Tensor
    squares: Tensor


def all_rows(kinds: int, senders: int, device: torch.device | None = None) -> Tensor:
    """All rows (M, S) of kinds."""
    return torch.cartesian_prod(*[torch.arange(kinds, device=device)] * senders).view(-1, senders)


def from_labels(slots: Tensor) -> Posterior:
    """Beliefs in slots (E, S, K) that are independent of one another."""
    e, s, k = slots.shape
    flat = slots.flatten(1)
    apart = (1 - torch.eye(s, dtype=slots.dtype, device=slots.device)).repeat_interleave(k, 0).repeat_interleave(k, 1)
    second = flat.unsqueeze(-1) * flat.unsqueeze(-2) * apart + torch.diag_embed(flat)
    return Posterior(slots, second, slots.clamp_min(1e-12).log(), slots.new_zeros(e))


def as_told(sums: Grams) -> Posterior:
    """Beliefs where senders of a receiver are the kinds themselves, as structures are known (`Data.slots`)."""
    e, k = sums.cross.shape[:2]
    return from_labels(torch.eye(k, dtype=sums.own.dtype, device=sums.own.device).expand(e, k, k))


def fit_known(sums: Grams, slots: Tensor, ridge: float = SLIGHT) -> Kinds:
    """Laws of kinds, structures known: sums of senders by kind, slots (G, N, S, K)."""
    share = slots.mean((0, 1, 2)).clamp_min(1e-6)
    return fit_kinds(sums, as_told(sums), torch.outer(share, share), ridge)


def with_none(kinds: Kinds) -> Kinds:
    """The same with a first kind that sends nothing, as frequent as pairs of the others leave it."""
    share = torch.cat([1 - kinds.pairs.sum().sqrt().unsqueeze(0), kinds.pairs.diagonal().sqrt()]).clamp_min(1e-6)
    laws = torch.cat([torch.zeros_like(kinds.laws[:1]), kinds.laws])
    return kinds._replace(laws=laws, pairs=torch.outer(share, share) / share.sum() ** 2)


def fit_kinds(grams: Grams, beliefs: Posterior, pairs: Tensor, ridge: float = SLIGHT) -> Kinds:
    """Laws of all kinds, pulled to zero by ridge, and the own part by least squares, beliefs given."""
    e, s, k = beliefs.slots.shape
    f, g = grams.cross.shape[2], grams.own.shape[-1] - 1
    moments = beliefs.second.view(e, s, k, s, k).permute(2, 4, 0, 1, 3).reshape(k * k, -1)
    laws = grams.within(moments).view(k, k, f, f).transpose(1, 2).reshape(k * f, k * f)
    cross = torch.einsum("esk,esfx->kfx", beliefs.slots, grams.cross).reshape(k * f, g + 1)
    own = grams.own.sum(0)
    normal = torch.cat([torch.cat([laws, cross[:, :g]], 1), torch.cat([cross[:, :g].mT, own[:g, :g]], 1)])
    right = torch.cat([cross[:, g], own[:g, g]])
    size = normal.diagonal().clamp_min(0)
    pull = torch.cat([ridge * size[: k * f], SLIGHT * LESS * size[k * f :]])
    found = torch.linalg.solve(normal + torch.diag(pull + 1e-12 * size.max()), right)
    left = own[g, g] - 2 * found @ right + found @ normal @ found
    variance = (left / grams.targets.sum()).clamp_min(own[g, g] / grams.targets.sum() * 1e-14)
    return Kinds(found[: k * f].view(k, f), found[k * f :], variance, pairs)


def explain(
    grams: Grams, kinds: Kinds, tasks: int, *, temperature: float = 1.0, rounds: int = 4
) -> tuple[Posterior, Tensor]:
    """Beliefs in the structures of receivers, laws given, and the table of pairs that goes with them.

    A receiver's frames tell about its own row; what they say about an edge is passed on to the edge back through the
    table of pairs (sum-product messages). Where the two have nothing to do with each other, nothing is passed.

    Args:
        grams: of E = tasks x N receivers, or of fewer: then nothing is passed.
        kinds: laws, variance, table.
        tasks: number of tasks.
        temperature: by which log-likelihoods are divided; above 1 where residuals of neighbouring frames agree.
        rounds: of messages.
    """
    e, s = grams.cross.shape[:2]
    k = len(kinds.laws)
    own = torch.cat([-kinds.own, kinds.own.new_ones(1)])
    linear = torch.einsum("esfx,kf,x->esk", grams.cross, kinds.laws, own)
    sent = grams.through(kinds.laws)  # (K, E, S, S, F)
    square = torch.einsum("kestf,lf->esltk", sent, kinds.laws).reshape(e, s * k, s * k)
    alone = torch.einsum("x,exy,y->e", own, grams.own, own)
    scale = 2 * kinds.variance * temperature
    rows: Callable[[Tensor], Posterior]
    if k**s <= MOST_ROWS:
        rows = _Enumerated(linear, square, alone, scale)
    else:
        unit = scale / 2
        begin = decoded(square[None] / unit, linear.flatten(1)[None] / unit, k)[0]
        rows = functools.partial(_slot_by_slot, linear, square, alone, scale, begin)
    pairs = kinds.pairs
    incoming = pairs.sum(1).log().expand(e, s, k)
    posterior = rows(incoming)
    for _ in range(rounds):
        if e != tasks * (s + 1):  # edges back are not among the receivers
            share = posterior.slots.mean((0, 1)).clamp_min(1e-6)
            pairs = torch.outer(share, share) / share.sum() ** 2
            posterior = rows((share / share.sum()).log().expand(e, s, k))
            continue
        back = _transposed(posterior.evidence, tasks)
        joint = (posterior.evidence.unsqueeze(-1) + back.unsqueeze(-2) + pairs.log()).flatten(-2).softmax(-1)
        table = joint.mean((0, 1)).view(k, k)
        pairs = ((table + table.mT) / 2).clamp_min(1e-6)
        pairs = pairs / pairs.sum()
        incoming = (pairs.log() + back.unsqueeze(-2)).logsumexp(-1)
        posterior = rows(incoming.log_softmax(-1))
    return posterior, pairs


def _transposed(slots: Tensor, tasks: int) -> Tensor:
    """What the edge back has, (E, S, ...)."""
    e, s = slots.shape[:2]
    n = e // tasks
    i = torch.arange(n, device=slots.device).unsqueeze(1)
    j = torch.arange(s, device=slots.device).expand(n, s)
    j = j + (j >= i).long()
    place = torch.where(i < j, i, i - 1)
    return slots.view(tasks, n, s, *slots.shape[2:])[:, j, place].reshape(slots.shape)


class _Enumerated:
    """Beliefs under any prior (E, S, K) of slots; energies of all rows are worked out once."""

    def __init__(self, linear: Tensor, square: Tensor, alone: Tensor, scale: Tensor) -> None:
        _, s, k = linear.shape
        self.chosen = torch.nn.functional.one_hot(all_rows(k, s, linear.device), k).to(linear).flatten(1)  # (M, S K)
        self.products = (self.chosen.unsqueeze(-1) * self.chosen.unsqueeze(-2)).flatten(1)
        self.energy = alone.unsqueeze(1) - 2 * linear.flatten(1) @ self.chosen.mT + square.flatten(1) @ self.products.mT
        self.scale = scale

    def __call__(self, prior: Tensor) -> Posterior:
        e, s, k = prior.shape
        probability = (prior.flatten(1) @ self.chosen.mT - self.energy / self.scale).softmax(-1)
        slots = (probability @ self.chosen).view(e, s, k)
        evidence = (slots.clamp_min(1e-30).log() - prior).clamp_min(-60.0)
        second = (probability @ self.products).view(e, s * k, s * k)
        return Posterior(slots, second, evidence, (probability * self.energy).sum(-1).clamp_min(0))


def _slot_by_slot(
    linear: Tensor, square: Tensor, alone: Tensor, scale: Tensor, rows: Tensor, prior: Tensor
) -> Posterior:
    """Mean field, one slot after the other, from rows (E, S) that linear algebra gives."""
    e, s, k = linear.shape
    square = square.view(e, s, k, s, k)
    itself = torch.stack([square[:, :, a].diagonal(dim1=1, dim2=2)[:, a] for a in range(k)], -1)  # (E, S, K)
    q = torch.nn.functional.one_hot(rows, k).to(linear)
    sent = torch.einsum("ejktl,etl->ejk", square, q)  # kept up to date slot by slot
    field = torch.empty_like(linear)
    for _ in range(SWEEPS):
        before = q.clone()
        for j in range(s):
            others = sent[:, j] - (square[:, j, :, j] @ q[:, j].unsqueeze(-1)).squeeze(-1)
            field[:, j] = (2 * linear[:, j] - itself[:, j] - 2 * others) / scale
            new = (field[:, j] + prior[:, j]).softmax(-1)
            sent = sent + torch.einsum("eiml,el->eim", square[:, :, :, j], new - q[:, j])
            q[:, j] = new
        if float((q - before).abs().max()) < SETTLED:
            break
    return Posterior(q, from_labels(q).second, field.clamp_min(-60.0), _energy(linear, square, alone, q).clamp_min(0))


def _energy(linear: Tensor, square: Tensor, alone: Tensor, q: Tensor) -> Tensor:
    """Expected sum of squares (E,) where slots are independent."""
    second = from_labels(q).second.view_as(square)
    return alone - 2 * (linear * q).sum((1, 2)) + (second * square).sum((1, 2, 3, 4))


def requantised(
    grams: Grams, laws: Laws, weights: Tensor, beliefs: Posterior, pairs: Tensor, tasks: int, rounds: int = 6
) -> tuple[Kinds, Posterior]:
    """Beliefs in structures where a kind is a point among the weights: shared laws stay as they are.

    Args:
        grams: of the receivers.
        laws: shared laws, P = 1.
        weights: (E, S, R).
        beliefs: in clusters of weights.
        pairs: table of pairs, (K, K).
        tasks: number of tasks.
        rounds: of new beliefs and new points.

    Returns:
        Kinds whose laws are combinations of the shared ones, and beliefs in them.
    """
    a = laws.coefficients[0]  # (R, F)
    reduced = Grams(
        torch.einsum("restf,qf->estrq", grams.through(a), a).unsqueeze(0),
        torch.einsum("esfx,rf->esrx", grams.cross, a),
        grams.own,
        grams.targets,
    )
    points = torch.einsum("esk,esr->kr", beliefs.slots, weights) / beliefs.slots.sum((0, 1)).clamp_min(1e-9).unsqueeze(
        1
    )
    kinds = fit_kinds(reduced, beliefs, pairs)._replace(laws=points, own=laws.own[0])
    for step in range(rounds):
        if step:
            kinds = fit_kinds(reduced, beliefs, pairs)
        beliefs, pairs = explain(reduced, kinds, tasks)
    return kinds._replace(laws=kinds.laws @ a, pairs=pairs), beliefs


def united(kinds: Kinds, posterior: Posterior, pairs: Tensor, first: int, other: int) -> tuple[Kinds, Posterior]:
    """Beliefs and the table of pairs where two kinds are one; laws are still those of all kinds."""
    into = torch.arange(len(kinds.laws), device=pairs.device)
    into[other] = first
    into = torch.nn.functional.one_hot(into.unique(return_inverse=True)[1]).to(pairs)
    return kinds._replace(pairs=into.mT @ pairs @ into), from_labels(posterior.slots @ into)


def rounds_of(sums: Grams, kinds: Kinds, posterior: Posterior, tasks: int, count: int = 15) -> Kinds:
    """Expectation maximisation from beliefs, until it no longer explains more."""
    pairs, before = kinds.pairs, float("inf")
    for _ in range(count):
        kinds = fit_kinds(sums, posterior, pairs)
        if abs(before - float(kinds.variance)) < 1e-4 * before:
            break
        before = float(kinds.variance)
        posterior, pairs = explain(sums, kinds, tasks)
    return fit_kinds(sums, posterior, pairs)
