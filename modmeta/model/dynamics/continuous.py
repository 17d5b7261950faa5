"""Continuous-time dynamics: edge modules are accelerations, trained in weak form; forecasts integrate them.

P is the number of coordinates, D = 2 P; Q a number of frames or states.
"""

from collections.abc import Callable
from copy import copy
from typing import final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modmeta import machine
from modmeta.data.units import Scales
from modmeta.errors import UserError
from modmeta.graph.bank import Structure
from modmeta.model.basis import FoundLaws
from modmeta.model.dynamics.acting import Acting
from modmeta.model.dynamics.base import Dynamics, weights_of
from modmeta.model.dynamics.found import FoundAccelerations
from modmeta.model.features import PairFeatures
from modmeta.model.grouped import Kept
from modmeta.model.noise import ObservationNoise
from modmeta.model.sight import counted
from modmeta.shapes import Float, Int

# Laws may have poles. Accelerations in forecasts are limited to this many times the largest observed change per frame.
MARGIN = 1.5
CLOSE = 0.5  # a pair is close if its Runge-Kutta steps are shorter than this fraction of a frame
LEAPFROG_STEPS = 2  # leapfrog steps between two nodes of a path
MOMENT = 1e-6  # of a frame: less does not count as left
FORECAST_BOUND = 3.0  # forecasts are clamped to three times the training range, so that near-collisions do not diverge


