"""Temperatures from what a model can tell of tasks whose relations are exchanged: simulation and inference.

Of a task, messages under a structure that its posterior draws are taken off the observed changes, and those under the
structure of another task put in their place. What the model does not explain stays, with all that likelihoods leave
out: laws that are not quite right are wrong for as long as entities stay where they are, so errors of many frames
count for few. Under the true law and temperature these tasks are as real ones are (simulation-based calibration: Talts,
Betancourt, Simpson, Vehtari, Gelman 2018), and here the structure is known.

Letters: B tasks, N entities, S senders, M candidate rows, T frames, L = T - 1 steps, K edge modules, C channels.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from modmeta.evaluation.posterior import check_weighable, exact_of, table
from modmeta.graph.bank import Structure
from modmeta.graph.relations import all_rows, from_matrix, to_matrix
from modmeta.model.dynamics.base import one_hot, weighed
from modmeta.model.model import RelationalModel
from modmeta.search.infer import infer
from modmeta.search.search import Search

ROUNDS = 5  # the temperature of draws follows from the tasks that they make

Posterior = Callable[[float], Tensor]


class _Window(NamedTuple):
    states: Tensor  # (B, N, T, D)
    structure: Structure  # that the search found in all frames; paths of close pairs are its paths
    messages: Tensor  # (B, N, S, K, L, C)


class Exchanged(NamedTuple):
    """What a model tells of tasks whose structures were exchanged.

    Attributes:
        posterior: function of a temperature to probabilities of edge modules, (B, N, S, K).
        truth: their edge modules, (B, N, S).
    """

    posterior: Posterior
    truth: Tensor


def temperatures(
    model: RelationalModel, search: Search, tasks: Sequence[Tensor], windows: Sequence[int], start: float,
    fit: Callable[[list[Exchanged]], float], generator: torch.Generator,
) -> list[float]:  # fmt: skip
    """Temperatures at which structures are inferred from windows as surely as rightly.

    Args:
        model: trained model.
        search: search that infers structures, with rows that can be enumerated.
        tasks: states (B, N, T, D) of every size.
        windows: numbers of first frames, increasing; the last is T.
        start: temperature of the first draws.
        fit: the temperature that suits tasks best.
        generator: of draws.

    Raises:
        TaskError: energies overflow.
    """
    found = [infer(search, model, None, states, generator).structure for states in tasks]
    sized = [
        [_window(model, states[:, :, :window], structure) for states, structure in zip(tasks, found, strict=True)]
        for window in windows
    ]
    energies = [table(_score(model, part), part.structure, model.dynamics.num_edge_modules) for part in sized[-1]]

    def drawn(temperature: float) -> list[Tensor]:
        return [_drawn(search, *pair, temperature, generator) for pair in zip(energies, found, strict=True)]

    def fitted(size: list[_Window], own: list[Tensor]) -> float:
        return fit([_exchanged(model, search, *pair) for pair in zip(size, own, strict=True)])

    temperature = start
    for _ in range(ROUNDS - 1):
        temperature = fitted(sized[-1], drawn(temperature))
    own = drawn(temperature)
    return [fitted(size, own) for size in sized]


def _window(model: RelationalModel, states: Tensor, structure: Structure) -> _Window:
    return _Window(states, structure, model.messages(states, structure))


def _score(model: RelationalModel, part: _Window, targets: Tensor | None = None) -> Callable[[Tensor], Tensor]:
    """Energies (B, N, M) as a function of rows (B, N, M, S)."""
    score = model.scorer(part.states, targets=targets)

    def of(rows: Tensor) -> Tensor:
        types = part.structure.node_modules.unsqueeze(2).expand(-1, -1, rows.shape[2])
        return score.rows(part.messages, rows, types)

    return of


def _drawn(
    search: Search, energies: Tensor, structure: Structure, temperature: float, generator: torch.Generator
) -> Tensor:
    """Edge modules (B, N, S) drawn from the posterior, from energies of all rows (B, N, M)."""
    s = structure.edge_modules.shape[-1]
    k = round(energies.shape[-1] ** (1 / s))
    if search.symmetric:  # each pair by itself
        chances = exact_of(search)(energies, structure, k, temperature)
        drawn = to_matrix(torch.multinomial(chances.flatten(0, 2), 1, generator=generator).view(chances.shape[:3]))
        return from_matrix(drawn.triu(1) + drawn.triu(1).mT)
    weights = (-check_weighable(energies) / temperature).softmax(-1)
    chosen = torch.multinomial(weights.flatten(0, 1), 1, generator=generator).view(weights.shape[:2])
    return all_rows(s, k, energies.device)[chosen]


def _exchanged(model: RelationalModel, search: Search, part: _Window, own: Tensor) -> Exchanged:
    """Tasks of which every one has the structure of the next one, and its strengths, in place of its own."""
    dynamics, types = model.dynamics, part.structure.node_modules.unsqueeze(2)
    respond, k = dynamics.along(part.states), dynamics.num_edge_modules

    def change(weights: Tensor) -> Tensor:
        return respond(model.values(weighed(part.messages, weights)), types).squeeze(2)

    modules = one_hot(own, k, part.messages.dtype).unsqueeze(2)  # (B, N, 1, S K)
    weights = model.allowed(part.states, part.messages, modules)
    targets = dynamics.targets(part.states) - change(weights) + change(weights.roll(1, 0))
    energies = table(_score(model, part, targets), part.structure, k)
    posterior = exact_of(search)
    return Exchanged(lambda temperature: posterior(energies, part.structure, k, temperature), own.roll(1, 0))
