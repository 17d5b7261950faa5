"""Layouts of relations, and the one place that converts between them.

Inside the program relations are rows `(B, N, S)`: row i holds the modules on the incoming edges of receiver i, its
`S = N - 1` senders in increasing index order with i itself left out. Users and files see matrices
`relations[receiver, sender]` `(B, N, N)` with a zero diagonal.
"""

from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=64)
def _senders(num_entities: int) -> Tensor:
    everyone = torch.arange(num_entities).expand(num_entities, num_entities)
    off_diagonal = ~torch.eye(num_entities, dtype=torch.bool)
    return everyone[off_diagonal].view(num_entities, num_entities - 1)


def senders(num_entities: int, device: torch.device | str = "cpu") -> Tensor:
    """Indices of the senders of every receiver, (N, S)."""
    return _senders(num_entities).to(device)


@lru_cache(maxsize=64)
def couples(num_entities: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pairs without regard to who receives: their ends, first < second, each (N S / 2,); for every receiver and slot
    the couple that it belongs to, (N, S), and 1 where the receiver is its first end, -1 where it is the second, (N, S).
    """
    n = num_entities
    first, second = torch.triu_indices(n, n, 1, device=device)
    number = torch.zeros(n, n, dtype=torch.long, device=device)
    number[first, second] = number[second, first] = torch.arange(len(first), device=device)
    receiver, sender = torch.arange(n, device=device).unsqueeze(1), senders(n, device)
    return first, second, number.gather(1, sender), torch.where(sender > receiver, 1, -1)


def to_matrix(rows: Tensor) -> Tensor:
    """Rows (..., N, S) to matrices (..., N, N) `[receiver, sender]`; the diagonal is zero."""
    n = rows.shape[-2]
    matrix = rows.new_zeros(*rows.shape[:-2], n, n)
    return matrix.scatter(-1, senders(n, rows.device).expand(rows.shape), rows)


def from_matrix(matrix: Tensor) -> Tensor:
    """Matrices (..., N, N) `[receiver, sender]` to rows (..., N, S); the diagonal is dropped."""
    n = matrix.shape[-1]
    index = senders(n, matrix.device)
    return matrix.gather(-1, index.expand(*matrix.shape[:-2], n, n - 1))


def reciprocity(rows: Tensor) -> float | None:
    """How far structures are mutual: 1 where both directions of every pair hold the same module, 0 as by chance.

    The coefficient of Garlaschelli and Loffredo (2004), for any number of modules: agreement of the two directions
    beyond that of independent ones with as many edges of each module.

    Args:
        rows: structures (B, N, S), -1 in slots of entities that a task lacks.

    Returns:
        None without pairs, or where one module is everywhere.
    """
    matrix = to_matrix(rows.long())
    first, second = torch.triu_indices(matrix.shape[-1], matrix.shape[-1], 1)
    forth, back = matrix[:, first, second].flatten(), matrix[:, second, first].flatten()
    forth, back = forth[(there := forth >= 0)], back[there]
    share = torch.cat((forth, back)).bincount().double() / (2 * len(forth))
    chance = float(share.square().sum())
    if len(share) == 0 or chance == 1:
        return None
    return (float((forth == back).double().mean()) - chance) / (1 - chance)


def all_rows(num_senders: int, num_modules: int, device: torch.device | str = "cpu") -> Tensor:
    """Every row of incoming edges, (K^S, S), in counting order (the first sender changes slowest)."""
    digits = [torch.arange(num_modules, device=device)] * num_senders
    return torch.cartesian_prod(*digits).view(num_modules**num_senders, num_senders)
