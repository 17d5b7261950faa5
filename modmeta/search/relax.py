"""Rows too long to enumerate: what linear algebra says of them, for dynamics in which messages add up to changes.

Let the module of every slot be uncertain, with the mean and covariance of a uniform draw, and errors be normal. Then
the posterior of a whole row is normal, and one linear system of Gram matrices of messages gives it. The slots it is
surest of are fixed to their likeliest module, what they send is taken off, and the rest is worked out again (successive
interference cancellation: Wolniansky et al., *V-BLAST*, 1998). No walk from one row to the next can be caught on the
way, and messages that almost cancel, of many entities that move alike, still tell a row.
"""

import torch
from torch import Tensor

# Of the scale of errors. Laws that are not yet right, or far from the tasks they were learned on, err more than they
# say, and rounding errs on the way; each scale makes a candidate.
WIDER = (1.0, 10.0, 100.0)
ROUNDS = 8


@torch.no_grad()
def relaxed_rows(messages: Tensor, changes: Tensor, log_scale: Tensor, mask: Tensor | None = None) -> Tensor:
    """Candidate rows (B, N, M, S), one for every scale of `WIDER`.

    Args:
        messages: (B, N, S, K, T, D).
        changes: that they should add up to, (B, N, T, D).
        log_scale: of errors, broadcastable to `changes`.
        mask: steps that count, (B, T); none for all.
    """
    s, k = messages.shape[2:4]
    weight = (-log_scale).exp().expand_as(changes)
    if mask is not None:
        weight = weight * mask[:, None, :, None]
    weight = weight.flatten(2).double()  # columns of entities that move alike lose digits
    sent = (messages - messages.mean(3, keepdim=True)).flatten(4).double() * weight[:, :, None, None]
    wanted = (changes - messages.mean(3).sum(2)).flatten(2).double() * weight  # (B, N, T D)
    columns = sent.flatten(2, 3)  # (B, N, S K, T D): what each module sends beyond the mean of all
    gram, aim = columns @ columns.mT, columns @ wanted.unsqueeze(-1)
    return torch.stack([_decode(gram / wide**2, aim / wide**2, s, k) for wide in WIDER], dim=2)


def _decode(gram: Tensor, aim: Tensor, s: int, k: int) -> Tensor:
    """Rows (B, N, S) from Gram matrices (B, N, S K, S K) and (B, N, S K, 1), in units of the error."""
    b, n = gram.shape[:2]
    eye, device = torch.eye(k, dtype=gram.dtype, device=gram.device), gram.device
    prior = torch.block_diag(*[eye / k + eye * 1e-9] * s)  # their mean has been taken off the messages already
    rows = torch.zeros(b, n, s, dtype=torch.long, device=device)
    fixed = torch.zeros(b, n, s, dtype=torch.bool, device=device)
    for left in range(ROUNDS, 0, -1):
        known = (fixed.unsqueeze(-1) * eye[rows]).flatten(2).unsqueeze(-1)  # (B, N, S K, 1)
        free = (~fixed).repeat_interleave(k, dim=-1).to(gram.dtype)
        spread = prior * free.unsqueeze(-1)  # prior covariance of the slots that are still open
        # The posterior (prior^-1 + gram)^-1, written so that fixed slots, with no spread, need no inverse.
        covariance = torch.linalg.solve(torch.eye(s * k, dtype=gram.dtype, device=device) + spread @ gram, spread)
        mean = (covariance @ (aim - gram @ known)).view(b, n, s, k)
        within = covariance.view(b, n, s, k, s, k).diagonal(dim1=2, dim2=4).movedim(-1, 2)  # (B, N, S, K, K)
        noise = torch.linalg.inv(within + 1e-6 * eye)
        off = eye - 1 / k - mean.unsqueeze(3)  # from the mean to every module, (B, N, S, K, K)
        odds = -0.5 * torch.einsum("bnsmi,bnsij,bnsmj->bnsm", off, noise, off)
        best = odds.topk(2, dim=-1).values
        sure = torch.where(fixed, -1.0, best[..., 0] - best[..., 1])
        rows = torch.where(fixed, rows, odds.argmax(-1))
        count = -(-int((~fixed[0, 0]).sum()) // left)
        fixed = fixed.scatter(-1, sure.topk(count, dim=-1).indices, True)
    return rows
