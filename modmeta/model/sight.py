"""Entities that are not always seen: which steps count, and messages that nobody knows.

A step of a receiver counts where the receiver was observed at both of its frames. Messages of senders that were not
seen are left out of sums. What is left out is uncertain: a message of module k is taken as normal around zero, with the
mean square of that module's messages as its variance. So summed messages have twice the channels, values and variances,
and a module that sends nothing leaves no doubt. A pair that is never seen together is told by no step of its own.

Masks are (B, N, T - 1), see `modmeta.keys.UNKNOWN`. Letters: B tasks, N entities, S senders, K modules, L steps.
"""

import torch
from torch import Tensor

from modmeta.graph.relations import senders
from modmeta.keys import OBSERVED, UNKNOWN
from modmeta.shapes import Bool, Float, Int

__all__ = ["complete", "counted", "left_out", "never_together", "sent", "with_variance"]


def counted(mask: Int[Tensor, "B N L"]) -> Bool[Tensor, "B N L"]:
    """Steps of receivers that count."""
    return mask == OBSERVED


def sent(mask: Int[Tensor, "B N L"]) -> Bool[Tensor, "B N S L"]:
    """Steps at which the sender of every edge is known."""
    n = mask.shape[1]
    return (mask > UNKNOWN)[:, senders(n, mask.device)]


def complete(mask: Int[Tensor, "B N L"]) -> Bool[Tensor, "B N L"]:
    """Steps of receivers that count and of which all senders are known."""
    return counted(mask) & sent(mask).all(2)


def left_out(messages: Float[Tensor, "B N S K L C"], mask: Int[Tensor, "B N L"] | None) -> Tensor:
    """Messages, zero where the sender is not seen."""
    if mask is None:
        return messages
    return messages * sent(mask)[:, :, :, None, :, None]


def with_variance(messages: Float[Tensor, "B N S K L C"], mask: Int[Tensor, "B N L"] | None) -> Tensor:
    """Messages with channels of their variances behind them, (B, N, S, K, L, 2 C); as they are without a mask."""
    if mask is None:
        return messages
    known = sent(mask)[:, :, :, None, :, None]
    square, over = messages.square(), (1, 2, 4)  # of every module and channel
    size = square.mean(over, keepdim=True)
    if messages.shape[4] > 1:  # neighbouring frames say the same: noise as strong as what is slowest of messages
        near = (messages[..., 1:, :] * messages[..., :-1, :]).sum(over, keepdim=True)
        alike = (near / ((square[..., 1:, :] + square[..., :-1, :]).sum(over, keepdim=True) / 2 + 1e-30)).clamp(0, 1)
        size = size * ((1 + alike) / (1 - alike).clamp_min(1 / messages.shape[4]))
    return torch.cat((messages * known, size * ~known), -1)


def never_together(mask: Int[Tensor, "B N L"]) -> Bool[Tensor, "B N S"]:
    """Edges of which no step shows both: the receiver's counts and the sender is known."""
    return ~(sent(mask) & counted(mask).unsqueeze(2)).any(-1)
