"""New modules for tasks that no structure explains yet.

Gradient steps and search alone leave some modules as blends of what they should be, and others twice: a local optimum
that heat does not undo. So, now and then, a module gives way to a new one, born from a single task: in one slot, or in
all slots of its library, between modules that explain other tasks, a fresh module is fitted to some of its points, in
all such contexts at once; contexts that fit worst are given up early. Where the other points of the task follow too,
the function is real, for a fresh module between wrong ones fits but does not generalise. Where none is born, half of
the modules that are not needed begin anew at random.

One task does not tell a function everywhere, and where modules weigh others, many a function explains it. So the best
few are fitted on, to all tasks at once that they explain better, each in its best structure. The one is born, in place
of the module, under which all tasks have the least energy; a module that is needed stays unless that is below today's.

Letters: B tasks, P points, M structures, S slots, K modules, E contexts, F fresh modules.
"""

from copy import deepcopy
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call

from modmeta.compositions.library import Library
from modmeta.compositions.problem import ComposedModel
from modmeta.shapes import Float, Int

SHOWN = 40  # tasks that are not explained, to which one fresh module in all slots is fitted each
TASKS = 4  # of these, to which fresh modules in single slots are fitted
CONTEXTS = 40  # of such a task and slot
FIRST, STEPS, RATE = 50, 100, 0.02  # steps of the fit, of all contexts and of the best; learning rate
WEIGHED, REFINED = 16, 3  # fresh modules that other tasks judge, and those that are fitted to these, too
GO_ON = 3 * WEIGHED  # contexts that are fitted to the end
FITTED = 0.75  # share of a task's points, of which all contexts see half; the others judge
RARE = 0.3  # of the tasks that a module would explain if all were needed alike


class Replaced(NamedTuple):
    """A module that was given new weights.

    Attributes:
        library: its library.
        modules: indices (k,).
    """

    library: str
    modules: Tensor


def without(
    squares: Float[Tensor, "B M"], structures: Int[Tensor, "M S"], slots: list[int], size: int
) -> Float[Tensor, "B K"]:
    """Least mean squared errors (B, K) of structures that lack each module of a library.

    Args:
        squares: mean squared errors of all structures.
        structures: all structures.
        slots: those that take modules of the library.
        size: K.
    """
    uses = (structures[:, slots].unsqueeze(-1) == torch.arange(size, device=squares.device)).any(1)  # (M, K)
    return torch.cat([torch.where(uses, torch.inf, part.unsqueeze(-1)).amin(1) for part in squares.split(8)])


def necessity(squares: Float[Tensor, "B M"], lacking: Float[Tensor, "B K"], explained: float) -> Int[Tensor, " K"]:
    """Number of tasks that are explained with, but not without, each module of a library.

    Args:
        squares: mean squared errors of all structures.
        lacking: those `without` each module.
        explained: error below which a task is explained.
    """
    return ((squares.amin(1, keepdim=True) < explained) & (lacking >= explained)).sum(0)


