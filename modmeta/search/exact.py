"""Kernel at horizon 1: every receiver selects one of its candidates, scored by exact one-step energies.

At horizon 1 the energy of a receiver depends on its own row alone, so all receivers can change at once.
"""

import torch
from torch import Tensor

from modmeta.graph.bank import Structure
from modmeta.search.candidates import take
from modmeta.search.problem import (
    Info,
    KernelOf,
    P,
    ProposeOf,
    Receivers,
    changed_receivers,
    count_worse,
    every_receiver,
)
from modmeta.search.selection import Selection
from modmeta.shapes import Float


def receiver_rows(propose: ProposeOf[P], select: Selection, receivers: Receivers = every_receiver) -> KernelOf[P]:
    """Kernel that selects among the candidates of every moving receiver independently.

    Args:
        propose: proposes candidates; see `modmeta.search.candidates`.
        select: function of `modmeta.search.selection`, or a joint selection (`modmeta.search.mutual`).
        receivers: chooses the receivers that may change.
    """

    @torch.no_grad()
    def kernel(
        generator: torch.Generator, structure: Structure, problem: P, temperature: Float[Tensor, ""]
    ) -> tuple[Structure, Info]:
        candidates = propose(generator, structure, problem)
        moving, current = receivers(generator, structure), candidates.current  # (B, N)
        scores = problem.energies(candidates)  # (B, N, M)
        chosen = torch.where(moving, select(scores, current, temperature, generator), current)
        new = take(candidates, chosen)
        worse, accepted = count_worse(scores, current, chosen, moving)
        energies = scores.gather(-1, chosen.unsqueeze(-1)).flatten(1).sum(-1)
        changed = changed_receivers(new, structure)
        share = changed.sum() / moving.sum()
        return new, Info(energies, candidates, scores, None, changed.any(-1), share, worse, accepted)

    return kernel
