"""The input of a search kernel (tasks, model, priors) and its types.

A kernel is a function `kernel(generator, structure, problem, temperature) -> (structure, info)`; each file of this
folder holds one algorithm. Kernels obtain sizes, priors and energies from the problem, which decides what tasks share.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from modmeta.errors import UserError
from modmeta.graph.bank import Structure
from modmeta.model.dynamics.base import one_hot
from modmeta.model.grouped import Kept
from modmeta.model.model import RelationalModel, Score
from modmeta.shapes import Bool, Float, Int

IMPOSSIBLE = 1e9  # prior energy, in nats, of a module excluded by a known relation
TASK = "task"  # scope: every task has its own structure


class Candidates(NamedTuple):
    """M candidates of every receiver, including the current one.

    Attributes:
        rows: edge modules of the incoming edges (B, N, M, S); B and N are 1 if all receivers share candidates.
        types: node modules (B, N, M), likewise.
        current: index of the current candidate (B, N).
    """

    rows: Tensor
    types: Tensor
    current: Tensor


@runtime_checkable
class Searched(Protocol):
    """What kernels ask of a problem, be it of graphs or of other compositions: B tasks, N receivers, S slots of each.

    Where whole structures are scored, N is 1 and a row is a structure.
    """

    @property
    def num_edge_modules(self) -> int:
        """K, of the largest library."""

    @property
    def num_node_modules(self) -> int:
        """G."""

    @property
    def prior(self) -> Tensor:
        """Prior energy of every module in every slot, (B or 1, N or 1, S or 1, K) nats."""

    @property
    def logits(self) -> Tensor | None:
        """Of the proposal network (B, N, S, K); None for uniform proposals."""

    @property
    def gradients(self) -> bool:
        """Whether energies of whole structures have gradients."""

    def energies(self, candidates: Candidates) -> Tensor:
        """Energies (B, N, M) of the candidates of every receiver, including priors."""

    def rollouts(self, tasks: Tensor, structure: Structure, kept: Kept) -> Tensor:
        """Energies (Q,) of whole structures of tasks (Q,), without priors."""


@dataclass(frozen=True)
class Problem:
    """A batch of B tasks whose structures are searched.

    Attributes:
        model: the model that defines energies.
        states: observed states (B, N, T, D).
        messages: result of `model.messages`; needed at horizon 1.
        score: result of `model.scorer`; needed at horizon 1.
        horizon: number of steps of the rollouts that score structures.
        known: given edge modules (B, N, S), -1 where not given.
        mask: how well steps are known, (B, N, T - 1), the same as in `score`; None for all observed.
        logits: logits of the proposal network (B, N, S, K); None for uniform proposals.
        edge_cost: prior energy in nats of every edge whose module is not module 0.
        gradients: whether energies of whole structures have gradients.
        roles: prior energies in nats of every module on every edge, (N, S, K); None for none.
        scope: what a structure is shared by; `task` means that every task has its own.
    """

    model: RelationalModel
    states: Float[Tensor, "B N T D"]
    messages: Float[Tensor, "B N S K T-1 C"] | None = None
    score: Score | None = None
    horizon: int = 1
    known: Int[Tensor, "B N S"] | None = None
    mask: Int[Tensor, "B N T-1"] | None = None
    logits: Float[Tensor, "B N S K"] | None = None
    edge_cost: float = 0.0
    gradients: bool = False
    scope: str = TASK
    roles: Float[Tensor, "N S K"] | None = None

    def __post_init__(self) -> None:
        """Checks the combination of settings.

        Raises:
            UserError: the horizon exceeds 1 and frames are missing.
        """
        if self.horizon > 1 and self.mask is not None:
            raise UserError(
                f"search.horizon={self.horizon} needs complete recordings, but frames are missing; set it to 1"
            )

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
        """Prior energy of every module on every edge, (B or 1, N or 1, S or 1, K) nats."""
        modules = torch.arange(self.num_edge_modules, device=self.states.device)
        prior = self.edge_cost * (modules != 0).float().view(1, 1, 1, -1)
        if self.roles is not None:
            prior = prior + self.roles
        if self.known is None:
            return prior
        given = self.known.unsqueeze(-1)
        return prior + IMPOSSIBLE * ((given >= 0) & (given != modules))

    def energies(self, candidates: Candidates) -> Float[Tensor, "B N M"]:
        """Energies (B, N, M) of the candidates of every receiver at horizon 1, including priors."""
        messages, score = self.one_step()
        prior_energy = prior_energies(self.prior, candidates.rows)
        return prior_energy + score.rows(messages, candidates.rows, candidates.types)

    def rollouts(self, tasks: Int[Tensor, " Q"], structure: Structure, kept: Kept) -> Float[Tensor, " Q"]:
        """Energies (Q,) of whole structures of tasks (Q,), without priors. Only `kept` rollouts have gradients."""
        with torch.set_grad_enabled(self.gradients):
            return self.model.energies(self.states[tasks], structure, self.horizon, kept).sum(-1)

    def one_step(self) -> tuple[Tensor, Score]:
        """Messages and score function.

        Raises:
            ValueError: the problem has none.
        """
        if self.messages is None or self.score is None:
            raise ValueError("kernels that score receivers independently need search.horizon=1, messages and a score")
        return self.messages, self.score


def one_step_problem(
    model: RelationalModel,
    states: Float[Tensor, "B N T D"],
    paths: Structure | None = None,
    known: Int[Tensor, "B N S"] | None = None,
    mask: Int[Tensor, "B N T-1"] | None = None,
    logits: Float[Tensor, "B N S K"] | None = None,
    edge_cost: float = 0.0,
) -> Problem:
    """A problem at horizon 1, with its messages and score.

    Args:
        model: the model that defines energies.
        states: observed states (B, N, T, D).
        paths: structures under which the paths of close pairs are integrated; None for cubic paths.
        known, mask, logits, edge_cost: see `Problem`.
    """
    messages, score = model.messages(states, paths, mask), model.scorer(states, mask=mask)
    return Problem(model, states, messages, score, 1, known, mask, logits, edge_cost)


class Info(NamedTuple):
    """Information about a kernel step, for a batch.

    Attributes:
        energies: energies of the new structures, (B,); with gradients if the problem requests them.
        candidates: the candidates that were scored.
        scores: energies of the candidates, (B, N, M), or (B, 1, M) if whole structures were scored.
        slots: free energies of the modules of every edge given the others, (B, N, S, K), for block Gibbs sampling.
        moved: whether the structure of a task changed, (B,).
        changed: fraction of the moving receivers whose edges or node module changed.
        worse: number of candidates with a higher energy than the current one.
        accepted: number of these that were selected.
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
    """Prior energies of rows, summed over edges.

    Args:
        prior: prior energy of every module on every edge, (B or 1, N or 1, S or 1, K).
        rows: edge modules (B or 1, N or 1, M, S).

    Returns:
        (B or 1, N or 1, M).
    """
    k = prior.shape[-1]
    chosen = one_hot(rows, k, prior.dtype).unflatten(-1, (-1, k))  # (B, N, M, S, K)
    return (chosen * prior.unsqueeze(2)).sum((-1, -2))


