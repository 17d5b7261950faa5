"""Gains of laws fitted in closed form where frames are few: every frame judges once, by laws and structures of others.

Validation tasks are a fifth of the data, which may be too little to tell gains from chance. Laws linear in functions of
a pair are fitted in a moment, so that a quarter of the tasks at a time judges what the rest tells. The nulls are those
of `modmeta.evaluation.nulls`; where partners are exchanged, laws are fitted anew.

Letters: B tasks, G groups, N entities, S senders, T frames, L intervals, C channels, E = B N receivers, K kinds.
"""

import torch
from torch import Tensor

from modmeta.data.transforms.smoothing import smoothed
from modmeta.evaluation.nulls import (
    FEWEST,
    Compared,
    alone,
    exchange,
    gains,
    in_pieces,
    mean_gain,
    places,
    with_error,
)
from modmeta.search.cold_start import Start
from modmeta.search.cold_start.certainty import kappa
from modmeta.search.cold_start.data import Data, by_task, numbered, steps_of, sums_of, table_of
from modmeta.search.cold_start.grams import centred, residuals
from modmeta.search.cold_start.judging import kinds_of_sums
from modmeta.search.cold_start.structures import Kinds, explain
from modmeta.search.cold_start.weak_form import averaged, straightened

FOLDS, DRAWS = 4, 6  # parts of the tasks; exchanges of partners


@torch.no_grad()
def crossed(start: Start, states: Tensor, groups: Tensor, seed: int = 0) -> Compared | None:
    """Laws of a cold start's form, fitted again, compared with both nulls; None where there are too few tasks.

    Args:
        start: whose form of law and number of kinds are taken.
        states: of all tasks that may judge, (B, N, T, D), in the units of those it was made from, without gaps.
        groups: of tasks, (B,), which share structures.
        seed: of starts of laws and of exchanges.
    """
    form, generator = start.form, torch.Generator().manual_seed(seed)
    states, _, groups = in_pieces(smoothed(straightened(states, form.kind), form.smoothing), None, groups, len(states))
    of = numbered(groups)
    assert of is not None
    (b, n), everyone = states.shape[:2], torch.arange(states.shape[1])
    if int(of.bincount().min()) < FEWEST:
        return None
    data = Data(states, None, of)
    fold = places(of) * FOLDS // of.bincount()[of]
    real, alike = _told(start, data, fold, generator)
    targets, without = _alone(data, start)
    counts = torch.ones_like(targets)
    none, over, kappas = gains(real, without, without, targets, counts), [], []
    for _ in range(DRAWS):
        origin, error = exchange(b, n, generator, of), torch.empty_like(real)
        error[origin, everyone], same = _told(start, data._replace(states=states[origin, everyone]), fold, generator)
        over.append(gains(real, error, without, targets, counts))
        kappas.append(same)
    by_draw = torch.stack(over)  # (draws, B)
    if not bool(by_draw.isfinite().all() and none.isfinite().all()):
        return None
    spread = float(by_draw.mean(1).var() * (1 + 1 / DRAWS))
    exchanged = with_error(mean_gain(by_draw.mean(0)), spread, DRAWS - 1)
    return Compared(mean_gain(none), exchanged, alike, sum(kappas) / DRAWS, b)


def _told(start: Start, data: Data, fold: Tensor, generator: torch.Generator) -> tuple[Tensor, float]:
    """Errors (B, N, L, C) of tasks by laws and structures of the other folds, and the agreement of two halves."""
    error = torch.empty(0)
    for one in fold.unique().tolist():
        rest, judges = (fold != one).nonzero().squeeze(1), (fold == one).nonzero().squeeze(1)
        kinds, slots = _fitted(start, data.part(rest), generator)
        left = _errors(data.part(judges), start, kinds, slots)
        error = error if len(error) else left.new_empty(len(fold), *left.shape[1:])
        error[judges] = left
    kinds, _ = _fitted(start, data, generator)
    one, other = (_slots(start, data.part(half.nonzero().squeeze(1)), kinds) for half in (fold < 2, fold >= 2))
    return error, kappa(one.argmax(-1), other.argmax(-1), len(kinds.laws))


def _fitted(start: Start, data: Data, generator: torch.Generator) -> tuple[Kinds, Tensor]:
    """Kinds' laws from random starts, and what they tell of structures, (G N, S, K)."""
    laws, number = len(start.laws.coefficients[0]), len(start.kinds.laws)
    sums = sums_of(data, start.form)
    kinds = kinds_of_sums(start.form, sums, data.number, laws, number, generator)
    return kinds, explain(sums, kinds, data.number, temperature=start.temperature)[0].sent


def _slots(start: Start, data: Data, kinds: Kinds) -> Tensor:
    return explain(sums_of(data, start.form), kinds, data.number, temperature=start.temperature)[0].slots


def _errors(data: Data, start: Start, kinds: Kinds, slots: Tensor) -> Tensor:
    """Errors (B, N, L, C), structures (G N, S, K) given."""
    parts = []
    for tasks in data.parts():
        few = data.part(tasks)
        table = table_of(few, start.form)
        table = centred(table, table.weight) if start.form.constants else table
        sent = by_task(slots, data).unflatten(0, data.states.shape[:2])[tasks].flatten(0, 1)
        parts.append(residuals(table, sent @ kinds.laws, kinds.own).unflatten(0, few.states.shape[:2]))
    return torch.cat(parts)


def _alone(data: Data, start: Start) -> tuple[Tensor, Tensor]:
    """Targets (B, N, L, C), and errors without relations."""
    steps = steps_of(data, start.form)
    targets = steps.targets
    return targets, alone(targets, averaged(steps), torch.ones_like(targets), start.form.constants)
