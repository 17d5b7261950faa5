"""Tasks of few-shot regression: functions made of hidden ones, as in Alet et al. 2018, and the sines of MAML.

A hidden function of one variable is a sum of two sines, scaled to the range from -1 to 1 (x from -1 to 1, too, so that
functions can be chained). A task is made of some of them, by its *slots*.

Letters: B tasks, P points, S slots, K hidden functions, I inputs, O outputs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from modmeta.errors import DataError

WAVES = 2  # sines of which a hidden function is the sum
SLOWEST, FASTEST = 1.0, 4.0  # of their angular frequencies
ENTITIES = 3  # of a graph
GRID = 1001  # points on which the range of a hidden function is found


class FunctionTasks(NamedTuple):
    """B tasks.

    Attributes:
        x: inputs (B, P, I) float32.
        y: outputs (B, P, O) float32.
        slots: hidden function of every slot, (B, S) int64; no columns where there are none.
    """

    x: np.ndarray
    y: np.ndarray
    slots: np.ndarray


@dataclass(frozen=True)
class HiddenFunctions:
    """Tasks that combine `slots` of `functions` hidden functions.

    Attributes:
        how: `sum`, `chain` (each of the value of the one before), `concatenate` (two values u, v and a head
            sin(2 u) + u v), `attend` (two functions, weighed by the softmax of two others), `field` (a sum, of
            functions of two variables) or `graph` (x are the states of ENTITIES entities, and y these with a
            function of receiver and sender added for every edge, receiver by receiver).
        functions: K.
        slots: S.
        unseen: share of combinations that training and validation tasks never have.
        noise: standard deviation of noise on y.
    """

    how: str = "sum"
    functions: int = 20
    slots: int = 2
    unseen: float = 0.2
    noise: float = 0.0

    def __post_init__(self) -> None:
        """
        Raises:
            DataError: a setting is invalid.
        """
        if self.how not in JOINED:
            raise DataError(f"data.world.how={self.how!r} is unknown; choose one of {', '.join(JOINED)}")
        needed = {"concatenate": 2, "attend": 4, "graph": ENTITIES * (ENTITIES - 1)}.get(self.how, self.slots)
        if self.slots != needed or self.slots < 1:
            raise DataError(f"data.world.slots={self.slots} must be {max(needed, 1)} for how={self.how}")
        if self.functions < 1 or not 0 <= self.unseen < 1 or not 0 <= self.noise < float("inf"):
            raise DataError(
                f"data.world.functions={self.functions} must be at least 1, unseen={self.unseen} at least 0 and below "
                f"1, and noise={self.noise} not negative"
            )

    @property
    def inputs(self) -> int:
        """I."""
        return {"field": 2, "graph": ENTITIES}.get(self.how, 1)

    @property
    def outputs(self) -> int:
        """O."""
        return ENTITIES if self.how == "graph" else 1

    def draw(self, tasks: int, points: int, seed: int, split: str, unseen: bool = False) -> FunctionTasks:
        """Draws tasks. The hidden functions, and which combinations are held out, depend on the seed alone.

        Args:
            tasks: B.
            points: P.
            seed: of the world.
            split: name of the split, which has draws of its own.
            unseen: whether combinations are held-out ones, or all others.

        Raises:
            DataError: no combination is left to hold out.
        """
        rng = _stream(seed, split)
        slots = self._combinations(tasks, seed, rng, unseen)
        x = rng.uniform(-1, 1, (tasks, points, self.inputs))
        y = self.values(slots, x, seed)
        y = y + self.noise * rng.standard_normal(y.shape)
        return FunctionTasks(x.astype(np.float32), y.astype(np.float32), slots)

    def values(self, slots: np.ndarray, x: np.ndarray, seed: int) -> np.ndarray:
        """Values (B, P, O), without noise, of combinations (B, S) at points (B, P, I)."""
        hidden = _hidden(self.functions, 2 if self.how in ("field", "graph") else 1, seed)
        values: np.ndarray = JOINED[self.how](hidden, slots, x)
        return values

    def _combinations(self, tasks: int, seed: int, rng: np.random.Generator, unseen: bool) -> np.ndarray:
        if unseen and not self.unseen:
            raise DataError("data.world.unseen=0 holds out no combinations; set it above 0")
        found = np.empty((0, self.slots), dtype=np.int64)
        for _ in range(1000):
            drawn = rng.integers(self.functions, size=(4 * tasks + 16, self.slots))
            found = np.concatenate((found, drawn[self._held_out(drawn, seed) == unseen]))
            if len(found) >= tasks:
                return found[:tasks]
        raise DataError(
            f"data.world.unseen={self.unseen} of the combinations of {self.functions} functions leaves "
            f"{'none held out' if unseen else 'none'}; choose another share, or more functions"
        )

    def alike(self, slots: np.ndarray) -> np.ndarray:
        """One and the same combination for all (B, S) that are the same function; (B, S), or both pairs of `attend`."""
        if self.how in ("sum", "field"):
            return np.sort(slots, 1)
        if self.how != "attend":
            return slots
        values, scores = slots[:, :2], slots[:, 2:]  # pairs of a function and its weight may change places
        moot = (values[:, :1] == values[:, 1:]) | (scores[:, :1] == scores[:, 1:])  # weights do not matter
        pairs = np.stack((values, np.where(moot, 0, scores)), 2)
        order = np.lexsort((pairs[..., 1], pairs[..., 0]), axis=1)
        return np.take_along_axis(pairs, order[..., None], 1).reshape(len(slots), -1)

    def _held_out(self, slots: np.ndarray, seed: int) -> np.ndarray:
        """Whether combinations (B, S) are held out, (B,): by a hash of what makes them different."""
        alike = self.alike(slots)
        number = alike @ (self.functions ** np.arange(alike.shape[1]))
        share = np.empty(len(slots))
        for value in np.unique(number):
            share[number == value] = np.random.default_rng((seed, int(value), 1)).random()
        return share < self.unseen


def _stream(seed: int, split: str) -> np.random.Generator:
    key = int.from_bytes(split.encode()[:8], "big")
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(key,)))


Hidden = Callable[[np.ndarray, np.ndarray], np.ndarray]  # functions (B,) of inputs (B, P, I), to (B, P, 1)


def _hidden(functions: int, inputs: int, seed: int) -> Hidden:
    """The hidden functions of a seed."""
    rng = np.random.default_rng((seed, 0))
    size = (functions, WAVES)
    speed = rng.uniform(SLOWEST, FASTEST, (*size, inputs)) * rng.choice((-1, 1), (*size, inputs))
    phase, height = rng.uniform(0, 2 * np.pi, size), rng.standard_normal(size)
    axis = np.linspace(-1, 1, GRID if inputs == 1 else 101)
    grid = np.stack(np.meshgrid(*[axis] * inputs, indexing="ij"), -1).reshape(1, -1, inputs)

    def raw(which: np.ndarray, x: np.ndarray) -> np.ndarray:
        waves = np.sin(np.einsum("bpi,bwi->bwp", x, speed[which]) + phase[which, :, None])
        return np.einsum("bw,bwp->bp", height[which], waves)

    every = raw(np.arange(functions), np.repeat(grid, functions, 0))
    low, high = every.min(1), every.max(1)
    return lambda which, x: (2 * (raw(which, x) - low[which, None]) / (high - low)[which, None] - 1)[..., None]


def _sum(hidden: Hidden, slots: np.ndarray, x: np.ndarray) -> np.ndarray:
    return np.sum([hidden(which, x) for which in slots.T], 0)


def _chain(hidden: Hidden, slots: np.ndarray, x: np.ndarray) -> np.ndarray:
    for which in slots.T:
        x = hidden(which, x)
    return x


def _concatenate(hidden: Hidden, slots: np.ndarray, x: np.ndarray) -> np.ndarray:
    u, v = (hidden(which, x) for which in slots.T)
    return np.sin(2 * u) + u * v


def _attend(hidden: Hidden, slots: np.ndarray, x: np.ndarray) -> np.ndarray:
    first, second, one, two = (hidden(which, x) for which in slots.T)
    weight = 1 / (1 + np.exp(3 * (two - one)))
    return weight * first + (1 - weight) * second


def _graph(hidden: Hidden, slots: np.ndarray, x: np.ndarray) -> np.ndarray:
    receiver, sender = np.nonzero(~np.eye(ENTITIES, dtype=bool))
    pairs = np.stack((x[..., receiver], x[..., sender]), -1)  # (B, P, S, 2)
    each = [hidden(which, pairs[:, :, edge]) for edge, which in enumerate(slots.T)]
    return x + np.concatenate(each, -1).reshape(*x.shape, -1).sum(-1)


JOINED = {
    "sum": _sum, "chain": _chain, "concatenate": _concatenate, "attend": _attend, "field": _sum, "graph": _graph,
}  # fmt: skip


@dataclass(frozen=True)
class Sines:
    """y = a sin(x - p), amplitude a from 0.1 to 5, phase p from 0 to pi, x from -5 to 5 (Finn et al. 2017)."""

    slots: int = 0
    unseen: float = 0.0

    @property
    def inputs(self) -> int:
        """One."""
        return 1

    outputs = inputs

    def draw(self, tasks: int, points: int, seed: int, split: str, unseen: bool = False) -> FunctionTasks:
        """Draws tasks; see `HiddenFunctions.draw`."""
        rng = _stream(seed, split)
        amplitude, phase = rng.uniform(0.1, 5, (tasks, 1)), rng.uniform(0, np.pi, (tasks, 1))
        x = rng.uniform(-5, 5, (tasks, points))
        y = amplitude * np.sin(x - phase)
        none = np.empty((tasks, 0), dtype=np.int64)
        return FunctionTasks(x[..., None].astype(np.float32), y[..., None].astype(np.float32), none)


FunctionWorld = HiddenFunctions | Sines
