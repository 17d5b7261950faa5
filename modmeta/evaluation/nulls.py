"""Nulls: what structures gain on held-out frames over no relations, and over partners exchanged.

Where partners are exchanged, every entity meets recordings of other tasks: statistics of single entities stay, and
nobody can act on anybody. Each recording occurs once among strangers, so an entity in its own task is compared with
itself elsewhere. Structures come from one half of the data and are judged by the other, and the other way round.

Letters: B tasks, G groups, N entities, S senders, T frames, L = T - 1 steps, D features, K edge modules.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from modmeta.evaluation.agreement import agreement, distances
from modmeta.evaluation.gain import SMALL
from modmeta.graph.bank import Structure
from modmeta.model.model import RelationalModel, Told
from modmeta.model.sight import counted, never_together
from modmeta.search.infer import Inferred

FEWEST, MANY = 4, 8  # tasks, at least; from which on their gains tell the error of the mean
SHORTEST, SHORTEST_OF_GROUP = 5, 3  # frames; where tasks tell structures together, halves are not of frames
SHOWN = 0.9  # share of edges that both halves show, from which on they are compared
AT_ONCE = 2000  # pairs of entities up to which several searches are one: many small ones cost calls
PIECES, PIECE = 16, 8  # of tasks that share structures, at least; frames of a piece, at least

# What states (B, N, T, D) and steps that count (B, T - 1) tell of structures.
Find = Callable[[Tensor, Tensor | None], Inferred]
# The same where tasks come in groups (B,), of the structures of groups.
FindShared = Callable[[Tensor, Tensor | None, Tensor], Inferred]


class Halves(NamedTuple):
    """What two halves of the data tell.

    Attributes:
        error: of changes predicted by what the other half tells of the structure, (B, N, L, D).
        structures: of every half.
    """

    error: Tensor
    structures: tuple[Structure, Structure]


Tell = Callable[[Tensor, Tensor | None], Halves]


class Gain(NamedTuple):
    """Nats a number gained on held-out frames.

    Attributes:
        mean: over tasks.
        error: its standard error.
        freedom: degrees of freedom of the error.
    """

    mean: float
    error: float
    freedom: int


class Compared(NamedTuple):
    """A model's structures of some tasks compared with nulls.

    Attributes:
        none: gain over no relations.
        exchanged: gain over partners exchanged.
        agreement: weighted kappa of the structures that two halves tell.
        agreement_exchanged: the same where partners are exchanged.
        tasks: their number.
    """

    none: Gain
    exchanged: Gain
    agreement: float
    agreement_exchanged: float
    tasks: int


def in_time(find: Find, model: RelationalModel) -> Tell:
    """Halves are the first and the last frames of every task, which has a structure of its own."""

    def tell(states: Tensor, mask: Tensor | None) -> Halves:
        half = states.shape[2] // 2
        parts = ((slice(half + 1), slice(half)), (slice(half, None), slice(half, None)))
        seen = [(states[:, :, frames], None if mask is None else mask[..., steps]) for frames, steps in parts]
        found = _found(find, seen)
        others = list(zip(found, seen, strict=True))[::-1]
        errors = [
            _errors(model, states, one, mask, Told(told[0], one.structure, told[1]))
            for (states, mask), (one, told) in zip(seen, others, strict=True)
        ]
        return Halves(torch.cat(errors, 2), (found[0].structure, found[1].structure))

    return tell


def _found(find: Find, seen: list[tuple[Tensor, Tensor | None]]) -> list[Inferred]:
    """What two halves of equal length tell, in one search where they are small."""
    states, masks = zip(*seen, strict=True)
    if states[0].shape != states[1].shape or not _small(sum(map(len, states)), states[0].shape[1]):
        return [find(*part) for part in seen]
    whole = find(torch.cat(states), _joined(masks))
    gaps = (None, None) if whole.gap is None else whole.gap.chunk(2)
    structures = zip(*(part.chunk(2) for part in whole.structure), strict=True)
    parts = zip(structures, whole.probabilities.chunk(2), whole.energies.chunk(2), gaps, strict=True)
    return [Inferred(Structure(*structure), chances, energies, gap) for structure, chances, energies, gap in parts]


def _small(tasks: int, entities: int) -> bool:
    return tasks * entities * (entities - 1) <= AT_ONCE


def _joined(masks: Sequence[Tensor | None]) -> Tensor | None:
    known = [mask for mask in masks if mask is not None]
    return torch.cat(known) if known else None


def _told(tell: Tell, scenes: list[tuple[Tensor, Tensor | None]], groups: Tensor | None) -> list[Halves]:
    """What halves of several scenes tell, in one search where they are small and have no groups."""
    b, n = scenes[0][0].shape[:2]
    states, masks = zip(*scenes, strict=True)
    if groups is not None or not _small(2 * b * len(scenes), n):
        return [tell(*scene) for scene in scenes]
    whole = tell(torch.cat(states), _joined(masks))
    structures = [list(zip(*(part.split(b) for part in half), strict=True)) for half in whole.structures]
    return [
        Halves(error, (Structure(*first), Structure(*second)))
        for error, first, second in zip(whole.error.split(b), *structures, strict=True)
    ]


def in_groups(find: FindShared, model: RelationalModel, groups: Tensor, judges: Tensor | None = None) -> Tell:
    """Halves are the first and the last tasks of every group (B,), which share a structure.

    Where some tasks judge (B,), the others tell: errors are of those that judge, and halves of the others, as far as
    these are two or more of every group, are compared.

    Raises:
        ValueError: a group has no tasks in one of them.
    """
    later = places(groups) >= (groups.bincount()[groups] + 1) // 2 if judges is None else judges
    if not all(bool(torch.equal(groups[half].unique(), groups.unique())) for half in (later, ~later)):
        raise ValueError("a group of a single task has no halves")

    halves = (~later, later) if judges is None else _halved(groups, ~later)

    def told(tasks: Tensor, states: Tensor, mask: Tensor | None) -> Inferred:
        return find(states[tasks], None if mask is None else mask[tasks], groups[tasks])

    def tell(states: Tensor, mask: Tensor | None) -> Halves:
        error, found = torch.zeros_like(model.dynamics.targets(states)), [told(half, states, mask) for half in halves]
        of_others = [(found[0], later), (found[1], ~later)] if judges is None else [(told(~later, states, mask), later)]
        for one, rest in of_others:
            of = groups[rest]
            structure = Structure(*(part[of] for part in one.structure))
            mine = one._replace(structure=structure, probabilities=one.probabilities[of])
            error[rest] = _errors(model, states[rest], mine, None if mask is None else mask[rest])
        return Halves(error, (found[0].structure, found[1].structure))

    return tell


def _halved(groups: Tensor, tasks: Tensor) -> tuple[Tensor, Tensor]:
    """The first and the last of some tasks (B,) of every group (B,); these and all others where a group has one."""
    mine, second = groups[tasks], torch.zeros_like(tasks)
    if not bool((mine.bincount()[mine] > 1).all()):
        return tasks, ~tasks
    second[tasks] = places(mine) >= (mine.bincount()[mine] + 1) // 2
    return tasks & ~second, second


def _errors(
    model: RelationalModel, states: Tensor, found: Inferred, mask: Tensor | None, told: Told | None = None
) -> Tensor:
    """Errors of mean messages, where messages add up: what is not told for sure does less harm than a guess."""
    chances = found.probabilities if model.dynamics.additive else None
    return model.errors(states, found.structure, mask, chances, told)


@torch.no_grad()
def compare(
    tell: Tell,
    model: RelationalModel,
    states: Tensor,
    generator: torch.Generator,
    mask: Tensor | None = None,
    groups: Tensor | None = None,
    draws: int = 2,
    judges: Tensor | None = None,
) -> Compared | None:
    """Compares structures with both nulls; None where tasks or frames are too few, or errors are no numbers.

    Args:
        tell: what halves of states tell, see `in_time` and `in_groups`.
        model: trained model.
        states: tasks that it was not trained on, (B, N, T, D).
        generator: of exchanges.
        mask: how well steps are known, (B, N, T - 1); None for all observed.
        groups: group of every task, (B,), from 0; partners are exchanged within groups. None without groups.
        draws: number of exchanges. Of fewer than `MANY` tasks their spread is the error of the gain; a t-test over so
            few tasks finds next to nothing.
        judges: tasks that it was not trained on, (B,), where the others were, whose partners are exchanged apart; None
            for all.
    """
    b, n, t, _ = states.shape
    judges = torch.ones(b, dtype=torch.bool, device=states.device) if judges is None else judges
    apart = groups if groups is None else 2 * groups + judges
    shortest = SHORTEST if groups is None else SHORTEST_OF_GROUP
    if judges.sum() < FEWEST or t < shortest or (mask is not None and groups is None and _shown(mask) < SHOWN):
        return None
    dynamics = model.dynamics
    targets, everyone = dynamics.targets(states), torch.arange(n, device=states.device)
    few = groups is None and b < MANY and draws > 1
    origins = [
        (at_random(b, n, generator) if few else exchange(b, n, generator, apart)).to(states.device)
        for _ in range(draws)
    ]
    shown = [None if mask is None else mask[origin, everyone] for origin in origins]
    scenes = [(states, mask)]
    scenes += [(states[origin, everyone], steps) for origin, steps in zip(origins, shown, strict=True)]
    real, *others = _told(tell, scenes, groups)
    counts = torch.ones_like(targets) if mask is None else counted(mask).unsqueeze(-1).expand_as(targets).to(targets)
    without = alone(
        targets, dynamics.scaled(states[:, :, :-1]), counts, dynamics.has_constants, dynamics.beside(states)
    )
    none, over, kappas = gains(*(part[judges] for part in (real.error, without, without, targets, counts))), [], []
    between = _distances(model, states)
    for origin, steps, other in zip(origins, shown, others, strict=True):
        error, shared = torch.empty_like(targets), counts
        error[origin, everyone] = other.error
        if steps is not None:
            shared = torch.empty_like(targets)
            shared[origin, everyone] = counted(steps).unsqueeze(-1).expand_as(targets).to(targets)
            shared = shared * counts
        over.append(gains(*(part[judges] for part in (real.error, error, without, targets, shared))))
        kappas.append(_agreement(other, between))
    by_draw = torch.stack(over)  # (draws, B)
    if not bool(by_draw.isfinite().all() and none.isfinite().all()):
        return None
    exchanged = mean_gain(by_draw.mean(0))
    spread = float(by_draw.mean(1).var() * (1 + 1 / draws)) if draws > 1 else 0.0
    if few:  # if nobody acts on anybody, partners as they are are one more draw
        exchanged = Gain(exchanged.mean, spread**0.5, draws - 1)
    elif groups is not None and draws > 1:  # tasks share what is random in structures; draws do not
        exchanged = with_error(exchanged, spread, draws - 1)
    return Compared(mean_gain(none), exchanged, _agreement(real, between), sum(kappas) / draws, len(none))


def _shown(mask: Tensor) -> float:
    """Share of edges that frames of both halves show, of tasks with a mask (B, N, L)."""
    half = mask.shape[2] // 2
    return float((~never_together(mask[..., :half]) & ~never_together(mask[..., half:])).double().mean())


def gains(error: Tensor, than: Tensor, without: Tensor, targets: Tensor, counts: Tensor) -> Tensor:
    """Nats a number of every task, (B,), by which errors are smaller than others.

    The logarithm of the ratio of root mean squares, of entities and features that count by the roots of those without
    relations, as in `modmeta.evaluation.gain`, and by how often they were seen: their mean over tasks is that over all.
    Features are in units of their own changes, so that rare large changes of one do not drown all others.
    A task in which nothing happens counts for nothing, for without relations it is foretold to the last digit.

    Args:
        error: of predicted changes, (B, N, L, D).
        than: other errors.
        without: errors without relations.
        targets: the changes.
        counts: 1 for steps that count, else 0.
    """
    seen = counts.sum((0, 1, 2)).clamp_min(1).double()
    typical = (targets.abs() * counts).double().sum((0, 1, 2)) / seen
    unit = ((targets.double().square() * counts).sum((0, 1, 2)) / seen).sqrt()  # (D,)
    small = (SMALL * typical).square().clamp_min(torch.finfo(targets.dtype).tiny)

    def size(of: Tensor) -> Tensor:
        return ((of.double().square() * counts).sum(2) / counts.sum(2).clamp_min(1) + small).sqrt()

    share = torch.where(unit > 0, size(without) / unit.clamp_min(1e-300), 0.0)
    weight = share.sqrt() * counts.double().mean(2)  # a single step tells a ratio badly
    each = (weight * (size(than) / size(error)).log()).sum((1, 2))
    return each / weight.sum((1, 2)).mean().clamp_min(1e-30)


def alone(targets: Tensor, states: Tensor, counts: Tensor, constants: bool, beside: Tensor | None = None) -> Tensor:
    """Errors (B, N, L, D) without relations: every entity by itself, each half of the frames told by the other.

    An entity changes at a rate of its own, or by a cubic law of its own state that all share, or both, or not at all:
    of every feature whatever is best on the whole.

    Args:
        targets: changes, (B, N, L, D).
        states: at the start of every step, (B, N, L, D).
        counts: 1 for steps that count, else 0, (B, N, L, D).
        constants: the model knows the mean error of every entity in the frames to predict; so does this.
        beside: and what of errors is linear in these functions, (B, N, D, L, A); None for no more than the mean.
    """
    half = targets.shape[2] // 2
    features = torch.cat([states, states**2, states**3, torch.ones_like(states[..., :1])], -1).double()
    halves = (slice(half), slice(half, None))
    errors = []
    for fit, judge in (halves, halves[::-1]):
        y, told, c = targets[:, :, judge].double(), targets[:, :, fit].double(), counts[:, :, fit].double()
        x, weight = features[:, :, fit], c[..., :1]
        law = _least_squares(x, told, weight)
        without = _least_squares(x - _level(x, weight), told - _level(told, c), weight)  # rates of entities left out
        off = [y - features[:, :, judge] @ of for of in (law, without)]
        tried = torch.stack([y, y - _level(told, c), off[0], off[1] - _level(told - x @ without, c)])
        if constants:
            here, at = counts[:, :, judge].double(), None if beside is None else beside[..., judge, :]
            tried = tried - torch.stack([_level(one, here) if at is None else _linear(one, here, at) for one in tried])
        errors.append(tried)
    whole = torch.cat([errors[1], errors[0]], 3)  # the first half is told by the last one
    best = (whole.square() * counts).sum((1, 2, 3)).argmin(0)  # (D,)
    return torch.stack([whole[int(way), ..., d] for d, way in enumerate(best)], -1).to(targets)


def _least_squares(features: Tensor, targets: Tensor, weight: Tensor) -> Tensor:
    """Coefficients (F, D) of features (B, N, L, F), weights (B, N, L, 1)."""
    x, y = features.flatten(0, 2), (targets * weight).flatten(0, 2)
    normal = x.mT @ (features * weight).flatten(0, 2)
    ridge = 1e-9 * normal.diagonal() + 1e-12 * normal.diagonal().max().clamp_min(1e-300)
    return torch.linalg.solve(normal + torch.diag(ridge), x.mT @ y)


def _linear(values: Tensor, counts: Tensor, x: Tensor) -> Tensor:
    """What of values (B, N, L, D) is linear in functions (B, N, D, L, A) of an entity, (B, N, L, D)."""
    weighted = x * counts.mT.unsqueeze(-1)
    normal = x.mT @ weighted
    size = normal.diagonal(dim1=-2, dim2=-1).clamp_min(1e-20)
    return (
        (x @ torch.linalg.solve(normal + torch.diag_embed(1e-9 * size), weighted.mT @ values.mT.unsqueeze(-1)))
        .squeeze(-1)
        .mT
    )


def _level(values: Tensor, counts: Tensor) -> Tensor:
    return (values * counts).sum(2, keepdim=True) / counts.sum(2, keepdim=True).clamp_min(1)


def in_pieces(states: Tensor, mask: Tensor | None, groups: Tensor, judges: int) -> tuple[Tensor, Tensor | None, Tensor]:
    """Tasks that share structures, cut so that there are `PIECES` of those that judge, if they are long enough."""
    b, n, t, d = states.shape
    number = min(-(-PIECES // judges), t // PIECE)
    if number < 2:
        return states, mask, groups
    size = t // number
    states = states[:, :, : number * size].reshape(b, n, number, size, d).transpose(1, 2).flatten(0, 1)
    if mask is not None:
        mask = torch.nn.functional.pad(mask, (0, 1))[..., : number * size].reshape(b, n, number, size)
        mask = mask.transpose(1, 2).flatten(0, 1)[..., :-1]
    return states, mask, groups.repeat_interleave(number)


def exchange(tasks: int, entities: int, generator: torch.Generator, groups: Tensor | None = None) -> Tensor:
    """Task from which every entity takes its recording, (B, N); each recording is taken once.

    Entities of a task come from different ones, as far as there are enough (of its group).
    """
    index = torch.zeros(tasks, dtype=torch.long) if groups is None else groups.cpu()
    origin = torch.empty(tasks, entities, dtype=torch.long)
    for group in index.unique():
        ids = (index == group).nonzero().squeeze(1)
        m = len(ids)
        shift = torch.randperm(m, generator=generator, device=generator.device).cpu()[torch.arange(entities) % m]
        origin[ids] = ids[(torch.arange(m).unsqueeze(1) + shift) % m]
    return origin


def at_random(tasks: int, entities: int, generator: torch.Generator) -> Tensor:
    """The same, each entity's tasks in any order: some may meet partners of their own.

    Scenes as they are differ from such draws as these do from one another, if nobody acts on anybody; so the spread of
    draws tells by how much chance makes them differ (a permutation test). Without any own partners they would not.
    """
    order = [torch.randperm(tasks, generator=generator, device=generator.device) for _ in range(entities)]
    return torch.stack(order, 1)


def places(groups: Tensor) -> Tensor:
    """Place of every task within its group, (B,)."""
    place = torch.empty_like(groups)
    for group in groups.unique():
        mine = groups == group
        place[mine] = torch.arange(int(mine.sum()), device=groups.device)
    return place


def mean_gain(values: Tensor) -> Gain:
    """Gains of tasks (B,) together."""
    error = float(values.std() / len(values) ** 0.5) if len(values) > 1 else float("inf")
    return Gain(float(values.mean()), error, len(values) - 1)


def with_error(gain: Gain, variance: float, freedom: int) -> Gain:
    """A gain with a further error of so many degrees of freedom; those of both by Satterthwaite (1946)."""
    square = gain.error**2
    both = square**2 / max(gain.freedom, 1) + variance**2 / freedom
    together = (square + variance) ** 2 / both if both > 0 else min(gain.freedom, freedom)
    return Gain(gain.mean, (square + variance) ** 0.5, int(together))


def _distances(model: RelationalModel, states: Tensor) -> Tensor:
    few = max(1, 200 // states.shape[1] ** 2)
    return distances(model.dynamics.messages(states[:few]))


def _agreement(halves: Halves, apart: Tensor) -> float:
    k = len(apart)
    if k == 1:  # tells nobody apart
        return 0.0
    first, second = (of.edge_modules.flatten() for of in halves.structures)
    return float(agreement(torch.bincount(first * k + second, minlength=k * k).view(k, k), apart))
