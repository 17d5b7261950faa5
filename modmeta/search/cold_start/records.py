"""What a cold start finds: forms of law, how they did, the laws chosen and what they say of tasks.

Letters: B tasks, N entities, S senders, L intervals, C channels, D features, R laws, K kinds, F features of a pair.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from modmeta.search.cold_start.features import Basis
from modmeta.search.cold_start.refine import Laws
from modmeta.search.cold_start.scales import Scales
from modmeta.search.cold_start.structures import Kinds
from modmeta.search.cold_start.weak_form import Kind, Units

__all__ = ["Answer", "Form", "Start", "Trial"]


class Form(NamedTuple):
    """A form of law with its units.

    Attributes:
        kind: what features of a state are.
        units: scales of states.
        smooth: features integrated along the path (weak form), or of the frame before.
        basis: features of pairs.
        constants: whether every entity has a constant of its own in each channel.
        slopes: whether it has slopes of its own in its state beside.
        shapes: of every channel the function of plain states that it has of a size of its own beside, (C, own
            functions); None for none.
        ridge: pull of weights to their mean.
        smoothing: frames to either side over which noise of observation is averaged.
        link: leak and size of every channel of a saturating family, (C, D + 2).
        strengths: whether edges of a kind differ in strength.
        free: whether entities left alone move uniformly: there is no own part.
    """

    kind: Kind
    units: Units
    smooth: bool
    basis: Basis
    constants: bool
    ridge: float
    smoothing: int = 0
    link: Tensor | None = None
    slopes: bool = False
    shapes: Tensor | None = None
    strengths: bool = False
    free: bool = False

    @property
    def own_in_words(self) -> str:
        """What entities have of their own, behind a comma."""
        more = [word for word, has in (("slopes", self.slopes), ("functions", self.shapes is not None)) if has]
        own = f", own {' and '.join(more)}" if more else ", own constants" if self.constants else ""
        own += ", no field" if self.free else ""
        return f"{own}, unequal strengths" if self.strengths else own

    @property
    def freedoms(self) -> int:
        """How many sorts of numbers entities have of their own."""
        return self.constants + self.slopes + (self.shapes is not None) + self.strengths


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
        constants: rate of change that is each entity's own, (B, N, C), on average where it has slopes, zero where the
            form has none; in scaled units.
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
        gains: nats a number that structures gain over no relations on held-out frames, of every judging task.
        scales: how large residuals are, by activity.
        unexplained: logarithm of the share of changes that structures leave on held-out frames, of every judging task.
            Gains are over what entities do by themselves, which one reading of features may tell worse than another.
        slow: way in which structures of groups are told in place of the laws (`search.slow`); None for none.
        spread: what strengths of edges of a kind vary along, in messages of kinds, (K, K); (0, 0) where all are alike.
    """

    form: Form
    laws: Laws
    mean: Tensor
    kinds: Kinds
    temperature: float
    answer: Answer
    suggested: int
    trials: list[Trial]
    gains: Tensor
    scales: Scales
    unexplained: Tensor
    slow: str | None = None
    spread: Tensor = torch.zeros(0, 0)

    @property
    def gain(self) -> float:
        """Nats a number over no relations on held-out frames of validation tasks."""
        return self.trials[0].gain
