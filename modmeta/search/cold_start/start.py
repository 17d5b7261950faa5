"""The cold start: families of laws tried cheapest first, the one that foretells held-out frames best, structures.

Letters: B tasks, N entities, S senders, T frames, L intervals, D features, C channels, E = B N receivers, R laws,
K kinds, F features of a pair, G own features.
"""

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from modmeta.search.cold_start.answers import halves, infer, nothing
from modmeta.search.cold_start.certainty import kappa, temperature_of_halves
from modmeta.search.cold_start.cluster import Clusters, clusterings
from modmeta.search.cold_start.data import Data, Sum, changes_of, numbered, split_sums_of, steps_of, sums_of, table_of
from modmeta.search.cold_start.far import better_halfway, may_be_far, rate_of, refitted, told, way_of
from modmeta.search.cold_start.features import Basis, Family, coarser, columns, families, finer, fit_basis
from modmeta.search.cold_start.finish import finish
from modmeta.search.cold_start.grams import Grams, centred, grams, own_sums
from modmeta.search.cold_start.noise import ROUGH, observation_noise, smoothed, smoothing_width
from modmeta.search.cold_start.records import Form, Start, Trial
from modmeta.search.cold_start.refine import Laws, laws_of, refine, solve_own, solve_weights
from modmeta.search.cold_start.saturation import link_columns, measure_link, saturates
from modmeta.search.cold_start.structures import (
    MOST_ROWS,
    Kinds,
    Posterior,
    explain,
    fit_kinds,
    from_labels,
    requantised,
    rounds_of,
    united,
)
from modmeta.search.cold_start.weak_form import (
    Kind,
    measure_units,
    roughness,
    steps,
    unwrap,
    usual_change,
    weights_of_entities,
)

__all__ = ["cold_start"]

RIDGES = (
    1e-3,
    1e-5,
)  # pull of weights to their mean: strong pulls find laws that weak ones overfit, and the other way round
ENOUGH = 3.0  # nats a number, gained by hard structures over no relations, after which no dearer family is tried
AGREE = 0.7  # kappa of structures from two parts of the frames, from which other families are first seen under these
MUCH = 0.5  # nats a number that they gain over no relations, at least
SAME_EDGES = 0.8  # kappa of structures that another family makes of them, from which it need not be searched
BEST = 2  # clusterings of a law's weights that are carried to hard structures
SAME = 0.003  # share of weights that clusterings which are the same may name otherwise
ALIKE = 0.03  # logarithms by which a simpler law may be behind, if within the error
HOPELESS = 2.0  # how much worse than the best laws so far others leave held-out frames, logarithms, to be passed over
RELINKS = 8  # steps that leak and size of saturating rates are moved by
NOISY = 0.2  # roughness above which noise of observation is looked for
SMALL = 1e-6  # of a typical change, not worth explaining
MOST_PAIRS = 15_000  # pairs of senders of all receivers from which laws are searched
FEWEST = 4  # tasks
MOST_SUMS = 250_000_000  # numbers of Gram matrices, beyond which a family is not tried
MANY = 8  # groups whose spread says something


class _Problem(NamedTuple):
    form: Form
    sums: Grams  # of the tasks on which laws are searched, pooled over those of a group
    tasks: int  # or groups
    fit: Grams  # of the judging tasks: frames that structures come from
    judge: Grams  # and frames held out
    judges: int
    few: bool  # structures, so that receivers are judged one by one
    counts: Tensor  # how much the held-out frames of every receiver count, (E,), 1 on average
    floor: float  # squared residual that is not worth explaining
    own: Tensor  # the own part without relations


class _Found(NamedTuple):
    score: float
    left: Tensor  # of which the score is the mean, (tasks,)
    gains: Tensor  # nats a number over no relations, (tasks,)
    alike: float  # agreement of structures from the frames that fit and from those that judge
    kinds: Kinds
    number: int
    trial: Trial


