"""The model: a dynamics and a likelihood, which define the energies of structures."""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from modmeta.errors import UserError
from modmeta.graph.bank import Structure
from modmeta.model.dynamics.base import Dynamics, one_hot, weighed
from modmeta.model.grouped import Kept
from modmeta.model.likelihood import Likelihood
from modmeta.model.sight import complete, counted, left_out, widened, with_variance
from modmeta.model.strengths import Allowed, allowed
from modmeta.shapes import Float, Int

# Bound of the scale of errors drawn in forecasts, in units of `change_scale`. Larger learned scales reflect an
# uncertain path within a frame rather than an uncertain next state.
LARGEST_DRAW = 0.3

ROUNDS = 2  # of strengths, under weights of steps that follow from the errors of the round before


@runtime_checkable
class Score(Protocol):
    """Energies of one-step predictions, in nats, summed over frames and features."""

    def __call__(self, received: Tensor, types: Tensor) -> Tensor:
        """Of summed messages (B, N, M, T - 1, C) and node modules (B, N, M), all of one strength, (B, N, M)."""

    def rows(self, messages: Tensor, rows: Tensor, types: Tensor) -> Tensor:
        """Of rows (B, N, M, S), strengths allowed for where these differ.

        Args:
            messages: result of `RelationalModel.messages`, of the same mask.
            rows: edge modules; B and N may be 1.
            types: node modules of the candidates (B, N, M), likewise.
        """


class Told(NamedTuple):
    """What told structures, and so says how strong their edges are.

    Attributes:
        states: frames (B, N, T, D) of the same tasks.
        structure: that these told, (B, N, S), (B, N).
        mask: how well their steps are known, (B, N, T - 1); None for all observed.
    """

    states: Tensor
    structure: Structure
    mask: Tensor | None = None


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

    def acting(self, states: Tensor, structure: Structure, mask: Tensor | None = None) -> Structure:
        """A structure for forecasts: where strengths of edges differ, with weights of modules (B, N, S, K).

        Args:
            states: observed (B, N, T, D), which tell strengths.
            structure: (B, N, S), (B, N).
            mask: how well steps are known, (B, N, T - 1); None for all observed.
        """
        if self.dynamics.spread is None or states.shape[2] < 2:
            return structure
        weights = self._weights(Told(states, structure, mask)).squeeze(2)
        return structure._replace(edge_modules=weights.unflatten(-1, (-1, self.dynamics.num_edge_modules)))

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
        self, states: Tensor, structure: Structure, mask: Tensor | None = None, chances: Tensor | None = None,
        told: Told | None = None,
    ) -> Tensor:  # fmt: skip
        """Errors (B, N, T - 1, D) of predicted changes."""
        messages = left_out(self._refined(states, structure), mask)
        if chances is None or self.dynamics.spread is not None:
            weights = self._weights(told or Told(states, structure, mask), chances, None if told else messages)
            received = weighed(messages, weights.to(messages.dtype))
        else:
            received = torch.einsum("bnsk,bnsktc->bntc", chances, messages).unsqueeze(2)
        change = self.dynamics.along(states)(received, structure.node_modules.unsqueeze(2)).squeeze(2)
        return change - self.dynamics.targets(states)

    def _weights(self, told: Told, chances: Tensor | None = None, messages: Tensor | None = None) -> Tensor:
        """Weights (B, N, 1, S K) of messages; those of `told`, where they are known already."""
        k = self.dynamics.num_edge_modules
        modules = one_hot(told.structure.edge_modules, k, told.states.dtype).unsqueeze(2)
        weights = modules
        if self.dynamics.spread is not None:
            if messages is None:
                messages = left_out(self._refined(told.states, told.structure), told.mask)
            weights = self.allowed(told.states, messages, modules, told.mask)
        if chances is None:
            return weights
        return torch.where(modules > 0, weights, 1.0) * chances.flatten(-2).unsqueeze(2)

    def errors(
        self, states: Tensor, structure: Structure, mask: Tensor | None = None, chances: Tensor | None = None,
        told: Told | None = None,
    ) -> Tensor:  # fmt: skip
        """Errors (B, N, T - 1, D) of predicted changes, in units of `change_scale`, without constants of entities.

        Args:
            states: observed (B, N, T, D).
            structure: (B, N, S), (B, N).
            mask: how well steps are known, (B, N, T - 1); None for all observed.
            chances: probabilities of edge modules (B, N, S, K), whose mean messages are taken; None for those of the
                structure.
            told: frames that told how strong edges are, where strengths differ; None for these, which then explain
                some of whatever they show.
        """
        return self.dynamics.without_constants(self._errors(states, structure, mask, chances, told), states, mask)

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
        return self.scorer(states, log_scale, mask).rows(messages, rows, types)

    def scorer(
        self, states: Tensor, log_scale: Tensor | None = None, mask: Tensor | None = None, targets: Tensor | None = None
    ) -> "Scorer":
        """Returns what maps messages and candidates to energies (B, N, M).

        With a mask, summed messages are those of `messages`, with their variances.

        Args:
            states: observed states (B, N, T, D).
            log_scale: result of `log_scale(states)`, if already computed.
            mask: how well steps are known, (B, N, T - 1); None for all observed.
            targets: changes to explain, (B, N, T - 1, D); None for those observed.

        Raises:
            UserError: frames are missing and the model has observation noise.
        """
        if mask is not None and self.noise is not None:
            raise UserError(
                "method.model.noise=true needs complete recordings, but frames are missing; set it to false"
            )
        targets = self.dynamics.targets(states) if targets is None else targets
        return Scorer(self, states, targets, self.log_scale(states) if log_scale is None else log_scale, mask)

    def allowed(self, states: Tensor, messages: Tensor, modules: Tensor, mask: Tensor | None = None) -> Tensor:
        """Weights (B, N, M, S K) of messages by which modules of rows (B, N, M, S K) explain observed steps.

        Where strengths of edges differ, those that suit these steps best; else the same.
        """
        if self.dynamics.spread is None:
            return modules
        return self.scorer(states, mask=mask).allowed(messages, modules)[0]

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


