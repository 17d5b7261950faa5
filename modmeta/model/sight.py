"""Entities that are not always seen: which steps count, and messages that nobody knows.

A step of a receiver counts where the receiver was observed at both of its frames. Messages of senders that were not
seen are left out of sums. What is left out is uncertain: a message of module k is taken as normal around zero, with the
mean square of that module's messages as its variance. What is slow is left out of many steps alike: neighbouring errors
agree as far as it is their larger part, and count as so much fewer. So summed messages have thrice the channels:
values, variances, and covariances with the step before. A module that sends nothing leaves no doubt. A pair that is
never seen together is told by no step of its own.

Masks are (B, N, T - 1), see `modmeta.keys.UNKNOWN`. Letters: B tasks, N entities, S senders, K modules, L steps.
"""

import torch
from torch import Tensor

from modmeta.graph.relations import senders
from modmeta.keys import OBSERVED, UNKNOWN
from modmeta.shapes import Bool, Float, Int

__all__ = ["complete", "counted", "left_out", "never_together", "sent", "widened", "with_variance"]


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
    """Messages with channels of variances and covariances, (B, N, S, K, L, 3 C); as they are without a mask."""
    if mask is None:
        return messages
    known = sent(mask)[:, :, :, None, :, None]
    square, over = messages.square(), (1, 2, 4)  # of every module and channel
    size = square.mean(over, keepdim=True)
    alike = torch.zeros_like(size)
    if messages.shape[4] > 1:
        near = (messages[..., 1:, :] * messages[..., :-1, :]).sum(over, keepdim=True)
        alike = near / ((square[..., 1:, :] + square[..., :-1, :]).sum(over, keepdim=True) / 2 + 1e-30)
    alike = alike.clamp(0, 1 - 1 / messages.shape[4])
    return torch.cat((messages * known, size * ~known, size * alike * ~known), -1)


def widened(log_scale: Tensor, left_out: Tensor) -> Tensor:
    """Log scale of errors (..., C) with what is left out of messages, variances and covariances (..., 2 C).

    Noise as strong as the slowest of errors whose neighbours agree; noise of the model's own makes them agree less.
    """
    variance, covariance = left_out.chunk(2, -1)
    whole = (2 * log_scale).exp() + variance
    alike = covariance / whole
    return (whole * (1 + alike) / (1 - alike)).log() / 2


def never_together(mask: Int[Tensor, "B N L"]) -> Bool[Tensor, "B N S"]:
    """Edges of which no step shows both: the receiver's counts and the sender is known."""
    return ~(sent(mask) & counted(mask).unsqueeze(2)).any(-1)
