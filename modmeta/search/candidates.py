"""Candidates of a receiver: a row (the edge modules of its incoming edges) and a node module each."""

import torch
from torch import Tensor
from torch.nn import functional as F

from modmeta import machine
from modmeta.graph.bank import Structure
from modmeta.graph.relations import all_rows
from modmeta.search.problem import Candidates, Problem, Propose, ProposeOf, Searched
from modmeta.search.relax import relaxed_rows
from modmeta.search.selection import drawn
from modmeta.shapes import Float, Int


def enumerate_rows(structure: Structure, num_edge_modules: int, num_node_modules: int) -> Candidates:
    """All K^S G candidates, shared by all receivers."""
    relations, types = structure
    k, g, s = num_edge_modules, num_node_modules, relations.shape[-1]
    rows = all_rows(s, k, relations.device).repeat_interleave(g, dim=0)
    place = k ** torch.arange(s - 1, -1, -1, device=relations.device)
    current = (relations * place).sum(-1) * g + types
    node_types = torch.arange(g, device=relations.device).repeat(k**s)
    return Candidates(rows[None, None], node_types[None, None], current)


def propose_rows(
    structure: Structure,
    logits: Float[Tensor, "B N S K"] | None,
    samples: int,
    flips: bool,
    num_edge_modules: int,
    num_node_modules: int,
    generator: torch.Generator,
) -> Candidates:
    """The current candidate, then rows sampled from a proposal, then all changes of a single edge or node module.

    Args:
        structure: current structure (B, N, S), (B, N).
        logits: logits of the proposal (B, N, S, K); None for uniform proposals.
        samples: number of rows sampled for each receiver.
        flips: whether to include all changes of a single edge or node module.
        num_edge_modules: K.
        num_node_modules: G.
        generator: of the samples.
    """
    relations, types = structure
    b, n, s = relations.shape
    k, g = num_edge_modules, num_node_modules
    rows, node_types = [relations.unsqueeze(2)], [types.unsqueeze(2)]
    if samples:
        flat = relations.new_zeros(b * n * s, k, dtype=torch.float32) if logits is None else logits.reshape(-1, k)
        weights = flat.softmax(-1)
        if machine.waits(weights):
            found = drawn(weights.repeat_interleave(samples, dim=0), generator)
        else:
            found = torch.multinomial(weights, samples, replacement=True, generator=generator)
        rows.append(found.view(b, n, s, samples).transpose(2, 3))
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


def marginals(
    candidates: Candidates, energies: Float[Tensor, "B N M"], num_edge_modules: int
) -> Float[Tensor, "B N S K"]:
    """Probability of every module on every edge, (B, N, S, K), with weights exp(-energy) of candidates (B, N, M)."""
    weights = (-energies).softmax(-1)
    chosen = F.one_hot(candidates.rows, num_edge_modules).to(weights.dtype)  # (B, N, M, S, K)
    return normalised(torch.einsum("bnm,bnmsk->bnsk", weights, chosen.expand(*weights.shape, -1, -1)))


def normalised(probabilities: Tensor) -> Tensor:
    """Removes rounding errors from probabilities (..., K): they lie in [0, 1] and sum to 1. All zeros stay zeros."""
    kept = probabilities.clamp(0, 1)
    return kept / kept.sum(-1, keepdim=True).clamp_min(torch.finfo(kept.dtype).tiny)


def take(candidates: Candidates, chosen: Int[Tensor, "B N"]) -> Structure:
    """Structure of the chosen candidate (B, N) of every receiver."""
    b, n = chosen.shape
    m, s = candidates.rows.shape[-2:]
    rows = candidates.rows.expand(b, n, m, s).gather(2, chosen.view(b, n, 1, 1).expand(b, n, 1, s)).squeeze(2)
    types = candidates.types.expand(b, n, m).gather(2, chosen.unsqueeze(-1)).squeeze(-1)
    return Structure(rows, types)


# ---- `Propose` functions of kernels ----------------------------------------------------------------------------------


def every_row(generator: torch.Generator, structure: Structure, problem: Searched) -> Candidates:
    """Proposes all rows and node modules."""
    return enumerate_rows(structure, problem.num_edge_modules, problem.num_node_modules)


def current_row(generator: torch.Generator, structure: Structure, problem: Searched) -> Candidates:
    """The current row of a receiver alone: structures stay as they are."""
    relations, types = structure
    return Candidates(relations.unsqueeze(2), types.unsqueeze(2), torch.zeros_like(types))


def sampled_rows(samples: int, flips: bool) -> ProposeOf[Searched]:
    """Proposes rows sampled from the proposal; with `flips` also all changes of a single edge or node module."""

    def propose(generator: torch.Generator, structure: Structure, problem: Searched) -> Candidates:
        k, g = problem.num_edge_modules, problem.num_node_modules
        return propose_rows(structure, problem.logits, samples, flips, k, g, generator)

    return propose


def and_relaxed(propose: Propose) -> Propose:
    """Adds the rows of `relaxed_rows`, for every node module, to those of `propose`. Dynamics must be additive."""

    def both(generator: torch.Generator, structure: Structure, problem: Problem) -> Candidates:
        candidates = propose(generator, structure, problem)
        model, states, known, mask, (messages, _) = (
            problem.model,
            problem.states,
            problem.known,
            problem.mask,
            problem.one_step(),
        )
        messages = model.dynamics.without_constants(model.values(messages), states, mask)
        rows, types, log_scale = [candidates.rows], [candidates.types], model.log_scale(states)
        for node_module in range(problem.num_node_modules):
            of = torch.full_like(candidates.current, node_module)  # (B, N)
            left = model.dynamics.without_constants(model.unexplained(states, of), states, mask)
            found = relaxed_rows(messages, left, log_scale, mask)  # (B, N, M, S)
            rows.append(found if known is None else torch.where(known.unsqueeze(2) >= 0, known.unsqueeze(2), found))
            types.append(of.unsqueeze(2).expand(found.shape[:3]))
        return Candidates(torch.cat(rows, dim=2), torch.cat(types, dim=2), candidates.current)

    return both
