"""Laws first, where modules add: structures of training tasks from modules that are linear in fixed features.

Gradient steps move modules so little between two searches that structures settle before the modules are right. Modules
that are linear in features add up to something linear, so the best ones under given structures solve one system of
equations. Each iteration draws the structures of all tasks anew, at a temperature that falls, and solves for all
modules (stochastic expectation maximisation, annealed). Gram matrices of the features of a task are all that is needed
of it, and are made once.

Only structures are handed on: perceptrons learn them in the first part of training, and search then refines both.
(Perceptrons in a chain do not learn given structures: `modmeta.compositions.chains` hands modules on, too.)

Letters: B tasks, P points, I inputs, O outputs, D features, S slots, K modules of all libraries, M structures.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from modmeta.compositions.problem import ComposedModel
from modmeta.compositions.trees import Slot, Sum
from modmeta.shapes import Float

RAW, KEPT = 64, 1e-3  # random features, and smallest singular value, relative to the largest, that is kept of them
HOT, COLD = 4.0, 1e-3  # temperatures at the start and the end, in units of half the squares of y in a task
ITERATIONS, LAST = 100, 15  # of the annealing, and of the best structures after it
WARM, AGAIN = 0.05, 25  # temperature at which annealing begins again after a module has moved, and its iterations
MOVES = 12  # of a module that is not needed to where errors are
RESTARTS = 4  # at most
EXACT = 1e-3  # share of squares left, below which there is no further restart
ENOUGH = 2e-5  # share of squares left, below which nothing is moved any more
RIDGE = 2e-5  # in units of the mean square of a feature, times the number of points
AT_ONCE = 2**22  # energies that are held at once


class Start(NamedTuple):
    """What a cold start found.

    Attributes:
        structures: of all tasks, (B, S).
        unexplained: share of the squares of y that is left, over all tasks.
        values: where modules are handed on, too: inputs (Q, I) and values there, (K, Q, O), of those of a library.
    """

    structures: Tensor
    unexplained: float
    values: Mapping[str, tuple[Tensor, Tensor]] = {}


class _Grams(NamedTuple):
    """Products of features of every task.

    Attributes:
        square: (B, D, D).
        linear: (B, D, O).
        alone: squares of y, (B,).
    """

    square: Tensor
    linear: Tensor
    alone: Tensor


def adds(model: ComposedModel) -> bool:
    """Whether a composition is a sum of single modules, all of whose structures can be scored."""
    composition = model.composition
    return isinstance(composition, Sum) and all(isinstance(part, Slot) for part in composition.parts)


@torch.no_grad()
def cold_start(
    model: ComposedModel, x: Float[Tensor, "B P I"], y: Float[Tensor, "B P O"], seed: int,
    restarts: int = RESTARTS,
) -> Start:  # fmt: skip
    """Structures of tasks; the best of a few restarts, by what they leave unexplained.

    Args:
        model: a sum of modules; its composition and sizes of libraries count, not its modules.
        x: points of all tasks.
        y: their values.
        seed: of features, first modules and draws.
        restarts: number of restarts.
    """
    generator = torch.Generator(x.device).manual_seed(seed)
    grams = _grams(x.double(), y.double(), generator)
    names = model.composition.slots
    first, total = {}, 0  # index of each library's first module among all
    for name in dict.fromkeys(names):
        first[name], total = total, total + len(model.libraries[name])  # type: ignore[arg-type]
    offset = torch.tensor([first[name] for name in names], device=x.device)
    structures = model.composition.alike(model.structures(x.device)).unique(dim=0)  # each function once
    library = torch.cat([torch.full((len(model.libraries[name]),), i) for i, name in enumerate(first)])  # type: ignore[arg-type]
    search = _Search(grams, structures + offset, library.to(x.device), x.shape[1], generator)
    best = search.run()
    for _ in range(restarts - 1):
        if best.unexplained < EXACT:
            break
        best = min(best, search.run(), key=lambda start: start.unexplained)
    return Start(best.structures - offset, best.unexplained)


def _grams(x: Tensor, y: Tensor, generator: torch.Generator) -> _Grams:
    """Of random features of x."""
    basis = features(x, generator)
    return _Grams(basis.mT @ basis, basis.mT @ y, y.square().sum((1, 2)))


def features(x: Float[Tensor, "B P I"], generator: torch.Generator) -> Float[Tensor, "B P D"]:
    """Random features of points, turned so that means of their products are the unit matrix, largest first.

    Args:
        x: points of all tasks.
        generator: of features.
    """

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=x.dtype, device=x.device)

    scaled = x / x.flatten(0, 1).abs().amax(0)
    waves = torch.tanh(scaled @ (3.0 * normal(x.shape[2], RAW)) + 2.0 * normal(RAW))
    raw = torch.cat((torch.ones_like(x[..., :1]), scaled, waves), -1)
    _, size, turn = torch.linalg.svd(raw.flatten(0, 1), full_matrices=False)
    kept = size > KEPT * size[0]
    turned: Tensor = raw @ (turn.T[:, kept] / size[kept]) * (len(x) * x.shape[1]) ** 0.5
    return turned


@dataclass
class _Search:
    """Structures and modules of all tasks.

    Attributes:
        grams: of the tasks.
        structures: M structures (M, S), of which every other is alike; modules numbered over all libraries.
        library: library of every module, (K,).
        points: P.
        generator: of draws.
    """

    grams: _Grams
    structures: Tensor
    library: Tensor
    points: int
    generator: torch.Generator

    def run(self) -> Start:
        """Anneals, then moves modules that are not needed to where errors are, while that leaves less."""
        d, o = self.grams.linear.shape[1:]
        mean = self.grams.linear.mean(0) / self.points / self.structures.shape[1]  # of all tasks, shared out
        size = (len(self.library), d, o)
        noise = torch.randn(size, generator=self.generator, dtype=mean.dtype, device=mean.device)
        weights = self.annealed(mean + 0.05 * noise, HOT, ITERATIONS)
        best = float(self.drawn(weights, None)[1].sum())
        for _ in range(MOVES):
            moved = self.annealed(self.moved(weights), WARM, AGAIN)
            left = float(self.drawn(moved, None)[1].sum())
            if left < best:
                weights, best = moved, left
            if best < ENOUGH * float(self.grams.alone.sum()):
                break
        return Start(self.drawn(weights, None)[0], best / float(self.grams.alone.sum()))

    def annealed(self, weights: Tensor, start: float, iterations: int) -> Tensor:
        """Modules (K, D, O) after annealing from a temperature."""
        scale = float(self.grams.alone.mean()) / 2
        for iteration in range(iterations + LAST):
            temperature = scale * start * (COLD / start) ** (iteration / iterations)
            rows, _ = self.drawn(weights, temperature if iteration < iterations else None)
            weights = _solved(self.grams, rows, len(weights), self.points)
        return weights

    def moved(self, weights: Tensor) -> Tensor:
        """The module whose loss costs least becomes one beside another, drawn by the errors of its tasks."""
        rows, energies = self.drawn(weights, None)
        k = len(weights)
        counts = F.one_hot(rows, k).amax(1).to(energies)
        errors = counts.T @ energies
        worst = int(torch.multinomial(errors + 1e-30, 1, generator=self.generator))
        cost = self.without(weights) - energies.sum()
        cost[worst] = torch.inf
        cost[self.library != self.library[worst]] = torch.inf
        sizes = torch.bincount(self.library)
        if int(sizes[self.library[worst]]) == 1:
            return weights
        weights = weights.clone()
        noise = torch.randn(weights[0].shape, generator=self.generator, dtype=weights.dtype, device=weights.device)
        weights[int(cost.argmin())] = weights[worst] + 0.3 * weights[worst].std() * noise
        return weights

    def without(self, weights: Tensor) -> Tensor:
        """Squared errors of all tasks without each module, (K,)."""
        k = len(weights)
        uses = (self.structures.unsqueeze(-1) == torch.arange(k, device=weights.device)).any(1)  # (M, K)
        total = weights.new_zeros(k)
        for energies in self.energies(weights):
            for some in energies.split(max(1, AT_ONCE // uses.numel())):
                total += torch.where(uses, torch.inf, some.unsqueeze(-1)).amin(1).clamp_min(0).sum(0)
        return total

    def energies(self, weights: Tensor) -> Iterator[Tensor]:
        """Squared errors (b, M) of all structures, some tasks at a time."""
        grams, structures = self.grams, self.structures
        pull = -2 * torch.einsum("bdo,kdo->bk", grams.linear, weights)
        half = torch.einsum("bde,keo->bkdo", grams.square, weights)
        pairs = torch.einsum("bkdo,ldo->bkl", half, weights)  # products of modules' outputs on a task
        alone = pull + pairs.diagonal(dim1=1, dim2=2)
        m, s = structures.shape
        for some in torch.arange(len(pull), device=pull.device).split(max(1, AT_ONCE // m)):
            total = grams.alone[some].unsqueeze(1) + sum(alone[some][:, structures[:, i]] for i in range(s))
            flat = pairs[some].flatten(1)
            for i in range(s):
                for j in range(i):
                    total = total + 2 * flat[:, structures[:, i] * pairs.shape[2] + structures[:, j]]
            yield total

    def drawn(self, weights: Tensor, temperature: float | None) -> tuple[Tensor, Tensor]:
        """Structures of all tasks, drawn at a temperature or the best, (B, S), and their squared errors (B,)."""
        picks, left = [], []
        for energies in self.energies(weights):
            pick = energies.argmin(1)
            if temperature is not None:
                chance = (-energies / (2 * temperature)).softmax(-1)
                pick = torch.multinomial(chance, 1, generator=self.generator).squeeze(1)
            picks.append(pick)
            left.append(energies.gather(1, pick.unsqueeze(1)).squeeze(1))
        return self.structures[torch.cat(picks)], torch.cat(left).clamp_min(0)


def _solved(grams: _Grams, rows: Tensor, modules: int, points: int) -> Tensor:
    """The best modules (K, D, O) under structures (B, S)."""
    b, d, o = grams.linear.shape
    counts = F.one_hot(rows, modules).sum(1).to(grams.square)  # (B, K)
    both = (counts.unsqueeze(2) * counts.unsqueeze(1)).flatten(1)  # (B, K K)
    square = (both.T @ grams.square.flatten(1)).view(modules, modules, d, d).transpose(1, 2).flatten(2).flatten(0, 1)
    linear = torch.einsum("bk,bdo->kdo", counts, grams.linear).flatten(0, 1)
    ridge = RIDGE * b * points * torch.eye(len(square), dtype=square.dtype, device=square.device)
    found: Tensor = torch.linalg.solve(square + ridge, linear)
    return found.view(modules, d, o)
