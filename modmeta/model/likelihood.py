"""Likelihoods of observed changes, used by search and gradient steps.

A likelihood maps errors, in units of the dynamics' `change_scale`, to negative log-likelihoods. The scale of the error
may depend on the state but not on the candidate structure, so that candidates differ by their errors only. Densities
are normalised, so that likelihoods can be compared by held-out energies.
"""

import math
from abc import ABC, abstractmethod
from typing import Any, cast

import torch
from torch import Tensor, nn

from modmeta.model.features import PairFeatures, RelativeFeatures, pair_states
from modmeta.model.grouped import GroupedMLP

LEAST = -16.0  # log scale of errors, in typical changes, that single precision tells; below, squares overflow


class Likelihood(nn.Module, ABC):
    """Base class: scale of the error of a change, and energy of an error."""

    @abstractmethod
    def log_scale(self, states: Tensor) -> Tensor:
        """Log scale of the error of the change after each scaled state (B, N, T, D), broadcastable to its shape."""

    @abstractmethod
    def energy(self, error: Tensor, log_scale: Tensor) -> Tensor:
        """Negative log-likelihood (..., D) of every error (..., D), in nats."""

    def weight(self, error: Tensor, log_scale: Tensor) -> Tensor:
        """Weights (..., D) of squared errors (..., D) by which half their sum is the energy near these errors.

        The slope of the energy over the error; for densities with heavy tails the parabola lies above the energy
        everywhere, so what lowers it lowers the energy (iteratively reweighted least squares).
        """
        return (-2 * log_scale).exp().expand_as(error)

    def follow(self) -> None:
        """Called after a backward pass of the mean energy. Updates scales for which an optimiser is too slow."""


class FixedGaussian(Likelihood):
    """Normal density of fixed scale: squared error, the paper's energy up to a constant.

    Args:
        scale: standard deviation of an error, in units of `change_scale`.
    """

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale

    def log_scale(self, states: Tensor) -> Tensor:
        return states.new_full((1, 1, 1, 1), math.log(self.scale))

    def energy(self, error: Tensor, log_scale: Tensor) -> Tensor:
        return 0.5 * (error * (-log_scale).exp()).square() + (log_scale + 0.5 * math.log(2 * math.pi))


class Gaussian(FixedGaussian):
    """Normal density with one learned scale per feature."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.log_scales = nn.Parameter(torch.zeros(num_features))

    def log_scale(self, states: Tensor) -> Tensor:
        return self.log_scales


class _AtLeast(torch.autograd.Function):
    """Log scales, no smaller than `LEAST`. Gradients that ask for larger ones pass: scales that overshoot come back."""

    @staticmethod
    def forward(ctx: Any, found: Tensor) -> Tensor:
        ctx.save_for_backward(found >= LEAST)
        return found.clamp_min(LEAST)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (free,) = ctx.saved_tensors
        return torch.where(free, grad, grad.clamp_max(0))


class StudentT(Likelihood):
    """Student's t density with a learned scale that depends on the states of the entity and its neighbours.

    Close encounters are rare and badly predicted. Heavy tails, and a scale that grows there, keep them from dominating
    the evidence of all other frames. All features share the scale, in units of their typical change: with separate
    scales, features that hardly depend on interactions (positions) are soon predicted so well that their noise
    dominates, and the search finds structures that fit this noise.

    Args:
        num_features: D.
        positions: number of leading features that are coordinates.
        degrees: degrees of freedom.
        hidden: width of the network that predicts the scale.
        features: of pairs, its inputs; None for relative ones.
    """

    def __init__(
        self,
        num_features: int,
        positions: int,
        degrees: float = 3.0,
        hidden: int = 32,
        features: PairFeatures | None = None,
    ) -> None:
        super().__init__()
        self.degrees = degrees
        self.constant = math.lgamma(degrees / 2) - math.lgamma((degrees + 1) / 2) + 0.5 * math.log(degrees * math.pi)
        self.features = features or RelativeFeatures(positions)
        self.pair = GroupedMLP(1, [self.features.size(num_features), hidden, hidden])
        self.own = GroupedMLP(1, [num_features + hidden, hidden, 1])
        self.offset = nn.Parameter(torch.zeros(()))  # of the log scale; errors may shrink a thousandfold in training

    def log_scale(self, states: Tensor) -> Tensor:
        receiver, sender = pair_states(states)
        pairs = self.features(receiver, sender)
        around = (
            self.pair(pairs.flatten(0, -2)).view(*pairs.shape[:-1], -1).amax(dim=2)
        )  # maximum over senders: the closest matters most
        inputs = torch.cat((states, around), dim=-1)
        found = self.own(inputs.flatten(0, -2)).view(*states.shape[:-1], -1) + self.offset
        return cast(Tensor, _AtLeast.apply(found))

    def energy(self, error: Tensor, log_scale: Tensor) -> Tensor:
        nu = self.degrees
        return 0.5 * (nu + 1) * torch.log1p((error * (-log_scale).exp()).square() / nu) + (log_scale + self.constant)

    def weight(self, error: Tensor, log_scale: Tensor) -> Tensor:
        squared = (-2 * log_scale).exp()
        return (self.degrees + 1) / (self.degrees + error.square() * squared) * squared

    @torch.no_grad()
    def follow(self) -> None:
        """Damped Newton step of the common factor of all scales; the curvature at the optimum is about 1."""
        if self.offset.grad is not None:
            self.offset.sub_(0.3 * self.offset.grad)
            self.offset.grad = None
