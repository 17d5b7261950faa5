"""Inference of structures of new tasks: the search kernels with frozen modules, from random structures."""

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
from modmeta.shapes import Float, Int

PASSES = 8  # annealed passes of block Gibbs sampling from a random structure, to avoid local minima
INITIAL_TEMPERATURE = 1000.0  # of these passes, nats
GREEDY_TEMPERATURE = 1e-30  # passed to greedy kernels, which ignore it
LARGEST = 1e30  # nats: replaces infinite and NaN energies, so that other candidates can be compared


class Inferred(NamedTuple):
    """Inferred structures of new tasks.

    Attributes:
        structure: the structures found.
        probabilities: probability of every module on every edge, (B, N, S, K).
        energies: energies of the structures, (B,) nats; infinite if they overflow, for tasks far from the training
            data.
        gap: energy gap of a receiver between the best and the second best candidate, or, for block Gibbs sampling, its
            smallest gap between modules of an edge, (B, N) nats. None for horizons beyond 1.
        messages: messages along the edges under these structures (`RelationalModel.messages`), if the search ended with
            them, so that they need not be computed again; else None.
    """

    structure: Structure
    probabilities: Tensor
    energies: Tensor
    gap: Tensor | None
    messages: Tensor | None = None


@torch.no_grad()
def infer(
    search: Search,
    model: RelationalModel,
    proposal: Callable[[Tensor], Tensor] | None,
    states: Float[Tensor, "B N T D"],
    generator: torch.Generator,
    known: Int[Tensor, "B N S"] | None = None,
    mask: Int[Tensor, "B N T-1"] | None = None,
) -> Inferred:
    """Infers structures of a batch of tasks by at most `search.sweeps` greedy steps from random structures.

    If all receivers move, the steps end when one changes nothing. Where rows are too many to enumerate, every greedy
    step follows annealed passes of block Gibbs sampling.

    Args:
        search: settings of the search.
        model: the model, whose modules are not changed.
        proposal: proposal network from states to logits (B, N, S, K); None for uniform proposals.
        states: observed states (B, N, T, D).
        generator: random numbers, on the device of the states.
        known: given edge modules (B, N, S), -1 where not given; None if none are given.
        mask: how well steps are known, (B, N, T - 1); None for all observed.

    Raises:
        UserError: `search.horizon` exceeds 1 and frames are missing.
    """
    b, n = states.shape[:2]
    dynamics = model.dynamics
    structure = clamped(random_structure(b, n, dynamics.num_edge_modules, dynamics.num_node_modules, generator), known)
    needs = proposal is not None and search.needs_proposal(model, n)
    logits = proposal(states).nan_to_num() if needs and proposal is not None else None
    problem = Problem(
        model, states, horizon=search.horizon, known=known, mask=mask, logits=logits, edge_cost=search.edge_cost,
        roles=search.of_roles(n, states),
    )  # fmt: skip
    if search.horizon == 1:
        problem = replace(problem, score=Bounded(model.scorer(states, mask=mask)))
    temperatures = torch.empty(0)
    if search.by_blocks(model, n):
        passes = 2 if dynamics.additive else PASSES
        temperatures = torch.logspace(
            0 if dynamics.additive else math.log10(INITIAL_TEMPERATURE), 0, passes, device=states.device
        )
    best, greedy_temperature = search.kernel(model, n, greedy, relax=False), states.new_tensor(GREEDY_TEMPERATURE)
    lost = torch.zeros(b, dtype=torch.bool, device=states.device)
    unrefined = dynamics.messages(states) if search.horizon == 1 else None
    settles, messages, settled = search.receivers == "all" and search.horizon == 1, None, False
    for sweep in range(search.sweeps):
        before = structure
        if search.horizon == 1:  # messages of close pairs depend on the structure, hence several sweeps
            messages = model.messages(states, structure if sweep else None, mask, unrefined)
            least, most = messages.flatten(1).aminmax(dim=1)
            if (overflown := ~(least.isfinite() & most.isfinite())).any():
                messages, lost = messages.nan_to_num(0, 0, 0), lost | overflown
            problem = replace(problem, messages=messages)
        for number, temperature in enumerate(temperatures):
            relaxed, plain = (search.kernel(model, n, gibbs, relax=relax) for relax in (number == 0, False))
            try:
                structure, _ = relaxed(generator, structure, problem, temperature)
            except torch.linalg.LinAlgError:  # the errors of a task overflow; its energies will be infinite
                structure, _ = plain(generator, structure, problem, temperature)
        structure, info = best(generator, structure, problem, greedy_temperature)
        settled = bool(sweep) and settles and all(map(torch.equal, structure, before))
        if settled:  # the next step would repeat this one, but for what it draws
            break
    lost = lost | ~(info.energies < LARGEST)
    found = _summary(structure, info._replace(energies=info.energies.masked_fill(lost, torch.inf)), problem)
    return found._replace(messages=messages) if settled else found


class Bounded:
    """Energies clamped to finite numbers, for states far outside the training range."""

    def __init__(self, score: Score) -> None:
        self.score = score

    def __call__(self, received: Tensor, types: Tensor) -> Tensor:
        return bounded(self.score(received, types))

    def rows(self, messages: Tensor, rows: Tensor, types: Tensor) -> Tensor:
        return bounded(self.score.rows(messages, rows, types))


def bounded(energies: Tensor) -> Tensor:
    """Energies that can be compared."""
    return energies.nan_to_num(LARGEST, LARGEST, -LARGEST).clamp(-LARGEST, LARGEST)


def _summary(structure: Structure, info: Info, problem: Problem) -> Inferred:
    k = problem.num_edge_modules
    if problem.horizon > 1:
        certain = F.one_hot(structure.edge_modules, k).to(problem.states.dtype)
        return Inferred(structure, certain, info.energies, None)
    if info.slots is not None:
        least = info.slots.topk(min(2, k), dim=-1, largest=False).values
        gap = (least[..., -1] - least[..., 0]).amin(-1)
        return Inferred(structure, (-info.slots).softmax(-1), info.energies, gap)
    least = info.scores.topk(min(2, info.scores.shape[-1]), dim=-1, largest=False).values
    gap = least[..., -1] - least[..., 0]
    return Inferred(structure, marginals(info.candidates, info.scores, k), info.energies, gap)


def concatenated(parts: list[Inferred]) -> Inferred:
    """Concatenates the inferred structures of several batches, without messages."""
    structures, probabilities, energies, gaps, _ = zip(*parts, strict=True)
    structure = Structure(*(torch.cat(slots) for slots in zip(*structures, strict=True)))
    gap = None if gaps[0] is None else torch.cat(gaps)
    return Inferred(structure, torch.cat(probabilities), torch.cat(energies), gap)
