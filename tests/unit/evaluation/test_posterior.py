"""Exact posteriors of structures."""

import torch

from modmeta.evaluation.posterior import exact, exact_mutual
from modmeta.graph.bank import Structure
from modmeta.graph.relations import all_rows, from_matrix, to_matrix

N, S, K = 4, 3, 2
NOTHING = Structure(torch.zeros(2, N, S, dtype=torch.long), torch.zeros(2, N, dtype=torch.long))


def test_mutual_relations_add_what_both_receivers_say() -> None:
    alone = torch.randn(2, N, S, K, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    rows = torch.nn.functional.one_hot(all_rows(S, K), K).double()
    energies = -torch.einsum("bnsk,msk->bnm", alone, rows)
    back = torch.stack([from_matrix(to_matrix(alone[..., k]).mT) for k in range(K)], -1)
    torch.testing.assert_close(exact_mutual(energies, NOTHING, K, 2.0), ((alone + back) / 2).softmax(-1))
    torch.testing.assert_close(exact(energies, NOTHING, K, 2.0), (alone / 2).softmax(-1))


def test_mutual_marginals_are_near_those_of_all_mutual_structures() -> None:
    energies = torch.randn(2, N, K**S, generator=torch.Generator().manual_seed(1), dtype=torch.double)
    first, second = torch.triu_indices(N, N, 1)
    wanted, total = torch.zeros(2, N, S, K, dtype=torch.double), torch.zeros(2, 1, 1, 1, dtype=torch.double)
    place = K ** torch.arange(S - 1, -1, -1)
    for kinds in all_rows(len(first), K):
        matrix = torch.zeros(N, N, dtype=torch.long)
        matrix[first, second] = matrix[second, first] = kinds
        edges = from_matrix(matrix)
        energy = energies[:, torch.arange(N), (edges * place).sum(-1)].sum(1)
        chance = (-energy).exp().view(2, 1, 1, 1)
        wanted += chance * torch.nn.functional.one_hot(edges, K)
        total += chance
    assert (exact_mutual(energies, NOTHING, K, 1.0) - wanted / total).abs().max() < 0.05
