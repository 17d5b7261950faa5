"""Several networks of one shape, evaluated together as one batched matrix product."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


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

    def alone(self, group: int) -> Callable[[Tensor], Tensor]:
        """The hidden layers of one network: (P, in) to (P, hidden)."""
        layers = [(layer.bias[group], layer.weight[group]) for layer in self.layers[:-1]]

        def hidden(x: Tensor) -> Tensor:
            for bias, weight in layers:
                x = self.activation(torch.addmm(bias, x, weight))
            return x

        return hidden

    def led(self, own: int, lead: Tensor) -> Callable[[Tensor], Tensor]:
        """The networks on inputs of which all but the first `own` numbers are `lead`, (L, in - own), times L others.

        The product of the two linear maps is taken here once, of weights alone: (P, own + L) to (K, P, out).
        """
        first, linear = self.layers[0], self.linear

        def melted(weight: Tensor) -> Tensor:
            return torch.cat((weight[:, :own], lead @ weight[:, own:]), dim=1)

        weights, straight = melted(first.weight), None if linear is None else melted(linear.weight)

        def networks(x: Tensor) -> Tensor:
            x = x.expand(len(weights), *x.shape)
            h = torch.baddbmm(first.bias, x, weights)
            for layer in self.layers[1:]:
                h = layer(self.activation(h))
            return h if linear is None or straight is None else h + torch.baddbmm(linear.bias, x, straight)

        return networks
