"""Pair features: the inputs of edge modules, and the conversion of their outputs to messages.

F is the number of pair features, A the number of outputs of an edge module, P the number of coordinates.
"""

from abc import ABC, abstractmethod
from typing import ClassVar, final

import torch
from torch import Tensor

from modmeta.graph.relations import senders
from modmeta.shapes import Float

LARGEST_GATE = 12.0  # bound of the logarithm of a gate
MIN_DISTANCE = 1e-3  # lower bound of distances in logarithms and denominators, in units of scaled states


def pair_states(
    states: Float[Tensor, "B N T D"],
) -> tuple[Float[Tensor, "B N S T D"], Float[Tensor, "B N S T D"]]:
    """States of the receiver and of the sender of every edge, each (B, N, S, T, D), from states (B, N, T, D)."""
    n = states.shape[1]
    sender = states[:, senders(n, states.device)]  # (B, N, S, T, D)
    return states.unsqueeze(2).expand_as(sender), sender


class PairFeatures(ABC):
    """Inputs of an edge module for a pair of receiver and sender, and conversion of its output to a message.

    Attributes:
        mutual: features are symmetric in receiver and sender, and messages antisymmetric, so that an edge module is
            evaluated once per undirected pair.
        power_law: messages are scaled by a learned power of the distance, one per module.
        direct: the output of an edge module is the message.
        directions: modules see where the sender is from the receiver, so that laws may be vectors.
    """

    mutual: ClassVar[bool] = False
    power_law: ClassVar[bool] = False
    direct: bool = True
    directions: ClassVar[bool] = False

    @abstractmethod
    def size(self, num_features: int) -> int:
        """Number of pair features F for states of `num_features` features."""

    @abstractmethod
    def __call__(
        self, receiver: Float[Tensor, "*pair D"], sender: Float[Tensor, "*pair D"]
    ) -> Float[Tensor, "*pair F"]:
        """Pair features (..., F) of scaled states of receiver and sender, each (..., D)."""

    def answers(self, channels: int) -> int:
        """Number of outputs A of an edge module, for messages of `channels` channels."""
        return channels

    def factors(self, channels: int) -> int:
        """Number of leading outputs that messages are proportional to; the others shape them."""
        return self.answers(channels)

    def messages(
        self,
        answers: Float[Tensor, "K *pair A"],
        seen: Float[Tensor, "*pair F"],
        receiver: Float[Tensor, "*pair D"],
        sender: Float[Tensor, "*pair D"],
        powers: Float[Tensor, "#K *#pair 1"] | None,
    ) -> Float[Tensor, "K *pair C"]:
        """Messages (K, ..., C) to the receiver.

        Args:
            answers: outputs of the K edge modules, (K, ..., A).
            seen: pair features (..., F).
            receiver: scaled state of the receiver (..., D).
            sender: scaled state of the sender (..., D).
            powers: learned powers of the distance, of every module or pair; None without `power_law`.
        """
        return answers


class GatedFeatures(PairFeatures):
    """Abstract base class of features whose edge modules may shape their messages by positive factors.

    With `gated`, an edge module has a second output g for every channel, and the message is a exp(g). A law that is
    steep but turns with one linear function, such as a force along the line between two entities, then needs no
    perceptron for its sign.

    Attributes:
        gated: whether they do.
    """

    gated: bool = False

    def answers(self, channels: int) -> int:
        """C, or 2 C if gated."""
        return 2 * channels if self.gated else channels

    def factors(self, channels: int) -> int:
        """C: messages are proportional to the first outputs."""
        return channels

    def messages(
        self,
        answers: Float[Tensor, "K *pair A"],
        seen: Float[Tensor, "*pair F"],
        receiver: Float[Tensor, "*pair D"],
        sender: Float[Tensor, "*pair D"],
        powers: Float[Tensor, "#K *#pair 1"] | None,
    ) -> Float[Tensor, "K *pair C"]:
        """Messages (K, ..., C): the answers, or the first half times the exponential of the second."""
        if not self.gated:
            return answers
        size, gate = answers.chunk(2, dim=-1)
        return size * gate.clamp(-LARGEST_GATE, LARGEST_GATE).exp()