def renew(
    model: ComposedModel, x: Float[Tensor, "B P I"], y: Float[Tensor, "B P O"], explained: float,
    generator: torch.Generator,
) -> list[Replaced]:  # fmt: skip
    """Gives new weights to modules that are not needed, or less than a new one; see above.

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
    least = squares.amin(1)
    solved = int((least < explained).sum())
    if solved == len(x):
        return []
    replaced = []
    names = model.composition.slots
    good, lacking, needed = {}, {}, {}
    for name in dict.fromkeys(names):
        slots, size = [i for i, one in enumerate(names) if one == name], len(model.libraries[name])  # type: ignore[arg-type]
        lacking[name] = without(squares, structures, slots, size)
        needed[name] = necessity(squares, lacking[name], explained)
        good[name] = needed[name] > RARE * solved * len(slots) / size
    several = [name for name in good if len(good[name]) > 1]
    for name in [name for name in several if not good[name].all()] or several:
        library, spare = model.libraries[name], (~good[name]).nonzero().squeeze(1)
        born = bear(model, name, least, lacking[name], x, y, good, explained, generator)
        if born is None:
            mixed = torch.randperm(len(spare), generator=generator, device=generator.device)
            modules = spare[mixed[: (len(spare) + 1) // 2]]
            weights = anew(library, len(modules), generator)  # type: ignore[arg-type]
        else:
            better = born.energy < float(model.energy(least, 1).sum())
            modules = torch.tensor([born.place] if better or not needed[name][born.place] else [], dtype=torch.long)
            weights = born.weights
        if len(modules):
            write(library, modules, weights)  # type: ignore[arg-type]
            replaced.append(Replaced(name, modules))
    return replaced


class Born(NamedTuple):
    """A module.

    Attributes:
        weights: (1, ...) each.
        place: module that it replaces best.
        energy: of all tasks then, nats a number.
    """

    weights: dict[str, Tensor]
    place: int
    energy: float


def bear(
    model: ComposedModel, name: str, least: Float[Tensor, " B"], lacking: Float[Tensor, "B K"],
    x: Float[Tensor, "B P I"], y: Float[Tensor, "B P O"], good: dict[str, Tensor], explained: float,
    generator: torch.Generator,
) -> Born | None:  # fmt: skip
    """A module of a library that explains an open task, and under which all tasks have the least energy; None if none.

    Args:
        model: composition.
        name: of the library.
        least: mean squared errors of the best structures of tasks.
        lacking: those `without` each module.
        x: points of tasks.
        y: their values.
        good: whether modules of each library are needed, (K,) each.
        explained: mean squared error below which a task is explained; some are not.
        generator: of choices.
    """
    some = (least >= explained).nonzero().squeeze(1)
    some = some[torch.randperm(len(some), generator=generator, device=generator.device)[:SHOWN]]
    rows, task = _contexts(model, name, len(some), good, generator)
    if not len(rows):
        return None
    fresh, left = _fitted(model, name, x[some], y[some], rows, task, generator)
    fit = [number for number in left.argsort()[:WEIGHED].tolist() if left[number] < explained]
    if not fit:
        return None
    size, slots = len(good[name]), [i for i, one in enumerate(model.composition.slots) if one == name]
    wide, library = _with_one_more(model, name)
    using = wide.structures(x.device)
    using = using[(using[:, slots] == size).any(1)]  # (M, S)

    @torch.no_grad()
    def judged(number: int, tasks: Tensor) -> Tensor:
        """Mean squared errors (b, M) of tasks in structures with a fresh module."""
        write(library, torch.tensor([size]), {key: part[number : number + 1] for key, part in fresh.items()})
        return wide.some(x[tasks], y[tasks], using.expand(len(tasks), -1, -1))

    squares, best = torch.stack([judged(number, some) for number in fit]).min(2)  # (F, b)
    gains = (model.energy(least[some], 1) - model.energy(squares, 1)).clamp_min(0).sum(1)
    chosen = gains.argsort(descending=True)[:REFINED]
    fresh = {key: part[[fit[number] for number in chosen.tolist()]] for key, part in fresh.items()}
    of, which = (squares[chosen] < least[some]).nonzero(as_tuple=True)
    mine = torch.tensor([one == name for one in model.composition.slots], device=x.device)
    rows = using[best[chosen]][of, which]
    rows = torch.where(mine & (rows == size), -1, rows)
    _descend(model, name, fresh, rows, of, x[some[which]], y[some[which]], STEPS, True)
    every, energies = torch.arange(len(x), device=x.device), []
    for number in range(len(chosen)):
        others = without(judged(number, every), using, slots, size)  # (B, K), in whose place the module comes
        energies.append(model.energy(torch.minimum(lacking, others), 1).sum(0))
    total = torch.stack(energies)
    number, place = divmod(int(total.argmin()), size)
    weights = {key: part[number : number + 1].detach() for key, part in fresh.items()}
    return Born(weights, place, float(total[number, place]))


def _with_one_more(model: ComposedModel, name: str) -> tuple[ComposedModel, Library]:
    """A copy whose library of this name has another module, and that library."""
    wide = deepcopy(model)
    library = wide.libraries[name]
    assert isinstance(library, Library)
    for part in library.parameters():
        part.data = torch.cat((part.data, part.data[:1]))
    return wide, library


def _fitted(
    model: ComposedModel, name: str, x: Tensor, y: Tensor, rows: Tensor, task: Tensor, generator: torch.Generator
) -> tuple[dict[str, Tensor], Tensor]:
    """Fresh modules for the best of some contexts (E, S) of tasks (E,), F of them, and what they leave, (F,)."""
    library = model.libraries[name]
    assert isinstance(library, Library)
    fresh, train = anew(library, len(rows), generator), int(FITTED * x.shape[1])
    own = torch.arange(len(rows), device=x.device)
    left = _descend(model, name, fresh, rows, own, x[task, :train:2], y[task, :train:2], FIRST, False)
    kept = left.argsort()[:GO_ON]
    fresh, rows, task = {key: part.detach()[kept] for key, part in fresh.items()}, rows[kept], task[kept]
    own = own[: len(rows)]
    left = _descend(model, name, fresh, rows, own, x[task, :train], y[task, :train], STEPS, True)
    with torch.no_grad():
        return fresh, left + _squares(model, name, fresh, rows, own, x[task, train:], y[task, train:])


def _descend(
    model: ComposedModel, name: str, fresh: dict[str, Tensor], rows: Tensor, owner: Tensor, x: Tensor, y: Tensor,
    steps: int, ends: bool,
) -> Tensor:  # fmt: skip
    """Fits fresh modules in place: structures (E, S), -1 where one goes; each one's, (E,), and points (E, P, I).

    Args:
        model: composition.
        name: of their library.
        fresh: their weights, (F, ...) each.
        rows: structures.
        owner: whose they are.
        x: inputs.
        y: values (E, P, O).
        steps: of Adam.
        ends: whether steps become smaller.

    Returns:
        Mean squared errors (E,).
    """
    for part in fresh.values():
        part.requires_grad_()
    optimizer = torch.optim.Adam(fresh.values(), lr=RATE)
    with torch.enable_grad():
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = RATE * (1 - step / steps if ends else 1)
            energy = model.energy(_squares(model, name, fresh, rows, owner, x, y), 1).sum()
            for part, gradient in zip(fresh.values(), torch.autograd.grad(energy, list(fresh.values())), strict=True):
                part.grad = gradient
            optimizer.step()
    for part in fresh.values():
        part.requires_grad_(False)
    return _squares(model, name, fresh, rows, owner, x, y)


def _squares(
    model: ComposedModel, name: str, fresh: dict[str, Tensor], rows: Tensor, owner: Tensor, x: Tensor, y: Tensor
) -> Tensor:
    """Mean squared errors (E,); see `_descend`."""
    library = model.libraries[name]
    assert isinstance(library, Library)
    whole = {key: torch.cat((part.detach(), fresh[key])) for key, part in library.named_parameters()}
    libraries = dict(model.libraries.items()) | {name: _With(library, whole)}
    rows = torch.where(rows < 0, len(library) + owner.unsqueeze(1), rows)
    out = model.composition.chosen(libraries, x, rows)  # type: ignore[arg-type]
    return (out - y).square().mean((-1, -2))


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
    names, size, alike = model.composition.slots, len(good[name]), model.composition.alike
    mine = torch.tensor([one == name for one in names], device=good[name].device)
    weights = [good[other].float() + 1e-3 for other in names]  # also others, where no module is good yet

    def drawn(number: int, slots: list[int]) -> Tensor:
        """Random contexts, number `size` for the fresh module in some slots."""
        rows = [torch.multinomial(part, number, replacement=True, generator=generator) for part in weights]
        rows = [torch.full_like(part, size) if i in slots else part for i, part in enumerate(rows)]
        return torch.stack(rows, 1)

    def matters(rows: Tensor) -> Tensor:
        """Those that are another function with another fresh module; -1 where it goes."""
        other = torch.where(mine & (rows == size), size + 1, rows)
        rows = rows[(alike(rows) != alike(other)).any(1)]
        return torch.where(mine & (rows == size), -1, rows)

    slots = mine.nonzero().squeeze(1).tolist()
    some = torch.cat([drawn(4 * CONTEXTS, [slot]) for slot in slots])
    some = matters(alike(some).unique(dim=0))
    some = some[torch.randperm(len(some), generator=generator, device=some.device)[: CONTEXTS * len(slots)]]
    few = min(tasks, TASKS)
    whole = matters(drawn(tasks, slots)) if len(slots) > 1 else some[:0]
    of = torch.arange(few, device=some.device).repeat_interleave(len(some))
    return torch.cat((some.repeat(few, 1), whole)), torch.cat((of, torch.arange(len(whole), device=some.device)))


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
