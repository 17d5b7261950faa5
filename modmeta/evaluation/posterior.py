"""How sure a structure is: probabilities of edges under the tempered posterior exp(-energy / temperature).

At horizon 1 receivers are independent given the frames. Where all rows of a receiver can be weighed its marginals are
exact; where they are too many, several chains of Gibbs sampling visit one block of slots after another, first cooling
down from a temperature at which anything goes, then staying at the one asked for. What they average is the probability
of a slot given the other blocks, which is far steadier than counting draws (Rao-Blackwell). Chains agree where split
R-hat is near 1 (Gelman et al., *Bayesian Data Analysis*, 3rd edition, section 11.4).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from modmeta.model.dynamics import one_hot
from modmeta.model.model import RelationalModel
from modmeta.search.candidates import enumerate_rows, marginals
from modmeta.search.slots import blocks
from modmeta.structure.bank import Structure
from modmeta.structure.relations import all_rows

HOT = 1e5  # times the temperature asked for: where chains start; energies differ by ten thousands
FLOOR = 0.01  # standard deviation of a probability that R-hat does not look below
MOST_ROWS = 1024  # of a receiver, to weigh them all

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
    """Probabilities of node modules, (B, N, G), given the rows of a structure."""
    messages, g = model.dynamics.messages(states, structure), model.dynamics.num_node_modules
    rows = structure.relations.unsqueeze(2).expand(-1, -1, g, -1)
    every = torch.arange(g, device=states.device).expand(*structure.types.shape, g)
    return (-model.receiver_energies(states, messages, rows, every, mask=mask) / temperature).softmax(-1)


def table(score: Score, structure: Structure, num_modules: int) -> Tensor:
    """Energies of all rows, (B, N, K^S)."""
    b, n, s = structure.relations.shape
    return score(all_rows(s, num_modules, structure.relations.device).expand(b, n, -1, -1))


def from_table(energies: Tensor, num_modules: int) -> Score:
    """Energies of rows looked up in those of all rows."""

    def score(rows: Tensor) -> Tensor:
        place = num_modules ** torch.arange(rows.shape[-1] - 1, -1, -1, device=rows.device)
        return energies.gather(2, (rows * place).sum(-1))

    return score


def exact(energies: Tensor, structure: Structure, num_modules: int, temperature: float) -> Tensor:
    """Marginals (B, N, S, K) from the energies of all rows."""
    return marginals(enumerate_rows(structure, num_modules, 1), energies / temperature, num_modules)


@torch.no_grad()
def sample(
    score: Score,
    structure: Structure,
    num_modules: int,
    temperature: float,
    generator: torch.Generator,
    chains: int = 4,
    sweeps: int = 120,
) -> Chains:
    """Gibbs sampling, a block of slots of every receiver at a time.

    Args:
        score: energies of rows.
        structure: gives the shapes; chains start from structures of their own.
        num_modules: K.
        temperature: of the posterior.
        generator: of the draws.
        chains: run side by side.
        sweeps: over all slots; the first half cools down, the second half counts.
    """
    b, n, s = structure.relations.shape
    k, device = num_modules, structure.relations.device
    rows = torch.randint(k, (b, n, chains, s), generator=generator, device=device)
    cooling = torch.linspace(1, 0, max(sweeps // 2, 1), dtype=torch.float64)
    heats = temperature * HOT ** torch.cat((cooling, cooling.new_zeros(sweeps - len(cooling))))
    kept, energies = [], []
    for sweep, heat in enumerate(heats.tolist()):
        given = rows.new_zeros(b, n, chains, s, k, dtype=torch.float32)
        for block in blocks(s, k, generator):
            options = all_rows(len(block), k, device)  # (M, slots)
            tried = rows.unsqueeze(3).repeat(1, 1, 1, len(options), 1)  # (B, N, C, M, S)
            tried[..., block] = options
            scores = score(tried.flatten(2, 3)).unflatten(2, (chains, len(options)))
            weights = (-scores / heat).softmax(-1)
            drawn = torch.multinomial(weights.flatten(0, -2), 1, generator=generator).view(b, n, chains)
            rows[..., block] = options[drawn]
            given[..., block, :] = (weights @ one_hot(options, k)).unflatten(-1, (len(block), k))
        energies.append(scores.gather(-1, drawn.unsqueeze(-1)).squeeze(-1).sum(1).T)  # (C, B)
        if sweep >= len(cooling):
            kept.append(given)
    draws = torch.stack(kept)  # (L, B, N, C, S, K)
    return Chains(draws.mean((0, 3)), split_r_hat(draws.movedim(3, 1)).amax(-1), torch.stack(energies), heats)


def split_r_hat(draws: Tensor) -> Tensor:
    """Split R-hat of draws (length, chains, ...): how much wider all are than each, 1 where they agree."""
    half = draws.shape[0] // 2
    parts = torch.cat((draws[:half], draws[half : 2 * half]), dim=1).double()
    within = parts.var(0).mean(0) + FLOOR**2
    between = parts.mean(0).var(0)  # of means, so already divided by the length
    return (((half - 1) / half * within + between) / within).sqrt().to(draws.dtype)


def enumerable(num_entities: int, num_modules: int) -> bool:
    """Whether all rows of a receiver can be weighed."""
    return num_modules ** (num_entities - 1) <= MOST_ROWS
