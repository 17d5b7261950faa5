"""What the exact law of a textbook world finds: the likeliest row of every receiver.

Letters: B tasks, N entities, S senders, T frames, D features, M rows.
"""

import torch
from torch import Tensor

from benchmarks.textbook import World, advanced, apart
from modmeta.graph.relations import from_matrix
from modmeta.search.cold_start.structures import all_rows

__all__ = ["exact_structures"]

SWEEPS = 2  # over receivers, as what an entity's senders do within a step depends on their rows a little


def exact_structures(world: World, states: Tensor, own: Tensor) -> Tensor:
    """Relations (B, N, S) whose step from every frame to the next comes closest, by the world's own equations.

    Args:
        world: its equations.
        states: (B, N, T, D).
        own: constants of entities, (B, N).

    Errors of features are weighed as if each had an unknown variance of its own. Where relations go both ways, that is
    known too.
    """
    b, n, t, _ = states.shape
    begin = states[:, :, :-1].movedim(2, 1).flatten(0, 1)  # (B (T - 1), N, D)
    end = states[:, :, 1:].movedim(2, 1).flatten(0, 1)
    constants = own.repeat_interleave(t - 1, 0)
    rows = all_rows(world.kinds, n - 1)
    relations = torch.zeros(b, n, n, dtype=torch.long)
    for _ in range(SWEEPS):
        energies = torch.stack([_energies(world, i, rows, relations, begin, end, constants) for i in range(n)], 1)
        best = energies.argmin(-1)  # (B, N)
        for i in range(n):
            relations[:, i, torch.arange(n) != i] = rows[best[:, i]]
        if world.mutual:
            relations = _mutual(energies, rows, relations)
    return from_matrix(relations)


def _energies(
    world: World, i: int, rows: Tensor, relations: Tensor, begin: Tensor, end: Tensor, constants: Tensor
) -> Tensor:
    """Logarithmic energies (B, M) of receiver i's rows, the other rows as they are."""
    b, n = relations.shape[:2]
    frames, others = len(begin) // b, torch.arange(n) != i
    errors = []
    for row in rows:
        tried = relations.clone()
        tried[:, i, others] = row
        found = advanced(world, begin, tried.repeat_interleave(frames, 0), constants)
        left = apart(world, found[:, i], end[:, i]).square()
        errors.append(left.view(b, frames, -1).mean(1))
    error = torch.stack(errors, 1)  # (B, M, D)
    return frames / 2 * (error + 1e-16).log().sum(-1)


def _mutual(energies: Tensor, rows: Tensor, relations: Tensor) -> Tensor:
    """Relations that go both ways: an edge's two ends vote, each by its best row with either value."""
    b, n = energies.shape[:2]
    kinds = int(rows.max()) + 1
    votes = torch.zeros(b, n, n, kinds, dtype=energies.dtype)
    for i in range(n):
        for slot, j in enumerate([j for j in range(n) if j != i]):
            votes[:, i, j] = torch.stack([energies[:, i, rows[:, slot] == k].amin(-1) for k in range(kinds)], -1)
    chosen = (votes + votes.transpose(1, 2)).argmin(-1)
    return chosen * (1 - torch.eye(n, dtype=torch.long))
