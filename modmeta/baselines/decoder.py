"""The MLP decoder of NRI (Kipf et al. 2018, section 3.2), and its Gaussian likelihood."""

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
        skip_first: edges of type 0 send no messages, so that type 0 means no relation.

    Raises:
        ValueError: no edge type is left that sends messages.
    """

    def __init__(self, num_features: int, num_edge_types: int, hidden: int = 256, skip_first: bool = False) -> None:
        super().__init__()
        self.skipped = int(skip_first)
        if num_edge_types <= self.skipped:
            raise ValueError(
                f"skip_first=true with num_edge_types={num_edge_types} leaves no edge type that sends messages"
            )
        self.message = GroupedMLP(num_edge_types - self.skipped, [2 * num_features, hidden, hidden])
        self.update = nn.Sequential(
            nn.Linear(num_features + hidden, hidden), nn.ReLU(),
            nn.Linear(hidden, hidden), nn.ReLU(),
            nn.Linear(hidden, num_features),
        )  # fmt: skip

    def step(self, states: Tensor, weights: Tensor) -> Tensor:
        """Predicts the frame after each given frame.

        Args:
            states: R frames (B, N, R, D).
            weights: weights of edge types (B, N, S, K).

        Returns:
            States (B, N, R, D).
        """
        pairs = torch.cat(pair_states(states), dim=-1)  # (B, N, S, R, 2 D)
        b, n, s, r, _ = pairs.shape
        sent = torch.relu(self.message(pairs.flatten(0, -2)))  # (K, B N S R, H)
        each = weights[..., self.skipped :].reshape(b * n, s, -1).permute(2, 0, 1).unsqueeze(2)  # (K, B N, 1, S)
        summed = (each.to(sent.dtype) @ sent.view(len(sent), b * n, s, -1)).sum(0).view(b, n, r, -1)
        return states + self.update(torch.cat((states, summed.to(states.dtype)), dim=-1))

    def rollout(self, states: Tensor, weights: Tensor, steps: int) -> Tensor:
        """Forecasts (B, N, R, steps, D) from each of R frames (B, N, R, D)."""
        frames = []
        for _ in range(steps):
            states = self.step(states, weights)
            frames.append(states)
        return torch.stack(frames, dim=3)

    def forced(self, states: Tensor, weights: Tensor, horizon: int) -> Tensor:
        """Predictions (B, N, T - 1, D) of all frames but the first, restarted from the truth every `horizon` frames."""
        ahead = self.rollout(states[:, :, :-1:horizon], weights, horizon)
        return ahead.flatten(2, 3)[:, :, : states.shape[2] - 1]


def gaussian_nll(predicted: Tensor, states: Tensor, variance: float) -> Tensor:
    """Mean negative log-density of frames 1 to T - 1 of `states`, in nats per observed number.

    Args:
        predicted: (B, N, T - 1, D).
        states: (B, N, T, D).
        variance: variance of the Gaussian.
    """
    error = (predicted.float() - states[:, :, 1:]).square().mean()
    return error / (2 * variance) + 0.5 * math.log(2 * math.pi * variance)
