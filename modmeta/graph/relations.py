"""Layouts of edges, and conversions between them.

Internally edges are receiver-major, `(B, N, S)`: entry i holds the incoming edges of receiver i, whose `S = N - 1`
senders are in increasing order without i. Files and the API use matrices `[receiver, sender]` `(B, N, N)` with a zero
diagonal.
"""

from functools import lru_cache

import torch
from torch import Tensor

MUTUAL = 0.95  # reciprocity of structures found in training from which relations are assumed mutual


@lru_cache(maxsize=64)
def senders(num_entities: int, device: torch.device | str = "cpu") -> Tensor:
    """Indices of the senders of every receiver, (N, S), increasing."""
    everyone = torch.arange(num_entities, device=device).expand(num_entities, num_entities)
    off_diagonal = ~torch.eye(num_entities, dtype=torch.bool, device=device)
    return everyone[off_diagonal].view(num_entities, num_entities - 1)


@lru_cache(maxsize=64)
def undirected_pairs(num_entities: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Undirected pairs of N entities.

    Returns:
        First and second entity of every pair, first < second, each (N S / 2,); index of the pair of every edge, (N, S);
        sign of every edge, 1 if its receiver is the first entity of the pair, else -1, (N, S).
    """
    n = num_entities
    first, second = torch.triu_indices(n, n, 1, device=device)
    number = torch.zeros(n, n, dtype=torch.long, device=device)
    number[first, second] = number[second, first] = torch.arange(len(first), device=device)
    receiver, sender = torch.arange(n, device=device).unsqueeze(1), senders(n, device)
    return first, second, number.gather(1, sender), torch.where(sender > receiver, 1, -1)


def to_matrix(edges: Tensor) -> Tensor:
    """Converts edges (..., N, S) to matrices (..., N, N) `[receiver, sender]` with a zero diagonal."""
    n = edges.shape[-2]
    matrix = edges.new_zeros(*edges.shape[:-2], n, n)
    return matrix.scatter(-1, senders(n, edges.device).expand(edges.shape), edges)


def from_matrix(matrix: Tensor) -> Tensor:
    """Converts matrices (..., N, N) `[receiver, sender]` to edges (..., N, S), dropping the diagonal."""
    n = matrix.shape[-1]
    index = senders(n, matrix.device)
    return matrix.gather(-1, index.expand(*matrix.shape[:-2], n, n - 1))


def reciprocity(edges: Tensor) -> float | None:
    """Reciprocity of structures: 1 if both directions of every pair have the same module, 0 at chance level.

    The coefficient of Garlaschelli and Loffredo (2004), for any number of modules: agreement of the two directions
    beyond that of independent edges with the same module frequencies.

    Args:
        edges: edge modules (B, N, S), -1 for edges of absent entities.

    Returns:
        The coefficient; None without pairs, or if all edges have the same module.
    """
    matrix = to_matrix(edges.long())
    first, second = torch.triu_indices(matrix.shape[-1], matrix.shape[-1], 1)
    forth, back = matrix[:, first, second].flatten(), matrix[:, second, first].flatten()
    forth, back = forth[(present := forth >= 0)], back[present]
    share = torch.cat((forth, back)).bincount().double() / (2 * len(forth))
    chance = float(share.square().sum())
    if len(share) == 0 or chance == 1:
        return None
    return (float((forth == back).double().mean()) - chance) / (1 - chance)


def all_rows(num_senders: int, num_modules: int, device: torch.device | str = "cpu") -> Tensor:
    """All assignments of K modules to S incoming edges, (K^S, S), in counting order (first sender changes slowest)."""
    digits = [torch.arange(num_modules, device=device)] * num_senders
    return torch.cartesian_prod(*digits).view(num_modules**num_senders, num_senders)
