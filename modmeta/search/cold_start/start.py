"""The cold start: families of laws tried cheapest first, the one that foretells held-out frames best, structures.

Letters: B tasks, N entities, S senders, T frames, L intervals, D features, C channels, E = B N receivers, R laws,
K kinds, F features of a pair, G own features.
"""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from modmeta.search.cold_start.certainty import temperature_of_halves
from modmeta.search.cold_start.cluster import Clusters, clusterings
from modmeta.search.cold_start.far import told, way_of
from modmeta.search.cold_start.features import Basis, Family, coarser, columns, families, finer, fit_basis
from modmeta.search.cold_start.grams import Columns, Grams, added, centred, grams, joined, pooled, residuals
from modmeta.search.cold_start.noise import ROUGH, observation_noise, smoothed, smoothing_width
from modmeta.search.cold_start.refine import Laws, laws_of, refine, solve_own, solve_weights
from modmeta.search.cold_start.saturation import link_columns, measure_link, saturates
from modmeta.search.cold_start.scales import BINS, Scales, importance, log_activity, measure_scales
from modmeta.search.cold_start.structures import Kinds, Posterior, explain, fit_kinds, from_labels, requantised
from modmeta.search.cold_start.weak_form import Kind, Steps, Units, measure_units, roughness, steps, unwrap

__all__ = ["Answer", "Form", "Start", "Trial", "cold_start", "infer"]

RIDGES = (
    1e-3,
    1e-5,
)  # pull of weights to their mean: strong pulls find laws that weak ones overfit, and the other way round
ENOUGH = 3.0  # nats a number, gained by hard structures over no relations, after which no dearer family is tried
BEST = 2  # clusterings of a law's weights that are carried to hard structures
SAME = 0.003  # share of weights that clusterings which are the same may name otherwise
ALIKE = 0.03  # logarithms by which a simpler law may be behind, if within the error
HOPELESS = 2.0  # how much worse than the best laws so far others leave held-out frames, logarithms, to be passed over
STEEP_ROUNDS, HEAT, COOL = 20, 300.0, 0.6  # of the annealing that finishes steep laws; its temperatures
RELINKS = 8  # steps that leak and size of saturating rates are moved by
NUMBERS = 100_000_000  # in Gram matrices of what laws are finished on, at most
NOISY = 0.2  # roughness above which noise of observation is looked for
CHUNK = 64  # tasks whose features are held at once, and fewer where those of all pairs, frames and features are more
MOST_NUMBERS = 200_000  # than that
MOST_PARTS = 20  # of groups, from which laws are finished
MOST_PAIRS = 15_000  # pairs of senders of all receivers from which laws are searched
FEWEST = 4  # tasks
MOST_SUMS = 250_000_000  # numbers of Gram matrices, beyond which a family is not tried
MANY = 8  # groups whose spread says something


class Form(NamedTuple):
    """A form of law with its units.

    Attributes:
        kind: what features of a state are.
        units: scales of states.
        smooth: features integrated along the path (weak form), or of the frame before.
        basis: features of pairs.
        constants: whether every entity has a constant of its own in each channel.
        ridge: pull of weights to their mean.
        smoothing: frames to either side over which noise of observation is averaged.
        link: leak and size of every channel of a saturating family, (C, D + 2).
    """

    kind: Kind
    units: Units
    smooth: bool
    basis: Basis
    constants: bool
    ridge: float
    smoothing: int = 0
    link: Tensor | None = None


class Trial(NamedTuple):
    """How a form did.

    Attributes:
        form: what was tried.
        laws: the best start, P = 1.
        mean: of the weights, (1, R).
        score: mean over tasks of the logarithm of the mean squared residual on held-out frames; lower is better.
        without: the same without relations.
        gain: nats a number gained over no relations.
        gain_error: standard error of the gain over tasks.
    """

    form: Form
    laws: Laws
    mean: Tensor
    score: float
    without: float
    gain: float
    gain_error: float


