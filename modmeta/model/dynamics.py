"""Modular dynamics: edge modules, node modules, and the step they make together.

    mu_ij = h_{z_ij}(s_i, s_j)
    s_i'  = s_i + g_{z_i}(s_i, sum_j mu_ij)

An additive node module is g_z(s_i, m) = b_z m + g_z(s_i); b_z is its mobility, 1 where there is one node module only.

(Alet et al. 2019, section 3; the graph network of Battaglia et al. 2016 with modules in its slots.)

A step from every observed frame is worked out in two parts, so that one evaluation of the edge modules serves every
candidate structure: `messages` gives what each module would send along each edge, `change` turns the sum that a
structure selects into the change of the receiver. Shapes: B tasks, N entities, S = N - 1 senders, T frames, D features,
K edge modules, G node modules, C channels of a message, M candidates of a receiver.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modmeta.data.units import Scales
from modmeta.model.features import AbsoluteFeatures, IsotropicFeatures, RelativeFeatures, pair_states
from modmeta.model.grouped import GroupedMLP, Kept
from modmeta.structure.bank import Structure
from modmeta.structure.relations import couples, senders

AT_ONCE = 8192  # pairs that edge modules answer at once, where no gradient is asked for
GAIN = 5.0  # a power of 2 is far for a parameter that moves by the learning rate


def one_hot(rows: Tensor, num_modules: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Rows of modules (..., S) to weights of messages (..., S K)."""
    return F.one_hot(rows, num_modules).flatten(-2).to(dtype)


def summed(messages: Tensor, rows: Tensor) -> Tensor:
    """Messages (B, N, S, K, T, C) that candidate rows (B, N, M, S) select, summed over senders: (B, N, M, T, C)."""
    b, n, s, k, t, c = messages.shape
    weights = one_hot(rows, k, messages.dtype)  # (B, N, M, S K)
    return (weights @ messages.reshape(b, n, s * k, t * c)).view(b, n, -1, t, c)


