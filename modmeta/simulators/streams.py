"""Random number generators of simulated tasks."""

from collections.abc import Callable

import numpy as np

from modmeta.errors import DataError

Rng = np.random.Generator | np.random.RandomState


def open_stream(stream: str, seed: int) -> Callable[[str, int], Rng]:
    """Returns a function from split and task index to the generator of the task. Call it in the order of tasks.

    Args:
        stream: `task` gives every task its own generator, seeded by seed, split and index alone, so that a task does
            not depend on the number of tasks, splits or threads. `nri` shares one legacy NumPy generator, as published.
        seed: non-negative integer, below 2**32 for `nri`.

    Raises:
        DataError: the stream is unknown or the seed is invalid.
    """
    if stream not in ("task", "nri"):
        raise DataError(f"stream={stream!r} is unknown; choose 'task' or 'nri'")
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise DataError(f"seed={seed!r} must be a non-negative integer")
    if stream == "task":
        return lambda split, index: np.random.Generator(np.random.PCG64(_task_seed(int(seed), split, index)))
    if seed >= 2**32:
        raise DataError(f"seed={seed} is too large for stream 'nri'; choose one below 2**32")
    shared = np.random.RandomState(int(seed))
    return lambda split, index: shared


def _task_seed(seed: int, split: str, index: int) -> np.random.SeedSequence:
    # Seeded by the name of the split, not its index: a test set generated alone must differ from the training set.
    return np.random.SeedSequence(seed, spawn_key=(int.from_bytes(split.encode(), "little"), index))
