"""Candidate rows: what the incoming edges (and the node module) of a receiver may become."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from modmeta.structure.bank import Structure
from modmeta.structure.relations import all_rows


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


def enumerate_rows(structure: Structure, num_edge_modules: int, num_node_modules: int) -> Candidates:
    """All K^S G candidates, the same for every receiver."""
    relations, types = structure
    k, g, s = num_edge_modules, num_node_modules, relations.shape[-1]
    rows = all_rows(s, k, relations.device).repeat_interleave(g, dim=0)
    place = k ** torch.arange(s - 1, -1, -1, device=relations.device)
    current = (relations * place).sum(-1) * g + types
    node_types = torch.arange(g, device=relations.device).repeat(k**s)
    return Candidates(rows[None, None], node_types[None, None], current)


def propose_rows(
    structure: Structure,
    logits: Tensor | None,
    samples: int,
    flips: bool,
    num_edge_modules: int,
    num_node_modules: int,
    generator: torch.Generator,
) -> Candidates:
    """The current row first, then whole rows sampled from a proposal, then every change of one slot.

    Args:
        structure: current (B, N, S), (B, N).
        logits: of the proposal (B, N, S, K); none for uniform proposals.
        samples: rows sampled for each receiver.
        flips: also every row, or node module, that differs from the current one in one slot.
    """
    relations, types = structure
    b, n, s = relations.shape
    k, g = num_edge_modules, num_node_modules
    rows, node_types = [relations.unsqueeze(2)], [types.unsqueeze(2)]
    if samples:
        flat = relations.new_zeros(b * n * s, k, dtype=torch.float32) if logits is None else logits.reshape(-1, k)
        drawn = torch.multinomial(flat.softmax(-1), samples, replacement=True, generator=generator)
        rows.append(drawn.view(b, n, s, samples).transpose(2, 3))
        drawn_types = torch.randint(g, (b, n, samples), generator=generator, device=relations.device)
        node_types.append(drawn_types if g > 1 else types.unsqueeze(2).expand(-1, -1, samples))
    if flips:
        shift = torch.arange(1, k, device=relations.device).repeat_interleave(s)  # (S (K - 1),)
        slot = torch.eye(s, dtype=torch.long, device=relations.device).repeat(k - 1, 1)
        rows.append((relations.unsqueeze(2) + slot * shift.unsqueeze(1)) % k)
        node_types.append(types.unsqueeze(2).expand(-1, -1, s * (k - 1)))
        if g > 1:
            other = torch.arange(1, g, device=relations.device)
            rows.append(relations.unsqueeze(2).expand(-1, -1, g - 1, -1))
            node_types.append((types.unsqueeze(2) + other) % g)
    return Candidates(torch.cat(rows, 2), torch.cat(node_types, 2), torch.zeros_like(types))


def prior_energies(prior: Tensor, rows: Tensor) -> Tensor:
    """Sum over slots of the prior energies (B or 1, N or 1, S or 1, K) of rows (B or 1, N or 1, M, S): (..., M)."""
    chosen = F.one_hot(rows, prior.shape[-1]).to(prior.dtype)  # (B, N, M, S, K)
    return (chosen * prior.unsqueeze(2)).sum((-1, -2))


def marginals(candidates: Candidates, energies: Tensor, num_edge_modules: int) -> Tensor:
    """Probability of every module on every edge, (B, N, S, K): candidates weigh exp(-energy), energies (B, N, M)."""
    weights = (-energies).softmax(-1)
    chosen = F.one_hot(candidates.rows, num_edge_modules).to(weights.dtype)  # (B, N, M, S, K)
    return normalised(torch.einsum("bnm,bnmsk->bnsk", weights, chosen.expand(*weights.shape, -1, -1)))


def normalised(probabilities: Tensor) -> Tensor:
    """Probabilities (..., K) whose sums are off by rounding, as such that sum to 1 and none of which is above it.

    Those of nothing, zeros throughout, stay.
    """
    kept = probabilities.clamp(0, 1)
    return kept / kept.sum(-1, keepdim=True).clamp_min(torch.finfo(kept.dtype).tiny)
