"""A model is a dynamics and a likelihood: together they give structures their energies."""

from typing import Any

import torch
from torch import Tensor, nn

from modmeta.model.dynamics import ModularDynamics
from modmeta.model.likelihood import Likelihood
from modmeta.structure.bank import Structure


class RelationalModel(nn.Module):
    """Energies of structures on observed trajectories.

    The energy of a structure is the negative log-likelihood of the observed frames under rollouts of `horizon` steps,
    restarted from the observed state every `horizon` frames (Alet et al. 2019, section 4).
    """

    def __init__(self, dynamics: ModularDynamics, likelihood: Likelihood) -> None:
        super().__init__()
        self.dynamics = dynamics
        self.likelihood = likelihood

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Parameters for an optimiser: weight decay applies to the perceptrons of modules, not to affine paths."""
        dynamics = self.dynamics
        perceptrons = [*dynamics.edge_modules.layers.parameters(), *dynamics.node_modules.layers.parameters()]
        ours = {id(parameter) for parameter in perceptrons}
        others = [parameter for parameter in self.parameters() if id(parameter) not in ours]
        return [{"params": perceptrons}, {"params": others, "weight_decay": 0.0}]

    def log_scale(self, states: Tensor) -> Tensor:
        """Log scale of the error of every change, broadcastable to (B, N, T - 1, D)."""
        return self.likelihood.log_scale(self.dynamics.scaled(states[:, :, :-1]))

    def receiver_energies(
        self, states: Tensor, messages: Tensor, rows: Tensor, types: Tensor, log_scale: Tensor | None = None
    ) -> Tensor:
        """Energies of candidate rows of every receiver at horizon 1, where receivers do not depend on one another.

        Args:
            states: observed (B, N, T, D).
            messages: of all frames but the last, (B, N, S, K, T - 1, C).
            rows: (B, N, M, S), B and N may be 1.
            types: (B, N, M), likewise.
            log_scale: of `log_scale(states)`, if it is at hand.

        Returns:
            (B, N, M), summed over frames and features.
        """
        change = self.dynamics.change(states[:, :, :-1], messages, rows, types)
        error = change - self.dynamics.targets(states).unsqueeze(2)
        scale = self.log_scale(states) if log_scale is None else log_scale
        if scale.dim() == 4:
            scale = scale.unsqueeze(2)
        return self.likelihood.energy(error, scale).sum(dim=(-1, -2))

    def energies(self, states: Tensor, structure: Structure, horizon: int = 1) -> Tensor:
        """Energies of one structure a task: (B, N, T, D) to (B, N), summed over frames and features."""
        starts = states[:, :, :-1:horizon]  # (B, N, R, D)
        steps = self.dynamics.rollout(starts, structure.relations, structure.types, horizon)  # (B, N, R, horizon, D)
        predicted = steps.flatten(2, 3)[:, :, : states.shape[2] - 1]
        error = (predicted - states[:, :, 1:]) / self.dynamics.change_scale
        return self.likelihood.energy(error, self.log_scale(states)).sum(dim=(-1, -2))

    def structure_energies(self, states: Tensor, structures: Structure, horizon: int) -> Tensor:
        """Energies of M whole structures a task: relations (B, M, N, S), types (B, M, N) to (B, M)."""
        b, m = structures.types.shape[:2]
        repeated = states.unsqueeze(1).expand(b, m, *states.shape[1:]).flatten(0, 1)
        flat = Structure(structures.relations.flatten(0, 1), structures.types.flatten(0, 1))
        return self.energies(repeated, flat, horizon).sum(dim=-1).view(b, m)

    @torch.no_grad()
    def forecast(self, states: Tensor, structure: Structure, steps: int) -> Tensor:
        """Rollout from one frame (B, N, D): (B, N, steps, D)."""
        return self.dynamics.rollout(states.unsqueeze(2), structure.relations, structure.types, steps).squeeze(2)
