"""Sums over frames that every later step needs: Gram matrices of a receiver's columns.

Letters: E = B N receivers, S senders, L intervals, C channels, F features of a pair, G of an entity itself.
"""

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Columns", "Grams", "centred", "grams", "joined", "pooled", "residuals"]


class Columns(NamedTuple):
    """Regression of receivers, before sums over frames.

    Attributes:
        pair: features of every sender, (E, S, L, C, F).
        own: features of the receiver itself, (E, L, C, G).
        target: what is to be explained, (E, L, C).
        weight: of an interval, 0 where it does not count, (E, L, C).
    """

    pair: Tensor
    own: Tensor
    target: Tensor
    weight: Tensor


class Grams(NamedTuple):
    """Weighted sums over intervals and channels.

    Attributes:
        pairs: (E, S, S, F, F).
        cross: pair features with [own, target], (E, S, F, G + 1).
        own: [own, target] with itself, (E, G + 1, G + 1).
        targets: number of targets that weigh something, (E,).
    """

    pairs: Tensor
    cross: Tensor
    own: Tensor
    targets: Tensor

    def select(self, receivers: Tensor | slice) -> "Grams":
        """Of some receivers only."""
        return Grams(*(part[receivers] for part in self))


def centred(columns: Columns, fit: Tensor) -> Columns:
    """Columns less their means under the weights `fit` (E, L, C): a constant of each receiver and channel drops out."""
    share = (fit / fit.sum(1, keepdim=True).clamp_min(1e-12)).unsqueeze(-1)
    return columns._replace(
        pair=columns.pair - (columns.pair * share.unsqueeze(1)).sum(2, keepdim=True),
        own=columns.own - (columns.own * share).sum(1, keepdim=True),
        target=columns.target - (columns.target * share.squeeze(-1)).sum(1, keepdim=True),
    )


def grams(columns: Columns) -> Grams:
    """Sums over intervals and channels."""
    e, s, _, _, f = columns.pair.shape
    root = columns.weight.sqrt()
    pair = (columns.pair * root[:, None, :, :, None]).flatten(2, 3).permute(0, 2, 1, 3).flatten(2)  # (E, L C, S F)
    rest = (torch.cat([columns.own, columns.target.unsqueeze(-1)], -1) * root.unsqueeze(-1)).flatten(1, 2)
    pairs = (pair.mT @ pair).view(e, s, f, s, f).permute(0, 1, 3, 2, 4).contiguous()
    return Grams(pairs, (pair.mT @ rest).view(e, s, f, -1), rest.mT @ rest, (columns.weight > 0).sum((1, 2)).to(rest))


def joined(parts: list[Grams]) -> Grams:
    """Receivers of several parts, one after the other."""
    return Grams(*(torch.cat(list(part)) for part in zip(*parts, strict=True)))


def pooled(parts: Grams, groups: Tensor, number: int) -> Grams:
    """Sums over the tasks of a group, receiver by receiver.

    Args:
        parts: of E = B N receivers.
        groups: group of every task, (B,), from 0.
        number: of groups.
    """
    return Grams(*(_summed(part, groups, number) for part in parts))


def _summed(part: Tensor, groups: Tensor, number: int) -> Tensor:
    by_task = part.view(len(groups), -1, *part.shape[1:])
    return by_task.new_zeros(number, *by_task.shape[1:]).index_add_(0, groups, by_task).flatten(0, 1)


def residuals(columns: Columns, coefficients: Tensor, own: Tensor) -> Tensor:
    """What coefficients (E, S, F) of every edge and those of the own part (G,) leave unexplained, (E, L, C)."""
    sent = torch.einsum("eslcf,esf->elc", columns.pair, coefficients)
    return columns.target - sent - columns.own @ own
