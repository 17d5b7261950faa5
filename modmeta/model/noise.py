"""Observation noise: decorrelates the errors of one-step predictions that it causes."""

import math

import torch
from torch import Tensor, nn

GAIN = 5.0  # scales log ratios, which span decades, to the step size of the optimiser


class ObservationNoise(nn.Module):
    """White noise of learned strength on observed positions and velocities.

    Noise e on the observed states makes the errors of one-step predictions large and correlated. With the changes of
    `ContinuousDynamics`, per coordinate and in units of the typical change,

        error of x(t+1) = own error + e_x(t+1) - e_x(t) - e_v(t),    error of v(t+1) = own error + e_v(t+1) - e_v(t).

    The covariance of all errors of a trajectory is known up to two ratios of noise to own error, for positions and for
    velocities. The inverse Cholesky factor turns the errors into independent innovations, as in a Kalman filter. The
    ratios are learned by maximum likelihood, without labels.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ratios = nn.Parameter(torch.full((2,), math.log(0.03) / GAIN))  # of positions, of velocities

    def factor(self, steps: int) -> Tensor:
        """Cholesky factor (2 steps, 2 steps) of the covariance of errors, float64, ordered by step, then x and v."""
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
        """Independent errors from correlated ones, both (..., steps, D), and the log determinant to add to energies."""
        steps, d = error.shape[-2:]
        factor = self.factor(steps)
        inverse = torch.linalg.solve_triangular(factor, torch.eye(2 * steps).to(factor), upper=False).to(error.dtype)
        paired = error.unflatten(-1, (2, d // 2)).flatten(-3, -2)  # (..., 2 steps, P)
        independent = (inverse @ paired).unflatten(-2, (steps, 2)).flatten(-2)
        return independent, (d // 2) * factor.diagonal().log().sum().to(error.dtype)
