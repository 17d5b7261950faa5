"""The MLP decoder of NRI (Kipf et al. 2018, section 3.2), and the likelihood it is trained by."""

import math

import torch
from torch import Tensor, nn

from modmeta.model.features import pair_states
from modmeta.model.grouped import GroupedMLP


class MLPDecoder(nn.Module):
    """One step of a graph network with a message network for every edge type:

        m_i = sum_j sum_k z_ijk f_k(s_i, s_j),   s_i' = s_i + g(s_i, m_i)

    Args:
        num_features: D.
        num_edge_types: K.
        hidden: width of all layers.
        skip_first: edges of type 0 send nothing, so that it stands for no relation.
    """

    def __init__(self, num_features: int, num_edge_types: int, hidden: int = 256, skip_first: bool = False) -> None:
        super().__init__()
        self.skipped = int(skip_first)
        if num_edge_types <= self.skipped:
            raise ValueError("skip_first leaves no edge type that sends anything")
        self.message = GroupedMLP(num_edge_types - self.skipped, [2 * num_features, hidden, hidden])
        self.update = nn.Sequential(
            nn.Linear(num_features + hidden, hidden), nn.ReLU(),
            nn.Linear(hidden, hidden), nn.ReLU(),
            nn.Linear(hidden, num_features),
        )  # fmt: skip

    def step(self, states: Tensor, weights: Tensor) -> Tensor:
        """Next states of every given one.

        Args:
            states: (B, N, R, D), R frames that are taken a step on.
            weights: of edge types, (B, N, S, K).
        """
        pairs = torch.cat(pair_states(states), dim=-1)  # (B, N, S, R, 2 D)
        b, n, s, r, _ = pairs.shape
        sent = torch.relu(self.message(pairs.flatten(0, -2)))  # (K, B N S R, H)
        each = weights[..., self.skipped :].reshape(b * n, s, -1).permute(2, 0, 1).unsqueeze(2)  # (K, B N, 1, S)
        summed = (each.to(sent.dtype) @ sent.view(len(sent), b * n, s, -1)).sum(0).view(b, n, r, -1)
        return states + self.update(torch.cat((states, summed.to(states.dtype)), dim=-1))

    def rollout(self, states: Tensor, weights: Tensor, steps: int) -> Tensor:
        """Forecasts (B, N, R, steps, D) from each of R given frames (B, N, R, D)."""
        frames = []
        for _ in range(steps):
            states = self.step(states, weights)
            frames.append(states)
        return torch.stack(frames, dim=3)

    def forced(self, states: Tensor, weights: Tensor, horizon: int) -> Tensor:
        """Predictions of all frames but the first, (B, N, T - 1, D); the truth is put in every `horizon` frames."""
        ahead = self.rollout(states[:, :, :-1:horizon], weights, horizon)
        return ahead.flatten(2, 3)[:, :, : states.shape[2] - 1]


def gaussian_nll(predicted: Tensor, states: Tensor, variance: float) -> Tensor:
    """Mean negative log-density of an observed number, nats: frames 1 on of states (B, N, T, D) under predictions."""
    error = (predicted.float() - states[:, :, 1:]).square().mean()
    return error / (2 * variance) + 0.5 * math.log(2 * math.pi * variance)
