"""Compositions: how the modules of a task's slots make one function.

A composition is a tree. A leaf is a *slot*, the name of a library, one of whose modules a task places there. The same
name in several slots is the same library. Compositions hold no weights: they are functions of libraries.

Each composition says how tasks with different structures are evaluated at once (`chosen`), how all structures are
(`every`), and how some of them are (`shared`). In the latter two, parts that structures have in common are computed
once.

Letters: E inputs with a structure each, P points, I inputs, O outputs, S slots, K modules of a library, M structures
in counting order (the last slot changes fastest), Q inputs, R structures of any of them, D different outputs.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import reduce
from itertools import pairwise, permutations

import torch
from torch import Tensor

from modmeta.compositions.library import Library
from modmeta.errors import UserError
from modmeta.graph.relations import senders
from modmeta.shapes import Float, Int

Libraries = Mapping[str, Library]


def _different(*columns: Int[Tensor, " R"]) -> tuple[Int[Tensor, " D"], Int[Tensor, " R"]]:
    """A place of each different row, in the order of their numbers, (D,), and which of them every row is, (R,).

    Args:
        columns: of numbers from 0; a single one has all from 0 to D - 1.
    """

    def both(one: Tensor, two: Tensor) -> Tensor:
        number: Tensor = (one * (two.max() + 1) + two).unique(return_inverse=True)[1]
        return number

    index = reduce(both, columns)
    first = index.new_empty(int(index.max()) + 1)
    first[index] = torch.arange(len(index), device=index.device)
    return first, index


class Composition(ABC):
    """A part of a composition: something that takes (E, P, I) and returns (E, P, O) under structures (E, S)."""

    @property
    @abstractmethod
    def slots(self) -> tuple[str, ...]:
        """Name of the library of every slot, S of them, in order."""

    @abstractmethod
    def width(self, libraries: Libraries, inputs: int) -> int:
        """Number of outputs, O.

        Args:
            libraries: by name.
            inputs: I.

        Raises:
            UserError: a library is missing or does not fit its slot.
        """

    @abstractmethod
    def chosen(
        self, libraries: Libraries, x: Float[Tensor, "E P I"], structure: Int[Tensor, "E S"]
    ) -> Float[Tensor, "E P O"]:
        """Outputs (E, P, O) of inputs (E, P, I) under a structure each, (E, S)."""

    def every(self, libraries: Libraries, x: Float[Tensor, "E P I"]) -> Float[Tensor, "E M P O"]:
        """Outputs (E, M, P, O) of inputs (E, P, I) under all M structures."""
        structures = self.structures(libraries, x.device)
        e, m = len(x), len(structures)
        which = torch.arange(e, device=x.device).repeat_interleave(m)
        out, index = self.shared(libraries, x, which, structures.repeat(e, 1))
        return out[index].unflatten(0, (e, m))

    def shared(
        self, libraries: Libraries, x: Float[Tensor, "Q P I"], which: Int[Tensor, " R"], structure: Int[Tensor, "R S"]
    ) -> tuple[Float[Tensor, "D P O"], Int[Tensor, " R"]]:
        """Outputs of many structures, each of one of a few inputs, without computing any twice.

        Args:
            libraries: by name.
            x: inputs (Q, P, I).
            which: of these a structure is given, (R,).
            structure: (R, S).

        Returns:
            The different outputs (D, P, O), and which of them is a structure's, (R,).
        """
        first, index = _different(which, *structure.unbind(-1))
        return self.chosen(libraries, x[which[first]], structure[first]), index

    def sizes(self, libraries: Libraries) -> tuple[int, ...]:
        """Number of modules that fit every slot, S of them."""
        return tuple(len(libraries[name]) for name in self.slots)

    def structures(self, libraries: Libraries, device: torch.device | str = "cpu") -> Int[Tensor, "M S"]:
        """All structures, (M, S)."""
        sizes = self.sizes(libraries)
        parts = torch.meshgrid(*(torch.arange(size, device=device) for size in sizes), indexing="ij")
        return torch.stack([part.flatten() for part in parts], -1)

    def alike(self, slots: Int[Tensor, "*B S"]) -> Int[Tensor, "*B S"]:
        """The first in order of all structures (..., S) that are the same function as these."""
        return slots

    def twins(self) -> list[list[int]]:
        """Orders of slots (S,) in which other modules make the same functions; their own is the first."""
        return [list(range(len(self.slots)))]


class Slot(Composition):
    """A single module.

    Args:
        library: name of the library whose modules fit.
    """

    def __init__(self, library: str) -> None:
        self.library = library

    @property
    def slots(self) -> tuple[str, ...]:
        return (self.library,)

    def width(self, libraries: Libraries, inputs: int) -> int:
        if self.library not in libraries:
            raise UserError(
                f"the composition has a slot for library {self.library!r}, but libraries are {sorted(libraries)}; "
                "add it to model.libraries"
            )
        library = libraries[self.library]
        if library.inputs != inputs:
            raise UserError(
                f"model.libraries.{self.library}.inputs={library.inputs}, but its slot is given {inputs} numbers; set "
                f"it to {inputs}"
            )
        return library.outputs

    def chosen(self, libraries: Libraries, x: Tensor, structure: Tensor) -> Tensor:
        return libraries[self.library](x, structure[:, 0])

    def every(self, libraries: Libraries, x: Tensor) -> Tensor:
        return libraries[self.library].every(x)

    def shared(
        self, libraries: Libraries, x: Tensor, which: Tensor, structure: Tensor
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        first, index = _different(which, structure[:, 0])
        return libraries[self.library].many(x[which[first]], structure[first, 0]), index


class _Parts(Composition):
    """A composition of other compositions."""

    def __init__(self, parts: Sequence["str | Composition"]) -> None:
        if not parts:
            raise UserError(f"{type(self).__name__} has no parts; name at least one library")
        self.parts = [Slot(part) if isinstance(part, str) else part for part in parts]

    @property
    def slots(self) -> tuple[str, ...]:
        return tuple(name for part in self.parts for name in part.slots)

    def own(self, structure: Tensor) -> tuple[Tensor, ...]:
        """The structure of every part, (..., S of it)."""
        return structure.split([len(part.slots) for part in self.parts], -1)

    def alike(self, slots: Tensor) -> Tensor:
        pairs = zip(self.parts, self.own(slots), strict=True)
        return torch.cat([part.alike(own) for part, own in pairs], -1)


class _Beside(_Parts):
    """Parts that take the same inputs; their outputs are joined."""

    @abstractmethod
    def join(self, outputs: Sequence[Tensor]) -> Tensor:
        """Joins outputs of parts, (..., P, O of it), which broadcast."""

    def chosen(self, libraries: Libraries, x: Tensor, structure: Tensor) -> Tensor:
        pairs = zip(self.parts, self.own(structure), strict=True)
        return self.join([part.chosen(libraries, x, own) for part, own in pairs])

    def every(self, libraries: Libraries, x: Tensor) -> Tensor:
        n, outputs = len(self.parts), [part.every(libraries, x) for part in self.parts]
        spread = [  # (E, 1 .. M of it .. 1, P, O): an axis of structures for each part
            out.view(len(x), *[1] * number, out.shape[1], *[1] * (n - number - 1), *out.shape[2:])
            for number, out in enumerate(outputs)
        ]
        return self.join(spread).flatten(1, n)

    def shared(
        self, libraries: Libraries, x: Tensor, which: Tensor, structure: Tensor
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        pairs = zip(self.parts, self.own(structure), strict=True)
        outputs, places = zip(*(part.shared(libraries, x, which, own) for part, own in pairs), strict=True)
        first, index = _different(*places)
        return self.join([out[place[first]] for out, place in zip(outputs, places, strict=True)]), index


class Sum(_Beside):
    """Adds the outputs of its parts, f(x) = sum_i f_i(x)."""

    def width(self, libraries: Libraries, inputs: int) -> int:
        widths = {part.width(libraries, inputs) for part in self.parts}
        if len(widths) > 1:
            raise UserError(f"Sum adds parts of {sorted(widths)} outputs; their libraries need equal `outputs`")
        return widths.pop()

    def join(self, outputs: Sequence[Tensor]) -> Tensor:
        return reduce(torch.add, outputs)

    def alike(self, slots: Tensor) -> Tensor:
        """Parts of equal slots may change places; they are put in increasing order."""
        own = [part.alike(of) for part, of in zip(self.parts, self.own(slots), strict=True)]
        for name in {part.slots for part in self.parts}:
            same = [i for i, part in enumerate(self.parts) if part.slots == name and type(part) is type(self.parts[i])]
            if len(same) > 1 and all(type(self.parts[i]) is Slot for i in same):
                ordered = torch.cat([own[i] for i in same], -1).sort(-1).values
                for place, i in enumerate(same):
                    own[i] = ordered[..., place : place + 1]
        return torch.cat(own, -1)


class Concatenate(_Beside):
    """Puts the outputs of its parts side by side, f(x) = (f_1(x), f_2(x), ...), for a head to read.

    A head is a `Chain` whose last part is a library, of one module if all tasks share it.
    """

    def width(self, libraries: Libraries, inputs: int) -> int:
        return sum(part.width(libraries, inputs) for part in self.parts)

    def join(self, outputs: Sequence[Tensor]) -> Tensor:
        shape = torch.broadcast_shapes(*(out.shape[:-1] for out in outputs))
        return torch.cat([out.expand(*shape, -1) for out in outputs], -1)


class Attend(_Beside):
    """Modules weigh the outputs of others: f(x) = sum_i softmax_i(a_i(x)) f_i(x).

    Args:
        values: the parts f_i.
        scores: the parts a_i, as many, of one output each.
    """

    def __init__(self, values: Sequence[str | Composition], scores: Sequence[str | Composition]) -> None:
        if len(values) != len(scores):
            raise UserError(f"Attend has {len(values)} values and {len(scores)} scores; give one score for each value")
        super().__init__([*values, *scores])

    def width(self, libraries: Libraries, inputs: int) -> int:
        widths = [part.width(libraries, inputs) for part in self.parts]
        n = len(widths) // 2
        if set(widths[n:]) != {1}:
            raise UserError(f"scores of Attend have {widths[n:]} outputs; their libraries need outputs=1")
        if len(set(widths[:n])) > 1:
            raise UserError(f"values of Attend have {widths[:n]} outputs; their libraries need equal `outputs`")
        return widths[0]

    def join(self, outputs: Sequence[Tensor]) -> Tensor:
        n = len(outputs) // 2
        shape = torch.broadcast_shapes(*(out.shape for out in outputs[n:]))
        weights = torch.stack([out.expand(shape) for out in outputs[n:]]).softmax(0)
        return reduce(torch.add, [weight * out for weight, out in zip(weights, outputs[:n], strict=True)])

    def alike(self, slots: Tensor) -> Tensor:
        """Pairs of a value and its score may change places where all values, and all scores, are of one library.

        Where all values are the same module, or all scores, scores do not matter.
        """
        n = len(self.parts) // 2
        names = [part.slots for part in self.parts]
        if not all(type(part) is Slot for part in self.parts) or len(set(names[:n])) > 1 or len(set(names[n:])) > 1:
            return super().alike(slots)
        values, scores = slots[..., :n], slots[..., n:]
        equal = [(part == part[..., :1]).all(-1, keepdim=True) for part in (values, scores)]
        scores = torch.where(equal[0] | equal[1], 0, scores)
        order = (values * (int(slots.max()) + 1) + scores).argsort(dim=-1, stable=True)
        return torch.cat((values.gather(-1, order), scores.gather(-1, order)), -1)

    def twins(self) -> list[list[int]]:
        """Of two values, scores may have the other sign, each in the other's slot."""
        names = [part.slots for part in self.parts]
        own = list(range(len(self.slots)))
        return [own, [0, 1, 3, 2]] if len(names) == len(own) == 4 and names[2] == names[3] else [own]


