"""Noise of observations: what it does to errors one step ahead, undone."""

import math

import torch
from torch import Tensor, nn

GAIN = 5.0  # the ratios may span decades, and parameters move by the learning rate


class ObservationNoise(nn.Module):
    """White noise on observed positions and velocities, of strengths that are learned.

    Noise e on the observed states makes the errors of steps from frame to frame large and correlated: what one frame is
    too high, the step to it overshoots and the next one falls short. With the changes of `ContinuousDynamics`, per
    coordinate and in units of the usual change,

        error of x(t+1) = own error + e_x(t+1) - e_x(t) - e_v(t),    error of v(t+1) = own error + e_v(t+1) - e_v(t),

    a covariance of all errors of a trajectory that is known but for two ratios of noise to own error. Multiplied by the
    inverse Cholesky factor they become independent innovations, as those of a Kalman filter. Weak noise leaves single
    steps as they are; strong noise has the filter look at long stretches. The ratios are those of greatest likelihood,
    which takes no labels.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ratios = nn.Parameter(torch.full((2,), math.log(0.03) / GAIN))  # of positions, of velocities

    def factor(self, steps: int) -> Tensor:
        """Cholesky factor (2 steps, 2 steps) of the errors' covariance, double precision; x and v of a step in turn."""
        x, v = (GAIN * self.ratios.double()).exp()
        now, then = torch.eye(steps, steps + 1).double(), torch.eye(steps, steps + 1).double().roll(1, 1)
        now, then = now.to(x.device), then.to(x.device)
        nothing = torch.zeros_like(now)
        rows_x = torch.cat((x * (then - now), -v * now), dim=1)
        rows_v = torch.cat((nothing, v * (then - now)), dim=1)
        effect = torch.stack((rows_x, rows_v), dim=1).flatten(0, 1)  # (2 steps, 2 frames)
        own = torch.eye(2 * steps, dtype=effect.dtype, device=effect.device)
        return torch.linalg.cholesky(own + effect @ effect.T)

    def forward(self, error: Tensor) -> tuple[Tensor, Tensor]:
        """Independent errors (..., steps, D) from correlated ones, and the energy that the change of variables adds."""
        steps, d = error.shape[-2:]
        factor = self.factor(steps)
        inverse = torch.linalg.solve_triangular(factor, torch.eye(2 * steps).to(factor), upper=False).to(error.dtype)
        paired = error.unflatten(-1, (2, d // 2)).flatten(-3, -2)  # (..., 2 steps, P)
        independent = (inverse @ paired).unflatten(-2, (steps, 2)).flatten(-2)
        return independent, (d // 2) * factor.diagonal().log().sum().to(error.dtype)
