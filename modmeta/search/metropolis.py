"""Kernel for any horizon: structures are scored by rollouts, and accepted or rejected as a whole.

With one receiver, one sampled row and Metropolis selection this is the published search (Alet et al. 2019).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from modmeta import machine
from modmeta.graph.bank import Structure
from modmeta.model.grouped import Kept
from modmeta.search.candidates import take
from modmeta.search.problem import (
    Candidates,
    Info,
    KernelOf,
    P,
    ProposeOf,
    Receivers,
    Searched,
    changed_receivers,
    count_worse,
    one_receiver,
    prior_energies,
)  # fmt: skip
from modmeta.search.selection import Selection
from modmeta.shapes import Bool, Float


class Wholes(NamedTuple):
    """Energies of M whole structures per task.

    Attributes:
        energies: (B, M).
        place: index of the rollout of each structure, (B, M).
        kept: the rollouts that have gradients.
    """

    energies: Tensor
    place: Tensor
    kept: Kept

    def of(self, chosen: Tensor) -> Tensor:
        """Energies (B, 1) of the chosen structures (B, 1). Gradients are restricted to these."""
        self.kept.choose(self.place.gather(1, chosen).flatten().sort().values)
        return self.energies.gather(1, chosen)


def whole_structures(propose: ProposeOf[P], select: Selection, receivers: Receivers = one_receiver) -> KernelOf[P]:
    """Kernel that selects among the structures in which the moving receiver takes each of its candidates.

    Args:
        propose: proposes candidates, the current one first; see `modmeta.search.candidates`.
        select: function of `modmeta.search.selection`.
        receivers: chooses the receiver that may change, one per task.
    """

    @torch.no_grad()
    def kernel(
        generator: torch.Generator, structure: Structure, problem: P, temperature: Float[Tensor, ""]
    ) -> tuple[Structure, Info]:
        candidates = propose(generator, structure, problem)
        moving = receivers(generator, structure)  # (B, N)
        extra = prior_energies(problem.prior, candidates.rows)
        wholes = score_wholes(problem, structure, candidates, moving)
        scores = wholes.energies.detach().unsqueeze(1) + (extra * moving.unsqueeze(2)).sum(1, keepdim=True)  # (B, 1, M)
        current, movable = candidates.current[:, :1], moving.any(1, keepdim=True)
        chosen = torch.where(movable, select(scores, current, temperature, generator), current)  # (B, 1)
        new = take(candidates, torch.where(moving, chosen, candidates.current))
        worse, accepted = count_worse(scores, current, chosen, movable)
        if problem.gradients:
            with torch.enable_grad():
                energies = wholes.of(chosen).squeeze(1)
        else:
            energies = scores.gather(-1, chosen.unsqueeze(-1)).sum((1, 2))
        changed = changed_receivers(new, structure)
        share = changed.sum() / moving.sum()
        return new, Info(energies, candidates, scores, None, changed.any(-1), share, worse, accepted)

    return kernel


def score_wholes(
    problem: Searched, structure: Structure, candidates: Candidates, moving: Bool[Tensor, "B N"]
) -> Wholes:
    """Energies of the structures in which the moving receiver (B, N) takes each of its M candidates."""
    moves = moving.unsqueeze(2)  # (B, N, 1)
    rows = torch.where(moves.unsqueeze(3), candidates.rows, structure.edge_modules.unsqueeze(2))  # (B, N, M, S)
    types = torch.where(moves, candidates.types, structure.node_modules.unsqueeze(2))
    kept, wholes = Kept(), Structure(rows.transpose(1, 2), types.transpose(1, 2))  # (B, M, N, S), (B, M, N)
    tasks, structures, place = (_all if machine.waits(rows) else _different)(structure, wholes)
    energies = problem.rollouts(tasks, structures, kept)
    with torch.set_grad_enabled(problem.gradients):
        return Wholes(energies[place], place, kept)


def _different(structure: Structure, wholes: Structure) -> tuple[Tensor, Structure, Tensor]:
    """Tasks and structures to roll out: the current ones, and those of M candidates that differ from them.

    A proposal that changes nothing needs no rollout.

    Args:
        structure: current structures (B, N, S), (B, N).
        wholes: structures of the candidates (B, M, N, S), (B, M, N).

    Returns:
        Task (Q,) and structure of every rollout, and the rollout of every candidate, (B, M).
    """
    same = (wholes.edge_modules == structure.edge_modules.unsqueeze(1)).all(-1)
    same &= wholes.node_modules == structure.node_modules.unsqueeze(1)
    task, other = (~same.all(2)).nonzero(as_tuple=True)
    every = torch.arange(len(same), device=same.device)
    place = every.unsqueeze(1).repeat(1, same.shape[1])
    place[task, other] = len(same) + torch.arange(len(task), device=same.device)
    both = (torch.cat((old, new[task, other])) for old, new in zip(structure, wholes, strict=True))
    return torch.cat((every, task)), Structure(*both), place


def _all(structure: Structure, wholes: Structure) -> tuple[Tensor, Structure, Tensor]:
    """As `_different`, without looking at structures: all candidates, the current one among them."""
    b, m = wholes.edge_modules.shape[:2]
    place = torch.arange(b * m, device=wholes.edge_modules.device).view(b, m)
    return place.flatten() // m, Structure(*(part.flatten(0, 1) for part in wholes)), place
