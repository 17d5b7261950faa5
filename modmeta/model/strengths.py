"""Strengths of edges that differ, as of entities of unlike mass: inferred in every task like constants, never learned.

An edge of module k sends h_k + d V_k h, where h are the messages of all modules along it, V says by how much strengths
differ, and d is normal. A module that sends next to nothing varies in messages of the strongest one alone, and sends
d V_k h: else the strongest with no strength at all, which sends exactly nothing, would stand in for it.

Given errors that are normal, too, the d of a receiver's edges are integrated out of every row in closed form: with X
what V h and the row's errors have in common and A the products of V h, both in units of errors, d is (1 + A)^-1 X, and
the row's energy is that with this d, plus d d / 2 + log det(1 + A) / 2. Of densities with heavy tails it is the
approximation of Laplace (MacKay, *Information Theory, Inference, and Learning Algorithms*, 2003, chapter 27).

Letters: B tasks, N entities, S senders, K edge modules, M rows, L steps, C channels.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from modmeta.shapes import Float

__all__ = ["Allowed", "allowed"]


class Allowed(NamedTuple):
    """Rows with the strengths that suit them best.

    Attributes:
        weights: of the messages of every module, (B, N, M, S, K).
        cost: to be added to the energies of rows with these weights, (B, N, M) nats.
    """

    weights: Tensor
    cost: Tensor


def allowed(
    spread: Float[Tensor, "K K"],
    modules: Float[Tensor, "#B #N M S K"],
    messages: Float[Tensor, "B N S K L C"],
    left: Float[Tensor, "B N L C"],
    weight: Float[Tensor, "B N L C"],
) -> Allowed:
    """Strengths of the edges of every row.

    Args:
        spread: V.
        modules: of rows, 1 for the module that an edge has and else 0, or probabilities.
        messages: of every module along every edge.
        left: changes that their sum is to explain.
        weight: of squared errors, by which half their sum is the energy.
    """
    root = weight.double().sqrt().flatten(2).unsqueeze(2)  # (B, N, 1, L C)
    columns = messages.flatten(2, 3).flatten(3).double() * root  # (B, N, S K, L C)
    products = (columns @ columns.mT).unsqueeze(2)  # (B, N, 1, S K, S K)
    wanted = (columns @ (left.flatten(2).unsqueeze(2).double() * root).mT).unsqueeze(2)  # (B, N, 1, S K, 1)
    more = modules.double() @ spread.double()  # what a strength multiplies, (B, N, M, S, K)
    modules = modules.double() * (spread.diagonal() > 0)
    one = torch.eye(more.shape[-2], dtype=more.dtype, device=more.device)
    apart = (more.unsqueeze(-2) * one.unsqueeze(-1)).flatten(-2)  # (B, N, M, S, S K)
    common = apart @ (wanted - products @ modules.flatten(-2).unsqueeze(-1))  # (B, N, M, S, 1)
    factor = torch.linalg.cholesky_ex(one + apart @ products @ apart.mT)[0]
    found = torch.cholesky_solve(common, factor)
    cost = found.square().sum((-1, -2)) / 2 + factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return Allowed((modules + found * more).to(messages.dtype), cost.to(messages.dtype))