class Scorer:
    """Energies of one-step predictions (`Score`).

    Args:
        model: that predicts.
        states: observed states (B, N, T, D).
        targets: changes to explain, (B, N, T - 1, D).
        log_scale: of errors, broadcastable to them.
        mask: how well steps are known, (B, N, T - 1); None for all observed.
    """

    def __init__(
        self, model: RelationalModel, states: Tensor, targets: Tensor, log_scale: Tensor, mask: Tensor | None
    ) -> None:
        self.model, self.states, self.mask = model, states, mask
        self.respond, self.targets = model.dynamics.along(states), targets.unsqueeze(2)
        self.log_scale = log_scale.unsqueeze(2) if log_scale.dim() == 4 else log_scale

    def __call__(self, received: Tensor, types: Tensor) -> Tensor:
        model, scale, mask = self.model, self.log_scale, self.mask
        error, constant = self._errors(received, types), received.new_zeros(())
        if model.noise is not None:
            error, constant = model.noise(error)
        if mask is not None and model.dynamics.additive:
            doubt = received[..., len(model.dynamics.change_scale) :]
            mobility = model.dynamics.mobilities(types)
            doubt = doubt if mobility is None else doubt * mobility[..., None, None].square()
            scale = widened(scale, doubt)
        energy = model.likelihood.energy(error, scale)
        if mask is not None:
            energy = energy * counted(mask)[:, :, None, :, None]
        return energy.sum(dim=(-1, -2)) + constant.to(error.device)

    def rows(self, messages: Float[Tensor, "B N S K L C"], rows: Int[Tensor, "#B #N M S"], types: Tensor) -> Tensor:
        modules = one_hot(rows, messages.shape[3], messages.dtype)
        if self.model.dynamics.spread is None:
            return self(weighed(messages, modules), types)
        weights, cost = self.allowed(messages, modules)
        return self(self._received(messages, weights, modules), types) + cost

    def allowed(self, messages: Tensor, modules: Float[Tensor, "#B #N M SK"]) -> Allowed:
        """Weights (B, N, M, S K) of the messages of rows of modules, strengths allowed for, and what they cost.

        Steps weigh as they do under the row that explains most.
        """
        spread, k = self.model.dynamics.spread, messages.shape[3]
        if spread is None:
            return Allowed(modules, modules.new_zeros(modules.shape[:-1]))
        types = torch.zeros(*self.states.shape[:2], 1, dtype=torch.long, device=self.states.device)
        sent = self.model.dynamics.without_constants(self.model.values(messages), self.states, self.mask)
        left = -self._errors(torch.zeros_like(sent[:, :, 0, :1]), types).squeeze(2)
        weight = self._weight(torch.zeros_like(left))
        for step in range(ROUNDS):
            weights, cost = allowed(spread, modules.unflatten(-1, (-1, k)), sent, left, weight)
            weights = weights.flatten(-2)
            if step < ROUNDS - 1:
                with torch.no_grad():
                    energies = self(self._received(messages, weights, modules), types.expand(cost.shape)) + cost
                    best = energies.argmin(-1)[..., None, None].expand(-1, -1, 1, weights.shape[-1])
                    weight = self._weight(left - weighed(sent, weights.gather(2, best)).squeeze(2))
        return Allowed(weights, cost)

    def _received(self, messages: Tensor, weights: Tensor, modules: Tensor) -> Tensor:
        """Summed messages (B, N, M, L, C); what is left out of them, of one strength."""
        c = len(self.model.dynamics.change_scale)
        received = weighed(messages[..., :c], weights)
        if messages.shape[-1] == c:
            return received
        return torch.cat((received, weighed(messages[..., c:], modules).expand(*received.shape[:4], -1)), -1)

    def _errors(self, received: Tensor, types: Tensor) -> Tensor:
        """Errors (B, N, M, T - 1, D) of predicted changes, without constants of entities."""
        error = self.respond(self.model.values(received), types) - self.targets
        return self.model.dynamics.without_constants(error, self.states, self.mask)

    def _weight(self, error: Tensor) -> Tensor:
        """Weights (B, N, T - 1, D) of squared errors; of steps of which all senders are known, too."""
        scale = self.log_scale.squeeze(2) if self.log_scale.dim() == 5 else self.log_scale
        weight = self.model.likelihood.weight(error, scale).detach()
        return weight if self.mask is None else weight * complete(self.mask).unsqueeze(-1)
