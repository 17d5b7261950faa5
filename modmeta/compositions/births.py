"""New modules for tasks that no structure explains yet.

Gradient steps and search alone leave some modules as blends of what they should be, and others twice: a local optimum
that heat does not undo. So, now and then, modules without which as many tasks are explained give way. A new one is born
from a single task: in one slot, between modules that explain other tasks, a fresh module is fitted to some of its
points, in all such contexts at once. Where the other points of the task follow too, the function is real, for a fresh
module between wrong ones fits but does not generalise. Where none is born, half of the modules that are not needed
begin anew at random.

Letters: B tasks, P points, M structures, S slots, K modules, E fresh modules.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call

from modmeta.compositions.library import Library
from modmeta.compositions.problem import ComposedModel
from modmeta.shapes import Float, Int

TASKS = 4  # that fresh modules are fitted to at once
CONTEXTS = 24  # of a task and slot
STEPS, RATE = 150, 0.02  # of their fit
FITTED = 0.75  # share of a task's points; the others judge
RARE = 0.3  # of the tasks that a module would explain if all were needed alike


class Replaced(NamedTuple):
    """A module that was given new weights.

    Attributes:
        library: its library.
        modules: indices (k,).
    """

    library: str
    modules: Tensor


def necessity(
    squares: Float[Tensor, "B M"], structures: Int[Tensor, "M S"], slots: list[int], size: int, explained: float
) -> Int[Tensor, " K"]:
    """Number of tasks that are explained with, but not without, each module of a library.

    Args:
        squares: mean squared errors of all structures.
        structures: all structures.
        slots: those that take modules of the library.
        size: K.
        explained: error below which a task is explained.
    """
    solved = squares.amin(1) < explained
    uses = (structures[:, slots].unsqueeze(-1) == torch.arange(size, device=squares.device)).any(1)  # (M, K)
    some = squares[solved].unsqueeze(-1)
    parts = [torch.where(uses, torch.inf, part).amin(1) for part in some.split(8)]
    without = torch.cat(parts) if parts else squares.new_zeros(0, size)  # (solved, K)
    return (without >= explained).sum(0)


def renew(
    model: ComposedModel, x: Float[Tensor, "B P I"], y: Float[Tensor, "B P O"], explained: float,
    generator: torch.Generator,
) -> list[Replaced]:  # fmt: skip
    """Gives new weights to modules that are not needed; see above.

    Args:
        model: whose modules change.
        x: points of some tasks.
        y: their values.
        explained: mean squared error below which a task is explained.
        generator: of choices.

    Returns:
        What was replaced.
    """
    squares, structures = model.every(x, y), model.structures(x.device)
    open_tasks = (squares.amin(1) >= explained).nonzero().squeeze(1)
    if not len(open_tasks):
        return []
    chosen = open_tasks[torch.randperm(len(open_tasks), generator=generator, device=generator.device)[:TASKS]]
    replaced = []
    names = model.composition.slots
    good, spare = {}, {}
    for name in dict.fromkeys(names):
        slots, size = [i for i, one in enumerate(names) if one == name], len(model.libraries[name])  # type: ignore[arg-type]
        needed = necessity(squares, structures, slots, size, explained)
        fair = RARE * (len(x) - len(open_tasks)) * len(slots) / size
        good[name], spare[name] = needed > fair, (needed <= fair).nonzero().squeeze(1)
        spare[name] = spare[name][needed[spare[name]].argsort(stable=True)]
    for name, free in spare.items():
        if len(model.libraries[name]) == 1 or not len(free):  # type: ignore[arg-type]
            continue
        born = bear(model, name, x[chosen], y[chosen], good, explained, generator)
        if born is not None:
            free = free[:1]
            write(model.libraries[name], free, born)  # type: ignore[arg-type]
        else:
            mixed = torch.randperm(len(free), generator=generator, device=generator.device)
            free = free[mixed[: (len(free) + 1) // 2]]
            write(model.libraries[name], free, anew(model.libraries[name], len(free), generator))  # type: ignore[arg-type]
        replaced.append(Replaced(name, free))
    return replaced


def bear(
    model: ComposedModel, name: str, x: Tensor, y: Tensor, good: dict[str, Tensor], explained: float,
    generator: torch.Generator,
) -> dict[str, Tensor] | None:  # fmt: skip
    """Weights of a module of a library that explains one of a few tasks, (1, ...) each; None if none does."""
    library = model.libraries[name]
    assert isinstance(library, Library)
    rows, task = _contexts(model, name, len(x), good, generator)
    e, size = len(rows), len(library)
    rows = torch.where(rows < 0, size + torch.arange(e, device=rows.device).unsqueeze(1), rows)
    fresh = {key: part.requires_grad_() for key, part in anew(library, e, generator).items()}
    frozen = {key: part.detach() for key, part in library.named_parameters()}
    optimizer = torch.optim.Adam(fresh.values(), lr=RATE)
    train = int(FITTED * x.shape[1])
    libraries = dict(model.libraries.items())

    def squares(points: slice) -> Tensor:
        whole = {key: torch.cat((frozen[key], fresh[key])) for key in fresh}
        libraries[name] = _With(library, whole)  # type: ignore[assignment]
        out = model.composition.chosen(libraries, x[task, points], rows)  # type: ignore[arg-type]
        return (out - y[task, points]).square().mean((-1, -2))

    with torch.enable_grad():
        for step in range(STEPS):
            optimizer.param_groups[0]["lr"] = RATE * (1 - step / STEPS)
            gradients = torch.autograd.grad(squares(slice(train)).sum(), list(fresh.values()))
            for part, gradient in zip(fresh.values(), gradients, strict=True):
                part.grad = gradient
            optimizer.step()
    with torch.no_grad():
        left = squares(slice(train, None)) + squares(slice(train))
        best = int(left.argmin())
        return {key: part[best : best + 1].detach() for key, part in fresh.items()} if left[best] < explained else None


class _With:
    """A library whose modules have these weights."""

    def __init__(self, library: Library, weights: dict[str, Tensor]) -> None:
        self.library, self.weights = library, weights

    def __call__(self, x: Tensor, module: Tensor) -> Tensor:
        out: Tensor = functional_call(self.library, self.weights, (x, module))
        return out


def _contexts(
    model: ComposedModel, name: str, tasks: int, good: dict[str, Tensor], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Structures (E, S) with -1 where a fresh module goes, between good modules, and their tasks (E,)."""
    names, parts = model.composition.slots, []
    for slot in (i for i, one in enumerate(names) if one == name):
        drawn = []
        for other in names:
            weight = good[other].float() + 1e-3  # also others, where no module is good yet
            drawn.append(torch.multinomial(weight, 4 * CONTEXTS, replacement=True, generator=generator))
        rows = torch.stack(drawn, 1)
        rows[:, slot] = -1
        rows = rows.unique(dim=0)
        parts.append(rows[torch.randperm(len(rows), generator=generator, device=rows.device)[:CONTEXTS]])
    rows = torch.cat(parts)
    return rows.repeat(tasks, 1), torch.arange(tasks, device=rows.device).repeat_interleave(len(rows))


def anew(library: Library, modules: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Initial weights of so many modules of a library's kind, drawn as those of `Library`."""
    out: dict[str, Tensor] = {}
    for number, layer in enumerate(library.networks.affine):
        bound = (library.spread if number == 0 else 1.0) / layer.weight.shape[1] ** 0.5
        for key, part in (("weight", layer.weight), ("bias", layer.bias)):
            size = (modules, *part.shape[1:])
            drawn = torch.rand(size, generator=generator, device=generator.device, dtype=part.dtype)
            out[f"networks.layers.{number}.{key}"] = (2 * drawn - 1) * bound
    return out


@torch.no_grad()
def write(library: Library, modules: Tensor, weights: dict[str, Tensor]) -> None:
    """Gives modules (k,) of a library these weights, (k, ...) each."""
    for key, part in library.named_parameters():
        part[modules] = weights[key]


def forget(optimizer: torch.optim.Optimizer, model: ComposedModel, replaced: list[Replaced]) -> None:
    """Clears an optimiser's moments of modules that were replaced."""
    for name, modules in replaced:
        for part in model.libraries[name].parameters():
            for value in optimizer.state.get(part, {}).values():
                if isinstance(value, Tensor) and value.shape == part.shape:
                    value[modules] = 0
