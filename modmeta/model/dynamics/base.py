"""What every dynamics is made of: edge modules, node modules, and the step they make together.

    mu_ij = h_{z_ij}(s_i, s_j)
    s_i'  = s_i + g_{z_i}(s_i, sum_j mu_ij)

An additive node module is g_z(s_i, m) = b_z m + g_z(s_i); b_z is its mobility, 1 where there is one node module only.

(Alet et al. 2019, section 3; the graph network of Battaglia et al. 2016 with modules in its slots.)

A step from every observed frame is worked out in two parts, so that one evaluation of the edge modules serves every
candidate structure: `messages` gives what each module would send along each edge, `change` turns the sum that a
structure selects into the change of the receiver. Shapes: B tasks, N entities, S = N - 1 senders, T frames, D features,
K edge modules, G node modules, C channels of a message, M candidates of a receiver.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modmeta.data.units import Scales
from modmeta.graph.bank import Structure
from modmeta.graph.relations import couples
from modmeta.model.basis import FoundLaws
from modmeta.model.features import PairFeatures, pair_states
from modmeta.model.grouped import GroupedMLP, Kept
from modmeta.model.noise import ObservationNoise
from modmeta.shapes import Float, Int

AT_ONCE = 8192  # pairs that edge modules answer at once, where no gradient is asked for
GAIN = 5.0  # a power of 2 is far for a parameter that moves by the learning rate


def one_hot(
    rows: Int[Tensor, "*rest S"], num_modules: int, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "*rest SK"]:
    """Rows of modules (..., S) to weights of messages (..., S K)."""
    return F.one_hot(rows, num_modules).flatten(-2).to(dtype)


def summed(messages: Float[Tensor, "B N S K T C"], rows: Int[Tensor, "#B #N M S"]) -> Float[Tensor, "B N M T C"]:
    """Messages (B, N, S, K, T, C) that candidate rows (B, N, M, S) select, summed over senders: (B, N, M, T, C)."""
    b, n, s, k, t, c = messages.shape
    weights = one_hot(rows, k, messages.dtype)  # (B, N, M, S K)
    return (weights @ messages.reshape(b, n, s * k, t * c)).view(b, n, -1, t, c)


class Dynamics(nn.Module, ABC):
    """K edge modules and G node modules that together predict the next frame.

    Subclasses are final and siblings. Each gives units and targets, messages, responses and steps, and says what rest,
    uniform motion and noise of observations are to it.

    Args:
        features: what an edge module sees of a pair.
        num_features: D.
        num_edge_modules: K.
        num_node_modules: G.
        channels: C, of a message.
        hidden: widths of the hidden layers of edge modules.
        node_hidden: widths of the hidden layers of node modules.
        additive: a message is a change of the receiver's state, and a node module adds the entity's own; otherwise the
            node module is a perceptron on state and summed messages, as in the paper. Several additive node modules
            also scale what is received, each by its mobility, as one over the mass does.
        linear_path: an affine path beside each perceptron.
        activation: elementwise function of the hidden layers.
        null_module: module 0 sends nothing.
    """

    state_scale: Tensor
    change_scale: Tensor
    centre: Tensor
    has_constants: bool = False  # of entities, each its own
    robust: bool = True  # whether modules see states in robust scales of the data

    def __init__(
        self,
        features: PairFeatures,
        num_features: int,
        num_edge_modules: int,
        num_node_modules: int,
        channels: int,
        hidden: Sequence[int],
        node_hidden: Sequence[int],
        additive: bool,
        linear_path: bool,
        activation: Callable[[Tensor], Tensor],
        null_module: bool,
    ) -> None:
        super().__init__()
        d, k, g = num_features, num_edge_modules, num_node_modules
        self.features, self.additive, self.null_module = features, additive, null_module
        self.num_edge_modules, self.num_node_modules = k, g
        edge_sizes = [features.size(d), *hidden, features.answers(channels)]
        node_sizes = [d if additive else d + channels, *node_hidden, d]
        self.edge_modules = GroupedMLP(k, edge_sizes, activation, linear_path and additive)
        self.node_modules = GroupedMLP(g, node_sizes, activation, linear_path)
        # Times GAIN, the power of the distance with which answers fall.
        self.decay = nn.Parameter(torch.zeros(k)) if features.power_law else None
        self.log_mobility = nn.Parameter(torch.zeros(g)) if additive and g > 1 else None  # times GAIN
        self.register_buffer("centre", torch.zeros(d))
        self.register_buffer("state_scale", torch.ones(d))
        self.register_buffer("change_scale", torch.ones(d))

    # ---- what a subclass gives -------------------------------------------------------------------------------------

    @abstractmethod
    def set_scales(self, scales: Scales) -> None:
        """Takes the units in which modules see states and changes."""

    @abstractmethod
    def targets(self, states: Float[Tensor, "B N T D"]) -> Float[Tensor, "B N T-1 D"]:
        """Observed changes of states (B, N, T, D), (B, N, T - 1, D) in units of `change_scale`."""

    @abstractmethod
    def messages(
        self, states: Float[Tensor, "B N T D"], structure: Structure | None = None
    ) -> Float[Tensor, "B N S K T-1 C"]:
        """What every module sends along every edge in every observed change: (B, N, T, D) to (B, N, S, K, T - 1, C).

        Args:
            states: observed.
            structure: the best known, for dynamics whose messages depend on it.
        """

    @abstractmethod
    def responder(self, states: Float[Tensor, "B N T D"]) -> Callable[[Tensor, Tensor], Tensor]:
        """What turns summed messages (B, N, M, T, C) and node modules (B, N, M) into changes (B, N, M, T, D).

        Args:
            states: (B, N, T, D) of the receivers; what they alone decide is worked out once.
        """

    @abstractmethod
    def stepper(
        self,
        relations: Int[Tensor, "B N S"],
        types: Int[Tensor, "B N"],
        kept: Kept | None = None,
        drive: Float[Tensor, "B N D"] | None = None,
    ) -> Callable[[Tensor], Tensor]:
        """A one-frame step function of states (B, N, T, D), for structures (B, N, S) and (B, N) that stay as they are.

        Tasks that are not `kept` have no gradient. `drive` holds the constants of entities, where the dynamics has any.
        """

    @property
    @abstractmethod
    def resting(self) -> Tensor:
        """State (D,) of an entity at rest in the middle."""

    @abstractmethod
    def coast(self, states: Float[Tensor, "*rest 1 D"], frames: int) -> Float[Tensor, "*rest {frames} D"]:
        """Paths (..., frames, D) of entities that nothing acts on, from states (..., 1, D)."""

    @abstractmethod
    def observation_noise(self) -> ObservationNoise:
        """What noise of observations does to the errors of steps.

        Raises:
            ValueError: it is not known.
        """

    # ---- what a subclass may refine --------------------------------------------------------------------------------

    def begin(self, laws: FoundLaws) -> None:
        """Takes laws that a cold start found, after `set_scales`, where modules can hold them."""

    def along(self, states: Float[Tensor, "B N T D"]) -> Callable[[Tensor, Tensor], Tensor]:
        """The `responder` of the observed steps of states (B, N, T, D)."""
        return self.responder(states[:, :, :-1])

    def without_constants(
        self, values: Float[Tensor, "B N *any T-1 C"], states: Float[Tensor, "B N T D"], mask: Tensor | None = None
    ) -> Float[Tensor, "B N *any T-1 C"]:
        """Errors or messages of observed steps less what constants of the entities explain, where they have any.

        Args:
            values: (B, N, ..., T - 1, C).
            states: of the steps (B, N, T, D).
            mask: steps that count, (B, T - 1); none for all.
        """
        return values

    def drive(
        self, error: Float[Tensor, "B N T-1 D"], states: Float[Tensor, "B N T D"], mask: Tensor | None = None
    ) -> Float[Tensor, "B N D"] | None:
        """Constants of the entities that explain errors of predicted changes; none where they have none."""
        return None

    # ---- what all share --------------------------------------------------------------------------------------------

    def take_units(self, scales: Scales) -> None:
        """Takes robust scales of the data."""
        self.centre.copy_(scales.centre)
        self.state_scale.copy_(scales.state)
        self.change_scale.copy_(scales.change)

    def scaled(self, states: Float[Tensor, "*rest D"]) -> Float[Tensor, "*rest D"]:
        """States (..., D) in the units that the modules see."""
        return (states - self.centre) / self.state_scale

    def perceptrons(self) -> list[nn.Parameter]:
        """Parameters that weight decay applies to: those of perceptrons, not of affine paths beside them.

        Where a power of the distance carries the law, affine paths are superfluous, too.
        """
        parameters = [*self.edge_modules.layers.parameters(), *self.node_modules.layers.parameters()]
        if self.features.power_law and self.edge_modules.linear is not None:
            parameters.append(self.edge_modules.linear.weight)
        return parameters

    def pair_law(self, states: Float[Tensor, "B N T D"]) -> Float[Tensor, "B N S K T C"]:
        """What every module sends along every edge at given states: (B, N, T, D) to (B, N, S, K, T, C)."""
        scaled, n = self.scaled(states), states.shape[1]
        if not self.features.mutual:
            receiver, sender = pair_states(scaled)
            seen = self.features(receiver, sender)
            sent = self.features.messages(self._answer(seen), seen, receiver, sender, self._powers())
            return sent.movedim(0, 3)
        first, second, couple, sign = couples(n, states.device)  # both ends see the same, and are sent the opposite
        receiver, sender = scaled[:, first], scaled[:, second]  # (B, N S / 2, T, D)
        seen = self.features(receiver, sender)
        sent = self.features.messages(self._answer(seen), seen, receiver, sender, self._powers()).transpose(0, 1)
        both = sent.index_select(2, couple.flatten()).unflatten(2, couple.shape).movedim(1, 3)
        return both * sign.view(n, n - 1, 1, 1, 1).to(both.dtype)

    def _powers(self) -> Tensor | None:
        return None if self.decay is None else GAIN * self.decay

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

    def change(
        self,
        states: Float[Tensor, "B N T D"],
        messages: Float[Tensor, "B N S K T C"],
        rows: Int[Tensor, "#B #N M S"],
        types: Int[Tensor, "#B #N M"],
    ) -> Float[Tensor, "B N M T D"]:
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

    def mobilities(self, types: Tensor) -> Tensor | None:
        """By what node modules (...) scale the messages that they receive, (...); none where it is 1."""
        return None if self.log_mobility is None else (GAIN * self.log_mobility).exp()[types]

    def adder(self, states: Float[Tensor, "B N T D"]) -> Callable[[Tensor, Tensor], Tensor]:
        """The `responder` of additive dynamics."""
        return self.adding(self.own_changes(self.scaled(states)))

    def adding(self, free: Float[Tensor, "G B N T D"]) -> Callable[[Tensor, Tensor], Tensor]:
        """The `responder` that adds what is received, times mobilities, to the changes of entities by themselves."""
        free = free.unsqueeze(3)  # (G, B, N, 1, T, D)

        def add(received: Tensor, types: Tensor) -> Tensor:
            mobility = self.mobilities(types)
            if mobility is not None:
                received = received * mobility[..., None, None]
            return received + self.of_types(free, types)

        return add

    def own_changes(self, inputs: Float[Tensor, "*rest F"]) -> Float[Tensor, "G *rest D"]:
        """Answers of all node modules, (..., F) to (G, ..., D)."""
        out = self.node_modules(inputs.flatten(0, -2))  # (G, P, D)
        return out.view(-1, *inputs.shape[:-1], out.shape[-1])

    def of_types(
        self, changes: Float[Tensor, "G B N #M T D"], types: Int[Tensor, "#B #N M"]
    ) -> Float[Tensor, "B N _ T D"]:
        """Of changes (G, B, N, M or 1, T, D) those of the chosen node modules, types (B, N, M); B and N may be 1."""
        if self.num_node_modules == 1:
            return changes[0]
        g, b, n, m, t, d = changes.shape
        weights = F.one_hot(types, g).to(changes.dtype)  # (B, N, M, G)
        if m == 1:  # the same for every candidate: a matrix product does without copies for each
            return (weights @ changes.movedim(0, 3).reshape(b, n, g, t * d)).unflatten(-1, (t, d))
        return torch.einsum("gbnmtd,bnmg->bnmtd", changes, weights.expand(b, n, m, g))

    def step(
        self,
        states: Float[Tensor, "B N T D"],
        relations: Int[Tensor, "B N S"],
        types: Int[Tensor, "B N"],
        drive: Float[Tensor, "B N D"] | None = None,
    ) -> Float[Tensor, "B N T D"]:
        """Next states (B, N, T, D) from each given one, under structures (B, N, S) and (B, N)."""
        return self.stepper(relations, types, drive=drive)(states)

    def rollout(
        self,
        states: Float[Tensor, "B N T D"],
        relations: Int[Tensor, "B N S"],
        types: Int[Tensor, "B N"],
        steps: int,
        kept: Kept | None = None,
        drive: Float[Tensor, "B N D"] | None = None,
    ) -> Float[Tensor, "B N T {steps} D"]:
        """Forecasts (B, N, T, steps, D) from each of T given frames (B, N, T, D); `kept` tasks alone have gradients."""
        frames, step = [], self.stepper(relations, types, kept, drive)
        for _ in range(steps):
            states = step(states)
            frames.append(states)
        return torch.stack(frames, dim=3)
