"""Selection of structures under the prior that edges are symmetric, z_ij = z_ji.

The prior couples the rows of receivers, so they are selected jointly. Energies are sums over receivers of a table of
scores of all rows. With few entities all symmetric structures are enumerated; otherwise undirected pairs are drawn in
turn by Gibbs sampling from the table, annealed if the least energy is wanted.
"""

from itertools import combinations

import torch
from torch import Tensor

from modmeta.graph.bank import Structure
from modmeta.graph.relations import all_rows
from modmeta.search.candidates import every_row
from modmeta.search.exact import receiver_rows
from modmeta.search.problem import Info, Kernel, Problem
from modmeta.search.selection import Selection, gibbs, greedy, takes_least
from modmeta.shapes import Float, Int

SWEEPS = 12  # over all pairs


def mutual_rows(select: Selection, enumerate_up_to: int) -> Kernel:
    """Kernel that selects the rows of all receivers jointly, then the node module of each receiver given its row.

    Args:
        select: function of `modmeta.search.selection`.
        enumerate_up_to: largest number of symmetric structures to enumerate; beyond, pairs are drawn in turn.
    """

    def kernel(
        generator: torch.Generator, structure: Structure, problem: Problem, temperature: Float[Tensor, ""]
    ) -> tuple[Structure, Info]:
        k, g = problem.num_edge_modules, problem.num_node_modules
        joint = mutual_selection(select, k, g, enumerate_up_to)
        return receiver_rows(every_row, joint)(generator, structure, problem, temperature)

    return kernel


def mutual_selection(
    select: Selection, num_edge_modules: int, num_node_modules: int, enumerate_up_to: int
) -> Selection:
    """Selection of one candidate per receiver, from all rows, such that the rows are symmetric.

    Args:
        select: selects node modules. If it is `greedy`, rows of least energy are taken, else rows are drawn at the
            temperature.
        num_edge_modules: K.
        num_node_modules: G.
        enumerate_up_to: see `mutual_rows`.
    """
    k, g, least = num_edge_modules, num_node_modules, takes_least(select)

    def joint(scores: Tensor, current: Tensor, temperature: Tensor, generator: torch.Generator) -> Tensor:
        by_type = scores.unflatten(-1, (-1, g))  # (B, N, K^S, G)
        rows = by_type.amin(-1) if least else -temperature * (-by_type / temperature).logsumexp(-1)
        row = choose_symmetric(rows, k, temperature, generator, least, enumerate_up_to)  # (B, N)
        of_row = by_type.gather(2, row.view(*row.shape, 1, 1).expand(*row.shape, 1, g)).squeeze(2)
        return row * g + select(of_row, torch.zeros_like(row), temperature, generator)

    return joint


def choose_symmetric(
    scores: Float[Tensor, "B N M"],
    num_edge_modules: int,
    temperature: Float[Tensor, ""],
    generator: torch.Generator,
    least: bool,
    enumerate_up_to: int,
) -> Int[Tensor, "B N"]:
    """Selects a row of every receiver such that the structure is symmetric.

    Args:
        scores: energies of all rows in the order of `all_rows`, (B, N, K^S).
        num_edge_modules: K.
        temperature: temperature of the draw.
        generator: of the draw.
        least: whether to minimise the energy instead of drawing a structure.
        enumerate_up_to: largest number of symmetric structures to enumerate; beyond, pairs are drawn in turn.

    Returns:
        Indices of rows (B, N).
    """
    n = scores.shape[1]
    if num_edge_modules ** (n * (n - 1) // 2) <= enumerate_up_to:
        rows = symmetric_rows(n, num_edge_modules, scores.device)  # (Z, N)
        energies = scores.gather(2, rows.T.expand(len(scores), -1, -1)).sum(dim=1)  # (B, Z)
        current = torch.zeros(len(scores), dtype=torch.long, device=scores.device)
        return rows[(greedy if least else gibbs)(energies, current, temperature, generator)]
    return _by_pairs(scores, num_edge_modules, temperature, generator, least)


def symmetric_rows(num_entities: int, num_modules: int, device: torch.device | str = "cpu") -> Tensor:
    """Indices of the rows of all Z symmetric structures, (Z, N)."""
    n, pairs = num_entities, list(combinations(range(num_entities), 2))
    modules = all_rows(len(pairs), num_modules, device)  # (Z, pairs)
    index = modules.new_zeros(len(modules), n)
    for (i, j), module in zip(pairs, modules.T, strict=True):
        index[:, i] += module * num_modules ** _power(i, j, n)
        index[:, j] += module * num_modules ** _power(j, i, n)
    return index


def _power(receiver: int, sender: int, num_entities: int) -> int:
    """Exponent of a sender's digit in the index of a receiver's row; the first sender has the highest."""
    slot = sender - (sender > receiver)
    return num_entities - 2 - slot


def _by_pairs(scores: Tensor, k: int, temperature: Tensor, generator: torch.Generator, least: bool) -> Tensor:
    b, n, _ = scores.shape
    index = torch.zeros(b, n, dtype=torch.long, device=scores.device)
    digits = torch.arange(k, device=scores.device)
    spread = scores.amax(-1).sub(scores.amin(-1)).mean() if least else temperature
    for sweep in range(SWEEPS):
        current_temperature = spread * 10.0 ** (-sweep) if least else temperature
        for i, j in combinations(range(n), 2):
            place_i, place_j = k ** _power(i, j, n), k ** _power(j, i, n)
            base_i = index[:, i] - (index[:, i] // place_i % k) * place_i
            base_j = index[:, j] - (index[:, j] // place_j % k) * place_j
            energies = scores[:, i].gather(1, base_i.unsqueeze(1) + digits * place_i)
            energies = energies + scores[:, j].gather(1, base_j.unsqueeze(1) + digits * place_j)  # (B, K)
            chosen = gibbs(energies, base_i, current_temperature.clamp_min(1e-30), generator)
            index[:, i], index[:, j] = base_i + chosen * place_i, base_j + chosen * place_j
    return index
