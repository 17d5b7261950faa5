"""Several networks of one shape, evaluated together as one batched matrix product."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn


class Kept:
    """Tasks of a batch that a backward pass is about, which may become known only after the forward pass.

    Attributes:
        tasks: bool (B,); none for all. Gradients of the others must be zero.
    """

    tasks: Tensor | None = None

    def rows(self, task: Tensor, per_row: int) -> Callable[[], Tensor | None]:
        """Later: which of rows that belong to `task` (E,), `per_row` to each of them, are kept."""

        def find() -> Tensor | None:
            if self.tasks is None:
                return None
            first = self.tasks[task].nonzero() * per_row
            return (first + torch.arange(per_row, device=first.device)).flatten()

        return find


class _Affine(torch.autograd.Function):
    """x W + b, (..., P, in) to (..., P, out), whose backward pass leaves out rows that are not kept."""

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu")
    def forward(ctx: Any, bias: Tensor, x: Tensor, weight: Tensor, rows: Callable[[], Tensor | None]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.rows = rows
        return torch.addmm(bias, x, weight) if x.dim() == 2 else torch.baddbmm(bias, x, weight)

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (x, weight), rows = ctx.saved_tensors, ctx.rows()
        if rows is not None:
            x, grad = x.index_select(-2, rows), grad.index_select(-2, rows)
        to_x = grad @ weight.mT if ctx.needs_input_grad[1] else None
        if rows is not None and to_x is not None:
            every = to_x.new_zeros(ctx.saved_tensors[0].shape)
            to_x = every.index_copy_(-2, rows, to_x)
        return grad.sum(-2, keepdim=True), to_x, x.mT @ grad, None


class GroupedLinear(nn.Module):
    """K affine maps side by side: (K, P, in) or (P, in), the same input for all, to (K, P, out)."""

    def __init__(self, groups: int, in_features: int, out_features: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(in_features)  # the initialisation of torch.nn.Linear
        self.weight = nn.Parameter(torch.empty(groups, in_features, out_features).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(groups, 1, out_features).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 2:
            x = x.expand(self.weight.shape[0], *x.shape)
        return torch.baddbmm(self.bias, x, self.weight)


class GroupedMLP(nn.Module):
    """K multi-layer perceptrons of sizes `sizes`, with a linear path beside them where asked.

    Args:
        groups: number of networks K.
        sizes: widths from input to output.
        activation: elementwise function between layers.
        linear_path: adds an affine map from input to output, and starts the perceptron's last layer at zero, so that
            the network begins as a linear one and spends its capacity on what is not linear. The map starts small:
            networks that begin almost alike part along the direction that explains the data best.
    """

    def __init__(
        self,
        groups: int,
        sizes: Sequence[int],
        activation: Callable[[Tensor], Tensor] = torch.relu,
        linear_path: bool = False,
    ) -> None:
        super().__init__()
        self.activation = activation
        layers = [GroupedLinear(groups, a, b) for a, b in pairwise(sizes)]
        self.layers = nn.ModuleList(layers)
        self.linear = GroupedLinear(groups, sizes[0], sizes[-1]) if linear_path else None
        if self.linear is not None:
            nn.init.zeros_(layers[-1].weight)
            nn.init.zeros_(layers[-1].bias)
            nn.init.normal_(self.linear.weight, std=0.001)
            nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(P, in), shared, or (K, P, in) to (K, P, out)."""
        h = x
        for layer in self.layers[:-1]:
            h = self.activation(layer(h))
        out = self.layers[-1](h)
        return out if self.linear is None else out + self.linear(x)

    @property
    def affine(self) -> list[GroupedLinear]:
        """The layers, from input to output."""
        return [cast(GroupedLinear, layer) for layer in self.layers]

    def alone(self, group: int) -> Callable[..., Tensor]:
        """The hidden layers of one network: (P, in), and which of its rows are kept, to (P, hidden)."""
        layers = [(layer.bias[group], layer.weight[group]) for layer in self.affine[:-1]]

        def hidden(x: Tensor, rows: Callable[[], Tensor | None]) -> Tensor:
            for bias, weight in layers:
                x = self.activation(_Affine.apply(bias, x, weight, rows))
            return x

        return hidden

    def led(self, own: int, lead: Tensor) -> Callable[..., Tensor]:
        """The networks on inputs of which all but the first `own` numbers are `lead`, (L, in - own), times L others.

        The product of the two linear maps is taken here once, of weights alone: (P, own + L) to (K, P, out).
        """
        (first, *others), linear = self.affine, self.linear

        def melted(weight: Tensor) -> Tensor:
            return torch.cat((weight[:, :own], lead @ weight[:, own:]), dim=1)

        layers = [(first.bias, melted(first.weight)), *((layer.bias, layer.weight) for layer in others)]
        straight = None if linear is None else melted(linear.weight)

        def networks(x: Tensor, rows: Callable[[], Tensor | None]) -> Tensor:
            h = x = x.expand(len(first.weight), *x.shape)
            for number, (bias, weight) in enumerate(layers):
                h = _Affine.apply(bias, self.activation(h) if number else h, weight, rows)
            return h if linear is None else h + _Affine.apply(linear.bias, x, straight, rows)

        return networks
