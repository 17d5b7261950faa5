"""Dynamics from frame to frame: a message is what one frame does to the next."""

from collections.abc import Callable
from typing import final

import torch
from torch import Tensor
from torch.nn import functional as F

from modmeta.data.units import Scales
from modmeta.graph.bank import Structure
from modmeta.graph.relations import senders
from modmeta.model.dynamics.base import Dynamics
from modmeta.model.features import PairFeatures
from modmeta.model.grouped import Kept
from modmeta.model.noise import ObservationNoise
from modmeta.shapes import Float, Int


@final
class ModularDynamics(Dynamics):
    """K edge modules and G node modules that together predict the next frame.

    Args:
        num_features: D.
        num_edge_modules: K.
        num_node_modules: G.
        hidden: width of the hidden layers of edge modules.
        edge_layers: hidden layers of an edge module.
        node_layers: hidden layers of a node module.
        node_hidden: their width; none for `hidden`.
        features: what an edge module sees of a pair.
        additive: a message is a change of the receiver's state, and a node module adds the entity's own; otherwise the
            node module is a perceptron on state and summed messages, as in the paper. Several additive node modules
            also scale what is received, each by its mobility, as one over the mass does.
        linear_path: an affine path beside each perceptron.
        robust: modules see states and changes in robust scales of the data; otherwise in protocol units.
        activation: elementwise function of the hidden layers.
        channels: of a message; none for D, or `hidden` where messages are not changes.
        null_module: module 0 sends nothing.
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
        """Takes the units in which modules see states and changes; none where they see those of the protocol."""
        if self.robust:
            self.take_units(scales)

    def targets(self, states: Float[Tensor, "B N T D"]) -> Float[Tensor, "B N T-1 D"]:
        """Observed changes (B, N, T - 1, D) in units of `change_scale`."""
        return states.diff(dim=2) / self.change_scale

    def messages(
        self, states: Float[Tensor, "B N T D"], structure: Structure | None = None
    ) -> Float[Tensor, "B N S K T-1 C"]:
        """What every module sends along every edge in every observed change: (B, N, T, D) to (B, N, S, K, T - 1, C).

        Args:
            states: observed.
            structure: of no consequence here.
        """
        return self.pair_law(states[:, :, :-1])

    @property
    def resting(self) -> Tensor:
        """State (D,) in the middle of all; what rest is, is not known."""
        return self.centre

    def coast(self, states: Float[Tensor, "*rest 1 D"], frames: int) -> Float[Tensor, "*rest {frames} D"]:
        """The same states (..., 1, D) in every frame, (..., frames, D): velocities, if any, do not move coordinates."""
        return states.expand(*states.shape[:-2], frames, -1)

    def observation_noise(self) -> ObservationNoise:
        """
        Raises:
            ValueError: always.
        """
        raise ValueError("method.model.noise=true needs model=continuous, which knows how noise propagates")

    def responder(self, states: Float[Tensor, "B N T D"]) -> Callable[[Tensor, Tensor], Tensor]:
        """What turns summed messages (B, N, M, T, C) and node modules (B, N, M) into changes (B, N, M, T, D).

        Args:
            states: (B, N, T, D) of the receivers; what they alone decide is worked out once.
        """
        if self.additive:
            return self.adder(states)
        own = self.scaled(states).unsqueeze(2)  # (B, N, 1, T, D)

        def respond(received: Tensor, types: Tensor) -> Tensor:
            inputs = torch.cat((own.expand(*received.shape[:-1], -1), received), dim=-1)
            if self._in_turn(types):  # each node module has its own candidates to see, not those of the others
                apart = inputs.unflatten(2, (-1, self.num_node_modules)).movedim(3, 0)  # (G, B, N, M / G, T, D + C)
                out = self.node_modules(apart.flatten(1, -2)).unflatten(1, apart.shape[1:-1])
                return out.movedim(0, 3).flatten(2, 3)
            return self.of_types(self.own_changes(inputs), types)

        return respond

    def _in_turn(self, types: Tensor) -> bool:
        """Whether all receivers share candidates, every row of which comes with node modules 0, 1, ... in turn."""
        g, shared = self.num_node_modules, types.shape[1] == 1
        return g > 1 and shared and bool((types[0, 0] == torch.arange(types.shape[2], device=types.device) % g).all())

    def stepper(
        self,
        relations: Int[Tensor, "B N S"],
        types: Int[Tensor, "B N"],
        kept: Kept | None = None,
        drive: Float[Tensor, "B N D"] | None = None,
    ) -> Callable[[Tensor], Tensor]:
        """A one-frame step function of states (B, N, T, D), for structures (B, N, S) and (B, N) that stay as they are.

        Tasks that are not `kept` have no gradient.

        Edges are sorted by module, so that each costs one module, not K. The last layer of an edge module is linear:
        it comes after the sum over senders, and melts into the first layer of the node module that follows.
        """
        features = self.features
        if not features.direct:  # both ends of a couple share a module's work instead

            def coupled(states: Tensor) -> Tensor:
                change = self.change(states, self.pair_law(states), relations.unsqueeze(2), types.unsqueeze(2))
                return states + change.squeeze(2) * self.change_scale

            return coupled
        b, n, s = relations.shape
        receiver = torch.arange(b * n, device=relations.device).repeat_interleave(s)
        sender = (senders(n, relations.device) + n * torch.arange(b, device=relations.device).view(-1, 1, 1)).flatten()
        task = torch.arange(b, device=relations.device)
        ends, degrees = [], []  # of the edges of every module that sends, and how many each entity receives
        last = self.edge_modules.affine[-1]
        speaking = range(int(self.null_module), self.num_edge_modules)
        for module in speaking:
            chosen = (relations.flatten() == module).nonzero().squeeze(1)
            ends.append((receiver[chosen], sender[chosen]))
            degrees.append(torch.bincount(receiver[chosen], minlength=b * n))
        degree = torch.stack(degrees, dim=-1).unsqueeze(1).to(last.weight.dtype)  # (B N, 1, K)
        networks, kept = [self.edge_modules.alone(module) for module in speaking], kept or Kept()
        lead = [last.weight[speaking.start :].flatten(0, 1), last.bias[speaking.start :].squeeze(1)]
        if self.edge_modules.linear is not None:
            linear = self.edge_modules.linear
            lead[0] = torch.cat((lead[0], linear.weight[speaking.start :].flatten(0, 1)))
            lead[1] = lead[1] + linear.bias[speaking.start :].squeeze(1)
        joined = torch.cat(lead)  # from sums of hidden layers, of pairs and degrees to summed messages, (L, C)
        nodes = self.node_modules.led(self.centre.numel(), joined) if not self.additive else None

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
                change = self.of_types(changes, types.unsqueeze(2)).squeeze(2)
            return states + change * self.change_scale

        return step
