"""Libraries of modules: perceptrons of one type, stacked, so that every input may take another one.

Letters: K modules, E inputs with a module each, Q inputs that all modules take, P points.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from modmeta.errors import UserError
from modmeta.model.grouped import Blocks, GroupedMLP
from modmeta.shapes import Float, Int

TILE = 8  # inputs of one module that are multiplied together
ROWS_AT_ONCE = 2**13  # points whose activations are held at once, so that they stay in the cache


class Library(nn.Module):
    """K perceptrons from `inputs` to `outputs` numbers.

    Args:
        modules: K.
        inputs: numbers that a module takes.
        outputs: numbers that it returns.
        hidden: width of its hidden layers.
        layers: number of hidden layers; 0 for affine maps.
        spread: factor on the initial weights of the first layer; larger ones begin with functions that vary faster.
        activation: between layers.

    Raises:
        UserError: a size is too small.
    """

    def __init__(
        self,
        modules: int,
        inputs: int = 1,
        outputs: int = 1,
        hidden: int = 48,
        layers: int = 1,
        spread: float = 3.0,
        activation: Callable[[Tensor], Tensor] = torch.relu,
    ) -> None:
        super().__init__()
        sizes = {"modules": modules, "inputs": inputs, "outputs": outputs, "hidden": hidden}
        for name, size in sizes.items():
            if size < 1:
                raise UserError(f"{name}={size} of a library in model.libraries must be at least 1")
        if layers < 0:
            raise UserError(f"layers={layers} of a library in model.libraries must be at least 0")
        self.inputs, self.outputs, self.spread = inputs, outputs, spread
        self.networks = GroupedMLP(modules, [inputs, *[hidden] * layers, outputs], activation)
        with torch.no_grad():
            for part in self.networks.affine[0].parameters():
                part.mul_(spread)

    def __len__(self) -> int:
        """K."""
        return len(self.networks.affine[0].weight)

    def forward(self, x: Float[Tensor, "E P I"], module: Int[Tensor, " E"]) -> Float[Tensor, "E P O"]:
        """Inputs (E, P, in) through a module each, (E,), to (E, P, out)."""
        if self.inputs > 1:
            return self.networks.chosen(x, module)
        first, *others = self.networks.affine
        h = torch.addcmul(first.bias[module], x, first.weight[module])  # see `every`
        for layer in others:
            h = layer.chosen(self.networks.activation(h), module)
        return h

    @torch.no_grad()
    def many(self, x: Float[Tensor, "E P I"], module: Int[Tensor, " E"]) -> Float[Tensor, "E P O"]:
        """As `forward`, for many inputs.

        Inputs are put in tiles of one module each, so that products are few and weights are copied once a tile.
        """
        tile = min(TILE, len(x) // (2 * len(self)))  # else most of the tiles would be empty
        if tile < 2:
            return self(x, module)
        return Blocks(module, len(self), tile)(self, x, ROWS_AT_ONCE)

    def every(self, x: Float[Tensor, "E P I"]) -> Float[Tensor, "E K P O"]:
        """Inputs (E, P, in) through all modules, (E, K, P, out)."""
        first, *others = self.networks.affine
        q = x.flatten(0, 1)
        # One input: a product of matrices with an inner size of one takes three times as long.
        h = torch.addcmul(first.bias, q, first.weight) if self.inputs == 1 else first(q)
        for layer in others:
            h = layer(self.networks.activation(h))
        return h.unflatten(1, x.shape[:2]).transpose(0, 1)
