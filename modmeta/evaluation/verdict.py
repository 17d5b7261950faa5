"""The verdict on relations, by a fixed rule: found, found but not resolved, nothing found, or the model does not fit.

Letters: B tasks, N entities, T frames, L = T - 1 steps, D features.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.special import stdtr, stdtrit
from torch import Tensor

from modmeta.evaluation.nulls import Compared, Gain
from modmeta.graph.bank import Structure
from modmeta.model.model import RelationalModel
from modmeta.model.sight import complete, counted
from modmeta.search.infer import Inferred

FOUND, UNRESOLVED = "relations found", "relations found, not resolved"
NOTHING, UNFIT = "nothing found", "model does not fit"
UNKNOWN = "not judged"  # of models that were never compared, and of too few tasks
VERDICTS = (FOUND, UNRESOLVED, NOTHING, UNFIT)
CHANCE = 0.01  # of a gain this large, or larger, where there is none
RESOLVED = 0.6  # agreement of the structures that two halves tell
MARGIN = 1.0  # nats a number beyond which a task is far from those of validation, besides their own spread
RARE = 1e-3  # chance of a task like those of validation beyond the limits that few of these set
UNLIMITED = 1e30  # spread of what a single task tells
CORRELATED = 0.3  # by which the correlation of neighbouring errors may exceed that of validation tasks
ENOUGH = 10  # steps from which that correlation is known


@dataclass(frozen=True)
class Verdict:
    """What may be claimed of relations, and why.

    Attributes:
        name: one of `VERDICTS`, or `UNKNOWN`.
        over_none, over_none_error: gain over no relations, nats a number on held-out frames, and its standard error.
        over_exchanged, over_exchanged_error: the same over partners exchanged between tasks.
        chance: of gains this large where there is nothing to find; of the weaker of both.
        agreement: of the structures that two halves of the data tell (weighted kappa).
        agreement_exchanged: the same where partners are exchanged.
        tasks: number of tasks compared.
        misfits: share of tasks that the model does not fit.
        laws_over_none, laws_over_none_error: gain over no relations of laws that all other tasks judge, see `of_both`.
        laws_over_exchanged, laws_over_exchanged_error: the same over partners exchanged.
        laws_tasks: number of tasks by which laws were compared; 0 where they were not.
    """

    name: str = UNKNOWN
    over_none: float | None = None
    over_none_error: float | None = None
    over_exchanged: float | None = None
    over_exchanged_error: float | None = None
    chance: float | None = None
    agreement: float | None = None
    agreement_exchanged: float | None = None
    tasks: int = 0
    misfits: float = 0.0
    laws_over_none: float | None = None
    laws_over_none_error: float | None = None
    laws_over_exchanged: float | None = None
    laws_over_exchanged_error: float | None = None
    laws_tasks: int = 0

    def __str__(self) -> str:
        return self.name

    @property
    def found(self) -> bool:
        """Whether there is anything to report."""
        return self.name in (FOUND, UNRESOLVED)

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def measures(self) -> dict[str, Any]:
        """Names of metrics and values; `verdict` and what it follows from."""
        names = ("over_none", "over_none_error", "over_exchanged", "over_exchanged_error")
        gains = {f"val/gain_{name}": getattr(self, name) for name in names}
        laws = {f"laws/gain_{name}": getattr(self, f"laws_{name}") for name in names} if self.laws_tasks else {}
        return {"verdict": self.name, **gains, "val/agreement_exchanged": self.agreement_exchanged, **laws}

    def facts(self) -> list[tuple[str, str]]:
        """Names and values to print, the verdict first."""
        prior = self.name in (NOTHING, UNFIT)
        out = [("verdict", self.name + ("; probabilities are those before anything is observed" if prior else ""))]
        for whose, start, tasks in (("", "", self.tasks), (" of laws fitted anew", "laws_", self.laws_tasks)):
            for null, name in (("no relations", "over_none"), ("partners exchanged", "over_exchanged")):
                gain, error = getattr(self, start + name), getattr(self, f"{start}{name}_error")
                if gain is not None and error is not None:
                    told = f"{gain:.4g} ± {error:.2g} nats per number, {tasks} tasks"
                    out.append((f"gain{whose} over {null}", told))
        if self.agreement is not None:
            out.append(("agreement of two halves", f"{self.agreement:.2f} (1: always, 0: by chance)"))
        if self.misfits:
            out.append(("tasks that the model does not fit", f"{self.misfits:.1%}"))
        return out


NOT_JUDGED = Verdict()


def chance(gain: Gain) -> float:
    """Probability of a gain this large or larger where there is none (one-sided t-test over tasks)."""
    if not gain.freedom or not gain.mean > 0:
        return 1.0
    return float(stdtr(gain.freedom, -gain.mean / max(gain.error, 1e-12)))


def decide(compared: Compared | None, misfits: float = 0.0, tests: int = 1) -> Verdict:
    """The verdict on tasks compared with nulls.

    1. A gain over both nulls that chance gives in less than one of 100 cases: relations are found. Where the
       structures of two halves of the data agree by less than `RESOLVED`, who acts on whom is not resolved.
    2. Otherwise the model does not fit if it is far off in more than half of the tasks.
    3. Otherwise nothing is found.

    Args:
        compared: result of `modmeta.evaluation.nulls.compare`; None if there is none.
        misfits: share of tasks that the model does not fit.
        tests: number of comparisons, any of which may find relations; they share the chance of an error (Bonferroni).
    """
    if compared is None:
        return Verdict(UNFIT if misfits > 0.5 else UNKNOWN, misfits=misfits)
    by_chance = max(chance(compared.none), chance(compared.exchanged))
    name = UNFIT if misfits > 0.5 else NOTHING
    if by_chance < CHANCE / tests:
        name = FOUND if compared.agreement >= RESOLVED else UNRESOLVED
    return Verdict(
        name, compared.none.mean, compared.none.error, compared.exchanged.mean, compared.exchanged.error, by_chance,
        compared.agreement, compared.agreement_exchanged, compared.tasks, misfits,
    )  # fmt: skip


def of_both(compared: Compared | None, laws: Compared | None, alike: float) -> Verdict:
    """The verdict on a trained module's validation tasks, or where these are few, on laws that all other tasks judge.

    Laws tell whether there are relations. The module's are reported: its own gains must not deny that it has them, and
    they are resolved only if halves of the data agree on them by either, and the module's structures are those of the
    laws. Gains, agreement and tasks are the module's.

    Args:
        compared: of the module.
        laws: result of `modmeta.evaluation.crossed.crossed`; None where there was no need for it.
        alike: agreement of the module's structures with those of the laws that it began with (kappa).
    """
    if compared is None or laws is None:
        return decide(compared)
    theirs = decide(laws, tests=2)
    mine = replace(
        decide(compared, tests=2), laws_over_none=theirs.over_none, laws_over_none_error=theirs.over_none_error,
        laws_over_exchanged=theirs.over_exchanged, laws_over_exchanged_error=theirs.over_exchanged_error,
        laws_tasks=theirs.tasks,
    )  # fmt: skip
    if mine.found or not theirs.found or not min(compared.none.mean, compared.exchanged.mean) > 0:
        return mine
    resolved = min(compared.agreement, laws.agreement, alike) >= RESOLVED
    return replace(mine, name=FOUND if resolved else UNRESOLVED, chance=theirs.chance)


def of_file(trained: Verdict, here: Verdict, longer: bool = False) -> Verdict:
    """The verdict on a file from that on the model's validation tasks and that on the file alone.

    A model that has found nothing finds nothing elsewhere. Tasks of a file may be too few to tell what validation
    tasks told: then that counts, unless the gain is less than half as large. Who acts on whom is no more resolved than
    there, unless by as many tasks or more frames.

    Args:
        trained: on validation tasks.
        here: on the file.
        longer: whether tasks of the file have more frames than those of validation.
    """
    if trained.name == UNKNOWN:
        return here
    if here.name == UNKNOWN:
        return replace(trained, misfits=here.misfits)
    if here.name == UNFIT:
        return here
    if trained.name in (NOTHING, UNFIT):
        return replace(here, name=trained.name)
    if here.found and trained.name == UNRESOLVED and not longer and here.tasks < trained.tasks:
        return replace(here, name=UNRESOLVED)
    if here.found or trained.over_exchanged is None or here.over_exchanged is None:
        return here
    less = here.over_exchanged < trained.over_exchanged / 2
    return here if less else replace(here, name=trained.name)


@dataclass(frozen=True)
class Home:
    """How well a model explains its validation tasks, by number of observed frames.

    Attributes:
        frames: numbers of frames, increasing.
        typical: median over tasks of the energy, nats a number.
        limits: beyond which a task is far from them.
        correlation: of neighbouring errors, beyond which they are not those of validation tasks; for enough frames.
    """

    frames: tuple[int, ...]
    typical: tuple[float, ...]
    limits: tuple[float, ...]
    correlation: float

    @classmethod
    def of(cls, energies: Sequence[tuple[int, Tensor]], correlations: Tensor) -> "Home":
        """From energies of validation tasks, (B,) nats a number for every number of frames, and their correlations."""
        ordered = sorted(energies, key=lambda pair: pair[0])
        typical, limits = [], []
        for _, each in ordered:
            middle, high = (float(each.double().quantile(share)) for share in (0.5, 0.95))
            typical.append(middle)
            limits.append(max(float(each.max()) + MARGIN, high + 3 * (high - middle) + MARGIN, _one_more(each)))
        known = correlations[correlations.isfinite()]
        most = max(float(known.max()) + CORRELATED, _one_more(known)) if len(known) else float("inf")
        return cls(tuple(frames for frames, _ in ordered), tuple(typical), tuple(limits), min(most, 2.0))

    @property
    def white(self) -> bool:
        """Whether errors of validation tasks are so little correlated that those of others may be more so."""
        return self.correlation < 1

    def misfit(self, energies: Tensor, correlations: Tensor, frames: int) -> Tensor:
        """Whether the model does not fit tasks, (B,) bool, of energies (B,) nats a number, correlations (B,)."""
        limit = float(np.interp(np.log(frames), np.log(self.frames), self.limits))
        far = ~(energies <= limit)  # NaN is far, too
        return far | (correlations > self.correlation) if self.white and frames > ENOUGH else far

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        lists = {name: list(getattr(self, name)) for name in ("frames", "typical", "limits")}
        return lists | {"correlation": self.correlation}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Home":
        """Restores from `state_dict`."""
        lists = {name: tuple(state[name]) for name in ("frames", "typical", "limits")}
        return cls(**lists, correlation=float(state["correlation"]))


@dataclass(frozen=True)
class Judged:
    """What a checkpoint knows of its own claims.

    Attributes:
        verdict: on validation tasks.
        home: how well they are explained; None if unknown.
        prior: probabilities of relations where nothing is found, (R,); empty for equal ones.
    """

    verdict: Verdict = NOT_JUDGED
    home: Home | None = None
    prior: tuple[float, ...] = ()

    @property
    def few(self) -> bool:
        """Whether validation tasks without labels were too few for a verdict, and so for temperatures."""
        return self.verdict.name == UNKNOWN and self.home is not None and not self.prior

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        home = None if self.home is None else self.home.state_dict()
        return {"verdict": self.verdict.state_dict(), "home": home, "prior": list(self.prior)}

    @classmethod
    def from_state(cls, state: Any) -> "Judged":
        """Restores from `state_dict`.

        Raises:
            ValueError: it is not what `state_dict` gives.
        """
        try:
            home, prior = state["home"], tuple(float(share) for share in state["prior"])
            made = cls(Verdict(**state["verdict"]), None if home is None else Home.from_state(home), prior)
            made.check()
        except (TypeError, KeyError, AttributeError, IndexError, OverflowError) as error:
            raise ValueError(f"not a verdict: {error}") from error
        return made

    def check(self) -> None:
        """
        Raises:
            ValueError: a value makes no sense.
        """
        verdict, home = self.verdict, self.home
        numbers = [value for name, value in asdict(verdict).items() if name != "name"]
        if verdict.name not in (*VERDICTS, UNKNOWN) or not all(
            value is None or type(value) in (int, float) for value in numbers
        ):
            raise ValueError(f"not a verdict: {verdict.name!r}")
        if any(not 0 <= share <= 1 for share in self.prior):
            raise ValueError("not probabilities")
        if home is not None:
            sizes = {len(home.frames), len(home.typical), len(home.limits)}
            whole = all(type(value) is int and value > 0 for value in home.frames)
            if len(sizes) != 1 or 0 in sizes or not whole or list(home.frames) != sorted({*home.frames}):
                raise ValueError("numbers of frames make no sense")
            if not np.isfinite([*home.typical, *home.limits, home.correlation]).all():
                raise ValueError("energies are no numbers")


def _one_more(each: Tensor) -> float:
    """The limit beyond which one more value is as rare as `RARE`, as few values (B,) tell (t-distribution).

    Two tasks may be alike by chance. Others are not far from home for that.
    """
    b, known = len(each), each.double()
    spread = float(known.std()) if b > 1 else UNLIMITED
    return float(known.mean() + stdtrit(max(b - 1, 1), 1 - RARE) * spread * (1 + 1 / b) ** 0.5)


class Quality(NamedTuple):
    """How well a structure explains tasks.

    Attributes:
        energies: nats a number, (B,).
        correlations: of neighbouring errors, (B,).
    """

    energies: Tensor
    correlations: Tensor


@torch.no_grad()
def as_searched(
    model: RelationalModel, states: Tensor, found: Inferred, home: "Home | None", mask: Tensor | None = None
) -> Quality:
    """How well what a search has found explains states (B, N, T, D), by the energies that it ended with.

    Errors are worked out only where their correlation says something, see `Home.white`, or not all steps are complete.
    """
    if mask is not None:
        return quality(model, states, found.structure, mask)
    b, n, t, d = states.shape
    numbers = torch.full((b,), (t - 1) * n * d)
    correlations = torch.zeros(b)
    if home is None or home.white:
        correlations = correlation(model.errors(states, found.structure)).cpu()
    return Quality(found.energies.cpu() / numbers, correlations)


@torch.no_grad()
def quality(model: RelationalModel, states: Tensor, structure: Structure, mask: Tensor | None = None) -> Quality:
    """How well structures (B, N, S), (B, N) explain states (B, N, T, D) one step ahead, without observation noise.

    With a mask only steps of which all entities are known say so; the energy of a task without any is lowest.
    """
    errors = model.errors(states, structure, mask)
    energy = model.likelihood.energy(errors, model.log_scale(states))
    counts = torch.ones_like(energy)
    if mask is not None:
        counts = complete(mask).unsqueeze(-1).expand_as(energy).to(energy)
        mask = torch.where(complete(mask), mask, 0)
    mean = (energy * counts).flatten(1).sum(1) / counts.flatten(1).sum(1).clamp_min(1)
    mean = mean.where(counts.flatten(1).any(1), -torch.inf)
    return Quality(mean.cpu(), correlation(errors, mask).cpu())


def correlation(errors: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean correlation of neighbouring errors (B, N, L, D) of tasks, (B,), of the signs of errors about their medians.

    Signs, since a few large errors would decide; 0 where errors are white.

    Args:
        errors: of predicted changes.
        mask: how well steps are known, (B, N, T - 1); None for all observed.
    """
    signs = (errors - errors.median(2, keepdim=True).values).sign()
    if mask is not None:
        signs = signs * counted(mask).unsqueeze(-1)
    both = signs[:, :, 1:] * signs[:, :, :-1]
    return both.flatten(1).sum(1) / both.abs().flatten(1).sum(1).clamp_min(1)