class Answer(NamedTuple):
    """What a fitted form says of tasks.

    Attributes:
        weights: of every edge on the shared laws, (B, N, S, R).
        probabilities: of every kind, (B, N, S, K).
        structures: the likeliest kind of every edge, (B, N, S).
        certainty: its probability, (B, N, S).
        constants: rate of change that is each entity's own, (B, N, C), zero where the form has none; in scaled units.
        importance: Student-t weight of every interval and channel, (B, N, L, C).
        coefficients: of every edge, as the structure has them, (B, N, S, F).
    """

    weights: Tensor
    probabilities: Tensor
    structures: Tensor
    certainty: Tensor
    constants: Tensor
    importance: Tensor
    coefficients: Tensor


class Start(NamedTuple):
    """Result of a cold start.

    Attributes:
        form: the form of law chosen.
        laws: shared laws of real weights, P = 1.
        mean: of weights, (1, R).
        kinds: the law of every kind, own part, variance, table of pairs.
        temperature: by which log-likelihoods are divided because residuals of neighbouring frames agree, and
            two halves of the frames do not (`certainty`).
        answer: of the tasks given.
        suggested: number of kinds that held-out frames suggest.
        trials: everything tried, best first.
        structural: mean over tasks of the log mean squared residual on held-out frames, structures from the others.
        scales: how large residuals are, by activity.
        slow: way in which structures of groups are told in place of the laws (`search.slow`); None for none.
    """

    form: Form
    laws: Laws
    mean: Tensor
    kinds: Kinds
    temperature: float
    answer: Answer
    suggested: int
    trials: list[Trial]
    structural: float
    scales: Scales
    slow: str | None = None

    @property
    def gain(self) -> float:
        """Nats a number over no relations on held-out frames of validation tasks."""
        return self.trials[0].gain


