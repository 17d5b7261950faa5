"""Several networks of equal shape, evaluated together by batched matrix products. P is the number of inputs."""

import math
from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F

from modmeta import machine

PART, LEAST_PART = 2048, 128  # rows whose products a GPU sums at once

Rows = Callable[[], Tensor | None]  # indices of the rows of a matrix that have gradients, for the backward pass


class Kept:
    """Tasks of a batch that have gradients. They may be chosen after the forward pass, before the backward pass.

    Attributes:
        tasks: their indices, increasing; None for all. The gradients of other tasks must be zero.
    """

    tasks: Tensor | None = None

    def __init__(self) -> None:
        self.found: dict[int, Tensor] = {}  # of every number of rows, once for all steps of a rollout

    def choose(self, tasks: Tensor) -> None:
        """Sets the tasks that have gradients, (B',), increasing."""
        self.tasks = tasks
        self.found.clear()

    def rows(self, per_task: int) -> Rows:
        """Returns a function, for the backward pass, that gives the indices of kept rows of a matrix; None for all.

        Args:
            per_task: number of rows of a task.
        """

        def find() -> Tensor | None:
            if self.tasks is not None and per_task not in self.found:
                self.found[per_task] = ranges(self.tasks, per_task)
            return self.found.get(per_task)

        return find

    def rows_of(self, task: Tensor, number: int, per_row: int) -> Rows:
        """As `rows`, for blocks of rows of any tasks. Their number depends on the tasks.

        Args:
            task: task of every block of rows, (E,).
            number: of tasks.
            per_row: number of rows per block.
        """

        def find() -> Tensor | None:
            if self.tasks is None:
                return None
            kept = torch.zeros(number, dtype=torch.bool, device=task.device).index_fill(0, self.tasks, True)
            return ranges(kept[task].nonzero().squeeze(1), per_row)

        return find


def ranges(first: Tensor, length: int) -> Tensor:
    """Indices first * length, ..., first * length + length - 1 of every block first, (E,), to (E length,)."""
    return (first.unsqueeze(1) * length + torch.arange(length, device=first.device)).flatten()


@cache
def _part(rows: int) -> int:
    """The largest divisor of a number of rows that is no more than `PART`."""
    return next(size for size in range(PART, 0, -1) if rows % size == 0)


def row_products(x: Tensor, grad: Tensor) -> Tensor:
    """Gradient of weights: products of inputs (..., P, in) and gradients (..., P, out), summed over P, (..., in, out).

    A GPU sums a product of few outputs on few of its multiprocessors, however many the rows. Parts of the rows have
    products of their own there, which it computes side by side.
    """
    size = _part(grad.shape[-2]) if machine.waits(grad) else 0
    if size < LEAST_PART or size == grad.shape[-2]:
        return x.mT @ grad
    x, grad = (part.unflatten(-2, (-1, size)) for part in (x, grad))
    return (x.mT @ grad).sum(-3, dtype=torch.promote_types(grad.dtype, torch.float32))


