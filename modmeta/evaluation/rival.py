"""A rival of a model: laws linear in functions of a pair's states, fitted to the same frames in closed form.

Modules that have not converged, or that see the wrong features, name structures that hold in all frames alike and are
wrong, which no part of the data contradicts. Another law does: expectation maximisation, from the structures that the
model found and from random ones, takes a second or less. The better the rival foretells held-out frames, the more its
beliefs count in what the model's are measured by.

Letters: B tasks, N entities, S senders, T frames, L = T - 1 steps, D features, E = B N receivers, K edge modules, R
kinds of a rival, K or K + 1.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from scipy.optimize import linear_sum_assignment
from scipy.special import stdtr
from torch import Tensor

from modmeta.evaluation.nulls import alone, gains, mean_gain
from modmeta.evaluation.verdict import CHANCE, RESOLVED, chance
from modmeta.model.features import pair_states
from modmeta.model.model import RelationalModel
from modmeta.search.cold_start.certainty import kappa
from modmeta.search.cold_start.grams import Columns, Grams, added, centred, grams, residuals
from modmeta.search.cold_start.structures import FAINT, MOST_SPREAD, Kinds, explain, fit_kinds, from_labels, rounds_of

FITTED = 30  # tasks from which laws are fitted
STARTS = 2  # random ones
ROUNDS, MORE = 10, 40  # of every start, and of the best one
REDRAWN, AGAIN = 12, 5  # laws of tasks drawn with replacement, and rounds of each
MOST_NUMBERS = 100_000  # of Gram matrices of a task, beyond which no rival is fitted

Chances = Callable[[float], Tensor]  # of a temperature to probabilities of edge modules, (B, N, S, K)


class Rival(NamedTuple):
    """Laws beside a model's, and what they tell.

    Attributes:
        gains: nats a number on held-out frames over the model, of every task, (B,).
        agreement: of the structures that either half of the frames tells (kappa).
        lasting: frames for which an error lasts: (1 + r) / (1 - r) for correlation r of neighbouring ones, at least 1.
        halves: function of a temperature to beliefs (E, S, R) of either half of the frames.
        beliefs: the same of all frames, a mean over laws of other tasks: laws of few tasks are not known for sure.
        same: which kinds are one but for their strengths, (R, R).
    """

    gains: Tensor
    agreement: float
    lasting: float
    halves: Callable[[float], tuple[Tensor, Tensor]]
    beliefs: Callable[[float], Tensor]
    same: Tensor

    @property
    def better(self) -> float:
        """Probability that it foretells better than the model (t-test over tasks)."""
        gain = mean_gain(self.gains)
        return float(stdtr(gain.freedom, gain.mean / max(gain.error, 1e-12)))


def affordable(states: Tensor, products: bool = False) -> bool:
    """Whether a rival can be fitted to states (B, N, T, D) in a time that is short beside training."""
    _, n, _, d = states.shape
    functions = 2 * d + 2 + products * d * (2 * d + 1)
    return n * ((n - 1) * functions) ** 2 <= MOST_NUMBERS


@torch.no_grad()
def strongest(
    model: RelationalModel,
    halves: Sequence[Tensor],
    errors: Sequence[Tensor],
    found: Tensor,
    generator: torch.Generator,
) -> Rival:
    """The best of several rivals; the simplest of those that do not differ by more than chance.

    Laws are linear in both states, or also in products of their features. If one of these may be as good as the model,
    another has one kind more. More kinds have more laws to bend, so both halves must also tell them as much alike.

    Args:
        model: trained model of at least two edge modules.
        halves: states of the first and of the last frames, (B, N, T', D).
        errors: of the model there, structures from the other half, (B, N, T' - 1, D).
        found: probabilities of edge modules that the model tells from all frames, (B, N, S, K).
        generator: of random starts.
    """
    best, products = _rival(model, halves, errors, found, False, generator), False
    if affordable(halves[0], products=True):
        squared = _rival(model, halves, errors, found, True, generator)
        products = _surpasses(squared, best)
        best = squared if products else best
    if best.better < CHANCE:
        return best
    apart = torch.rand((*found.shape[:-1], 1), generator=generator, device=generator.device).to(found) / 2
    more = _rival(model, halves, errors, torch.cat([found * (1 - apart), apart], -1), products, generator)
    return more if _surpasses(more, best) and more.agreement >= best.agreement else best


def _surpasses(one: Rival, other: Rival) -> bool:
    return chance(mean_gain(one.gains - other.gains)) < CHANCE


def _rival(
    model: RelationalModel,
    halves: Sequence[Tensor],
    errors: Sequence[Tensor],
    found: Tensor,
    products: bool,
    generator: torch.Generator,
) -> Rival:
    """A rival with as many kinds as structures (B, N, S, R) have from which it is fitted."""
    b, n = found.shape[:2]
    columns = [_columns(model, states, products) for states in halves]
    parts = [grams(part) for part in columns]
    whole = added(Grams(*(part.clone() for part in parts[0])), parts[1])
    kinds = _fitted(whole, found, generator)

    def told(sums: Grams, temperature: float) -> Tensor:
        return explain(sums, kinds, b, temperature=temperature)[0].slots

    ends = [told(part, 1.0) for part in parts]
    theirs = [
        residuals(part, other @ kinds.laws, kinds.own).unflatten(0, (b, n))
        for part, other in zip(columns, ends[::-1], strict=True)
    ]
    alike = kappa(ends[0].argmax(-1), ends[1].argmax(-1), found.shape[-1])
    each = _gains(model, halves, theirs, errors)
    rest = [residuals(part, end @ kinds.laws, kinds.own) for part, end in zip(columns, ends, strict=True)]
    return Rival(
        each, alike, _lasting(rest), lambda at: (told(parts[0], at), told(parts[1], at)),
        lambda at: _unsure(whole, kinds, b, at, generator), _same(whole, kinds.laws),
    )  # fmt: skip


def _unsure(sums: Grams, kinds: Kinds, tasks: int, temperature: float, generator: torch.Generator) -> Tensor:
    """Beliefs (E, S, R) under laws fitted to tasks drawn with replacement, of every task by those that lack it."""
    n, few = len(sums.targets) // tasks, min(tasks, FITTED)
    beliefs = explain(sums, kinds, tasks, temperature=temperature)[0].slots
    weight = torch.full_like(sums.targets[:, None, None], 1e-6)  # of tasks that all have drawn
    beliefs = weight * beliefs
    for _ in range(REDRAWN):
        drawn = torch.randint(few, (few,), generator=generator, device=generator.device)
        of = (drawn.unsqueeze(1) * n + torch.arange(n, device=drawn.device)).flatten()
        some = _some(sums, of)
        posterior, pairs = explain(some, kinds, few)
        laws = rounds_of(some, kinds._replace(pairs=pairs), posterior, few, AGAIN)
        lacks = torch.ones_like(weight).index_fill_(0, of, 0)
        beliefs = beliefs + lacks * explain(sums, laws, tasks, temperature=temperature)[0].slots
        weight = weight + lacks
    return beliefs / weight


def _same(sums: Grams, laws: Tensor) -> Tensor:
    """Which laws (R, F) are one whose strength differs from edge to edge, or next to nothing, (R, R).

    What all senders send alike is left out: it may as well be a receiver's own.
    """
    e, s = sums.cross.shape[:2]
    if s == 1:
        return torch.eye(len(laws), dtype=torch.bool, device=laws.device)
    apart = (torch.eye(s) - 1 / s).to(sums.cross).expand(e, s, s)
    products = laws @ sums.within(apart.reshape(1, -1))[0] @ laws.mT
    power = products.diagonal()
    total, faint = power + power.unsqueeze(1), power < FAINT * power.max()
    unequal = total - 2 * products <= MOST_SPREAD * (total + 2 * products)
    return unequal | (faint & faint.unsqueeze(1))


def _some(sums: Grams, receivers: Tensor) -> Grams:
    return Grams(sums.pairs[:, receivers], *(part[receivers] for part in sums[1:]))


def _lasting(errors: Sequence[Tensor]) -> float:
    """For how many frames errors (E, L, C) last."""
    both = sum(float((of[:, 1:] * of[:, :-1]).sum()) for of in errors)
    alone = sum(float((of[:, 1:].square() + of[:, :-1].square()).sum()) / 2 for of in errors)
    r = min(max(both / max(alone, 1e-300), 0.0), 0.999)
    return (1 + r) / (1 - r)


def _columns(model: RelationalModel, states: Tensor, products: bool) -> Columns:
    """Targets, functions of pairs of states and a cubic of the own one; less own constants where a model has any.

    Where a state has several features, the distance of two states is a function of a pair, too.
    """
    dynamics = model.dynamics
    x, targets = dynamics.scaled(states[:, :, :-1]).double(), dynamics.targets(states).double()
    receiver, sender = pair_states(x)
    both = torch.cat([receiver, sender], -1)
    pair = [torch.ones_like(both[..., :1]), both]
    if x.shape[-1] > 1:
        pair.append((sender - receiver).square().sum(-1, keepdim=True).add(1e-12).sqrt())
    if products:
        one, other = torch.triu_indices(both.shape[-1], both.shape[-1])
        pair.append(both[..., one] * both[..., other])
    ones = torch.ones_like(x[..., :1])
    own = torch.cat([ones, x, x**2, x**3], -1)
    own = torch.einsum("bnlg,cd->bnlcdg", own, torch.eye(targets.shape[-1]).to(own)).flatten(-2)
    weight = (1 / targets.square().mean((0, 1, 2)).clamp_min(1e-30)).expand_as(targets)
    beside = dynamics.beside(states)
    beside = None if beside is None else beside.flatten(0, 1).transpose(1, 2)
    sent, own, targets, weight = (part.flatten(0, 1) for part in (torch.cat(pair, -1), own, targets, weight))
    columns = Columns(sent.unsqueeze(3), own, targets, weight, apart=True, alone=beside)
    return centred(columns, columns.weight) if dynamics.has_constants else columns


def _fitted(sums: Grams, found: Tensor, generator: torch.Generator) -> Kinds:
    """The laws of kinds that explain some of the tasks best, of several starts."""
    b, n, s, k = found.shape
    few = min(b, FITTED)
    sums = _some(sums, torch.arange(few * n, device=found.device))
    given = found[:few].double().flatten(0, 1)
    drawn = torch.randn(STARTS, few * n, s, k, generator=generator, device=generator.device).to(given)
    share = given.mean((0, 1)).clamp_min(1e-3)
    pairs = torch.outer(share, share) / share.sum() ** 2
    tried = []
    for slots in (given, *(2 * drawn).softmax(-1)):
        beliefs = from_labels(slots)
        tried.append(rounds_of(sums, fit_kinds(sums, beliefs, pairs), beliefs, few, ROUNDS))
    best = min(tried, key=lambda kinds: float(kinds.variance))
    beliefs, pairs = explain(sums, best, few)
    return rounds_of(sums, best._replace(pairs=pairs), beliefs, few, MORE)


def _gains(
    model: RelationalModel, halves: Sequence[Tensor], theirs: Sequence[Tensor], errors: Sequence[Tensor]
) -> Tensor:
    """Nats a number of every task, (B,), by which a rival's errors are smaller, as of nulls."""
    dynamics = model.dynamics
    targets = torch.cat([dynamics.targets(states) for states in halves], 2)
    states = torch.cat([dynamics.scaled(part[:, :, :-1]) for part in halves], 2)
    every = torch.ones_like(targets)
    parts = [one for part in halves if (one := dynamics.beside(part)) is not None]
    without = alone(targets, states, every, dynamics.has_constants, torch.cat(parts, 3) if parts else None)
    return gains(torch.cat(list(theirs), 2), torch.cat(list(errors), 2), without, targets, every)


def told_apart(one: Tensor, other: Tensor, number: int) -> Tensor:
    """Which of so many modules two halves of the frames tell from each other, (K, K), by what either names, (...).

    Of edges that both halves give to either of two modules, they must agree on which (kappa).
    """
    joint = torch.bincount(one.flatten() * number + other.flatten(), minlength=number**2).view(number, -1).double()
    mine, theirs = joint.diagonal().unsqueeze(1), joint.diagonal()
    chance = (mine + joint) * (joint + theirs) + (mine + joint.mT) * (joint.mT + theirs)
    return 2 * (mine * theirs - joint * joint.mT) > RESOLVED * chance


def likeness(
    posterior: Chances, claimed: float, beliefs: Tensor, share: float, same: Tensor, apart: Tensor
) -> Callable[[float], float] | None:
    """How badly a posterior knows how often the module that it names is right, as a function of its temperature.

    It is right as often as a mixture of beliefs has it: a rival's and the posterior's own. Modules are matched with the
    rival's kinds; a kind that no module stands for is one more way to be wrong, unless it is the same but for strength.
    Modules that stand for the same are one, too, unless the model tells them apart: then it claims to.

    Args:
        posterior: of edge modules.
        claimed: temperature of its own claims.
        beliefs: of the rival, (E, S, R).
        share: of the rival in the mixture.
        same: which kinds are one but for their strengths, (R, R).
        apart: which modules the model tells apart, (K, K).

    Returns:
        None where all modules are one, of which no temperature makes more or less sure.
    """
    own = posterior(claimed).flatten(0, 2).double()
    of, theirs = own.argmax(-1), beliefs.flatten(0, 1).double()
    k, r = own.shape[-1], theirs.shape[-1]
    counts = torch.bincount(of * r + theirs.argmax(-1), minlength=k * r).view(k, r)
    kinds = linear_sum_assignment(counts.cpu(), maximize=True)[1]
    either = same[:, kinds].double()  # (R, K)
    either[kinds] *= ~apart
    if bool(either[kinds].all()):
        return None
    mixed = share * theirs @ either + (1 - share) * own @ either[kinds]

    def loss(temperature: float) -> float:
        sure, named = (posterior(temperature).flatten(0, 2).double() @ either[kinds]).max(-1)
        right = mixed.gather(-1, named.unsqueeze(-1)).squeeze(-1)
        logs = right * sure.clamp_min(1e-12).log() + (1 - right) * (1 - sure).clamp_min(1e-12).log()
        return float(-logs.mean())

    return loss
