"""LSTMs that forecast entities one by one, or all of them as one vector (Kipf et al. 2018, section 5.1)."""

from typing import Any

import torch
from torch import Tensor, nn

from modmeta.baselines.base import Baseline, Forecast
from modmeta.baselines.decoder import gaussian_nll
from modmeta.errors import UserError


class Predictor(nn.Module):
    """Perceptron, LSTM, perceptron: what changes from a frame to the next.

    Args:
        num_features: of a row.
        hidden: width of all layers.
        layers: of the LSTM.
    """

    def __init__(self, num_features: int, hidden: int = 256, layers: int = 1) -> None:
        super().__init__()
        self.inward = nn.Sequential(
            nn.Linear(num_features, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU()
        )  # fmt: skip
        self.lstm = nn.LSTM(hidden, hidden, layers, batch_first=True)
        self.outward = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, num_features))

    def forward(self, rows: Tensor, memory: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Any]:
        """Rows (P, T, F) to predictions of the frames after them, (P, T, F), and what is remembered."""
        hidden, memory = self.lstm(self.inward(rows), memory)
        return rows + self.outward(hidden), memory

    def unrolled(self, rows: Tensor, steps: int) -> Tensor:
        """Predictions after T true frames (P, T, F) and then `steps - 1` own ones: (P, T + steps - 1, F).

        The first T - 1 are of frames that were given, each from the truth before it (burn-in).
        """
        predicted, memory = self(rows)
        frames = [predicted]
        for _ in range(steps - 1):
            ahead, memory = self(frames[-1][:, -1:], memory)
            frames.append(ahead)
        return torch.cat(frames, dim=1)

    def final(self, rows: Tensor) -> Tensor:
        """What the last layer remembers after rows (P, T, F): (P, H)."""
        return self.lstm(self.inward(rows))[1][0][-1]


class LSTM(Baseline):
    """Trained on all frames, the last `horizon` of them predicted from its own predictions; the others are burn-in.

    Test tasks burn in on all observed frames and the one that forecasts start from.

    Args:
        num_features: D.
        num_entities: N, of a joint model.
        joint: all entities are one vector; otherwise all share one network.
        hidden: width of all layers.
        layers: of the LSTM.
        horizon: steps that are predicted from own predictions in training.
        variance: of the Gaussian likelihood.
        options: of `Baseline`.
    """

    def __init__(
        self,
        num_features: int,
        num_entities: int,
        joint: bool,
        hidden: int = 256,
        layers: int = 1,
        horizon: int = 10,
        variance: float = 5e-5,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if joint and not isinstance(num_entities, int):
            raise UserError("a joint LSTM needs tasks of one number of entities")
        self.joint, self.horizon, self.variance = joint, horizon, variance
        self.predictor = Predictor(num_features * (num_entities if joint else 1), hidden, layers)

    def rows(self, states: Tensor) -> Tensor:
        """States (B, N, T, D) to rows (B N, T, D), or (B, T, N D) if joint."""
        return states.transpose(1, 2).flatten(2) if self.joint else states.flatten(0, 1)

    def unrolled(self, states: Tensor, steps: int) -> Tensor:
        """Predictions after frames (B, N, T, D), as of `Predictor.unrolled`: (B, N, T + steps - 1, D)."""
        b, n, _, d = states.shape
        ahead = self.predictor.unrolled(self.rows(states), steps)
        return ahead.view(b, -1, n, d).transpose(1, 2) if self.joint else ahead.view(b, n, -1, d)

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        states = self._observed(batch)
        own = min(self.horizon, states.shape[2] - 1)
        return gaussian_nll(self.unrolled(states[:, :, :-own], own), states, self.variance), {}

    def forecaster(self, batch: dict[str, Tensor], chance: Tensor | None) -> Forecast | None:
        return lambda seen, steps: self.unrolled(seen, steps)[:, :, -steps:]
