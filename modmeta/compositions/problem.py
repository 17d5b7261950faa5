"""Compositions as one more problem of the search: a task is one receiver, whose row is its whole structure.

The kernels, selections, temperatures and the bank are those of graphs. What differs is how candidates are scored, and
that slots may take modules of different libraries: `K` is the size of the largest, and the prior excludes others.

Letters: B tasks, P points, I inputs, O outputs, S slots, K modules, M candidates, Q structures of any tasks.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from modmeta.compositions.library import Library
from modmeta.compositions.trees import Composition, Slot
from modmeta.errors import UserError
from modmeta.graph.bank import Structure
from modmeta.model.grouped import Kept
from modmeta.search.candidates import sampled_rows
from modmeta.search.exact import receiver_rows
from modmeta.search.metropolis import whole_structures
from modmeta.search.problem import IMPOSSIBLE, Candidates, KernelOf
from modmeta.search.search import Search
from modmeta.search.selection import Selection
from modmeta.shapes import Float, Int

AT_ONCE = 2**17  # outputs of modules that are held at once, so that activations stay in the cache
OUTPUTS_AT_ONCE = 2**20  # outputs of candidates that are held at once, where these are not all structures


class ComposedModel(nn.Module):
    """Libraries, and a composition of their modules.

    Errors are normal. Their scale is a task's own and unknown, so the energy of a structure on P numbers is
    P / 2 log(mean squared error + floor^2), the likelihood at the best scale (`scale=None`): tasks that are not
    explained yet do not pull at modules that explain others. With a fixed scale it is the squared error over
    2 scale^2.

    Args:
        libraries: by name.
        composition: of their names.
        inputs: I.
        outputs: O.
        scale: standard deviation of errors; None for a task's own.
        floor: smallest scale that is told apart.

    Raises:
        UserError: a library is missing, or does not fit its slot.
    """

    def __init__(
        self,
        libraries: Mapping[str, Library],
        composition: Composition | str,
        inputs: int = 1,
        outputs: int = 1,
        scale: float | None = None,
        floor: float = 0.01,
    ) -> None:
        super().__init__()
        self.libraries = nn.ModuleDict(libraries)
        self.composition = Slot(composition) if isinstance(composition, str) else composition
        self.scale, self.floor = scale, floor
        width = self.composition.width(libraries, inputs)
        if width != outputs:
            raise UserError(f"the composition returns {width} numbers, but y has {outputs}; change its last library")
        self.sizes = self.composition.sizes(libraries)
        unused = sorted(set(libraries) - set(self.composition.slots))
        if unused:
            raise UserError(f"model.libraries.{unused[0]} is in no slot of the composition; remove it, or use it")

    @property
    def num_structures(self) -> int:
        """Number of structures."""
        return math.prod(self.sizes)

    def structures(self, device: torch.device | str = "cpu") -> Int[Tensor, "M S"]:
        """All structures, (M, S)."""
        return self.composition.structures(self._libraries, device)

    @property
    def _libraries(self) -> dict[str, Library]:
        return {name: library for name, library in self.libraries.items() if isinstance(library, Library)}

    def forward(self, x: Float[Tensor, "Q P I"], structure: Int[Tensor, "Q S"]) -> Float[Tensor, "Q P O"]:
        """Outputs (Q, P, O) of inputs (Q, P, I) under a structure each, (Q, S)."""
        return self.composition.chosen(self._libraries, x, structure)

    def energy(self, squares: Tensor, numbers: int) -> Tensor:
        """Energies, nats, of means of squared errors over so many numbers."""
        if self.scale is None:
            return numbers / 2 * torch.log(squares + self.floor**2)
        return numbers / 2 * squares / self.scale**2

    def squares(
        self, x: Float[Tensor, "Q P I"], y: Float[Tensor, "Q P O"], structure: Int[Tensor, "Q S"]
    ) -> Float[Tensor, " Q"]:
        """Mean squared errors (Q,) of structures (Q, S)."""
        return (self(x, structure) - y).square().mean((-1, -2))

    @torch.no_grad()
    def every(self, x: Float[Tensor, "B P I"], y: Float[Tensor, "B P O"]) -> Float[Tensor, "B M"]:
        """Mean squared errors (B, M) of all M structures, a few tasks at a time."""
        few = max(1, AT_ONCE // (self.num_structures * x.shape[1]))
        parts = zip(x.split(few), y.split(few), strict=True)
        return torch.cat(
            [
                (self.composition.every(self._libraries, some) - of.unsqueeze(1)).square().mean((-1, -2))
                for some, of in parts
            ]
        )

    @torch.no_grad()
    def some(
        self, x: Float[Tensor, "B P I"], y: Float[Tensor, "B P O"], rows: Int[Tensor, "B M S"]
    ) -> Float[Tensor, "B M"]:
        """Mean squared errors (B, M) of structures (B, M, S), what they have in common computed once."""
        b, m = rows.shape[:2]
        task = torch.arange(b, device=x.device).repeat_interleave(m)
        out, index = self.composition.shared(self._libraries, x, task, rows.flatten(0, 1))
        of = task.new_empty(len(out))
        of[index] = task
        return (out - y[of]).square().mean((-1, -2))[index].view(b, m)


@dataclass(frozen=True)
class CompositionProblem:
    """B tasks, whose structures are searched on the examples that they are given.

    Attributes:
        model: the composition.
        x: examples (B, P, I).
        y: their values (B, P, O).
        logits: of the proposal network (B, 1, S, K); None for uniform proposals.
        gradients: whether energies of whole structures have gradients.
    """

    model: ComposedModel
    x: Float[Tensor, "B P I"]
    y: Float[Tensor, "B P O"]
    logits: Float[Tensor, "B 1 S K"] | None = None
    gradients: bool = False

    @property
    def num_edge_modules(self) -> int:
        """K, of the largest library."""
        return max(self.model.sizes)

    @property
    def num_node_modules(self) -> int:
        """One: there are no node modules."""
        return 1

    @cached_property
    def prior(self) -> Float[Tensor, "1 1 S K"]:
        """Excludes modules that a slot's library does not have."""
        module = torch.arange(self.num_edge_modules, device=self.x.device)
        sizes = torch.tensor(self.model.sizes, device=self.x.device).unsqueeze(1)
        return (IMPOSSIBLE * (module >= sizes).float()).view(1, 1, *sizes.shape[:1], -1)

    @torch.no_grad()
    def energies(self, candidates: Candidates) -> Float[Tensor, "B 1 M"]:
        """Energies (B, 1, M) of candidates, priors included; those that all tasks share are all structures."""
        rows, n = candidates.rows, self.y[0].numel()
        alone = len(self.x) == 1  # then candidates of its own have the shape of those that all tasks share
        if len(rows) == 1 and not (alone and not torch.equal(rows[0, 0], self.model.structures(rows.device))):
            return self.model.energy(self.model.every(self.x, self.y), n).unsqueeze(1)
        rows, sizes = rows[:, 0], torch.tensor(self.model.sizes, device=rows.device)
        few = max(1, OUTPUTS_AT_ONCE // (rows.shape[1] * n))
        parts = zip(self.x.split(few), self.y.split(few), rows.minimum(sizes - 1).split(few), strict=True)
        squares = torch.cat([self.model.some(x, y, row) for x, y, row in parts])
        return (self.model.energy(squares, n) + IMPOSSIBLE * (rows >= sizes).sum(-1)).unsqueeze(1)

    def rollouts(self, tasks: Int[Tensor, " Q"], structure: Structure, kept: Kept) -> Float[Tensor, " Q"]:
        """Energies (Q,) of whole structures of tasks (Q,), without priors."""
        sizes = torch.tensor(self.model.sizes, device=tasks.device)
        rows = structure.edge_modules[:, 0].minimum(sizes - 1)
        with torch.set_grad_enabled(self.gradients):
            return self.model.energy(self.model.squares(self.x[tasks], self.y[tasks], rows), self.y[0].numel())


def every_structure(generator: torch.Generator, structure: Structure, problem: CompositionProblem) -> Candidates:
    """Proposes all structures, each library's modules in its slots alone."""
    rows, sizes = problem.model.structures(problem.x.device), problem.model.sizes
    place = torch.tensor([math.prod(sizes[i + 1 :]) for i in range(len(sizes))], device=rows.device)
    types = torch.zeros(1, 1, len(rows), dtype=torch.long, device=rows.device)
    return Candidates(rows[None, None], types, (structure.edge_modules * place).sum(-1))


def enumerates(search: Search, model: ComposedModel) -> bool:
    """Whether every structure is a candidate."""
    return search.receivers == "all" and model.num_structures <= search.enumerate_up_to


def kernel_of(search: Search, model: ComposedModel, selection: Selection | None = None) -> KernelOf[CompositionProblem]:
    """The kernel that settings of a search choose for compositions.

    All structures are candidates where they are no more than `search.enumerate_up_to`; else samples of the proposal
    and all changes of one slot. `search.receivers=one` accepts or rejects one sample at a time, as published.
    """
    select = selection or search.selection
    if search.receivers == "one":
        return whole_structures(sampled_rows(search.samples, search.flips), select)
    if enumerates(search, model):
        return receiver_rows(every_structure, select)
    return receiver_rows(sampled_rows(search.samples, search.flips), select)


def random_slots(tasks: int, sizes: tuple[int, ...], generator: torch.Generator) -> Structure:
    """Draws a structure uniformly for every task."""
    drawn = [torch.randint(size, (tasks,), generator=generator, device=generator.device) for size in sizes]
    rows = torch.stack(drawn, -1).unsqueeze(1)
    return Structure(rows, torch.zeros_like(rows[..., 0]))