class Chain(_Parts):
    """Each part takes the outputs of the one before it, f(x) = f_n(... f_2(f_1(x)))."""

    def width(self, libraries: Libraries, inputs: int) -> int:
        for part in self.parts:
            inputs = part.width(libraries, inputs)
        return inputs

    def chosen(self, libraries: Libraries, x: Tensor, structure: Tensor) -> Tensor:
        for part, own in zip(self.parts, self.own(structure), strict=True):
            x = part.chosen(libraries, x, own)
        return x

    def every(self, libraries: Libraries, x: Tensor) -> Tensor:
        e = len(x)
        for part in self.parts:  # what the first parts return is computed once for all structures of the others
            x = part.every(libraries, x).flatten(0, 1)
        return x.unflatten(0, (e, -1))

    def shared(
        self, libraries: Libraries, x: Tensor, which: Tensor, structure: Tensor
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        for part, own in zip(self.parts, self.own(structure), strict=True):
            x, which = part.shared(libraries, x, which, own)
        return x, which

    def twins(self) -> list[list[int]]:
        """Heads may read the outputs of slots of one library in any order, the same for all tasks."""
        orders, first = super().twins(), 0
        for part, head in pairwise(self.parts):
            names = part.slots
            own = isinstance(head, Slot) and self.slots.count(head.library) == 1  # no other slot fixes what it reads
            if own and isinstance(part, Concatenate) and all(isinstance(one, Slot) for one in part.parts):
                every = permutations(range(len(names)))
                mixed = [one for one in every if all(names[i] == names[j] for i, j in enumerate(one))]
                orders = [
                    [*order[:first], *(order[first + i] for i in one), *order[first + len(names) :]]
                    for order in orders for one in mixed
                ]  # fmt: skip
            first += len(names)
        return orders


class Graph(Composition):
    """One step of a graph network: x is the states of all entities, and so is f(x).

    f_i(x) = s_i + g_{z_i}(s_i, sum_j h_{z_ij}(s_i, s_j)), as in `RelationalModel` with `model=paper`, whose search at
    horizon 1 knows more: that rows of receivers do not depend on each other. This one may be nested in others.

    Slots are the edges, receiver by receiver, then the entities.

    Args:
        entities: N.
        edge: library of edge modules, from two states to a message.
        node: library of node modules, from a state and a message to a change of the state.
    """

    def __init__(self, entities: int, edge: str = "edge", node: str = "node") -> None:
        self.entities, self.edge, self.node = entities, edge, node

    @property
    def slots(self) -> tuple[str, ...]:
        n = self.entities
        return (self.edge,) * (n * (n - 1)) + (self.node,) * n

    def width(self, libraries: Libraries, inputs: int) -> int:
        d, rest = divmod(inputs, self.entities)
        if rest:
            raise UserError(f"Graph of {self.entities} entities is given {inputs} numbers, which is no multiple")
        messages = Slot(self.edge).width(libraries, 2 * d)
        if Slot(self.node).width(libraries, d + messages) != d:
            raise UserError(f"model.libraries.{self.node}.outputs must be the {d} features of a state")
        return inputs

    def chosen(self, libraries: Libraries, x: Tensor, structure: Tensor) -> Tensor:
        e, n = len(x), self.entities
        states = x.unflatten(-1, (n, -1)).transpose(1, 2)  # (E, N, P, D)
        edges, nodes = structure[:, : n * (n - 1)], structure[:, n * (n - 1) :]
        sender = states[:, senders(n, x.device)]  # (E, N, N - 1, P, D)
        pairs = torch.cat((states.unsqueeze(2).expand_as(sender), sender), -1)
        messages = libraries[self.edge](pairs.flatten(0, 2), edges.flatten())
        received = messages.unflatten(0, (e, n, n - 1)).sum(2)  # (E, N, P, C)
        inputs = torch.cat((states, received), -1)
        change = libraries[self.node](inputs.flatten(0, 1), nodes.flatten()).unflatten(0, (e, n))
        return (states + change).transpose(1, 2).flatten(2)

    def shared(
        self, libraries: Libraries, x: Tensor, which: Tensor, structure: Tensor
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Messages of the same module between the same states, and then receivers of the same messages, are shared."""
        n = self.entities
        states = x.unflatten(-1, (n, -1)).transpose(1, 2)  # (Q, N, P, D)
        sender = states[:, senders(n, x.device)]
        pairs = torch.cat((states.unsqueeze(2).expand_as(sender), sender), -1).flatten(0, 2)
        edges, nodes = structure[:, : n * (n - 1)], structure[:, n * (n - 1) :]
        messages, message = Slot(self.edge).shared(
            libraries, pairs, _numbered(which, n * (n - 1)), edges.reshape(-1, 1)
        )
        receiver, states = _numbered(which, n), states.flatten(0, 1)
        incoming = message.view(-1, n - 1)  # (R N, N - 1)
        first, index = _different(receiver, *incoming.unbind(-1))
        inputs = torch.cat((states[receiver[first]], messages[incoming[first]].sum(1)), -1)
        changes, change = Slot(self.node).shared(libraries, inputs, index, nodes.reshape(-1, 1))
        change = change.view(-1, n)  # of every receiver, which it tells apart, too
        first, index = _different(*change.unbind(-1))
        out = states[receiver.view(-1, n)[first]] + changes[change[first]]
        return out.transpose(1, 2).flatten(2), index


def _numbered(which: Int[Tensor, " R"], parts: int) -> Int[Tensor, " RN"]:
    """Numbers of all parts of inputs (R,), of which each has so many, (R parts,)."""
    return (which.unsqueeze(1) * parts + torch.arange(parts, device=which.device)).flatten()