class ModularDynamics(nn.Module):
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

    state_scale: Tensor
    change_scale: Tensor
    centre: Tensor

    def __init__(
        self,
        num_features: int,
        num_edge_modules: int,
        features: AbsoluteFeatures | RelativeFeatures | IsotropicFeatures,
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
        super().__init__()
        d, k, g = num_features, num_edge_modules, num_node_modules
        self.features = features
        self.num_edge_modules, self.num_node_modules, self.additive = k, g, additive
        self.robust, self.null_module = robust, null_module
        channels = channels or (d if additive else hidden)
        answers = features.answers(channels) if isinstance(features, IsotropicFeatures) else channels
        edge_sizes = [features.size(d), *[hidden] * edge_layers, answers]
        node_sizes = [d if additive else d + channels, *[node_hidden or hidden] * node_layers, d]
        self.edge_modules = GroupedMLP(k, edge_sizes, activation, linear_path and additive)
        self.node_modules = GroupedMLP(g, node_sizes, activation, linear_path)
        if isinstance(features, IsotropicFeatures):
            self.decay = nn.Parameter(torch.zeros(k))  # times GAIN, the power of the distance with which answers fall
        self.log_mobility = nn.Parameter(torch.zeros(g)) if additive and g > 1 else None  # times GAIN
        self.register_buffer("centre", torch.zeros(d))
        self.register_buffer("state_scale", torch.ones(d))
        self.register_buffer("change_scale", torch.ones(d))

    def set_scales(self, scales: Scales) -> None:
        """Takes the units in which modules see states and changes."""
        if not self.robust:
            return
        self.centre.copy_(scales.centre)
        self.state_scale.copy_(scales.state)
        self.change_scale.copy_(scales.change)

    def scaled(self, states: Tensor) -> Tensor:
        """States (..., D) in the units that the modules see."""
        return (states - self.centre) / self.state_scale

    def targets(self, states: Tensor) -> Tensor:
        """Observed changes (B, N, T - 1, D) in units of `change_scale`."""
        return states.diff(dim=2) / self.change_scale

    def messages(self, states: Tensor, structure: Structure | None = None) -> Tensor:
        """What every module sends along every edge in every observed change: (B, N, T, D) to (B, N, S, K, T - 1, C).

        Args:
            states: observed.
            structure: the best known, for dynamics whose messages depend on it; not here.
        """
        return self._send(states[:, :, :-1])

    def _send(self, states: Tensor) -> Tensor:
        """Outputs of all edge modules at given states: (B, N, T, D) to (B, N, S, K, T, C)."""
        scaled, n = self.scaled(states), states.shape[1]
        if not isinstance(self.features, IsotropicFeatures):
            return self._answer(self.features(*pair_states(scaled))).movedim(0, 3)
        first, second, couple, sign = couples(n, states.device)  # both ends see the same, and are sent the opposite
        difference = scaled[:, second] - scaled[:, first]  # (B, N S / 2, T, D)
        seen = self.features(difference)
        sent = self.features.directed(self._answer(seen), seen, difference, GAIN * self.decay).transpose(0, 1)
        both = sent.index_select(2, couple.flatten()).unflatten(2, couple.shape).movedim(1, 3)
        return both * sign.view(n, n - 1, 1, 1, 1).to(both.dtype)

    def _answer(self, pairs: Tensor) -> Tensor:
        """Outputs of all edge modules, (..., F) to (K, ..., C)."""
        rows = pairs.flatten(0, -2)
        if torch.is_grad_enabled() or len(rows) <= AT_ONCE:
            out = self.edge_modules(rows)
        else:  # activations stay in cache, and memory is that of the answers
            out = torch.cat([self.edge_modules(part) for part in rows.split(AT_ONCE)], dim=1)
        if self.null_module:
            out = torch.cat((torch.zeros_like(out[:1]), out[1:]))
        return out.view(len(out), *pairs.shape[:-1], out.shape[-1])

    def change(self, states: Tensor, messages: Tensor, rows: Tensor, types: Tensor) -> Tensor:
        """Change that candidate structures predict, in units of `change_scale`.

        Args:
            states: (B, N, T, D).
            messages: that follow from them, (B, N, S, K, T, C).
            rows: modules on incoming edges, (B, N, M, S); B and N may be 1 where all receivers share candidates.
            types: node modules, (B, N, M), likewise.

        Returns:
            (B, N, M, T, D).
        """
        return self.responder(states)(summed(messages, rows), types)

    def responder(self, states: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """What turns summed messages (B, N, M, T, C) and node modules (B, N, M) into changes (B, N, M, T, D).

        Args:
            states: (B, N, T, D) of the receivers; what they alone decide is worked out once.
        """
        own = self.scaled(states).unsqueeze(2)  # (B, N, 1, T, D)
        if self.additive:
            free = self._nodes(own)

            def add(received: Tensor, types: Tensor) -> Tensor:
                mobility = self.mobilities(types)
                if mobility is not None:
                    received = received * mobility[..., None, None]
                return received + self._select(free, types)

            return add

        def respond(received: Tensor, types: Tensor) -> Tensor:
            inputs = torch.cat((own.expand(*received.shape[:-1], -1), received), dim=-1)
            if self._in_turn(types):  # each node module has its own candidates to see, not those of the others
                apart = inputs.unflatten(2, (-1, self.num_node_modules)).movedim(3, 0)  # (G, B, N, M / G, T, D + C)
                out = self.node_modules(apart.flatten(1, -2)).unflatten(1, apart.shape[1:-1])
                return out.movedim(0, 3).flatten(2, 3)
            return self._select(self._nodes(inputs), types)

        return respond

    def _in_turn(self, types: Tensor) -> bool:
        """Whether all receivers share candidates, every row of which comes with node modules 0, 1, ... in turn."""
        g, shared = self.num_node_modules, types.shape[1] == 1
        return g > 1 and shared and bool((types[0, 0] == torch.arange(types.shape[2], device=types.device) % g).all())

    def mobilities(self, types: Tensor) -> Tensor | None:
        """By what node modules (...) scale the messages that they receive, (...); none where it is 1."""
        return None if self.log_mobility is None else (GAIN * self.log_mobility).exp()[types]

    def _nodes(self, inputs: Tensor) -> Tensor:
        out = self.node_modules(inputs.flatten(0, -2))  # (G, P, D)
        return out.view(-1, *inputs.shape[:-1], out.shape[-1])

    def _select(self, changes: Tensor, types: Tensor) -> Tensor:
        """Of changes (G, B, N, M or 1, T, D) those of the chosen node modules, types (B, N, M); B and N may be 1."""
        if self.num_node_modules == 1:
            return changes[0]
        g, b, n, m, t, d = changes.shape
        weights = F.one_hot(types, g).to(changes.dtype)  # (B, N, M, G)
        if m == 1:  # the same for every candidate: a matrix product does without copies for each
            return (weights @ changes.movedim(0, 3).reshape(b, n, g, t * d)).unflatten(-1, (t, d))
        return torch.einsum("gbnmtd,bnmg->bnmtd", changes, weights.expand(b, n, m, g))

    def step(self, states: Tensor, relations: Tensor, types: Tensor) -> Tensor:
        """Next states (B, N, T, D) from each given one, under structures (B, N, S) and (B, N)."""
        return self.stepper(relations, types)(states)

    def stepper(self, relations: Tensor, types: Tensor, kept: Kept | None = None) -> Callable[[Tensor], Tensor]:
        """What takes states (B, N, T, D) a step on, under structures (B, N, S) and (B, N) that stay as they are.

        Tasks that are not `kept` have no gradient.

        Edges are sorted by module, so that each costs one module, not K. The last layer of an edge module is linear:
        it comes after the sum over senders, and melts into the first layer of the node module that follows.
        """
        features = self.features
        if isinstance(features, IsotropicFeatures):  # both ends of a couple share a module's work instead

            def coupled(states: Tensor) -> Tensor:
                change = self.change(states, self._send(states), relations.unsqueeze(2), types.unsqueeze(2))
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
                change = self._select(changes, types.unsqueeze(2)).squeeze(2)
            return states + change * self.change_scale

        return step

    def rollout(self, states: Tensor, relations: Tensor, types: Tensor, steps: int, kept: Kept | None = None) -> Tensor:
        """Forecasts (B, N, T, steps, D) from each of T given frames (B, N, T, D); `kept` tasks alone have gradients."""
        frames, step = [], self.stepper(relations, types, kept)
        for _ in range(steps):
            states = step(states)
            frames.append(states)
        return torch.stack(frames, dim=3)
