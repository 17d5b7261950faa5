"""What a cold start's laws say of tasks: structures, weights and constants; of groups, structures that tasks share.

Letters: B tasks, N entities, S senders, T frames, L intervals, D features, E = B N receivers, G groups, R laws,
K kinds, F features of a pair.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from modmeta.data.transforms.smoothing import smoothed
from modmeta.search.cold_start.data import CHUNK, Data, Sum, numbered, table_of, weighed
from modmeta.search.cold_start.far import told
from modmeta.search.cold_start.grams import Columns, Grams, grams, residuals
from modmeta.search.cold_start.records import Answer, Start
from modmeta.search.cold_start.refine import Laws, laws_of, solve_weights
from modmeta.search.cold_start.scales import importance, log_activity
from modmeta.search.cold_start.structures import Kinds, Posterior, explain
from modmeta.search.cold_start.weak_form import straightened

__all__ = ["halves", "infer", "left_of", "nothing"]


def infer(start: Start, states: Tensor, seen: Tensor | None = None, groups: Tensor | None = None) -> Answer:
    """Structures, weights and constants of tasks, laws given.

    Args:
        start: a cold start's result.
        states: (B, N, T, D) in the units of those it was made from.
        seen: where entities were observed, (B, N, T).
    """
    form, joined = start.form, None if seen is None else seen[..., 1:] & seen[..., :-1]
    data = Data(smoothed(straightened(states, form.kind), form.smoothing, joined), seen, numbered(groups))
    if data.groups is not None:
        found = _infer_groups(start, data, data.groups)
        return found if start.slow is None else _by_steps(start, found, data, data.groups)
    parts = [_infer(start, data.part(slice(i, i + CHUNK))) for i in range(0, len(states), CHUNK)]
    return Answer(*(torch.cat(list(part)) for part in zip(*parts, strict=True)))


def nothing() -> Answer:
    return Answer(*[torch.zeros(0)] * 7)


def _infer(start: Start, data: Data) -> Answer:
    form, kinds, shared = start.form, start.kinds, start.laws.coefficients[0]
    b, n = data.states.shape[:2]
    table, u, sums, posterior = _explained(start, data)
    reduced, free = _among(kinds, shared)
    weights = solve_weights(sums, free, form.ridge, start.mean)[0][0]
    structures = posterior.slots.argmax(-1)
    constants = torch.zeros_like(table.target[:, 0])
    if form.constants:
        weight = table.weight * u
        left = residuals(table, _padded(posterior.likeliest, shared), reduced.own) * weight
        constants = left.sum(1) / weight.sum(1).clamp_min(1e-12)
    by_entity = (
        weights, posterior.slots, structures, posterior.slots.amax(-1), constants, u,
        posterior.likeliest @ kinds.laws,
    )  # fmt: skip
    return Answer(*(part.view(b, n, *part.shape[1:]) for part in by_entity))


def _infer_groups(start: Start, data: Data, groups: Tensor) -> Answer:
    """Structures of groups; only constants and importance are of tasks."""
    form, kinds, (b, n) = start.form, start.kinds, data.states.shape[:2]
    shared = start.laws.coefficients[0]
    reduced, free = _among(kinds, shared)
    slots: Tensor | None = None
    for _ in range(3):  # passes over all tasks, weighted by the errors of the structures before
        parts, own, weigh = Sum(data), [], []
        for tasks in data.parts():
            table = table_of(data.part(tasks), form)
            activity = log_activity(table, kinds)
            table = _by_messages(table, kinds, shared)
            u = importance(start.scales, None, activity).expand_as(table.weight)
            if slots is not None:
                mine = _padded(slots[groups[tasks]].flatten(0, 1), shared)
                left = residuals(weighed(table, form, u), mine, reduced.own)
                u = importance(start.scales, left * table.weight.sqrt(), activity)
                weight = table.weight * u
                own.append((residuals(table, mine, reduced.own) * weight).sum(1) / weight.sum(1).clamp_min(1e-12))
            weigh.append(u)
            parts.add(grams(weighed(table, form, u)), tasks)
        posterior, _ = explain(parts.total, reduced, data.number, temperature=start.temperature)
        slots = posterior.slots.unflatten(0, (data.number, n))
    weights = solve_weights(parts.total, free, form.ridge, start.mean)[0][0]
    structures = posterior.slots.argmax(-1)
    by_entity = (weights, posterior.slots, structures, posterior.slots.amax(-1), kinds.laws[structures])
    weights, slots, structures, certainty, laws = (part.unflatten(0, (data.number, n)) for part in by_entity)
    constants, u = (torch.cat(part).unflatten(0, (b, n)) for part in (own, weigh))
    return Answer(weights, slots, structures, certainty, constants * form.constants, u, laws)


def _by_steps(start: Start, found: Answer, data: Data, groups: Tensor) -> Answer:
    """The same with structures by `search.slow`."""
    assert start.slow is not None
    log_odds = told(data.states, data.seen, groups, data.number, start.slow)
    chances, related = torch.sigmoid(torch.stack([-log_odds, log_odds], -1)), (log_odds > 0).long()
    return found._replace(
        weights=log_odds.unsqueeze(-1), probabilities=chances, structures=related,
        certainty=chances.amax(-1), coefficients=start.kinds.laws[related],
    )  # fmt: skip


def _among(kinds: Kinds, shared: Tensor) -> tuple[Kinds, Laws]:
    """Kinds and shared laws (R, F) where columns are the messages of all of them, and the own part is taken out."""
    (k, _), r, none = kinds.laws.shape, len(shared), torch.zeros_like(kinds.own[:1])
    one = torch.eye(k + r, dtype=shared.dtype, device=shared.device)
    laws = laws_of(torch.ones_like(one[None, k:, :1]), one[None, k:], none[None])
    return kinds._replace(laws=one[:k], own=none), laws


def _explained(start: Start, data: Data) -> tuple[Columns, Tensor, Grams, Posterior]:
    """Columns that are messages, weights of intervals, sums and beliefs; laws given, tasks few."""
    form, kinds, shared = start.form, start.kinds, start.laws.coefficients[0]
    table = table_of(data, form)
    activity = log_activity(table, kinds)
    table, (reduced, _) = _by_messages(table, kinds, shared), _among(kinds, shared)
    u = importance(start.scales, None, activity)
    for step in range(4):
        sums = grams(weighed(table, form, u))
        posterior, _ = explain(sums, reduced, len(data.states), temperature=start.temperature)
        if step < 3:
            left = residuals(weighed(table, form, u), _padded(posterior.sent, shared), reduced.own)
            u = importance(start.scales, left * table.weight.sqrt(), activity)
    return table, u, sums, posterior


def left_of(start: Start, states: Tensor, features: list[int]) -> Tensor:
    """Logarithm of the mean squares that laws leave of changes of some features, in their own units, (B, N).

    States (B, N, T, D) are those that the start was made from, and few; each has a structure of its own. What numbers
    of entities' own would leave of chance alone is taken into account.
    """
    form, kinds = start.form, start.kinds
    table, u, _, posterior = _explained(
        start, Data(smoothed(straightened(states, form.kind), form.smoothing), None, None)
    )
    reduced, _ = _among(kinds, start.laws.coefficients[0])
    left = residuals(weighed(table, form, u), _padded(posterior.likeliest, start.laws.coefficients[0]), reduced.own)
    moving = list(range(form.kind.coordinates, states.shape[-1])) if form.kind.second_order else form.kind.changing
    left = left[..., [moving.index(at) for at in features]] * form.units.scale[features] * form.units.step
    intervals, own = left.shape[1], form.constants if table.alone is None else table.alone.shape[-1]
    return (left.square().sum((1, 2)) / max(intervals - own, 1) + 1e-300).log().view(states.shape[:2])


def halves(start: Start, data: Data) -> Callable[[float], tuple[Tensor, Tensor]]:
    """Function of a temperature to beliefs from the first and from the last frames."""
    table, u, _, _ = _explained(start, data)
    first = (torch.arange(u.shape[1], device=u.device) < u.shape[1] // 2).to(u).view(1, -1, 1)
    parts = [grams(weighed(table, start.form, u * of)) for of in (first, 1 - first)]
    kinds = _among(start.kinds, start.laws.coefficients[0])[0]

    def beliefs(temperature: float) -> tuple[Tensor, Tensor]:
        of = [explain(part, kinds, len(data.states), temperature=temperature)[0].slots for part in parts]
        return of[0], of[1]

    return beliefs


def _by_messages(table: Columns, kinds: Kinds, shared: Tensor) -> Columns:
    """Columns that are the messages of kinds and of shared laws (R, F), the own part taken out of the target."""
    return table._replace(
        pair=table.sent(torch.cat([kinds.laws, shared])),
        apart=False,
        target=table.target - table.own @ kinds.own,
        own=torch.zeros_like(table.own[..., :1]),
    )


def _padded(slots: Tensor, shared: Tensor) -> Tensor:
    """Coefficients (E, S, K + R) of such columns."""
    return torch.nn.functional.pad(slots, (0, len(shared)))
