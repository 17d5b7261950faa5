"""Several networks of one shape, evaluated together as one batched matrix product."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad


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


class _Layers(torch.autograd.Function):
    """Affine maps with an activation after all but the last, (..., P, in) to (..., P, out).

    The backward pass gathers the rows that are kept from what the forward pass left, and works on them alone.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        activation: Callable[[Tensor], Tensor],
        rows: Callable[[], Tensor | None],
        *layers: Tensor,
    ) -> Tensor:
        ctx.activation, ctx.rows, inputs = activation, rows, [x]
        for number, (bias, weight) in enumerate(zip(layers[::2], layers[1::2], strict=True)):
            h = inputs[-1] if number == 0 else activation(inputs[-1])
            inputs.append(torch.addmm(bias, h, weight) if x.dim() == 2 else torch.baddbmm(bias, h, weight))
        ctx.save_for_backward(*inputs[:-1], *layers[1::2])
        return inputs[-1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, depth = ctx.rows(), len(ctx.saved_tensors) // 2
        inputs, weights = ctx.saved_tensors[:depth], ctx.saved_tensors[depth:]
        if rows is not None:
            grad, inputs = grad.index_select(-2, rows), [h.index_select(-2, rows) for h in inputs]
        # Under autocast the forward pass multiplied in lower precision, which the gradient of its outcome has.
        inputs, weights = ([part.to(grad.dtype) for part in parts] for parts in (inputs, weights))
        of_layers: list[Tensor] = []
        for number in reversed(range(depth)):
            before, h = inputs[number], inputs[number]
            slope: Tensor | None = None
            to_x = grad @ weights[number].mT if number or ctx.needs_input_grad[0] else None
            if number and to_x is not None:  # elementwise, so that a tangent forwards is a gradient backwards
                with forward_ad.dual_level():
                    dual = ctx.activation(forward_ad.make_dual(before, to_x.to(before.dtype)))
                    h, slope = forward_ad.unpack_dual(dual)
            of_layers = [grad.sum(-2, keepdim=True), h.mT @ grad, *of_layers]
            if to_x is None:
                return None, None, None, *of_layers
            grad = to_x if slope is None else slope
        if rows is not None:
            grad = grad.new_zeros(ctx.saved_tensors[0].shape).index_copy_(-2, rows, grad)
        return grad, None, None, *of_layers


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
        layers = [part[group] for layer in self.affine[:-1] for part in (layer.bias, layer.weight)]
        return lambda x, rows: self.activation(_Layers.apply(x, self.activation, rows, *layers))

    def led(self, own: int, lead: Tensor) -> Callable[..., Tensor]:
        """The networks on inputs of which all but the first `own` numbers are `lead`, (L, in - own), times L others.

        The product of the two linear maps is taken here once, of weights alone: (P, own + L) to (K, P, out).
        """
        (first, *others), linear = self.affine, self.linear

        def melted(weight: Tensor) -> Tensor:
            return torch.cat((weight[:, :own], lead @ weight[:, own:]), dim=1)

        layers = [first.bias, melted(first.weight), *(part for layer in others for part in (layer.bias, layer.weight))]
        straight = None if linear is None else melted(linear.weight)

        def networks(x: Tensor, rows: Callable[[], Tensor | None]) -> Tensor:
            x = x.expand(len(first.weight), *x.shape)
            h = _Layers.apply(x, self.activation, rows, *layers)
            return h if linear is None else h + _Layers.apply(x, self.activation, rows, linear.bias, straight)

        return networks
