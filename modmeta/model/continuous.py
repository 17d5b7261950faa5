"""Dynamics in continuous time: edge modules are accelerations, learned in weak form and forecast by integration."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modmeta.data.scaling import Scales
from modmeta.model.dynamics import ModularDynamics, one_hot
from modmeta.model.features import AbsoluteFeatures, IsotropicFeatures, RelativeFeatures

FAR = 3.0  # forecasts stay within three times the range of the training set, lest one near-collision end in infinity


class ContinuousDynamics(ModularDynamics):
    """Edge modules are accelerations; what they do between two frames is their integral along the observed path.

    With time in frames, positions x, velocities v, and kappa the distance covered in a frame at velocity 1,

        v_i(t+1) - v_i(t)                = int_0^1         sum_j h_{z_ij}(s_i, s_j) ds + g_{z_i}(s_i(t))
        x_i(t+1) - x_i(t) - kappa v_i(t) = int_0^1 (1 - s) sum_j h_{z_ij}(s_i, s_j) ds + g_{z_i}(s_i(t))

    in units of `change_scale` (the weak form of a law of motion: Messenger and Bortz, *Weak SINDy*, 2021). The path is
    the cubic through both frames and their velocities, the same for every candidate, so that integrals add up over
    senders as messages do: search and gradient step cannot tell the difference. An edge module has the law itself to
    learn, not its effect over a frame, which a single state determines only roughly where forces change fast. Forecasts
    integrate the law with the Runge-Kutta method of fourth order.

    Args:
        num_features: D, twice the number of coordinates: positions, then their velocities.
        num_edge_modules: K.
        features: what an edge module sees of a pair.
        num_node_modules: G.
        hidden: width of the hidden layers of edge modules.
        edge_layers: hidden layers of an edge module.
        node_layers: hidden layers of a node module.
        node_hidden: their width; none for `hidden`.
        nodes: points of the Gauss-Lobatto quadrature of a frame, both ends among them.
        substeps: Runge-Kutta steps of a frame in forecasts.
        activation: elementwise function of the hidden layers.
        null_module: module 0 sends nothing.
    """

    step_scale: Tensor
    rest: Tensor
    kernel: Tensor
    places: Tensor
    tangents: Tensor

    def __init__(
        self,
        num_features: int,
        num_edge_modules: int,
        features: AbsoluteFeatures | RelativeFeatures | IsotropicFeatures,
        num_node_modules: int = 1,
        hidden: int = 64,
        edge_layers: int = 2,
        node_layers: int = 2,
        nodes: int = 4,
        substeps: int = 1,
        activation: Callable[[Tensor], Tensor] = F.silu,
        null_module: bool = False,
        node_hidden: int | None = None,
    ) -> None:
        if num_features % 2:
            raise ValueError(f"model=continuous needs a velocity for every coordinate; {num_features} features are odd")
        if nodes < 2:
            raise ValueError(f"model.nodes={nodes} must be at least 2")
        self.positions = num_features // 2
        super().__init__(
            num_features, num_edge_modules, features, num_node_modules, hidden, edge_layers, node_layers,
            activation=activation, channels=self.positions, null_module=null_module, node_hidden=node_hidden,
        )  # fmt: skip
        self.substeps = substeps
        self.lag = nn.Parameter(torch.zeros(()))  # frames by which stored velocities are behind the positions
        self.register_buffer("step_scale", torch.ones(()))
        self.register_buffer("rest", torch.zeros(self.positions))
        for name, values in _quadrature(nodes).items():
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32), persistent=False)

    def set_scales(self, scales: Scales) -> None:
        """Takes the units; a deviation from uniform motion is measured in what acceleration does to velocities."""
        super().set_scales(scales)
        self.step_scale.copy_(scales.step)
        self.rest.copy_(scales.rest[self.positions :])
        self.change_scale[: self.positions] = scales.step * scales.change[self.positions :]

    def targets(self, states: Tensor) -> Tensor:
        """Observed changes beyond uniform motion, (B, N, T - 1, D) in units of `change_scale`."""
        return (states.diff(dim=2) - self._drift(states[:, :, :-1])) / self.change_scale

    def _drift(self, states: Tensor) -> Tensor:
        velocities = states[..., self.positions :] - self.rest
        return torch.cat((velocities * self.step_scale, torch.zeros_like(velocities)), dim=-1)

    def _between(self, states: Tensor) -> Tensor:
        """States at the inner nodes of every frame, on cubics: (B, N, T, D) to (B, N, T - 1, nodes - 2, D)."""
        x, v = states.split(self.positions, dim=-1)
        x, v = x.double(), (v.double() - self.rest) * self.step_scale  # differences of close positions lose digits
        ends = torch.stack((x[:, :, :-1], v[:, :, :-1], x[:, :, 1:], v[:, :, 1:]), dim=-1)  # (B, N, T - 1, P, 4)
        places = (ends @ self.places.double()).to(states.dtype)
        speeds = (ends @ self.tangents.double()).to(states.dtype) / self.step_scale + self.rest.unsqueeze(-1)
        return torch.cat((places, speeds), dim=-2).movedim(-1, -2)

    def messages(self, states: Tensor) -> Tensor:
        """What every module sends along every edge in every observed change: (B, N, T, D) to (B, N, S, K, T - 1, D)."""
        t = states.shape[2]
        sent = self._send(torch.cat((states, self._between(states).flatten(2, 3)), dim=2))  # (B, N, S, K, ., P)
        ends, inner = sent[..., :t, :], sent[..., t:, :].unflatten(-2, (t - 1, -1))
        nodes = torch.cat((ends[..., :-1, None, :], inner, ends[..., 1:, None, :]), dim=-2)  # (..., T - 1, nodes, P)
        return (self._kernel() @ nodes).flatten(-2)

    def _kernel(self) -> Tensor:
        """Weights of the nodes in the change of positions and of velocities, (2, nodes)."""
        behind = torch.zeros_like(self.kernel)
        behind[:, 0] = 1
        behind[1, -1] = -1
        return self.kernel + self.lag * behind

    def step(self, states: Tensor, relations: Tensor, types: Tensor) -> Tensor:
        """Next states (B, N, T, D) from each given one, under structures (B, N, S) and (B, N)."""
        weights = one_hot(relations, self.num_edge_modules, states.dtype).unsqueeze(2)  # (B, N, 1, S K)
        per_frame = self.change_scale[self.positions :]

        def acceleration(x: Tensor, v: Tensor) -> Tensor:
            sent = self._send(torch.cat((x, v), dim=-1))  # (B, N, S, K, T, P)
            return (weights @ sent.flatten(2, 3).flatten(3)).view_as(x) * per_frame

        x, v = states.split(self.positions, dim=-1)
        v = v + self.lag * acceleration(x, v)
        h, k = 1 / self.substeps, self.step_scale
        for _ in range(self.substeps):
            a1 = acceleration(x, v)
            v2 = v + h / 2 * a1
            a2 = acceleration(x + h / 2 * k * (v - self.rest), v2)
            v3 = v + h / 2 * a2
            a3 = acceleration(x + h / 2 * k * (v2 - self.rest), v3)
            v4 = v + h * a3
            a4 = acceleration(x + h * k * (v3 - self.rest), v4)
            x = x + h * k * ((v + 2 * v2 + 2 * v3 + v4) / 6 - self.rest)
            v = v + h / 6 * (a1 + 2 * a2 + 2 * a3 + a4)
        v = v - self.lag * acceleration(x, v)
        own = self._select(self._nodes(self.scaled(states).unsqueeze(2)), types.unsqueeze(2)).squeeze(2)
        return (torch.cat((x, v), dim=-1) + own * self.change_scale).clamp(-FAR, FAR)


def _quadrature(nodes: int) -> dict[str, np.ndarray]:
    """Gauss-Lobatto rule on [0, 1]: its kernels, and the cubic of Hermite at its inner nodes.

    Returns:
        `kernel` (2, nodes), weights in the change of positions and velocities; `places` and `tangents` (4, nodes - 2),
        weights of start, its tangent, end, its tangent in the cubic and in its derivative.
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
