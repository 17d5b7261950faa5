"""What a search is about: tasks, the model that judges structures on them, and what is known beforehand.

A kernel moves structures, `kernel(generator, structure, problem, temperature) -> (structure, info)`; each file of this
folder holds one algorithm. A kernel asks its problem for sizes, priors and energies, and pools nothing itself: what
tasks share, and how slots are composed, decides the problem by the energies that it gives.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from modmeta.errors import UserError
from modmeta.graph.bank import Structure
from modmeta.model.dynamics.base import summed
from modmeta.model.grouped import Kept
from modmeta.model.model import RelationalModel, Score
from modmeta.shapes import Bool, Float, Int

IMPOSSIBLE = 1e9  # nats against a module that a known relation rules out
TASK = "task"  # the scope of a structure of its own for every task


class Candidates(NamedTuple):
    """M candidates of every receiver; the current one is always among them.

    Attributes:
        rows: edge modules (B, N, M, S); B and N are 1 where all receivers share candidates.
        types: node modules (B, N, M), likewise.
        current: which candidate is the current one (B, N).
    """

    rows: Tensor
    types: Tensor
    current: Tensor


@dataclass(frozen=True)
class Problem:
    """Structures of B tasks are to be found.

    Attributes:
        model: that judges them.
        states: observed (B, N, T, D).
        messages: of `model.dynamics.messages`, where receivers are judged one by one (horizon 1).
        score: of `model.scorer`, likewise.
        horizon: steps of the rollouts by which whole structures are judged.
        known: edge modules that are given (B, N, S), -1 where they are not.
        mask: steps that count, (B, T - 1), as `score` has it; none for all.
        logits: of the proposal network (B, N, S, K); none for uniform proposals.
        edge_cost: nats against every edge whose module is not the first.
        gradients: energies of whole structures come with gradients.
        scope: whose structure one is: `task`, every task has its own.
    """

    model: RelationalModel
    states: Float[Tensor, "B N T D"]
    messages: Float[Tensor, "B N S K T-1 C"] | None = None
    score: Score | None = None
    horizon: int = 1
    known: Int[Tensor, "B N S"] | None = None
    mask: Bool[Tensor, "B T-1"] | None = None
    logits: Float[Tensor, "B N S K"] | None = None
    edge_cost: float = 0.0
    gradients: bool = False
    scope: str = TASK

    def __post_init__(self) -> None:
        """
        Raises:
            UserError: rollouts of several frames are asked for where some are missing.
        """
        if self.horizon > 1 and self.mask is not None:
            raise UserError(f"search.horizon={self.horizon} rolls through all frames, so none may be missing")

    @property
    def num_edge_modules(self) -> int:
        """K."""
        return self.model.dynamics.num_edge_modules

    @property
    def num_node_modules(self) -> int:
        """G."""
        return self.model.dynamics.num_node_modules

    @cached_property
    def prior(self) -> Float[Tensor, "#B #N #S K"]:
        """Energy of every module in every slot before a frame is seen, (B or 1, N or 1, S or 1, K)."""
        modules = torch.arange(self.num_edge_modules, device=self.states.device)
        prior = self.edge_cost * (modules != 0).float().view(1, 1, 1, -1)
        if self.known is None:
            return prior
        given = self.known.unsqueeze(-1)
        return prior + IMPOSSIBLE * ((given >= 0) & (given != modules))

    def energies(self, candidates: Candidates) -> Float[Tensor, "B N M"]:
        """Energies (B, N, M) of the candidates of every receiver at horizon 1, priors among them."""
        messages, score = self.one_step()
        paid = prior_energies(self.prior, candidates.rows)
        return paid + score(summed(messages, candidates.rows), candidates.types)

    def rollouts(self, tasks: Int[Tensor, " Q"], structure: Structure, kept: Kept) -> Float[Tensor, " Q"]:
        """Energies (Q,) of whole structures of some tasks (Q,), without priors; `kept` alone have gradients."""
        with torch.set_grad_enabled(self.gradients):
            return self.model.energies(self.states[tasks], structure, self.horizon, kept).sum(-1)

    def one_step(self) -> tuple[Tensor, Score]:
        """Messages and score.

        Raises:
            ValueError: the problem has none, because whole structures are judged.
        """
        if self.messages is None or self.score is None:
            raise ValueError("receivers are judged one by one at search.horizon=1 alone")
        return self.messages, self.score


def one_step_problem(
    model: RelationalModel,
    states: Float[Tensor, "B N T D"],
    paths: Structure | None = None,
    known: Int[Tensor, "B N S"] | None = None,
    mask: Bool[Tensor, "B T-1"] | None = None,
    logits: Float[Tensor, "B N S K"] | None = None,
    edge_cost: float = 0.0,
) -> Problem:
    """A problem at horizon 1, with its messages and score.

    Args:
        model: that judges structures.
        states: observed (B, N, T, D).
        paths: structures under which the paths of close pairs are integrated; none for cubics.
        known: edge modules that are given (B, N, S), -1 where they are not.
        mask: steps that count, (B, T - 1); none for all.
        logits: of the proposal network (B, N, S, K); none for uniform proposals.
        edge_cost: nats against every edge whose module is not the first.
    """
    messages, score = model.dynamics.messages(states, paths), model.scorer(states, mask=mask)
    return Problem(model, states, messages, score, 1, known, mask, logits, edge_cost)


class Info(NamedTuple):
    """What a kernel did, for a batch.

    Attributes:
        energies: of the new structures, (B,); with gradients where the problem asks for them.
        candidates: that were scored.
        scores: energies of the candidates, (B, N, M), or (B, 1, M) where whole structures were scored.
        slots: energies of the modules in every slot, given the others, (B, N, S, K), where slots were drawn in turn.
        moved: whether the structure of a task changed, (B,).
        changed: fraction of the moving receivers that took another row.
        worse: number of moves to a higher energy that were on offer, and `accepted` of them that were taken.
    """

    energies: Tensor
    candidates: Candidates
    scores: Tensor
    slots: Tensor | None
    moved: Tensor
    changed: Tensor
    worse: Tensor
    accepted: Tensor


def prior_energies(prior: Float[Tensor, "#B #N #S K"], rows: Int[Tensor, "#B #N M S"]) -> Float[Tensor, "#B #N M"]:
    """Sum over slots of the prior energies (B or 1, N or 1, S or 1, K) of rows (B or 1, N or 1, M, S): (..., M)."""
    chosen = F.one_hot(rows, prior.shape[-1]).to(prior.dtype)  # (B, N, M, S, K)
    return (chosen * prior.unsqueeze(2)).sum((-1, -2))


Kernel = Callable[[torch.Generator, Structure, Problem, Tensor], tuple[Structure, Info]]
Propose = Callable[[torch.Generator, Structure, Problem], Candidates]  # candidates of every receiver
Receivers = Callable[[torch.Generator, Structure], Tensor]  # which receivers move, (B, N)


def every_receiver(generator: torch.Generator, structure: Structure) -> Bool[Tensor, "B N"]:
    """All receivers move, (B, N)."""
    return structure.types.new_ones(structure.types.shape, dtype=torch.bool)


def one_receiver(generator: torch.Generator, structure: Structure) -> Bool[Tensor, "B N"]:
    """One receiver of every task moves, drawn at random, (B, N)."""
    b, n = structure.types.shape
    receiver = torch.randint(n, (b, 1), generator=generator, device=structure.types.device)
    return receiver == torch.arange(n, device=structure.types.device)


def counted(
    scores: Float[Tensor, "*rest M"],
    current: Int[Tensor, "*rest"],
    chosen: Int[Tensor, "*rest"],
    movable: Bool[Tensor, "*rest"],
) -> tuple[Int[Tensor, ""], Int[Tensor, ""]]:
    """Moves to a higher energy that were on offer, and how many of them were taken.

    Args:
        scores: energies of candidates (..., M).
        current: index of the current one (...).
        chosen: of the one taken (...).
        movable: whether a move was to be made (...).
    """
    worse = (scores > scores.gather(-1, current.unsqueeze(-1))) & movable.unsqueeze(-1)
    return worse.sum(), worse.gather(-1, chosen.unsqueeze(-1)).sum()


def differing(new: Structure, old: Structure) -> Bool[Tensor, "B N"]:
    """Which receivers have another row or node module, (B, N)."""
    return (new.relations != old.relations).any(-1) | (new.types != old.types)


def clamped(structure: Structure, known: Int[Tensor, "B N S"] | None) -> Structure:
    """A structure with the modules that are given, (B, N, S), -1 where they are not."""
    if known is None:
        return structure
    return Structure(torch.where(known >= 0, known, structure.relations), structure.types)
