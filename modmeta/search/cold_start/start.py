"""The cold start: families of laws tried cheapest first, the one that foretells held-out frames best, structures.

Letters: B tasks, N entities, T frames, D features.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from modmeta.data.transforms.smoothing import smoothed
from modmeta.search.cold_start.answers import halves, infer, nothing
from modmeta.search.cold_start.certainty import kappa, temperature_of_halves
from modmeta.search.cold_start.choosing import (
    ENOUGH,
    HOPELESS,
    Believed,
    believed,
    chosen,
    ended,
    given,
    if_unequal,
    merged,
    polished,
    reformed,
    simpler,
    stepped,
    under,
    unequal,
    usual_and_large,
    varied,
)
from modmeta.search.cold_start.data import Data, changes_of, numbered, table_of
from modmeta.search.cold_start.far import better_halfway, known, may_be_far, rate_of, refitted, told, way_of
from modmeta.search.cold_start.features import MAPPED, Basis, Family, coarser, families, fit_basis
from modmeta.search.cold_start.finish import finish
from modmeta.search.cold_start.grams import centred, own_sums
from modmeta.search.cold_start.judging import Found, problem_of, structured, tried
from modmeta.search.cold_start.noise import ROUGH, observation_noise, smoothing_width
from modmeta.search.cold_start.records import Form, Start, Trial
from modmeta.search.cold_start.refine import solve_own
from modmeta.search.cold_start.saturation import measure_link, saturates
from modmeta.search.cold_start.structures import MOST_ROWS, MOST_UNEQUAL, with_none
from modmeta.search.cold_start.weak_form import (
    Kind,
    Units,
    measure_units,
    roughness,
    steps,
    straightened,
    usual_change,
    weights_of_entities,
)

__all__ = ["cold_start"]

RIDGES = (
    1e-3,
    1e-5,
)  # pull of weights to their mean: strong pulls find laws that weak ones overfit, and the other way round
AGREE = 0.7  # kappa of structures from two parts of the frames, from which other families are first seen under these
MUCH = 0.5  # nats a number that they gain over no relations, at least
SAME_EDGES = 0.8  # kappa of structures that another family makes of them, from which it need not be searched
NOISY = 0.2  # roughness above which noise of observation is looked for
MOST_PAIRS = 15_000  # pairs of senders of all receivers from which laws are searched
FEWEST = 4  # tasks
MOST_SUMS = 250_000_000  # numbers of Gram matrices, beyond which a family is not tried


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
    shapes: bool | None = None,
    strengths: bool | None = None,
    smooth: bool | None = None,
    steep: Sequence[float] | None = None,
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
        shapes: false for no function of plain states whose sizes are their own; else one if that explains more.
        strengths: whether edges of a kind differ in strength; None to judge that by held-out frames.
        smooth: whether paths are smooth between frames; None to measure it.
        steep: waves of senders where steps are those of maps, see `far.steepness_of_maps`; their laws alone are tried.
    """
    generator, apart = (torch.Generator().manual_seed(seed) for _ in range(2))  # apart: of slopes
    data, ready = _ready(Data(straightened(states, kind), seen, numbered(groups)), kind, frame_step, smooth)
    if steep is not None:
        return _mapped(ready, data, states, steep, constants, generator, announce)
    search, judges = _drawn(data, search_tasks, generator)
    ways, vary = _ways_of_own(kind, constants, slopes), _may_vary(data, kind, constants, shapes)
    attempts = _Attempts(ready, search, judges, num_kinds, vary, starts, generator, apart)
    tried_of = [coarser(family)] if family else families(kind, bool((data.states > 0).all()))
    for some, one in itertools.product(ways, tried_of):
        attempts.add(one, some, announce, given=family is not None, sloped=slopes)
        if attempts.enough:
            break
    told = kind.second_order and attempts.enough  # before anything of their own was tried
    best = attempts.best(
        family, reform=constants is None and slopes is not True and not told, step=smooth is None,
        differ=strengths,
    )  # fmt: skip
    trial, number = best.trial, best.number
    kinds, temperature, scales, spread = finish(trial.form, best.kinds, data, generator)
    trials = [trial, *sorted((one for one in attempts.trials if one is not trial), key=lambda one: one.score)]
    start = Start(
        trial.form, trial.laws, trial.mean, kinds, temperature, nothing(), number, trials, best.gains, scales,
        _unexplained(best, judges), spread=spread,
    )  # fmt: skip
    if groups is None:
        of_halves = halves(start, data.part(data.parts()[0]))
        start = start._replace(temperature=temperature_of_halves(of_halves, temperature))
    start = start._replace(answer=infer(start, states, seen, groups))
    # steps of many groups are fitted one by one, which takes minutes
    if data.groups is None or data.number > 1 or num_kinds not in (None, 2):
        return start
    return _slowly(start, data, states, generator, announce)