class _Affine(torch.autograd.Function):
    """Affine maps, (K, P, in) to (K, P, out), with gradients by `row_products`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return torch.baddbmm(bias, x, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = (part.to(grad.dtype) for part in ctx.saved_tensors)
        return (
            grad @ weight.mT if ctx.needs_input_grad[0] else None,
            grad.sum(-2, keepdim=True),
            row_products(x, grad),
        )


def _inputs(x: Tensor, activation: Callable[[Tensor], Tensor], layers: Sequence[Tensor]) -> list[Tensor]:
    """Inputs (..., P, in) of affine maps, before the activation between them, and at last their output (..., P, out).

    Args:
        x: (..., P, in).
        activation: elementwise function between the maps.
        layers: bias and weight of every map.
    """
    inputs = [x]
    for number, (bias, weight) in enumerate(zip(layers[::2], layers[1::2], strict=True)):
        h = inputs[-1] if number == 0 else activation(inputs[-1])
        inputs.append(torch.addmm(bias, h, weight) if x.dim() == 2 else torch.baddbmm(bias, h, weight))
    return inputs


def _gradients(
    grad: Tensor,
    inputs: Sequence[Tensor],
    weights: Sequence[Tensor],
    activation: Callable[[Tensor], Tensor],
    first: bool,
) -> tuple[Tensor | None, list[Tensor]]:
    """Gradients of the first input (..., P, in), and of bias and weight of every map of `_inputs`.

    Args:
        grad: gradient of the output, (..., P, out).
        inputs: of every map, without the output.
        weights: of every map.
        activation: elementwise function between the maps.
        first: whether the first input needs a gradient; None if not.
    """
    # Under autocast the forward pass ran in lower precision, which is that of the gradient.
    inputs, weights = ([part.to(grad.dtype) for part in parts] for parts in (inputs, weights))
    of_layers: list[Tensor] = []
    for number in reversed(range(len(inputs))):
        before, h = inputs[number], inputs[number]
        slope: Tensor | None = None
        to_x = grad @ weights[number].mT if number or first else None
        if number and to_x is not None:  # elementwise activation: its JVP equals its VJP
            with forward_ad.dual_level():
                dual = activation(forward_ad.make_dual(before, to_x.to(before.dtype)))
                h, slope = forward_ad.unpack_dual(dual)
        of_layers = [grad.sum(-2, keepdim=True), row_products(h, grad), *of_layers]
        if to_x is None:
            return None, of_layers
        grad = to_x if slope is None else slope
    return grad, of_layers


class _Layers(torch.autograd.Function):
    """Affine maps with an activation after all but the last, (..., P, in) to (..., P, out).

    The backward pass is computed for the kept rows only.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, activation: Callable[[Tensor], Tensor], rows: Rows, *layers: Tensor) -> Tensor:
        *inputs, out = _inputs(x, activation, layers)
        ctx.activation, ctx.rows = activation, rows
        ctx.save_for_backward(*inputs, *layers[1::2])
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, depth = ctx.rows(), len(ctx.saved_tensors) // 2
        inputs, weights = ctx.saved_tensors[:depth], ctx.saved_tensors[depth:]
        if rows is not None:
            grad, inputs = grad.index_select(-2, rows), [h.index_select(-2, rows) for h in inputs]
        to_x, of_layers = _gradients(grad, inputs, weights, ctx.activation, ctx.needs_input_grad[0])
        if rows is not None and to_x is not None:
            to_x = to_x.new_zeros(ctx.saved_tensors[0].shape).index_copy_(-2, rows, to_x)
        return to_x, None, None, *of_layers


