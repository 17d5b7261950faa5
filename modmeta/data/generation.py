"""Generates simulated trajectories, with one or several numbers of entities."""

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from modmeta.data.trajectories import Trajectories
from modmeta.errors import DataError
from modmeta.machine import available_memory
from modmeta.simulators import Rng, World, open_stream

BLOCK = 256  # tasks simulated together: enough to amortise the cost of a call, few enough for the cache


def generate(
    world: World,
    counts: Mapping[str, tuple[int, int]],
    *,
    seed: int = 0,
    stream: str = "task",
    threads: int | None = None,
    progress: bool = True,
) -> dict[str, Trajectories]:
    """Simulates the tasks of every split. Memory beyond the result does not depend on the number of tasks.

    Args:
        world: the world to simulate.
        counts: number of tasks and frames of every split, as {"train": (50000, 49), ...}.
        seed: seed of the random numbers.
        stream: `task` gives every task its own generator; `nri` uses one legacy stream for all splits in the order of
            `counts`, as published (seed 42 and splits train, valid, test give the published data).
        threads: number of threads; None for all processors available to this process.
        progress: whether to show a progress bar on a terminal.

    Returns:
        Trajectories of every split, float64. Their settings are those of the world, `edge_values`, seed and stream.

    Raises:
        DataError: a count or the seed is invalid, the world does not support the stream, memory does not suffice, or
            the simulation diverged because the time step is too long.
    """
    _check_counts(counts)
    if threads is not None and threads < 1:
        raise DataError(f"threads={threads} must be at least 1")
    generator_of = open_stream(stream, seed)
    if stream not in world.streams:
        raise DataError(f"world {world.name} has no stream {stream!r}; choose {' or '.join(map(repr, world.streams))}")
    total = sum(count for count, _ in counts.values())
    n, d = world.num_entities, len(world.features)
    need, free = sum(8 * count * n * (frames * d + n) for count, frames in counts.values()), available_memory()
    if need > free:
        raise DataError(
            f"{total} tasks of {n} entities need {need / 1e9:,.1f} GB of memory, but {free / 1e9:,.1f} GB are free; "
            "simulate fewer tasks, frames or entities"
        )
    settings = {**world.settings(), "edge_values": list(world.edge_values), "seed": int(seed), "stream": stream}
    splits: dict[str, Trajectories] = {}
    with _Bar(f"simulating {world.name}", total, progress) as advance:
        for split, (count, frames) in counts.items():
            n = world.num_entities
            states, relations = np.empty((count, n, frames, len(world.features))), np.empty((count, n, n), np.int64)
            types = np.empty((count, n), np.int64) if world.num_types > 1 else None
            done = _simulate(world, split, generator_of, stream == "nri", states, relations, types, threads)
            for block in done:
                advance(block)
            splits[split] = Trajectories(states, relations, world.features, world.frame_step, settings, types=types)
    return splits


def _check_counts(counts: Mapping[str, tuple[int, int]]) -> None:
    if not counts:
        raise DataError("no split to generate; give at least one, such as {'train': (500, 49)}")
    for split, sizes in counts.items():
        for what, number in zip(("tasks", "frames"), sizes, strict=True):
            if isinstance(number, bool) or not isinstance(number, int | np.integer) or number < 1:
                raise DataError(f"split {split}: number of {what} is {number!r}; it must be a positive integer")


def _simulate(
    world: World,
    split: str,
    generator_of: Callable[[str, int], Rng],
    published: bool,
    states: np.ndarray,
    relations: np.ndarray,
    types: np.ndarray | None,
    threads: int | None,
) -> Iterator[int]:
    """Fills states, relations and types block by block; yields the number of tasks of each finished block.

    Random numbers are drawn in this thread, in the order of tasks, as a shared stream requires; other threads
    integrate. The queue is bounded to limit memory.
    """
    count, _, frames, _ = states.shape
    threads = threads or available_processors()

    def integrate(start: int, draws: list[dict[str, np.ndarray]]) -> int:
        stop = start + len(draws)
        stacked = {name: np.stack([draw[name] for draw in draws]) for name in draws[0]}
        states[start:stop], relations[start:stop] = world.integrate(stacked, frames)
        if types is not None:
            types[start:stop] = world.types(stacked)
        return len(draws)

    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[int]] = deque()
        try:
            for start in range(0, count, BLOCK):
                tasks = range(start, min(start + BLOCK, count))
                draws = [world.draw(generator_of(split, task), frames, published) for task in tasks]
                waiting.append(pool.submit(integrate, start, draws))
                while len(waiting) > 2 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)  # do not wait for the remaining blocks after an error or Ctrl-C


def generate_sizes(
    world: World, sizes: Sequence[int], counts: Mapping[str, tuple[int, int]], seed: int, stream: str
) -> dict[str, Trajectories]:
    """Simulates tasks of several numbers of entities, interleaved, so that the first n tasks hold equal shares.

    Args:
        world: the world to simulate; its number of entities is replaced by each of `sizes`.
        sizes: numbers of entities. With a single size the result is that of `generate`.
        counts: number of tasks and frames of every split; at least one task per size.
        seed, stream: see `generate`.
    """
    if len(sizes) == 1:
        return generate(replace(world, num_entities=sizes[0]), counts, seed=seed, stream=stream)
    parts: dict[str, list[Trajectories]] = {split: [] for split in counts}
    for first, size in enumerate(sizes):
        # Splits are named after the size, so that tasks of different sizes do not share random numbers.
        shares = {f"{split}{size}": (len(range(first, b, len(sizes))), t) for split, (b, t) in counts.items()}
        made = generate(replace(world, num_entities=size), shares, seed=seed, stream=stream)
        for split, part in zip(counts, made.values(), strict=True):
            parts[split].append(part)
    return {split: interleaved(of_size) for split, of_size in parts.items()}


def interleaved(parts: Sequence[Trajectories]) -> Trajectories:
    """Interleaves the tasks of all parts. Tasks are padded to the largest number of entities; padding is masked."""
    first, b = parts[0], sum(part.num_tasks for part in parts)
    n = max(part.num_entities for part in parts)
    states, relations = np.zeros((b, n, *first.states.shape[2:])), np.zeros((b, n, n), np.int64)
    mask, types = np.zeros(states.shape[:3], bool), np.zeros((b, n), np.int64)
    for place, part in enumerate(parts):
        tasks, m = slice(place, None, len(parts)), part.num_entities
        assert part.relations is not None
        states[tasks, :m], mask[tasks, :m], relations[tasks, :m, :m] = part.states, True, part.relations
        if part.types is not None:
            types[tasks, :m] = part.types
    settings = first.settings | {"num_entities": [part.num_entities for part in parts]}
    return Trajectories(
        states, relations, first.features, first.frame_step, settings, mask,
        types=None if first.types is None else types,
    )  # fmt: skip


def available_processors() -> int:
    """Number of processors available to this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Bar:
    """Progress bar on standard error if it is a terminal; `__enter__` returns a function that advances it."""

    def __init__(self, description: str, total: int, shown: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.bar = Progress(*columns, console=console, transient=True, disable=not (shown and console.is_terminal))
        self.task = self.bar.add_task(description, total=total)

    def __enter__(self) -> Callable[[int], None]:
        self.bar.start()
        return lambda amount: self.bar.advance(self.task, amount)

    def __exit__(self, *exception: object) -> None:
        self.bar.stop()
