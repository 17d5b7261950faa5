"""Paths of hidden entities: Gauss-Newton on all frames at once (multiple shooting with segments of one frame).

The hidden states of all frames are unknowns. The law of the hidden entity as a receiver links consecutive frames and is
one more term of the energy. A step depends on two frames only, so the curvature is block tridiagonal. Nothing is rolled
out further than one frame, so stiff scenes are no harder than others.

C paths, m = H D unknown numbers per frame.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import jvp, vmap

from modmeta.hidden.scene import Scene
from modmeta.model.likelihood import Likelihood

PRIOR = 3.0  # standard deviation of the weak Gaussian prior on hidden states, in robust scales of all states
LARGEST_MOVE = 2.0  # largest change of a state in one step, in the same unit


class Linear(NamedTuple):
    """Linearised errors: errors(t) + start(t) d(t) + end(t) d(t + 1) if the path moves by d, in `state_scale`.

    Attributes:
        errors: (..., N, T - 1, D).
        start: derivatives by the hidden state of the first frame of a step (..., m, N, T - 1, D).
        end: derivatives by the hidden state of its second frame (..., m, N, T - 1, D).
    """

    errors: Tensor
    start: Tensor
    end: Tensor

    def moved(self, by: Tensor) -> Tensor:
        """Errors (C, N, T - 1, D) after a move of the paths by `by` (C, T, m)."""
        by = by.to(self.errors.dtype)
        start = torch.einsum("cmntd,ctm->cntd", self.start, by[:, :-1])
        return self.errors + start + torch.einsum("cmntd,ctm->cntd", self.end, by[:, 1:])


def linearise(scene: Scene, paths: Tensor, rows: Tensor, types: Tensor) -> Linear:
    """Errors and their derivatives for candidate rows, by two forward-mode passes: even frames, then odd frames.

    Args:
        scene: Q scenes.
        paths: states of the hidden entities (Q, H, T, D).
        rows: candidate rows (Q, N, M, S); Q and N may be 1.
        types: candidate types (Q, N, M); Q and N may be 1.

    Returns:
        Errors (Q, N, M, T - 1, D), derivatives (Q, m, N, M, T - 1, D).
    """
    h, t, d = paths.shape[1:]
    numbers = torch.eye(h * d, device=paths.device).unflatten(1, (h, 1, d))  # (m, H, 1, D)
    even = (torch.arange(t, device=paths.device) % 2 == 0).to(paths.dtype).view(-1, 1)
    moves = torch.stack((numbers * even, numbers * (1 - even))).flatten(0, 1) * scene.model.dynamics.state_scale
    moves = moves.unsqueeze(1).expand(-1, *paths.shape)  # (2 m, Q, H, T, D)

    def errors(paths: Tensor) -> Tensor:
        return scene.errors(paths, rows, types)

    value, change = vmap(lambda move: jvp(errors, (paths,), (move,)), out_dims=(None, 0))(moves)  # type: ignore[arg-type, misc]
    change = change.unflatten(0, (2, -1)).movedim(2, 1)  # (2, Q, m, N, M, T - 1, D)
    from_even = even[:-1] == 1
    start = torch.where(from_even, change[0], change[1])
    return Linear(value, start, torch.where(from_even, change[1], change[0]))


def refit(
    linear: Linear, likelihood: Likelihood, log_scale: Tensor, scaled: Tensor, rounds: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Moves of paths that minimise the energy of linearised errors, by iteratively reweighted least squares.

    If a receiver's errors exceed their scale throughout, its scale is raised to fit them. Otherwise a heavy-tailed
    likelihood would give the receiver almost no influence on the path.

    Args:
        linear: linearised errors of C paths.
        likelihood: likelihood of the errors.
        log_scale: log scale of the errors (C, N, T - 1, D).
        scaled: states of the paths relative to the centre, in `state_scale` (C, T, m).
        rounds: number of rounds of reweighting and solving.

    Returns:
        Moves (C, T, m) in `state_scale`, the energies after the move by the linearised errors (C,), and the curvature
        of the last round (C, T, m, T, m).
    """
    errors = linear.errors
    move = curvature = torch.zeros(0)
    for _ in range(rounds):
        typical = (errors * (-log_scale).exp()).abs().flatten(2).median(-1).values.clamp_min(1)  # (C, N)
        weights = _weights(likelihood, errors, log_scale + typical.log()[..., None, None])
        curvature, slope = _normal_equations(linear, weights, scaled)
        move = _solve(curvature, slope)
        errors = linear.moved(move)
    return move, likelihood.energy(errors, log_scale).flatten(1).sum(1), curvature


