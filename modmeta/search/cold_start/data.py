"""Trajectories of a cold start and their sums: a few tasks at a time, pooled over the tasks of a group.

Letters: B tasks, N entities, T frames, D features, E = B N receivers, L intervals, C channels, G groups.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from modmeta.search.cold_start.features import Basis, columns
from modmeta.search.cold_start.grams import Columns, Grams, added, centred, grams, joined, pooled
from modmeta.search.cold_start.records import Form
from modmeta.search.cold_start.weak_form import Kind, Steps, steps

__all__ = [
    "Data",
    "Sum",
    "by_task",
    "changes_of",
    "held_out",
    "numbered",
    "numbers_of",
    "split_sums_of",
    "steps_of",
    "sums_of",
    "table_of",
    "tables_of",
    "weighed",
]

CHUNK = 64  # tasks whose features are held at once, and fewer where those of all pairs, frames and features are more
MOST_NUMBERS = 200_000  # than that


class Data(NamedTuple):
    states: Tensor
    seen: Tensor | None
    groups: Tensor | None  # of every task, (B,), from 0; None where every task has a structure of its own
    receivers: Tensor | None = None  # whose rows are looked at; None for all
    slots: Tensor | None = None  # kinds of senders, (G, N, S, K), whose columns are then summed; None if unknown
    parted: bool = False  # whether sums are those of frames that fit, since others of the same tasks judge

    def part(self, tasks: Tensor | slice) -> "Data":
        """Some of the tasks; their groups are numbered anew."""
        seen, groups, slots = None if self.seen is None else self.seen[tasks], None, None
        if self.groups is not None:
            of, groups = self.groups[tasks].unique(return_inverse=True)
            slots = None if self.slots is None else self.slots[of]
        return Data(self.states[tasks], seen, groups, self.receivers, slots)

    def parts(self) -> "list[slice]":
        """Few tasks at a time, for memory."""
        n, t, d = self.states.shape[1:]
        size = max(1, min(CHUNK, MOST_NUMBERS // (n * n * t * d)))
        return [slice(i, i + size) for i in range(0, len(self.states), size)]

    def few(self, numbers: int, generator: torch.Generator) -> "Data":
        """As many receivers, drawn at random, as so many pairs of senders, or their features, have room for."""
        n = self.states.shape[1]
        most = max(2, numbers // (self.number * (n - 1) ** 2))
        if self.groups is None or most >= n:
            return self
        return self._replace(receivers=torch.randperm(n, generator=generator)[:most].sort().values)

    def products(self, kind: Kind, basis: Basis) -> int:
        """Numbers of the Gram matrices of all receivers."""
        n = self.states.shape[1]
        receivers = n if self.receivers is None else len(self.receivers)
        return self.number * receivers * numbers_of(n, kind, basis)

    @property
    def number(self) -> int:
        """How many structures there are."""
        return len(self.states) if self.groups is None else int(self.groups.max()) + 1


def numbered(groups: Tensor | None) -> Tensor | None:
    return None if groups is None else groups.unique(return_inverse=True)[1]


def numbers_of(entities: int, kind: Kind, basis: Basis) -> int:
    """Of a receiver's Gram matrix; every channel of plain states has a block of its own."""
    blocks = 1 if kind.coordinates else len(kind.changing)
    return ((entities - 1) * basis.left.shape[1] * basis.right.shape[1]) ** 2 // blocks


def steps_of(data: Data, form: Form) -> Steps:
    growth = form.basis.family.growth
    return steps(data.states, form.kind, form.units, smooth=form.smooth, growth=growth, seen=data.seen, link=form.link)


def table_of(data: Data, form: Form) -> Columns:
    """Columns of senders; where structures are known, of kinds of senders together."""
    table = columns(form.basis, form.kind, steps_of(data, form), data.receivers, form.slopes, form.shapes)
    if form.free:
        table = table._replace(own=torch.zeros_like(table.own))
    if data.slots is None or data.groups is None:
        return table
    slots = data.slots if data.receivers is None else data.slots[:, data.receivers]
    return table._replace(pair=torch.einsum("eslcf,esk->eklcf", table.pair, slots[data.groups].flatten(0, 1)))


