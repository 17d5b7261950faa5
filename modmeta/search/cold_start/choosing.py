"""Of forms of law that were judged the one to keep, and structures found carried over to another form.

Letters: C channels, D features, E receivers, R laws, K kinds, F features of a pair, S senders.
"""

import itertools
from typing import NamedTuple

import torch
from torch import Tensor

from modmeta.search.cold_start.cluster import cluster
from modmeta.search.cold_start.data import Data, Sum, split_sums_of, steps_of, sums_of
from modmeta.search.cold_start.features import Basis, Family, coarser, columns, family_named, finer, fit_basis
from modmeta.search.cold_start.grams import centred, grams
from modmeta.search.cold_start.judging import Found, explained, judged, problem_of, scored, structured
from modmeta.search.cold_start.knots import knotted
from modmeta.search.cold_start.records import Form, Trial
from modmeta.search.cold_start.refine import Laws, laws_of, refine, solve_weights
from modmeta.search.cold_start.saturation import link_columns
from modmeta.search.cold_start.shapes import shapes_of
from modmeta.search.cold_start.structures import (
    WAVY,
    Kinds,
    Posterior,
    as_told,
    explain,
    fit_kinds,
    fit_known,
    from_weights,
    rounds_of,
    spread_of,
    united,
)

ENOUGH = 3.0  # nats a number, gained over others by hard structures, which no dearer law can better
ALIKE = 0.03  # logarithms by which a simpler law may be behind, if within the error
HOPELESS = 2.0  # how much worse than the best laws so far others leave held-out frames, logarithms, to be passed over
ENDING = family_named("fine along the line")
ENDS = 4.0  # logarithms by which forces that end must be ahead of laws of another family
REKNOTS = 3  # times that functions are moved to where forces end
RELINKS = 8  # steps that leak and size of saturating rates are moved by
RESHAPES = 8  # of functions of entities' own, structures told anew under each
MUCH, ROUNDS = 0.5, 3  # nats a number that unequal strengths explain more; structures are told anew so often
DIFFER = 0.1  # standard deviation of strengths, at least
LOOSE, STEPS = (1e-6, 1e-7), 30  # ever weaker pulls of real weights to their mean; steps of laws under each
LOOSENED, BEGINS = 6, 2  # trials whose weights are pulled less, and those of them from which strengths are told


class Believed(NamedTuple):
    of: Found
    beliefs: Posterior  # in structures of some tasks
    pairs: Tensor


def merged(best: Found, search: Data, judges: Data) -> list[Found]:
    """The same with fewer kinds: of all pairs those two become one that cost least, again and again."""
    found, problem = [], problem_of(best.trial.form, search, judges)
    while best.number > 2:
        posterior, pairs = explain(problem.sums, best.kinds, problem.tasks)
        ways = []
        for first, other in itertools.combinations(range(best.number), 2):
            kinds, beliefs = united(best.kinds, posterior, pairs, first, other)
            kinds = rounds_of(problem.sums, kinds, beliefs, problem.tasks)
            ways.append(explained(problem, best.trial, kinds))
        best = min(ways, key=lambda one: one.score)
        found.append(best)
    return found


def chosen(found: list[Found]) -> Found:
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


def polished(best: Found, search: Data, judges: Data, family: Family | None) -> Found:
    """The same structures under finer functions, if these explain more; a family that was given stays."""
    for _ in range(RELINKS if best.trial.form.link is not None else 0):
        moved = reformed(best, _relinked(best, search), search, judges)
        if moved.score >= best.score - ALIKE:
            break
        best = moved
    fine = finer(best.trial.form.basis.family)
    if fine and family in (None, fine):
        best = simpler(best, reformed(best, _with(best.trial.form, fine, search), search, judges))
    return best


def stepped(best: Found, search: Data, judges: Data) -> Found:
    """The same where every frame decides the next one, if that explains more."""
    moved = reformed(best, best.trial.form._replace(smooth=False), search, judges)
    return moved if moved.score < best.score - ALIKE else best


def ended(best: Found, search: Data, judges: Data, family: Family | None) -> Found:
    """The same under functions that end where forces do, if these explain more; a family that was given stays.

    Whatever family told structures: coarse functions of one that has such functions may tell them worse. But functions
    that bend anywhere stand in for steep laws, too, whose weak tails they tell worse.
    """
    if not best.trial.form.kind.coordinates or family not in (None, ENDING):
        return best
    more = ALIKE if best.trial.form.basis.family in (ENDING, coarser(ENDING)) else ENDS
    for _ in range(REKNOTS):
        beliefs = explain(sums_of(search, best.trial.form), best.kinds, search.number)[0]
        form = knotted(_with(best.trial.form, ENDING, search), search, beliefs)
        moved = None if form is None else reformed(best, form, search, judges)
        if moved is None or moved.score >= best.score - more:
            break
        best, more = moved, ALIKE
    return best


