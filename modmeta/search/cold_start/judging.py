"""One form of law judged: laws from random starts, weights, structures, and what these explain of held-out frames.

Letters: B tasks, N entities, S senders, E = B N receivers, R laws, K kinds, F features of a pair.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from modmeta.search.cold_start.certainty import kappa
from modmeta.search.cold_start.cluster import Clusters, clusterings
from modmeta.search.cold_start.data import Data, changes_of, split_sums_of, sums_of
from modmeta.search.cold_start.grams import Grams
from modmeta.search.cold_start.records import Form, Trial
from modmeta.search.cold_start.refine import Laws, laws_of, refine, solve_own, solve_weights
from modmeta.search.cold_start.structures import Kinds, Posterior, explain, from_labels, requantised, rounds_of

BEST = 2  # clusterings of a law's weights that are carried to hard structures
SAME = 0.003  # share of weights that clusterings which are the same may name otherwise
SMALL = 1e-6  # of a typical change, not worth explaining
WIDE, PART, FEW = 100, 3, 48  # features of a pair, from which on starts are told apart by a third of the receivers
MANY = 8  # groups whose spread says something
STARTS = 6  # random laws of a form that was chosen already


class Problem(NamedTuple):
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
    without: Tensor  # logarithm of the mean squared residual without relations, of every structure


class Found(NamedTuple):
    score: float
    left: Tensor  # of which the score is the mean, (tasks,)
    gains: Tensor  # nats a number over no relations, (tasks,)
    alike: float  # agreement of structures from the frames that fit and from those that judge
    kinds: Kinds
    number: int
    trial: Trial


def problem_of(form: Form, search: Data | None, judges: Data) -> Problem:
    """Laws are searched on the judging tasks' own frames that fit where no others are given."""
    fit, judge = split_sums_of(judges, form)
    if search is None or search.parted:
        sums, tasks = fit, judges.number
    else:
        sums, tasks = sums_of(search, form), search.number
    few = judges.groups is not None and judges.number < MANY
    square = changes_of(judges, form)
    counts = square.sqrt().sqrt() + 1e-30
    floor, own = SMALL**2 * float(square.mean()), solve_own(sums.own.sum(0))
    made = Problem(
        form, sums, tasks, fit, judge, judges.number, few, counts / counts.mean(), floor, own, own
    )  # fmt: skip
    if form.free:  # gains are over the best that is known without relations
        return made._replace(without=problem_of(form._replace(free=False), search, judges).without)
    return made._replace(without=_log_residual(made, None, own))


def tried(problem: Problem, ridge: float, shared: int, starts: int, generator: torch.Generator) -> Trial:
    """The best of laws from random starts."""
    laws = _random_laws(problem, shared, starts, generator)
    for kept, iterations, sums in ((len(laws.loss), 8, _some(problem)), (6, 12, _some(problem)), (2, 30, problem.sums)):
        laws = refine(sums, laws.select(laws.loss.argsort()[:kept]), iterations, ridge)
    return judged(problem, laws.select(laws.loss.argsort()[:1]), ridge)