def _weights(likelihood: Likelihood, errors: Tensor, log_scale: Tensor) -> Tensor:
    """Weights of squared errors in the parabola tangent to the energy at the errors (majorisation)."""
    with torch.enable_grad():
        at = errors.detach().requires_grad_()
        (slope,) = torch.autograd.grad(likelihood.energy(at, log_scale).sum(), at)
    tiny = torch.finfo(errors.dtype).tiny ** 0.5
    return torch.where(errors.abs() > tiny, slope / errors, (-2 * log_scale).exp())


def _normal_equations(linear: Linear, weights: Tensor, scaled: Tensor) -> tuple[Tensor, Tensor]:
    """Curvature (C, T, m, T, m) and slope (C, T, m) of half the weighted squared errors, in double precision."""
    root = weights.clamp_min(0).double().sqrt().transpose(1, 2).flatten(2)  # (C, T - 1, N D)
    errors = (linear.errors.double().transpose(1, 2).flatten(2) * root).unsqueeze(-1)
    start, end = (part.double().permute(0, 3, 1, 2, 4).flatten(3) * root.unsqueeze(2) for part in linear[1:])
    c, steps, m = start.shape[:3]  # (C, T - 1, m, N D)
    curvature, slope = start.new_zeros(c, steps + 1, m, steps + 1, m), start.new_zeros(c, steps + 1, m)
    at, after = torch.arange(steps), torch.arange(1, steps + 1)
    across = (start @ end.mT).transpose(0, 1)
    curvature[:, at, :, at] += (start @ start.mT).transpose(0, 1)
    curvature[:, after, :, after] += (end @ end.mT).transpose(0, 1)
    curvature[:, at, :, after] = across
    curvature[:, after, :, at] = across.mT
    slope[:, :-1] += (start @ errors).squeeze(-1)
    slope[:, 1:] += (end @ errors).squeeze(-1)
    curvature.flatten(3).flatten(1, 2).diagonal(dim1=1, dim2=2).add_(PRIOR**-2)
    slope += scaled * PRIOR**-2
    return curvature, slope


def _solve(curvature: Tensor, slope: Tensor) -> Tensor:
    """Moves (C, T, m) to the minimum, bounded by `LARGEST_MOVE`; zero for paths whose curvature is singular."""
    factor, failed = torch.linalg.cholesky_ex(curvature.flatten(3).flatten(1, 2))
    move = -torch.cholesky_solve(slope.flatten(1).unsqueeze(-1), factor).view_as(slope)
    fine = (failed == 0) & move.isfinite().flatten(1).all(1)
    move = torch.where(fine.view(-1, 1, 1), move, 0.0)
    largest = move.abs().flatten(1).amax(1).clamp_min(LARGEST_MOVE)
    return move * (LARGEST_MOVE / largest).view(-1, 1, 1)


def prior_energy(scaled: Tensor) -> Tensor:
    """Energy (Q, H) of hidden states (Q, H, T, D) under the prior; states as in `refit`."""
    return 0.5 * (scaled / PRIOR).square().flatten(2).sum(2)


def deviations(curvature: Tensor) -> Tensor:
    """Standard deviations (C, T, m) of the hidden states by the Laplace approximation, in `state_scale`."""
    c, t, m = curvature.shape[:3]
    factor, failed = torch.linalg.cholesky_ex(curvature.flatten(3).flatten(1, 2))
    variance = torch.cholesky_inverse(factor).diagonal(dim1=1, dim2=2).view(c, t, m)
    return torch.where((failed == 0).view(-1, 1, 1), variance.clamp_min(0).sqrt(), torch.inf)
