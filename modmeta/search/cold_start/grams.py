"""Sums over frames that every later step needs: Gram matrices of a receiver's columns.

Coefficients of a law are one vector of F = M H: of coordinates, which turn, all channels share one block (M = 1); of
plain states every channel has a block of its own (M = C), and what stands in different blocks is never multiplied.

Letters: E = B N receivers, S senders, L intervals, C channels, M blocks of H features of a pair, F = M H, G features
of an entity itself, X blocks that differ (1 or M), A functions that rates of an entity's own may be linear in.
"""

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Columns", "Grams", "added", "centred", "grams", "joined", "own_sums", "pooled", "residuals"]


class Columns(NamedTuple):
    """Regression of receivers, before sums over frames.

    Attributes:
        pair: features of every sender, (E, S, L, C, H); or (E, S, L, 1, H) where all channels have the same.
        own: features of the receiver itself, (E, L, C, G).
        target: what is to be explained, (E, L, C).
        weight: of an interval, 0 where it does not count, (E, L, C).
        apart: whether every channel has a block of coefficients of its own.
        alone: functions that entities have of sizes of their own, a constant among them, of all channels alike
            (E, L, 1, A) or of each (E, L, C, A); None for no more than a constant.
    """

    pair: Tensor
    own: Tensor
    target: Tensor
    weight: Tensor
    apart: bool = False
    alone: Tensor | None = None

    def sent(self, laws: Tensor) -> Tensor:
        """Messages (E, S, L, C, K) under laws (K, F)."""
        blocks = laws.unflatten(1, (-1, self.pair.shape[-1]))  # (K, M, H)
        if not self.apart:
            return self.pair @ blocks[:, 0].mT
        return torch.stack([self._of(c) @ blocks[:, c].mT for c in range(blocks.shape[1])], 3)

    def _of(self, channel: int) -> Tensor:
        return self.pair[:, :, :, min(channel, self.pair.shape[3] - 1)]