class _Data(NamedTuple):
    states: Tensor
    seen: Tensor | None
    groups: Tensor | None  # of every task, (B,), from 0; None where every task has a structure of its own
    receivers: Tensor | None = None  # whose rows are looked at; None for all

    def part(self, tasks: Tensor | slice) -> "_Data":
        """Some of the tasks; their groups are numbered anew."""
        groups = None if self.groups is None else self.groups[tasks].unique(return_inverse=True)[1]
        return _Data(self.states[tasks], None if self.seen is None else self.seen[tasks], groups, self.receivers)

    def parts(self) -> "list[slice]":
        """Few tasks at a time, for memory."""
        n, t, d = self.states.shape[1:]
        size = max(1, min(CHUNK, MOST_NUMBERS // (n * n * t * d)))
        return [slice(i, i + size) for i in range(0, len(self.states), size)]

    def few(self, numbers: int, generator: torch.Generator) -> "_Data":
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
        return self.number * receivers * _numbers(n, kind, basis)

    @property
    def number(self) -> int:
        """How many structures there are."""
        return len(self.states) if self.groups is None else int(self.groups.max()) + 1


class _Problem(NamedTuple):
    form: Form
    sums: Grams  # of the tasks on which laws are searched, pooled over those of a group
    tasks: int  # or groups
    fit: Grams  # of the judging tasks: frames that structures come from
    judge: Grams  # and frames held out
    judges: int
    few: bool  # structures, so that receivers are judged one by one
    own: Tensor  # the own part without relations


class _Found(NamedTuple):
    score: float
    left: Tensor  # of which the score is the mean, (tasks,)
    kinds: Kinds
    number: int
    trial: Trial


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
        announce: is called with the name of every family before it is tried.
        family: the only family to try; None for all that fit the data, cheapest first.
        constants: whether entities have constants of their own; None to try both.
        smooth: whether paths are smooth between frames; None to measure it.
    """
    generator = torch.Generator().manual_seed(seed)
    data = _Data(unwrap(states.double(), kind.angles), seen, _numbered(groups))
    units = measure_units(data.states, kind, frame_step)
    rough, smoothing = roughness(data.states, kind), 0
    if rough > NOISY and seen is None:
        smoothing = smoothing_width(data.states, observation_noise(data.states))
        data = data._replace(states=smoothed(data.states, smoothing))
    smooth = (rough < ROUGH or smoothing > 0) if smooth is None else smooth
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
    numbers = [num_kinds] if num_kinds else [2, 3, 4]
    trials: list[Trial] = []
    found: list[_Found] = []
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
        ridges = RIDGES if smooth else RIDGES[:1]  # noise makes weaker pulls all alike
        settings = list(itertools.product(ridges, _laws_shared(basis, numbers)))
        for own in (True, False) if constants is None else (constants,):
            problem = _problem(Form(kind, units, smooth, basis, own, 0.0, smoothing, link), search, judges)
            for setting in settings:
                trials.append(_try(problem, *setting, starts, generator))
                if trials[-1].score < min(trial.score for trial in trials) + HOPELESS:
                    found += _structured(problem, trials[-1], numbers, generator)
                if _enough(found):
                    settings = [setting]  # and the other choice of constants beside it
                    break
        if _enough(found):
            break
    if not num_kinds:
        found += _merged(min(found, key=lambda one: one.score), search, judges)
    best = _polished(_chosen(found), search, judges, family, constants)
    trial, number = best.trial, best.number
    kinds, temperature, scales = _finish(trial.form, best.kinds, data, generator)
    trials = [trial, *sorted((one for one in trials if one is not trial), key=lambda one: one.score)]
    start = Start(
        trial.form, trial.laws, trial.mean, kinds, temperature, _nothing(), number, trials, best.score, scales
    )
    if groups is None:
        start = start._replace(
            temperature=temperature_of_halves(_halves(start, data.part(data.parts()[0])), temperature)
        )
    start = start._replace(answer=infer(start, states, seen, groups))
    # steps of many groups are fitted one by one, which takes minutes
    if data.groups is None or data.number > 1 or num_kinds not in (None, 2) or not _may_be_far(start.form):
        return start
    way = way_of(data.states, seen, data.groups, _rate(start, data.groups), start.form.smooth)
    if way is None:
        return start
    announce(f"frames far apart: {way}")
    kinds = _refitted(start, data, told(data.states, seen, data.groups, data.number, way) > 0, generator)
    start = start._replace(slow=way, kinds=kinds, suggested=2)
    return start._replace(answer=infer(start, states, seen, groups))


def _numbers(entities: int, kind: Kind, basis: Basis) -> int:
    """Of a receiver's Gram matrix; every channel of plain states has a block of its own."""
    blocks = 1 if kind.coordinates else len(kind.angles)
    return ((entities - 1) * basis.left.shape[1] * basis.right.shape[1]) ** 2 // blocks


def _may_be_far(form: Form) -> bool:
    """Whether states are one number, whose rates are sums."""
    plain = not form.kind.coordinates and not any(form.kind.angles) and len(form.kind.angles) == 1
    return plain and not form.basis.family.growth and not form.basis.family.saturating


def _rate(start: Start, groups: Tensor) -> Callable[[Tensor], Tensor]:
    """Function of states (B, N, X, D) to rates of change a frame, as laws and structures of groups have them."""
    form, units = start.form, start.form.units
    laws, constants = start.answer.coefficients[groups].flatten(0, 1), start.answer.constants

    def rate(states: Tensor) -> Tensor:
        x = (states - units.centre) / units.scale
        ready = Steps(x.unsqueeze(2), x.new_ones(1), torch.zeros_like(x), x.new_ones(x.shape[:3]), torch.ones_like(x))
        sent = -residuals(columns(form.basis, form.kind, ready), laws, start.kinds.own).view_as(x)
        return (sent + constants.unsqueeze(2)) * units.scale * units.step

    return rate


def _refitted(start: Start, data: _Data, related: Tensor, generator: torch.Generator) -> Kinds:
    """Laws of no relation and of a relation, structures (G, N, S) given: what forecasts begin with."""
    form = start.form
    data = data.few(NUMBERS // (4 * start.kinds.laws.shape[1] ** 2), generator)
    rows = related if data.receivers is None else related[:, data.receivers]
    beliefs = from_labels(torch.nn.functional.one_hot(rows.long(), 2).flatten(0, 1).to(data.states))
    share = beliefs.slots.mean((0, 1)).clamp_min(1e-6)
    return fit_kinds(_sums(data, form), beliefs, torch.outer(share, share))


def _numbered(groups: Tensor | None) -> Tensor | None:
    return None if groups is None else groups.unique(return_inverse=True)[1]


def infer(start: Start, states: Tensor, seen: Tensor | None = None, groups: Tensor | None = None) -> Answer:
    """Structures, weights and constants of tasks, laws given.

    Args:
        start: a cold start's result.
        states: (B, N, T, D) in the units of those it was made from.
        seen: where entities were observed, (B, N, T).
    """
    form = start.form
    data = _Data(smoothed(unwrap(states.double(), form.kind.angles), form.smoothing), seen, _numbered(groups))
    if data.groups is not None:
        found = _infer_groups(start, data, data.groups)
        return found if start.slow is None else _by_steps(start, found, data, data.groups)
    parts = [_infer(start, data.part(slice(i, i + CHUNK))) for i in range(0, len(states), CHUNK)]
    return Answer(*(torch.cat(list(part)) for part in zip(*parts, strict=True)))


def _nothing() -> Answer:
    return Answer(*[torch.zeros(0)] * 7)


def _steps(data: _Data, form: Form) -> Steps:
    growth = form.basis.family.growth
    return steps(data.states, form.kind, form.units, smooth=form.smooth, growth=growth, seen=data.seen, link=form.link)


def _held_out(length: int, device: torch.device) -> Tensor:
    """Which intervals judge: the second and the last fifth, early and late alike; of two intervals the last."""
    fifth = torch.arange(length, device=device) * 5 // max(length, 1)
    judges = (fifth == 1) | (fifth == 4)
    return judges if length > 2 else fifth == fifth.amax()


class _Sum:
    """Gram matrices of some tasks after the others: of all receivers, or summed over the tasks of a group."""

    def __init__(self, data: _Data) -> None:
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


def _sums(data: _Data, form: Form, part: str = "all") -> Grams:
    """Gram matrices of the frames that fit, of those that judge, or of all, pooled over the tasks of a group.

    Constants of entities come from the frames that fit.
    """
    total = _Sum(data)
    for tasks in data.parts():
        table = columns(form.basis, form.kind, _steps(data.part(tasks), form), data.receivers)
        judges = _held_out(table.target.shape[1], table.target.device).to(table.weight).view(1, -1, 1)
        fit = table.weight if part == "all" else table.weight * (1 - judges)
        if form.constants:
            table = centred(table, fit)
        total.add(grams(table._replace(weight=table.weight * judges if part == "judge" else fit)), tasks)
    return total.total


def _merged(best: _Found, search: _Data, judges: _Data) -> list[_Found]:
    """The same with fewer kinds: those two whose laws differ least become one, again and again."""
    form, found = best.trial.form, []
    problem = _problem(form, search, judges)
    e, s = problem.sums.cross.shape[:2]
    second = problem.sums.within(torch.eye(s).to(problem.sums.cross).expand(e, s, s).reshape(1, -1))[0]
    while best.number > 2:
        posterior, pairs = explain(problem.sums, best.kinds, problem.tasks)
        apart = best.kinds.laws.unsqueeze(1) - best.kinds.laws
        apart = torch.einsum("klf,fg,klg->kl", apart, second, apart).fill_diagonal_(float("inf"))
        first, other = divmod(int(apart.argmin()), best.number)
        into = torch.arange(best.number)
        into[other] = first
        into = torch.nn.functional.one_hot(into.unique(return_inverse=True)[1]).to(pairs)
        beliefs = from_labels(posterior.slots @ into)
        kinds = best.kinds._replace(pairs=into.mT @ pairs @ into)
        best = _found(problem, best.trial, _rounds(problem.sums, kinds, beliefs, problem.tasks))
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


def _polished(best: _Found, search: _Data, judges: _Data, family: Family | None, constants: bool | None) -> _Found:
    """The same structures under finer functions and under the other choice of constants, if these explain more.

    A choice that was given stays.
    """
    for _ in range(RELINKS if best.trial.form.link is not None else 0):
        moved = _reformed(best, _relinked(best, search), search, judges)
        if moved.score >= best.score - ALIKE:
            break
        best = moved
    fine = finer(best.trial.form.basis.family)
    if fine and family in (None, fine):
        few = search.part(search.parts()[0])
        basis = fit_basis(fine, best.trial.form.kind, _steps(few, best.trial.form))
        best = _simpler(best, _reformed(best, best.trial.form._replace(basis=basis), search, judges))
    if constants is None:
        form = best.trial.form
        best = _simpler(best, _reformed(best, form._replace(constants=not form.constants), search, judges))
    return best


def _simpler(one: _Found, other: _Found) -> _Found:
    """The better, or of two as good as one another the simpler."""
    better, worse = sorted((one, other), key=lambda found: found.score)
    alike = worse.score - better.score <= min(ALIKE, _error(one, other))
    return min(one, other, key=_complexity) if alike else better


def _complexity(found: _Found) -> tuple[int, bool]:
    return found.kinds.laws.shape[1], found.trial.form.constants


def _reformed(best: _Found, form: Form, search: _Data, judges: _Data) -> _Found:
    """Structures found, explained in another form of law."""
    problem = _problem(form, search, judges)
    beliefs, pairs = explain(_sums(search, best.trial.form), best.kinds, search.number)
    kinds = _rounds(problem.sums, fit_kinds(problem.sums, beliefs, pairs), beliefs, problem.tasks)
    laws = refine(problem.sums, _shared(kinds, best.trial.laws, form.basis), 12, form.ridge)
    return _found(problem, _judged(problem, laws, form.ridge), kinds)


def _relinked(best: _Found, search: _Data) -> Form:
    """A saturating form whose leak and size are moved by what residuals say, structures kept."""
    form = best.trial.form
    assert form.link is not None
    beliefs, pairs = explain(_sums(search, form), best.kinds, search.number)
    total = _Sum(search)
    for tasks in search.parts():
        ready = _steps(search.part(tasks), form)
        table, link = columns(form.basis, form.kind, ready, search.receivers), link_columns(ready, form.link)
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


def _laws_shared(basis: Basis, numbers: list[int]) -> tuple[int, ...]:
    """How many laws edges may have weights on: a second one where three kinds may differ in more than strength."""
    h, v = basis.left.shape[1], basis.right.shape[1]
    return (1, 2) if max(numbers) > 2 and h == 1 and v > 1 else (1,)


def _problem(form: Form, search: _Data, judges: _Data) -> _Problem:
    sums = _sums(search, form)
    fit, judge = (_sums(judges, form, part) for part in ("fit", "judge"))
    few = judges.groups is not None and judges.number < MANY
    return _Problem(form, sums, search.number, fit, judge, judges.number, few, solve_own(sums))


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
    number = len(kinds.laws)
    posterior, _ = explain(problem.fit, kinds, problem.judges)
    chosen = torch.nn.functional.one_hot(posterior.slots.argmax(-1), number).to(kinds.laws)
    left = _log_residual(problem, chosen @ kinds.laws, kinds.own)
    return _Found(float(left.mean()), left, kinds, number, trial)


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
    """Logarithm of the mean squared residual of every structure on held-out frames, (B,).

    Where structures are few: of all together, to first order as a mean over receivers, (E,). Many have no sender.
    """
    sums = problem.judge
    rest = torch.cat([-own, own.new_ones(1)])
    left = torch.einsum("x,exy,y->e", rest, sums.own, rest)
    if coefficients is not None:
        left = left - 2 * torch.einsum("esf,esfx,x->e", coefficients, sums.cross, rest)
        left = left + sums.squares(coefficients)
    floor = 1e-14 * sums.own[:, -1, -1].sum() / sums.targets.sum().clamp_min(1)
    if problem.few:
        mean = (left.clamp_min(0).sum() / sums.targets.sum().clamp_min(1)).clamp_min(floor)
        return mean.log() + left * len(left) / (mean * sums.targets.sum().clamp_min(1)) - 1
    count = sums.targets.view(problem.judges, -1).sum(1).clamp_min(1)
    return torch.log((left.view(problem.judges, -1).sum(1) / count).clamp_min(floor))


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
    return [_rounds(sums, kinds, beliefs, tasks) for kinds, beliefs in _unlike(ways)[:BEST]]


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


def _rounds(sums: Grams, kinds: Kinds, posterior: Posterior, tasks: int, count: int = 15) -> Kinds:
    """Expectation maximisation from beliefs, until it no longer explains more."""
    pairs, before = kinds.pairs, float("inf")
    for _ in range(count):
        kinds = fit_kinds(sums, posterior, pairs)
        if abs(before - float(kinds.variance)) < 1e-4 * before:
            break
        before = float(kinds.variance)
        posterior, pairs = explain(sums, kinds, tasks)
    return fit_kinds(sums, posterior, pairs)


def _tables(data: _Data, form: Form) -> list[Columns]:
    return [columns(form.basis, form.kind, _steps(data.part(tasks), form), data.receivers) for tasks in data.parts()]


def _weighted(table: Columns, form: Form, importance: Tensor) -> Columns:
    """Columns under weights, constants taken out."""
    weight = table.weight * importance
    return (centred(table, weight) if form.constants else table)._replace(weight=weight)


def _finish(form: Form, kinds: Kinds, data: _Data, generator: torch.Generator) -> tuple[Kinds, float, Scales]:
    """Kinds' laws from all tasks, Student-t weights; the temperature that residuals' correlation asks for; scales.

    Steep laws are finished by annealing: collisions tell some edges beyond doubt, and the laws at a distance come from
    receivers whose edges are all told, so that the quiet rest is not taken for whatever the first laws had there.
    Wide laws come from fewer tasks, as many as memory holds.
    """
    n, f = data.states.shape[1], kinds.laws.shape[1]
    if data.groups is None:
        data = data.part(slice(max(1, NUMBERS // (n * _numbers(n, form.kind, form.basis)))))
    else:
        data = data.part(slice(MOST_PARTS * data.parts()[0].stop)).few(NUMBERS // (4 * f**2), generator)
    tables, tasks = _tables(data, form), data.number
    sizes, steep = [len(table.target) for table in tables], form.basis.family.right == "steep"
    weight = torch.cat([table.weight for table in tables])
    weigh = torch.ones_like(weight)
    for step in range(STEEP_ROUNDS if steep else 3):
        weighted = [_weighted(table, form, u) for table, u in zip(tables, weigh.split(sizes), strict=True)]
        sums = _pooled(joined([grams(table) for table in weighted]), data)
        heat = 1 + HEAT * COOL**step if steep else 1.0
        kinds = _sure_rounds(sums, kinds, tasks, heat) if steep else _more_rounds(sums, kinds, tasks)
        slots = _by_task(explain(sums, kinds, tasks, temperature=heat)[0].slots, data).split(sizes)
        lefts = [residuals(table, q @ kinds.laws, kinds.own) for table, q in zip(weighted, slots, strict=True)]
        left = torch.cat(lefts) * weight.sqrt()
        activity = torch.cat([log_activity(table, kinds) for table in tables])
        scales = measure_scales(left, weight, activity, BINS if steep else 1)
        weigh = importance(scales, left, activity)
    return kinds, _inflation(left * (weigh.sqrt() if steep else 1.0), weight), scales


def _more_rounds(sums: Grams, kinds: Kinds, tasks: int) -> Kinds:
    posterior, pairs = explain(sums, kinds, tasks)
    return _rounds(sums, kinds._replace(pairs=pairs), posterior, tasks, 5)


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


def _pooled(sums: Grams, data: _Data) -> Grams:
    return sums if data.groups is None else pooled(sums, data.groups, data.number)


def _by_task(of_receivers: Tensor, data: _Data) -> Tensor:
    """What receivers of structures have, (G N, ...), for those of tasks, (B N, ...)."""
    if data.groups is None:
        return of_receivers
    return of_receivers.view(data.number, -1, *of_receivers.shape[1:])[data.groups].flatten(0, 1)


def _infer_groups(start: Start, data: _Data, groups: Tensor) -> Answer:
    """Structures of groups; only constants and importance are of tasks."""
    form, kinds, (b, n) = start.form, start.kinds, data.states.shape[:2]
    shared = start.laws.coefficients[0]
    reduced, free = _among(kinds, shared)
    slots: Tensor | None = None
    for _ in range(3):  # passes over all tasks, weighted by the errors of the structures before
        parts, own, weigh = _Sum(data), [], []
        for tasks in data.parts():
            table = columns(form.basis, form.kind, _steps(data.part(tasks), form))
            activity = log_activity(table, kinds)
            table = _by_messages(table, kinds, shared)
            u = importance(start.scales, None, activity).expand_as(table.weight)
            if slots is not None:
                mine = _padded(slots[groups[tasks]].flatten(0, 1), shared)
                left = residuals(_weighted(table, form, u), mine, reduced.own)
                u = importance(start.scales, left * table.weight.sqrt(), activity)
                weight = table.weight * u
                own.append((residuals(table, mine, reduced.own) * weight).sum(1) / weight.sum(1).clamp_min(1e-12))
            weigh.append(u)
            parts.add(grams(_weighted(table, form, u)), tasks)
        posterior, _ = explain(parts.total, reduced, data.number, temperature=start.temperature)
        slots = posterior.slots.unflatten(0, (data.number, n))
    weights = solve_weights(parts.total, free, form.ridge, start.mean)[0][0]
    structures = posterior.slots.argmax(-1)
    by_entity = (weights, posterior.slots, structures, posterior.slots.amax(-1), kinds.laws[structures])
    weights, slots, structures, certainty, laws = (part.unflatten(0, (data.number, n)) for part in by_entity)
    constants, u = (torch.cat(part).unflatten(0, (b, n)) for part in (own, weigh))
    return Answer(weights, slots, structures, certainty, constants * form.constants, u, laws)


def _by_steps(start: Start, found: Answer, data: _Data, groups: Tensor) -> Answer:
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


def _explained(start: Start, data: _Data) -> tuple[Columns, Tensor, Grams, Posterior]:
    """Columns that are messages, weights of intervals, sums and beliefs; laws given, tasks few."""
    form, kinds, shared = start.form, start.kinds, start.laws.coefficients[0]
    table = columns(form.basis, form.kind, _steps(data, form))
    activity = log_activity(table, kinds)
    table, (reduced, _) = _by_messages(table, kinds, shared), _among(kinds, shared)
    u = importance(start.scales, None, activity)
    for step in range(4):
        sums = grams(_weighted(table, form, u))
        posterior, _ = explain(sums, reduced, len(data.states), temperature=start.temperature)
        if step < 3:
            left = residuals(_weighted(table, form, u), _padded(posterior.slots, shared), reduced.own)
            u = importance(start.scales, left * table.weight.sqrt(), activity)
    return table, u, sums, posterior


def _halves(start: Start, data: _Data) -> Callable[[float], tuple[Tensor, Tensor]]:
    """Function of a temperature to beliefs from the first and from the last frames."""
    table, u, _, _ = _explained(start, data)
    first = (torch.arange(u.shape[1], device=u.device) < u.shape[1] // 2).to(u).view(1, -1, 1)
    parts = [grams(_weighted(table, start.form, u * of)) for of in (first, 1 - first)]
    kinds = _among(start.kinds, start.laws.coefficients[0])[0]

    def beliefs(temperature: float) -> tuple[Tensor, Tensor]:
        of = [explain(part, kinds, len(data.states), temperature=temperature)[0].slots for part in parts]
        return of[0], of[1]

    return beliefs


def _infer(start: Start, data: _Data) -> Answer:
    form, kinds, shared = start.form, start.kinds, start.laws.coefficients[0]
    b, n = data.states.shape[:2]
    table, u, sums, posterior = _explained(start, data)
    reduced, free = _among(kinds, shared)
    weights = solve_weights(sums, free, form.ridge, start.mean)[0][0]
    structures = posterior.slots.argmax(-1)
    constants = torch.zeros_like(table.target[:, 0])
    if form.constants:
        chosen = torch.nn.functional.one_hot(structures, len(kinds.laws)).to(shared)
        weight = table.weight * u
        left = residuals(table, _padded(chosen, shared), reduced.own) * weight
        constants = left.sum(1) / weight.sum(1).clamp_min(1e-12)
    by_entity = (
        weights, posterior.slots, structures, posterior.slots.amax(-1), constants, u, kinds.laws[structures],
    )  # fmt: skip
    return Answer(*(part.view(b, n, *part.shape[1:]) for part in by_entity))


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