@final
class AbsoluteFeatures(GatedFeatures):
    """Concatenated states of receiver and sender, as in the paper: F = 2 D.

    Args:
        gated: see `GatedFeatures`.
    """

    def __init__(self, gated: bool = False) -> None:
        self.gated, self.direct = gated, not gated

    def size(self, num_features: int) -> int:
        return 2 * num_features

    def __call__(
        self, receiver: Float[Tensor, "*pair D"], sender: Float[Tensor, "*pair D"]
    ) -> Float[Tensor, "*pair F"]:
        """(..., D) and (..., D) to (..., 2 D)."""
        return torch.cat((receiver, sender), dim=-1)


@final
class ProductFeatures(PairFeatures):
    """Both states, and all products of a feature of one with a feature of the other: F = 2 D + D^2.

    Sine and cosine of a difference of angles are sums of such products, so laws of phase differences are linear in F.
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
class RelativeFeatures(GatedFeatures):
    """Difference of the states, distance and log distance: F = D + 2.

    Laws rarely depend on the location of a pair and often on its distance. With absolute states the roles of modules
    can differ between regions (module 1 attracts on the left and repels on the right).

    Args:
        positions: number P of leading features that are coordinates, which define the distance.
        gated: see `GatedFeatures`.
    """

    directions = True

    def __init__(self, positions: int, gated: bool = False) -> None:
        self.positions, self.gated, self.direct = positions, gated, not gated

    def size(self, num_features: int) -> int:
        return num_features + 2

    def __call__(
        self, receiver: Float[Tensor, "*pair D"], sender: Float[Tensor, "*pair D"]
    ) -> Float[Tensor, "*pair F"]:
        """(..., D) and (..., D) to (..., D + 2)."""
        difference = sender - receiver
        distance = difference[..., : self.positions].norm(dim=-1, keepdim=True)
        return torch.cat((difference, distance, distance.clamp_min(MIN_DISTANCE).log()), dim=-1)


@final
class IsotropicFeatures(PairFeatures):
    """Rotation- and reflection-invariant features of a pair, with equivariant messages (Satorras et al., 2021): F = 4.

    Features are distance, log distance, relative speed and radial velocity. An edge module returns the weights of two
    directions: towards the sender, and along the relative velocity. States must be coordinates and their velocities.
    (Satorras, Hoogeboom, Welling, *E(n) equivariant graph neural networks*, ICML 2021.)

    Args:
        positions: number P of coordinates; D = 2 P.
    """

    directions = True
    mutual = True
    power_law = True
    direct = False

    def __init__(self, positions: int) -> None:
        self.positions = positions

    def size(self, num_features: int) -> int:
        return 4

    def answers(self, channels: int) -> int:
        """Two weights for every vector of P channels."""
        return 2 * (channels // self.positions)

    def __call__(
        self, receiver: Float[Tensor, "*pair D"], sender: Float[Tensor, "*pair D"]
    ) -> Float[Tensor, "*pair F"]:
        """(..., D) and (..., D) to (..., 4)."""
        offset, velocity = (sender - receiver).split(self.positions, dim=-1)
        distance = offset.norm(dim=-1, keepdim=True).clamp_min(MIN_DISTANCE)
        radial = (offset * velocity).sum(-1, keepdim=True) / distance
        return torch.cat((distance, distance.log(), velocity.norm(dim=-1, keepdim=True), radial), dim=-1)

    def messages(
        self,
        answers: Float[Tensor, "K *pair A"],
        seen: Float[Tensor, "*pair F"],
        receiver: Float[Tensor, "*pair D"],
        sender: Float[Tensor, "*pair D"],
        powers: Float[Tensor, "#K *#pair 1"] | None,
    ) -> Float[Tensor, "K *pair C"]:
        """Messages (K, ..., C): weighted sums of the offset and the relative velocity of the sender.

        Args:
            answers: weights towards the sender and along the relative velocity, alternating, (K, ..., 2 C/P).
            seen: pair features (..., 4).
            receiver: scaled state of the receiver (..., D).
            sender: scaled state of the sender (..., D).
            powers: powers p of every module or pair; the vector towards the sender is scaled as r^-p, r the distance.
        """
        assert powers is not None
        decay = (-(1 + powers) * seen[..., 1:2]).exp()  # (K, ..., 1), r^-(1 + p)
        offset, velocity = (sender - receiver).unsqueeze(-2).split(self.positions, dim=-1)
        pull, drag = (answers[..., ::2] * decay).unsqueeze(-1), answers[..., 1::2].unsqueeze(-1)  # (K, ..., C/P, 1)
        return torch.addcmul(pull * offset, drag, velocity).flatten(-2)
