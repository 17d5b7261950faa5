"""Laws first, where modules are chained: structures of training tasks, one end of the chain after the other.

A chain of unknown modules under unknown structures has many local optima. Its first module alone has few: where the
rest of the chain is left free, a smooth function of each task's own, the energy of a task is the evidence that its
values are such a function of the module's outputs, a Gaussian process whose weights never appear. So:

1. *Peel.* A pool of modules, more than there are, learns the first slot: structures are drawn by the evidence at a
   temperature that falls, and modules descend (annealed expectation maximisation over K structures instead of K^S).
   Modules and the rest have priors of one smoothness, so that modules come out as they are but for scale and sign.
2. *Fit.* A library is shared by all slots, so the pool's modules, scaled to the range of values, must explain whole
   chains. Signs are those under which most tasks are explained.
3. *Grow.* Where a task is not explained, the last module of its chain is the solution of a linear system, given modules
   for the others. Those that explain most tasks join; those without which as many are explained leave; all descend.

Modules are linear in random features here. Structures are handed on, and modules, which perceptrons learn (`teach`).

Letters: B tasks, P points, I inputs and outputs, D features, S slots, K modules, N of a pool, M structures, E entries.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from modmeta.compositions.cold_start import Start
from modmeta.compositions.library import Library
from modmeta.compositions.problem import ComposedModel
from modmeta.compositions.trees import Chain, Slot
from modmeta.shapes import Bool, Float, Int

RAW, KEPT = 96, 1e-3  # random features, and smallest singular value, relative to the largest, that is kept of them
SMOOTH = 0.5  # length over which modules vary, in units of the largest value
MORE = 1.6  # modules of the pool for each of the library
PEEL, TASKS, POINTS, RATE = 1500, 64, 24, 0.02  # steps, and tasks, points and learning rate of each
ATTEMPTS = 3  # as long as much is left unexplained
HOT, WARM_UNTIL, COLD_FROM = 8.0, 0.6, 0.8  # temperature at first; when it is 1; from when the best are taken
NOISE, EXACT = 0.3, 0.03  # standard deviation of errors, at first and at last
FIRST, NEXT = 2, 3  # modules of the first slot, and of each further one, between which fitting chooses
KNOWN = 24  # explanations of a task that are kept
CLOSE, LOOSE = 0.05, 0.15  # errors that pool's modules make of a chain, and above which nothing is explained
FLIPS = 30  # random signs from which the best are sought
ROUNDS, DESCENT, FAST = 14, 80, 0.01  # of growing; steps and their learning rate in each
DONE = 0.003  # mean squared error of a task that is explained, in units of the mean square of values
SCORED = 2**22  # structures of tasks that a round scores
LOOKED_AT, TRIED = 400, 96  # tasks that are not explained, and new modules, that a round looks at
TAUGHT, TAUGHT_RATE, INPUTS = 1000, 0.01, 512  # steps of perceptrons that learn modules, their rate, and inputs
EDGE, KNOTS = 1.5, 4096  # range of tabulated features, in units of the largest value, and their number
AT_ONCE = 2**21  # numbers held at once


def chains(model: ComposedModel) -> bool:
    """Whether a composition is a chain of two or more single modules of one library."""
    composition = model.composition
    return (
        isinstance(composition, Chain)
        and all(isinstance(part, Slot) for part in composition.parts)
        and len(composition.parts) > 1
        and len(set(composition.slots)) == 1
    )


@torch.no_grad()
def chain_start(model: ComposedModel, x: Float[Tensor, "B P I"], y: Float[Tensor, "B P I"], seed: int) -> Start:
    """Structures of tasks.

    Args:
        model: a chain of modules of one library; its number of slots and modules count, not its modules.
        x: points of all tasks.
        y: their values.
        seed: of features, first modules and draws; where much is left unexplained, others are tried.
    """
    size = torch.stack((x.abs().amax(), y.abs().amax())).amax()
    x, y = x / size, y / size
    found: Start | None = None
    for attempt in range(ATTEMPTS):
        generator = torch.Generator(x.device).manual_seed(seed + 1000 * attempt)
        basis = _Basis.drawn(torch.cat((x, y), 1).flatten(0, 1), generator)
        start = _Chains(basis, x, y, len(model.sizes), model.sizes[0], generator)
        other = start.grown(start.fitted(start.peeled()))
        found = other if found is None or other.unexplained < found.unexplained else found
        if found.unexplained < LOOSE**2:
            break
    assert found is not None
    inputs, values = found.values["f"]
    return found._replace(values={model.composition.slots[0]: (inputs * size, values * size)})


def teach(library: Library, inputs: Float[Tensor, "Q I"], values: Float[Tensor, "K Q O"]) -> None:
    """Fits a library's modules to values at inputs; those that have none, to zeros.

    Args:
        library: its modules.
        inputs: points.
        values: of its first modules there.
    """
    optimizer = torch.optim.Adam(library.parameters(), lr=TAUGHT_RATE)
    values = torch.cat((values, values.new_zeros(len(library) - len(values), *values.shape[1:])))
    with torch.enable_grad():
        for step in range(TAUGHT):
            optimizer.param_groups[0]["lr"] = TAUGHT_RATE * (1 - step / TAUGHT)
            loss = (library.every(inputs.unsqueeze(0))[0] - values).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    library.zero_grad()


def every_row(modules: int, slots: int, device: torch.device) -> Int[Tensor, "M S"]:
    """All structures (M, S) of so many modules, the last slot changes fastest."""
    number = torch.arange(modules, device=device)
    return torch.cartesian_prod(*[number] * slots).view(-1, slots)


def needed(squares: Float[Tensor, "B M"], rows: Int[Tensor, "M S"], modules: int, enough: float) -> Bool[Tensor, " N"]:
    """Which modules of a pool are needed, (N,): others leave, one after the other, where there are too many.

    Args:
        squares: mean squared errors of all structures.
        rows: these.
        modules: K, at most so many stay.
        enough: mean squared error of a task that is explained.
    """
    n = int(rows.max()) + 1
    uses = (rows.unsqueeze(-1) == torch.arange(n, device=rows.device)).any(1)  # (M, N)
    here, energy, few = uses.any(0), torch.log(squares + enough / 3), max(1, AT_ONCE // len(rows))
    while int(here.sum()) > 1:
        best, place = energy.min(1)
        # Only tasks whose best structure has a module miss it.
        once = F.one_hot(rows[place], n).amax(1)  # (B, N)
        cost = energy.new_zeros(n)
        task, missed = once.nonzero(as_tuple=True)
        for some, of in zip(task.split(few), missed.split(few), strict=True):
            without = energy[some].masked_fill_(uses[:, of].T, torch.inf).amin(1)
            cost.index_add_(0, of, without - best[some])
        worst = int(cost.masked_fill(~here, torch.inf).argmin())
        if int(here.sum()) <= modules and cost[worst] > 1.0:
            break
        here[worst] = False
        energy = energy.masked_fill(uses[:, worst], torch.inf)
    return here


@dataclass
class _Basis:
    """Random features of a smooth function's prior, turned so that few suffice.

    Attributes:
        frequency: (I, RAW).
        phase: (RAW,).
        turn: (RAW + 1, D).
        table: features of one input at EDGE * (-1 .. 1), and their differences, (2, KNOTS, D); None for more inputs.
    """

    frequency: Tensor
    phase: Tensor
    turn: Tensor
    table: Tensor | None = None

    @classmethod
    def drawn(cls, points: Tensor, generator: torch.Generator) -> "_Basis":
        """A basis for points (Q, I)."""
        frequency = torch.randn(points.shape[1], RAW, generator=generator, device=points.device) / SMOOTH
        phase = 2 * torch.pi * torch.rand(RAW, generator=generator, device=points.device)
        raw = cls(frequency, phase, torch.eye(RAW + 1, device=points.device))
        _, size, turn = torch.linalg.svd(
            raw(points[torch.arange(0, len(points), max(1, len(points) // 4000))]).double()
        )
        basis = cls(frequency, phase, turn[size > KEPT * size[0]].T.float())
        if points.shape[1] > 1:
            return basis
        values = basis(EDGE * torch.linspace(-1, 1, KNOTS + 1, device=points.device).unsqueeze(1))
        return replace(basis, table=torch.stack((values[:-1], values.diff(dim=0))))

    def __call__(self, x: Tensor) -> Tensor:
        """Features (..., D) of (..., I)."""
        if self.table is not None:  # between knots, in a tenth of the time of cosines
            place = (x[..., 0] / EDGE + 1).clamp(0, 2) * (KNOTS / 2)
            knot = place.detach().long().clamp_max(KNOTS - 1)
            return torch.addcmul(self.table[0][knot], (place - knot).unsqueeze(-1), self.table[1][knot])
        waves = torch.cos(x @ self.frequency + self.phase) * (2 / RAW) ** 0.5
        return torch.cat((waves, torch.full_like(x[..., :1], 0.5**0.5)), -1) @ self.turn


def _free(u: Tensor, y: Tensor, length: float, noise: float) -> Tensor:
    """Negative log evidence (Q,), nats, that values (Q, P, I) are smooth functions of u (Q, P, I)."""
    apart = (u.unsqueeze(-2) - u.unsqueeze(-3)).square().sum(-1)
    same = noise**2 * torch.eye(u.shape[-2], device=u.device)
    root, failed = torch.linalg.cholesky_ex(0.5 * torch.exp(-0.5 * apart / length**2) + 0.5 + same)
    solved = torch.linalg.solve_triangular(root, y, upper=False)
    energy = 0.5 * solved.square().sum((-1, -2)) + y.shape[-1] * root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return torch.where(failed > 0, torch.inf, energy)


@dataclass
class _Chains:
    """Tasks, and what their modules are made of.

    Attributes:
        basis: features.
        x: points (B, P, I).
        y: values (B, P, I).
        slots: S.
        modules: K.
        generator: of draws.
    """

    basis: _Basis
    x: Tensor
    y: Tensor
    slots: int
    modules: int
    generator: torch.Generator

    @property
    def length(self) -> float:
        """Over which what follows the first module varies."""
        return SMOOTH / (self.slots - 1)

    # ---- peel ------------------------------------------------------------------------------------------------------

    def peeled(self) -> Tensor:
        """A pool of modules (N, D, I) for the first slot."""
        features, n = self.basis(self.x), round(MORE * self.modules)
        b, p, d = features.shape
        size = (n, d, self.y.shape[2])
        weights = torch.randn(size, generator=self.generator, device=self.x.device).requires_grad_()
        optimizer = torch.optim.Adam([weights], lr=RATE)
        for step in range(PEEL):
            done = step / PEEL
            noise = NOISE * (EXACT / NOISE) ** min(1, done / 0.7)
            temperature = HOT ** (1 - min(1, done / WARM_UNTIL)) if done < COLD_FROM else 1e-3
            optimizer.param_groups[0]["lr"] = RATE * min(1, 2 * (1 - done))
            tasks = torch.randint(b, (TASKS,), generator=self.generator, device=self.x.device)
            points = torch.randperm(p, generator=self.generator, device=self.x.device)[:POINTS]
            some, y = features[tasks][:, points], self.y[tasks][:, points]
            energies = self.first(some, y, weights, noise)
            pick = torch.multinomial((-energies / temperature).softmax(-1), 1, generator=self.generator)[:, 0]
            with torch.enable_grad():
                u = torch.einsum("bpd,bdi->bpi", some, weights[pick])
                prior = weights.square().sum() / (2 * b)
                loss = (_free(u, y, self.length, noise).mean() + prior) / len(points)
            (weights.grad,) = torch.autograd.grad(loss, [weights])
            optimizer.step()
        return weights.detach()

    def first(self, features: Tensor, y: Tensor, weights: Tensor, noise: float) -> Tensor:
        """Energies (B, N) of modules of the first slot, the rest free."""
        u = torch.einsum("bpd,ndi->bnpi", features, weights)
        each = y.unsqueeze(1).expand(-1, len(weights), -1, -1)
        return _free(u.flatten(0, 1), each.flatten(0, 1), self.length, noise).unflatten(0, u.shape[:2])

    # ---- fit -------------------------------------------------------------------------------------------------------

    def fitted(self, pool: Tensor) -> Tensor:
        """Modules (N, D, I) of the pool that explain whole chains, with signs and the scale of values."""
        every = self.basis(self.x[:, :POINTS])
        values = torch.einsum("bpd,ndi->nbpi", every, pool).flatten(1, 2)
        low, high = values.amin(1), values.amax(1)
        middle = self.y.flatten(0, 1)
        bottom, top = middle.amin(0), middle.amax(0)
        scale = (top - bottom) / (high - low).clamp_min(1e-6)
        one = torch.linalg.lstsq(every.flatten(0, 1), torch.ones_like(every[..., :1].flatten(0, 1))).solution  # (D, 1)
        pool = pool * scale.unsqueeze(1) + one * (bottom - low * scale).unsqueeze(1)
        signed = torch.stack((pool, one * (top + bottom) - pool), 1)  # (N, 2, D, I)
        parts = [self.explained(ids, signed) for ids in torch.arange(len(self.x), device=self.x.device).split(20)]
        rows, flips, energies = (torch.cat(part) for part in zip(*parts, strict=True))
        sign = self.signs(rows, flips, energies, len(pool))
        fits = (flips == sign[rows]).all(-1)
        left, best = torch.where(fits, energies, torch.inf).min(1)
        used = torch.zeros(len(pool), device=pool.device)
        good = left < 0
        for slot in range(self.slots):
            used += torch.bincount(rows[good, best[good], slot], minlength=len(pool))
        chosen = signed[torch.arange(len(pool), device=pool.device), sign]
        return chosen[used.argsort(descending=True)[: self.modules + self.modules // 4]]

    def explained(self, tasks: Tensor, signed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The best chains (b, E, S) of a pool's modules, their signs, and energies (b, E), negative where explained."""
        x, y, n = self.x[tasks][:, :POINTS], self.y[tasks][:, :POINTS], len(signed)
        b, numbers = len(x), y[0].numel()
        u, rows, flips = x.unsqueeze(1), x.new_zeros(b, 1, 0).long(), x.new_zeros(b, 1, 0).long()
        for slot in range(self.slots):
            e = u.shape[1]
            out = torch.einsum("bepd,nfdi->benfpi", self.basis(u), signed)
            if slot == self.slots - 1:
                squares = (out - y[:, None, None, None]).square().mean((-1, -2))
                energy = 0.5 * numbers * torch.log((squares + CLOSE**2) / LOOSE**2)
                kept, place = energy.flatten(1).topk(min(KNOWN, energy[0].numel()), largest=False)
            else:
                head = SMOOTH / (self.slots - 1 - slot)
                each = y[:, None, None].expand(-1, e, n, -1, -1)
                evidence = _free(out[:, :, :, 0].flatten(0, 2), each.flatten(0, 2), head, EXACT).view(b, -1)
                best = evidence.topk(min(FIRST if slot == 0 else NEXT, evidence.shape[1]), largest=False).indices
                place = (2 * best.unsqueeze(-1) + torch.arange(2, device=x.device)).flatten(1)
                kept = evidence.new_zeros(b, place.shape[1])
            before, module, flip = place // (2 * n), place // 2 % n, place % 2
            task = torch.arange(b, device=x.device).unsqueeze(1)
            u = out.flatten(1, 3)[task, place]
            rows = torch.cat((rows[task, before], module.unsqueeze(-1)), -1)
            flips = torch.cat((flips[task, before], flip.unsqueeze(-1)), -1)
        return rows, flips, kept

    def signs(self, rows: Tensor, flips: Tensor, energies: Tensor, n: int) -> Tensor:
        """Signs (N,) under which tasks are explained best: changes of one at a time from random ones."""

        def totals(sign: Tensor) -> Tensor:
            """Energies (C,) of choices of signs (C, N)."""
            fits = (flips == sign[:, rows]).all(-1)  # (C, B, E)
            return torch.where(fits, energies, 0.0).amin(-1).clamp_max(0).sum(-1)

        best, least = torch.zeros(n, dtype=torch.long, device=rows.device), torch.inf
        change = torch.eye(n, dtype=torch.long, device=rows.device)
        for _ in range(FLIPS):
            sign = torch.randint(2, (n,), generator=self.generator, device=rows.device)
            left = float(totals(sign.unsqueeze(0)))
            while True:
                changed = (sign + change) % 2  # (N, N): one sign each
                few = max(1, AT_ONCE // flips.numel())
                new, place = torch.cat([totals(some) for some in changed.split(few)]).min(0)
                if float(new) >= left:
                    break
                sign, left = changed[place], float(new)
            if left < least:
                best, least = sign, left
        return best

    # ---- grow ------------------------------------------------------------------------------------------------------

    def grown(self, weights: Tensor) -> Start:
        """Structures of all tasks, after rounds in which modules join, leave and descend, each on some of the tasks."""
        unit = float(self.y.square().mean())
        for number in range(ROUNDS):
            some = self.some(max(SCORED // len(weights) ** self.slots, LOOKED_AT))
            squares, rows = some.every(weights)
            if number > 1 and len(weights) <= self.modules and bool((squares.amin(1) < unit * DONE / 3).all()):
                break
            weights = weights[needed(squares, rows, self.modules, unit * DONE)]
            squares, rows = some.every(weights)
            if number < ROUNDS - 2:
                weights = some.joined(weights, squares.amin(1) > unit * DONE, unit * DONE)
                squares, rows = some.every(weights)
            weights = some.descended(weights, rows[squares.argmin(1)], unit)
        while len(weights) > self.modules:
            some = self.some(max(SCORED // len(weights) ** self.slots, LOOKED_AT))
            weights = weights[needed(*some.every(weights), self.modules, unit * DONE)]
        squares, rows = self.every(weights)
        best = squares.amin(1)
        structures = rows[squares.argmin(1)]
        inputs = [self.x]
        for slot in structures.T[:-1]:
            inputs.append(torch.einsum("bpd,bdi->bpi", self.basis(inputs[-1]), weights[slot]))
        every = torch.cat(inputs).flatten(0, 1)
        shown = every[torch.randperm(len(every), generator=self.generator, device=every.device)[:INPUTS]]
        values = torch.einsum("qd,kdi->kqi", self.basis(shown), weights)
        return Start(structures, float(best.sum() / self.y.square().mean((1, 2)).sum()), {"f": (shown, values)})

    def some(self, number: int) -> "_Chains":
        """Up to so many of the tasks, drawn."""
        if number >= len(self.x):
            return self
        tasks = torch.randperm(len(self.x), generator=self.generator, device=self.x.device)[:number]
        return replace(self, x=self.x[tasks], y=self.y[tasks])

    def every(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Mean squared errors (B, M) of all structures, and these, (M, S)."""
        n, found = len(weights), []
        points = slice(POINTS)
        few = max(1, AT_ONCE // (n**self.slots * POINTS))
        for x, y in zip(self.x.split(few), self.y.split(few), strict=True):
            u = x[:, points].unsqueeze(1)
            for _ in range(self.slots):
                u = torch.einsum("bmpd,ndi->bmnpi", self.basis(u), weights).flatten(1, 2)
            found.append((u - y[:, points].unsqueeze(1)).square().mean((-1, -2)))
        return torch.cat(found), every_row(n, self.slots, weights.device)

    def joined(self, weights: Tensor, unexplained: Tensor, enough: float) -> Tensor:
        """Modules, and new ones for the last slot of tasks that are not explained."""
        tasks = unexplained.nonzero()[:, 0]
        tasks = tasks[torch.randperm(len(tasks), generator=self.generator, device=tasks.device)[:LOOKED_AT]]
        if not len(tasks):
            return weights
        x, y = self.x[tasks], self.y[tasks]
        u = x.unsqueeze(1)
        for _ in range(self.slots - 1):
            u = torch.einsum("bmpd,ndi->bmnpi", self.basis(u), weights).flatten(1, 2)
        features = self.basis(u)  # (b, M, P, D)
        half, d = x.shape[1] * 3 // 4, features.shape[-1]
        train, test = features[:, :, :half], features[:, :, half:]
        gram = train.mT @ train + EXACT**2 * torch.eye(d, device=x.device)
        found = torch.linalg.solve(gram, train.mT @ y[:, None, :half])  # (b, M, D, I)
        errors = (test @ found - y[:, None, half:]).square().mean((-1, -2))
        task, chain = (errors < enough).nonzero(as_tuple=True)  # E chains that some last module explains
        if not len(task):
            return weights
        tried = torch.randperm(len(task), generator=self.generator, device=task.device)[:TRIED]
        new = found[task[tried], chain[tried]]  # (C, D, I)
        last = errors.new_full((len(tasks), len(new)), torch.inf)
        for entries in torch.arange(len(task), device=task.device).split(max(1, AT_ONCE // (len(new) * x.shape[1]))):
            of = task[entries]
            out = torch.einsum("epd,cdi->ecpi", features[of, chain[entries]], new)
            squares = (out - y[of].unsqueeze(1)).square().mean((-1, -2))
            last = last.scatter_reduce(0, of.unsqueeze(1).expand_as(squares), squares, "amin")
        good = (last < enough).T  # (C, b)
        added: list[int] = []
        while len(added) < max(2, self.modules // 4):
            gains = good.sum(1)
            best = int(gains.argmax())
            if gains[best] < 2:
                break
            added.append(best)
            good = good & ~good[best]
        return torch.cat((weights, new[added]))

    def descended(self, weights: Tensor, structures: Tensor, unit: float) -> Tensor:
        """Modules after some steps under structures (B, S)."""
        weights = weights.clone().requires_grad_()
        optimizer = torch.optim.Adam([weights], lr=FAST)
        for step in range(DESCENT):
            optimizer.param_groups[0]["lr"] = FAST * (1 - step / DESCENT)
            tasks = torch.randint(len(self.x), (2 * TASKS,), generator=self.generator, device=self.x.device)
            with torch.enable_grad():
                u = self.x[tasks]
                for slot in structures[tasks].T:
                    u = torch.einsum("bpd,bdi->bpi", self.basis(u), weights[slot])
                loss = torch.log((u - self.y[tasks]).square().mean((-1, -2)) + 1e-4 * unit).mean()
            (weights.grad,) = torch.autograd.grad(loss, [weights])
            optimizer.step()
        return weights.detach()
