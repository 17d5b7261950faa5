"""Discrete-time dynamics: modules predict the change from one frame to the next."""

from collections.abc import Callable
from typing import final

import torch
from torch import Tensor
from torch.nn import functional as F

from modmeta.data.units import Scales
from modmeta.graph.relations import senders
from modmeta.model.dynamics.base import Dynamics
from modmeta.model.features import PairFeatures
from modmeta.model.grouped import Kept
from modmeta.model.noise import ObservationNoise
from modmeta.shapes import Float, Int


@final
class ModularDynamics(Dynamics):
    """Discrete-time dynamics, `s_i(t+1) = s_i(t) + g_{z_i}(s_i, sum_j h_{z_ij}(s_i, s_j))`; see `dynamics.base`.

    Args:
        num_features: D.
        num_edge_modules: K.
        features: pair features, the inputs of edge modules.
        num_node_modules: G.
        hidden: width of the hidden layers of edge modules.
        edge_layers: number of hidden layers of an edge module.
        node_layers: number of hidden layers of a node module.
        additive, linear_path, activation, null_module: see `Dynamics`.
        robust: whether modules use robust scales of states and changes; if false, protocol units.
        channels: message channels; None for D if `additive`, else for `hidden`.
        node_hidden: width of the hidden layers of node modules; None for `hidden`.
    """

    def __init__(
        self,
        num_features: int,
        num_edge_modules: int,
        features: PairFeatures,
        num_node_modules: int = 1,
        hidden: int = 64,
        edge_layers: int = 2,
        node_layers: int = 2,
        additive: bool = True,
        linear_path: bool = True,
        robust: bool = True,
        activation: Callable[[Tensor], Tensor] = F.silu,
        channels: int | None = None,
        null_module: bool = False,
        node_hidden: int | None = None,
    ) -> None:
        super().__init__(
            features, num_features, num_edge_modules, num_node_modules,
            channels or (num_features if additive else hidden), [hidden] * edge_layers,
            [node_hidden or hidden] * node_layers, additive, linear_path, activation, null_module,
        )  # fmt: skip
        self.robust = robust

    def set_scales(self, scales: Scales) -> None:
        """Sets the scales of states and changes if `robust`; otherwise keeps protocol units."""
        if self.robust:
            self.copy_scales(scales)

    def targets(self, states: Float[Tensor, "B N T D"]) -> Float[Tensor, "B N T-1 D"]:
        """Observed changes (B, N, T - 1, D) in units of `change_scale`."""
        return states.diff(dim=2) / self.change_scale

    def messages(self, states: Float[Tensor, "B N T D"]) -> Float[Tensor, "B N S K T-1 C"]:
        """Messages of every module along every edge for every observed change, (B, N, S, K, T - 1, C).

        Args:
            states: observed states (B, N, T, D).
        """
        return self.pair_law(states[:, :, :-1])

    @property
    def resting(self) -> Tensor:
        """Centre (D,) of the states. Rest is undefined, because features need not include velocities."""
        return self.centre

    def coast(self, states: Float[Tensor, "*rest 1 D"], frames: int) -> Float[Tensor, "*rest {frames} D"]:
        """Constant states (..., frames, D) from states (..., 1, D), because features need not include velocities."""
        return states.expand(*states.shape[:-2], frames, -1)

    def observation_noise(self) -> ObservationNoise:
        """Not supported.

        Raises:
            ValueError: always.
        """
        raise ValueError("method.model.noise=true is not supported by this model; use model=continuous")

    def responder(self, states: Float[Tensor, "B N T D"]) -> Callable[[Tensor, Tensor], Tensor]:
        """Returns a function of summed messages (B, N, M, T, C), node modules (B, N, M) to changes (B, N, M, T, D).

        Args:
            states: states of the receivers (B, N, T, D). Terms that depend on them alone are computed once.
        """
        if self.additive:
            return self.additive_responder(states)
        own = self.scaled(states).unsqueeze(2)  # (B, N, 1, T, D)

        def respond(received: Tensor, types: Tensor) -> Tensor:
            inputs = torch.cat((own.expand(*received.shape[:-1], -1), received), dim=-1)
            if self._node_modules_repeat(types):  # evaluate each node module on its own candidates only
                apart = inputs.unflatten(2, (-1, self.num_node_modules)).movedim(3, 0)  # (G, B, N, M / G, T, D + C)
                out = self.node_modules(apart.flatten(1, -2)).unflatten(1, apart.shape[1:-1])
                return out.movedim(0, 3).flatten(2, 3)
            return self.of_node_modules(self.own_changes(inputs), types)

        return respond

    def _node_modules_repeat(self, types: Tensor) -> bool:
        """Whether receivers share candidates, and their node modules repeat 0, 1, ..., G - 1."""
        g, shared = self.num_node_modules, types.shape[1] == 1
        return g > 1 and shared and bool((types[0, 0] == torch.arange(types.shape[2], device=types.device) % g).all())

    def stepper(
        self,
        relations: Int[Tensor, "B N S"],
        types: Int[Tensor, "B N"],
        kept: Kept | None = None,
        drive: Float[Tensor, "B N D *A"] | None = None,
    ) -> Callable[[Tensor], Tensor]:
        """Returns a one-frame step function of states (B, N, T, D) for a fixed structure.

        Edges are grouped by module, so that an edge costs one module evaluation instead of K. The last layer of an edge
        module is linear, so it is applied after the sum over senders, merged with the first layer of node modules that
        are perceptrons.

        Args:
            relations: edge modules (B, N, S).
            types: node modules (B, N).
            kept: tasks that have gradients; None for all.
        """
        features = self.features
        if not features.direct:  # the last layer cannot be moved behind the sum

            def step_of_pairs(states: Tensor) -> Tensor:
                change = self.change(states, self.pair_law(states), relations.unsqueeze(2), types.unsqueeze(2))
                return states + change.squeeze(2) * self.change_scale

            return step_of_pairs
        b, n, s = relations.shape
        receiver = torch.arange(b * n, device=relations.device).repeat_interleave(s)
        sender = (senders(n, relations.device) + n * torch.arange(b, device=relations.device).view(-1, 1, 1)).flatten()
        task = torch.arange(b, device=relations.device)
        ends, degrees = [], []  # per sending module: receivers and senders of its edges, in-degree of every entity
        last = self.edge_modules.affine[-1]
        sending = range(int(self.null_module), self.num_edge_modules)
        for module in sending:
            chosen = (relations.flatten() == module).nonzero().squeeze(1)
            ends.append((receiver[chosen], sender[chosen]))
            degrees.append(types.new_zeros(b * n).index_add(0, receiver[chosen], torch.ones_like(chosen)))
        degree = torch.stack(degrees, dim=-1).unsqueeze(1).to(last.weight.dtype)  # (B N, 1, K)
        networks, kept = [self.edge_modules.hidden_layers(module) for module in sending], kept or Kept()
        lead = [last.weight[sending.start :].flatten(0, 1), last.bias[sending.start :].squeeze(1)]
        if self.edge_modules.linear is not None:
            linear = self.edge_modules.linear
            lead[0] = torch.cat((lead[0], linear.weight[sending.start :].flatten(0, 1)))
            lead[1] = lead[1] + linear.bias[sending.start :].squeeze(1)
        joined = torch.cat(lead)  # maps sums of hidden layers, sums of pair features, and degrees to messages, (L, C)
        nodes = self.node_modules.composed(self.centre.numel(), joined) if not self.additive else None

        def step(states: Tensor) -> Tensor:
            scaled, t = self.scaled(states).flatten(0, 1), states.shape[2]  # (B N, T, D)
            hidden, seen = [], []
            for (to, by), network in zip(ends, networks, strict=True):
                pairs = features(scaled[to], scaled[by])  # (E, T, F)
                h = network(pairs.flatten(0, 1), kept.rows(to // n, t)).unflatten(0, pairs.shape[:2])
                hidden.append(h.new_zeros(b * n, *h.shape[1:]).index_add(0, to, h))
                if self.edge_modules.linear is not None:
                    seen.append(pairs.new_zeros(b * n, *pairs.shape[1:]).index_add(0, to, pairs))
            degree_here = degree.expand(-1, t, -1)
            sums = torch.cat((*hidden, *seen, degree_here.to(hidden[0].dtype)), dim=-1)  # (B N, T, L)
            if nodes is None:
                received = (sums @ joined).unflatten(0, (b, n)).unsqueeze(2)  # (B, N, 1, T, C)
                change = self.responder(states)(received, types.unsqueeze(2)).squeeze(2)
            else:
                seen_by = torch.cat((scaled.to(sums.dtype), sums), dim=-1).flatten(0, 1)
                changes = nodes(seen_by, kept.rows(task, n * t)).unflatten(1, (b, n, 1, t))
                change = self.of_node_modules(changes, types.unsqueeze(2)).squeeze(2)
            return states + change * self.change_scale

        return step
