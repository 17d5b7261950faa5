"""Blocked Gibbs sampling, for rows too long to enumerate: draws a few edges at a time, given the others.

A slot is an incoming edge of a receiver, whose module is drawn.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from modmeta.graph.bank import Structure
from modmeta.graph.relations import all_rows
from modmeta.model.dynamics.base import one_hot, summed
from modmeta.search.exact import receiver_rows
from modmeta.search.problem import Info, Kernel, Problem, Propose, changed_receivers
from modmeta.search.selection import Selection
from modmeta.shapes import Float

# Largest number of combinations of modules in a block. Blocks of one slot get stuck: messages of two wrong edges may
# cancel, and then correcting either one alone increases the energy.
COMBINATIONS = 16


class Drawn(NamedTuple):
    """Result of a pass of `draw_slots`.

    Attributes:
        structure: structure after the pass.
        scores: free energy of every module in every slot, marginalised over the rest of its block and the node module,
            given the other blocks at that time, (B, N, S, K).
        energies: energies of the receivers after the pass, (B, N).
        worse: number of combinations with a higher energy than the current one.
        accepted: number of these that were selected.
    """

    structure: Structure
    scores: Tensor
    energies: Tensor
    worse: Tensor
    accepted: Tensor


def block_gibbs(propose: Propose, select: Selection) -> Kernel:
    """Kernel that first selects among candidates, then draws the slots of every receiver block by block.

    Args:
        propose: proposes candidates; see `modmeta.search.candidates`.
        select: function of `modmeta.search.selection`, applied to candidates and to combinations of a block.
    """
    rows = receiver_rows(propose, select)

    @torch.no_grad()
    def kernel(
        generator: torch.Generator, structure: Structure, problem: Problem, temperature: Float[Tensor, ""]
    ) -> tuple[Structure, Info]:
        new, info = rows(generator, structure, problem, temperature)
        (messages, score), g = problem.one_step(), problem.num_node_modules
        drawn = draw_slots(score, messages, new, problem.prior, g, select, temperature, generator)
        changed = changed_receivers(drawn.structure, structure)
        return drawn.structure, info._replace(
            energies=drawn.energies.sum(-1),
            slots=drawn.scores,
            moved=changed.any(-1),
            changed=changed.sum() / changed.numel(),
            worse=info.worse + drawn.worse,
            accepted=info.accepted + drawn.accepted,
        )

    return kernel


def draw_slots(
    score: Callable[[Tensor, Tensor], Tensor],
    messages: Float[Tensor, "B N S K T C"],
    structure: Structure,
    prior: Float[Tensor, "#B #N #S K"],
    num_node_modules: int,
    selection: Selection,
    temperature: Float[Tensor, ""],
    generator: torch.Generator,
) -> Drawn:
    """Draws all slots of all receivers once, in blocks in random order, in parallel over receivers.

    The node module is drawn with every block, because the best edges depend on it. The sum of messages is updated
    incrementally, so the cost of a block does not depend on the number of senders: a pass costs about as much as the
    messages, and time per edge does not grow with the number of entities.

    Args:
        score: of `RelationalModel.scorer`; edges of a module have one strength.
        messages: (B, N, S, K, T, C).
        structure: current structure (B, N, S), (B, N).
        prior: prior energy of each module in each slot, (B or 1, N or 1, S or 1, K).
        num_node_modules: G.
        selection: function of `modmeta.search.selection`.
        temperature: temperature of the draws.
        generator: of the draws.
    """
    b, n, s, k = messages.shape[:4]
    relations, types, g = structure.edge_modules.clone(), structure.node_modules, num_node_modules
    prior = prior.expand(b, n, s, k)
    received = summed(messages, relations.unsqueeze(2))  # (B, N, 1, T, C)
    scores = messages.new_empty(b, n, s, k)
    worse = accepted = torch.zeros((), dtype=torch.long, device=messages.device)
    for block in blocks(s, k, generator):  # sequential: each draw depends on the previous ones
        rows = all_rows(len(block), k, messages.device)  # (M, block)
        sent, here = messages[:, :, block], relations[:, :, block]  # (B, N, block, K, T, C), (B, N, block)
        current = (here * k ** torch.arange(len(block) - 1, -1, -1, device=here.device)).sum(-1) * g + types
        others = received - summed(sent, here.unsqueeze(2))
        weights = one_hot(rows, k, messages.dtype)  # (M, block K)
        tried = others + summed(sent, rows[None, None])  # (B, N, M, T, C)
        tried = tried if g == 1 else tried.repeat_interleave(g, dim=2)
        energies = score(tried, torch.arange(g, device=rows.device).repeat(1, 1, len(rows)))  # (B, N, M G)
        energies = energies + (prior[:, :, block].flatten(2) @ weights.T).repeat_interleave(g, dim=2)  # (B, N, M G)
        chosen = selection(energies, current, temperature, generator)
        higher = energies > _of(energies, current)
        worse, accepted = worse + higher.sum(), accepted + higher.gather(-1, chosen.unsqueeze(-1)).sum()
        types, chosen = chosen % g, chosen // g
        relations[:, :, block] = rows[chosen]
        received = others + summed(sent, rows[chosen].unsqueeze(2))
        excluded = torch.where(weights > 0, 0.0, torch.inf)  # (M, block K)
        free = -(-energies.unsqueeze(-1) - excluded.repeat_interleave(g, dim=0)).logsumexp(2)
        scores[:, :, block] = free.unflatten(-1, (len(block), k))
    prior_energy = _of(prior, relations).flatten(2).sum(-1)
    energies = score(received, types.unsqueeze(2)).squeeze(-1) + prior_energy
    return Drawn(Structure(relations, types), scores, energies, worse, accepted)


def blocks(num_senders: int, num_modules: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Slots in random order, in blocks of at most `COMBINATIONS` combinations of modules, but at least one slot."""
    size = max(1, int(math.log(COMBINATIONS, num_modules))) if num_modules > 1 else num_senders
    return torch.randperm(num_senders, generator=generator, device=generator.device).split(size)


def _of(options: Tensor, index: Tensor) -> Tensor:
    """Selects one of K options: options (..., K, *) and index (...) to (..., 1, *)."""
    rest = options.dim() - index.dim() - 1
    place = index.view(*index.shape, 1, *[1] * rest)
    return options.gather(index.dim(), place.expand(*index.shape, 1, *options.shape[index.dim() + 1 :]))