class _BlockLayers(torch.autograd.Function):
    """As `_Layers` of several networks, for inputs in blocks of one each, (blocks, P, in) to (blocks, P, out)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, activation: Callable[[Tensor], Tensor], blocks: "BlocksOf", *layers: Tensor
    ) -> Tensor:
        *inputs, out = _inputs(x, activation, blocks.layers)
        ctx.activation, ctx.blocks = activation, blocks
        ctx.save_for_backward(*inputs)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inputs, blocks = ctx.saved_tensors, ctx.blocks
        rows, of_block, weights = blocks.chosen(grad.shape[1])
        if rows is not None:
            grad, *inputs = (h.flatten(0, 1)[rows].unflatten(0, (len(of_block), -1)) for h in (grad, *inputs))
        to_x, of_layers = _gradients(grad, inputs, weights, ctx.activation, ctx.needs_input_grad[0])
        of_layers = [part.new_zeros(blocks.groups, *part.shape[1:]).index_add_(0, of_block, part) for part in of_layers]
        if rows is not None and to_x is not None:
            whole = to_x.new_zeros(ctx.saved_tensors[0].shape)
            whole.flatten(0, 1).index_copy_(0, rows, to_x.flatten(0, 1))
            to_x = whole
        return to_x, None, None, *of_layers


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
        if machine.waits(x) and torch.is_grad_enabled() and self.weight.requires_grad:
            return cast(Tensor, _Affine.apply(x, self.bias, self.weight))
        return torch.baddbmm(self.bias, x, self.weight)

    def chosen(self, x: Tensor, group: Tensor) -> Tensor:
        """Inputs (E, P, in) through one map each, (E,), to (E, P, out)."""
        return torch.baddbmm(self.bias[group], x, self.weight[group])


class Blocks:
    """Inputs of which each goes through one of several networks, sorted by network and padded to blocks of one each.

    Where Python would wait to see the networks, there are as many blocks as any choice of networks needs, and one more,
    the last, that stays empty.

    Args:
        group: network of every input, (E,).
        groups: number of networks.
        size: number of inputs of a block.

    Attributes:
        of_block: network of every block.
        place: slot of every input, (E,).
    """

    def __init__(self, group: Tensor, groups: int, size: int) -> None:
        self.size, self.groups, self.group = size, groups, group
        ordered, order = group.sort(stable=True)
        until = torch.searchsorted(ordered, torch.arange(groups, device=group.device), right=True)
        begin = F.pad(until[:-1], (1, 0))  # of every network, in this order
        blocks = (until - begin + size - 1) // size
        ends = blocks.cumsum(0)
        shift = size * (ends - blocks) - begin
        number = (len(group) + groups * (size - 1)) // size + 1 if machine.waits(group) else int(ends[-1])
        numbers = torch.arange(number, device=group.device)
        self.of_block = torch.searchsorted(ends, numbers, right=True).clamp_max(groups - 1)
        self.place = torch.empty_like(group)
        self.place[order] = torch.arange(len(group), device=group.device) + shift[ordered]

    @property
    def inputs(self) -> Tensor:
        """Input of every slot; E where there is none."""
        number = len(self.group)
        every = torch.arange(number, device=self.place.device)
        return self.place.new_full((len(self.of_block) * self.size,), number).index_copy(0, self.place, every)

    def of(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """The slots of some inputs (R,), sorted into blocks anew, and the network of each of these blocks.

        The empty slot, the last, fills those blocks. Only where the number of blocks depends on no choice.
        """
        some = Blocks(self.group[inputs], self.groups, self.size)
        slots = torch.cat((self.place[inputs], self.place.new_full((1,), len(self.of_block) * self.size - 1)))
        return slots[some.inputs], some.of_block

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


class BlocksOf:
    """Layers of the networks of blocks, gathered once for all steps of a rollout.

    Args:
        blocks: of the inputs.
        layers: bias and weight (K, ...) of every layer.
        kept: for the backward pass, the inputs that have gradients; None for all.
    """

    def __init__(self, blocks: Blocks, layers: Sequence[Tensor], kept: Rows) -> None:
        self.blocks, self.groups, self.kept, self.weights = blocks, blocks.groups, kept, layers[1::2]
        with torch.no_grad():
            self.layers = [part[blocks.of_block] for part in layers]
        self.found: dict[int, Chosen] = {}

    def chosen(self, rows: int) -> "Chosen":
        """What has gradients.

        Args:
            rows: number of rows of a block.
        """
        if rows not in self.found:
            self.found[rows] = self._chosen(rows)
        return self.found[rows]

    def _chosen(self, rows: int) -> "Chosen":
        inputs = self.kept()
        if inputs is None:
            return Chosen(None, self.blocks.of_block, self.layers[1::2])
        slots, of_block = self.blocks.of(inputs)
        with torch.no_grad():
            weights = [weight[of_block] for weight in self.weights]
        return Chosen(ranges(slots, rows // self.blocks.size), of_block, weights)


class Chosen(NamedTuple):
    """Rows of blocks that have gradients, sorted into blocks anew.

    Attributes:
        rows: their indices; None for all, which stay where they are.
        of_block: network of every block.
        weights: of every block, layer by layer.
    """

    rows: Tensor | None
    of_block: Tensor
    weights: list[Tensor]


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

    def hidden_in_blocks(self, first: int, blocks: Blocks, kept: Rows) -> Callable[..., Tensor]:
        """Hidden layers as a function of inputs in blocks, (blocks, P, in) to (blocks, P, hidden).

        Args:
            first: network that is number 0 in the blocks.
            blocks: of the inputs.
            kept: for the backward pass, the inputs that have gradients; None for all.
        """
        layers = [part[first:] for layer in self.affine[:-1] for part in (layer.bias, layer.weight)]
        of = BlocksOf(blocks, layers, kept)
        return lambda x: self.activation(_BlockLayers.apply(x, self.activation, of, *layers))

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

        def networks(x: Tensor, rows: Rows) -> Tensor:
            x = x.expand(len(first.weight), *x.shape)
            h = _Layers.apply(x, self.activation, rows, *layers)
            return h if linear is None else h + _Layers.apply(x, self.activation, rows, linear.bias, straight)

        return networks