class _Sure(NamedTuple):
    of: _Found
    beliefs: Posterior  # in structures of some tasks
    pairs: Tensor


def cold_start(
    states: Tensor,
    kind: Kind,
    *,
    num_kinds: int | None = None,
    frame_step: float = 1.0,
    seen: Tensor | None = None,
    groups: Tensor | None = None,
    seed: int = 0,
    starts: int = 16,
    search_tasks: int = 30,
    announce: Callable[[str], None] = lambda family: None,
    family: Family | None = None,
    constants: bool | None = None,
    slopes: bool | None = None,
    smooth: bool | None = None,
) -> Start:
    """Finds laws, weights and structures of unlabelled trajectories.

    Args:
        states: (B, N, T, D).
        kind: what features are; angles may jump by whole turns.
        num_kinds: number of edge types; None to choose by held-out frames.
        frame_step: time between frames; where there are velocities it is measured.
        seen: where entities were observed, (B, N, T); None for everywhere.
        groups: group of every task, (B,); tasks of a group share one structure. None where each has its own.
        seed: of starts and splits.
        starts: random laws of every form.
        search_tasks: tasks on which laws are searched; two thirds as many more judge them.
        announce: is called with the name of every family before it is tried, and with what every trial of it gained.
        family: the only family to try; None for all that fit the data, cheapest first.
        constants: whether entities have constants of their own; None to try both.
        slopes: whether they have slopes of their own in their state beside; None to try both of plain states, if slopes
            explain more than chance would where nothing acts on anything.
        smooth: whether paths are smooth between frames; None to measure it.
    """
    generator = torch.Generator().manual_seed(seed)
    apart = torch.Generator().manual_seed(seed)  # what is tried with slopes changes nothing of the rest
    data = Data(unwrap(states.double(), kind.angles), seen, numbered(groups))
    units = measure_units(data.states, kind, frame_step)
    rough, smoothing = roughness(data.states, kind), 0
    if rough > NOISY and seen is None:
        smoothing = smoothing_width(data.states, observation_noise(data.states))
        data = data._replace(states=smoothed(data.states, smoothing))
    smooth = (rough < ROUGH or smoothing > 0) if smooth is None else smooth
    units = units._replace(
        entities=weights_of_entities(data.states, kind, units, seen),
        usual=usual_change(data.states, kind, units, seen),
    )
    order = torch.randperm(len(states), generator=generator)
    if groups is None:  # of many entities few tasks
        n = states.shape[1]
        search_tasks = min(search_tasks, max(FEWEST, MOST_PAIRS // (n * (n - 1) ** 2)))
    judging = max(1, min(2 * search_tasks // 3, len(states) // 3))
    search, judges = data.part(order[judging : judging + search_tasks]), data.part(order[:judging])
    if len(states) == 1:
        search = judges = data
    search = search.few(MOST_PAIRS, generator)
    judges = judges._replace(receivers=search.receivers)
    numbers, more = [num_kinds] if num_kinds else [2, 3, 4], []
    if numbers[-1] ** (states.shape[1] - 1) > MOST_ROWS:  # rows take long to tell: more kinds come last
        numbers, more = numbers[:1], numbers[1:]
    trials: list[Trial] = []
    found: list[_Found] = []
    sure: _Sure | None = None
    sloped: bool | None = None
    for tried in [coarser(family)] if family else families(kind, bool((data.states > 0).all())):
        announce(tried.name)
        few, link = search.part(search.parts()[0]), None
        ready = steps(few.states, kind, units, smooth=smooth, growth=tried.growth, seen=few.seen)
        if tried.saturating:
            link = measure_link(ready)
            if family is None and not saturates(link, ready):
                continue
            ready = steps(few.states, kind, units, smooth=smooth, seen=few.seen, link=link)
        basis = fit_basis(tried, kind, ready)
        if trials and search.products(kind, basis) > MOST_SUMS:
            continue
        if sure is not None:
            looked, labels = _under(sure, sure.of.trial.form._replace(basis=basis, link=link), None, judges)
            alike = kappa(labels, sure.beliefs.slots.argmax(-1), looked.number) > SAME_EDGES
            if alike or looked.score > sure.of.score:
                announce(f"{tried.name}, gain {looked.trial.gain:.2f}")
                trials.append(looked.trial)
                found.append(looked)
                continue
        ridges = RIDGES if smooth else RIDGES[:1]  # noise makes weaker pulls all alike
        settings = list(itertools.product(ridges, _laws_shared(basis, numbers)))
        for own, beside in _ways_of_own(constants, slopes):
            form = Form(kind, units, smooth, basis, own, 0.0, smoothing, link, beside)
            if beside and not slopes:
                if sloped is None:  # a smooth path in space is nearly linear in itself, whatever bends it
                    sloped = not kind.coordinates and _sloped(form, search)
                if not sloped:
                    continue
            problem, drawn = _problem(form, search, judges), apart if beside else generator
            for setting in settings:
                trials.append(_try(problem, *setting, starts, drawn))
                announce(f"{tried.name}{form.own_in_words}, gain {trials[-1].gain:.2f}")
                if trials[-1].score < min(trial.score for trial in trials) + HOPELESS:
                    found += _worth(_structured(problem, trials[-1], numbers, drawn), found)
                if _enough(found):
                    break
            if _enough(found):  # the other choice of constants is tried on the structures found
                break
        if _enough(found):
            break
        if _certain(found) and groups is None:
            best = min(found, key=lambda one: one.score)
            sure = sure if sure is not None and sure.of is best else _told(best, judges)
    if more and not _enough(found):
        best = min(found, key=lambda one: one.score)
        found += _structured(_problem(best.trial.form, search, judges), best.trial, more, generator)
    if not num_kinds:
        found += _merged(min(found, key=lambda one: one.score), search, judges)
    best = _polished(_chosen(found), search, judges, family)
    if constants is None and slopes is not True:
        form = best.trial.form
        other = form._replace(slopes=False) if form.slopes else form._replace(constants=not form.constants)
        rival = _reformed(best, other, search, judges)
        trials.append(rival.trial)
        best = _simpler(best, rival)
    if units.usual is not None:
        best = _usual_and_large(best, found, judges)
        trials.append(best.trial)
    trial, number = best.trial, best.number
    kinds, temperature, scales = finish(trial.form, best.kinds, data, generator)
    trials = [trial, *sorted((one for one in trials if one is not trial), key=lambda one: one.score)]
    start = Start(trial.form, trial.laws, trial.mean, kinds, temperature, nothing(), number, trials, best.gains, scales)
    if groups is None:
        start = start._replace(
            temperature=temperature_of_halves(halves(start, data.part(data.parts()[0])), temperature)
        )
    start = start._replace(answer=infer(start, states, seen, groups))
    # steps of many groups are fitted one by one, which takes minutes
    if data.groups is None or data.number > 1 or num_kinds not in (None, 2):
        return start
    if better_halfway(start, data, generator):
        start = _by_steps(start, data, states, "halfway", generator)
        announce("relations halfway between frames")
    if not may_be_far(start.form):
        return start
    way = way_of(data.states, seen, data.groups, rate_of(start, data.groups), kind, start.form.smooth)
    if way is not None:
        start = _by_steps(start, data, states, way, generator)
        announce(f"frames far apart: {way}")
    return start


def _by_steps(start: Start, data: Data, states: Tensor, way: str, generator: torch.Generator) -> Start:
    """The same with structures by a way of `search.slow`, and laws of no relation and of a relation that go with them.

    Args:
        start: with the laws' own structures.
        data: what these were made from.
        states: as observed.
    """
    assert data.groups is not None
    related = told(data.states, data.seen, data.groups, data.number, way) > 0
    start = start._replace(slow=way, kinds=refitted(start, data, related, generator), suggested=2)
    return start._replace(answer=infer(start, states, data.seen, data.groups))


def _ways_of_own(constants: bool | None, slopes: bool | None) -> list[tuple[bool, bool]]:
    """What entities may have of their own: constants, and slopes beside."""
    ways = [(True, False), (False, False), (True, True)]
    return [
        (own, beside) for own, beside in ways
        if beside == (slopes if slopes is not None else beside) and (slopes or constants in (None, own))
    ]  # fmt: skip


def _worth(tried: list[_Found], found: list[_Found]) -> list[_Found]:
    """Those without slopes, and those whose relations gain more than any do without.

    Slopes stand in for relations, and wrong ones beside slopes may explain more than right ones that are half found.
    """
    gain = max((float(one.gains.mean()) for one in found if not one.trial.form.slopes), default=-math.inf)
    return [one for one in tried if not one.trial.form.slopes or float(one.gains.mean()) > gain]


def _sloped(form: Form, search: Data) -> bool:
    """Whether slopes of entities explain more than as many numbers would by chance, where nothing acts on anything."""
    left = []
    for beside in (False, True):
        table = table_of(search.part(search.parts()[0]), form._replace(slopes=beside))
        table = centred(table, table.weight)
        rest = table.target - table.own @ solve_own(own_sums(table))
        left.append((rest.square() * table.weight).sum((1, 2)) + 1e-300)
    assert table.alone is not None
    frames = (table.weight > 0).double().sum(1).mean()
    return float((left[0] / left[1]).log().mean()) > 2 * (table.alone.shape[-1] - 1) / float(frames)  # as in AIC


def _merged(best: _Found, search: Data, judges: Data) -> list[_Found]:
    """The same with fewer kinds: of all pairs those two become one that cost least, again and again."""
    found, problem = [], _problem(best.trial.form, search, judges)
    while best.number > 2:
        posterior, pairs = explain(problem.sums, best.kinds, problem.tasks)
        ways = []
        for first, other in itertools.combinations(range(best.number), 2):
            kinds, beliefs = united(best.kinds, posterior, pairs, first, other)
            kinds = rounds_of(problem.sums, kinds, beliefs, problem.tasks)
            ways.append(_found(problem, best.trial, kinds))
        best = min(ways, key=lambda one: one.score)
        found.append(best)
    return found


def _chosen(found: list[_Found]) -> _Found:
    """Of the fewest kinds that explain nearly as much as any, the best; of laws that are as good, the simplest.

    More kinds always have more laws to bend. Nearly as much is nine tenths of the logarithm gained, or within the
    standard error of the difference over tasks.
    """
    best = min(found, key=lambda one: one.score)
    for number in sorted({one.number for one in found}):
        rivals = [one for one in found if one.number == number]
        rival = min(rivals, key=lambda one: one.score)
        if rival.score - best.score <= max(0.1 * (best.trial.without - best.score), _error(rival, best)):
            best = rival
            alike = [one for one in rivals if one.score - best.score <= min(ALIKE, _error(one, best))]
            return min(alike, key=lambda one: (*_complexity(one), one.score))
    return best


def _polished(best: _Found, search: Data, judges: Data, family: Family | None) -> _Found:
    """The same structures under finer functions, if these explain more; a family that was given stays."""
    for _ in range(RELINKS if best.trial.form.link is not None else 0):
        moved = _reformed(best, _relinked(best, search), search, judges)
        if moved.score >= best.score - ALIKE:
            break
        best = moved
    fine = finer(best.trial.form.basis.family)
    if fine and family in (None, fine):
        few = search.part(search.parts()[0])
        basis = fit_basis(fine, best.trial.form.kind, steps_of(few, best.trial.form))
        best = _simpler(best, _reformed(best, best.trial.form._replace(basis=basis), search, judges))
    return best


def _simpler(one: _Found, other: _Found) -> _Found:
    """The better, or of two as good as one another the simpler."""
    better, worse = sorted((one, other), key=lambda found: found.score)
    alike = worse.score - better.score <= min(ALIKE, _error(one, other))
    return min(one, other, key=_complexity) if alike else better


def _complexity(found: _Found) -> tuple[int, int]:
    return found.kinds.laws.shape[1], found.trial.form.constants + found.trial.form.slopes


def _reformed(best: _Found, form: Form, search: Data, judges: Data) -> _Found:
    """Structures found, explained in another form of law."""
    believed = _Sure(best, *explain(sums_of(search, best.trial.form), best.kinds, search.number))
    return _under(believed, form, search, judges)[0]


def _told(best: _Found, judges: Data) -> _Sure:
    return _Sure(best, *explain(split_sums_of(judges, best.trial.form)[0], best.kinds, judges.number))


def _under(sure: _Sure, form: Form, search: Data | None, judges: Data) -> tuple[_Found, Tensor]:
    """Beliefs in another form of law, and the kinds (E, S) that they come to."""
    problem = _problem(form, search, judges)
    kinds = fit_kinds(problem.sums, sure.beliefs, sure.pairs)
    kinds = rounds_of(problem.sums, kinds, sure.beliefs, problem.tasks)
    laws = refine(problem.sums, _shared(kinds, sure.of.trial.laws, form.basis), 12, form.ridge)
    found = _found(problem, _judged(problem, laws, form.ridge), kinds)
    return found, explain(problem.sums, kinds, problem.tasks)[0].slots.argmax(-1)


def _usual_and_large(best: _Found, found: list[_Found], judges: Data) -> _Found:
    """The same structures under the form of law that foretells all changes best, large ones as well."""
    told, form, ways = _told(best, judges), best.trial.form, []
    bases = [one.trial.form.basis for one in (best, *found) if one.score <= best.score + HOPELESS]
    for basis in {basis.family: basis for basis in bases}.values():
        problem = _problem(form._replace(units=form.units._replace(usual=None), basis=basis), None, judges)
        kinds = fit_kinds(problem.sums, told.beliefs, told.pairs)
        laws = _shared(kinds, best.trial.laws, basis)
        ways.append(_scored(problem, _judged(problem, laws, form.ridge), kinds, told.beliefs))
    return _chosen(ways)


def _relinked(best: _Found, search: Data) -> Form:
    """A saturating form whose leak and size are moved by what residuals say, structures kept."""
    form = best.trial.form
    assert form.link is not None
    beliefs, pairs = explain(sums_of(search, form), best.kinds, search.number)
    total = Sum(search)
    for tasks in search.parts():
        ready = steps_of(search.part(tasks), form)
        table = columns(form.basis, form.kind, ready, search.receivers, form.slopes)
        link = link_columns(ready, form.link)
        if search.receivers is not None:
            link = link.unflatten(0, (-1, search.states.shape[1]))[:, search.receivers].flatten(0, 1)
        table = table._replace(own=torch.cat([table.own, link], -1))
        total.add(grams(centred(table, table.weight) if form.constants else table), tasks)
    own = fit_kinds(total.total, beliefs, pairs).own
    return form._replace(link=form.link + own[-form.link.numel() :].view_as(form.link))


def _shared(kinds: Kinds, laws: Laws, basis: Basis) -> Laws:
    """As many shared laws as before, those that the kinds' laws vary along most."""
    count, h = laws.right.shape[1], basis.left.shape[1]
    most = torch.linalg.svd(kinds.laws, full_matrices=False)[2][:count].view(-1, h, basis.right.shape[1])
    left, _, right = torch.linalg.svd(most)
    return laws_of(left[None, :, :, 0], right[None, :, 0], kinds.own)


def _error(one: _Found, other: _Found) -> float:
    """Standard error of the difference of scores over tasks."""
    apart = one.left - other.left
    return float(apart.std() / len(apart) ** 0.5) if len(apart) > 1 else 0.0


def _enough(found: list[_Found]) -> bool:
    """Whether hard structures explain so much that no dearer law can better them."""
    return max(one.trial.without - one.score for one in found) > 2 * ENOUGH


def _certain(found: list[_Found]) -> bool:
    """Whether two parts of the frames tell the best structures so far alike, and the law gains much, if not enough."""
    best = min(found, key=lambda one: one.score)
    alike = best.alike > AGREE and not best.trial.form.slopes  # which bend alike in both parts
    return _enough(found) or (alike and float(best.gains.mean()) > MUCH)


def _laws_shared(basis: Basis, numbers: list[int]) -> tuple[int, ...]:
    """How many laws edges may have weights on: a second one where three kinds may differ in more than strength."""
    h, v = basis.left.shape[1], basis.right.shape[1]
    return (1, 2) if max(numbers) > 2 and h == 1 and v > 1 else (1,)


def _problem(form: Form, search: Data | None, judges: Data) -> _Problem:
    """Laws are searched on the judging tasks' own frames that fit where no others are given."""
    fit, judge = split_sums_of(judges, form)
    sums, tasks = (fit, judges.number) if search is None else (sums_of(search, form), search.number)
    few = judges.groups is not None and judges.number < MANY
    square = changes_of(judges, form)
    counts = square.sqrt().sqrt() + 1e-30
    floor = SMALL**2 * float(square.mean())
    return _Problem(
        form,
        sums,
        tasks,
        fit,
        judge,
        judges.number,
        few,
        counts / counts.mean(),
        floor,
        solve_own(sums.own.sum(0)),
    )


def _try(problem: _Problem, ridge: float, shared: int, starts: int, generator: torch.Generator) -> Trial:
    """The best of laws from random starts."""
    laws = _random_laws(problem, shared, starts, generator)
    for kept, iterations in ((len(laws.loss), 8), (6, 12), (2, 30)):
        laws = refine(problem.sums, laws.select(laws.loss.argsort()[:kept]), iterations, ridge)
    return _judged(problem, laws.select(laws.loss.argsort()[:1]), ridge)


def _structured(problem: _Problem, trial: Trial, numbers: list[int], generator: torch.Generator) -> list[_Found]:
    """Structures from a trial's weights, for every number of kinds, with what they explain of held-out frames."""
    found = []
    for number in numbers:
        ways = _kinds(trial, problem.sums, problem.tasks, number, generator)
        found += [_found(problem, trial, kinds) for kinds in ways]
    return found


def _found(problem: _Problem, trial: Trial, kinds: Kinds) -> _Found:
    """Kinds with what they explain of held-out frames, structures from the others."""
    return _scored(problem, trial, kinds, explain(problem.fit, kinds, problem.judges)[0])


def _scored(problem: _Problem, trial: Trial, kinds: Kinds, beliefs: Posterior) -> _Found:
    """The same, structures given."""
    number, labels = len(kinds.laws), beliefs.slots.argmax(-1)
    chosen = torch.nn.functional.one_hot(labels, number).to(kinds.laws)
    left = _log_residual(problem, chosen @ kinds.laws, kinds.own)
    gains = (_log_residual(problem, None, problem.own) - left) / 2
    held_out = explain(problem.judge, kinds, problem.judges)[0]
    alike = kappa(labels, held_out.slots.argmax(-1), number)
    return _Found(float(left.mean()), left, gains, alike, kinds, number, trial)


def _random_laws(problem: _Problem, shared: int, starts: int, generator: torch.Generator) -> Laws:
    """Starts of various smoothness: coefficients as large as features are, their root, or all alike."""
    basis, own = problem.form.basis, problem.own
    h, v = basis.left.shape[1], basis.right.shape[1]
    count = starts if h * v > 2 else 3
    left = torch.randn(count, shared, h, generator=generator, dtype=own.dtype).to(own)
    right = torch.randn(count, shared, v, generator=generator, dtype=own.dtype).to(own)
    smoothness = torch.tensor([0.0, 0.5, 1.0], device=own.device)[torch.arange(count) % 3].view(-1, 1, 1)
    return laws_of(left, right * basis.spread[:v] ** smoothness, own)


def _judged(problem: _Problem, laws: Laws, ridge: float) -> Trial:
    """Laws with what they explain of held-out frames, weights from the others."""
    mean = solve_weights(problem.sums, laws, ridge)[1]
    weights = solve_weights(problem.fit, laws, ridge, mean)[0][0]
    score = _log_residual(problem, _sent(weights, laws), laws.own[0])
    without = _log_residual(problem, None, problem.own)
    gain = (without - score) / 2
    error = float(gain.std() / len(gain) ** 0.5) if len(gain) > 1 else float("inf")
    form = problem.form._replace(ridge=ridge)
    return Trial(form, laws, mean, float(score.mean()), float(without.mean()), float(gain.mean()), error)


def _sent(weights: Tensor, laws: Laws) -> Tensor:
    """Coefficients (E, S, F) of every edge."""
    return weights @ laws.coefficients[0]


def _log_residual(problem: _Problem, coefficients: Tensor | None, own: Tensor) -> Tensor:
    """Logarithm of the mean squared residual on held-out frames, of every structure a mean over receivers, (B,).

    Receivers count by the root of how much they change, as in `val/gain`: entities that hardly move, and tasks in
    which nothing happens, need no relations to be foretold exactly, and their logarithms would pay for others.
    Where structures are few: of all together, to first order as a mean over receivers, (E,). Many have no sender.
    """
    sums = problem.judge
    left = sums.left(coefficients, own)
    if problem.few:
        mean = left.clamp_min(0).sum() / sums.targets.sum().clamp_min(1) + problem.floor
        return mean.log() + left * len(left) / (mean * sums.targets.sum().clamp_min(1)) - 1
    each = (left.clamp_min(0) / sums.targets.clamp_min(1) + problem.floor + 1e-300).log()
    return (each * problem.counts).view(problem.judges, -1).mean(1)


def _kinds(trial: Trial, sums: Grams, tasks: int, number: int, generator: torch.Generator) -> list[Kinds]:
    """Kinds' laws from the clusterings of weights that explain most, by expectation maximisation."""
    weights = solve_weights(sums, trial.laws, trial.form.ridge, trial.mean)[0][0]
    e, s, r = weights.shape
    ways: list[tuple[Kinds, Posterior]] = []
    for mixture in _distinct(clusterings(weights.reshape(-1, r), number, generator)):
        beliefs = from_labels(mixture.probability.view(e, s, number))
        pairs = torch.outer(mixture.share, mixture.share)
        ways.append(requantised(sums, trial.laws, weights, beliefs, pairs, tasks))
    ways.sort(key=lambda way: float(way[0].variance))
    return [rounds_of(sums, kinds, beliefs, tasks) for kinds, beliefs in _unlike(ways)[:BEST]]


def _distinct(mixtures: list[Clusters]) -> list[Clusters]:
    """Those that name other clusters than all before for at least a few weights in a thousand."""
    kept: list[Clusters] = []
    labels: list[Tensor] = []
    for mixture in mixtures:
        label = mixture.centre[:, 0].argsort().argsort()[mixture.probability.argmax(-1)]
        if all(float((label != other).double().mean()) > SAME for other in labels):
            kept.append(mixture)
            labels.append(label)
    return kept


def _unlike(ways: list[tuple[Kinds, Posterior]]) -> list[tuple[Kinds, Posterior]]:
    """Those that are not one of those before over again, as their variances tell."""
    kept = ways[:1]
    for way in ways[1:]:
        if float(way[0].variance) > float(kept[-1][0].variance) * 1.001:
            kept.append(way)
    return kept
