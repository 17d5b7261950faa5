"""Structures and the law of each kind: expectation maximisation over a receiver's rows, in closed form.

Letters: B tasks, N entities, E = B N receivers, S senders, K kinds, F features of a pair, G own features, M rows.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from modmeta.graph.relations import from_matrix, to_matrix
from modmeta.search.cold_start.grams import Grams
from modmeta.search.cold_start.refine import Laws
from modmeta.search.relax import decoded

__all__ = [
    "MOST_ROWS",
    "MOST_UNEQUAL",
    "WAVY",
    "Kinds",
    "Posterior",
    "all_rows",
    "as_told",
    "explain",
    "fit_kinds",
    "fit_known",
    "from_labels",
    "from_weights",
    "of_edges",
    "requantised",
    "roles",
    "rounds_of",
    "spread_of",
    "united",
    "with_none",
]

SWEEPS, SETTLED = 4, 1e-6  # over slots, and the change of probabilities at which they end
SLIGHT, LESS = 1e-8, 0.01  # ridge; by which it pulls the own part less, whose functions are many and much alike
WAVY = 1e-3  # ridge of waves: some combinations may be of states that hardly any sender was in
FEWEST, ERRORS = 5, 2.0  # tasks that tell roles; standard deviations by which tables of pairs differ beyond chance
ORDERS = 49  # of entities, all of which must spread tables less: chance gives that in 1 of 50 cases
MOST_ROWS = 1024  # more are not enumerated, but told slot by slot
MOST_UNEQUAL = 256  # of edges whose strengths differ; more are told as if these were alike
MOST_MEAN = 2.0  # of strengths, in one round: laws of a few edges may vanish otherwise
MOST_SPREAD = 0.36  # variance of strengths: more would make a relation of what is nearly none
FAINT, FAINTNESS = 0.04, 0.01  # of the squares of the strongest messages: those of nothing, and the most they vary by
NOTHING, LEAST = 0.0025, 0.03  # of these squares: kinds that trained models take for nothing; by how much these vary


class Kinds(NamedTuple):
    """What was learned of kinds.

    Attributes:
        laws: coefficients of every kind, (K, F).
        own: coefficients of the own part, (G,).
        variance: of a residual.
        pairs: probability of the kinds of an edge and of the edge back, (K, K), symmetric; where entities have roles,
            of every pair its own, (N, S, K, K).
        spread: variance of the strengths of edges of a kind, which are normal around 1, (K,); None where all are 1.
            Of a kind that sends next to nothing: of what is sent beside, in strengths of the strongest kind.
    """

    laws: Tensor
    own: Tensor
    variance: Tensor
    pairs: Tensor
    spread: Tensor | None = None


class Posterior(NamedTuple):
    """Beliefs in structures.

    Attributes:
        slots: probability of every kind for every edge, (E, S, K).
        sent: expected coefficients of the laws of kinds, (E, S, K); the same where strengths do not differ.
        second: expected products of these, (E, S K, S K).
        evidence: of the receiver's own frames on each slot, the prior divided out, (E, S, K), logarithms.
        squares: expected sum of squared residuals, (E,).
        likeliest: coefficients of the laws of kinds, the kind being the likeliest, (E, S, K).
        spread: variance of strengths, of every kind, (K,), in units of their mean; None where strengths do not differ.
        mean: of the strengths of every kind, (K,), which laws take up.
    """

    slots: Tensor
    sent: Tensor
    second: Tensor
    evidence: Tensor
    squares: Tensor
    likeliest: Tensor
    spread: Tensor | None = None
    mean: Tensor | None = None


def all_rows(kinds: int, senders: int, device: torch.device | None = None) -> Tensor:
    """All rows (M, S) of kinds."""
    return torch.cartesian_prod(*[torch.arange(kinds, device=device)] * senders).view(-1, senders)


def from_labels(slots: Tensor) -> Posterior:
    """Beliefs in slots (E, S, K) that are independent of one another."""
    evidence, none = slots.clamp_min(1e-12).log(), slots.new_zeros(len(slots))
    return Posterior(slots, slots, _independent(slots, torch.diag_embed(slots)), evidence, none, _hard(slots))


def from_weights(slots: Tensor, weights: Tensor) -> Posterior:
    """The same of edges whose strengths are their weights (E, S, R) along the mean of those of a kind."""
    centre = torch.einsum("esk,esr->kr", slots, weights) / slots.sum((0, 1)).clamp_min(1e-9).unsqueeze(1)
    toward = _toward(centre.square().sum(-1))
    along = toward @ centre  # (K, R)
    more = ((weights.unsqueeze(2) - centre) * along).sum(-1) / along.square().sum(-1).clamp_min(1e-30)
    each = torch.eye(len(centre)).to(slots) + more.unsqueeze(-1) * toward  # of every kind, (E, S, K, K)
    sent = torch.einsum("esk,eskl->esl", slots, each)
    second = _independent(sent, torch.einsum("esk,eskl,eskm->eslm", slots, each, each))
    spread = (slots * more.square()).sum((0, 1)) / slots.sum((0, 1)).clamp_min(1e-9)
    return from_labels(slots)._replace(sent=sent, second=second, spread=spread)


def _hard(slots: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(slots.argmax(-1), slots.shape[-1]).to(slots)


def _toward(power: Tensor) -> Tensor:
    """What is added to messages that are stronger than usual (K, K): of themselves, or of the strongest if faint.

    Args:
        power: mean squares of the messages of kinds, (K,).
    """
    kinds = torch.arange(len(power), device=power.device)
    toward = torch.where(power < FAINT * power.max(), power.argmax(), kinds)
    return torch.nn.functional.one_hot(toward, len(power)).to(power)


def _spread_toward(power: Tensor, spread: Tensor) -> tuple[Tensor, Tensor]:
    """Standard deviations (K,) of strengths, of variances (K,), and what they are of, see `_toward`."""
    faint = power < FAINT * power.max()
    spread = spread.clamp(1e-9, MOST_SPREAD).where(~faint, spread.clamp(1e-9, FAINTNESS))
    return spread.sqrt(), _toward(power)


def spread_of(grams: Grams, kinds: Kinds) -> Tensor:
    """What strengths of edges of every kind vary along, in messages of kinds, (K, K); none without, (0, 0).

    Weak kinds, whose variation was told in messages of the strongest, vary along their own unless they send nothing.
    Those of nothing vary a little at least: errors of learned laws would else be edges of next to no strength.
    """
    if kinds.spread is None:
        return kinds.laws.new_zeros(0, 0)
    e, s = grams.cross.shape[:2]
    same = torch.eye(s, dtype=grams.own.dtype, device=grams.own.device).expand(e, s, s)
    power = (kinds.laws @ grams.within(same.reshape(1, -1))[0] * kinds.laws).sum(-1)
    spread, toward = _spread_toward(power, kinds.spread)
    of_own = torch.diag(spread * (toward @ power / power.clamp_min(1e-300)).sqrt())
    nothing = spread.clamp_min(LEAST).unsqueeze(-1) * toward
    return torch.where((power > NOTHING * power.max()).unsqueeze(-1), of_own, nothing)


def _independent(sent: Tensor, square: Tensor) -> Tensor:
    """Expected products (E, S K, S K) of slots that are independent: means (E, S, K), squares (E, S, K, K)."""
    e, s, k = sent.shape
    both = sent.flatten(1).unsqueeze(-1) * sent.flatten(1).unsqueeze(-2)
    same = torch.eye(s, dtype=sent.dtype, device=sent.device).view(s, 1, s, 1)
    return (both.view(e, s, k, s, k) * (1 - same) + square.unsqueeze(3) * same).view(e, s * k, s * k)


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
    """Laws of all kinds, pulled to zero by ridge, and the own part by least squares, and the spread of strengths."""
    e, s, k = beliefs.slots.shape
    f, g = grams.cross.shape[2], grams.own.shape[-1] - 1
    moments = beliefs.second.view(e, s, k, s, k).permute(2, 4, 0, 1, 3).reshape(k * k, -1)
    laws = grams.within(moments).view(k, k, f, f).transpose(1, 2).reshape(k * f, k * f)
    cross = torch.einsum("esk,esfx->kfx", beliefs.sent, grams.cross).reshape(k * f, g + 1)
    own = grams.own.sum(0)
    normal = torch.cat([torch.cat([laws, cross[:, :g]], 1), torch.cat([cross[:, :g].mT, own[:g, :g]], 1)])
    right = torch.cat([cross[:, g], own[:g, g]])
    size = normal.diagonal().clamp_min(0)
    pull = torch.cat([ridge * size[: k * f], SLIGHT * LESS * size[k * f :]])
    found = torch.linalg.solve(normal + torch.diag(pull + 1e-12 * size.max()), right)
    left = own[g, g] - 2 * found @ right + found @ normal @ found
    variance = (left / grams.targets.sum()).clamp_min(own[g, g] / grams.targets.sum() * 1e-14)
    of = found[: k * f].view(k, f)
    return Kinds(
        of if beliefs.mean is None else of * beliefs.mean.unsqueeze(1), found[k * f :], variance, pairs, beliefs.spread
    )


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
    if kinds.spread is not None and k**s <= MOST_UNEQUAL:
        rows = _Unequal(linear, square, alone, scale, kinds.spread)
    elif k**s <= MOST_ROWS:
        rows = _Enumerated(linear, square, alone, scale)
    else:
        unit = scale / 2
        begin = decoded(square[None] / unit, linear.flatten(1)[None] / unit, k)[0]
        rows = functools.partial(_slot_by_slot, linear, square, alone, scale, begin)
    pairs = kinds.pairs
    posterior = rows(of_edges(pairs, tasks, e).sum(-1).log().expand(e, s, k))
    for _ in range(rounds):
        if e != tasks * (s + 1):  # edges back are not among the receivers
            share = posterior.slots.mean((0, 1)).clamp_min(1e-6)
            pairs = torch.outer(share, share) / share.sum() ** 2
            posterior = rows((share / share.sum()).log().expand(e, s, k))
            continue
        back = _transposed(posterior.evidence, tasks)
        prior = of_edges(pairs, tasks, e).log()
        joint = (posterior.evidence.unsqueeze(-1) + back.unsqueeze(-2) + prior).flatten(-2).softmax(-1)
        pairs = tables(joint.view(tasks, s + 1, s, k, k))
        incoming = (of_edges(pairs, tasks, e).log() + back.unsqueeze(-2)).logsumexp(-1)
        posterior = rows(incoming.log_softmax(-1))
    return posterior, pairs


def tables(joint: Tensor) -> Tensor:
    """Probability of the kinds of an edge and of the edge back, from beliefs in them, (B, N, S, K, K).

    One table (K, K) for all pairs, unless they differ from it over tasks by more than chance: then entities have roles,
    as a sun has and its planets, and every pair a table of its own (N, S, K, K), drawn towards the common one. By how
    much follows from the spread of tables about it, as in the Dirichlet-multinomial distribution (Mosimann 1962). What
    a task does not show of a pair others tell.
    """
    b, n, s, k = joint.shape[:4]
    each = joint.mean(0)
    each = (each + _transposed(each, 1).mT) / 2
    common = each.mean((0, 1)).clamp_min(1e-6)
    common = common / common.sum()
    freedom = n * s * (k * k - 1) / 2
    spread = float(((each - common).square() / (common + 1 / b)).sum()) / 2 * b / freedom  # 1 by chance, at most b
    if b < FEWEST or spread < 1 + ERRORS * (2 / freedom) ** 0.5:
        return common
    common_counts = max(1.0, (b - spread) / (spread - 1))
    return (b * each + common_counts * common) / (b + common_counts)


def roles(slots: Tensor) -> Tensor | None:
    """Probabilities (N, S, K) of kinds of edges, from beliefs (B, N, S, K) in tasks; None without roles.

    Edges of a task may hang together, as where one entity acts on all and is another in every task. That spreads tables
    of pairs more than chance does edge by edge. So entities are also put in other orders, task by task: if they have no
    roles, their own order is one more of these (a permutation test).
    """
    back = _transposed(slots.flatten(0, 1), len(slots)).view_as(slots)
    found = tables(slots.unsqueeze(-1) * back.unsqueeze(-2))
    if found.dim() == 2:
        return None
    generator = torch.Generator().manual_seed(0)
    own, matrix = _spread_of_pairs(slots), to_matrix(slots.movedim(-1, 1))  # (B, K, N, N)
    for _ in range(ORDERS):
        order = torch.rand(matrix.shape[0], matrix.shape[-1], generator=generator).argsort(1).to(matrix.device)
        rows = order.view(len(order), 1, -1, 1).expand_as(matrix)
        other = matrix.gather(2, rows).gather(3, rows.mT)
        if _spread_of_pairs(from_matrix(other).movedim(1, -1)) >= own:
            return None
    return found.sum(-1)


def _spread_of_pairs(slots: Tensor) -> float:
    """How much mean beliefs (B, N, S, K) differ from pair to pair, in what tasks differ."""
    mean = slots.mean(0)
    return float((mean - mean.mean((0, 1))).square().sum())


def of_edges(pairs: Tensor, tasks: int, receivers: int) -> Tensor:
    """Tables of the edges of receivers, (E, S, K, K), or the one of all, (K, K), also where there are other pairs."""
    if pairs.dim() == 2:
        return pairs
    same = receivers == tasks * len(pairs) and pairs.shape[1] == len(pairs) - 1
    return pairs.repeat(tasks, 1, 1, 1) if same else pairs.mean((0, 1))


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
        squares = (probability * self.energy).sum(-1).clamp_min(0)
        return Posterior(slots, slots, second, evidence, squares, _hard(slots))


class _Unequal:
    """The same where strengths differ, 1 + spread x normal, and are integrated out of every row.

    With b what residuals and a row's additions have in common, each times its spread, and A = v + the products of
    additions, a row's energy falls by b A^-1 b and rises by v log det(A / v).
    """

    def __init__(self, linear: Tensor, square: Tensor, alone: Tensor, scale: Tensor, spread: Tensor) -> None:
        e, s, k = linear.shape
        rows, unit = all_rows(k, s, linear.device), scale / 2
        square = square.view(e, s, k, s, k)
        spread, toward = _spread_toward(torch.einsum("esksk->k", square), spread)
        self.chosen = torch.nn.functional.one_hot(rows, k).to(linear)  # (M, S, K)
        self.more = spread[rows].unsqueeze(-1) * toward[rows]
        half = torch.einsum("esktl,msk->emtl", square, self.chosen)
        plain = torch.einsum("esk,msk->em", linear, self.chosen)
        common = torch.einsum("esk,msk->ems", linear, self.more) - torch.einsum("emtl,mtl->emt", half, self.more)
        inner = torch.einsum("esktl,msk,mtl->emst", square, self.more, self.more) / unit
        root = torch.linalg.cholesky(inner + torch.eye(s, dtype=linear.dtype, device=linear.device))
        self.cover = torch.cholesky_inverse(root)
        self.mean = (self.cover @ common.unsqueeze(-1)).squeeze(-1) / unit  # of the normals, (E, M, S)
        energy = alone.unsqueeze(1) - 2 * plain + torch.einsum("emtl,mtl->em", half, self.chosen)
        determinant = 2 * root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        self.energy = energy - (common * self.mean).sum(-1) + unit * determinant
        self.scale, self.spread, self.toward = scale, spread, toward

    def __call__(self, prior: Tensor) -> Posterior:
        e, s, k = prior.shape
        flat = self.chosen.flatten(1)
        probability = (prior.flatten(1) @ flat.mT - self.energy / self.scale).softmax(-1)
        slots = (probability @ flat).view(e, s, k)
        evidence = (slots.clamp_min(1e-30).log() - prior).clamp_min(-60.0)
        of = torch.einsum("em,ems,msk->esk", probability, self.mean, self.chosen) / slots.clamp_min(1e-30)
        square = self.mean.square() + self.cover.diagonal(dim1=-2, dim2=-1)
        square = torch.einsum("em,ems,msk->k", probability, square, self.chosen) / slots.sum((0, 1)).clamp_min(1e-9)
        off = (slots * of).sum((0, 1)) / slots.sum((0, 1)).clamp_min(1e-9) * self.toward.diagonal()
        mean = (1 + self.spread * off).clamp(1 / MOST_MEAN, MOST_MEAN)
        each = self.chosen + self.mean.unsqueeze(-1) * self.more  # (E, M, S, K)
        weighed = each * probability.view(e, -1, 1, 1)
        second = weighed.flatten(2).mT @ each.flatten(2)
        beside = torch.einsum("em,emst,msk->emskt", probability, self.cover, self.more)
        second = second + torch.einsum("emskt,mtl->esktl", beside, self.more).reshape(e, s * k, s * k)
        hard = _hard(slots)
        return Posterior(
            slots,
            weighed.sum(1),
            second,
            evidence,
            (probability * self.energy).sum(-1).clamp_min(0),
            hard + (hard * of * self.spread) @ self.toward,
            self.spread.square() * (square - off.square()) / (self.toward @ mean).square(),
            mean,
        )


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
    squares = _energy(linear, square, alone, q).clamp_min(0)
    return Posterior(q, q, from_labels(q).second, field.clamp_min(-60.0), squares, _hard(q))


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
