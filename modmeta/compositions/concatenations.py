"""Laws first, where a head reads the values of modules: annealed expectation maximisation over all structures.

Head and modules are all unknown, so no task is explained by any structure at first, and gradient steps under drawn
structures leave the modules blends. Here every structure counts, with its probability at a temperature that falls (free
energy, Rose 1998), which costs little where modules are linear in features of x and the head is linear in products of
waves of every module's value: values of modules are waves once, and meet in one product of matrices.

Values of a module have mean 0 and variance 1 over all points, so that heads and modules cannot trade shifts and scales.
A pool of few more modules than there are leaves room to come apart; with twice as many, each slot would find modules of
its own. Attempts end in different optima, which what they leave unexplained tells early, so few go on.
Modules without which as many tasks are explained leave at the end. Structures are handed on, and values of modules and
head, which perceptrons learn.

Letters: B tasks, P points, I inputs, O outputs, D features, R waves, S slots, K modules, N of the pool, M structures.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from modmeta.compositions.chains import DONE, every_row, needed
from modmeta.compositions.cold_start import Start, features
from modmeta.compositions.library import Library
from modmeta.compositions.problem import ComposedModel
from modmeta.compositions.trees import Chain, Concatenate, Slot
from modmeta.shapes import Float

MORE, LEAST_MORE = 0.3, 3  # modules of the pool beyond those of the library: a share of them, and at least
WAVES = 3  # frequencies, 1, 2, .., of sines and cosines of values that the head reads, beside the values themselves
STEPS, TASKS, POINTS, RATE = 1000, 64, 24, 0.02  # steps, and tasks, points and learning rate of each
ATTEMPTS, EARLY, GO_ON = 8, 300, 2  # attempts, their first steps, and those that go on then
HOT, WARM_UNTIL = 3.0, 0.6  # temperature at first, nats; when it is 1
NOISE, EXACT, EXACT_FROM = 0.3, 0.03, 0.7  # standard deviation of errors, in units of y, at first, at last; since when
INPUTS = 1024  # points, at which values of modules and head are handed on
AT_ONCE = 2**22  # outputs of structures that are held at once
MOST = 20_000  # structures, of which a step holds all outputs at all its points


def concatenates(model: ComposedModel) -> bool:
    """Whether a composition is a head that all tasks share, of single modules of one library, of one value each.

    And whether there are few enough structures to weigh them all.
    """
    composition = model.composition
    if not isinstance(composition, Chain) or len(composition.parts) != 2:
        return False
    beside, head = composition.parts
    library = model.libraries[beside.slots[0]]
    return (
        isinstance(beside, Concatenate)
        and all(isinstance(part, Slot) for part in beside.parts)
        and isinstance(head, Slot)
        and len(set(beside.slots)) == 1
        and beside.slots[0] != head.library
        and model.sizes[-1] == 1
        and isinstance(library, Library)
        and library.outputs == 1
        and _pool(model.sizes[0]) ** len(beside.slots) <= MOST
    )


@torch.no_grad()
def concatenation_start(
    model: ComposedModel, x: Float[Tensor, "B P I"], y: Float[Tensor, "B P O"], seed: int
) -> Start:  # fmt: skip
    """Structures of tasks, and values of modules and head.

    Args:
        model: a head on modules of one library; its number of slots and modules count, not its modules.
        x: points of all tasks.
        y: their values.
        seed: of features, first modules and draws.
    """
    unit, generator = y.square().mean().sqrt(), torch.Generator(x.device).manual_seed(seed)
    basis, slots = features(x.double(), generator).float(), len(model.sizes) - 1
    attempts = [_Concatenations.drawn(basis, y / unit, slots, model.sizes[0], generator) for _ in range(ATTEMPTS)]
    for attempt in attempts:
        attempt.descend(range(EARLY))
    attempts = sorted(attempts, key=_Concatenations.unexplained)[:GO_ON]
    for attempt in attempts:
        attempt.descend(range(EARLY, STEPS))
        attempt.prune()
    start = min(attempts, key=_Concatenations.unexplained)
    values = start.values(basis)  # (B, P, K)
    structures = every_row(len(start.weights), slots, x.device)[start.squares().argmin(1)]
    read = values.gather(2, structures.unsqueeze(1).expand(-1, x.shape[1], -1)).flatten(0, 1)  # (B P, S)
    shown = torch.randperm(len(read), generator=generator, device=x.device)[:INPUTS]
    read = read[shown]
    out = _read([_waves(one).unsqueeze(1) for one in read.T], start.head)[:, 0] * unit
    handed = {
        model.composition.slots[0]: (x.flatten(0, 1)[shown], values.flatten(0, 1)[shown].T.unsqueeze(-1)),
        model.composition.slots[-1]: (read, out.unsqueeze(0)),
    }
    return Start(torch.cat((structures, torch.zeros_like(structures[:, :1])), 1), start.unexplained(), handed)


def _pool(modules: int) -> int:
    """Size N of the pool for K modules."""
    return modules + max(LEAST_MORE, round(MORE * modules))


def _waves(u: Tensor) -> Tensor:
    """What the head reads of values (...), (..., R)."""
    waves = [wave(number * u) for number in range(1, WAVES + 1) for wave in (torch.sin, torch.cos)]
    return torch.stack((torch.ones_like(u), u, *waves), -1)


def _read(parts: list[Tensor], head: Float[Tensor, " R"]) -> Tensor:
    """Outputs (Q, M, O) of all combinations of modules of every slot, from their waves (Q, N, R), S of them."""
    out = head.expand(len(parts[0]), 1, -1)
    for part in parts:  # one slot after the other, the last changes fastest
        out = torch.einsum("qmrz,qnr->qmnz", out.unflatten(-1, (part.shape[-1], -1)), part).flatten(1, 2)
    return out


@dataclass
class _Concatenations:
    """Tasks, and an attempt at what their modules and the head are.

    Attributes:
        basis: features of points, whose products over all points are the unit matrix, largest first (B, P, D).
        y: values (B, P, O), of mean square 1.
        slots: S.
        modules: K.
        generator: of draws.
        weights: of a pool of modules, (N, D).
        head: numbers of R for every slot times O, flat.
    """

    basis: Tensor
    y: Tensor
    slots: int
    modules: int
    generator: torch.Generator
    weights: Tensor
    head: Tensor

    def __post_init__(self) -> None:
        self.mean = self.basis.mean((0, 1))
        self.optimizer = torch.optim.Adam([self.weights.requires_grad_(), self.head.requires_grad_()], lr=RATE)

    @classmethod
    def drawn(
        cls, basis: Tensor, y: Tensor, slots: int, modules: int, generator: torch.Generator
    ) -> "_Concatenations":  # fmt: skip
        """Random modules, smooth ones more likely, and a random head."""
        fall = torch.linspace(1, 0.2, basis.shape[2], device=y.device)
        weights = torch.randn(_pool(modules), len(fall), generator=generator, device=y.device) * fall
        numbers = (2 * WAVES + 2) ** slots * y.shape[2]
        head = 0.3 * torch.randn(numbers, generator=generator, device=y.device)
        return cls(basis, y, slots, modules, generator, weights, head)

    def descend(self, steps: range) -> None:
        """Takes some of the steps of the annealing."""
        b, p, _ = self.basis.shape
        for step in steps:
            done = step / STEPS
            noise = NOISE * (EXACT / NOISE) ** min(1, done / EXACT_FROM)
            temperature = HOT ** (1 - min(1, done / WARM_UNTIL))
            self.optimizer.param_groups[0]["lr"] = RATE * min(1, 2 * (1 - done))
            tasks = torch.randint(b, (TASKS, 1), generator=self.generator, device=self.y.device)
            points = torch.randperm(p, generator=self.generator, device=self.y.device)[:POINTS]
            y = self.y[tasks, points]
            with torch.enable_grad():
                energies = y[0].numel() / 2 * torch.log(self._squares(self.basis[tasks, points], y) + noise**2)
                loss = -temperature * torch.logsumexp(-energies / temperature, 1).mean() / len(points)
            self.weights.grad, self.head.grad = torch.autograd.grad(loss, [self.weights, self.head])
            self.optimizer.step()

    def values(self, basis: Tensor) -> Tensor:
        """Values (b, p, N) of modules, of mean 0 and variance 1 over all points."""
        mean = self.weights @ self.mean
        spread = (self.weights.square().sum(1) - mean.square()).clamp_min(1e-6).sqrt()
        return (basis @ self.weights.T - mean) / spread

    def _squares(self, basis: Tensor, y: Tensor) -> Tensor:
        """Mean squared errors (b, M) of all structures at points (b, p, D) and values (b, p, O)."""
        out = _read([_waves(self.values(basis)).flatten(0, 1)] * self.slots, self.head)
        return (out.unflatten(0, y.shape[:2]) - y.unsqueeze(2)).square().mean((1, 3))

    def squares(self) -> Tensor:
        """Mean squared errors (B, M) of all structures."""
        few = max(1, AT_ONCE // (len(self.weights) ** self.slots * self.y[0].numel()))
        parts = zip(self.basis.split(few), self.y.split(few), strict=True)
        return torch.cat([self._squares(basis, y) for basis, y in parts])

    def unexplained(self) -> float:
        """Share of the squares of y that the best structures leave."""
        return float(self.squares().amin(1).mean())

    def prune(self) -> None:
        """Keeps modules that are needed."""
        rows = every_row(len(self.weights), self.slots, self.y.device)
        self.weights = self.weights[needed(self.squares(), rows, self.modules, DONE)]
