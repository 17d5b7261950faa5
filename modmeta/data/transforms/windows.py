"""Windows of long recordings: tasks of equal length that share a group, because their relations are the same."""

from dataclasses import replace

import numpy as np

from modmeta.data.trajectories import Trajectories
from modmeta.data.transforms.gaps import check_steps, steps_seen
from modmeta.errors import DataError

MANY_TASKS = 10  # that are trained on as they are
SHORTEST, LONGEST = 10, 50  # frames of windows whose length was not given
LONG = 60  # frames of a recording that is cut without being asked to
WINDOWS = 20  # that a file should give


def windows(data: Trajectories, length: int, where: str = "windows") -> Trajectories:
    """Cuts every task into windows of `length` frames, named `TASK:FIRSTFRAME`.

    A window begins with the last frame of the one before, so every step between two frames lies in exactly one window.
    Windows have equal lengths; up to `length` - 2 frames at the end of a task are left out. A window is kept if two
    entities or more were seen at both frames of a step; it has all entities of its task, seen or not. The windows of a
    task share a group: its own, or one named after the task.

    Args:
        data: tasks of T frames.
        length: frames of a window, from 3 to T.
        where: the file, for error messages.

    Raises:
        DataError: the length does not fit, or a task has no window.
    """
    b, t = data.num_tasks, data.num_frames
    if not 3 <= length <= t:
        raise DataError(f"{where}: windows of {length} frames; choose 3 to {t}, the number of frames")
    stride, count = length - 1, (t - 1) // (length - 1)
    steps = np.ones((b, t - 1), bool) if data.mask is None else steps_seen(data.mask)
    kept = np.asarray(steps[:, : count * stride].reshape(b, count, stride).any(axis=2))
    check_steps(replace(data, group_names=None), where)
    if not kept.any(axis=1).all():
        name = data.task_name(int((~kept.any(axis=1)).argmax()))
        raise DataError(
            f"{where}: task {name} has no window that sees two of its entities in two frames in a row; choose other "
            "windows, interpolate with resample, or remove the task"
        )
    task, number = np.nonzero(kept)
    names = np.arange(b) if data.task_names is None else data.task_names
    firsts = (number * stride).astype(str)
    return replace(
        data[task],
        states=_cut(data.states, length)[task, number],
        mask=None if data.mask is None else _cut(data.mask[..., None], length)[task, number, ..., 0],
        task_names=np.char.add(np.char.add(names[task].astype(str), ":"), firsts),
        group_names=(names if data.group_names is None else data.group_names)[task],
        members=None if data.mask is None else data.there[task],
    )


def _cut(values: np.ndarray, length: int) -> np.ndarray:
    """A view of (B, N, T, D) as windows, (B, W, N, L, D)."""
    views = np.lib.stride_tricks.sliding_window_view(values, length, axis=2)[:, :, :: length - 1]  # (B, N, W, D, L)
    return views.transpose(0, 2, 1, 4, 3)


def automatic_length(data: Trajectories) -> int | None:
    """Frames of a window for training, such that there are about 20 windows, within 10 to 50 frames.

    None, for no windows, where there are at least 10 tasks, or a task has fewer than 60 frames.
    """
    frames = data.num_frames
    if data.mask is not None:
        seen = np.asarray(data.mask.any(axis=1))[:, ::-1]
        frames -= int(seen.argmax(axis=1).max())  # of the shortest task, up to its last observed one
    if data.num_tasks >= MANY_TASKS or frames < LONG:
        return None
    of_task = -(-WINDOWS // data.num_tasks)
    return min(max((frames - 1) // of_task + 1, SHORTEST), LONGEST)
