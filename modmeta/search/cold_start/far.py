"""Groups whose structures may be told by steps as a whole: whether these foretell more than those of the laws found.

Letters: B tasks, N entities, S senders, T frames, L = T - 1 steps, D features, G groups.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from modmeta.search import halfway
from modmeta.search.cold_start.data import Data, held_out, split_sums_of, sums_of
from modmeta.search.cold_start.features import MAPPED, columns
from modmeta.search.cold_start.finish import NUMBERS
from modmeta.search.cold_start.grams import residuals
from modmeta.search.cold_start.records import Form, Start
from modmeta.search.cold_start.refine import solve_own
from modmeta.search.cold_start.structures import Kinds, explain, fit_kinds, fit_known, from_labels
from modmeta.search.cold_start.weak_form import Kind, Steps
from modmeta.search.maps import Maps, gain_of
from modmeta.search.slow import LONG, WAYS, fit, foretold_at_best, log_odds, moments, parted, scaled, sizes

__all__ = ["better_halfway", "known", "may_be_far", "rate_of", "refitted", "steepness_of_maps", "told", "way_of"]

MARGIN = 0.005  # nats a number by which a way must be ahead
MAPS = 0.2  # nats a number that maps gain, from which on steps are taken for those of maps
TASKS = 5  # from as many on, a fifth of the tasks judges instead of a fifth of the steps
SUBSTEPS = 4  # of a frame
ROOM = 10_000_000  # numbers of all senders' columns, which are summed


def _judges(tasks: int, steps: int) -> Tensor:
    """Which steps judge, (B, L): those of every fifth task, or of few tasks the second and last fifth."""
    if tasks >= TASKS:
        return (torch.arange(tasks) % 5 == 4).unsqueeze(1).expand(tasks, steps)
    return held_out(steps, torch.device("cpu")).expand(tasks, steps)


def way_of(
    states: Tensor, seen: Tensor | None, groups: Tensor, rate: Callable[[Tensor], Tensor], kind: Kind, smooth: bool
) -> str | None:
    """The way of `search.slow` that foretells held-out steps better than laws and than no relations; None for none.

    Args:
        states: (B, N, T, D), as the laws see them.
        seen: where entities were observed, (B, N, T).
        groups: group of every task, (B,), from 0; the largest is looked at.
        rate: of change of states (B, N, X, D), as laws and structures have it, a frame.
        kind: what features are; one changes.
        smooth: paths are smooth between frames: rates are integrated.
    """
    mine = groups == groups.mode().values
    counts = torch.ones_like(states[mine][:, 0, 1:, 0]) if seen is None else _steps(seen[mine])
    (changing,) = kind.changing
    values, judges = states[mine][..., changing], _judges(int(mine.sum()), states.shape[2] - 1).to(states.device)
    drives = states[mine][:, :, 0, list(kind.constant)] if kind.constant else None
    parts = [moments(values, counts * part, drives) for part in (~judges, judges)]
    if min(len(part.before) for part in parts) == 0:
        return None
    (train, unit), (judge, _) = scaled(parts[0], parts[0]), scaled(parts[1], parts[0])
    size = sizes(values, counts)[1] if states.shape[2] >= LONG else unit
    costs = {way: foretold_at_best(judge, fit(train, way)) for way in WAYS}
    without = min(foretold_at_best(judge, fit(train, way, relations=False)) for way in WAYS)
    error = (_stepped(states, rate, smooth)[mine] - states[mine][:, :, 1:])[..., changing] / size
    weight = (counts * judges).unsqueeze(1)
    square = float((error.square() * weight).sum() / (weight.sum() * states.shape[1]).clamp_min(1))
    laws = (math.log(max(square, 1e-24)) + 1) / 2
    best = min(costs, key=lambda way: costs[way])
    return best if costs[best] < min(laws, without) - MARGIN else None


def steepness_of_maps(states: Tensor, kind: Kind, seen: Tensor | None = None) -> tuple[float, ...] | None:
    """How steep functions of senders are along every feature, where steps of one group (B, N, T, D) are clearly maps.

    No law that integrates paths between frames, or has functions of one feature only, is worth trying then. None where
    laws halfway between frames say more, and for angles.
    """
    if any(kind.angles):
        return None
    steps = halfway.ends(states, None if seen is None else _steps(seen))
    if not len(steps.before):
        return None
    law = halfway.law_of(steps)
    return tuple(law.steep) if isinstance(law, Maps) and law.gain > MAPS else None


def better_halfway(start: Start, data: Data, generator: torch.Generator) -> bool:
    """Whether structures by `search.halfway` foretell held-out intervals better than those that the laws found tell.

    Both are told by the other intervals of the one group, and laws of the same form are fitted to both; and maps, where
    steps are those of maps.
    """
    assert data.groups is not None
    form, some = start.form, data.few(NUMBERS // (4 * start.kinds.laws.shape[1] ** 2), generator)
    fit, judge = split_sums_of(some, form)
    length = data.states.shape[2] - 1
    others = (~held_out(length, data.states.device)).to(data.states).expand(len(data.states), length)
    counts = torch.ones_like(others) if data.seen is None else _steps(data.seen)
    steps, judges = (halfway.ends(data.states, counts * part) for part in (others, 1 - others))
    if min(len(part.before) for part in (steps, judges)) == 0:  # no step of all entities
        return False
    law = halfway.law_of(steps)
    related = halfway.log_odds(steps, law) > 0  # (N, S)
    receivers = torch.arange(len(related), device=related.device) if some.receivers is None else some.receivers
    related = related[receivers]
    rows = [explain(fit, start.kinds, 1, temperature=start.temperature)[0].slots.argmax(-1), related.long()]
    left = [judge.left(None, solve_own(fit.own.sum(0)))]
    for structure, number in zip(rows, (len(start.kinds.laws), 2), strict=True):
        beliefs = from_labels(torch.nn.functional.one_hot(structure, number).to(data.states))
        share = beliefs.slots.mean((0, 1)).clamp_min(1e-6)
        kinds = fit_kinds(fit, beliefs, torch.outer(share, share))
        left.append(judge.left(beliefs.slots @ kinds.laws, kinds.own))
    targets = judge.targets.sum().clamp_min(1)
    without, laws, halves = (float((part.sum() / targets).clamp_min(1e-24).log()) / 2 for part in left)
    if not isinstance(law, Maps):
        return halves < min(laws, without) - MARGIN
    gains = [gain_of(law.steep, steps, judges, _spread(row, receivers), receivers) for row in rows]
    return gains[1] - gains[0] > max(halves - laws, 0.0) + MARGIN


def _spread(rows: Tensor, receivers: Tensor) -> Tensor:
    """Kinds of pairs (R, N, K) from those of senders (R, S)."""
    kinds = torch.nn.functional.one_hot(rows).double()
    sender = torch.arange(rows.shape[1], device=rows.device)
    sender = sender + (sender >= receivers.unsqueeze(1))
    spread = kinds.new_zeros(len(rows), rows.shape[1] + 1, kinds.shape[-1])
    return spread.scatter(1, sender.unsqueeze(-1).expand_as(kinds), kinds)


def told(states: Tensor, seen: Tensor | None, groups: Tensor, number: int, way: str) -> Tensor:
    """Log odds of relations, (G, N, S)."""
    found = []
    for group in range(number):
        mine = groups == group
        counts = None if seen is None else _steps(seen[mine])
        if way == "halfway":
            found.append(halfway.log_odds(halfway.ends(states[mine], counts)))
        else:
            values, drives = parted(states[mine])
            found.append(log_odds(moments(values[..., 0], counts, drives), way))
    return torch.stack(found)


def _steps(seen: Tensor) -> Tensor:
    """Steps (B, L) at both ends of which all entities were seen."""
    all_of = seen.to(torch.float64).amin(1)
    return all_of[:, 1:] * all_of[:, :-1]


def _stepped(states: Tensor, rate: Callable[[Tensor], Tensor], smooth: bool) -> Tensor:
    """States one frame later, (B, N, L, D), by Runge-Kutta steps where paths are smooth."""
    x = states[:, :, :-1]
    if not smooth:
        return x + rate(x)
    h = 1 / SUBSTEPS
    for _ in range(SUBSTEPS):
        k1 = rate(x)
        k2 = rate(x + h / 2 * k1)
        k3 = rate(x + h / 2 * k2)
        k4 = rate(x + h * k3)
        x = (x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)).nan_to_num(0.0, 1e6, -1e6).clamp(-1e6, 1e6)
    return x


def may_be_far(form: Form) -> bool:
    """Whether one number of states changes, whose rates are sums."""
    plain = not form.kind.coordinates and not any(form.kind.angles) and len(form.kind.changing) == 1
    return plain and not (form.freedoms > 1 or form.basis.family.growth or form.basis.family.saturating)


def rate_of(start: Start, groups: Tensor) -> Callable[[Tensor], Tensor]:
    """Function of states (B, N, X, D) to rates of change a frame, as laws and structures of groups have them."""
    form, units = start.form, start.form.units
    laws, constants = start.answer.coefficients[groups].flatten(0, 1), start.answer.constants

    def rate(states: Tensor) -> Tensor:
        x = (states - units.centre) / units.scale
        none = torch.zeros_like(x[..., form.kind.changing])
        ready = Steps(x.unsqueeze(2), x.new_ones(1), none, x.new_ones(x.shape[:3]), torch.ones_like(none))
        sent = -residuals(columns(form.basis, form.kind, ready), laws, start.kinds.own).view(*x.shape[:3], -1)
        rates = torch.zeros_like(x)
        rates[..., form.kind.changing] = sent + constants.unsqueeze(2)
        return rates * units.scale * units.step

    return rate


def refitted(start: Start, data: Data, related: Tensor, generator: torch.Generator) -> Kinds:
    """Laws of no relation and of a relation, structures (G, N, S) given: what forecasts begin with."""
    data = known(data, start.form, related, generator)
    assert data.slots is not None
    return fit_known(sums_of(data, start.form), data.slots)


def known(data: Data, form: Form, related: Tensor, generator: torch.Generator) -> Data:
    """The same with structures (G, N, S) given, and as many receivers as memory has room for."""
    n, t = data.states.shape[1:3]
    columns = data.parts()[0].stop * (n - 1) * t * form.basis.right.shape[1]
    few = data.few(ROOM // columns * data.number * (n - 1) ** 2, generator)
    slots = torch.nn.functional.one_hot(related.long(), 2).to(data.states)
    return few._replace(slots=slots[..., 1:] if form.basis.family == MAPPED else slots)  # no relation sends nothing
