"""Proposal networks q(z | trajectory), which predict edge modules from a trajectory."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modmeta.graph.relations import senders
from modmeta.model.features import pair_states


class _Block(nn.Module):
    """Two-layer perceptron with ELU, dropout and batch normalisation (Kipf et al. 2018, appendix C)."""

    def __init__(self, inputs: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, hidden)
        self.second = nn.Linear(hidden, hidden)
        self.normalise = nn.BatchNorm1d(hidden)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        h = F.dropout(F.elu(self.first(x)), self.dropout, self.training)
        h = F.elu(self.second(h))
        return self.normalise(h.flatten(0, -2)).view(h.shape)


class MLPProposal(nn.Module):
    """The MLP encoder of Kipf et al. 2018 (section 3.1): node -> edge -> node -> edge, with a skip connection.

    Args:
        num_frames: number of frames T, the same for all trajectories.
        num_features: D.
        num_edge_modules: K.
        hidden: width of all layers.
        dropout: probability of dropping a hidden unit in training.
        published: initialisation and sums over senders as in the published program.
    """

    def __init__(
        self,
        num_frames: int,
        num_features: int,
        num_edge_modules: int,
        hidden: int = 64,
        dropout: float = 0.0,
        published: bool = False,
    ) -> None:
        super().__init__()
        self.published = published
        self.num_frames = num_frames
        self.node_1 = _Block(num_frames * num_features, hidden, dropout)
        self.edge_1 = _Block(2 * hidden, hidden, dropout)
        self.node_2 = _Block(hidden, hidden, dropout)
        self.edge_2 = _Block(3 * hidden, hidden, dropout)
        self.out = nn.Linear(hidden, num_edge_modules)
        if published:
            self.apply(_as_published)

    def forward(self, states: Tensor) -> Tensor:
        """Normalised states (B, N, T, D) to logits (B, N, S, K)."""
        n = states.shape[1]
        nodes = self.node_1(states.flatten(2))  # (B, N, H)
        edges = self.edge_1(_pairs(nodes, n))  # (B, N, S, H)
        nodes = self.node_2(edges.sum(dim=2) / n if self.published else edges.mean(dim=2))
        return self.out(self.edge_2(torch.cat((_pairs(nodes, n), edges), dim=-1)))


class CNNProposal(nn.Module):
    """The CNN encoder of Kipf et al. 2018 (appendix C): convolutions over time of the states of a pair, averaged with
    attention, then edge -> node -> edge with a skip connection, as in `MLPProposal`.

    Accepts any number of frames from 14.

    Args:
        num_features: D.
        num_edge_modules: K.
        hidden: width of all layers.
        dropout: probability of dropping a hidden unit in training.
        published: initialisation, and means over steps and senders, as in the published program.
    """

    def __init__(
        self, num_features: int, num_edge_modules: int, hidden: int = 256, dropout: float = 0.0, published: bool = False
    ) -> None:
        super().__init__()
        self.published = published
        self.read = nn.Sequential(
            nn.Conv1d(2 * num_features, hidden, 5), nn.ReLU(), nn.BatchNorm1d(hidden), nn.Dropout(dropout),
            nn.MaxPool1d(2), nn.Conv1d(hidden, hidden, 5), nn.ReLU(), nn.BatchNorm1d(hidden),
        )  # fmt: skip
        self.answer, self.attention = nn.Conv1d(hidden, hidden, 1), nn.Conv1d(hidden, 1, 1)
        self.edge_1 = _Block(hidden, hidden, dropout)
        self.node = _Block(hidden, hidden, dropout)
        self.edge_2 = _Block(3 * hidden, hidden, dropout)
        self.out = nn.Linear(hidden, num_edge_modules)
        if published:
            self.apply(_as_published)

    def forward(self, states: Tensor) -> Tensor:
        """Normalised states (B, N, T, D) to logits (B, N, S, K)."""
        n = states.shape[1]
        paths = torch.cat(pair_states(states), dim=-1)  # (B, N, S, T, 2 D)
        read = self.read(paths.flatten(0, 2).mT)  # (B N S, H, T')
        seen = (self.answer(read) * self.attention(read).softmax(-1)).sum(-1).view(*paths.shape[:3], -1)
        seen = seen / read.shape[-1] if self.published else seen
        edges = self.edge_1(seen)  # (B, N, S, H)
        nodes = self.node(edges.sum(dim=2) / n if self.published else edges.mean(dim=2))
        return self.out(self.edge_2(torch.cat((_pairs(nodes, n), edges), dim=-1)))


def _as_published(layer: nn.Module) -> None:
    """Initialises a layer as the published program does."""
    if isinstance(layer, nn.Linear):
        nn.init.xavier_normal_(layer.weight)
        nn.init.constant_(layer.bias, 0.1)
    elif isinstance(layer, nn.Conv1d):
        nn.init.normal_(layer.weight, std=math.sqrt(2 / (layer.kernel_size[0] * layer.out_channels)))
        assert layer.bias is not None
        nn.init.constant_(layer.bias, 0.1)


def _pairs(nodes: Tensor, n: int) -> Tensor:
    """Concatenates receiver and sender of every edge, (B, N, H) to (B, N, S, 2 H)."""
    sender = nodes[:, senders(n, nodes.device)]
    return torch.cat((nodes.unsqueeze(2).expand_as(sender), sender), dim=-1)
