"""Dynamics whose modules are laws, linear in functions of a pair, each with a perceptron for what these do not hold."""

import math
from collections.abc import Callable, Sequence
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modmeta.data.units import Scales
from modmeta.model.basis import (
    BOOLE,
    MAPPED,
    FoundLaws,
    Kind,
    cartesian,
    cubics,
    family_named,
    left_functions,
    own_functions,
    polar,
    right_functions,
    saturated,
    unsaturated,
)
from modmeta.model.dynamics.base import Dynamics, weights_of
from modmeta.model.features import PairFeatures, pair_states
from modmeta.model.grouped import Kept
from modmeta.model.noise import ObservationNoise
from modmeta.model.sight import counted
from modmeta.shapes import Float, Int

SMALLEST = 1e-12  # of a state whose logarithm is taken
SUBSTEPS = 4  # of a frame in a forecast
FAR = 3.0  # forecasts stay within three times the range of the training set


@final
class LawDynamics(Dynamics):
    """Rates of change that are sums of laws: of an entity itself, of a constant of its own, of every sender.

        ds_i/dt = c_i + g_{z_i}(s_i) + sum_j h_{z_ij}(s_i, s_j)

    Each module is linear in the functions of a `family`, whitened, plus a perceptron that begins at zero. What training
    adds to the laws of a cold start is measured in what these leave unexplained: exact laws stay exact. Where paths
    are smooth, functions are integrated along the cubic through four frames (weak form: Messenger and Bortz, *Weak
    SINDy*, 2021), and forecasts with the Runge-Kutta method of fourth order; otherwise a frame decides the next one.
    The constants of entities (a frequency of its own, a drive) are what the errors of a task's frames have in common;
    nothing of them is learned. So are slopes M_i of their own, where these are more than shared laws:
    ds_i/dt = c_i + M_i s_i + ..., and sizes of their own of one function of the state that all share, as a damping.

    Families of growth explain d log s/dt of positive states. Saturating ones have a saturating function around all of
    it, of bounds c and beside a linear leak: ds_i/dt = l(s_i) + c tanh((...) / c).

    Letters beside the usual ones: X points in time, P coordinates, H left and V right functions, O own functions,
    A functions in which entities have slopes of their own.

    Args:
        num_features: D.
        num_edge_modules: K.
        features: what the perceptron of an edge module sees of a pair.
        num_node_modules: G.
        family: of laws, a name in `modmeta.model.basis`.
        coordinates: number of leading features that are coordinates of vectors; 0 for plain states.
        angles: which features are angles in radians; none for no feature.
        smooth: paths between frames are smooth.
        constants: entities have constants of their own.
        slopes: and slopes of their own in their state; none for no.
        shapes: and sizes of their own of a function of plain states for every feature; none for no.
        hidden: width of the hidden layers of edge modules.
        edge_layers: hidden layers of an edge module.
        node_layers: hidden layers of a node module.
        node_hidden: their width; none for `hidden`.
        activation: elementwise function of the hidden layers.
        null_module: module 0 sends nothing, as always where the family is that of maps.
        constant: which features never change; none for no feature.
        circles: pairs of features that are an angle's cosine and sine, the first among `angles`, the second `constant`;
            none for no pair.
        strengths: edges of a module differ in strength; none for no.

    Raises:
        ValueError: there is no such family, features and angles do not go together, slopes or shapes lack constants,
            shapes are not of plain states, or strengths differ and there are several node modules.
    """

    needs_path = True

    def __init__(
        self,
        num_features: int,
        num_edge_modules: int,
        features: PairFeatures,
        num_node_modules: int = 1,
        family: str | None = None,
        coordinates: int = 0,
        angles: Sequence[bool] | None = None,
        smooth: bool = True,
        constants: bool = False,
        hidden: int = 16,
        edge_layers: int = 1,
        node_layers: int = 1,
        activation: Callable[[Tensor], Tensor] = F.silu,
        null_module: bool = False,
        node_hidden: int | None = None,
        constant: Sequence[bool] | None = None,
        slopes: bool | None = None,
        shapes: bool | None = None,
        circles: Sequence[Sequence[int]] | None = None,
        strengths: bool | None = None,
    ) -> None:
        d, k, g = num_features, num_edge_modules, num_node_modules
        angles = tuple(angles) if angles else (False,) * d
        if family is None:
            raise ValueError("model.family=null is chosen by a cold start; add search.start=laws")
        _check_features(d, coordinates, angles)
        _check_own(coordinates, constants, slopes, shapes)
        super().__init__(
            features, d, k, g, d, [hidden] * edge_layers, [node_hidden or hidden] * node_layers, additive=True,
            linear_path=False, activation=activation, null_module=null_module or family_named(family) == MAPPED,
            strengths=bool(strengths),
        )  # fmt: skip
        self.family, self.kind = (
            family_named(family),
            Kind(coordinates, angles, tuple(constant or ()), tuple((first, other) for first, other in circles or ())),
        )
        self.smooth, self.has_constants = smooth, constants
        self.has_slopes, self.has_shapes = bool(slopes), bool(shapes)
        for perceptrons in (self.edge_modules, self.node_modules):
            nn.init.zeros_(perceptrons.affine[-1].weight)
            nn.init.zeros_(perceptrons.affine[-1].bias)
        cpu = torch.device("cpu")
        one, shifts = torch.zeros(d, device=cpu), torch.ones(d, self.family.shifts, device=cpu)
        h = left_functions(self.family, self.kind, one).shape[-1]
        v = right_functions(self.family, self.kind, shifts, shifts, one, one).shape[-1]
        own = own_functions(self.kind, one).shape[-1]
        self.blocks = 1 if coordinates else d * h
        self.laws = nn.Parameter(0.001 * torch.randn(k, self.blocks, v))
        self.own_laws = nn.Parameter(torch.zeros(g, own) if coordinates else torch.zeros(g, d, own))
        self.register_buffer("found_laws", torch.zeros(k, self.blocks, v))
        self.register_buffer("found_own_laws", torch.zeros_like(self.own_laws))
        for name, size in {"offset": d, "span": d, "middle": d, "width": d}.items():
            self.register_buffer(name, (torch.zeros if name in ("offset", "middle") else torch.ones)(size).double())
        self.register_buffer("places", torch.zeros(d, self.family.shifts).double())
        self.register_buffer("widths", torch.ones(d, self.family.shifts).double())
        self.register_buffer("left", torch.eye(self.blocks))
        self.register_buffer("right", torch.eye(v).double())
        if self.family.saturating:
            self.register_buffer("link", torch.ones(d, d + 2).double())
        if shapes:
            self.register_buffer("shapes", torch.zeros(d, own).double())
        self.register_buffer("unit", torch.ones(d))  # of rates that were found, in units of `change_scale`
        self.register_buffer("rest", torch.ones(d))  # and of what is learned beside them

    offset: Tensor
    span: Tensor
    middle: Tensor
    width: Tensor
    places: Tensor
    widths: Tensor
    left: Tensor
    right: Tensor
    link: Tensor
    unit: Tensor
    rest: Tensor
    found_laws: Tensor
    found_own_laws: Tensor
    shapes: Tensor

    # ---- set-up ----------------------------------------------------------------------------------------------------

    def set_scales(self, scales: Scales) -> None:
        """Takes the units in which perceptrons see states, and errors are weighed."""
        self.copy_scales(scales)

    @torch.no_grad()
    def begin(self, laws: FoundLaws) -> None:
        """Takes laws that were found, after `set_scales`."""
        self.begin_spread(laws)
        for name, value in (("middle", laws.centre), ("width", laws.scale)):
            getattr(self, name).copy_(value)
        for name in ("offset", "span", "places", "widths"):
            getattr(self, name).copy_(getattr(laws, name))
        if self.family.saturating:
            self.link.zero_()[:, -1] = 1
            self.link[self.kind.changing] = laws.link.to(self.link)
        h, v = laws.left.shape[1], laws.right.shape[1]
        rows = torch.arange(self.blocks)
        if not self.kind.coordinates:  # blocks of features that change
            rows = rows.view(len(self.kind.angles), -1)[self.kind.changing].flatten()
        self.left.zero_()[rows, :h] = laws.left.to(self.left)
        self.right.zero_()[:, :v] = laws.right
        self.found_laws.zero_()[:, :h, :v] = laws.edges.view(len(laws.edges), h, v).to(self.laws)
        if self.kind.coordinates:
            self.found_own_laws.copy_(laws.own)
        else:
            self.found_own_laws.zero_()[:, self.kind.changing] = laws.own.view(-1, self.own_laws.shape[-1]).to(
                self.laws
            )
        if self.has_shapes and laws.shapes.numel():
            self.shapes.zero_()[self.kind.changing] = laws.shapes.to(self.shapes)
        self.laws.zero_()
        self.own_laws.zero_()
        rate = torch.ones_like(self.width) if self.family.growth else self.width
        self.unit.copy_(rate * laws.step / (self.span * self.change_scale))
        self.rest.copy_(laws.rest * rate * laws.step / (self.span * self.change_scale))
        if self.kind.constant:
            self.rest[torch.tensor(self.kind.constant)] = 0

    # ---- laws ------------------------------------------------------------------------------------------------------

    def _seen(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Physical states, and as the functions see them, double precision."""
        physical = self._physical(states)
        return physical, (physical - self.middle) / self.width

    def _physical(self, states: Tensor) -> Tensor:
        """In double precision, angles in place of circles."""
        return polar(states.double() * self.span + self.offset, self.kind)

    def pair_law(self, states: Float[Tensor, "B N T D"]) -> Float[Tensor, "B N S K T C"]:
        """What every module sends along every edge at given states, per frame: (B, N, T, D) to (B, N, S, K, T, C).

        Of families of growth, what it adds to the rate of growth, times the span of the state.
        """
        return self._laws(self._seen(states)[1]) + super().pair_law(states) * self.rest

    def _laws(self, seen: Tensor) -> Tensor:
        receiver, sender = pair_states(seen)
        right = right_functions(self.family, self.kind, self.places, self.widths, receiver, sender) @ self.right
        right = right.to(self.laws.dtype)  # (B, N, S, X, [P,] V)
        speaking = (torch.arange(self.num_edge_modules, device=seen.device) >= int(self.null_module)).view(-1, 1, 1)
        found, learned = self.found_laws * speaking, self.laws * speaking
        if self.kind.coordinates:  # whose channels share a unit
            laws = found[:, 0] * self.unit[0] + learned[:, 0] * self.rest[0]
            return (right @ laws.mT).permute(0, 1, 2, 5, 3, 4)
        left = left_functions(self.family, self.kind, seen).to(right.dtype)  # (B, N, X, H)
        c, h = self.centre.numel(), left.shape[-1]
        turn = self.left.view(c, h, -1)
        units, rests = (scale.view(c, 1, 1) * turn for scale in (self.unit, self.rest))
        mixed = torch.einsum("chj,kjv->kchv", units, found) + torch.einsum("chj,kjv->kchv", rests, learned)
        mixed = mixed.flatten(0, 2)  # (K C H, V)
        each = (right @ mixed.mT).unflatten(-1, (-1, c, h))  # (B, N, S, X, K, C, H)
        return (each * left[:, :, None, :, None, None]).sum(-1).transpose(3, 4)

    def _own(self, seen: Tensor) -> Tensor:
        """Rates that are the entities' own, (B, N, X, D) to (G, B, N, X, D)."""
        functions = own_functions(self.kind, seen).to(self.own_laws.dtype)
        if self.kind.coordinates:
            laws = self.found_own_laws * self.unit[0] + self.own_laws * self.rest[0]
            return torch.einsum("bnxpo,go->gbnxp", functions, laws)
        laws = self.found_own_laws * self.unit.unsqueeze(-1) + self.own_laws * self.rest.unsqueeze(-1)
        return torch.einsum("bnxo,gdo->gbnxd", functions, laws)

    # ---- observed steps --------------------------------------------------------------------------------------------

    @property
    def _turning(self) -> Tensor:
        """Which features jump by whole turns, (D,)."""
        turning = torch.tensor(self.kind.angles, device=self.span.device)
        turning[[first for first, _ in self.kind.circles]] = False
        return turning

    def _weak(self, states: Tensor) -> bool:
        return self.smooth and states.shape[2] >= 4

    def _path(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """States (B, N, Q, T - 1, D) between frames (B, N, T, D), and their weights (Q,)."""
        if not self._weak(states):
            return states[:, :, None, :-1], states.new_ones(1)
        straight = states.double() * self.span + self.offset
        turns = (self._unwrapped(straight) - straight) / self.span
        between = cubics(states.double() + turns)
        return between.to(states.dtype), torch.tensor(BOOLE, dtype=states.dtype, device=states.device)

    def _unwrapped(self, physical: Tensor) -> Tensor:
        """Physical states (B, N, T, D) without the jumps of angles."""
        turning = torch.tensor(self.kind.angles, device=physical.device)
        turns = torch.round(physical.diff(dim=2) / (2 * math.pi)).cumsum(2) * turning
        return torch.cat([physical[:, :, :1], physical[:, :, 1:] - 2 * math.pi * turns], 2)

    def _gain(self, states: Tensor) -> Tensor | None:
        """By what is explained becomes changes, (B, N, T - 1, D): of rates of growth mean states of the steps, of
        saturating rates their slope."""
        if self.family.saturating:
            return self._unsaturated(states)[1]
        if not self.family.growth:
            return None
        physical = (states.double() * self.span + self.offset).clamp_min(SMALLEST)
        return ((physical[:, :, 1:] + physical[:, :, :-1]) / 2).to(states.dtype)

    def _unsaturated(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """What saturating changes are functions of, in units of `change_scale`, and slopes, (B, N, T - 1, D) each."""
        nodes, weights = self._path(states.double())
        seen = torch.tensordot(self._seen(nodes)[1].movedim(2, -1), weights, ([-1], [0]))
        change = states.double().diff(dim=2) / (self.change_scale * self.unit)
        sums, slope = unsaturated(change, seen, self.link)
        return (sums * self.unit).to(states.dtype), slope.to(states.dtype)

    def targets(self, states: Float[Tensor, "B N T D"]) -> Float[Tensor, "B N T-1 D"]:
        """Observed changes (B, N, T - 1, D) in units of `change_scale`."""
        if self.family.saturating:
            sums, slope = self._unsaturated(states)
            return sums * slope
        physical = self._physical(states)
        if self.family.growth:
            physical = physical.clamp_min(SMALLEST)
            change = physical.log().diff(dim=2) * (physical[:, :, 1:] + physical[:, :, :-1]) / 2
        else:
            change = self._unwrapped(physical).diff(dim=2)
        return (change / (self.span * self.change_scale)).to(states.dtype)

    def messages(self, states: Float[Tensor, "B N T D"]) -> Float[Tensor, "B N S K T-1 C"]:
        """What every module sends along every edge in every observed change: (B, N, T, D) to (B, N, S, K, T - 1, C).

        Args:
            states: observed.
        """
        nodes, weights = self._path(states)
        sent = self.pair_law(nodes.flatten(2, 3)).unflatten(4, nodes.shape[2:4])  # (B, N, S, K, Q, T - 1, C)
        sent = torch.tensordot(sent.movedim(4, -1), weights, ([-1], [0]))
        gain = self._gain(states)
        return sent if gain is None else sent * gain[:, :, None, None]

    def along(self, states: Float[Tensor, "B N T D"]) -> Callable[[Tensor, Tensor], Tensor]:
        """`responder` of the observed steps of states (B, N, T, D), integrated as messages are."""
        nodes, weights = self._path(states)
        free = self._free(nodes.flatten(2, 3)).unflatten(3, nodes.shape[2:4])  # (G, B, N, Q, T - 1, D)
        free = torch.tensordot(free.movedim(3, -1), weights, ([-1], [0]))
        gain = self._gain(states)
        return self.adding(free if gain is None else free * gain)

    def _free(self, states: Tensor) -> Tensor:
        """Rates of entities that nothing acts on, (B, N, X, D) to (G, B, N, X, D)."""
        return self._own(self._seen(states)[1]) + self.own_changes(self.scaled(states)) * self.rest

    def responder(self, states: Float[Tensor, "B N T D"]) -> Callable[[Tensor, Tensor], Tensor]:
        """What turns summed messages (B, N, M, T, C) and node modules (B, N, M) into rates (B, N, M, T, D).

        Args:
            states: (B, N, T, D) of the receivers; what they alone decide is worked out once.
        """
        return self.adding(self._free(states))

    def without_constants(
        self, values: Float[Tensor, "B N *any L C"], states: Float[Tensor, "B N T D"], mask: Tensor | None = None
    ) -> Float[Tensor, "B N *any L C"]:
        """Values of steps less what a constant rate of each entity and channel, or its slopes, explain of them.

        Args:
            values: (B, N, ..., T - 1, C), errors or messages.
            states: of the steps (B, N, T, D).
            mask: how well steps are known, (B, N, T - 1); None for all observed.
        """
        if not self.has_constants:
            return values
        if (alone := self.beside(states)) is not None:
            each = values.reshape(*values.shape[:2], -1, *values.shape[-2:]).permute(0, 1, 4, 3, 2)  # (B, N, C, L, any)
            each = each - alone.to(values.dtype) @ (self._into(alone, mask).to(values.dtype) @ each)
            return each.permute(0, 1, 4, 3, 2).reshape(values.shape)
        gain = self._constant_gain(states).view(*values.shape[:2], *[1] * (values.dim() - 4), *values.shape[-2:])
        return values - gain * self._constant(values, gain, mask)

    def drive(self, error: Tensor, states: Tensor, mask: Tensor | None = None) -> Tensor | None:
        """The constants (B, N, D) that explain errors (B, N, T - 1, D) of predicted changes best, a frame.

        Or sizes of functions `beside`, (B, N, D, A).
        """
        if not self.has_constants:
            return None
        if (alone := self.beside(states)) is not None:
            into = self._into(alone, mask).to(error.dtype)  # (B, N, D, A, L)
            return -torch.einsum("bncal,bnlc->bnca", into, error)
        return -self._constant(error, self._constant_gain(states), mask).squeeze(2)

    def _apart(self, seen: Tensor) -> Tensor:
        """One, states that are no angles, and shapes, as functions see them, (B, N, X, D) to (B, N, D, X, A)."""
        straight = seen[..., ~torch.tensor(self.kind.angles, device=seen.device)]
        parts = [torch.ones_like(seen[..., :1]), *([straight] if self.has_slopes else [])]
        alike = torch.cat(parts, -1).unsqueeze(2).expand(-1, -1, seen.shape[-1], -1, -1)
        if not self.has_shapes:
            return alike
        shaped = own_functions(self.kind, seen) @ self.shapes.mT
        return torch.cat([alike, shaped.mT.unsqueeze(-1)], -1)

    def beside(self, states: Float[Tensor, "B N T D"]) -> Float[Tensor, "B N D T-1 A"] | None:
        """Functions of steps that entities have of sizes of their own, constants among them, times what makes rates
        changes of every channel, (B, N, D, T - 1, A), double precision; None for no more than constants.
        """
        if not (self.has_slopes or self.has_shapes):
            return None
        nodes, weights = self._path(states)
        alone = self._apart(self._seen(nodes.flatten(2, 3))[1]).unflatten(3, nodes.shape[2:4])
        alone = torch.tensordot(alone.movedim(3, -1), weights.to(alone.dtype), ([-1], [0]))
        return alone * self._constant_gain(states).mT.unsqueeze(-1).to(alone.dtype)

    def _into(self, alone: Tensor, mask: Tensor | None) -> Tensor:
        """Least squares on `beside`: from values of steps (T - 1) to constants and slopes, (B, N, D, A, T - 1)."""
        weighted = alone if mask is None else alone * counted(mask).view(*mask.shape[:2], 1, -1, 1)
        normal = alone.mT @ weighted
        size = normal.diagonal(dim1=-2, dim2=-1).clamp_min(1e-20)
        return torch.linalg.solve(normal + torch.diag_embed(1e-9 * size), weighted.mT)

    def _constant_gain(self, states: Tensor) -> Tensor:
        gain = self._gain(states)
        return torch.ones_like(states[:, :, 1:]) if gain is None else gain

    def _constant(self, values: Tensor, gain: Tensor, mask: Tensor | None) -> Tensor:
        """Least squares of values (B, N, ..., T - 1, C) on a gain, (B, N, ..., 1, C)."""
        weighted = gain if mask is None else gain * counted(mask).view(*mask.shape[:2], *[1] * (gain.dim() - 4), -1, 1)
        return (weighted * values).sum(-2, keepdim=True) / (weighted * gain).sum(-2, keepdim=True).clamp_min(1e-20)

    # ---- forecasts -------------------------------------------------------------------------------------------------

    def stepper(
        self,
        relations: Int[Tensor, "B N S"] | Float[Tensor, "B N S K"],
        types: Int[Tensor, "B N"],
        kept: Kept | None = None,
        drive: Float[Tensor, "B N D *A"] | None = None,
    ) -> Callable[[Tensor], Tensor]:
        """A one-frame step function of states (B, N, T, D), for structures that stay as they are.

        Args:
            relations: edge modules; or, where strengths differ, weights of modules (B, N, S, K).
            types: node modules.
            kept: tasks whose gradients matter.
            drive: constants of the entities, as `drive` gives them.
        """
        chosen = weights_of(relations, self.num_edge_modules).unsqueeze(2)  # (B, N, 1, S K)
        per_frame = (self.span * self.change_scale).to(self.centre.dtype)

        def rate(y: Tensor) -> Tensor:
            """Change of (logarithms of) physical states, a frame."""
            physical = y.exp() if self.family.growth else cartesian(y, self.kind)
            states = ((physical - self.offset) / self.span).to(self.centre.dtype)
            sent = self.pair_law(states)
            b, n, s, k, t, c = sent.shape
            received = (chosen.to(sent.dtype) @ sent.reshape(b, n, s * k, t * c)).view(b, n, 1, t, c)
            change = self.responder(states)(received, types.unsqueeze(2)).squeeze(2)
            if drive is not None and (self.has_slopes or self.has_shapes):
                alone = self._apart(self._seen(states)[1]).to(change.dtype)
                change = change + torch.einsum("bncta,bnca->bntc", alone, drive)
            elif drive is not None:
                change = change + drive.unsqueeze(2)
            if self.family.saturating:
                change = saturated(change / self.unit, self._seen(states)[1], self.link) * self.unit
            return (change * per_frame).double()

        def step(states: Tensor) -> Tensor:
            y = self._physical(states)
            y = y.clamp_min(SMALLEST).log() if self.family.growth else y
            if not self.smooth:
                y = y + rate(y)
            else:
                for _ in range(SUBSTEPS):
                    h = 1 / SUBSTEPS
                    k1 = rate(y)
                    k2 = rate(y + h / 2 * k1)
                    k3 = rate(y + h / 2 * k2)
                    k4 = rate(y + h * k3)
                    y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
            physical = y.exp() if self.family.growth else cartesian(y, self.kind)
            low = self.offset - self.span
            wrapped = low + torch.remainder(physical - low, 2 * math.pi)
            states_next = (torch.where(self._turning, wrapped, physical) - self.offset) / self.span
            return states_next.nan_to_num(0.0).clamp(-FAR, FAR).to(states.dtype)

        return step

    def nearest(
        self, states: Float[Tensor, "*rest D"], reference: Float[Tensor, "*rest D"]
    ) -> Float[Tensor, "*rest D"]:
        """States (..., D) whose angles are within half a turn of the reference, so that means and differences hold."""
        turn = (2 * math.pi / self.span).to(states.dtype)
        turns = torch.round((states - reference) / turn) * self._turning
        return states - turn * turns

    @property
    def resting(self) -> Tensor:
        """State (D,) in the middle of all; what rest is, is not known."""
        return self.centre

    def coast(self, states: Float[Tensor, "*rest 1 D"], frames: int) -> Float[Tensor, "*rest {frames} D"]:
        """The same states (..., 1, D) in every frame, (..., frames, D)."""
        return states.expand(*states.shape[:-2], frames, -1)

    def observation_noise(self) -> ObservationNoise:
        """
        Raises:
            ValueError: always.
        """
        raise ValueError("method.model.noise=true needs model=continuous, which knows how noise propagates")


def _check_features(num_features: int, coordinates: int, angles: Sequence[bool]) -> None:
    """
    Raises:
        ValueError: features, coordinates and angles do not go together.
    """
    if len(angles) != num_features:
        raise ValueError(f"model.angles has {len(angles)} values for {num_features} features")
    if coordinates not in (0, num_features):
        raise ValueError(
            f"model.coordinates={coordinates} must be 0 or all {num_features} features; "
            "velocities need model=continuous"
        )


def _check_own(coordinates: int, constants: bool, slopes: bool | None, shapes: bool | None) -> None:
    """
    Raises:
        ValueError: what entities have of their own does not go together.
    """
    if (slopes or shapes) and not constants:
        raise ValueError(f"model.{'slopes' if slopes else 'shapes'}=true has constants, too; add model.constants=true")
    if shapes and coordinates:
        raise ValueError("model.shapes=true is of plain states; leave it out, or model.coordinates")
