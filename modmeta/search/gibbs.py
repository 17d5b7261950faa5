"""Rows too long to enumerate: a few slots drawn at a time, exactly, given the others (blocked Gibbs sampling)."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from modmeta.graph.bank import Structure
from modmeta.graph.relations import all_rows
from modmeta.model.dynamics.base import one_hot, summed
from modmeta.model.model import Score
from modmeta.search.exact import receiver_rows
from modmeta.search.problem import Info, Kernel, Problem, Propose, differing
from modmeta.search.selection import Selection
from modmeta.shapes import Float

# Combinations of a block. One slot at a time gets caught: where two modules are each other's opposite, two wrong edges
# may cancel, and either one alone makes it worse.
COMBINATIONS = 16


class Drawn(NamedTuple):
    """A structure drawn block by block.

    Attributes:
        structure: after the pass.
        scores: free energies of every module in every slot, over what the rest of its block and the node module may be,
            given the other blocks as they were then, (B, N, S, K).
        energies: of the receivers at the end, (B, N).
        worse: number of combinations of higher energy that were on offer, and `accepted` of them that were taken.
    """

    structure: Structure
    scores: Tensor
    energies: Tensor
    worse: Tensor
    accepted: Tensor


def block_gibbs(propose: Propose, select: Selection) -> Kernel:
    """A kernel that chooses among candidate rows first, then draws block after block of slots of every receiver.

    Args:
        propose: candidates, of `modmeta.search.candidates`.
        select: function of `modmeta.search.selection`, of rows and of combinations of a block.
    """
    rows = receiver_rows(propose, select)

    @torch.no_grad()
    def kernel(
        generator: torch.Generator, structure: Structure, problem: Problem, temperature: Float[Tensor, ""]
    ) -> tuple[Structure, Info]:
        new, info = rows(generator, structure, problem, temperature)
        (messages, score), g = problem.one_step(), problem.num_node_modules
        drawn = draw_slots(score, messages, new, problem.prior, g, select, temperature, generator)
        changed = differing(drawn.structure, structure)
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
    score: Score,
    messages: Float[Tensor, "B N S K T C"],
    structure: Structure,
    prior: Float[Tensor, "#B #N #S K"],
    num_node_modules: int,
    selection: Selection,
    temperature: Float[Tensor, ""],
    generator: torch.Generator,
) -> Drawn:
    """One pass over the slots of all receivers at once; with every block the node module is drawn, too, for under a
    wrong one other rows look right.

    The sum of messages is kept and corrected, so that a block costs its combinations whatever the length of the row: a
    pass costs about as much as the messages did, and time per edge does not grow with the number of entities. Blocks
    are slots in random order, as many as have `COMBINATIONS` modules together.

    Args:
        score: of `RelationalModel.scorer`.
        messages: (B, N, S, K, T, C).
        structure: current (B, N, S), (B, N).
        prior: energy of each module in each slot before any frame is seen, (B or 1, N or 1, S or 1, K).
        num_node_modules: G.
        selection: function of `modmeta.search.selection`.
        temperature: of the draws.
        generator: of the draws.
    """
    b, n, s, k = messages.shape[:4]
    relations, types, g = structure.relations.clone(), structure.types, num_node_modules
    prior = prior.expand(b, n, s, k)
    received = summed(messages, relations.unsqueeze(2))  # (B, N, 1, T, C)
    scores = messages.new_empty(b, n, s, k)
    worse = accepted = torch.zeros((), dtype=torch.long, device=messages.device)
    for block in blocks(s, k, generator):  # each draw depends on those before it
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
    paid = _of(prior, relations).flatten(2).sum(-1)
    energies = score(received, types.unsqueeze(2)).squeeze(-1) + paid
    return Drawn(Structure(relations, types), scores, energies, worse, accepted)


def blocks(num_senders: int, num_modules: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Slots in random order, in parts of which each has at most `COMBINATIONS` rows, or one slot."""
    size = max(1, int(math.log(COMBINATIONS, num_modules))) if num_modules > 1 else num_senders
    return torch.randperm(num_senders, generator=generator, device=generator.device).split(size)


def _of(options: Tensor, index: Tensor) -> Tensor:
    """The chosen of K options: (..., K, *), (...) to (..., 1, *)."""
    rest = options.dim() - index.dim() - 1
    place = index.view(*index.shape, 1, *[1] * rest)
    return options.gather(index.dim(), place.expand(*index.shape, 1, *options.shape[index.dim() + 1 :]))
