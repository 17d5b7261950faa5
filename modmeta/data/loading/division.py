"""Training, validation and test tasks of a file that does not name them."""

from dataclasses import replace

import numpy as np

from modmeta.data.describe import check_moving
from modmeta.data.trajectories import Trajectories
from modmeta.data.transforms.gaps import check_steps
from modmeta.data.transforms.windows import automatic_length, windows
from modmeta.errors import DataError

SPLITS = ("train", "valid", "test")
AUTO = "auto"  # windows of few long recordings
LEAST_FRAMES = 3  # of tasks to train on
MANY_GROUPS = 10  # of which whole groups are held out


def divided(
    path: str,
    splits: dict[str, Trajectories],
    valid_share: float,
    test_share: float,
    seed: int,
    window: int | str | None = AUTO,
) -> dict[str, Trajectories]:
    """Training, validation and test tasks of the splits of a file; see `tasks_of`."""
    for name, data in splits.items():
        if data.num_frames < LEAST_FRAMES:
            raise DataError(
                f"{path}, split {name}: {data.num_frames} frames a task; training needs {LEAST_FRAMES} or more"
            )
        check_moving(data, f"{path}, split {name}")
        check_steps(data, f"{path}, split {name}")
    length = window_of(path, splits, window)
    if length is not None:
        splits = {name: windows(_apart(splits, name), length, f"{path}, split {name}") for name in splits}
    others = {name: data for name, data in splits.items() if name != "train" and len(splits) > 1}
    if others and "train" not in splits:
        raise DataError(f"{path} has splits {sorted(splits)} but no 'train'; give train, valid and test, or one split")
    shares = {"valid": valid_share, "test": test_share}
    drawn = {name: share for name, share in shares.items() if name not in others}
    train = splits["train"] if others else next(iter(splits.values()))
    parts = _drawn(path, train, drawn, seed, length is not None) if drawn else {"train": train}
    if others and drawn:
        told = ", ".join(f"{parts[name].num_tasks} for {name}" for name in drawn)
        note = f"tasks drawn from 'train': {told}"
        parts = {name: replace(part, notes=(*part.notes, note)) for name, part in parts.items()}
    return {name: {**others, **parts}[name] for name in SPLITS}


def window_of(path: str, splits: dict[str, Trajectories], window: int | str | None) -> int | None:
    """Frames of the windows that a setting of `data.window` gives; None for none.

    Raises:
        DataError: it is neither a number, null nor `auto`.
    """
    if window == AUTO:
        return automatic_length(next(iter(splits.values()))) if len(splits) == 1 else None
    if window is not None and (isinstance(window, bool) or not isinstance(window, int)):
        raise DataError(f"{path}: data.window={window!r} must be a number of frames, {AUTO}, or null")
    return window


def _apart(splits: dict[str, Trajectories], name: str) -> Trajectories:
    """A split whose tasks have groups: of several splits without groups, tasks of equal names are different ones."""
    data = splits[name]
    if data.group_names is not None or len(splits) == 1:
        return data
    names = np.arange(data.num_tasks) if data.task_names is None else data.task_names
    return replace(data, group_names=np.char.add(f"{name}:", names.astype(str)))


def _drawn(
    path: str, data: Trajectories, shares: dict[str, float], seed: int, windowed: bool = False
) -> dict[str, Trajectories]:
    """Draws splits at random, `shares` of the tasks, and `train` is what is left.

    The assignment of tasks depends on their number, their groups, the shares and the seed alone.

    Without groups single tasks are drawn. Of 10 groups or more whole groups are drawn, so that structures which were
    never trained on are judged. Of fewer groups every one gives tasks to all splits. Of windows these are two
    contiguous blocks at random places of the group, one for validation and one for test, because neighbouring windows
    resemble each other.
    """
    if (groups := data.group_names) is not None:
        number = _drawn_by_group(path, groups, shares, seed, windowed)
        return {name: data[np.flatnonzero(number == SPLITS.index(name))] for name in ("train", *shares)}
    total = data.num_tasks
    valid, test = _held_out(total, shares)
    if total - valid - test < 1:
        raise DataError(
            f"{path}: {total} tasks, but at least {1 + len(shares)} are needed, for training, {' and '.join(shares)}; "
            "cut long trajectories into windows, data.window=N"
        )
    order = np.random.default_rng(seed).permutation(total)
    parts = {"valid": order[:valid], "test": order[valid : valid + test], "train": order[valid + test :]}
    return {name: data[np.sort(parts[name])] for name in ("train", *shares)}


def _held_out(total: int, shares: dict[str, float]) -> tuple[int, int]:
    """Numbers of tasks drawn for validation and test, at least one of each share."""
    valid, test = (max(round(shares[name] * total), 1) if name in shares else 0 for name in ("valid", "test"))
    return valid, test


def _drawn_by_group(path: str, groups: np.ndarray, shares: dict[str, float], seed: int, windowed: bool) -> np.ndarray:
    """Number of the split of every task, in the order of `SPLITS`, from the names of their groups, (tasks,)."""

    remedy = "shorter windows, or data.window=null" if windowed else "windows of long tasks, data.window=N"

    def numbers(total: int, what: str) -> np.ndarray:
        valid, test = _held_out(total, shares)
        if total - valid - test < 1:
            given = " and ".join(f"data.{name}_share={share}" for name, share in shares.items())
            raise DataError(
                f"{path}: {what}, too few for training, validation and test with {given}; choose {remedy}, or smaller "
                "shares, or leave out the group"
            )
        return np.repeat([0, 1, 2], [total - valid - test, valid, test])

    names, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    generator = np.random.default_rng(seed)
    if len(names) >= MANY_GROUPS:
        return np.asarray(generator.permutation(numbers(len(names), f"{len(names)} groups"))[group])
    split = np.empty(len(groups), np.int64)
    for one, name in enumerate(names):
        drawn = numbers(int(sizes[one]), f"group {name} has {sizes[one]} tasks")
        split[group == one] = _blocks(drawn, generator) if windowed else generator.permutation(drawn)
    return split


def _blocks(drawn: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """The splits `drawn` in another order: validation (1) and test (2) are blocks at random places among training."""
    blocks = [drawn[drawn == split] for split in generator.permutation([1, 2])]
    train = drawn[drawn == 0]
    first, second = np.sort(generator.integers(len(train) + 1, size=2))
    return np.concatenate((train[:first], blocks[0], train[first:second], blocks[1], train[second:]))
