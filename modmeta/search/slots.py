"""Rows too long to enumerate: slots drawn one after another, each exactly, given the others (Gibbs sampling)."""

from typing import NamedTuple

import torch
from torch import Tensor

from modmeta.model.dynamics import summed
from modmeta.model.model import Score
from modmeta.search.selection import Selection
from modmeta.structure.bank import Structure


class Drawn(NamedTuple):
    """A structure drawn slot by slot.

    Attributes:
        structure: after the pass.
        scores: energies of every module in every slot, given the other slots as they were then, (B, N, S, K).
        energies: of the receivers at the end, (B, N).
        worse: number of slots in which a module of higher energy was on offer, and `accepted` of them that took one.
    """

    structure: Structure
    scores: Tensor
    energies: Tensor
    worse: Tensor
    accepted: Tensor


def draw_slots(
    score: Score,
    messages: Tensor,
    structure: Structure,
    prior: Tensor,
    num_node_modules: int,
    selection: Selection,
    temperature: Tensor,
    generator: torch.Generator,
) -> Drawn:
    """One pass over the slots of all receivers at once, then over their node modules.

    The sum of messages is kept and corrected, so that a slot costs K energies whatever the length of the row: a pass
    costs about as much as the messages did, and time per edge does not grow with the number of entities.

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
    relations, types = structure.relations.clone(), structure.types
    prior = prior.expand(b, n, s, k)
    received = summed(messages, relations.unsqueeze(2))  # (B, N, 1, T, C)
    scores = messages.new_empty(b, n, s, k)
    worse = accepted = torch.zeros((), dtype=torch.long, device=messages.device)
    for slot in range(s):  # each draw depends on those before it
        sent, here = messages[:, :, slot], relations[:, :, slot]  # (B, N, K, T, C), (B, N)
        others = received - _of(sent, here)
        scores[:, :, slot] = score(others + sent, types.unsqueeze(2).expand(b, n, k)) + prior[:, :, slot]
        chosen = selection(scores[:, :, slot], here, temperature, generator)
        higher = scores[:, :, slot] > _of(scores[:, :, slot], here)
        worse, accepted = worse + higher.sum(), accepted + higher.gather(-1, chosen.unsqueeze(-1)).sum()
        received = others + _of(sent, chosen)
        relations[:, :, slot] = chosen
    energies = score(received.expand(-1, -1, num_node_modules, -1, -1), _every(num_node_modules, types))  # (B, N, G)
    types = selection(energies, types, temperature, generator) if num_node_modules > 1 else types
    paid = _of(prior, relations).flatten(2).sum(-1)
    return Drawn(Structure(relations, types), scores, _of(energies, types).squeeze(-1) + paid, worse, accepted)


def _of(options: Tensor, index: Tensor) -> Tensor:
    """The chosen of K options: (..., K, *), (...) to (..., 1, *)."""
    rest = options.dim() - index.dim() - 1
    place = index.view(*index.shape, 1, *[1] * rest)
    return options.gather(index.dim(), place.expand(*index.shape, 1, *options.shape[index.dim() + 1 :]))


def _every(num_node_modules: int, types: Tensor) -> Tensor:
    """All node modules as candidates of every receiver, (B, N, G); the current one where there is no other."""
    if num_node_modules == 1:
        return types.unsqueeze(2)
    return torch.arange(num_node_modules, device=types.device).expand(*types.shape, -1)
