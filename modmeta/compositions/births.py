"""New modules for tasks that no structure explains yet.

Gradient steps and search alone leave some modules as blends of what they should be, and others twice: a local optimum
that heat does not undo. So, now and then, modules without which as many tasks are explained give way. A new one is born
from a single task: in one slot, or in all slots of its library, between modules that explain other tasks, a fresh
module is fitted to some of its points, in all such contexts at once. Where the other points of the task follow too, the
function is real, for a fresh module between wrong ones fits but does not generalise. Where none is born, half of the
modules that are not needed begin anew at random.

Where any function of a single task would do, as a value that is weighed does, such a module may be born in vain: so of
several, the one that explains most tasks is. In all slots it needs no others of its library, nor scores beside it.

Letters: B tasks, P points, M structures, S slots, K modules, E fresh modules.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call

from modmeta.compositions.library import Library
from modmeta.compositions.problem import ComposedModel
from modmeta.shapes import Float, Int

SHOWN = 40  # tasks that are not explained, to which one fresh module in all slots is fitted each
TASKS = 4  # of these, to which fresh modules in single slots are fitted
CONTEXTS = 24  # of such a task and slot
WEIGHED = 6  # fresh modules between which the number of explained tasks chooses
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
    chosen = open_tasks[torch.randperm(len(open_tasks), generator=generator, device=generator.device)[:SHOWN]]
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
        born = bear(model, name, int(free[0]), x[chosen], y[chosen], good, explained, generator)
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
    model: ComposedModel, name: str, place: int, x: Tensor, y: Tensor, good: dict[str, Tensor], explained: float,
    generator: torch.Generator,
) -> dict[str, Tensor] | None:  # fmt: skip
    """Weights of a module of a library, (1, ...) each, that explains one of some tasks; None if none does.

    Of several, the one with which, in place of another, most of the tasks are explained.
    """
    library = model.libraries[name]
    assert isinstance(library, Library)
    rows, task = _contexts(model, name, len(x), good, generator)
    fresh, left = _fitted(model, name, x, y, rows, task, generator)
    with torch.no_grad():
        before = {key: part[place : place + 1].clone() for key, part in library.named_parameters()}
        best, most = None, -1
        for number in left.argsort()[:WEIGHED].tolist():
            if left[number] >= explained:
                break
            born = {key: part[number : number + 1].detach() for key, part in fresh.items()}
            write(library, torch.tensor([place]), born)
            count = int((model.every(x, y).amin(1) < explained).sum())
            best, most = (born, count) if count > most else (best, most)
        write(library, torch.tensor([place]), before)
    return best


def _fitted(
    model: ComposedModel, name: str, x: Tensor, y: Tensor, rows: Tensor, task: Tensor, generator: torch.Generator
) -> tuple[dict[str, Tensor], Tensor]:
    """Fresh modules, one for each context (E, S) of a task (E,), and what they leave of it, (E,)."""
    library = model.libraries[name]
    assert isinstance(library, Library)
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
        return fresh, squares(slice(train, None)) + squares(slice(train))


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
    """Structures (E, S) with -1 where a fresh module goes, between good modules, and their tasks (E,), of so many."""
    names, rows, of = model.composition.slots, [], []
    mine = [i for i, one in enumerate(names) if one == name]

    def drawn(number: int, slots: list[int]) -> Tensor:
        weights = [good[other].float() + 1e-3 for other in names]  # also others, where no module is good yet
        contexts = [torch.multinomial(part, number, replacement=True, generator=generator) for part in weights]
        contexts = [torch.full_like(part, -1) if i in slots else part for i, part in enumerate(contexts)]
        return torch.stack(contexts, 1)

    few = min(tasks, TASKS)
    for slot in mine:
        some = drawn(4 * CONTEXTS, [slot]).unique(dim=0)
        some = some[torch.randperm(len(some), generator=generator, device=some.device)[:CONTEXTS]]
        rows.append(some.repeat(few, 1))
        of.append(torch.arange(few, device=some.device).repeat_interleave(len(some)))
    if len(mine) > 1:
        rows.append(drawn(tasks, mine))
        of.append(torch.arange(tasks, device=rows[0].device))
    return torch.cat(rows), torch.cat(of)


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
