"""Abstract base class of dynamics: edge modules h, node modules g, and the step composed of them.

    mu_ij = h_{z_ij}(s_i, s_j)
    s_i'  = s_i + g_{z_i}(s_i, sum_j mu_ij)

An additive node module is g_z(s_i, m) = b_z m + g_z(s_i) with mobility b_z, which is 1 for a single node module.

(Alet et al. 2019, section 3; the graph network of Battaglia et al. 2016 composed of modules.)

Changes at all observed frames are computed in two steps, so that one evaluation of the edge modules serves all
candidate structures: `messages` evaluates every module on every edge, `change` maps the sum of the messages that a
structure selects to the change of the receiver. Shapes: B tasks, N entities, S = N - 1 senders, T frames, D features,
K edge modules, G node modules, C message channels, M candidates per receiver.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modmeta.data.units import Scales
from modmeta.graph.bank import Structure
from modmeta.graph.relations import undirected_pairs
from modmeta.model.basis import FoundLaws
from modmeta.model.features import PairFeatures, pair_states
from modmeta.model.grouped import Blocks, GroupedMLP, Kept
from modmeta.model.noise import ObservationNoise
from modmeta.shapes import Float, Int

CHUNK = 1 << 16  # activations of a layer computed at once without gradients, so that they stay in a processor's cache
CHUNK_GPU = 1 << 22  # on a GPU, which small parts would leave idle
GAIN = 5.0  # scales powers and log mobilities, of order 1, to the step size of the optimiser


def one_hot(
    rows: Int[Tensor, "*rest S"], num_modules: int, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "*rest SK"]:
    """Message weights (..., S K) of the modules on incoming edges (..., S)."""
    return (rows.unsqueeze(-1) == torch.arange(num_modules, device=rows.device)).flatten(-2).to(dtype)


def weights_of(
    relations: Int[Tensor, "B N S"] | Float[Tensor, "B N S K"], num_modules: int, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "B N SK"]:
    """Message weights (B, N, S K) of edge modules (B, N, S), or of modules by their strengths (B, N, S, K)."""
    if relations.is_floating_point():
        return relations.flatten(-2).to(dtype)
    return one_hot(relations, num_modules, dtype)


def summed(messages: Float[Tensor, "B N S K T C"], rows: Int[Tensor, "#B #N M S"]) -> Float[Tensor, "B N M T C"]:
    """Messages (B, N, S, K, T, C) selected by candidate rows (B, N, M, S), summed over senders, (B, N, M, T, C)."""
    return weighed(messages, one_hot(rows, messages.shape[3], messages.dtype))


def weighed(messages: Float[Tensor, "B N S K T C"], weights: Float[Tensor, "#B #N M SK"]) -> Float[Tensor, "B N M T C"]:
    """Messages (B, N, S, K, T, C) by the weights of rows (B, N, M, S K), summed over senders, (B, N, M, T, C)."""
    b, n, s, k, t, c = messages.shape
    return (weights @ messages.reshape(b, n, s * k, t * c)).view(b, n, -1, t, c)


class Dynamics(nn.Module, ABC):
    """K edge modules and G node modules that together predict the next frame.

    Subclasses are final. Each defines scales, targets, messages, responses and steps, and its version of rest, uniform
    motion and observation noise.

    Args:
        features: pair features, the inputs of edge modules.
        num_features: D.
        num_edge_modules: K.
        num_node_modules: G.
        channels: C, the number of channels of a message.
        hidden: widths of the hidden layers of edge modules.
        node_hidden: widths of the hidden layers of node modules.
        additive: messages are changes of the receiver's state, and a node module adds the entity's own change; with
            several node modules each also scales the messages by its mobility, like an inverse mass. If false, the
            node module is a perceptron of state and summed messages, as in the paper.
        linear_path: whether every perceptron has a parallel affine map. Edge modules have one only if `additive`.
        activation: elementwise function of the hidden layers.
        null_module: whether edge module 0 always sends zero messages.
        strengths: edges of a module differ in strength, see `modmeta.model.strengths`.

    Raises:
        ValueError: strengths differ, and messages do not add up, or node modules scale them as well.
    """

    spread: Tensor | None
    state_scale: Tensor
    change_scale: Tensor
    centre: Tensor
    needs_path: bool = False  # whether the prediction of a step depends on frames around it
    has_constants: bool = False  # whether every entity has a constant rate of its own
    robust: bool = True  # whether states are scaled robustly for modules

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
        strengths: bool = False,
    ) -> None:
        super().__init__()
        if strengths and (not additive or num_node_modules > 1):
            raise ValueError("model.strengths=true needs additive dynamics and model.num_node_modules=1")
        d, k, g = num_features, num_edge_modules, num_node_modules
        self.features, self.additive, self.null_module, self.channels = features, additive, null_module, channels
        self.num_edge_modules, self.num_node_modules = k, g
        edge_sizes = [features.size(d), *hidden, features.answers(channels)]
        node_sizes = [d if additive else d + channels, *node_hidden, d]
        self.edge_modules = GroupedMLP(k, edge_sizes, activation, linear_path and additive)
        self.node_modules = GroupedMLP(g, node_sizes, activation, linear_path)
        self.decay = nn.Parameter(torch.zeros(k)) if features.power_law else None  # powers of the distance / GAIN
        self.log_mobility = nn.Parameter(torch.zeros(g)) if additive and g > 1 else None  # log mobilities / GAIN
        self.register_buffer("spread", torch.eye(k) / 2 if strengths else None)
        self.register_buffer("centre", torch.zeros(d))
        self.register_buffer("state_scale", torch.ones(d))
        self.register_buffer("change_scale", torch.ones(d))

    # ---- defined by subclasses -------------------------------------------------------------------------------------

    @abstractmethod
    def set_scales(self, scales: Scales) -> None:
        """Sets the scales of states and changes."""

    @abstractmethod
    def targets(self, states: Float[Tensor, "B N T D"]) -> Float[Tensor, "B N T-1 D"]:
        """Observed changes (B, N, T - 1, D) of states (B, N, T, D), in units of `change_scale`."""

    @abstractmethod
    def messages(self, states: Float[Tensor, "B N T D"]) -> Float[Tensor, "B N S K T-1 C"]:
        """Messages of every module along every edge for every observed change, (B, N, S, K, T - 1, C).

        Args:
            states: observed states (B, N, T, D).
        """

    @abstractmethod
    def responder(self, states: Float[Tensor, "B N T D"]) -> Callable[[Tensor, Tensor], Tensor]:
        """Returns a function of summed messages (B, N, M, T, C), node modules (B, N, M) to changes (B, N, M, T, D).

        Args:
            states: states of the receivers (B, N, T, D). Terms that depend on them alone are computed once.
        """

    @abstractmethod
    def stepper(
        self,
        relations: Int[Tensor, "B N S"] | Float[Tensor, "B N S K"],
        types: Int[Tensor, "B N"],
        kept: Kept | None = None,
        drive: Float[Tensor, "B N D *A"] | None = None,
    ) -> Callable[[Tensor], Tensor]:
        """Returns a one-frame step function of states (B, N, T, D) for a fixed structure.

        Args:
            relations: edge modules (B, N, S); or, where strengths differ, weights of modules (B, N, S, K).
            types: node modules (B, N).
            kept: tasks that have gradients; None for all.
            drive: constants of the entities (B, N, D); None if the dynamics has none.
        """

    @property
    @abstractmethod
    def resting(self) -> Tensor:
        """State (D,) of an entity at rest at the centre of the data."""

    @abstractmethod
    def coast(self, states: Float[Tensor, "*rest 1 D"], frames: int) -> Float[Tensor, "*rest {frames} D"]:
        """Trajectories (..., frames, D) of entities without interactions, from states (..., 1, D)."""

    @abstractmethod
    def observation_noise(self) -> ObservationNoise:
        """Model of the errors caused by observation noise.

        Raises:
            ValueError: the dynamics has none.
        """

    # ---- what a subclass may refine --------------------------------------------------------------------------------

    def begin(self, laws: FoundLaws) -> None:
        """Copies laws found by a cold start to the modules, if they can hold them. Call it after `set_scales`."""

    def begin_spread(self, laws: FoundLaws) -> None:
        """Copies by how much strengths of edges differ."""
        if self.spread is not None and laws.spread.numel():
            self.spread.copy_(laws.spread)

    def along(self, states: Float[Tensor, "B N T D"]) -> Callable[[Tensor, Tensor], Tensor]:
        """`responder` of the observed steps of states (B, N, T, D)."""
        return self.responder(states[:, :, :-1])

    def refined(
        self, messages: Float[Tensor, "B N S K L C"], states: Float[Tensor, "B N T D"], structure: Structure
    ) -> Float[Tensor, "B N S K L C"]:
        """Messages of these observed states, as the best known structure refines them; in most dynamics as they are."""
        return messages

    def without_constants(
        self, values: Float[Tensor, "B N *any L C"], states: Float[Tensor, "B N T D"], mask: Tensor | None = None
    ) -> Float[Tensor, "B N *any L C"]:
        """Subtracts what constants of the entities explain from errors or messages of observed steps.

        Args:
            values: errors or messages (B, N, ..., T - 1, C).
            states: observed states (B, N, T, D).
            mask: how well steps are known, (B, N, T - 1); None for all observed.
        """
        return values

    def drive(
        self, error: Float[Tensor, "B N L D"], states: Float[Tensor, "B N T D"], mask: Tensor | None = None
    ) -> Float[Tensor, "B N D *A"] | None:
        """Constants of the entities (B, N, D) that best explain the errors of predicted changes; None without any.

        With functions `beside`, their sizes (B, N, D, A).
        """
        return None

    def beside(self, states: Float[Tensor, "B N T D"]) -> Float[Tensor, "B N D T-1 A"] | None:
        """Functions of observed steps (B, N, T, D) that errors leave out entity by entity, a constant among them.

        (B, N, D, T - 1, A), double precision; None for no more than a constant.
        """
        return None

    def nearest(
        self, states: Float[Tensor, "*rest D"], reference: Float[Tensor, "*rest D"]
    ) -> Float[Tensor, "*rest D"]:
        """States (..., D) whose angles are within half a turn of the reference, so that means and differences hold."""
        return states

    def forward(self, states: Float[Tensor, "B N T D"]) -> Float[Tensor, "B N S K T-1 C"]:
        """`messages`, for calls with other parameters."""
        return self.messages(states)

    # ---- shared by all dynamics ------------------------------------------------------------------------------------

    def copy_scales(self, scales: Scales) -> None:
        """Copies robust scales of the data to the buffers."""
        self.centre.copy_(scales.centre)
        self.state_scale.copy_(scales.state)
        self.change_scale.copy_(scales.change)

    def scaled(self, states: Float[Tensor, "*rest D"]) -> Float[Tensor, "*rest D"]:
        """States (..., D) in the units of module inputs."""
        return (states - self.centre) / self.state_scale

    def perceptrons(self) -> list[nn.Parameter]:
        """Parameters with weight decay: those of perceptrons but not of their parallel affine maps.

        With `power_law` features the affine weights of edge modules decay too, because the power expresses the law.
        """
        parameters = [*self.edge_modules.layers.parameters(), *self.node_modules.layers.parameters()]
        if self.features.power_law and self.edge_modules.linear is not None:
            parameters.append(self.edge_modules.linear.weight)
        return parameters

    @torch.no_grad()
    def multiply(self, factors: Float[Tensor, " K"]) -> None:
        """Makes every edge module the last one, with its messages times a factor (K,)."""
        self.edge_modules.multiply(factors, self.features.factors(self.channels))
        if self.decay is not None:
            self.decay.copy_(self.decay[-1:].clone().expand_as(self.decay))

    def pair_law(self, states: Float[Tensor, "B N T D"]) -> Float[Tensor, "B N S K T C"]:
        """Messages of every module along every edge at given states: (B, N, T, D) to (B, N, S, K, T, C)."""
        scaled, n = self.scaled(states), states.shape[1]
        if not self.features.mutual:
            receiver, sender = pair_states(scaled)
            seen = self.features(receiver, sender)
            sent = self._sent(seen, receiver, sender)
            return sent.movedim(0, 3)
        # Features are symmetric and messages antisymmetric: evaluate each undirected pair once.
        first, second, pair, sign = undirected_pairs(n, states.device)
        receiver, sender = scaled[:, first], scaled[:, second]  # (B, N S / 2, T, D)
        seen = self.features(receiver, sender)
        sent = self._sent(seen, receiver, sender).transpose(0, 1)
        both = sent.index_select(2, pair.flatten()).unflatten(2, pair.shape).movedim(1, 3)
        return both * sign.view(n, n - 1, 1, 1, 1).to(both.dtype)

    def _sent(self, seen: Tensor, receiver: Tensor, sender: Tensor) -> Tensor:
        """Messages (K, ..., C) of all edge modules for pair features (..., F) of states (..., D)."""
        powers = None if self.powers is None else self.powers.view(-1, *[1] * seen.dim())
        return self.features.messages(self._answer(seen), seen, receiver, sender, powers)

    @property
    def powers(self) -> Tensor | None:
        """Powers of the distance, (K,); None where the features have none."""
        return None if self.decay is None else GAIN * self.decay

    def _answer(self, pairs: Tensor) -> Tensor:
        """Outputs of all edge modules for pair features (..., F): (K, ..., A)."""
        rows = pairs.flatten(0, -2)
        few = max(256, (CHUNK_GPU if rows.is_cuda else CHUNK) // (self.num_edge_modules * self.edge_modules.widest))
        if torch.is_grad_enabled() or len(rows) <= few:
            out = self.edge_modules(rows)
        else:
            out = torch.cat([self.edge_modules(part) for part in rows.split(few)], dim=1)
        if self.null_module:
            out = torch.cat((torch.zeros_like(out[:1]), out[1:]))
        return out.view(len(out), *pairs.shape[:-1], out.shape[-1])

    def answers_of(self, pairs: Float[Tensor, "P F"], blocks: Blocks) -> Float[Tensor, "P A"]:
        """Outputs of one edge module for each of P pair features."""
        most = CHUNK // self.edge_modules.widest
        out = blocks(self.edge_modules.chosen, pairs.unsqueeze(1), most).squeeze(1)
        return out * (blocks.group > 0).unsqueeze(-1) if self.null_module else out

    def change(
        self,
        states: Float[Tensor, "B N T D"],
        messages: Float[Tensor, "B N S K T C"],
        rows: Int[Tensor, "#B #N M S"],
        types: Int[Tensor, "#B #N M"],
    ) -> Float[Tensor, "B N M T D"]:
        """Changes (B, N, M, T, D) predicted by candidates of every receiver, in units of `change_scale`.

        Args:
            states: (B, N, T, D).
            messages: messages at these states, (B, N, S, K, T, C).
            rows: edge modules on the incoming edges, (B, N, M, S); B and N are 1 if receivers share candidates.
            types: node modules, (B, N, M), likewise.
        """
        return self.responder(states)(summed(messages, rows), types)

    def mobilities(self, types: Tensor) -> Tensor | None:
        """Factors (...) by which node modules (...) scale the messages they receive; None if all are 1."""
        return None if self.log_mobility is None else (GAIN * self.log_mobility).exp()[types]

    def additive_responder(self, states: Float[Tensor, "B N T D"]) -> Callable[[Tensor, Tensor], Tensor]:
        """`responder` of additive dynamics."""
        return self.adding(self.own_changes(self.scaled(states)))

    def adding(self, free: Float[Tensor, "G B N T D"]) -> Callable[[Tensor, Tensor], Tensor]:
        """`responder` that adds summed messages, scaled by mobilities, to the changes `free` of single entities."""
        free = free.unsqueeze(3)  # (G, B, N, 1, T, D)

        def add(received: Tensor, types: Tensor) -> Tensor:
            mobility = self.mobilities(types)
            if mobility is not None:
                received = received * mobility[..., None, None]
            return received + self.of_node_modules(free, types)

        return add

    def own_changes(self, inputs: Float[Tensor, "*rest F"]) -> Float[Tensor, "G *rest D"]:
        """Outputs of all node modules, (..., F) to (G, ..., D)."""
        out = self.node_modules(inputs.flatten(0, -2))  # (G, P, D)
        return out.view(-1, *inputs.shape[:-1], out.shape[-1])

    def of_node_modules(
        self, changes: Float[Tensor, "G B N #M T D"], types: Int[Tensor, "#B #N M"]
    ) -> Float[Tensor, "B N _ T D"]:
        """Selects from changes (G, B, N, M or 1, T, D) those of node modules (B, N, M); B and N may be 1."""
        if self.num_node_modules == 1:
            return changes[0]
        g, b, n, m, t, d = changes.shape
        weights = F.one_hot(types, g).to(changes.dtype)  # (B, N, M, G)
        if m == 1:  # shared by all candidates: a matrix product avoids copies for each
            return (weights @ changes.movedim(0, 3).reshape(b, n, g, t * d)).unflatten(-1, (t, d))
        return torch.einsum("gbnmtd,bnmg->bnmtd", changes, weights.expand(b, n, m, g))

    def step(
        self,
        states: Float[Tensor, "B N T D"],
        relations: Int[Tensor, "B N S"] | Float[Tensor, "B N S K"],
        types: Int[Tensor, "B N"],
        drive: Float[Tensor, "B N D *A"] | None = None,
    ) -> Float[Tensor, "B N T D"]:
        """States (B, N, T, D) one frame later, under edge modules (see `stepper`) and node modules (B, N)."""
        return self.stepper(relations, types, drive=drive)(states)

    def rollout(
        self,
        states: Float[Tensor, "B N T D"],
        relations: Int[Tensor, "B N S"] | Float[Tensor, "B N S K"],
        types: Int[Tensor, "B N"],
        steps: int,
        kept: Kept | None = None,
        drive: Float[Tensor, "B N D *A"] | None = None,
    ) -> Float[Tensor, "B N T {steps} D"]:
        """Rollouts of a fixed structure from each of T frames.

        Args:
            states: initial states (B, N, T, D).
            relations: edge modules, see `stepper`.
            types: node modules (B, N).
            steps: number of frames to predict.
            kept: tasks that have gradients; None for all.
            drive: constants of the entities (B, N, D); None if the dynamics has none.

        Returns:
            States (B, N, T, steps, D).
        """
        frames, step = [], self.stepper(relations, types, kept, drive)
        for _ in range(steps):
            states = step(states)
            frames.append(states)
        return torch.stack(frames, dim=3)

    @torch.no_grad()
    def disturbed(
        self,
        states: Float[Tensor, "B N D"],
        relations: Int[Tensor, "B N S"] | Float[Tensor, "B N S K"],
        types: Int[Tensor, "B N"],
        steps: int,
        disturb: Callable[[Tensor, Tensor, Tensor], Tensor],
        drive: Float[Tensor, "B N D *A"] | None = None,
    ) -> Float[Tensor, "B N {steps} D"]:
        """Rollouts whose states are disturbed before every step; without gradients.

        Args:
            states: initial states (B, N, D).
            relations: edge modules, see `stepper`.
            types: node modules (B, N).
            steps: number of frames to predict.
            disturb: from numbers of tasks (R,), of frames (R,) and states (R, N, D) to states that steps begin from.
            drive: constants of the entities (B, N, D); None if the dynamics has none.
        """
        frames, step, every = [], self.stepper(relations, types, drive=drive), torch.arange(len(states))
        every = every.to(states.device)
        for frame in range(steps):
            states = step(disturb(every, torch.full_like(every, frame), states).unsqueeze(2)).squeeze(2)
            frames.append(states)
        return torch.stack(frames, dim=2)