def _with(form: Form, family: Family, search: Data) -> Form:
    """A form with functions of another family, placed where the data are."""
    if form.basis.family == family:
        return form
    few = search.part(search.parts()[0])
    return form._replace(basis=fit_basis(family, form.kind, steps_of(few, form)))


def varied(best: Found, search: Data, judges: Data) -> Found:
    """The same where entities have a function of own state each of a size of its own, if that explains more."""
    for _ in range(RESHAPES):
        form = _shaped(best, search)
        moved = best if form is None else reformed(best, form, search, judges)
        if moved.score > best.score - max(ALIKE, _error(moved, best)):
            break
        best = moved
    return best


def if_unequal(equal: Found, trials: list[Trial], search: Data, judges: Data, generator: torch.Generator) -> Found:
    """Structures found where strengths of edges of a kind differ, as of entities of unlike mass; else `equal`.

    Real weights that are hardly pulled to their mean foretell held-out frames better than kinds do, where strengths
    differ and the law is right. Strengths of their own explain some more of any law that is not quite right, and may
    stand in for another, or for kinds that are missing. They are believed where they explain much more, of which one or
    two kinds more would not explain half, differ by more than a tenth, and either half of the frames tells structures
    at least as alike, or they explain so much that no other law can better them.

    Args:
        equal: the best of those whose strengths do not differ.
        trials: laws of real weights to begin with.
        search: tasks on which laws are searched.
        judges: tasks that judge them.
        generator: of clusters.
    """
    if not float(equal.kinds.variance) > 0:  # nothing is left to explain
        return equal
    trials = [equal.trial, *trials]
    plain = [trial for trial in trials if trial.form.freedoms < 2]  # slopes and functions of own may stand in for them
    free = [trial for trial in _loosened(plain or trials, search, judges) if trial.score < equal.score - 2 * MUCH]
    if not free:
        return equal
    moved = _from_weights(free, equal.number, search, judges, generator)
    spread = spread_of(sums_of(search, moved.trial.form), moved.kinds).diagonal()  # of kinds that send something
    more = float((moved.gains - equal.gains).mean())
    sure = moved.alike >= equal.alike or more > ENOUGH
    if not (more > MUCH and sure and float(spread.max()) > DIFFER):
        return equal
    numbers = [equal.number + 1, equal.number + 2]
    problems = [(problem_of(trial.form, search, judges), trial) for trial in free]
    split = [one for problem, trial in problems for one in structured(problem, trial, numbers, generator)]
    return moved if max(float((one.gains - equal.gains).mean()) for one in split) < more / 2 else equal


def unequal(equal: Found, trials: list[Trial], search: Data, judges: Data, generator: torch.Generator) -> Found:
    """The same where strengths are known to differ, however little that explains."""
    if not float(equal.kinds.variance) > 0:
        return equal
    free = _loosened([equal.trial, *trials], search, judges)
    return _from_weights(free, equal.number, search, judges, generator)


def _loosened(trials: list[Trial], search: Data, judges: Data) -> list[Trial]:
    """The best laws of real weights, the best first, refined under ever weaker pulls of these to their mean.

    An exact law then foretells held-out frames exactly, whatever strengths are.
    """
    found = []
    for trial in sorted(trials, key=_score)[:LOOSENED]:
        problem, laws, ways = problem_of(trial.form, search, judges), trial.laws, [trial]
        for ridge in LOOSE:
            laws = refine(problem.sums, laws, STEPS, ridge)
            ways.append(judged(problem, laws, ridge))
        found.append(min(ways, key=_score))
    return sorted(found, key=_score)[:BEGINS]


def _from_weights(trials: list[Trial], number: int, search: Data, judges: Data, generator: torch.Generator) -> Found:
    """The best structures from weights of several laws, told anew until they no longer explain more."""
    best = min((_from_clusters(trial, number, search, judges, generator) for trial in trials), key=_score)
    for _ in range(ROUNDS):
        again = reformed(best, best.trial.form, search, judges)
        if again.score >= best.score - ALIKE:
            break
        best = again
    return best


def _score(one: Found | Trial) -> float:
    return one.score


def _from_clusters(trial: Trial, number: int, search: Data, judges: Data, generator: torch.Generator) -> Found:
    """Kinds of unequal strengths from clusters, each of its own width, of weights on the law of a trial."""
    trial = trial._replace(form=trial.form._replace(strengths=True))
    problem = problem_of(trial.form, search, judges)
    weights = solve_weights(problem.sums, trial.laws, trial.form.ridge, trial.mean)[0][0]
    mixture = cluster(weights.flatten(0, 1), number, generator)
    slots = mixture.probability.view(*weights.shape[:2], number)
    beliefs = from_weights(slots, weights)
    kinds = fit_kinds(problem.sums, beliefs, torch.outer(mixture.share, mixture.share))
    return explained(problem, trial, rounds_of(problem.sums, kinds, beliefs, problem.tasks))


