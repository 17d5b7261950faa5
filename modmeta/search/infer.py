"""Structures of tasks never trained on: the search's own kernels with the modules frozen, from random structures."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from modmeta.graph.bank import Structure, random_structure
from modmeta.model.model import RelationalModel, Score
from modmeta.search.candidates import marginals
from modmeta.search.problem import Info, Problem, clamped
from modmeta.search.search import Search
from modmeta.search.selection import gibbs, greedy
from modmeta.shapes import Bool, Float, Int

# Inference block by block begins at random and cools down over so many passes, lest it end in the nearest minimum.
PASSES, HOT = 8, 1000.0
COLD = 1e-30
LARGEST = 1e30  # nats: energies that overflow, or are no numbers, become as large, so that others can be weighed


class Inferred(NamedTuple):
    """Structures of tasks never trained on.

    Attributes:
        structure: found.
        probabilities: of every module on every edge, (B, N, S, K).
        energies: of the structures, (B,); infinite for tasks so far from what the model knows that no structure can be
            weighed.
        gap: energy of the second best row above the best, (B, N) nats (horizon 1 only).
    """

    structure: Structure
    probabilities: Tensor
    energies: Tensor
    gap: Tensor | None


@torch.no_grad()
def infer(
    search: Search,
    model: RelationalModel,
    proposal: Callable[[Tensor], Tensor] | None,
    states: Float[Tensor, "B N T D"],
    generator: torch.Generator,
    known: Int[Tensor, "B N S"] | None = None,
    mask: Bool[Tensor, "B T-1"] | None = None,
) -> Inferred:
    """Structures of a batch (B, N, T, D), searched from random ones for `search.sweeps` steps.

    Steps only improve, but for passes block by block, which cool down to it. Relations `known`, (B, N, S) and not -1,
    stay; frame steps outside `mask`, (B, T - 1), do not count.

    Raises:
        UserError: rollouts of several frames are asked for where some are missing.
    """
    b, n = states.shape[:2]
    dynamics = model.dynamics
    structure = clamped(random_structure(b, n, dynamics.num_edge_modules, dynamics.num_node_modules, generator), known)
    needs = proposal is not None and search.needs_proposal(model, n)
    logits = proposal(states).nan_to_num() if needs and proposal is not None else None
    problem = Problem(
        model, states, horizon=search.horizon, known=known, mask=mask, logits=logits, edge_cost=search.edge_cost
    )
    if search.horizon == 1:
        problem = replace(problem, score=bounded(model.scorer(states, mask=mask)))
    heats = torch.empty(0)
    if search.by_blocks(model, n):
        passes = 2 if dynamics.additive else PASSES
        heats = torch.logspace(0 if dynamics.additive else math.log10(HOT), 0, passes, device=states.device)
    best, cold = search.kernel(model, n, greedy, relax=False), states.new_tensor(COLD)
    lost = torch.zeros(b, dtype=torch.bool, device=states.device)
    for sweep in range(search.sweeps):
        if search.horizon == 1:  # paths of close pairs follow from structures, and structures from paths
            messages = dynamics.messages(states, structure if sweep else None)
            least, most = messages.flatten(1).aminmax(dim=1)
            if (overflown := ~(least.isfinite() & most.isfinite())).any():
                messages, lost = messages.nan_to_num(0, 0, 0), lost | overflown
            problem = replace(problem, messages=messages)
        for number, heat in enumerate(heats):
            try:
                structure, _ = search.kernel(model, n, gibbs, relax=number == 0)(generator, structure, problem, heat)
            except torch.linalg.LinAlgError:  # a task's errors overflow, as its energies will say
                structure, _ = search.kernel(model, n, gibbs, relax=False)(generator, structure, problem, heat)
        structure, info = best(generator, structure, problem, cold)
    lost = lost | ~(info.energies < LARGEST)
    return _summary(structure, info._replace(energies=info.energies.masked_fill(lost, torch.inf)), problem)


def bounded(score: Score) -> Score:
    """A scorer whose energies are numbers, whatever the states."""
    return lambda received, types: (
        score(received, types).nan_to_num(LARGEST, LARGEST, -LARGEST).clamp(-LARGEST, LARGEST)
    )


def _summary(structure: Structure, info: Info, problem: Problem) -> Inferred:
    k = problem.num_edge_modules
    if problem.horizon > 1:
        certain = F.one_hot(structure.relations, k).to(problem.states.dtype)
        return Inferred(structure, certain, info.energies, None)
    if info.slots is not None:
        least = info.slots.topk(min(2, k), dim=-1, largest=False).values
        gap = (least[..., -1] - least[..., 0]).amin(-1)
        return Inferred(structure, (-info.slots).softmax(-1), info.energies, gap)
    least = info.scores.topk(min(2, info.scores.shape[-1]), dim=-1, largest=False).values
    gap = least[..., -1] - least[..., 0]
    return Inferred(structure, marginals(info.candidates, info.scores, k), info.energies, gap)


def together(parts: list[Inferred]) -> Inferred:
    """Inferred structures of several batches as those of one."""
    structures, probabilities, energies, gaps = zip(*parts, strict=True)
    structure = Structure(*(torch.cat(slots) for slots in zip(*structures, strict=True)))
    gap = None if gaps[0] is None else torch.cat(gaps)
    return Inferred(structure, torch.cat(probabilities), torch.cat(energies), gap)
