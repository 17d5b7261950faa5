"""Candidate rows from a Gaussian relaxation, for rows too long to enumerate and additive dynamics.

The module of every edge is relaxed to a normal variable with the mean and covariance of a uniform draw, and errors are
normal. The posterior of a row is then normal, and follows from a linear system of Gram matrices of messages. The most
certain edges are fixed to their most probable module, their messages are subtracted, and the system is solved again
(successive interference cancellation: Wolniansky et al., *V-BLAST*, 1998). Unlike local search this has no local minima
on the way, and it resolves messages that almost cancel, of many entities that move alike.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from modmeta.model.sight import counted
from modmeta.shapes import Float, Int

# Factors of the scale of errors; each gives a candidate. Early in training, and on unusual tasks, errors exceed the
# learned scale.
SCALE_FACTORS = (1.0, 10.0, 100.0)
ROUNDS = 8  # number of solves, between which edges are fixed
RIDGE = 1e-12  # ridge relative to the mean diagonal of a Gram matrix, against rounding errors of very exact laws
RIDGES = (1e-10, 1e-8, 1e-6)  # where that is not enough: messages of laws whose terms nearly cancel


@torch.no_grad()
def relaxed_rows(
    messages: Float[Tensor, "B N S K T D"],
    changes: Float[Tensor, "B N T D"],
    log_scale: Float[Tensor, "*any"],
    mask: Int[Tensor, "B N T"] | None = None,
) -> Int[Tensor, "B N M S"]:
    """Candidate rows (B, N, M, S), one for every scale of `SCALE_FACTORS`.

    Args:
        messages: messages of every module, (B, N, S, K, T, D).
        changes: changes to be explained by the sum of messages, (B, N, T, D).
        log_scale: log scale of errors, broadcastable to `changes`.
        mask: how well steps are known, (B, N, T - 1); None for all observed.

    Raises:
        torch.linalg.LinAlgError: messages or changes are not finite.
    """
    k = messages.shape[3]
    weight = (-log_scale).exp().expand_as(changes)
    if mask is not None:
        weight = weight * counted(mask).unsqueeze(-1)
    weight = weight.flatten(2).double()  # float64, because columns of entities that move alike are nearly collinear
    corners = corners_of(k, messages.device)  # (K, K - 1)
    sent = messages.flatten(4).transpose(3, 4).double() @ corners  # (B, N, S, T D, K - 1)
    columns = sent.transpose(3, 4).flatten(2, 3) * weight.unsqueeze(2)  # (B, N, S (K - 1), T D)
    wanted = (changes - messages.mean(3).sum(2)).flatten(2).double() * weight  # (B, N, T D)
    gram, aim = columns @ columns.mT, columns @ wanted.unsqueeze(-1)
    return torch.stack([decode(gram / factor**2, aim / factor**2, corners) for factor in SCALE_FACTORS], dim=2)


@torch.no_grad()
def decoded(square: Float[Tensor, "G N SK SK"], linear: Float[Tensor, "G N SK"], k: int) -> Int[Tensor, "G N S"]:
    """The best of the decoded rows where energies of one-hot rows z are (z square z - 2 linear z) / 2.

    Args:
        square: sums of products of messages, in units of errors, (G, N, S K, S K).
        linear: those of messages and changes, (G, N, S K).
        k: number of modules.
    """
    corners = corners_of(k, square.device)
    blocks = torch.block_diag(*[corners] * (linear.shape[-1] // k))  # (S K, S (K - 1))
    gram = blocks.mT @ square @ blocks
    centre = square.new_full((linear.shape[-1], 1), 1 / k)
    aim = blocks.mT @ (linear.unsqueeze(-1) - square @ centre)
    found = torch.stack([decode(gram / factor**2, aim / factor**2, corners) for factor in SCALE_FACTORS])
    chosen = F.one_hot(found, k).to(gram).flatten(3)
    energies = ((square @ chosen.unsqueeze(-1)).squeeze(-1) * chosen).sum(-1) / 2 - (linear * chosen).sum(-1)
    best = energies.argmin(0)  # (G, N)
    return found.gather(0, best[None, ..., None].expand(1, *found.shape[1:])).squeeze(0)


def corners_of(k: int, device: torch.device) -> Tensor:
    """Corners of a regular simplex about the origin, one per module, (K, K - 1). Messages are linear inside it."""
    centred = torch.eye(k, dtype=torch.float64, device=device) - 1 / k
    return torch.linalg.svd(centred).U[:, : k - 1]


def decode(gram: Tensor, aim: Tensor, corners: Tensor) -> Tensor:
    """Decodes rows (B, N, S) by successive fixing.

    Args:
        gram: Gram matrices of messages, in units of errors, (B, N, S (K - 1), S (K - 1)).
        aim: products of messages and changes, in units of errors, (B, N, S (K - 1), 1).
        corners: (K, K - 1).
    """
    (b, n, size), (k, c) = gram.shape[:3], corners.shape
    s = size // c
    rows = torch.zeros(b, n, s, dtype=torch.long, device=gram.device)
    fixed = torch.zeros(b, n, s, dtype=torch.bool, device=gram.device)
    for left in range(min(ROUNDS, s), 0, -1):
        known = (fixed.unsqueeze(-1) * corners[rows]).flatten(2).unsqueeze(-1)  # (B, N, S (K - 1), 1)
        open_ = (~fixed).repeat_interleave(c, dim=-1).to(gram.dtype)
        precision = gram * open_.unsqueeze(-1) * open_.unsqueeze(-2)  # of edges not yet fixed; the prior is added below
        diagonal = precision.diagonal(dim1=-2, dim2=-1)
        diagonal.add_(k + RIDGE * diagonal.mean(-1, keepdim=True))
        covariance = torch.cholesky_inverse(_root(precision))
        mean = (covariance @ ((aim - gram @ known) * open_.unsqueeze(-1))).view(b, n, s, 1, c)
        within = covariance.view(b, n, s, c, s, c).diagonal(dim1=2, dim2=4).movedim(-1, 2)  # (B, N, S, K - 1, K - 1)
        off = corners - mean  # (B, N, S, K, K - 1)
        odds = -0.5 * ((off @ torch.linalg.inv(within)) * off).sum(-1)
        best = odds.topk(2, dim=-1).values
        sure = torch.where(fixed, -1.0, best[..., 0] - best[..., 1])
        rows = torch.where(fixed, rows, odds.argmax(-1))
        count = -(-int((~fixed[0, 0]).sum()) // left)
        fixed = fixed.scatter(-1, sure.topk(count, dim=-1).indices, True)
    return rows


def _root(precision: Tensor) -> Tensor:
    """Cholesky factors of matrices (B, N, A, A), each with the smallest ridge that makes it positive.

    Raises:
        torch.linalg.LinAlgError: numbers are not finite.
    """
    root, failed = torch.linalg.cholesky_ex(precision)
    mean = precision.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    one = torch.eye(precision.shape[-1], dtype=precision.dtype, device=precision.device)
    for ridge in RIDGES:
        if not bool(failed.any()):
            return root
        again, still = torch.linalg.cholesky_ex(precision + ridge * mean * one)
        wanting = failed > 0
        root, failed = torch.where(wanting[..., None, None], again, root), torch.where(wanting, still, failed)
    return torch.linalg.cholesky(precision) if bool(failed.any()) else root
