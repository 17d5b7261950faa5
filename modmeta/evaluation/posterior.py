"""How sure a structure is: probabilities of edges under the tempered posterior exp(-energy / temperature).

At horizon 1 receivers are independent given the frames. Where all rows of a receiver can be weighed its marginals are
exact; where they are too many, several chains of Gibbs sampling visit one block of slots after another, from the
structure that the search found: they tell how sure it is of what can be reached from there. What they average is the
probability of a slot given the other blocks, which is far steadier than counting draws (Rao-Blackwell). Chains agree
where split R-hat is near 1 (Gelman et al., *Bayesian Data Analysis*, 3rd edition, section 11.4).
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from modmeta.errors import TaskError
from modmeta.graph.bank import Structure, random_structure
from modmeta.graph.relations import all_rows
from modmeta.model.model import RelationalModel
from modmeta.search.candidates import enumerate_rows, marginals, normalised
from modmeta.search.gibbs import draw_slots
from modmeta.search.search import Search
from modmeta.search.selection import gibbs

HOT = 1e5  # times the temperature asked for: where chains start; energies differ by ten thousands
FLOOR = 0.01  # standard deviation of a probability that R-hat does not look below

OVERFLOWN = (
    "the model's errors overflow, so that no relations can be told; its states are too far from those that the model "
    "knows, or two of its entities in one place: check units and origin, or leave the task out"
)

Score = Callable[[Tensor], Tensor]


class Chains(NamedTuple):
    """What Gibbs sampling found.

    Attributes:
        probabilities: of every module on every edge, (B, N, S, K).
        r_hat: split R-hat of every edge, (B, N, S), the largest over modules.
        energies: of whole structures after every sweep, (sweeps, chains, B).
        temperatures: of every sweep, (sweeps,).
    """

    probabilities: Tensor
    r_hat: Tensor
    energies: Tensor
    temperatures: Tensor


def scorer(model: RelationalModel, states: Tensor, structure: Structure, mask: Tensor | None = None) -> Score:
    """Energies of rows (B, N, M, S) as a function, (B, N, M), paths of close pairs as under `structure`."""
    messages = model.dynamics.messages(states, structure)
    log_scale = model.log_scale(states)

    def score(rows: Tensor) -> Tensor:
        types = structure.types.unsqueeze(2).expand(-1, -1, rows.shape[2])
        return model.receiver_energies(states, messages, rows, types, log_scale, mask)

    return score


def node_modules(
    model: RelationalModel, states: Tensor, structure: Structure, temperature: float, mask: Tensor | None = None
) -> Tensor:
    """Probabilities of node modules, (B, N, G), given the rows of a structure.

    Raises:
        TaskError: as `check_weighable`.
    """
    messages, g = model.dynamics.messages(states, structure), model.dynamics.num_node_modules
    rows = structure.relations.unsqueeze(2).expand(-1, -1, g, -1)
    every = torch.arange(g, device=states.device).expand(*structure.types.shape, g)
    energies = model.receiver_energies(states, messages, rows, every, mask=mask) / temperature
    return normalised((-check_weighable(energies)).softmax(-1))


def table(score: Score, structure: Structure, num_modules: int) -> Tensor:
    """Energies of all rows, (B, N, K^S)."""
    b, n, s = structure.relations.shape
    return score(all_rows(s, num_modules, structure.relations.device).expand(b, n, -1, -1))


def exact(energies: Tensor, structure: Structure, num_modules: int, temperature: float) -> Tensor:
    """Marginals (B, N, S, K) from the energies of all rows (B, N, K^S).

    Raises:
        TaskError: as `check_weighable`.
    """
    energies = check_weighable(energies / temperature)
    return marginals(enumerate_rows(structure, num_modules, 1), energies, num_modules)


def check_weighable(energies: Tensor) -> Tensor:
    """Energies (B, ..., M) themselves, if exp(-energy) can be weighed: numbers above -inf, not all of them +inf.

    Raises:
        TaskError: they cannot; names the first task.
    """
    least = energies.amin(-1).flatten(1)  # NaN where one is
    lost = ~least.isfinite().all(1)
    if bool(lost.any()):
        raise TaskError(int(lost.nonzero()[0]), OVERFLOWN)
    return energies


@torch.no_grad()
def of_edges(
    search: Search,
    model: RelationalModel,
    states: Tensor,
    structure: Structure,
    temperature: float,
    generator: torch.Generator,
    mask: Tensor | None = None,
    sampling: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Probabilities of edge modules (B, N, S, K), and split R-hat (B, N, S) where rows are sampled, not enumerated.

    Args:
        search: says how many rows are enumerated.
        sampling: sample even where all rows can be weighed.

    Raises:
        TaskError: as `check_weighable`.
    """
    k = model.dynamics.num_edge_modules
    if enumerable(states.shape[1], k, search.enumerate_up_to) and not sampling:
        energies = table(scorer(model, states, structure, mask), structure, k)
        return exact(energies, structure, k, temperature), None
    chains = sample(model, states, structure, temperature, generator, mask)
    return chains.probabilities, chains.r_hat


