"""Rows too long to enumerate: what linear algebra says of them, for dynamics in which messages add up to changes.

Let the module of every slot be uncertain, with the mean and covariance of a uniform draw, and errors be normal. Then
the posterior of a whole row is normal, and one linear system of Gram matrices of messages gives it. The slots it is
surest of are fixed to their likeliest module, what they send is taken off, and the rest is worked out again (successive
interference cancellation: Wolniansky et al., *V-BLAST*, 1998). No walk from one row to the next can be caught on the
way, and messages that almost cancel, of many entities that move alike, still tell a row.
"""

import torch
from torch import Tensor

from modmeta.shapes import Bool, Float, Int

# Of the scale of errors. Laws that are not yet right, or far from the tasks they were learned on, err more than they
# say, and rounding errs on the way; each scale makes a candidate.
WIDER = (1.0, 10.0, 100.0)
ROUNDS = 8
RIDGE = 1e-12  # of the mean of a Gram matrix's diagonal: what rounding may take from it where laws are very exact


@torch.no_grad()
def relaxed_rows(
    messages: Float[Tensor, "B N S K T D"],
    changes: Float[Tensor, "B N T D"],
    log_scale: Float[Tensor, "*any"],
    mask: Bool[Tensor, "B T"] | None = None,
) -> Int[Tensor, "B N M S"]:
    """Candidate rows (B, N, M, S), one for every scale of `WIDER`.

    Args:
        messages: (B, N, S, K, T, D).
        changes: that they should add up to, (B, N, T, D).
        log_scale: of errors, broadcastable to `changes`.
        mask: steps that count, (B, T); none for all.

    Raises:
        torch.linalg.LinAlgError: messages or changes are not finite.
    """
    k = messages.shape[3]
    weight = (-log_scale).exp().expand_as(changes)
    if mask is not None:
        weight = weight * mask[:, None, :, None]
    weight = weight.flatten(2).double()  # columns of entities that move alike lose digits
    corners = _corners(k, messages.device)  # (K, K - 1)
    sent = messages.flatten(4).transpose(3, 4).double() @ corners  # (B, N, S, T D, K - 1)
    columns = sent.transpose(3, 4).flatten(2, 3) * weight.unsqueeze(2)  # (B, N, S (K - 1), T D)
    wanted = (changes - messages.mean(3).sum(2)).flatten(2).double() * weight  # (B, N, T D)
    gram, aim = columns @ columns.mT, columns @ wanted.unsqueeze(-1)
    return torch.stack([_decode(gram / wide**2, aim / wide**2, corners) for wide in WIDER], dim=2)


def _corners(k: int, device: torch.device) -> Tensor:
    """Modules as corners of a regular simplex about the origin, (K, K - 1); messages are linear in the place within."""
    centred = torch.eye(k, dtype=torch.float64, device=device) - 1 / k
    return torch.linalg.svd(centred).U[:, : k - 1]


def _decode(gram: Tensor, aim: Tensor, corners: Tensor) -> Tensor:
    """Rows (B, N, S) from Gram matrices (B, N, S (K - 1), S (K - 1)) and (B, N, S (K - 1), 1), in units of errors."""
    (b, n, size), (k, c) = gram.shape[:3], corners.shape
    s = size // c
    rows = torch.zeros(b, n, s, dtype=torch.long, device=gram.device)
    fixed = torch.zeros(b, n, s, dtype=torch.bool, device=gram.device)
    for left in range(min(ROUNDS, s), 0, -1):
        known = (fixed.unsqueeze(-1) * corners[rows]).flatten(2).unsqueeze(-1)  # (B, N, S (K - 1), 1)
        open_ = (~fixed).repeat_interleave(c, dim=-1).to(gram.dtype)
        precision = gram * open_.unsqueeze(-1) * open_.unsqueeze(-2)  # of the slots that are still open, and the prior
        diagonal = precision.diagonal(dim1=-2, dim2=-1)
        diagonal.add_(k + RIDGE * diagonal.mean(-1, keepdim=True))
        covariance = torch.cholesky_inverse(torch.linalg.cholesky(precision))
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