def held_out(length: int, device: torch.device) -> Tensor:
    """Which intervals judge: the second and the last fifth, early and late alike; of two intervals the last."""
    fifth = torch.arange(length, device=device) * 5 // max(length, 1)
    judges = (fifth == 1) | (fifth == 4)
    return judges if length > 2 else fifth == fifth.amax()


class Sum:
    """Gram matrices of some tasks after the others: of all receivers, or summed over the tasks of a group."""

    def __init__(self, data: Data) -> None:
        self.data = data
        self.parts: list[Grams] = []

    def add(self, one: Grams, tasks: slice) -> None:
        if self.data.groups is None:
            self.parts.append(one)
            return
        one = pooled(one, self.data.groups[tasks], self.data.number)
        self.parts = [added(sums, one) for sums in self.parts] or [one]

    @property
    def total(self) -> Grams:
        return joined(self.parts)


def sums_of(data: Data, form: Form) -> Grams:
    """Gram matrices, pooled over the tasks of a group; of frames that fit where data are parted."""
    if data.parted:
        return split_sums_of(data, form)[0]
    total = Sum(data)
    for tasks in data.parts():
        table = table_of(data.part(tasks), form)
        total.add(grams(centred(table, table.weight) if form.constants else table), tasks)
    return total.total


def split_sums_of(data: Data, form: Form) -> tuple[Grams, Grams]:
    """The same of the frames that fit, from which constants of entities come, and of those that judge."""
    fitting, judging = Sum(data), Sum(data)
    for tasks in data.parts():
        table = table_of(data.part(tasks), form)
        judges = held_out(table.target.shape[1], table.target.device).view(1, -1, 1)
        fit = table.weight * ~judges
        table = centred(table, fit) if form.constants else table
        fitting.add(grams(_some(table._replace(weight=fit), ~judges)), tasks)
        judging.add(grams(_some(table, judges)), tasks)
    return fitting.total, judging.total


def _some(table: Columns, intervals: Tensor) -> Columns:
    """Columns of some intervals."""
    at = intervals.flatten().nonzero().squeeze(1)
    pair, own, target, weight = table.pair[:, :, at], table.own[:, at], table.target[:, at], table.weight[:, at]
    return Columns(pair, own, target, weight, table.apart)


def changes_of(data: Data, form: Form) -> Tensor:
    """Mean squared change of every receiver in the frames that judge, less its mean: (B N,), or of groups (G N,).

    In the unit of residuals, and the same for all families.
    """
    plain = steps(data.states, form.kind, form.units, smooth=form.smooth, seen=data.seen)
    seen = plain.seen.unsqueeze(-1)  # (B, N, L, 1)
    judges = seen * held_out(seen.shape[2], seen.device).to(seen).view(-1, 1)
    mean = (plain.targets * seen).sum(2, keepdim=True) / seen.sum(2, keepdim=True).clamp_min(1)
    square = ((plain.targets - mean).square() * plain.weight * judges).sum((2, 3)) / (
        judges.sum((2, 3)) * mean.shape[-1]
    ).clamp_min(1)
    square = square if data.receivers is None else square[:, data.receivers]
    if data.groups is None:
        return square.flatten()
    count = torch.bincount(data.groups, minlength=data.number).unsqueeze(1)
    return (square.new_zeros(data.number, square.shape[1]).index_add_(0, data.groups, square) / count).flatten()


def tables_of(data: Data, form: Form) -> list[Columns]:
    return [table_of(data.part(tasks), form) for tasks in data.parts()]


def weighed(table: Columns, form: Form, importance: Tensor) -> Columns:
    """Columns under weights, constants taken out."""
    weight = table.weight * importance
    return (centred(table, weight) if form.constants else table)._replace(weight=weight)


def by_task(of_receivers: Tensor, data: Data) -> Tensor:
    """What receivers of structures have, (G N, ...), for those of tasks, (B N, ...)."""
    if data.groups is None:
        return of_receivers
    return of_receivers.view(data.number, -1, *of_receivers.shape[1:])[data.groups].flatten(0, 1)
