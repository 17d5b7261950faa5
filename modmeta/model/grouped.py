"""Several networks of equal shape, evaluated together by batched matrix products. P is the number of inputs."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad


class Kept:
    """Tasks of a batch that have gradients. They may be chosen after the forward pass, before the backward pass.

    Attributes:
        tasks: bool (B,); None for all. The gradients of other tasks must be zero.
    """

    tasks: Tensor | None = None

    def rows(self, task: Tensor, per_row: int) -> Callable[[], Tensor | None]:
        """Returns a function, for the backward pass, that gives the indices of kept rows of a matrix; None for all.

        Args:
            task: task of every block of rows, (E,).
            per_row: number of rows per block.
        """

        def find() -> Tensor | None:
            if self.tasks is None:
                return None
            first = self.tasks[task].nonzero() * per_row
            return (first + torch.arange(per_row, device=first.device)).flatten()

        return find


class _Layers(torch.autograd.Function):
    """Affine maps with an activation after all but the last, (..., P, in) to (..., P, out).

    The backward pass is computed for the kept rows only.
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
        # Under autocast the forward pass ran in lower precision, which is that of the gradient.
        inputs, weights = ([part.to(grad.dtype) for part in parts] for parts in (inputs, weights))
        of_layers: list[Tensor] = []
        for number in reversed(range(depth)):
            before, h = inputs[number], inputs[number]
            slope: Tensor | None = None
            to_x = grad @ weights[number].mT if number or ctx.needs_input_grad[0] else None
            if number and to_x is not None:  # elementwise activation: its JVP equals its VJP
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
    """K affine maps: inputs (K, P, in), or (P, in) shared by all, to outputs (K, P, out)."""

    def __init__(self, groups: int, in_features: int, out_features: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(in_features)  # the initialisation of torch.nn.Linear
        self.weight = nn.Parameter(torch.empty(groups, in_features, out_features).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(groups, 1, out_features).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 2:
            x = x.expand(self.weight.shape[0], *x.shape)
        return torch.baddbmm(self.bias, x, self.weight)

    def chosen(self, x: Tensor, group: Tensor) -> Tensor:
        """Inputs (E, P, in) through one map each, (E,), to (E, P, out)."""
        return torch.baddbmm(self.bias[group], x, self.weight[group])


class Blocks:
    """Inputs of which each goes through one of several networks, sorted by network and padded to blocks of one each.

    Args:
        group: network of every input, (E,).
        groups: number of networks.
        size: number of inputs of a block.
    """

    def __init__(self, group: Tensor, groups: int, size: int) -> None:
        self.size, counts = size, group.bincount(minlength=groups)
        blocks = (counts + size - 1) // size
        order = group.argsort(stable=True)
        shift = size * (blocks.cumsum(0) - blocks) - (counts.cumsum(0) - counts)
        self.group, self.of_block = group, torch.arange(groups, device=group.device).repeat_interleave(blocks)
        self.place = torch.empty_like(group)  # of every input
        self.place[order] = torch.arange(len(group), device=group.device) + shift[group[order]]

    def __call__(self, chosen: Callable[[Tensor, Tensor], Tensor], x: Tensor, most: int) -> Tensor:
        """Maps (E, P, in) to (E, P, out), with about `most` rows of P at once, so that activations stay in the cache.

        Args:
            chosen: from inputs (B, rows, in) and a network for each, (B,), to (B, rows, out).
            x: (E, P, in).
            most: number of rows.
        """
        padded = x.new_zeros(len(self.of_block) * self.size, *x.shape[1:]).index_copy_(0, self.place, x)
        few = max(1, most // (self.size * x.shape[1]))
        pairs = zip(
            padded.view(-1, self.size * x.shape[1], x.shape[2]).split(few), self.of_block.split(few), strict=True
        )
        out = torch.cat([chosen(some, own) for some, own in pairs])
        return out.view(len(padded), x.shape[1], out.shape[-1])[self.place]


class GroupedMLP(nn.Module):
    """K multi-layer perceptrons, optionally each with a parallel affine map.

    Args:
        groups: number of networks K.
        sizes: widths from input to output.
        activation: elementwise function between layers.
        linear_path: whether to add an affine map from input to output. The perceptron's last layer is then initialised
            to zero, so that the network starts linear. The affine map is initialised close to zero: networks that start
            almost equal separate along the direction that explains the data best.
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
        """Maps (K, P, in), or (P, in) shared by all networks, to (K, P, out)."""
        h = x
        for layer in self.layers[:-1]:
            h = self.activation(layer(h))
        out = self.layers[-1](h)
        return out if self.linear is None else out + self.linear(x)

    def chosen(self, x: Tensor, group: Tensor) -> Tensor:
        """Maps (E, P, in), each through one network, (E,), to (E, P, out)."""
        h = x
        for number, layer in enumerate(self.affine):
            h = layer.chosen(self.activation(h) if number else h, group)
        return h if self.linear is None else h + self.linear.chosen(x, group)

    @torch.no_grad()
    def multiply(self, factors: Tensor, outputs: int) -> None:
        """Makes every network the last one, with its first outputs times a factor, (K,)."""
        ends = [self.affine[-1], *([] if self.linear is None else [self.linear])]
        for layer in [*self.affine[:-1], *ends]:
            for part in (layer.weight, layer.bias):
                part.copy_(part[-1:].clone().expand_as(part))
                if layer in ends:
                    part[..., :outputs] *= factors.view(-1, 1, 1).to(part)

    @property
    def widest(self) -> int:
        """Width of the widest layer of a network."""
        return max(layer.weight.shape[2] for layer in self.affine)

    @property
    def affine(self) -> list[GroupedLinear]:
        """The affine layers of the perceptrons, from input to output."""
        return [cast(GroupedLinear, layer) for layer in self.layers]

    def hidden_layers(self, group: int) -> Callable[..., Tensor]:
        """Hidden layers of one network as a function of inputs (P, in) and kept rows, to (P, hidden)."""
        layers = [part[group] for layer in self.affine[:-1] for part in (layer.bias, layer.weight)]
        return lambda x, rows: self.activation(_Layers.apply(x, self.activation, rows, *layers))

    def composed(self, own: int, lead: Tensor) -> Callable[..., Tensor]:
        """The networks composed with a linear map of their inputs: (P, own + L) to (K, P, out).

        Args:
            own: number of leading inputs that are passed on unchanged.
            lead: (L, in - own), linear map from L inputs to the remaining inputs of the networks. It is multiplied into
                the weights once, here.
        """
        (first, *others), linear = self.affine, self.linear

        def merged(weight: Tensor) -> Tensor:
            return torch.cat((weight[:, :own], lead @ weight[:, own:]), dim=1)

        layers = [first.bias, merged(first.weight)]
        layers += [part for layer in others for part in (layer.bias, layer.weight)]
        straight = None if linear is None else merged(linear.weight)

        def networks(x: Tensor, rows: Callable[[], Tensor | None]) -> Tensor:
            x = x.expand(len(first.weight), *x.shape)
            h = _Layers.apply(x, self.activation, rows, *layers)
            return h if linear is None else h + _Layers.apply(x, self.activation, rows, linear.bias, straight)

        return networks
