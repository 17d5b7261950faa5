"""Discrete-time dynamics: modules predict the change from one frame to the next."""

from collections.abc import Callable
from typing import final

import torch
from torch import Tensor
from torch.nn import functional as F

from modmeta import machine
from modmeta.data.units import Scales
from modmeta.graph.relations import senders
from modmeta.model.dynamics.base import Dynamics, one_hot
from modmeta.model.features import PairFeatures
from modmeta.model.grouped import Blocks, Kept
from modmeta.model.noise import ObservationNoise
from modmeta.shapes import Float, Int

BLOCKS = 16  # of every module, into which edges are sorted on a GPU; few are padding then, and all work side by side


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
        if not self.features.direct:  # the last layer cannot be moved behind the sum

            def step_of_pairs(states: Tensor) -> Tensor:
                change = self.change(states, self.pair_law(states), relations.unsqueeze(2), types.unsqueeze(2))
                return states + change.squeeze(2) * self.change_scale

            return step_of_pairs
        (b, n, _), kept = relations.shape, kept or Kept()
        last, first = self.edge_modules.affine[-1], int(self.null_module)  # that sends
        every = one_hot(relations, self.num_edge_modules, last.weight.dtype).unflatten(-1, (-1, self.num_edge_modules))
        degree = every[..., first:].sum(2).flatten(0, 1).unsqueeze(1)  # incoming edges of every module, (B N, 1, K)
        # the number of edges of a module would wait for a GPU
        sums_of = self._sums_of_blocks if machine.waits(relations) else self._sums_of_modules
        received_by = sums_of(relations, kept)
        lead = [last.weight[first:].flatten(0, 1), last.bias[first:].squeeze(1)]
        if self.edge_modules.linear is not None:
            linear = self.edge_modules.linear
            lead[0] = torch.cat((lead[0], linear.weight[first:].flatten(0, 1)))
            lead[1] = lead[1] + linear.bias[first:].squeeze(1)
        joined = torch.cat(lead)  # maps sums of hidden layers, sums of pair features, and degrees to messages, (L, C)
        nodes = self.node_modules.composed(self.centre.numel(), joined) if not self.additive else None

        def step(states: Tensor) -> Tensor:
            scaled, t = self.scaled(states).flatten(0, 1), states.shape[2]  # (B N, T, D)
            parts = received_by(scaled)
            parts.append(degree.expand(-1, t, -1).to(parts[0].dtype))
            if nodes is None:
                sums = torch.cat(parts, dim=-1)  # (B N, T, L)
                received = (sums @ joined).unflatten(0, (b, n)).unsqueeze(2)  # (B, N, 1, T, C)
                change = self.responder(states)(received, types.unsqueeze(2)).squeeze(2)
            else:
                seen_by = torch.cat((scaled.to(parts[0].dtype), *parts), dim=-1).flatten(0, 1)  # (B N T, D + L)
                changes = nodes(seen_by, kept.rows(n * t)).unflatten(1, (b, n, 1, t))
                change = self.of_node_modules(changes, types.unsqueeze(2)).squeeze(2)
            return states + change * self.change_scale

        return step

    def _sums_of_modules(self, relations: Tensor, kept: Kept) -> Callable[[Tensor], list[Tensor]]:
        """Returns a function of scaled states (B N, T, D) to what entities receive, module by module.

        These are sums over senders of hidden layers, (B N, T, hidden) of every module, then, beside an affine map, of
        pair features, (B N, T, F) of every module.

        Args:
            relations: edge modules (B, N, S).
            kept: tasks that have gradients.
        """
        (b, n, _), (receiver, sender) = relations.shape, _ends(relations)
        sending, ends = range(int(self.null_module), self.num_edge_modules), []
        for module in sending:
            chosen = (relations.flatten() == module).nonzero().squeeze(1)
            ends.append((receiver[chosen], sender[chosen]))
        networks = [self.edge_modules.hidden_layers(module) for module in sending]

        def sums(scaled: Tensor) -> list[Tensor]:
            hidden, seen = [], []
            for (to, by), network in zip(ends, networks, strict=True):
                pairs = self.features(scaled[to], scaled[by])  # (E, T, F)
                rows = kept.rows_of(to // n, b, pairs.shape[1])
                h = network(pairs.flatten(0, 1), rows).unflatten(0, pairs.shape[:2])
                hidden.append(h.new_zeros(b * n, *h.shape[1:]).index_add(0, to, h))
                if self.edge_modules.linear is not None:
                    seen.append(pairs.new_zeros(b * n, *pairs.shape[1:]).index_add(0, to, pairs))
            return [*hidden, *seen]

        return sums

    def _sums_of_blocks(self, relations: Tensor, kept: Kept) -> Callable[[Tensor], list[Tensor]]:
        """As `_sums_of_modules`, in shapes that depend on no structure, and in one product for all modules.

        Edges are sorted by module, padded to blocks of one module each.
        """
        b, n, s = relations.shape
        first, nobody = int(self.null_module), b * n  # nobody receives what padding and silent modules send
        module, modules = relations.flatten() - first, self.num_edge_modules - first
        size = max(1, -(-len(module) // (BLOCKS * modules)))
        blocks = Blocks(module.clamp_min(0), modules, size)
        to, by, of = (F.pad(part, (0, 1), value=nobody)[blocks.inputs] for part in (*_ends(relations), module))
        place = torch.where((of < 0) | (to == nobody), nobody * modules, to * modules + of)
        hidden = self.edge_modules.hidden_in_blocks(first, blocks, kept.rows(n * s))

        def summed_up(values: Tensor) -> tuple[Tensor, ...]:
            sums = values.new_zeros(nobody * modules + 1, *values.shape[1:]).index_add(0, place, values)
            return sums[:-1].unflatten(0, (nobody, modules)).unbind(1)

        def sums(scaled: Tensor) -> list[Tensor]:
            states = F.pad(scaled, (0, 0, 0, 0, 0, 1))  # and that of nobody
            pairs = self.features(states[to], states[by])  # (slots, T, F)
            h = hidden(pairs.view(len(blocks.of_block), -1, pairs.shape[2])).view(*pairs.shape[:2], -1)
            seen = () if self.edge_modules.linear is None else summed_up(pairs)
            return [*summed_up(h), *seen]

        return sums


def _ends(relations: Tensor) -> tuple[Tensor, Tensor]:
    """Receiver and sender (E,) of every edge of (B, N, S), as indices of B N entities."""
    (b, n, s), device = relations.shape, relations.device
    receiver = torch.arange(b * n, device=device).unsqueeze(1).expand(-1, s)
    sender = senders(n, device) + n * torch.arange(b, device=device).view(-1, 1, 1)
    return receiver.flatten(), sender.flatten()