@torch.no_grad()
def sample(
    model: RelationalModel,
    states: Tensor,
    structure: Structure,
    temperature: float,
    generator: torch.Generator,
    mask: Tensor | None = None,
    chains: int = 4,
    sweeps: int = 40,
    cooling: int = 0,
) -> Chains:
    """Gibbs sampling, a block of slots of every receiver at a time (`draw_slots`).

    Args:
        states: observed (B, N, T, D).
        structure: paths of close pairs are as under it, and chains start from it.
        temperature: of the posterior.
        generator: of the draws.
        mask: steps that count, (B, T - 1); none for all.
        chains: run side by side.
        sweeps: over all slots, of which all but the first quarter count.
        cooling: sweeps before them, from structures drawn at random and a temperature at which anything goes.

    Raises:
        TaskError: as `check_weighable`.
    """
    (b, n, s), k = structure.relations.shape, model.dynamics.num_edge_modules
    g, many = model.dynamics.num_node_modules, partial(_side_by_side, chains=chains)
    messages = many(model.dynamics.messages(states, structure))
    score = model.scorer(many(states), mask=None if mask is None else many(mask))
    now = random_structure(b * chains, n, k, g, generator) if cooling else Structure(*map(many, structure))
    falling = torch.linspace(1, 0, cooling + 1, dtype=torch.float64)[:-1]
    heats = temperature * HOT ** torch.cat((falling, falling.new_zeros(sweeps)))
    prior, one = messages.new_zeros(1, 1, 1, k), messages.new_ones(())
    kept, energies = [], []

    def weighed(scores: Tensor) -> Tensor:
        check_weighable(scores.unflatten(0, (chains, b)).transpose(0, 1))
        return scores

    for sweep, heat in enumerate(heats.tolist()):

        def tempered(received: Tensor, types: Tensor, heat: float = heat) -> Tensor:
            return weighed(score(received, types) / heat)

        drawn = draw_slots(tempered, messages, now, prior, g, gibbs, one, generator)
        now = drawn.structure
        energies.append(heat * drawn.energies.sum(-1).view(chains, b))
        if sweep >= cooling + sweeps // 4:
            kept.append((-drawn.scores).softmax(-1).view(chains, b, n, s, k))
    draws = torch.stack(kept)  # (L, C, B, N, S, K)
    return Chains(normalised(draws.mean((0, 1))), split_r_hat(draws).amax(-1), torch.stack(energies), heats)


def _side_by_side(part: Tensor, chains: int) -> Tensor:
    """A batch repeated for every chain, (B, ...) to (chains B, ...)."""
    return part.expand(chains, *part.shape).flatten(0, 1)


def split_r_hat(draws: Tensor) -> Tensor:
    """Split R-hat of draws (length, chains, ...): how much wider all are than each, 1 where they agree."""
    half = draws.shape[0] // 2
    parts = torch.cat((draws[:half], draws[half : 2 * half]), dim=1).double()
    within = parts.var(0).mean(0) + FLOOR**2
    between = parts.mean(0).var(0)  # of means, so already divided by the length
    return (((half - 1) / half * within + between) / within).sqrt().to(draws.dtype)


def enumerable(num_entities: int, num_modules: int, enumerate_up_to: int) -> bool:
    """Whether all rows of a receiver are weighed: where they are no more than the search enumerates."""
    return num_modules ** (num_entities - 1) <= enumerate_up_to