def _some(problem: Problem) -> Grams:
    """Sums of some receivers, where pairs have many features: enough to tell good starts from bad ones."""
    e, _, f, _ = problem.sums.cross.shape
    if f < WIDE or e <= FEW:
        return problem.sums
    drawn = torch.randperm(e, generator=torch.Generator().manual_seed(0))  # entities may be sorted
    return problem.sums.select(drawn[: max(FEW, e // PART)])


def kinds_of_sums(form: Form, sums: Grams, tasks: int, shared: int, number: int, generator: torch.Generator) -> Kinds:
    """Kinds' laws of a form from random starts, told by nothing but these sums of so many tasks or groups."""
    own, ones = solve_own(sums.own.sum(0)), torch.ones_like(sums.targets)
    problem = Problem(form, sums, tasks, sums, sums, tasks, True, ones, 0.0, own, own)
    problem = problem._replace(without=_log_residual(problem, None, own))
    trial = tried(problem, form.ridge, shared, STARTS, generator)
    return min(_kinds(trial, sums, tasks, number, generator), key=lambda kinds: float(kinds.variance))


def structured(problem: Problem, trial: Trial, numbers: list[int], generator: torch.Generator) -> list[Found]:
    """Structures from a trial's weights, for every number of kinds, with what they explain of held-out frames."""
    found = []
    for number in numbers:
        ways = _kinds(trial, problem.sums, problem.tasks, number, generator)
        found += [explained(problem, trial, kinds) for kinds in ways]
    return found


def explained(problem: Problem, trial: Trial, kinds: Kinds) -> Found:
    """Kinds with what they explain of held-out frames, structures from the others."""
    return scored(problem, trial, kinds, explain(problem.fit, kinds, problem.judges)[0])


def scored(problem: Problem, trial: Trial, kinds: Kinds, beliefs: Posterior) -> Found:
    """The same, structures given."""
    number, labels = len(kinds.laws), beliefs.slots.argmax(-1)
    left = _log_residual(problem, beliefs.likeliest @ kinds.laws, kinds.own)
    gains = (problem.without - left) / 2
    held_out = explain(problem.judge, kinds, problem.judges)[0]
    alike = kappa(labels, held_out.slots.argmax(-1), number)
    return Found(float(left.mean()), left, gains, alike, kinds, number, trial)


def _random_laws(problem: Problem, shared: int, starts: int, generator: torch.Generator) -> Laws:
    """Starts of various smoothness: coefficients as large as features are, their root, or all alike."""
    basis, own = problem.form.basis, problem.own
    h, v = basis.left.shape[1], basis.right.shape[1]
    count = starts if h * v > 2 else 3
    left = torch.randn(count, shared, h, generator=generator, dtype=own.dtype).to(own)
    right = torch.randn(count, shared, v, generator=generator, dtype=own.dtype).to(own)
    smoothness = torch.tensor([0.0, 0.5, 1.0], device=own.device)[torch.arange(count) % 3].view(-1, 1, 1)
    return laws_of(left, right * basis.spread[:v] ** smoothness, own)


def judged(problem: Problem, laws: Laws, ridge: float) -> Trial:
    """Laws with what they explain of held-out frames, weights from the others."""
    mean = solve_weights(problem.sums, laws, ridge)[1]
    weights = solve_weights(problem.fit, laws, ridge, mean)[0][0]
    score = _log_residual(problem, _sent(weights, laws), laws.own[0])
    gain = (problem.without - score) / 2
    error = float(gain.std() / len(gain) ** 0.5) if len(gain) > 1 else float("inf")
    if problem.few:
        error = _error(problem, _sent(weights, laws), laws.own[0])
    form = problem.form._replace(ridge=ridge)
    return Trial(form, laws, mean, float(score.mean()), float(problem.without.mean()), float(gain.mean()), error)


def _sent(weights: Tensor, laws: Laws) -> Tensor:
    """Coefficients (E, S, F) of every edge."""
    return weights @ laws.coefficients[0]


def _log_residual(problem: Problem, coefficients: Tensor | None, own: Tensor) -> Tensor:
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


def _error(problem: Problem, coefficients: Tensor, own: Tensor) -> float:
    """Standard error of the gain over no relations, of all receivers together, if residuals are white.

    Receivers of few structures gain more or less because they have more or fewer senders, which is no error. With
    predictions that differ by sums of squares D, residuals of variance v and n numbers, v D / (n v)^2 is its square.
    """
    sums = problem.judge
    ways = ((coefficients, own), (None, problem.own), (coefficients / 2, (own + problem.own) / 2))
    left, without, between = (float(sums.left(*way).sum()) for way in ways)
    apart = max(2 * (left + without) - 4 * between, 0.0)
    return (apart / max(left * float(sums.targets.sum()), 1e-300)) ** 0.5


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