@final
class ContinuousDynamics(Dynamics):
    """Edge modules are accelerations. Messages are their integrals between two frames along the observed path.

    With time in frames, positions x, velocities v, and kappa the change of a coordinate per frame at velocity 1,

        v_i(t+1) - v_i(t)                = b_{z_i} int_0^1         sum_j h_{z_ij}(s_i, s_j) ds + g_{z_i}(s_i(t))
        x_i(t+1) - x_i(t) - kappa v_i(t) = b_{z_i} int_0^1 (1 - s) sum_j h_{z_ij}(s_i, s_j) ds + g_{z_i}(s_i(t))

    with mobilities b, 1 for a single node module, in units of `change_scale` (the weak form of a law of motion:
    Messenger and Bortz, *Weak SINDy*, 2021). The path is the cubic through both frames and their velocities, the same
    for all candidates, so that integrals are messages that add up over senders. An edge module learns the law itself,
    not its effect over a frame, which a single state determines poorly where forces change fast. Forecasts integrate
    the law with the Runge-Kutta method of order 4, in shorter steps while a pair is close.

    If the data show reflecting walls (`Scales.walls`), a path that touches one is continued into its mirror image, and
    forces there are mirrored; forecasts reflect.

    Where frames are steps of a simulator, nothing happens between them: accelerations at a frame change velocities by
    the next one, and coordinates by 1/2 + `lag` times as much, 1 if they move by the new velocities, 0 if by the old.

    Entities may have constant accelerations of their own, as in fields that differ: what errors of the velocities of
    a task's frames have in common. Nothing of them is learned.

    After a cold start a module is the law that it found plus what the perceptron learns, zero at first and measured in
    what the law leaves unexplained: exact laws stay exact.

    Args:
        num_features: D = 2 P, positions, then their velocities.
        num_edge_modules: K.
        features: pair features, the inputs of edge modules.
        num_node_modules: G.
        hidden: width of the hidden layers of edge modules.
        edge_layers: number of hidden layers of an edge module.
        node_layers: number of hidden layers of a node module.
        nodes: number of Gauss-Lobatto quadrature points per frame, including both ends.
        pieces: number of parts of the integrated path of a close pair, with Simpson's rule on each; 0 to use cubics for
            close pairs as well.
        reach: largest fraction of its distance that a pair covers in one Runge-Kutta step of a forecast.
        substeps: largest number of steps per frame in a forecast.
        activation: elementwise function of the hidden layers.
        null_module: whether edge module 0 always sends zero messages.
        node_hidden: width of the hidden layers of node modules; None for `hidden`.
        family: of laws that a cold start found, a name in `modmeta.model.basis`; None without.
        smooth: paths between frames are smooth, or every frame decides the next one; None is true.
        strengths: edges of a module differ in strength; None for no.
        constants: entities have constant accelerations of their own; None for no.

    Raises:
        ValueError: `num_features` is odd, `nodes` is below 2, or strengths differ and there are several node modules.
    """

    step_scale: Tensor
    rest: Tensor
    walls: Tensor
    limit: Tensor
    kernel: Tensor
    places: Tensor
    tangents: Tensor
    fine_kernel: Tensor
    times: Tensor

    def __init__(
        self,
        num_features: int,
        num_edge_modules: int,
        features: PairFeatures,
        num_node_modules: int = 1,
        hidden: int = 64,
        edge_layers: int = 2,
        node_layers: int = 2,
        nodes: int = 4,
        pieces: int = 4,
        reach: float = 0.25,
        substeps: int = 64,
        activation: Callable[[Tensor], Tensor] = F.silu,
        null_module: bool = False,
        node_hidden: int | None = None,
        family: str | None = None,
        smooth: bool | None = True,
        strengths: bool | None = None,
        constants: bool | None = None,
    ) -> None:
        if num_features % 2:
            raise UserError(
                f"model=continuous needs a velocity for every coordinate and nothing else; {num_features} features is "
                "an odd number. Name them, for example data.reading.features=[x,y,vx,vy], or take experiment=laws, "
                "which models any features"
            )
        if nodes < 2:
            raise ValueError(f"model.nodes={nodes} must be at least 2")
        self.positions = num_features // 2
        super().__init__(
            features, num_features, num_edge_modules, num_node_modules, self.positions, [hidden] * edge_layers,
            [node_hidden or hidden] * node_layers, additive=True, linear_path=True, activation=activation,
            null_module=null_module, strengths=bool(strengths),
        )  # fmt: skip
        self.smooth, self.has_constants = smooth is not False, bool(constants)
        self.pieces, self.reach, self.substeps = pieces if self.smooth else 0, reach, substeps
        self.found = None if family is None else FoundAccelerations(family, self.positions, num_edge_modules)
        if self.found is not None:
            self.decay = None  # what the law leaves does not tell a power of the distance
        self.lag = nn.Parameter(torch.zeros(()))  # frames by which stored velocities lag positions
        self.register_buffer("step_scale", torch.ones(()))
        self.register_buffer("rest", torch.zeros(self.positions))
        self.register_buffer("limit", torch.full((self.positions,), torch.inf))
        self.register_buffer("walls", torch.tensor([[-torch.inf] * self.positions, [torch.inf] * self.positions]))
        for name, values in (_quadrature(nodes) | _simpson(max(pieces, 1))).items():
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32), persistent=False)

    def set_scales(self, scales: Scales) -> None:
        """Sets the scales. Changes of positions are scaled like changes of velocities, converted by `scales.step`.

        Raises:
            UserError: the data have other features than coordinates and their velocities.
        """
        if (coordinates := scales.walls.shape[1]) != self.positions:
            raise UserError(
                f"model=continuous needs a velocity for every coordinate and nothing else; the data have {coordinates} "
                f"coordinates and {2 * self.positions} features. Name coordinates, then their velocities, for example "
                "data.reading.features=[x,y,vx,vy], or take experiment=laws, which models any features"
            )
        self.copy_scales(scales)
        self.step_scale.copy_(scales.step)
        self.rest.copy_(scales.rest[self.positions :])
        self.walls.copy_(scales.walls)
        self.limit.copy_(MARGIN * scales.fastest)
        self.change_scale[: self.positions] = scales.step * scales.change[self.positions :]

    @torch.no_grad()
    def begin(self, laws: FoundLaws) -> None:
        """Takes laws that were found, after `set_scales`."""
        if self.found is None:
            return
        self.begin_spread(laws)
        p = self.positions
        if not self.smooth:  # by which coordinates move, exactly
            self.step_scale.copy_(laws.step * laws.span[p] / laws.span[0])
            self.change_scale[:p] = self.step_scale * self.change_scale[p:]
        self.found.begin(laws, self.change_scale[p:])
        self.lag.copy_(laws.lag)
        for modules in (self.edge_modules, self.node_modules):
            for layer in (modules.affine[-1], modules.linear):
                if layer is not None:
                    layer.weight.zero_()
                    layer.bias.zero_()

    def pair_law(self, states: Float[Tensor, "B N T D"]) -> Float[Tensor, "B N S K T C"]:
        """Accelerations of every module along every edge at given states: (B, N, T, D) to (B, N, S, K, T, P)."""
        learned = super().pair_law(states)
        if self.found is None:
            return learned
        speaking = torch.arange(self.num_edge_modules, device=states.device) >= int(self.null_module)
        return self.found.pairs(states) * speaking.view(-1, 1, 1) + learned * self.found.rest

    @property
    def powers(self) -> Tensor | None:
        """Powers of the distance, (K,); 0 beside laws that were found."""
        return super().powers if self.found is None else self.rest.new_zeros(self.num_edge_modules)

    def own_changes(self, inputs: Float[Tensor, "*rest F"]) -> Float[Tensor, "G *rest D"]:
        """Changes that node modules learn, (..., F) to (G, ..., D)."""
        learned = super().own_changes(inputs)
        return learned if self.found is None else learned * self.found.rest.repeat(2)

    def targets(self, states: Float[Tensor, "B N T D"]) -> Float[Tensor, "B N T-1 D"]:
        """Observed deviations from uniform motion, (B, N, T - 1, D), in units of `change_scale`."""
        start = states[:, :, :-1]
        return (self._unfold(states)[0] - start - self._drift(start)) / self.change_scale

    def _drift(self, states: Tensor) -> Tensor:
        velocities = states[..., self.positions :] - self.rest
        return torch.cat((velocities * self.step_scale, torch.zeros_like(velocities)), dim=-1)

    def _unfold(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Next frames with reflections at walls undone, (B, N, T - 1, D), and whether a coordinate was, (..., P)."""
        start, end = states[:, :, :-1], states[:, :, 1:]
        wall = torch.where(start[..., self.positions :] > self.rest, self.walls[1], self.walls[0])
        image = torch.cat((2 * wall - end[..., : self.positions], 2 * self.rest - end[..., self.positions :]), dim=-1)

        def off(end: Tensor) -> Tensor:
            """Distance from uniform motion, per frame."""
            place, speed = (end - start - self._drift(start)).split(self.positions, dim=-1)
            return place.abs() + speed.abs() * self.step_scale

        reflected = off(image) < off(end)
        return torch.where(reflected.repeat(1, 1, 1, 2), image, end), reflected

    def _reflect(self, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Reflects coordinates and velocities (..., P) at the walls; also returns which were beyond them."""
        low, high = self.walls
        beyond = (x < low) | (x > high)
        wall = torch.where(x < low, low, high)
        return torch.where(beyond, 2 * wall - x, x), torch.where(beyond, 2 * self.rest - v, v), beyond

    def _between(self, states: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
        """States at the inner quadrature nodes of every frame, on cubics, reflected at the walls.

        Args:
            states: (B, N, T, D).
            ends: next frames with reflections undone, (B, N, T - 1, D).

        Returns:
            States (B, N, T - 1, nodes - 2, D), and whether a coordinate was reflected, (B, N, T - 1, nodes - 2, P).
        """
        p, rest = self.positions, self.rest.double()  # float64, because differences of close positions lose digits
        start, end = states[:, :, :-1].double(), ends.double()
        v0, v1 = (start[..., p:] - rest) * self.step_scale, (end[..., p:] - rest) * self.step_scale
        cubic = torch.stack((start[..., :p], v0, end[..., :p], v1), dim=-1)  # (B, N, T - 1, P, 4)
        places = (cubic @ self.places.double()).movedim(-1, -2).to(states.dtype)
        speeds = (cubic @ self.tangents.double()).movedim(-1, -2).to(states.dtype) / self.step_scale + self.rest
        places, speeds, beyond = self._reflect(places, speeds)
        return torch.cat((places, speeds), dim=-1), beyond

    def messages(self, states: Float[Tensor, "B N T D"]) -> Float[Tensor, "B N S K T-1 C"]:
        """Messages of every module along every edge for every observed change, on cubic paths.

        Args:
            states: observed states (B, N, T, D).

        Returns:
            (B, N, S, K, T - 1, D).
        """
        return self._integrated(states, self.pair_law)

    def _integrated(self, states: Tensor, law: Callable[[Tensor], Tensor]) -> Tensor:
        """Changes (..., T - 1, D) by accelerations (..., Q, P), a law of states (B, N, Q, D), on cubic paths."""
        if not self.smooth:
            sent = law(states[:, :, :-1])
            return torch.cat(((0.5 + self.lag) * sent, sent), -1)
        t = states.shape[2]
        ends, reflected = self._unfold(states)
        between, beyond = self._between(states, ends)
        sent = law(torch.cat((states, between.flatten(2, 3)), dim=2))
        at, inner = sent[..., :t, :], sent[..., t:, :].unflatten(-2, (t - 1, -1))
        nodes = torch.cat((at[..., :-1, None, :], inner, at[..., 1:, None, :]), dim=-2)  # (..., T - 1, nodes, P)
        image = torch.cat((torch.zeros_like(reflected).unsqueeze(-2), beyond, reflected.unsqueeze(-2)), dim=-2)
        sign = _sign(image)
        sign = sign.view(*sign.shape[:2], *[1] * (nodes.dim() - sign.dim()), *sign.shape[2:])
        return (self._kernel(self.kernel) @ (nodes * sign)).flatten(-2)

    def along(self, states: Float[Tensor, "B N T D"]) -> Callable[[Tensor, Tensor], Tensor]:
        """`responder` of the observed steps of states (B, N, T, D), the own law found integrated as messages are."""
        if self.found is None:
            return super().along(states)
        learned = self.own_changes(self.scaled(states[:, :, :-1]))
        return self.adding(learned + self._integrated(states, self.found.own))

    def without_constants(
        self, values: Float[Tensor, "B N *any L C"], states: Float[Tensor, "B N T D"], mask: Tensor | None = None
    ) -> Float[Tensor, "B N *any L C"]:
        """Values of steps less what a constant acceleration of each entity explains of them.

        Args:
            values: (B, N, ..., T - 1, D), errors or messages.
            states: of the steps (B, N, T, D).
            mask: how well steps are known, (B, N, T - 1); None for all observed.
        """
        return values - self._by_constants(values, mask) if self.has_constants else values

    def drive(
        self, error: Float[Tensor, "B N L D"], states: Float[Tensor, "B N T D"], mask: Tensor | None = None
    ) -> Float[Tensor, "B N D"] | None:
        """Changes (B, N, D) a frame by constant accelerations that explain errors of predicted changes best."""
        return -self._by_constants(error, mask).squeeze(2) if self.has_constants else None

    def _by_constants(self, values: Tensor, mask: Tensor | None) -> Tensor:
        """Changes (B, N, ..., 1, D) by constant accelerations, as velocities of values (B, N, ..., T - 1, D) show."""
        gained = values[..., self.positions :]
        if mask is None:
            mean = gained.mean(-2, keepdim=True)
        else:
            weight = counted(mask).view(*mask.shape[:2], *[1] * (values.dim() - 4), -1, 1)
            mean = (weight * gained).sum(-2, keepdim=True) / weight.sum(-2, keepdim=True).clamp_min(1e-20)
        return torch.cat(((0.5 + self.lag) * mean, mean), dim=-1)

    def refined(
        self, messages: Float[Tensor, "B N S K L C"], states: Float[Tensor, "B N T D"], structure: Structure
    ) -> Float[Tensor, "B N S K L C"]:
        """Messages (B, N, S, K, T - 1, D) of which those of close pairs are on paths integrated under a structure."""
        if not self.pieces:
            return messages
        ends, reflected = self._unfold(states)
        tasks, frames = self._close(states, reflected)
        starts, ends = states.transpose(1, 2)[tasks, frames], ends.transpose(1, 2)[tasks, frames]  # (Q, N, D)
        relations, types = structure.edge_modules[tasks], structure.node_modules[tasks]
        close = self._close_messages(starts, ends, relations, types)  # (Q, N, S, K, D)
        return messages.movedim(4, 1).index_put((tasks, frames), close).movedim(1, 4)

    def _close(self, states: Tensor, reflected: Tensor) -> tuple[Tensor, Tensor]:
        """Tasks and frames, each (Q,), in which a pair is close or an entity touches a wall: forces need more nodes."""
        b, n, t, d = states.shape
        x, v = states.transpose(1, 2).reshape(b * t, n, d).split(self.positions, dim=-1)
        fraction = self._careful(x, v).view(b, t)
        close = torch.minimum(fraction[:, :-1], fraction[:, 1:]) < CLOSE
        tasks, frames = (close | reflected.any(-1).any(1)).nonzero(as_tuple=True)
        return tasks, frames

    def _close_messages(self, starts: Tensor, ends: Tensor, relations: Tensor, types: Tensor) -> Tensor:
        """Messages (Q, N, S, K, D) for changes between two frames in which a pair is close.

        The path follows the current law, plus the cubic correction that makes it end at the observed state. If the law
        misses the end by more than uniform motion does, the correction is added to uniform motion.

        Args:
            starts, ends: states of the two frames, (Q, N, D).
            relations, types: edge and node modules (Q, N, S), (Q, N).
        """
        with torch.no_grad():
            places, speeds = self._path(starts, self._acting(relations, types))
            free = starts[..., : self.positions].unsqueeze(2), starts[..., self.positions :].unsqueeze(2)
            s = self.times.view(-1, 1)
            straight = free[0] + s * self.step_scale * (free[1] - self.rest)
            end_x, end_v = (end.unsqueeze(2) for end in ends.split(self.positions, dim=-1))

            def miss(x: Tensor, v: Tensor) -> Tensor:
                off = torch.cat((end_x - x[:, :, -1:], (end_v - v[:, :, -1:]) * self.step_scale), dim=-1)
                return off.norm(dim=-1, keepdim=True)

            lost = ~(miss(places, speeds) < miss(straight, free[1]))
            places, speeds = torch.where(lost, straight, places), torch.where(lost, free[1], speeds)
            off_x, off_v = end_x - places[:, :, -1:], (end_v - speeds[:, :, -1:]) * self.step_scale
            places = places + off_x * (3 * s**2 - 2 * s**3) + off_v * (s**3 - s**2)
            speeds = speeds + (off_x * (6 * s - 6 * s**2) + off_v * (3 * s**2 - 2 * s)) / self.step_scale
            places, speeds, image = self._reflect(places, speeds)
        sent = self.pair_law(torch.cat((places, speeds), dim=-1))  # (Q, N, S, K, nodes, P)
        return (self._kernel(self.fine_kernel) @ (sent * _sign(image)[:, :, None, None])).flatten(-2)

    def _acting(self, relations: Tensor, types: Tensor, drive: Tensor | None = None) -> "_Acts":
        """What acts in scenes of edge and node modules (Q, N, S), (Q, N), and constants (Q, N, D) of entities."""
        alone = not (torch.is_grad_enabled() or machine.waits(relations) or relations.is_floating_point())
        mutual = self.features.mutual and (self.found is None or self.found.mutual)
        few = alone and mutual and self.num_edge_modules > 1
        acting: Acting | _Weighed = (Acting if few else _Weighed)(self, relations, types)
        return acting if drive is None else _Driven(acting, drive[..., self.positions :])

    def _path(self, states: Tensor, acting: "_Acts") -> tuple[Tensor, Tensor]:
        """Integrates states (Q, N, D) over a frame by leapfrog; coordinates, velocities at nodes (Q, N, nodes, P)."""
        x, v = states.split(self.positions, dim=-1)
        v = v + self.lag * self._accelerations(x, v, acting)
        places, speeds = [x], [v]
        h = 1 / (LEAPFROG_STEPS * (len(self.times) - 1))
        for leap in range(1, LEAPFROG_STEPS * (len(self.times) - 1) + 1):
            x = x + h / 2 * self.step_scale * (v - self.rest)
            v = v + h * self._accelerations(x, v, acting)
            x = x + h / 2 * self.step_scale * (v - self.rest)
            if leap % LEAPFROG_STEPS == 0:
                places.append(x)
                speeds.append(v)
        return torch.stack(places, dim=2), torch.stack(speeds, dim=2)

    def _kernel(self, weights: Tensor) -> Tensor:
        """Quadrature weights of the changes of positions and velocities, (2, nodes), corrected for `lag`."""
        correction = torch.zeros_like(weights)
        correction[:, 0].fill_(1)  # unlike an assignment, this does not wait for a GPU
        correction[1, -1].fill_(-1)
        return weights + self.lag * correction

    def responder(self, states: Float[Tensor, "B N T D"]) -> Callable[[Tensor, Tensor], Tensor]:
        """Returns a function of summed messages (B, N, M, T, D), node modules (B, N, M) to changes (B, N, M, T, D).

        Args:
            states: states of the receivers (B, N, T, D).
        """
        return self.additive_responder(states)

    @property
    def resting(self) -> Tensor:
        """State (D,) of an entity at the median position whose physical velocity is 0."""
        return torch.cat((self.centre[: self.positions], self.rest))

    def coast(self, states: Float[Tensor, "*rest 1 D"], frames: int) -> Float[Tensor, "*rest {frames} D"]:
        """Uniform motion (..., frames, D) from states (..., 1, D), reflected at walls."""
        x, v = states.split(self.positions, dim=-1)
        time = torch.arange(frames, device=x.device).view(-1, 1)
        x = x + self.step_scale * (v - self.rest) * time
        x, v, _ = self._reflect(x, v.expand_as(x))
        return torch.cat((x, v), dim=-1)

    def observation_noise(self) -> ObservationNoise:
        """White noise of positions and velocities."""
        return ObservationNoise()

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
            kept: unused.
            drive: constants of the entities, as `drive` gives them.
        """
        return lambda states: self._advanced(states, relations, types, drive)

    def _advanced(self, states: Tensor, relations: Tensor, types: Tensor, drive: Tensor | None) -> Tensor:
        """States (B, N, T, D) one frame later, under edge and node modules (B, N, S), (B, N), and constants."""
        b, n, t, d = states.shape
        relations, types = relations.repeat_interleave(t, 0), types.repeat_interleave(t, 0)  # of Q = B T scenes
        drive = None if drive is None else drive.repeat_interleave(t, 0)
        states, acting = states.transpose(1, 2).reshape(b * t, n, d), self._acting(relations, types, drive)
        if not self.smooth:
            return self._stepped(states, types, acting).view(b, t, n, d).transpose(1, 2)
        own, (x, v) = self._own(states, types), self._kicked(states, acting)
        left = states.new_ones(b * t)  # remaining fraction of the frame
        while (going := (left > MOMENT).nonzero().squeeze(-1)).numel():
            x1, v1, rest = self._substep(x[going], v[going], left[going], acting.of(going))
            x, v, left = x.index_copy(0, going, x1), v.index_copy(0, going, v1), left.index_copy(0, going, rest)
        return self._landed(x, v, own, acting).view(b, t, n, d).transpose(1, 2)

    def _stepped(self, states: Tensor, types: Tensor, acting: "_Acts") -> Tensor:
        """States (Q, N, D) at the next frame, which those of this one decide."""
        x, v = states.split(self.positions, dim=-1)
        own, gained = self._own(states, types), self._accelerations(x, v, acting)
        moved = self.step_scale * (v - self.rest + (0.5 + self.lag) * gained)
        ended = torch.cat((x + moved, v + gained), dim=-1) + own * self.change_scale
        x, v, _ = self._reflect(*ended.split(self.positions, dim=-1))
        return torch.cat((x, v), dim=-1).clamp(-FORECAST_BOUND, FORECAST_BOUND)

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
        """See `Dynamics.disturbed`. A task whose pairs are close falls frames behind; the others do not wait for it."""
        if not self.smooth:
            return super().disturbed(states, relations, types, steps, disturb, drive)
        (b, n, d), acting = states.shape, self._acting(relations, types, drive)
        x, v = (part.clone() for part in states.split(self.positions, dim=-1))
        own, frames = torch.zeros_like(states), states.new_empty(b, steps, n, d)
        left, frame = states.new_zeros(b), types.new_zeros(b)  # of its frame, and which that is
        going = torch.arange(b, device=states.device)
        while going.numel():
            if len(begin := going[left[going] <= MOMENT]):
                begun = disturb(begin, frame[begin], torch.cat((x[begin], v[begin]), dim=-1))
                own[begin], left[begin] = self._own(begun, types[begin]), 1.0
                x[begin], v[begin] = self._kicked(begun, acting.of(begin))
            x[going], v[going], left[going] = self._substep(x[going], v[going], left[going], acting.of(going))
            if len(end := going[left[going] <= MOMENT]):
                ended = self._landed(x[end], v[end], own[end], acting.of(end))
                x[end], v[end] = ended.split(self.positions, dim=-1)
                frames[end, frame[end]] = ended
                frame[end] += 1
                going = going[frame[going] < steps]
        return frames.transpose(1, 2)

    def _own(self, states: Tensor, types: Tensor) -> Tensor:
        """Changes (Q, N, D) of entities that nothing acts on, at states (Q, N, D)."""
        inputs = self.scaled(states)[:, :, None, None]
        return self.of_node_modules(self.own_changes(inputs), types.unsqueeze(2)).flatten(2)

    def _kicked(self, states: Tensor, acting: "_Acts") -> tuple[Tensor, Tensor]:
        """Coordinates, and velocities at the same time, (Q, N, P) each, of states (Q, N, D) at the start of a frame."""
        x, v = states.split(self.positions, dim=-1)
        return x, v + self.lag * self._accelerations(x, v, acting)

    def _substep(self, x: Tensor, v: Tensor, left: Tensor, acting: "_Acts") -> tuple[Tensor, Tensor, Tensor]:
        """The next coordinates and velocities (Q, N, P), and what is left of the frame, (Q,)."""
        h = torch.minimum(self._careful(x, v), left)
        return *self._runge_kutta(x, v, acting, h.view(-1, 1, 1)), left - h

    def _landed(self, x: Tensor, v: Tensor, own: Tensor, acting: "_Acts") -> Tensor:
        """States (Q, N, D) at the end of a frame, with the changes `own` that began with it."""
        x, v, image = self._reflect(x, v)
        moved = torch.cat((x, v - self.lag * self._accelerations(x, v, acting)), dim=-1)
        mirrored = _sign(image).repeat(1, 1, 2)  # reflected like the state itself
        return (moved + mirrored * own * self.change_scale).clamp(-FORECAST_BOUND, FORECAST_BOUND)

    def _accelerations(self, x: Tensor, v: Tensor, acting: "_Acts") -> Tensor:
        """Clamped accelerations per frame at coordinates and velocities, all (Q, N, P); mirrored beyond walls."""
        inside, speed, image = self._reflect(x, v)
        states = torch.cat((inside, speed), dim=-1)
        sums = acting.received(states)
        if self.found is not None:
            sums = sums + self.found.own(states)
        sums = sums * self.change_scale[self.positions :]
        return _sign(image) * sums.clamp(-self.limit, self.limit)

    @torch.no_grad()
    def _careful(self, x: Tensor, v: Tensor) -> Tensor:
        """Step size (Q,), a fraction of a frame, in which no pair covers more than `reach` of its distance."""
        x, v, _ = self._reflect(x, v)
        first, second = torch.triu_indices(x.shape[1], x.shape[1], 1, device=x.device)
        distance = (x[:, first] - x[:, second]).norm(dim=-1)
        path = (v[:, first] - v[:, second]).norm(dim=-1) * self.step_scale.abs()
        fraction = (self.reach * distance / path.clamp_min(1e-12)).amin(-1)
        return fraction.clamp(1 / self.substeps, 1)

    def _runge_kutta(self, x: Tensor, v: Tensor, acting: "_Acts", h: Tensor) -> tuple[Tensor, Tensor]:
        """Coordinates and velocities (Q, N, P) after one step of size h (Q, 1, 1)."""
        k = self.step_scale
        a1 = self._accelerations(x, v, acting)
        v2 = v + h / 2 * a1
        a2 = self._accelerations(x + h / 2 * k * (v - self.rest), v2, acting)
        v3 = v + h / 2 * a2
        a3 = self._accelerations(x + h / 2 * k * (v2 - self.rest), v3, acting)
        v4 = v + h * a3
        a4 = self._accelerations(x + h * k * (v3 - self.rest), v4, acting)
        return x + h * k * ((v + 2 * v2 + 2 * v3 + v4) / 6 - self.rest), v + h / 6 * (a1 + 2 * a2 + 2 * a3 + a4)


class _Weighed:
    """As `Acting`, for any features and strengths, with gradients and on a GPU: all modules are evaluated, weighed."""

    def __init__(self, dynamics: ContinuousDynamics, relations: Tensor, types: Tensor) -> None:
        weights, mobility = (
            weights_of(relations, dynamics.num_edge_modules, dynamics.rest.dtype),
            dynamics.mobilities(types),
        )
        weights = weights if mobility is None else weights * mobility.unsqueeze(-1)
        self.dynamics, self.weights = dynamics, weights.unsqueeze(2)  # (Q, N, 1, S K)

    def of(self, scenes: Tensor) -> "_Weighed":
        """Those of some scenes (R,)."""
        some = copy(self)
        some.weights = self.weights[scenes]
        return some

    def received(self, states: Tensor) -> Tensor:
        """What every entity receives at states (Q, N, D), (Q, N, P)."""
        sent = self.dynamics.pair_law(states.unsqueeze(2))  # (Q, N, S, K, 1, P)
        return (self.weights @ sent.flatten(2, 3).flatten(3)).squeeze(2)


class _Driven:
    """What acts in scenes, and constant accelerations (Q, N, P) of the entities beside."""

    def __init__(self, acting: Acting | _Weighed, constants: Tensor) -> None:
        self.acting, self.constants = acting, constants

    def of(self, scenes: Tensor) -> "_Driven":
        """Those of some scenes (R,)."""
        return _Driven(self.acting.of(scenes), self.constants[scenes])

    def received(self, states: Tensor) -> Tensor:
        """What every entity receives at states (Q, N, D), (Q, N, P)."""
        return self.acting.received(states) + self.constants


_Acts = Acting | _Weighed | _Driven


def _sign(image: Tensor) -> Tensor:
    """-1 for mirror images, in which forces are mirrored, else 1."""
    return 1 - 2 * image.to(torch.get_default_dtype())


def _quadrature(nodes: int) -> dict[str, np.ndarray]:
    """Gauss-Lobatto rule on [0, 1], and the cubic Hermite interpolation at its inner nodes.

    Returns:
        `kernel` (2, nodes), quadrature weights of the changes of positions and velocities; `places` and `tangents`
        (4, nodes - 2), weights of start, start tangent, end, end tangent in the cubic and in its derivative.
    """
    legendre = np.polynomial.legendre.Legendre.basis(nodes - 1)
    inner = np.sort(legendre.deriv().roots().real) if nodes > 2 else np.empty(0)
    x = np.concatenate(([-1.0], inner, [1.0]))
    weights = 1 / (nodes * (nodes - 1) * legendre(x) ** 2)
    s = (inner + 1) / 2
    return {
        "kernel": np.stack((weights * (1 - x) / 2, weights)),
        "places": np.stack((2 * s**3 - 3 * s**2 + 1, s**3 - 2 * s**2 + s, -2 * s**3 + 3 * s**2, s**3 - s**2)),
        "tangents": np.stack((6 * s**2 - 6 * s, 3 * s**2 - 4 * s + 1, -6 * s**2 + 6 * s, 3 * s**2 - 2 * s)),
    }


def _simpson(pieces: int) -> dict[str, np.ndarray]:
    """Composite Simpson rule on [0, 1]: nodes `times` (nodes,), and `fine_kernel` (2, nodes), as `kernel` above."""
    times = np.linspace(0, 1, 2 * pieces + 1)
    weights = np.ones(2 * pieces + 1)
    weights[1::2], weights[2:-1:2] = 4, 2
    weights /= 6 * pieces
    return {"fine_kernel": np.stack((weights * (1 - times), weights)), "times": times}