class _Ready(NamedTuple):
    """What is alike in all forms of law."""

    kind: Kind
    units: Units
    smooth: bool
    smoothing: int

    def form(self, basis: Basis, constants: bool, slopes: bool, link: Tensor | None) -> Form:
        return Form(self.kind, self.units, self.smooth, basis, constants, 0.0, self.smoothing, link, slopes)


def _ready(data: Data, kind: Kind, frame_step: float, smooth: bool | None) -> tuple[Data, _Ready]:
    """States with less noise of observation, units and smoothness."""
    units = measure_units(data.states, kind, frame_step)
    rough, smoothing = roughness(data.states, kind), 0
    if rough > NOISY and data.seen is None:
        smoothing = smoothing_width(data.states, observation_noise(data.states))
        data = data._replace(states=smoothed(data.states, smoothing))
    units = units._replace(
        entities=weights_of_entities(data.states, kind, units, data.seen),
        usual=usual_change(data.states, kind, units, data.seen),
    )
    return data, _Ready(kind, units, (rough < ROUGH or smoothing > 0) if smooth is None else smooth, smoothing)


def _drawn(data: Data, search_tasks: int, generator: torch.Generator) -> tuple[Data, Data]:
    """Tasks on which laws are searched and others that judge them, of as many receivers as can be afforded."""
    count, n = data.states.shape[:2]
    order = torch.randperm(count, generator=generator)
    if data.groups is None:  # of many entities few tasks
        search_tasks = min(search_tasks, max(FEWEST, MOST_PAIRS // (n * (n - 1) ** 2)))
    judging = max(1, min(2 * search_tasks // 3, count // 3))
    search, judges = data.part(order[judging : judging + search_tasks]), data.part(order[:judging])
    if data.groups is not None:  # whose tasks tell structures together: others of their frames judge
        search = judges = data.part(order[: judging + search_tasks])._replace(parted=True)
    elif count == 1:
        search = judges = data
    search = search.few(MOST_PAIRS, generator)
    return search, judges._replace(receivers=search.receivers)


class _Attempts:
    """Families of laws tried on some tasks, and structures found with them that are judged on others.

    Attributes:
        trials: how laws did, in the order tried.
        found: structures from those laws that were worth it.
    """

    def __init__(
        self,
        ready: _Ready,
        search: Data,
        judges: Data,
        num_kinds: int | None,
        vary: bool,
        starts: int,
        generator: torch.Generator,
        apart: torch.Generator,
    ) -> None:
        self.ready, self.search, self.judges = ready, search, judges
        self.vary, self.starts = vary, starts
        self.generator, self.apart, self.free = generator, apart, torch.Generator().manual_seed(apart.initial_seed())
        self.num_kinds = num_kinds
        self.numbers, self.more = [num_kinds] if num_kinds else [2, 3, 4], list[int]()
        if self.numbers[-1] ** (search.states.shape[1] - 1) > MOST_ROWS:  # rows take long to tell: more kinds come last
            self.numbers, self.more = self.numbers[:1], self.numbers[1:]
        self.trials: list[Trial] = []
        self.found: list[Found] = []
        self._sure: Believed | None = None
        self._varied: list[Found] = []  # the best of families, with functions of entities' own
        self._sloped: bool | None = None

    @property
    def enough(self) -> bool:
        """Whether hard structures explain so much that no dearer law can better them."""
        return any(map(_explains_enough, self.found))

    def add(
        self,
        family: Family,
        ways: list[tuple[bool, bool]],
        announce: Callable[[str], None],
        *,
        given: bool,
        sloped: bool | None,
    ) -> None:
        """Tries a family.

        Args:
            family: it is passed over where it does not fit the data, or is too large.
            ways: constants, and slopes, that entities may have of their own.
            announce: is called with its name, and with what every trial gained.
            given: whether there is no other family.
            sloped: whether forms with slopes are asked for; None where data decide.
        """
        announce(family.name)
        placed = self._placed(family, given)
        if placed is None or (self._sure is not None and self._as_before(*placed, announce)):
            return
        basis, link = placed
        if not all(own for own, _ in ways) and self._explained_freely(basis, announce):
            return
        ridges = RIDGES if self.ready.smooth else RIDGES[:1]  # noise makes weaker pulls all alike
        settings = list(itertools.product(ridges, _laws_shared(basis, self.numbers)))
        for constants, slopes in ways:
            form = self.ready.form(basis, constants, slopes, link)
            if slopes and not sloped and not self._may_have_slopes(form):
                continue
            problem, drawn = problem_of(form, self.search, self.judges), self.apart if slopes else self.generator
            for setting in settings:
                trial = tried(problem, *setting, self.starts, drawn)
                self.trials.append(trial)
                announce(f"{family.name}{form.own_in_words}, gain {trial.gain:.2f}")
                if trial.score < min(one.score for one in self.trials) + HOPELESS:
                    self.found += _worth(structured(problem, trial, self.numbers, drawn), self.found)
                if self.enough:  # the other choice of constants is tried on the structures found
                    return
        self._try_varied()
        self._judge_certainty()

    def _explained_freely(self, basis: Basis, announce: Callable[[str], None]) -> bool:
        """Whether relations alone explain so much that no field is needed, in which entities would move by themselves.

        A field that any entity may feel stands in for a body at rest that pulls them, as a sun.
        """
        if not self.ready.kind.coordinates or self.judges.groups is not None:
            return False
        form = self.ready.form(basis, False, False, None)._replace(free=True)
        problem = problem_of(form, self.search, self.judges)
        trial = tried(problem, RIDGES[-1], 1, self.starts, self.free)
        if trial.gain < ENOUGH:
            return False
        found = structured(problem, trial, self.numbers, self.free)
        if not any(_explains_enough(one) for one in found):
            return False
        self.trials.append(trial)
        self.found += found
        announce(f"{basis.family.name}{form.own_in_words}, gain {trial.gain:.2f}")
        return True

    def best(self, family: Family | None, *, reform: bool, step: bool, differ: bool | None) -> Found:
        """What explains held-out frames best.

        Args:
            family: that was given; None where there were others.
            step: whether frames that decide the next ones are tried where paths look smooth.
            reform: whether the other choice of what entities have of their own is tried.
            differ: whether strengths do; None where that is to be judged.
        """
        best = min(self.found, key=lambda one: one.score)
        if self.more and not self.enough:
            problem = problem_of(best.trial.form, self.search, self.judges)
            self.found += structured(problem, best.trial, self.more, self.generator)
        if not self.num_kinds:
            self.found += merged(min(self.found, key=lambda one: one.score), self.search, self.judges)
        best = self._polished(coarse := chosen(self.found), family, step=step)
        if not self.num_kinds and best is not coarse:  # errors of coarse laws are no kinds
            best = chosen([best, *merged(best, self.search, self.judges)])
        if reform and float(best.kinds.variance) > 0:  # else nothing is left to explain
            rival = reformed(best, _with_less(best.trial.form), self.search, self.judges)
            self.trials.append(rival.trial)
            best = simpler(best, rival)
        ways = [best]
        if self.vary and not self.enough:
            ways += [varied(best, self.search, self.judges), *self._varied]
            ways = [one for one in ways if one.number == best.number]
        best = min(ways, key=_score)
        rows = best.number ** (self.search.states.shape[1] - 1)
        if (differ or (differ is None and not self.enough)) and self.search.groups is None and rows <= MOST_UNEQUAL:
            way = unequal if differ else if_unequal
            best = way(best, self.trials, self.search, self.judges, self.apart)
        self.trials.append(best.trial)
        if self.ready.units.usual is not None:
            best = usual_and_large(best, self.found, self.judges)
            self.trials.append(best.trial)
        return best

    def _polished(self, best: Found, family: Family | None, *, step: bool) -> Found:
        """The best under finer functions, those that end among them, and of frames that decide the next one."""
        step &= self.ready.units.stepped and self.ready.smooth
        if step:
            best = stepped(best, self.search, self.judges)
        best = polished(best, self.search, self.judges, family)
        if step and best.trial.form.smooth:  # errors of coarse functions may hide it
            best = stepped(best, self.search, self.judges)
        return best if self.enough else ended(best, self.search, self.judges, family)

    def _placed(self, family: Family, given: bool) -> tuple[Basis, Tensor | None] | None:
        """Its functions where the data are, and how rates saturate; None where it is not to be tried."""
        few, link = self.search.part(self.search.parts()[0]), None
        kind, units, smooth, _ = self.ready
        ready = steps(few.states, kind, units, smooth=smooth, growth=family.growth, seen=few.seen)
        if family.saturating:
            link = measure_link(ready)
            if not given and not saturates(link, ready):
                return None
            ready = steps(few.states, kind, units, smooth=smooth, seen=few.seen, link=link)
        basis = fit_basis(family, kind, ready)
        if self.trials and self.search.products(kind, basis) > MOST_SUMS:
            return None
        return basis, link

    def _as_before(self, basis: Basis, link: Tensor | None, announce: Callable[[str], None]) -> bool:
        """Whether a family makes the same of structures that are sure, or better, so that it need not be searched."""
        sure = self._sure
        assert sure is not None
        looked, labels = under(sure, sure.of.trial.form._replace(basis=basis, link=link), None, self.judges)
        alike = kappa(labels, sure.beliefs.slots.argmax(-1), looked.number) > SAME_EDGES
        if not alike and looked.score <= sure.of.score:
            return False
        announce(f"{basis.family.name}, gain {looked.trial.gain:.2f}")
        self.trials.append(looked.trial)
        self.found.append(looked)
        return True

    def _may_have_slopes(self, form: Form) -> bool:
        """Whether slopes tell anything; a smooth path in space is nearly linear in itself, whatever bends it."""
        if self._sloped is None:
            self._sloped = not form.kind.coordinates and _sloped(form, self.search)
        return self._sloped

    def _try_varied(self) -> None:
        """Looks at the best of the last family with functions of entities' own.

        It is no rival of other families before all were tried, unless no dearer law can better it: such functions may
        stand in for their laws.
        """
        last = self.trials[-1].form.basis.family
        mine = [one for one in self.found if one.trial.form.basis.family == last]
        if not (self.vary and mine):
            return
        best = min(mine, key=lambda one: one.score)
        varying = varied(best, self.search, self.judges)
        if varying is not best:
            self._varied.append(varying)
        if _explains_enough(varying):
            self.found.append(varying)
            self.trials.append(varying.trial)

    def _judge_certainty(self) -> None:
        """Structures are sure where two parts of the frames tell the best ones alike, and the law gains much."""
        best = min([*self.found, *self._varied], key=lambda one: one.score)
        alike = best.alike > AGREE and not best.trial.form.slopes  # which bend alike in both parts
        sure = alike and float(best.gains.mean()) > MUCH and self.judges.groups is None
        if sure and (self._sure is None or self._sure.of is not best):
            self._sure = believed(best, self.judges)


def _slowly(
    start: Start, data: Data, states: Tensor, generator: torch.Generator, announce: Callable[[str], None]
) -> Start:
    """The same where frames of one group are so far apart that other ways tell its structure better."""
    assert data.groups is not None
    if better_halfway(start, data, generator):
        start = _by_steps(start, data, states, "halfway", generator)
        announce("relations halfway between frames")
    if not may_be_far(start.form):
        return start
    rate, kind = rate_of(start, data.groups), start.form.kind
    way = way_of(data.states, data.seen, data.groups, rate, kind, start.form.smooth)
    if way is not None:
        start = _by_steps(start, data, states, way, generator)
        announce(f"frames far apart: {way}")
    return start


def _mapped(
    ready: _Ready, data: Data, states: Tensor, steep: Sequence[float], constants: bool | None,
    generator: torch.Generator, announce: Callable[[str], None],
) -> Start:  # fmt: skip
    """Structures told by steps that are those of maps, and the laws that go with them."""
    assert data.groups is not None
    announce("maps between frames far apart")
    related = told(data.states, data.seen, data.groups, data.number, "halfway") > 0
    few = data.part(data.parts()[0])
    ends = steps(few.states, ready.kind, ready.units, smooth=ready.smooth, seen=few.seen)
    basis, found = fit_basis(MAPPED, ready.kind, ends, steep), []
    for own in (False, True) if constants is None else (constants,):
        form = ready.form(basis, own, False, None)
        found.append(given(form, known(data, form, related, generator)))
        announce(f"{MAPPED.name}{form.own_in_words}, gain {found[-1].trial.gain:.2f}")
    best = chosen(found)
    form, trial = best.trial.form, best.trial
    kinds, temperature, scales, _ = finish(form, best.kinds, known(data, form, related, generator), generator)
    trials = [trial, *(one.trial for one in found if one is not best)]
    start = Start(
        form, trial.laws, trial.mean, with_none(kinds), temperature, nothing(), 2, trials, best.gains, scales,
        _unexplained(best, known(data, form, related, generator)), "halfway",
    )  # fmt: skip
    return start._replace(answer=infer(start, states, data.seen, data.groups))


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


def _may_vary(data: Data, kind: Kind, constants: bool | None, shapes: bool | None) -> bool:
    """Whether entities may have functions of sizes of their own: of plain states, where nothing speaks against it."""
    return shapes is not False and constants is not False and data.groups is None and not kind.coordinates


def _ways_of_own(kind: Kind, constants: bool | None, slopes: bool | None) -> list[list[tuple[bool, bool]]]:
    """What entities may have of their own: constants, and slopes beside; what is tried of every family at a time.

    Bodies in space seldom have any: all families are tried without before one is tried with them.
    """
    ways = [(True, False), (False, False), (True, True)]
    ways = [
        (own, beside) for own, beside in ways
        if beside == (slopes if slopes is not None else beside) and (slopes or constants in (None, own))
    ]  # fmt: skip
    return [[way] for way in sorted(ways)] if kind.second_order else [ways]


def _with_less(form: Form) -> Form:
    """The form with one sort fewer of what entities have of their own; with constants where they have nothing."""
    if form.shapes is not None:
        return form._replace(shapes=None)
    return form._replace(slopes=False) if form.slopes else form._replace(constants=not form.constants)


def _unexplained(found: Found, judges: Data) -> Tensor:
    """Logarithm of the share of the changes of every judging task that is left, (tasks,)."""
    return found.left - changes_of(judges, found.trial.form).mean().clamp_min(1e-300).log()


def _explains_enough(found: Found) -> bool:
    return found.trial.without - found.score > 2 * ENOUGH


def _score(found: Found) -> float:
    return found.score


def _worth(tried: list[Found], found: list[Found]) -> list[Found]:
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


def _laws_shared(basis: Basis, numbers: list[int]) -> tuple[int, ...]:
    """How many laws edges may have weights on: a second one where three kinds may differ in more than strength."""
    h, v = basis.left.shape[1], basis.right.shape[1]
    return (1, 2) if max(numbers) > 2 and h == 1 and v > 1 else (1,)