def simpler(one: Found, other: Found) -> Found:
    """The better, or of two as good as one another the simpler."""
    better, worse = sorted((one, other), key=lambda found: found.score)
    alike = worse.score - better.score <= min(ALIKE, _error(one, other))
    return min(one, other, key=_complexity) if alike else better


def _complexity(found: Found) -> tuple[int, int]:
    return found.kinds.laws.shape[1], found.trial.form.freedoms


def reformed(best: Found, form: Form, search: Data, judges: Data) -> Found:
    """Structures found, explained in another form of law."""
    believed = Believed(best, *explain(sums_of(search, best.trial.form), best.kinds, search.number))
    return under(believed, form, search, judges)[0]


def believed(best: Found, judges: Data) -> Believed:
    return Believed(best, *explain(split_sums_of(judges, best.trial.form)[0], best.kinds, judges.number))


def under(sure: Believed, form: Form, search: Data | None, judges: Data) -> tuple[Found, Tensor]:
    """Beliefs in another form of law, and the kinds (E, S) that they come to."""
    problem = problem_of(form, search, judges)
    kinds = fit_kinds(problem.sums, sure.beliefs, sure.pairs)
    kinds = rounds_of(problem.sums, kinds, sure.beliefs, problem.tasks)
    laws = refine(problem.sums, _shared(kinds, sure.of.trial.laws.right.shape[1], form.basis), 12, form.ridge)
    found = explained(problem, judged(problem, laws, form.ridge), kinds)
    return found, explain(problem.sums, kinds, problem.tasks)[0].slots.argmax(-1)


def usual_and_large(best: Found, found: list[Found], judges: Data) -> Found:
    """The same structures under the form of law that foretells all changes best, large ones as well."""
    told, form, ways = believed(best, judges), best.trial.form, []
    bases = [one.trial.form.basis for one in (best, *found) if one.score <= best.score + HOPELESS]
    for basis in {basis.family: basis for basis in bases}.values():
        problem = problem_of(form._replace(units=form.units._replace(usual=None), basis=basis), None, judges)
        kinds, beliefs = fit_kinds(problem.sums, told.beliefs, told.pairs), told.beliefs
        if form.strengths:  # which all changes tell better than usual ones
            kinds = rounds_of(problem.sums, kinds, beliefs, problem.tasks)
            beliefs = explain(problem.fit, kinds, problem.judges)[0]
        laws = _shared(kinds, best.trial.laws.right.shape[1], basis)
        ways.append(scored(problem, judged(problem, laws, form.ridge), kinds, beliefs))
    return chosen(ways)


def given(form: Form, data: Data) -> Found:
    """How laws of waves do where structures are known."""
    assert data.slots is not None
    problem = problem_of(form, None, data)
    kinds = fit_known(problem.sums, data.slots, WAVY)
    return scored(problem, judged(problem, _shared(kinds, 1, form.basis), form.ridge), kinds, as_told(problem.fit))


def _relinked(best: Found, search: Data) -> Form:
    """A saturating form whose leak and size are moved by what residuals say, structures kept."""
    form = best.trial.form
    assert form.link is not None
    beliefs, pairs = explain(sums_of(search, form), best.kinds, search.number)
    total = Sum(search)
    for tasks in search.parts():
        ready = steps_of(search.part(tasks), form)
        table = columns(form.basis, form.kind, ready, search.receivers, form.slopes, form.shapes)
        link = link_columns(ready, form.link)
        if search.receivers is not None:
            link = link.unflatten(0, (-1, search.states.shape[1]))[:, search.receivers].flatten(0, 1)
        table = table._replace(own=torch.cat([table.own, link], -1))
        total.add(grams(centred(table, table.weight) if form.constants else table), tasks)
    own = fit_kinds(total.total, beliefs, pairs).own
    return form._replace(link=form.link + own[-form.link.numel() :].view_as(form.link))


def _shaped(best: Found, search: Data) -> Form | None:
    """A form with functions of entities' own that residuals ask for, structures kept; None if they ask for none."""
    form, kinds = best.trial.form, best.kinds
    beliefs = explain(sums_of(search, form), kinds, search.number)[0]
    plain = form._replace(constants=True, shapes=None)
    shapes = shapes_of(sums_of(search, plain), beliefs.likeliest @ kinds.laws, kinds.own, len(form.kind.changing))
    return None if shapes is None else plain._replace(shapes=shapes)


def _shared(kinds: Kinds, count: int, basis: Basis) -> Laws:
    """So many shared laws, those that the kinds' laws vary along most."""
    h = basis.left.shape[1]
    most = torch.linalg.svd(kinds.laws, full_matrices=False)[2][:count].view(-1, h, basis.right.shape[1])
    left, _, right = torch.linalg.svd(most)
    return laws_of(left[None, :, :, 0], right[None, :, 0], kinds.own)


def _error(one: Found, other: Found) -> float:
    """Standard error of the difference of scores over tasks."""
    apart = one.left - other.left
    return float(apart.std() / len(apart) ** 0.5) if len(apart) > 1 else 0.0
