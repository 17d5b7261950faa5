"""Posterior of structures: probabilities of edge modules under exp(-energy / temperature).

At horizon 1 receivers are independent given the frames. If all candidate rows of incoming edges can be enumerated, the
marginals of a receiver are exact. Otherwise several chains of Gibbs sampling start from the structure that the search
found and draw one block of slots after another; they describe the posterior near that structure. The estimate averages
conditional probabilities of slots instead of draws (Rao-Blackwell), which has less variance. Chains agree where split
R-hat is near 1 (Gelman et al., *Bayesian Data Analysis*, 3rd edition, section 11.4).
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from modmeta.errors import TaskError
from modmeta.graph.bank import Structure
from modmeta.graph.relations import all_rows, from_matrix, to_matrix
from modmeta.model.model import RelationalModel
from modmeta.search.candidates import enumerate_rows, marginals, normalised
from modmeta.search.gibbs import draw_slots
from modmeta.search.problem import prior_energies
from modmeta.search.search import Search
from modmeta.search.selection import gibbs

MESSAGES = 8  # from an edge to the edge back, and on
FLOOR = 0.01  # standard deviation of a probability below which R-hat sees no difference
ROUNDED = 1e-9  # relative error of sums in double precision, at most

OVERFLOWN = (
    "the model's errors overflow, so relations cannot be inferred; its states are too far from those that the model "
    "knows, or two of its entities in one place: check units and origin, or leave the task out"
)

Score = Callable[[Tensor], Tensor]


def scorer(
    model: RelationalModel,
    states: Tensor,
    structure: Structure,
    mask: Tensor | None = None,
    messages: Tensor | None = None,
) -> Score:
    """Returns energies (B, N, M) as a function of rows (B, N, M, S); paths of close pairs are those of `structure`.

    Its messages are computed, unless they are known already.
    """
    messages = model.messages(states, structure, mask) if messages is None else messages
    log_scale = model.log_scale(states)

    def score(rows: Tensor) -> Tensor:
        types = structure.node_modules.unsqueeze(2).expand(-1, -1, rows.shape[2])
        return model.receiver_energies(states, messages, rows, types, log_scale, mask)

    return score


def node_modules(
    model: RelationalModel, states: Tensor, structure: Structure, temperature: float, mask: Tensor | None = None
) -> Tensor:
    """Probabilities of node modules, (B, N, G), given the rows of a structure.

    Raises:
        TaskError: as `check_weighable`.
    """
    messages, g = model.messages(states, structure, mask), model.dynamics.num_node_modules
    rows = structure.edge_modules.unsqueeze(2).expand(-1, -1, g, -1)
    every = torch.arange(g, device=states.device).expand(*structure.node_modules.shape, g)
    energies = model.receiver_energies(states, messages, rows, every, mask=mask) / temperature
    return normalised((-check_weighable(energies)).softmax(-1))


def table(score: Score, structure: Structure, num_modules: int) -> Tensor:
    """Energies of all candidate rows, (B, N, K^S)."""
    b, n, s = structure.edge_modules.shape
    return score(all_rows(s, num_modules, structure.edge_modules.device).expand(b, n, -1, -1))


def exact(energies: Tensor, structure: Structure, num_modules: int, temperature: float) -> Tensor:
    """Marginals (B, N, S, K) from the energies of all rows (B, N, K^S).

    Raises:
        TaskError: as `check_weighable`.
    """
    energies = check_weighable(energies / temperature)
    return marginals(enumerate_rows(structure, num_modules, 1), energies, num_modules)


def exact_mutual(energies: Tensor, structure: Structure, num_modules: int, temperature: float) -> Tensor:
    """The same where relations are mutual, z_ij = z_ji: what either receiver's frames say of a pair counts for both.

    Sum-product messages between the rows of receivers, exact where their slots do not depend on one another (Pearl,
    *Probabilistic Reasoning in Intelligent Systems*, 1988, chapter 4).

    Raises:
        TaskError: as `check_weighable`.
    """
    weights, k = energies.dtype, num_modules
    energies = check_weighable(energies / temperature).double()
    rows, s = enumerate_rows(structure, k, 1), structure.edge_modules.shape[-1]
    chosen = torch.nn.functional.one_hot(all_rows(s, k, energies.device), k).to(energies)  # (M, S, K)
    back = energies.new_zeros(*structure.edge_modules.shape, k)
    for _ in range(MESSAGES):
        slots = marginals(rows, energies - torch.einsum("bnsk,msk->bnm", back, chosen), k)
        evidence = (slots.clamp_min(1e-30).log() - back).log_softmax(-1).clamp_min(-60.0)
        back = torch.stack([from_matrix(to_matrix(evidence[..., i]).mT) for i in range(k)], -1)
    return normalised((evidence + back).softmax(-1)).to(weights)


def check_weighable(energies: Tensor) -> Tensor:
    """Returns energies (B, ..., M) if exp(-energy) can be normalised: no NaN or -inf, and not all +inf.

    Raises:
        TaskError: they cannot be normalised; names the first task.
    """
    least = energies.amin(-1).flatten(1)  # NaN where one is
    lost = ~least.isfinite().all(1)
    if bool(lost.any()):
        raise TaskError(int(lost.nonzero()[0]), OVERFLOWN)
    return energies


def exact_of(search: Search) -> Callable[[Tensor, Structure, int, float], Tensor]:
    """`exact` as a search has it: `exact_mutual` where relations are mutual; with the prior of roles."""
    weigh = exact_mutual if search.symmetric else exact

    def weighed(energies: Tensor, structure: Structure, num_modules: int, temperature: float) -> Tensor:
        n, s = structure.edge_modules.shape[1:]
        if (roles := search.of_roles(n, energies)) is not None:  # evidence alone has a temperature
            rows = all_rows(s, num_modules, energies.device).expand(1, 1, -1, -1)
            energies = energies + temperature * prior_energies(roles.unsqueeze(0), rows)
        return weigh(energies, structure, num_modules, temperature)

    return weighed


def same_roles(roles: Tensor, beliefs: Tensor) -> bool:
    """Whether what tasks tell fits roles at least as well as it fits the mean of these over pairs.

    Args:
        roles: prior energies of modules on every edge, (N, S, K).
        beliefs: probabilities of modules without that prior, (B, N, S, K).
    """
    chances = (-roles.double()).softmax(-1)
    fits, fits_mean = ((beliefs * prior).sum(-1).log().sum() for prior in (chances, chances.mean((0, 1))))
    return bool(fits >= fits_mean * (1 + ROUNDED))  # of what tells nothing, both are the same number


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
    messages: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Probabilities of edge modules (B, N, S, K), and split R-hat (B, N, S) where rows are sampled, not enumerated.

    Args:
        search: says how many candidate rows are enumerated.
        sampling: sample even if all rows could be enumerated.
        messages: messages under this structure, where they are known already.

    Raises:
        TaskError: as `check_weighable`.
    """
    k = model.dynamics.num_edge_modules
    if enumerable(states.shape[1], k, search.enumerate_up_to) and not sampling:
        energies, weighed = table(scorer(model, states, structure, mask, messages), structure, k), exact_of(search)
        return weighed(energies, structure, k, temperature), None
    roles = search.of_roles(states.shape[1], states)
    return sample(model, states, structure, temperature, generator, mask, roles=roles)


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
    roles: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Gibbs sampling of one block of slots of every receiver at a time (`draw_slots`).

    Args:
        states: observed states (B, N, T, D).
        structure: start of the chains; paths of close pairs are those of this structure.
        temperature: temperature of the posterior.
        generator: generator of the draws.
        mask: how well steps are known, (B, N, T - 1); None for all observed.
        chains: number of chains.
        sweeps: sweeps over all slots; the first quarter is discarded.
        roles: prior energies of modules on every edge, (N, S, K); None for none.

    Returns:
        Probabilities of every edge module on every edge, (B, N, S, K), and split R-hat of every edge, (B, N, S), the
        largest over modules.

    Raises:
        TaskError: as `check_weighable`.
    """
    (b, n, s), k = structure.edge_modules.shape, model.dynamics.num_edge_modules
    g, many = model.dynamics.num_node_modules, partial(_side_by_side, chains=chains)
    messages = many(model.messages(states, structure, mask))
    score = model.scorer(many(states), mask=None if mask is None else many(mask))
    now = Structure(*map(many, structure))
    prior, one = messages.new_zeros(1, 1, 1, k) if roles is None else roles.unsqueeze(0), messages.new_ones(())
    kept = []

    def weighed(scores: Tensor) -> Tensor:
        check_weighable(scores.unflatten(0, (chains, b)).transpose(0, 1))
        return scores

    def tempered(received: Tensor, types: Tensor) -> Tensor:
        return weighed(score(received, types) / temperature)

    for sweep in range(sweeps):
        drawn = draw_slots(tempered, messages, now, prior, g, gibbs, one, generator)
        now = drawn.structure
        if sweep >= sweeps // 4:
            kept.append((-drawn.scores).softmax(-1).view(chains, b, n, s, k))
    draws = torch.stack(kept)  # (L, C, B, N, S, K)
    return normalised(draws.mean((0, 1))), split_r_hat(draws).amax(-1)


def _side_by_side(part: Tensor, chains: int) -> Tensor:
    """Repeats a batch for every chain, (B, ...) to (chains B, ...)."""
    return part.expand(chains, *part.shape).flatten(0, 1)


def split_r_hat(draws: Tensor) -> Tensor:
    """Split R-hat of draws (length, chains, ...): total over within-chain spread, 1 where chains agree."""
    half = draws.shape[0] // 2
    parts = torch.cat((draws[:half], draws[half : 2 * half]), dim=1).double()
    within = parts.var(0).mean(0) + FLOOR**2
    between = parts.mean(0).var(0)  # variance of means, already divided by the length
    return (((half - 1) / half * within + between) / within).sqrt().to(draws.dtype)


def enumerable(num_entities: int, num_modules: int, enumerate_up_to: int) -> bool:
    """Returns whether the search enumerates all candidate rows of a receiver."""
    return num_modules ** (num_entities - 1) <= enumerate_up_to