P = TypeVar("P", bound=Searched)
KernelOf = Callable[[torch.Generator, Structure, P, Tensor], tuple[Structure, Info]]
ProposeOf = Callable[[torch.Generator, Structure, P], Candidates]  # candidates of every receiver
Kernel = Callable[[torch.Generator, Structure, Problem, Tensor], tuple[Structure, Info]]
Propose = Callable[[torch.Generator, Structure, Problem], Candidates]  # candidates of every receiver
Receivers = Callable[[torch.Generator, Structure], Tensor]  # which receivers move, (B, N)


def every_receiver(generator: torch.Generator, structure: Structure) -> Bool[Tensor, "B N"]:
    """All receivers move, (B, N)."""
    return structure.node_modules.new_ones(structure.node_modules.shape, dtype=torch.bool)


def one_receiver(generator: torch.Generator, structure: Structure) -> Bool[Tensor, "B N"]:
    """One receiver of every task moves, drawn at random, (B, N)."""
    b, n = structure.node_modules.shape
    receiver = torch.randint(n, (b, 1), generator=generator, device=structure.node_modules.device)
    return receiver == torch.arange(n, device=structure.node_modules.device)


def count_worse(
    scores: Float[Tensor, "*rest M"],
    current: Int[Tensor, "*rest"],
    chosen: Int[Tensor, "*rest"],
    movable: Bool[Tensor, "*rest"],
) -> tuple[Int[Tensor, ""], Int[Tensor, ""]]:
    """Number of candidates with a higher energy than the current one, and number of these that were selected.

    Args:
        scores: energies of candidates (..., M).
        current: index of the current candidate (...).
        chosen: index of the selected candidate (...).
        movable: which to count (...).
    """
    worse = (scores > scores.gather(-1, current.unsqueeze(-1))) & movable.unsqueeze(-1)
    return worse.sum(), worse.gather(-1, chosen.unsqueeze(-1)).sum()


def changed_receivers(new: Structure, old: Structure) -> Bool[Tensor, "B N"]:
    """Whether the edges or the node module of a receiver differ, (B, N)."""
    return (new.edge_modules != old.edge_modules).any(-1) | (new.node_modules != old.node_modules)


def clamped(structure: Structure, known: Int[Tensor, "B N S"] | None) -> Structure:
    """Sets the given edge modules `known`, (B, N, S), -1 where not given."""
    if known is None:
        return structure
    return Structure(torch.where(known >= 0, known, structure.edge_modules), structure.node_modules)
