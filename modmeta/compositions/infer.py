"""Structures of new tasks, with their probabilities, modules frozen.

Letters: B tasks, P points, I inputs, O outputs, S slots, K modules, M candidates, Q queries.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from modmeta.compositions.problem import (
    ComposedModel,
    CompositionProblem,
    enumerates,
    every_structure,
    kernel_of,
    random_slots,
)
from modmeta.graph.bank import Structure
from modmeta.search.candidates import sampled_rows
from modmeta.search.infer import GREEDY_TEMPERATURE
from modmeta.search.search import Search
from modmeta.search.selection import greedy
from modmeta.shapes import Float, Int

STARTS = 8  # random structures from which greedy steps begin


@dataclass(frozen=True)
class Structures:
    """Structures of B tasks.

    Attributes:
        structures: the most probable ones (B, S).
        probability: theirs, (B,), structures that are the same function counted as one. Where structures are too many
            to enumerate, among those that differ in one slot at most.
        modules: probabilities of the modules of every slot, (B, S, K), of structures in the order that
            `Composition.alike` puts slots in; 0 for modules that do not fit a slot.
        energies: of the structures, (B,), nats.
    """

    structures: Int[Tensor, "B S"]
    probability: Float[Tensor, " B"]
    modules: Float[Tensor, "B S K"]
    energies: Float[Tensor, " B"]


def few(model: ComposedModel, numbers: int) -> str | None:
    """What to say of tasks whose examples have fewer numbers, P times O, than there are slots with a choice."""
    slots = sum(size > 1 for size in model.sizes)
    if numbers >= slots:
        return None
    return (
        f"the examples of a task are {numbers} number{'s' * (numbers > 1)}, fewer than the {slots} slots whose modules "
        "they should tell, so several structures may fit them alike"
    )


@torch.no_grad()
def found(problem: CompositionProblem, search: Search, seed: int) -> Structure:
    """The best structures of tasks; the same for the same input.

    Where structures are too many to enumerate, greedy steps from each of a few random structures.
    """
    model, x = problem.model, problem.x
    generator, kernel = torch.Generator(x.device).manual_seed(seed), kernel_of(search, model, greedy)
    at_once = enumerates(search, model)
    best, least = random_slots(len(x), model.sizes, generator), x.new_full((len(x),), torch.inf)
    for _ in range(1 if at_once else STARTS):
        structure = random_slots(len(x), model.sizes, generator)
        for _ in range(1 if at_once else max(search.sweeps, 2 * len(model.sizes))):
            structure, info = kernel(generator, structure, problem, x.new_tensor(GREEDY_TEMPERATURE))
        better = info.energies < least
        rows = torch.where(better[:, None, None], structure.edge_modules, best.edge_modules)
        best, least = best._replace(edge_modules=rows), torch.where(better, info.energies, least)
    return best


@torch.no_grad()
def weighed(
    problem: CompositionProblem, search: Search, structure: Structure
) -> tuple[Float[Tensor, "B M"], Int[Tensor, "#B M S"], Int[Tensor, " B"]]:
    """Energies of candidates, these, and the index of the structure among them.

    Candidates are all structures, or those that differ from the given ones in one slot at most.
    """
    generator = torch.Generator(problem.x.device)
    propose = every_structure if enumerates(search, problem.model) else sampled_rows(0, True)
    candidates = propose(generator, structure, problem)
    return problem.energies(candidates)[:, 0], candidates.rows[:, 0], candidates.current[:, 0]


def functions(model: ComposedModel, rows: Int[Tensor, "#B M S"]) -> Int[Tensor, "#B M"]:
    """Numbers of the functions that candidates are; those that are the same function have the same."""
    sizes = torch.tensor([*model.sizes[1:], 1], device=rows.device)
    number = (model.composition.alike(rows) * sizes.flip(0).cumprod(0).flip(0)).sum(-1)
    numbers: Tensor = number.unique(return_inverse=True)[1]
    return numbers


def posterior(
    energies: Float[Tensor, "B M"], function: Int[Tensor, "#B M"], temperature: float
) -> Float[Tensor, "B M"]:  # fmt: skip
    """Probabilities (B, M) of the functions that candidates are, at a temperature."""
    chance, of = (-energies.double() / temperature).softmax(-1), function.expand(energies.shape)
    return chance.new_zeros(len(chance), int(of.max()) + 1).scatter_add_(1, of, chance).gather(1, of)


@torch.no_grad()
def infer(problem: CompositionProblem, search: Search, temperature: float, seed: int) -> Structures:
    """Structures of tasks and their probabilities at a temperature."""
    model, best = problem.model, found(problem, search, seed)
    energies, rows, current = weighed(problem, search, best)
    mine, alike = current.unsqueeze(1), model.composition.alike(rows)
    chance = (-energies.double() / temperature).softmax(-1)  # of each candidate alone
    modules = chance.new_zeros(len(chance), len(model.sizes), max(model.sizes))
    for slot in range(len(model.sizes)):
        modules[:, slot].scatter_add_(1, alike[..., slot].expand(chance.shape), chance)
    sure = posterior(energies, functions(model, rows), temperature).gather(1, mine)[:, 0]
    return Structures(best.edge_modules[:, 0], sure.float(), modules.float(), energies.gather(1, mine)[:, 0])
