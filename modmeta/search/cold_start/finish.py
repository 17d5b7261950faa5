"""Laws of kinds from all tasks, residuals weighed by Student-t weights; steep laws by annealing.

Letters: E = B N receivers, L intervals, C channels, F features of a pair, K kinds.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from modmeta.search.cold_start.data import Data, Sum, by_task, numbers_of, tables_of, weighed
from modmeta.search.cold_start.grams import Columns, Grams, centred, grams, own_sums, residuals
from modmeta.search.cold_start.records import Form
from modmeta.search.cold_start.refine import solve_own
from modmeta.search.cold_start.scales import BINS, Scales, importance, log_activity, measure_scales
from modmeta.search.cold_start.structures import (
    WAVY,
    Kinds,
    Posterior,
    as_told,
    explain,
    fit_kinds,
    fit_known,
    rounds_of,
    spread_of,
)

__all__ = ["NUMBERS", "finish", "gain_by_frames"]

STEEP_ROUNDS, HEAT, COOL = 20, 300.0, 0.6  # of the annealing that finishes steep laws; its temperatures
SMALL = 1e-3  # of a typical change, not worth explaining
NUMBERS = 100_000_000  # in Gram matrices of what laws are finished on, at most
FEWEST, PER = 50, 500  # tasks, and numbers to explain for every coefficient, that finish steep laws as well as more
ROWS = 4  # numbers for every row, module and pair of senders, where strengths differ, at most
MOST_PARTS = 20  # of groups, from which laws are finished


class _Finished(NamedTuple):
    kinds: Kinds
    temperature: float
    scales: Scales
    left: Tensor  # residuals, (E, L, C)
    spread: Tensor  # of strengths


def finish(form: Form, kinds: Kinds, data: Data, generator: torch.Generator) -> tuple[Kinds, float, Scales, Tensor]:
    """Kinds' laws from all tasks, Student-t weights; the temperature that residuals' correlation asks for; scales;
    what strengths vary along, see `spread_of`.

    Steep laws are finished twice, also by annealing: collisions tell some edges beyond doubt, and the laws at a
    distance come from receivers whose edges are all told, so that the quiet rest is not taken for whatever the first
    laws had there. The way that gains more over no relations is kept: where the quiet rest is exact, annealing may end
    in no relations. Steep laws come from as many tasks as they need; wide ones from as many as memory holds.
    """
    (n, t), (k, f), steep = data.states.shape[1:3], kinds.laws.shape, form.basis.family.right == "steep"
    if data.groups is None:
        each = numbers_of(n, form.kind, form.basis)
        most = NUMBERS // (n * (max(each, ROWS * k**n * (n - 1) ** 2) if form.strengths else each))
        if steep:
            most = min(most, max(FEWEST, PER * (k * f + len(kinds.own)) // (n * t * form.kind.coordinates)))
        data = data.part(slice(max(1, most)))
    else:
        data = data.part(slice(MOST_PARTS * data.parts()[0].stop))
        data = data if data.slots is not None else data.few(NUMBERS // (4 * f**2), generator)
    tables = tables_of(data, form)
    without = _without(form, tables)
    best = _finished(form, kinds, data, tables, without, steep=False)
    if steep:
        ways = [best, _finished(form, kinds, data, tables, without, steep=True)]
        best = max(ways, key=lambda way: gain_by_frames(way.left, without))
    return best.kinds, best.temperature, best.scales, best.spread


def _finished(
    form: Form, kinds: Kinds, data: Data, tables: list[Columns], without: Tensor, *, steep: bool
) -> _Finished:
    tasks, sizes = data.number, [len(table.target) for table in tables]
    weight = torch.cat([table.weight for table in tables])
    needed = weight * (without > SMALL * without.mean()).unsqueeze(-1)  # exact frames say nothing of a law's errors
    weigh = torch.ones_like(weight)
    for step in range(STEEP_ROUNDS if steep else 3):
        weighted = [weighed(table, form, u) for table, u in zip(tables, weigh.split(sizes), strict=True)]
        total = Sum(data)  # a few tasks at a time: Gram matrices of all receivers of all tasks of a group are many
        for table, part in zip(weighted, data.parts(), strict=True):
            total.add(grams(table), part)
        sums = total.total
        heat = 1 + HEAT * COOL**step if steep else 1.0
        if data.slots is not None:
            kinds, beliefs = fit_known(sums, data.slots, WAVY), as_told(sums)
        else:
            kinds = _from_sure(sums, kinds, tasks, heat) if steep else _more_rounds(sums, kinds, tasks)
            beliefs = explain(sums, kinds, tasks, temperature=heat)[0]
        sent = by_task(beliefs.sent, data).split(sizes)
        lefts = [residuals(table, q @ kinds.laws, kinds.own) for table, q in zip(weighted, sent, strict=True)]
        left = torch.cat(lefts) * weight.sqrt()
        activity = torch.cat([log_activity(table, kinds) for table in tables])
        scales = measure_scales(left, needed, activity, BINS if steep else 1)
        weigh = importance(scales, left, activity)
    temperature = _inflation(left * (weigh.sqrt() if steep else 1.0), weight)
    return _Finished(kinds, temperature, scales, left, spread_of(sums, kinds))


def _without(form: Form, tables: list[Columns]) -> Tensor:
    """What models without relations leave of every frame, (E, L): no law, a constant, or the own part, the least."""
    weighted = [weighed(table, form, torch.ones_like(table.weight)) for table in tables]
    own = solve_own(torch.stack([own_sums(table) for table in weighted]).sum(0))
    ways = [
        [table.target for table in tables],
        [centred(table, table.weight).target for table in tables],
        [table.target - table.own @ own for table in weighted],
    ]
    weight = torch.cat([table.weight for table in tables])
    return torch.stack([(torch.cat(way).square() * weight).sum(-1) for way in ways]).amin(0).sqrt()


def gain_by_frames(left: Tensor, without: Tensor) -> float:
    """Nats a frame gained by residuals (E, L, C) over what models without relations leave, (E, L).

    Frames count by the root of that. So those that need no law, as of bodies far apart, count for nothing, however
    exactly laws foretell them, and a few collisions do not decide.
    """
    floor, weight = SMALL * without.mean() + 1e-300, without.sqrt()
    gain = ((without + floor) / (left.square().sum(-1).sqrt() + floor)).log()
    return float((weight * gain).sum() / weight.sum().clamp_min(1e-300))


def _more_rounds(sums: Grams, kinds: Kinds, tasks: int) -> Kinds:
    posterior, pairs = explain(sums, kinds, tasks)
    return rounds_of(sums, kinds._replace(pairs=pairs), posterior, tasks, 5)


def _from_sure(sums: Grams, kinds: Kinds, tasks: int, heat: float) -> Kinds:
    """Laws from receivers all of whose edges are told at temperature `heat`, mostly."""
    posterior, pairs = explain(sums, kinds, tasks, temperature=heat)
    sure = (2 * posterior.slots.amax(-1) - 1).amin(-1).clamp_min(1e-3).square()
    return fit_kinds(*_counted(sums, posterior, sure), pairs)


def _counted(sums: Grams, beliefs: Posterior, by: Tensor) -> tuple[Grams, Posterior]:
    """Receivers that count more or less, `by` (E,); products of pairs, which are many, stay as they are."""
    square = by.view(-1, 1, 1)
    beliefs = beliefs._replace(sent=beliefs.sent * square, second=beliefs.second * square)
    return sums._replace(own=sums.own * square, targets=sums.targets * by), beliefs


def _inflation(left: Tensor, weight: Tensor) -> float:
    """How many times more frames there are than independent ones, from the correlation of neighbours."""
    clipped = left.clamp(-3 * left.abs().median() - 1e-30, 3 * left.abs().median() + 1e-30) * (weight > 0)
    if left.shape[1] < 3:
        return 1.0
    alike = (clipped[:, 1:] * clipped[:, :-1]).sum() / clipped.square().sum().clamp_min(1e-300)
    alike = alike.clamp(0, 0.95)
    return float((1 + alike) / (1 - alike))
