"""Laws of kinds from all tasks, residuals weighed by Student-t weights; steep laws by annealing.

Letters: E = B N receivers, L intervals, C channels, F features of a pair, K kinds.
"""

import torch
from torch import Tensor

from modmeta.search.cold_start.data import Data, by_task, numbers_of, pooled_of, tables_of, weighed
from modmeta.search.cold_start.grams import Grams, grams, joined, residuals
from modmeta.search.cold_start.records import Form
from modmeta.search.cold_start.scales import BINS, Scales, importance, log_activity, measure_scales
from modmeta.search.cold_start.structures import Kinds, explain, fit_kinds, rounds_of

__all__ = ["NUMBERS", "finish"]

STEEP_ROUNDS, HEAT, COOL = 20, 300.0, 0.6  # of the annealing that finishes steep laws; its temperatures
NUMBERS = 100_000_000  # in Gram matrices of what laws are finished on, at most
MOST_PARTS = 20  # of groups, from which laws are finished


def finish(form: Form, kinds: Kinds, data: Data, generator: torch.Generator) -> tuple[Kinds, float, Scales]:
    """Kinds' laws from all tasks, Student-t weights; the temperature that residuals' correlation asks for; scales.

    Steep laws are finished by annealing: collisions tell some edges beyond doubt, and the laws at a distance come from
    receivers whose edges are all told, so that the quiet rest is not taken for whatever the first laws had there.
    Wide laws come from fewer tasks, as many as memory holds.
    """
    n, f = data.states.shape[1], kinds.laws.shape[1]
    if data.groups is None:
        data = data.part(slice(max(1, NUMBERS // (n * numbers_of(n, form.kind, form.basis)))))
    else:
        data = data.part(slice(MOST_PARTS * data.parts()[0].stop)).few(NUMBERS // (4 * f**2), generator)
    tables, tasks = tables_of(data, form), data.number
    sizes, steep = [len(table.target) for table in tables], form.basis.family.right == "steep"
    weight = torch.cat([table.weight for table in tables])
    weigh = torch.ones_like(weight)
    for step in range(STEEP_ROUNDS if steep else 3):
        weighted = [weighed(table, form, u) for table, u in zip(tables, weigh.split(sizes), strict=True)]
        sums = pooled_of(joined([grams(table) for table in weighted]), data)
        heat = 1 + HEAT * COOL**step if steep else 1.0
        kinds = _sure_rounds(sums, kinds, tasks, heat) if steep else _more_rounds(sums, kinds, tasks)
        slots = by_task(explain(sums, kinds, tasks, temperature=heat)[0].slots, data).split(sizes)
        lefts = [residuals(table, q @ kinds.laws, kinds.own) for table, q in zip(weighted, slots, strict=True)]
        left = torch.cat(lefts) * weight.sqrt()
        activity = torch.cat([log_activity(table, kinds) for table in tables])
        scales = measure_scales(left, weight, activity, BINS if steep else 1)
        weigh = importance(scales, left, activity)
    return kinds, _inflation(left * (weigh.sqrt() if steep else 1.0), weight), scales


def _more_rounds(sums: Grams, kinds: Kinds, tasks: int) -> Kinds:
    posterior, pairs = explain(sums, kinds, tasks)
    return rounds_of(sums, kinds._replace(pairs=pairs), posterior, tasks, 5)


def _sure_rounds(sums: Grams, kinds: Kinds, tasks: int, heat: float) -> Kinds:
    """Laws from receivers all of whose edges are told at temperature `heat`, mostly."""
    for _ in range(3):
        posterior, pairs = explain(sums, kinds, tasks, temperature=heat)
        sure = (2 * posterior.slots.amax(-1) - 1).amin(-1).clamp_min(1e-3).square()
        kinds = fit_kinds(sums.scaled(sure), posterior, pairs)
    return kinds


def _inflation(left: Tensor, weight: Tensor) -> float:
    """How many times more frames there are than independent ones, from the correlation of neighbours."""
    clipped = left.clamp(-3 * left.abs().median() - 1e-30, 3 * left.abs().median() + 1e-30) * (weight > 0)
    if left.shape[1] < 3:
        return 1.0
    alike = (clipped[:, 1:] * clipped[:, :-1]).sum() / clipped.square().sum().clamp_min(1e-300)
    alike = alike.clamp(0, 0.95)
    return float((1 + alike) / (1 - alike))
