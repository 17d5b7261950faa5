"""Where the random numbers of a simulated task come from."""

from collections.abc import Callable

import numpy as np

from modmeta.errors import DataError

Rng = np.random.Generator | np.random.RandomState


def open_stream(stream: str, seed: int) -> Callable[[str, int], Rng]:
    """The generator of every task, by split and index, to be asked in the order of the tasks.

    With `task`, every task has its own: it depends on seed, split and index alone, so a task stays the same whatever
    the number of tasks, splits or threads. With `nri`, all tasks share one: NumPy's legacy stream, as published.

    Raises:
        DataError: the stream is unknown or the seed does not fit it.
    """
    if stream not in ("task", "nri"):
        raise DataError(f"stream={stream!r} is unknown; choose 'task' or 'nri'")
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise DataError(f"seed={seed!r} is not an integer from 0")
    if stream == "task":
        return lambda split, index: np.random.Generator(np.random.PCG64(_task_seed(int(seed), split, index)))
    if seed >= 2**32:
        raise DataError(f"seed={seed} is too large for stream 'nri'; choose one below 2**32")
    shared = np.random.RandomState(int(seed))
    return lambda split, index: shared


def _task_seed(seed: int, split: str, index: int) -> np.random.SeedSequence:
    # The split enters by its name, not its place, so that a test set made alone is not the training set.
    return np.random.SeedSequence(seed, spawn_key=(int.from_bytes(split.encode(), "little"), index))
