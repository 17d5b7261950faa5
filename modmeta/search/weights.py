"""Structures relaxed to real weights: one law can be learned before anything is known of structures.

Every edge has a real weight w_ij on one law h, for additive dynamics:

    received_i = sum_j w_ij h(s_i, s_j)

Whatever the law, the weights of a receiver follow from its frames in closed form (variable projection: Golub and
Pereyra 1973); at their best, the gradient of the energy with respect to the law needs none through them. Unlike modules
under structures drawn at random, a law under real weights learns from the first step. Relations then are clusters of
weights, and every edge module begins as the law times the centre of one.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from modmeta.model.dynamics.base import GAIN, Dynamics
from modmeta.model.model import RelationalModel
from modmeta.model.sight import counted, left_out
from modmeta.search.cold_start.cluster import cluster
from modmeta.shapes import Float, Int

DEGREES = 3.0  # degrees of freedom of errors, so that close encounters count no more than all other frames
ROUNDS = 3  # of reweighting
RIDGE = 1e-3  # relative to the mean diagonal
PIN = 0.01  # nats a number that keep the size of a law, which its weights could make up for, near 1
FLOOR, SHARE = 0.1, 0.13  # scale of errors at first: in units of `change_scale`, and of what all senders could do


class Weights(NamedTuple):
    """Real weights of edges.

    Attributes:
        value: (B, N, S).
        error: standard errors (B, N, S), as far as the scale of errors is right.
    """

    value: Tensor
    error: Tensor


class RealWeights(nn.Module):
    """Energies under the best real weights of every edge on one law, the last edge module.

    Errors are Student-t with a scale that grows with the messages of all senders: a law is known up to some share of
    itself. So the size of a law is learned at once, from errors alone, and tells which frames matter.
    """

    def __init__(self) -> None:
        super().__init__()
        self.log_scales = nn.Parameter(torch.tensor([math.log(FLOOR), math.log(SHARE)]) / GAIN)

    def forward(
        self,
        model: RelationalModel,
        states: Float[Tensor, "B N T D"],
        types: Int[Tensor, "B N"],
        mask: Int[Tensor, "B N T-1"] | None = None,
    ) -> tuple[Float[Tensor, " B"], Weights]:
        """Energies of tasks, with gradients, and the weights.

        Args:
            model: with additive dynamics.
            states: observed (B, N, T, D).
            types: node modules (B, N).
            mask: how well steps are known, (B, N, T - 1); None for all observed.
        """
        dynamics = model.dynamics
        sent, left = last_messages(dynamics, states), model.unexplained(states, types)
        sent = left_out(sent.unsqueeze(3), mask).squeeze(3)
        sent, left = (dynamics.without_constants(part, states, mask) for part in (sent, left))
        floor, share = (2 * GAIN * self.log_scales).exp()
        log_scale = (floor + share * sent.square().sum((2, -1))).log().unsqueeze(-1) / 2  # (B, N, T - 1, 1)
        weights = real_weights(sent, left, log_scale, mask)
        error = (left - (weights.value[..., None, None] * sent).sum(2)) * (-log_scale).exp()
        energy = (DEGREES + 1) / 2 * torch.log1p(error.square() / DEGREES) + log_scale
        if mask is not None:
            energy = energy * counted(mask).unsqueeze(-1)
        size = (sent.square().mean((0, 1, 2, 3, 4)) + 1e-12).log() / 2  # which nothing but the scales tells
        return energy.sum((1, 2, 3)) + PIN * energy[0].numel() * size.square(), weights


def last_messages(dynamics: Dynamics, states: Float[Tensor, "B N T D"]) -> Float[Tensor, "B N S T-1 C"]:
    """Messages of the last edge module alone, (B, N, S, T - 1, C), of observed states (B, N, T, D)."""
    last = {
        name: parameter[-1:]
        for name, parameter in dynamics.named_parameters()
        if name == "decay" or name.startswith("edge_modules.")
    }
    return functional_call(dynamics, last, (states,))[:, :, :, 0]


@torch.no_grad()
def real_weights(
    messages: Float[Tensor, "B N S T C"],
    changes: Float[Tensor, "B N T C"],
    log_scale: Float[Tensor, "*any"],
    mask: Int[Tensor, "B N T"] | None = None,
) -> Weights:
    """Weights of every edge on one law that explain changes best.

    Args:
        messages: of the law (B, N, S, T, C).
        changes: to be explained by the weighted sum of messages, (B, N, T, C).
        log_scale: log scale of errors, broadcastable to `changes`.
        mask: how well steps are known, (B, N, T - 1); None for all observed.
    """
    sure = (-log_scale).exp().expand_as(changes)
    if mask is not None:
        sure = sure * counted(mask).unsqueeze(-1)
    sent, wanted = (messages * sure.unsqueeze(2)).flatten(3), (changes * sure).flatten(2)
    eye = torch.eye(sent.shape[2], dtype=sent.dtype, device=sent.device)
    importance = torch.ones_like(wanted)
    for _ in range(ROUNDS):
        gram = (sent * importance.unsqueeze(2)) @ sent.mT
        ridge = RIDGE * gram.diagonal(dim1=-2, dim2=-1).mean(-1) + 1e-12
        inverse = torch.linalg.inv(gram + ridge[..., None, None] * eye)
        value = inverse @ (sent @ (importance * wanted).unsqueeze(-1))  # (B, N, S, 1)
        importance = DEGREES / (DEGREES + (wanted - (value * sent).sum(2)).square())
    return Weights(value.squeeze(-1), inverse.diagonal(dim1=-2, dim2=-1).clamp_min(0).sqrt())


def centres(weights: Weights, number: int) -> Float[Tensor, " K"]:
    """Centres (K,) of the clusters of well-determined weights, the one nearest zero first."""
    value, error = weights.value.flatten(), weights.error.flatten()
    value = value[error <= error.median()]
    mixture = cluster(value.double().unsqueeze(1), number, torch.Generator().manual_seed(0), 4, 25)
    member = mixture.probability.argmax(1)
    found = [value[member == k] for k in range(number)]
    middle = torch.stack([of.median() if len(of) else value.median() for of in found])
    return middle[middle.abs().argsort()]
