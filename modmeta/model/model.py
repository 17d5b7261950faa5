"""The model: a dynamics and a likelihood, which define the energies of structures."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from modmeta.errors import UserError
from modmeta.graph.bank import Structure
from modmeta.model.dynamics.base import Dynamics, summed
from modmeta.model.grouped import Kept
from modmeta.model.likelihood import Likelihood
from modmeta.model.sight import counted, left_out, widened, with_variance

# Bound of the scale of errors drawn in forecasts, in units of `change_scale`. Larger learned scales reflect an
# uncertain path within a frame rather than an uncertain next state.
LARGEST_DRAW = 0.3

# Maps summed messages (B, N, M, T - 1, C) and node modules (B, N, M) to energies (B, N, M).
Score = Callable[[Tensor, Tensor], Tensor]


class RelationalModel(nn.Module):
    """Energies of structures on observed trajectories.

    The energy of a structure is the negative log-likelihood of the observed frames under rollouts of `horizon` steps,
    restarted from the observed state every `horizon` frames (Alet et al. 2019, section 4).

    Args:
        dynamics: predicts the next frame under a structure.
        likelihood: likelihood of prediction errors.
        members: size of the ensemble whose mean is the forecast; 1 for a single rollout. Members add errors drawn from
            the likelihood, so the mean approximates the expected future, which has the least squared error after close
            encounters.
        noise: whether to model observation noise of learned strength (`ObservationNoise`; horizon 1 only).

    Raises:
        ValueError: `noise` is not supported by the dynamics.
    """

    def __init__(self, dynamics: Dynamics, likelihood: Likelihood, members: int = 1, noise: bool = False) -> None:
        super().__init__()
        self.dynamics, self.likelihood, self.members = dynamics, likelihood, members
        self.noise = dynamics.observation_noise() if noise else None

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Parameter groups for an optimiser: weight decay applies to the perceptrons of modules only."""
        perceptrons = self.dynamics.perceptrons()
        ours = {id(parameter) for parameter in perceptrons}
        inference = [*self.dynamics.parameters(), *self.likelihood.parameters()]
        if self.noise is not None:
            inference += self.noise.parameters()
        others = [parameter for parameter in inference if id(parameter) not in ours]
        return [{"params": perceptrons}, {"params": others, "weight_decay": 0.0}]

    @property
    def unit(self) -> Tensor:
        """Mean log of `change_scale`. Adding it to an energy per observed number converts it to protocol units."""
        return self.dynamics.change_scale.log().mean()

    def log_scale(self, states: Tensor) -> Tensor:
        """Log scale of the error of every change in states (B, N, T, D), broadcastable to (B, N, T - 1, D)."""
        return self.likelihood.log_scale(self.dynamics.scaled(states[:, :, :-1]))

    def unexplained(self, states: Tensor, types: Tensor) -> Tensor:
        """Sum of messages that explains the observed changes exactly, for additive dynamics: (B, N, T - 1, C).

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
            mask: how well steps are known, (B, N, T - 1); None for all observed.
        """
        if not self.dynamics.has_constants or states.shape[2] < 2:
            return None
        return self.dynamics.drive(self._errors(states, structure, mask), states, mask)

    def messages(
        self,
        states: Tensor,
        structure: Structure | None = None,
        mask: Tensor | None = None,
        unrefined: Tensor | None = None,
    ) -> Tensor:
        """Messages of every module along every edge, (B, N, S, K, T - 1, C), as `scorer` takes their sums.

        With a mask, messages of unseen senders are left out, and additive dynamics have channels of variances, 3 C
        in all (`modmeta.model.sight`).

        Args:
            states: observed (B, N, T, D).
            structure: best known structure, for dynamics whose messages depend on it.
            mask: how well steps are known, (B, N, T - 1); None for all observed.
            unrefined: `dynamics.messages` of these states, where they are known already.
        """
        kept = with_variance if self.dynamics.additive else left_out
        return kept(self._refined(states, structure, unrefined), mask)

    def _refined(self, states: Tensor, structure: Structure | None, unrefined: Tensor | None = None) -> Tensor:
        messages = self.dynamics.messages(states) if unrefined is None else unrefined
        return messages if structure is None else self.dynamics.refined(messages, states, structure)

    def values(self, messages: Tensor) -> Tensor:
        """Messages (..., C) without the channels of variances that `messages` may have."""
        return messages[..., : len(self.dynamics.change_scale)] if self.dynamics.additive else messages

    def _errors(
        self, states: Tensor, structure: Structure, mask: Tensor | None = None, chances: Tensor | None = None
    ) -> Tensor:
        """Errors (B, N, T - 1, D) of predicted changes."""
        messages = left_out(self._refined(states, structure), mask)
        if chances is None:
            received = summed(messages, structure.edge_modules.unsqueeze(2))
        else:
            received = torch.einsum("bnsk,bnsktc->bntc", chances, messages).unsqueeze(2)
        change = self.dynamics.along(states)(received, structure.node_modules.unsqueeze(2)).squeeze(2)
        return change - self.dynamics.targets(states)

    def errors(
        self, states: Tensor, structure: Structure, mask: Tensor | None = None, chances: Tensor | None = None
    ) -> Tensor:
        """Errors (B, N, T - 1, D) of predicted changes, in units of `change_scale`, without constants of entities.

        Args:
            states: observed (B, N, T, D).
            structure: (B, N, S), (B, N).
            mask: how well steps are known, (B, N, T - 1); None for all observed.
            chances: probabilities of edge modules (B, N, S, K), whose mean messages are taken; None for those of the
                structure.
        """
        return self.dynamics.without_constants(self._errors(states, structure, mask, chances), states, mask)

    def receiver_energies(
        self, states: Tensor, messages: Tensor, rows: Tensor, types: Tensor,
        log_scale: Tensor | None = None, mask: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Energies of the candidates of every receiver at horizon 1, where receivers are independent.

        Args:
            states: observed states (B, N, T, D).
            messages: result of `messages`, of the same mask.
            rows: edge modules of the candidates' incoming edges (B, N, M, S); B and N may be 1.
            types: node modules of the candidates (B, N, M), likewise.
            log_scale: result of `log_scale(states)`, if already computed.
            mask: how well steps are known, (B, N, T - 1); None for all observed.

        Returns:
            Energies (B, N, M) in nats, summed over frames and features.
        """
        return self.scorer(states, log_scale, mask)(summed(messages, rows), types)

    def scorer(
        self, states: Tensor, log_scale: Tensor | None = None, mask: Tensor | None = None, targets: Tensor | None = None
    ) -> Score:
        """Returns a function of summed messages (B, N, M, T - 1, C), node modules (B, N, M) to energies (B, N, M).

        With a mask, summed messages are those of `messages`, with their variances.

        Args:
            states: observed states (B, N, T, D).
            log_scale: result of `log_scale(states)`, if already computed.
            mask: how well steps are known, (B, N, T - 1); None for all observed.
            targets: changes to explain, (B, N, T - 1, D); None for those observed.

        Raises:
            UserError: frames are missing and the model has observation noise.
        """
        respond = self.dynamics.along(states)
        targets = (self.dynamics.targets(states) if targets is None else targets).unsqueeze(2)
        scale = self.log_scale(states) if log_scale is None else log_scale
        if scale.dim() == 4:
            scale = scale.unsqueeze(2)
        if mask is not None and self.noise is not None:
            raise UserError(
                "method.model.noise=true needs complete recordings, but frames are missing; set it to false"
            )

        def score(received: Tensor, types: Tensor) -> Tensor:
            error, spread = respond(self.values(received), types) - targets, scale
            constant = error.new_zeros(())
            error = self.dynamics.without_constants(error, states, mask)
            if self.noise is not None:
                error, constant = self.noise(error)
            if mask is not None and self.dynamics.additive:
                doubt = received[..., len(self.dynamics.change_scale) :]
                mobility = self.dynamics.mobilities(types)
                doubt = doubt if mobility is None else doubt * mobility[..., None, None].square()
                spread = widened(scale, doubt)
            energy = self.likelihood.energy(error, spread)
            if mask is not None:
                energy = energy * counted(mask)[:, :, None, :, None]
            return energy.sum(dim=(-1, -2)) + constant.to(error.device)

        return score

    def energies(self, states: Tensor, structure: Structure, horizon: int = 1, kept: Kept | None = None) -> Tensor:
        """Energies (B, N) of one structure per task, in nats, summed over frames and features.

        Args:
            states: observed states (B, N, T, D).
            structure: (B, N, S), (B, N).
            horizon: steps of a rollout before it restarts from an observed frame.
            kept: tasks that have gradients; may be set after this call. None for all.
        """
        starts = states[:, :, :-1:horizon]  # (B, N, R, D)
        steps = self.dynamics.rollout(starts, *structure, horizon, kept)  # (B, N, R, horizon, D)
        predicted = steps.flatten(2, 3)[:, :, : states.shape[2] - 1]
        error = (predicted - states[:, :, 1:]) / self.dynamics.change_scale
        return self.likelihood.energy(error, self.log_scale(states)).sum(dim=(-1, -2))

    @torch.no_grad()
    def forecast(
        self, states: Tensor, structure: Structure, steps: int, drive: Tensor | None = None, single: bool = False
    ) -> Tensor:
        """Deterministic forecast (B, N, steps, D) from one frame (B, N, D), the mean of the ensemble.

        `drive` holds the constants of the entities, see `drive`; `single` asks for one rollout without errors.
        """
        dynamics = self.dynamics
        if single or self.members == 1:
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
            frames.append(dynamics.nearest(states, states[:, :, :1].expand_as(states)).mean(2))
        return torch.stack(frames, dim=2)
