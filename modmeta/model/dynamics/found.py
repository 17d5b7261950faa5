"""Laws of motion that a cold start found, beside which modules learn; they are not trained.

Letters beside the usual ones: P coordinates, X points in time, V right functions, O own functions.
"""

import torch
from torch import Tensor, nn

from modmeta.graph.relations import undirected_pairs
from modmeta.model.basis import FoundLaws, Kind, family_named, own_functions, right_functions
from modmeta.model.features import pair_states
from modmeta.shapes import Float


class FoundAccelerations(nn.Module):
    """Accelerations of a receiver by every sender, of every edge module, and of an entity itself.

    Args:
        family: of laws of vectors, a name in `modmeta.model.basis`.
        positions: P.
        num_edge_modules: K.

    Raises:
        ValueError: there is no such family.
    """

    offset: Tensor
    span: Tensor
    middle: Tensor
    width: Tensor
    places: Tensor
    widths: Tensor
    right: Tensor
    edges: Tensor
    alone: Tensor
    unit: Tensor
    rest: Tensor

    def __init__(self, family: str, positions: int, num_edge_modules: int) -> None:
        super().__init__()
        self.family, d = family_named(family), 2 * positions
        self.kind = Kind(positions, (False,) * d)
        one, shifts = torch.zeros(d), torch.ones(d, self.family.shifts)
        v = right_functions(self.family, self.kind, shifts, shifts, one, one).shape[-1]
        for name in ("offset", "middle"):
            self.register_buffer(name, torch.zeros(d).double())
        for name in ("span", "width"):
            self.register_buffer(name, torch.ones(d).double())
        self.register_buffer("places", torch.zeros(d, self.family.shifts).double())
        self.register_buffer("widths", torch.ones(d, self.family.shifts).double())
        self.register_buffer("right", torch.eye(v).double())
        self.register_buffer("edges", torch.zeros(num_edge_modules, v).double())
        self.register_buffer("alone", torch.zeros(own_functions(self.kind, one).shape[-1]).double())
        self.register_buffer("unit", torch.ones(positions))
        self.register_buffer("rest", torch.ones(positions))

    @torch.no_grad()
    def begin(self, laws: FoundLaws, change_scale: Float[Tensor, " P"]) -> None:
        """Takes laws; `change_scale` is the unit of accelerations, a frame."""
        for name, value in (("middle", laws.centre), ("width", laws.scale), ("alone", laws.own)):
            getattr(self, name).copy_(value)
        for name in ("offset", "span", "places", "widths"):
            getattr(self, name).copy_(getattr(laws, name))
        v, p = laws.right.shape[1], len(self.unit)
        self.right.zero_()[:, :v] = laws.right
        self.edges.zero_()[:, :v] = laws.edges
        self.unit.copy_(laws.scale[p:] * laws.step / (laws.span[p:] * change_scale))
        self.rest.copy_(laws.rest * self.unit)

    def _seen(self, states: Tensor) -> Tensor:
        return (states.double() * self.span + self.offset - self.middle) / self.width

    def pairs(self, states: Float[Tensor, "B N X D"]) -> Float[Tensor, "B N S K X P"]:
        """Accelerations (B, N, S, K, X, P) by every sender at states (B, N, X, D)."""
        seen, n = self._seen(states), states.shape[1]
        if not self.mutual:  # both vectors turn round, and so nothing does
            return self._sent(*pair_states(seen)).to(states.dtype).permute(0, 1, 2, 5, 3, 4)
        first, second, pair, sign = undirected_pairs(n, states.device)
        sent = self._sent(seen[:, first], seen[:, second]).to(states.dtype).movedim(-1, 2)  # (B, E, K, X, P)
        both = sent.index_select(1, pair.flatten()).unflatten(1, pair.shape)
        return both * sign.view(n, n - 1, 1, 1, 1).to(both)

    @property
    def mutual(self) -> bool:
        """Whether what a pair sends to one entity is opposite to what it sends to the other."""
        return self.family.right != "across" or self.kind.coordinates != 3

    def between(
        self, receiver: Float[Tensor, "*pair D"], sender: Float[Tensor, "*pair D"]
    ) -> Float[Tensor, "K *pair P"]:
        """Accelerations of receivers by senders."""
        return self._sent(self._seen(receiver), self._seen(sender)).to(receiver.dtype).movedim(-1, 0)

    def _sent(self, receiver: Tensor, sender: Tensor) -> Tensor:
        """(..., D) and (..., D) to (..., P, K)."""
        functions = right_functions(self.family, self.kind, self.places, self.widths, receiver, sender)
        return functions @ (self.right @ self.edges.mT) * self.unit.unsqueeze(-1)

    def own(self, states: Float[Tensor, "*any D"]) -> Float[Tensor, "*any P"]:
        """Accelerations (..., P) of entities that nothing acts on, at states (..., D)."""
        return (own_functions(self.kind, self._seen(states)) @ self.alone * self.unit).to(states.dtype)
