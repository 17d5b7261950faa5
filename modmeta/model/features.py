"""What an edge module sees of a pair of entities, and what its answer means."""

from abc import ABC, abstractmethod
from typing import ClassVar, final

import torch
from torch import Tensor

from modmeta.graph.relations import senders
from modmeta.shapes import Float

# Distances are measured in robust scales of the data; below this the logarithm stops telling closeness apart.
CLOSEST = 1e-3


def pair_states(
    states: Float[Tensor, "B N T D"],
) -> tuple[Float[Tensor, "B N S T D"], Float[Tensor, "B N S T D"]]:
    """States (B, N, T, D) to those of receiver and sender of every pair, each (B, N, S, T, D)."""
    n = states.shape[1]
    sender = states[:, senders(n, states.device)]  # (B, N, S, T, D)
    return states.unsqueeze(2).expand_as(sender), sender


class PairFeatures(ABC):
    """Numbers that an edge module sees of receiver and sender, and the message that its answer stands for.

    Attributes:
        mutual: both ends of a pair see the same, and are sent the opposite: a module answers once for both.
        power_law: the message of each module falls with a power of the distance, which is learned.
        direct: an answer is the message itself.
    """

    mutual: ClassVar[bool] = False
    power_law: ClassVar[bool] = False
    direct: ClassVar[bool] = True

    @abstractmethod
    def size(self, num_features: int) -> int:
        """Numbers seen, F, of states of so many features."""

    @abstractmethod
    def __call__(
        self, receiver: Float[Tensor, "*pair D"], sender: Float[Tensor, "*pair D"]
    ) -> Float[Tensor, "*pair F"]:
        """Scaled states (..., D) and (..., D) to (..., F)."""

    def answers(self, channels: int) -> int:
        """Numbers of an answer, A, that stands for a message of so many channels."""
        return channels

    def messages(
        self,
        answers: Float[Tensor, "K *pair A"],
        seen: Float[Tensor, "*pair F"],
        receiver: Float[Tensor, "*pair D"],
        sender: Float[Tensor, "*pair D"],
        powers: Float[Tensor, " K"] | None,
    ) -> Float[Tensor, "K *pair C"]:
        """Messages (K, ..., C) to the receiver.

        Args:
            answers: of K modules, (K, ..., A).
            seen: of the pair (..., F).
            receiver: its scaled state (..., D).
            sender: likewise.
            powers: of the distance, (K,), where there is a `power_law`.
        """
        return answers


@final
class AbsoluteFeatures(PairFeatures):
    """Both states side by side, as in the paper: 2 D numbers a pair."""

    def size(self, num_features: int) -> int:
        return 2 * num_features

    def __call__(
        self, receiver: Float[Tensor, "*pair D"], sender: Float[Tensor, "*pair D"]
    ) -> Float[Tensor, "*pair F"]:
        """(..., D) and (..., D) to (..., 2 D)."""
        return torch.cat((receiver, sender), dim=-1)


@final
class ProductFeatures(PairFeatures):
    """Both states and every product of a feature of one with a feature of the other: 2 D + D^2 numbers a pair.

    Angles add up by products of their sines and cosines, so that a law of phase differences is linear in these.
    """

    def size(self, num_features: int) -> int:
        return 2 * num_features + num_features**2

    def __call__(
        self, receiver: Float[Tensor, "*pair D"], sender: Float[Tensor, "*pair D"]
    ) -> Float[Tensor, "*pair F"]:
        """(..., D) and (..., D) to (..., 2 D + D^2)."""
        receiver, sender = torch.broadcast_tensors(receiver, sender)
        products = (receiver.unsqueeze(-1) * sender.unsqueeze(-2)).flatten(-2)
        return torch.cat((receiver, sender, products), dim=-1)


@final
class RelativeFeatures(PairFeatures):
    """Differences of states, with the distance and its logarithm: D + 2 numbers a pair.

    Laws of interaction rarely depend on where a pair is, and often on how far apart it is. With absolute states the
    assignment of modules can break into regions (module 1 attracts on the left and repels on the right).

    Args:
        positions: how many leading features are coordinates, over which the distance is taken.
    """

    def __init__(self, positions: int) -> None:
        self.positions = positions

    def size(self, num_features: int) -> int:
        return num_features + 2

    def __call__(
        self, receiver: Float[Tensor, "*pair D"], sender: Float[Tensor, "*pair D"]
    ) -> Float[Tensor, "*pair F"]:
        """(..., D) and (..., D) to (..., D + 2)."""
        difference = sender - receiver
        distance = difference[..., : self.positions].norm(dim=-1, keepdim=True)
        return torch.cat((difference, distance, distance.clamp_min(CLOSEST).log()), dim=-1)


@final
class IsotropicFeatures(PairFeatures):
    """Invariants of a pair, and directions for what comes of them: laws that no rotation or reflection changes.

    An edge module sees distance, its logarithm, relative speed and the speed of closing in; it answers with weights of
    two directions, towards the sender and along the relative velocity (equivariant in the sense of Satorras et al.,
    *E(n) equivariant graph neural networks*, 2021). Features must be coordinates and their velocities.

    Args:
        positions: how many leading features are coordinates; as many velocities follow.
    """

    mutual = True
    power_law = True
    direct = False

    def __init__(self, positions: int) -> None:
        self.positions = positions

    def size(self, num_features: int) -> int:
        return 4

    def answers(self, channels: int) -> int:
        """Numbers that make up a message of so many channels: two weights for every group of coordinates."""
        return 2 * (channels // self.positions)

    def __call__(
        self, receiver: Float[Tensor, "*pair D"], sender: Float[Tensor, "*pair D"]
    ) -> Float[Tensor, "*pair F"]:
        """(..., D) and (..., D) to (..., 4)."""
        place, velocity = (sender - receiver).split(self.positions, dim=-1)
        distance = place.norm(dim=-1, keepdim=True).clamp_min(CLOSEST)
        closing = (place * velocity).sum(-1, keepdim=True) / distance
        return torch.cat((distance, distance.log(), velocity.norm(dim=-1, keepdim=True), closing), dim=-1)

    def messages(
        self,
        answers: Float[Tensor, "K *pair A"],
        seen: Float[Tensor, "*pair F"],
        receiver: Float[Tensor, "*pair D"],
        sender: Float[Tensor, "*pair D"],
        powers: Float[Tensor, " K"] | None,
    ) -> Float[Tensor, "K *pair C"]:
        """Vectors (K, ..., C) of the weights of directions.

        Args:
            answers: towards the sender and along the relative velocity, for every group of coordinates (K, ..., 2 C/P).
            seen: of the pair (..., 4).
            receiver: its scaled state (..., D).
            sender: likewise.
            powers: of the distance with which the pull of each module falls, (K,).
        """
        assert powers is not None
        fall = (-(1 + powers.view(-1, *[1] * seen.dim())) * seen[..., 1:2]).exp()  # (K, ..., 1), over the distance
        place, velocity = (sender - receiver).unsqueeze(-2).split(self.positions, dim=-1)
        pull, drag = (answers[..., ::2] * fall).unsqueeze(-1), answers[..., 1::2].unsqueeze(-1)  # (K, ..., C/P, 1)
        return torch.addcmul(pull * place, drag, velocity).flatten(-2)
