"""A model is a dynamics and a likelihood: together they give structures their energies."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from modmeta.errors import UserError
from modmeta.graph.bank import Structure
from modmeta.model.dynamics.base import Dynamics, summed
from modmeta.model.grouped import Kept
from modmeta.model.likelihood import Likelihood

# In units of the usual change. Larger scales tell how badly the path within a frame is known, not where it leads.
LARGEST_DRAW = 0.3

Score = Callable[[Tensor, Tensor], Tensor]  # summed messages (B, N, M, T - 1, C), node modules (B, N, M) to (B, N, M)


class RelationalModel(nn.Module):
    """Energies of structures on observed trajectories.

    The energy of a structure is the negative log-likelihood of the observed frames under rollouts of `horizon` steps,
    restarted from the observed state every `horizon` frames (Alet et al. 2019, section 4).

    Args:
        dynamics: what structures are inferred with.
        likelihood: of errors.
        members: of the ensemble whose mean is the forecast; 1 for a single rollout. Each goes its own way by errors
            drawn from the likelihood, so that where close encounters make the future uncertain the mean of what may
            happen is forecast, which has the least squared error.
        noise: observations are noisy, by how much is learned (`ObservationNoise`; horizon 1 only).
    """

    def __init__(self, dynamics: Dynamics, likelihood: Likelihood, members: int = 1, noise: bool = False) -> None:
        super().__init__()
        self.dynamics, self.likelihood, self.members = dynamics, likelihood, members
        self.noise = dynamics.observation_noise() if noise else None

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Parameters for an optimiser: weight decay applies to the perceptrons of modules, not to affine paths."""
        perceptrons = self.dynamics.perceptrons()
        ours = {id(parameter) for parameter in perceptrons}
        inference = [*self.dynamics.parameters(), *self.likelihood.parameters()]
        if self.noise is not None:
            inference += self.noise.parameters()
        others = [parameter for parameter in inference if id(parameter) not in ours]
        return [{"params": perceptrons}, {"params": others, "weight_decay": 0.0}]

    @property
    def unit(self) -> Tensor:
        """Added to the energy of an observed number, it makes protocol units of the model's own: models compare."""
        return self.dynamics.change_scale.log().mean()

    def log_scale(self, states: Tensor) -> Tensor:
        """Log scale of the error of every change, broadcastable to (B, N, T - 1, D)."""
        return self.likelihood.log_scale(self.dynamics.scaled(states[:, :, :-1]))

    def unexplained(self, states: Tensor, types: Tensor) -> Tensor:
        """What messages must add up to where dynamics are additive, (B, N, T - 1, C).

        Args:
            states: (B, N, T, D).
            types: node modules (B, N).
        """
        respond = self.dynamics.along(states)
        nothing = states.new_zeros(*states.shape[:2], 1, states.shape[2] - 1, states.shape[3])
        left = self.dynamics.targets(states) - respond(nothing, types.unsqueeze(2)).squeeze(2)
        mobility = self.dynamics.mobilities(types)
        return left if mobility is None else left / mobility[..., None, None]

    def drive(self, states: Tensor, structure: Structure, mask: Tensor | None = None) -> Tensor | None:
        """Constants of the entities, (B, N, D), as observed steps under a structure show them; none without.

        Args:
            states: observed (B, N, T, D).
            structure: (B, N, S), (B, N).
            mask: steps that count, (B, T - 1); none for all.
        """
        dynamics = self.dynamics
        if not dynamics.has_constants or states.shape[2] < 2:
            return None
        received = summed(dynamics.messages(states, structure), structure.relations.unsqueeze(2))
        change = dynamics.along(states)(received, structure.types.unsqueeze(2)).squeeze(2)
        return dynamics.drive(change - dynamics.targets(states), states, mask)

    def receiver_energies(
        self, states: Tensor, messages: Tensor, rows: Tensor, types: Tensor,
        log_scale: Tensor | None = None, mask: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Energies of candidate rows of every receiver at horizon 1, where receivers do not depend on one another.

        Args:
            states: observed (B, N, T, D).
            messages: of all frames but the last, (B, N, S, K, T - 1, C).
            rows: (B, N, M, S), B and N may be 1.
            types: (B, N, M), likewise.
            log_scale: of `log_scale(states)`, if it is at hand.
            mask: steps that count, (B, T - 1); none for all.

        Returns:
            (B, N, M), summed over frames and features.
        """
        return self.scorer(states, log_scale, mask)(summed(messages, rows), types)

    def scorer(self, states: Tensor, log_scale: Tensor | None = None, mask: Tensor | None = None) -> Score:
        """What turns summed messages (B, N, M, T - 1, C) and node modules (B, N, M) into energies (B, N, M).

        Args:
            states: observed (B, N, T, D).
            log_scale: of `log_scale(states)`, if it is at hand.
            mask: steps that count, (B, T - 1); none for all.
        """
        respond, targets = self.dynamics.along(states), self.dynamics.targets(states).unsqueeze(2)
        scale = self.log_scale(states) if log_scale is None else log_scale
        if scale.dim() == 4:
            scale = scale.unsqueeze(2)
        if mask is not None and self.noise is not None:
            raise UserError("method.model.noise=true follows errors from frame to frame, so none may be missing")

        def score(received: Tensor, types: Tensor) -> Tensor:
            error, constant = respond(received, types) - targets, torch.zeros(())
            error = self.dynamics.without_constants(error, states, mask)
            if self.noise is not None:
                error, constant = self.noise(error)
            energy = self.likelihood.energy(error, scale)
            if mask is not None:
                energy = energy * mask[:, None, None, :, None]
            return energy.sum(dim=(-1, -2)) + constant.to(error.device)

        return score

    def energies(self, states: Tensor, structure: Structure, horizon: int = 1, kept: Kept | None = None) -> Tensor:
        """Energies of one structure a task: (B, N, T, D) to (B, N), summed over frames and features.

        Only `kept` tasks have gradients; which these are may be decided afterwards.
        """
        starts = states[:, :, :-1:horizon]  # (B, N, R, D)
        steps = self.dynamics.rollout(starts, *structure, horizon, kept)  # (B, N, R, horizon, D)
        predicted = steps.flatten(2, 3)[:, :, : states.shape[2] - 1]
        error = (predicted - states[:, :, 1:]) / self.dynamics.change_scale
        return self.likelihood.energy(error, self.log_scale(states)).sum(dim=(-1, -2))

    @torch.no_grad()
    def forecast(self, states: Tensor, structure: Structure, steps: int, drive: Tensor | None = None) -> Tensor:
        """Forecast from one frame (B, N, D), with the constants of entities: (B, N, steps, D), always the same."""
        dynamics = self.dynamics
        if self.members == 1:
            return dynamics.rollout(states.unsqueeze(2), *structure, steps, drive=drive).squeeze(2)
        generator = torch.Generator(states.device).manual_seed(0)
        states = states.unsqueeze(2).repeat(1, 1, self.members, 1)  # (B, N, M, D)
        frames = []
        for _ in range(steps):
            scale = (
                self.likelihood.log_scale(dynamics.scaled(states)).exp().clamp(max=LARGEST_DRAW) * dynamics.change_scale
            )
            drawn = scale * torch.randn(states.shape, generator=generator, device=states.device)
            states = dynamics.step(states + drawn, *structure, drive=drive)
            frames.append(states.mean(2))
        return torch.stack(frames, dim=2)
