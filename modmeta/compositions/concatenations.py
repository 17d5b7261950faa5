"""Laws first, where a head reads the values of modules: annealed expectation maximisation over all structures.

Head and modules are all unknown, so no task is explained by any structure at first, and gradient steps under drawn
structures leave the modules blends. Here every structure counts, with its probability at a temperature that falls (free
energy, Rose 1998), which costs little where modules are linear in features of x and the head is linear in products of
waves of every module's value: values of modules are waves once, and meet in one product of matrices.

Values of a module have mean 0 and variance 1 over all points, so that heads and modules cannot trade shifts and scales.
A pool of few more modules than there are leaves room to come apart; with twice as many, each slot would find modules of
its own. Those without which as many tasks are explained leave at the end. Attempts differ in what they leave
unexplained, and the best is handed on: structures, and values of modules and head, which perceptrons learn.

Letters: B tasks, P points, I inputs, O outputs, D features, R waves, S slots, K modules, N of the pool, M structures.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from modmeta.compositions.chains import DONE, every_row, needed
from modmeta.compositions.cold_start import Start, features
from modmeta.compositions.problem import ComposedModel
from modmeta.compositions.trees import Chain, Concatenate, Slot
from modmeta.shapes import Float

MORE, ROOM = 1.3, 2  # modules of the pool for each of the library, and further ones
WAVES = 3  # frequencies, 1, 2, .., of sines and cosines of values that the head reads, beside the values themselves
STEPS, TASKS, POINTS, RATE = 800, 64, 24, 0.02  # steps, and tasks, points and learning rate of each
HOT, WARM_UNTIL = 3.0, 0.6  # temperature at first, nats; when it is 1
NOISE, EXACT, EXACT_FROM = 0.3, 0.03, 0.7  # standard deviation of errors, in units of y, at first, at last; since when
ATTEMPTS, ENOUGH = 4, 5e-3  # attempts, and share of the squares of y left, below which there is no further one
INPUTS = 1024  # points, at which values of modules and head are handed on
AT_ONCE = 2**22  # outputs of structures that are held at once


def concatenates(model: ComposedModel) -> bool:
    """Whether a composition is a head that all tasks share, of single modules of one library, of one value each."""
    composition = model.composition
    if not isinstance(composition, Chain) or len(composition.parts) != 2:
        return False
    beside, head = composition.parts
    return (
        isinstance(beside, Concatenate)
        and all(isinstance(part, Slot) for part in beside.parts)
        and isinstance(head, Slot)
        and len(set(beside.slots)) == 1
        and beside.slots[0] != head.library
        and model.sizes[-1] == 1
        and model.libraries[beside.slots[0]].outputs == 1
    )


@torch.no_grad()
def concatenation_start(
    model: ComposedModel, x: Float[Tensor, "B P I"], y: Float[Tensor, "B P O"], seed: int
) -> Start:  # fmt: skip
    """Structures of tasks, and values of modules and head; the attempt that leaves least unexplained.

    Args:
        model: a head on modules of one library; its number of slots and modules count, not its modules.
        x: points of all tasks.
        y: their values.
        seed: of features, first modules and draws.
    """
    unit, found = y.square().mean().sqrt(), None
    for attempt in range(ATTEMPTS):
        generator = torch.Generator(x.device).manual_seed(seed + 1000 * attempt)
        basis = features(x.double(), generator).float()
        start = _Concatenations(basis, y / unit, len(model.sizes) - 1, model.sizes[0], generator)
        weights, head = start.annealed()
        weights = weights[start.kept(weights, head)]
        squares = start.squares(weights, head)
        left = float(squares.amin(1).mean())
        if found is None or left < found[0]:
            found = left, start, weights, head, squares.argmin(1)
        if left < ENOUGH:
            break
    assert found is not None
    left, start, weights, head, best = found
    values = start.values(start.basis, weights)  # (B, P, K)
    structures = every_row(len(weights), start.slots, x.device)[best]
    read = values.gather(2, structures.unsqueeze(1).expand(-1, x.shape[1], -1)).flatten(0, 1)  # (B P, S)
    shown = torch.randperm(len(read), generator=generator, device=x.device)[:INPUTS]
    read = read[shown]
    out = _read([_waves(one).unsqueeze(1) for one in read.T], head)[:, 0] * unit
    handed = {
        model.composition.slots[0]: (x.flatten(0, 1)[shown], values.flatten(0, 1)[shown].T.unsqueeze(-1)),
        model.composition.slots[-1]: (read, out.unsqueeze(0)),
    }
    return Start(torch.cat((structures, torch.zeros_like(structures[:, :1])), 1), left, handed)


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
    """Tasks, and what their modules are made of.

    Attributes:
        basis: features of points, whose products over all points are the unit matrix, smooth ones first (B, P, D).
        y: values (B, P, O), of mean square 1.
        slots: S.
        modules: K.
        generator: of draws.
    """

    basis: Tensor
    y: Tensor
    slots: int
    modules: int
    generator: torch.Generator

    def __post_init__(self) -> None:
        self.mean = self.basis.mean((0, 1))

    def annealed(self) -> tuple[Tensor, Tensor]:
        """A pool of modules (N, D), and a head, numbers of R for every slot times O, flat."""
        n, (b, p, d) = round(MORE * self.modules) + ROOM, self.basis.shape
        outputs, waves = self.y.shape[2], 2 * WAVES + 2

        def normal(*size: int) -> Tensor:
            return torch.randn(size, generator=self.generator, device=self.y.device)

        weights = (normal(n, d) * torch.linspace(1, 0.2, d, device=self.y.device)).requires_grad_()
        head = (0.3 * normal(waves**self.slots * outputs)).requires_grad_()
        optimizer = torch.optim.Adam([weights, head], lr=RATE)
        for step in range(STEPS):
            done = step / STEPS
            noise = NOISE * (EXACT / NOISE) ** min(1, done / EXACT_FROM)
            temperature = HOT ** (1 - min(1, done / WARM_UNTIL))
            optimizer.param_groups[0]["lr"] = RATE * min(1, 2 * (1 - done))
            tasks = torch.randint(b, (TASKS, 1), generator=self.generator, device=self.y.device)
            points = torch.randperm(p, generator=self.generator, device=self.y.device)[:POINTS]
            y = self.y[tasks, points]
            with torch.enable_grad():
                squares = self._squares(self.basis[tasks, points], y, weights, head)
                energies = y[0].numel() / 2 * torch.log(squares + noise**2)
                loss = -temperature * torch.logsumexp(-energies / temperature, 1).mean() / len(points)
            weights.grad, head.grad = torch.autograd.grad(loss, [weights, head])
            optimizer.step()
        return weights.detach(), head.detach()

    def values(self, basis: Tensor, weights: Tensor) -> Tensor:
        """Values (b, p, N) of modules, of mean 0 and variance 1 over all points."""
        mean = weights @ self.mean
        spread = (weights.square().sum(1) - mean.square()).clamp_min(1e-6).sqrt()
        return (basis @ weights.T - mean) / spread

    def _squares(self, basis: Tensor, y: Tensor, weights: Tensor, head: Tensor) -> Tensor:
        """Mean squared errors (b, M) of all structures at points (b, p, D) and values (b, p, O)."""
        out = _read([_waves(self.values(basis, weights)).flatten(0, 1)] * self.slots, head)
        return (out.unflatten(0, y.shape[:2]) - y.unsqueeze(2)).square().mean((1, 3))

    def squares(self, weights: Tensor, head: Tensor) -> Tensor:
        """Mean squared errors (B, M) of all structures."""
        few = max(1, AT_ONCE // (len(weights) ** self.slots * self.y[0].numel()))
        parts = zip(self.basis.split(few), self.y.split(few), strict=True)
        return torch.cat([self._squares(basis, y, weights, head) for basis, y in parts])

    def kept(self, weights: Tensor, head: Tensor) -> Tensor:
        """Modules of the pool that are needed, (N,)."""
        rows = every_row(len(weights), self.slots, weights.device)
        return needed(self.squares(weights, head), rows, self.modules, DONE)
