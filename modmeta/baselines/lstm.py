"""LSTMs that forecast each entity separately, or all entities as one vector (Kipf et al. 2018, section 5.1).

P sequences of F features; H hidden width.
"""

from typing import Any

import torch
from torch import Tensor, nn

from modmeta.baselines.base import Baseline, Forecast
from modmeta.baselines.decoder import gaussian_nll
from modmeta.errors import UserError


class Predictor(nn.Module):
    """MLP, LSTM, MLP: predicts the change from each frame to the next.

    Args:
        num_features: F.
        hidden: width of all layers, H.
        layers: number of LSTM layers.
    """

    def __init__(self, num_features: int, hidden: int = 256, layers: int = 1) -> None:
        super().__init__()
        self.inward = nn.Sequential(
            nn.Linear(num_features, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU()
        )  # fmt: skip
        self.lstm = nn.LSTM(hidden, hidden, layers, batch_first=True)
        self.outward = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, num_features))

    def forward(self, rows: Tensor, memory: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Any]:
        """Predictions (P, T, F) of the frame after each frame of `rows` (P, T, F), and the final LSTM state."""
        hidden, memory = self.lstm(self.inward(rows), memory)
        return rows + self.outward(hidden), memory

    def unrolled(self, rows: Tensor, steps: int) -> Tensor:
        """Predictions (P, T + steps - 1, F) from T true frames (P, T, F), followed by `steps - 1` predicted ones.

        The first T - 1 predictions are one step ahead of true frames (burn-in).
        """
        predicted, memory = self(rows)
        frames = [predicted]
        for _ in range(steps - 1):
            ahead, memory = self(frames[-1][:, -1:], memory)
            frames.append(ahead)
        return torch.cat(frames, dim=1)

    def final(self, rows: Tensor) -> Tensor:
        """Hidden state (P, H) of the last layer after rows (P, T, F)."""
        return self.lstm(self.inward(rows))[1][0][-1]


class LSTM(Baseline):
    """Trained on all frames: burn-in first, then the last `horizon` frames are predicted from its own predictions.

    On test tasks the burn-in is all observed frames and the frame that forecasts start from.

    Args:
        num_features: D.
        num_entities: N; used by a joint model only.
        joint: treat all entities as one vector; otherwise all entities share one network.
        hidden: width of all layers.
        layers: number of LSTM layers.
        horizon: number of steps predicted from its own predictions in training.
        variance: variance of the Gaussian likelihood.
        options: arguments of `Baseline`.

    Raises:
        UserError: a joint model gets tasks of several sizes.
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
            raise UserError("a joint LSTM needs tasks of one size; set data.num_entities to one number")
        self.joint, self.horizon, self.variance = joint, horizon, variance
        self.predictor = Predictor(num_features * (num_entities if joint else 1), hidden, layers)

    def rows(self, states: Tensor) -> Tensor:
        """States (B, N, T, D) to rows (B N, T, D), or (B, T, N D) if joint."""
        return states.transpose(1, 2).flatten(2) if self.joint else states.flatten(0, 1)

    def unrolled(self, states: Tensor, steps: int) -> Tensor:
        """Predictions (B, N, T + steps - 1, D) after frames (B, N, T, D); see `Predictor.unrolled`."""
        b, n, _, d = states.shape
        ahead = self.predictor.unrolled(self.rows(states), steps)
        return ahead.view(b, -1, n, d).transpose(1, 2) if self.joint else ahead.view(b, n, -1, d)

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        states = self._observed(batch)
        own = min(self.horizon, states.shape[2] - 1)
        return gaussian_nll(self.unrolled(states[:, :, :-own], own), states, self.variance), {}

    def forecaster(self, batch: dict[str, Tensor], chance: Tensor | None) -> Forecast | None:
        return lambda seen, steps: self.unrolled(seen, steps)[:, :, -steps:]
