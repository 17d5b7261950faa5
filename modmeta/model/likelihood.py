"""Likelihoods of observed changes, used alike by search and by gradient steps.

A likelihood turns errors, in units of the dynamics' `change_scale`, into negative log-likelihoods. The scale of the
error may depend on the state but never on the candidate structure, so that candidates are compared on their errors. All
are densities with their constants, so that energies of held-out frames choose between likelihoods, too.
"""

import math

import torch
from torch import Tensor, nn

from modmeta.model.features import RelativeFeatures, pair_states
from modmeta.model.grouped import GroupedMLP


class Likelihood(nn.Module):
    """Scale of the error of a change, and energy of an error."""

    def log_scale(self, states: Tensor) -> Tensor:
        """Log scale of the change that follows each scaled state: (B, N, T, D) to something that broadcasts to it."""
        raise NotImplementedError

    def energy(self, error: Tensor, log_scale: Tensor) -> Tensor:
        """Negative log-likelihood of each error (..., D), of the same shape."""
        raise NotImplementedError

    def follow(self) -> None:
        """After a backward pass of the mean energy: lets scales follow the errors where an optimiser is too slow."""


class FixedGaussian(Likelihood):
    """Squared error, the paper's energy but for a constant: a normal density of fixed scale.

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
    """A normal density with one learned scale a feature."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.log_scales = nn.Parameter(torch.zeros(num_features))

    def log_scale(self, states: Tensor) -> Tensor:
        return self.log_scales


class StudentT(Likelihood):
    """Student's t with a learned scale that depends on the state of the entity and its surroundings.

    Close encounters are both rare and badly predicted; heavy tails and a scale that grows there keep them from
    drowning the weak, exact evidence of everything else. All features share the scale, in units of their usual change:
    with one each, features that change almost without interaction (positions) are soon predicted so well that noise in
    them outweighs the others, and the search settles on structures that explain that noise.

    Args:
        num_features: D.
        positions: how many leading features are coordinates.
        degrees: degrees of freedom.
        hidden: width of the network of the scale.
    """

    def __init__(self, num_features: int, positions: int, degrees: float = 3.0, hidden: int = 32) -> None:
        super().__init__()
        self.degrees = degrees
        self.constant = math.lgamma(degrees / 2) - math.lgamma((degrees + 1) / 2) + 0.5 * math.log(degrees * math.pi)
        self.features = RelativeFeatures(positions)
        self.pair = GroupedMLP(1, [self.features.size(num_features), hidden, hidden])
        self.own = GroupedMLP(1, [num_features + hidden, hidden, 1])
        self.offset = nn.Parameter(torch.zeros(()))  # of the log scale; errors shrink a thousandfold as laws get exact

    def log_scale(self, states: Tensor) -> Tensor:
        receiver, sender = pair_states(states)
        pairs = self.features(receiver, sender)
        around = (
            self.pair(pairs.flatten(0, -2)).view(*pairs.shape[:-1], -1).amax(dim=2)
        )  # the closest sender counts most
        inputs = torch.cat((states, around), dim=-1)
        return self.own(inputs.flatten(0, -2)).view(*states.shape[:-1], -1) + self.offset

    def energy(self, error: Tensor, log_scale: Tensor) -> Tensor:
        nu = self.degrees
        return 0.5 * (nu + 1) * torch.log1p((error * (-log_scale).exp()).square() / nu) + (log_scale + self.constant)

    @torch.no_grad()
    def follow(self) -> None:
        """A Newton step of the common factor of all scales, damped; the curvature at the optimum is about 1."""
        if self.offset.grad is not None:
            self.offset.sub_(0.3 * self.offset.grad)
            self.offset.grad = None