class Grams(NamedTuple):
    """Weighted sums over intervals and channels.

    Attributes:
        pairs: blocks, or the one that all are like, (X, E, S, S, H, H).
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
        return Grams(self.pairs[:, receivers].contiguous(), *(part[receivers] for part in self[1:]))

    def scaled(self, by: Tensor) -> "Grams":
        """Receivers that count more or less, `by` (E,)."""
        return Grams(
            *(part * by.view(-1, *[1] * (part.dim() - at)) for at, part in zip((2, 1, 1, 1), self, strict=True))
        )

    def through(self, laws: Tensor) -> Tensor:
        """Pair features with messages of laws (A, F), (A, E, S, S, F)."""
        h = self.pairs.shape[-1]
        blocks = laws.unflatten(1, (-1, h)).unbind(1)
        parts = [block @ self._block(m).view(-1, h).mT for m, block in enumerate(blocks)]
        return torch.cat([part.view(-1, *self.pairs.shape[1:5]) for part in parts], -1)

    def within(self, products: Tensor) -> Tensor:
        """Sums (A, F, F) over pairs of senders, `products` (A, E S S)."""
        a, h, f = len(products), self.pairs.shape[-1], self.cross.shape[2]
        whole = products.new_zeros(a, f, f)
        sums = [(products @ block.view(-1, h * h)).view(a, h, h) for block in self.pairs]
        for m in range(f // h):
            whole[:, m * h : (m + 1) * h, m * h : (m + 1) * h] = sums[min(m, len(sums) - 1)]
        return whole

    def squares(self, coefficients: Tensor) -> Tensor:
        """Sums of squared messages to receivers (E,), coefficients (E, S, F)."""
        blocks = coefficients.unflatten(2, (-1, self.pairs.shape[-1])).unbind(2)
        each = [torch.einsum("esf,estfg,etg->e", one, self._block(m), one) for m, one in enumerate(blocks)]
        return torch.stack(each).sum(0)

    def left(self, coefficients: Tensor | None, own: Tensor) -> Tensor:
        """Sums of squares (E,) that coefficients (E, S, F) and those of the own part (G,) leave unexplained."""
        rest = torch.cat([-own, own.new_ones(1)])
        left = torch.einsum("x,exy,y->e", rest, self.own, rest)
        if coefficients is not None:
            left = left - 2 * torch.einsum("esf,esfx,x->e", coefficients, self.cross, rest)
            left = left + self.squares(coefficients)
        return left

    def _block(self, m: int) -> Tensor:
        return self.pairs[min(m, len(self.pairs) - 1)]


def centred(columns: Columns, fit: Tensor) -> Columns:
    """Columns less their means under the weights `fit` (E, L, C): a constant of each receiver and channel drops out.

    Where columns hold functions of entities alone, less what is linear in these.
    """
    if columns.alone is not None:
        return _without_slopes(columns, columns.alone, fit)
    share = (fit / fit.sum(1, keepdim=True).clamp_min(1e-12)).unsqueeze(-1)
    of_pairs = share[:, :, :1] if columns.pair.shape[3] == 1 and _alike(fit) else share
    return columns._replace(
        pair=columns.pair - (columns.pair * of_pairs.unsqueeze(1)).sum(2, keepdim=True),
        own=columns.own - (columns.own * share).sum(1, keepdim=True),
        target=columns.target - (columns.target * share.squeeze(-1)).sum(1, keepdim=True),
    )


def _without_slopes(columns: Columns, alone: Tensor, fit: Tensor) -> Columns:
    weight = (fit[..., :1] if _alike(fit) else fit).mT.unsqueeze(-1)  # (E, 1 or C, L, 1)
    x = alone.transpose(1, 2)  # (E, 1 or C, L, A)
    normal = x.mT @ (x * weight)
    size = normal.diagonal(dim1=-2, dim2=-1).clamp_min(1e-12)
    into = torch.linalg.solve(normal + torch.diag_embed(1e-9 * size), (x * weight).mT)  # (E, 1 or C, A, L)

    def rest(values: Tensor) -> Tensor:
        """Of values (E, L, 1 or C, Y)."""
        each = values.transpose(1, 2)
        return (each - x @ (into @ each)).transpose(1, 2)

    pair = columns.pair if into.shape[1] == 1 else columns.pair.expand(-1, -1, -1, into.shape[1], -1)
    pair = rest(pair.permute(0, 2, 3, 1, 4).flatten(3)).unflatten(3, (pair.shape[1], pair.shape[4]))
    target = rest(columns.target.unsqueeze(-1)).squeeze(-1)
    return columns._replace(pair=pair.permute(0, 3, 1, 2, 4), own=rest(columns.own), target=target)


def grams(columns: Columns) -> Grams:
    """Sums over intervals and channels."""
    root = columns.weight.sqrt()
    rest = torch.cat([columns.own, columns.target.unsqueeze(-1)], -1) * root.unsqueeze(-1)  # (E, L, C, G + 1)
    c = root.shape[-1]
    alike = columns.pair.shape[3] == 1 and _alike(columns.weight)
    pairs: list[Tensor] = []
    cross: list[Tensor] = []
    for of in [slice(m, m + 1) for m in range(c)] if columns.apart else [slice(c)]:
        pair = columns.pair if columns.pair.shape[3] == 1 else columns.pair[:, :, :, of]
        pair = (pair * root[:, None, :, of, None]).flatten(2, 3).permute(0, 2, 1, 3)  # (E, L, S, H)
        e, _, s, h = pair.shape
        pair = pair.flatten(2)
        if not (pairs and alike):
            pairs.append((pair.mT @ pair).view(e, s, h, s, h).permute(0, 1, 3, 2, 4).contiguous())
        cross.append((pair.mT @ rest[:, :, of].flatten(1, 2)).view(e, s, h, -1))
    flat = rest.flatten(1, 2)
    number = (columns.weight > 0).sum((1, 2)).to(rest)
    return Grams(torch.stack(pairs), torch.cat(cross, 2), flat.mT @ flat, number)


def own_sums(columns: Columns) -> Tensor:
    """Sums of [own, target] with itself over receivers, intervals and channels, (G + 1, G + 1)."""
    rest = torch.cat([columns.own, columns.target.unsqueeze(-1)], -1)
    rest = (rest * columns.weight.sqrt().unsqueeze(-1)).flatten(0, 2)
    return rest.mT @ rest


def _alike(weight: Tensor) -> bool:
    """Whether all channels (E, L, C) weigh the same."""
    return bool((weight == weight[..., :1]).all())


def joined(parts: list[Grams]) -> Grams:
    """Receivers of several parts, one after the other."""
    pairs = torch.cat(_blocks(parts), 1)
    return Grams(pairs, *(torch.cat(list(part)) for part in list(zip(*parts, strict=True))[1:]))


def added(one: Grams, other: Grams) -> Grams:
    """Sums of the same receivers over more tasks; `one` is overwritten."""
    pairs, more = _blocks([one, other])
    if len(pairs) != len(one.pairs):
        pairs = pairs.clone()
    rest = (a.add_(b) for a, b in zip(one[1:], other[1:], strict=True))
    return Grams(pairs.add_(more), *rest)


def _blocks(parts: list[Grams]) -> list[Tensor]:
    """Pairs with as many blocks as any has."""
    most = max(len(part.pairs) for part in parts)
    return [part.pairs.expand(most, *part.pairs.shape[1:]) for part in parts]


def pooled(parts: Grams, groups: Tensor, number: int) -> Grams:
    """Sums over the tasks of a group, receiver by receiver.

    Args:
        parts: of E = B N receivers.
        groups: group of every task, (B,), from 0.
        number: of groups.
    """
    pairs = torch.stack([_summed(block, groups, number) for block in parts.pairs])
    return Grams(pairs, *(_summed(part, groups, number) for part in parts[1:]))


def _summed(part: Tensor, groups: Tensor, number: int) -> Tensor:
    by_task = part.view(len(groups), -1, *part.shape[1:])
    return by_task.new_zeros(number, *by_task.shape[1:]).index_add_(0, groups, by_task).flatten(0, 1)


def residuals(columns: Columns, coefficients: Tensor, own: Tensor) -> Tensor:
    """What coefficients (E, S, F) of every edge and those of the own part (G,) leave unexplained, (E, L, C)."""
    blocks = coefficients.unflatten(2, (-1, columns.pair.shape[-1]))  # (E, S, M, H)
    if columns.apart and columns.pair.shape[3] == 1:
        sent = torch.einsum("eslf,escf->elc", columns.pair[:, :, :, 0], blocks)
    else:
        sent = torch.einsum("eslcf,escf->elc", columns.pair, blocks.expand(-1, -1, columns.pair.shape[3], -1))
    return columns.target - sent - columns.own @ own
