"""Missing frames and absent entities: states are filled by interpolation, and likelihoods know which are."""

from dataclasses import replace

import numpy as np

from modmeta.data.bounds import FREE, SPARSE
from modmeta.data.trajectories import Trajectories
from modmeta.errors import DataError
from modmeta.keys import BRIDGED, OBSERVED

SPLINE = 4  # frames needed for a cubic spline; fewer are interpolated linearly
RELIABLE = 0.01  # error of interpolation, in standard deviations of a feature, up to which single frames are bridged


def masked(data: Trajectories) -> Trajectories:
    """Masks states that are not finite, and fills them by interpolation."""
    seen = np.isfinite(data.states).all(axis=-1)
    if data.mask is not None:
        seen &= data.mask
    return data if seen.all() else replace(data, states=filled(data.states, seen), mask=seen)


def without_unseen(data: Trajectories) -> Trajectories:
    """Masks entities in frames without any value of them, and notes how many; absent ones are marked as such."""
    data = with_absent(data)
    if data.states.ndim != 4:
        return data  # validation reports the error
    mask = np.ones(data.states.shape[:3], bool) if data.mask is None else data.mask
    seen = mask & ~np.isnan(data.states).all(axis=-1)
    seen |= mask & ~seen.any(axis=2, keepdims=True)  # of tasks without any entity, which validation reports
    if (seen == mask).all():
        return data
    data = replace(data, notes=(*data.notes, unseen(1 - seen.sum() / mask.sum())))
    return replace(data, states=np.where(seen[..., None], data.states, filled(data.states, seen)), mask=seen)


def unseen(share: float) -> str:
    """A note on the share of states of entities that frames do not show."""
    return f"{share:.2%} of all states are of entities that a frame does not show; they are left out"


def with_absent(data: Trajectories) -> Trajectories:
    """Marks entities whose states are all NaN as absent from the task, by masking all their frames."""
    mask = np.ones(data.states.shape[:3], bool) if data.mask is None else data.mask
    if data.states.ndim != 4 or mask.shape != data.states.shape[:3] or mask.dtype != bool:
        return data  # validation reports the error
    absent = np.isnan(data.states).all(axis=(2, 3))
    absent &= ~absent.all(axis=1, keepdims=True)  # tasks without any entity are left for validation to report
    if not absent.any():
        return data
    return replace(data, states=np.where(absent[..., None, None], 0, data.states), mask=mask & ~absent[..., None])


def absent_last(data: Trajectories, frames: int | None = None) -> Trajectories:
    """Moves absent entities of every task behind the present ones, and sets their relations to 0.

    Args:
        data: trajectories with entities in any order.
        frames: entities never observed in the first `frames` frames are absent, where `members` does not say which;
            None for all frames.
    """
    if data.mask is None or data.mask.shape != data.states.shape[:3]:
        return data
    present = data.frames(frames).there if frames else data.there
    if present.all():
        return data
    b, n = present.shape
    order = np.argsort(~present, axis=1, kind="stable")  # (B, N)
    moved = (order != np.arange(n)).any()
    names = np.tile(np.arange(n), (b, 1)) if moved and data.entity_names is None else data.entity_names
    relations, rows = data.relations, np.arange(b)[:, None]
    if relations is not None and relations.shape == (b, n, n):
        relations = np.where(present[:, :, None] & present[:, None, :], relations, 0)
        relations = relations[rows[..., None], order[:, :, None], order[:, None, :]]
    if moved:
        types = data.types
        if types is not None and types.shape == (b, n):
            types = types[rows, order]
        members = data.members if data.members is None else data.members[rows, order]
        data = replace(data, states=data.states[rows, order], mask=data.mask[rows, order], types=types, members=members)
    return replace(data, relations=relations, entity_names=names if names is None else names[rows, order])


def filled(states: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Fills missing states by interpolation in time, constant beyond the first and last; 0 for absent entities.

    A single frame between two observed on either side is on the cubic through these; all others are linear.

    Args:
        states: (B, N, T, D).
        seen: whether an entity was observed, (B, N, T).

    Returns:
        (B, N, T, D).
    """
    states = np.where(seen[..., None], states, 0)
    for task, entity in np.argwhere(~seen.all(axis=-1) & seen.any(axis=-1)):  # a loop, because gaps are few
        observed = np.flatnonzero(seen[task, entity])
        missing = np.flatnonzero(~seen[task, entity])
        path = states[task, entity]
        for feature in range(path.shape[1]):
            path[missing, feature] = np.interp(missing, observed, path[observed, feature])
    task, entity, frame = np.nonzero(_single(seen))
    near = [states[task, entity, frame + k] for k in (-2, -1, 1, 2)]
    states[task, entity, frame] = (4 * (near[1] + near[2]) - near[0] - near[3]) / 6
    return states


def known_steps(data: Trajectories) -> np.ndarray | None:
    """How well every step of every entity is known, (B, N, T - 1) int8; None if present entities were always observed.

    Steps of absent entities count as observed: no batch has them.
    """
    if data.mask is None:
        return None
    seen = data.mask | ~data.there[..., None]
    if seen.all():
        return None
    known = seen | _single(seen) if _reliable(data.states, data.mask) else seen
    return np.where(_both(seen), OBSERVED, np.where(_both(known), BRIDGED, 0)).astype(np.int8)


def steps_seen(mask: np.ndarray) -> np.ndarray:
    """Whether two entities or more were observed at both frames of a step: mask (B, N, T) to (B, T - 1)."""
    return np.asarray(_both(mask).sum(axis=1) > 1)


def _both(seen: np.ndarray) -> np.ndarray:
    """Whether both frames of a step are seen: (B, N, T) to (B, N, T - 1)."""
    return np.asarray(seen[..., 1:] & seen[..., :-1])


def _single(seen: np.ndarray) -> np.ndarray:
    """Frames not seen between two that are on either side, (B, N, T)."""
    single = np.zeros_like(seen)
    if seen.shape[-1] > SPLINE:
        single[..., 2:-2] = ~seen[..., 2:-2] & seen[..., :-4] & seen[..., 1:-3] & seen[..., 3:-1] & seen[..., 4:]
    return single


def _reliable(states: np.ndarray, seen: np.ndarray) -> bool:
    """Whether seen frames are where the quadratic through the frame before and the two after has them."""
    four = seen[..., :-3] & seen[..., 1:-2] & seen[..., 2:-1] & seen[..., 3:]
    if states.shape[2] <= SPLINE or not four.any():
        return False
    error = np.median(np.abs(np.diff(states, 3, axis=2)[four]), axis=0) / 3  # few frames may be at a wall
    return bool((error <= RELIABLE * states[seen].std(axis=0)).all())


def check_steps(data: Trajectories, where: str) -> None:
    """Checks that every task, or one of every group, has a step at both frames of which two entities were seen.

    Raises:
        DataError: it has none, so that nothing could be told of its relations.
    """
    if data.mask is None:
        return
    some = steps_seen(data.mask).any(axis=1)
    told = np.bincount(data.group_index()[some], minlength=data.num_tasks) > 0
    if not (lost := ~told[data.group_index()]).any():
        return
    task = int(lost.argmax())
    shares = np.where(data.mask[task].any(axis=1), data.mask[task].mean(axis=1), np.inf)
    rare = int(shares.argmin())
    step = f"{data.frame_step:g}"
    raise DataError(
        f"{where}: task {data.task_name(task)} has no two frames in a row that see two of its entities; interpolate "
        f"gaps within recordings, --resample {step} --missing mask (resample={step}, missing=mask), "
        f"leave out entities that are rarely seen (entity {data.entity_name(task, rare)}: {shares[rare]:.0%} of its "
        "frames), or remove the task"
    )


def resampled(data: Trajectories, times: np.ndarray, step: float, where: str) -> Trajectories:
    """Interpolates trajectories to frames `step` apart, by cubic splines through the observed frames.

    Args:
        data: states (B, N, T, D).
        times: times of the frames of every task, (B, T), increasing; NaN beyond a task's last frame.
        step: time between frames of the result.
        where: the file, for error messages.

    Raises:
        DataError: the step is longer than a task, or so short that the result exceeds the size limit.
    """
    seen = np.ones(data.states.shape[:3], bool) if data.mask is None else data.mask
    last = np.nanmax(times, axis=1) - times[:, 0]
    most = max(FREE // 8, SPARSE * data.states.size) / (data.num_tasks * data.num_entities * data.num_features)
    if last.max() / step >= most:
        task = int(last.argmax())
        raise DataError(
            f"{where}: resample={step:g} makes {last[task] / step:.3g} frames of task {data.task_name(task)}, "
            f"of duration {last[task]:g}; choose a longer step, or correct its times"
        )
    counts = np.floor(last / step + 1e-6).astype(int) + 1
    if counts.min() < 2:
        task = int(counts.argmin())
        raise DataError(
            f"{where}: resample={step:g} leaves task {data.task_name(task)}, of duration {last[task]:g}, with a single "
            "frame; choose a shorter step"
        )
    shape = (*data.states.shape[:2], int(counts.max()), data.num_features)
    states, mask = np.zeros(shape), np.zeros(shape[:3], bool)
    for task, entity in np.argwhere(seen.any(axis=-1)):
        observed = seen[task, entity]
        t, x = times[task, observed], data.states[task, entity, observed]
        grid = times[task, 0] + step * np.arange(counts[task])
        inside = (grid >= t[0] - 1e-9 * step) & (grid <= t[-1] + 1e-6 * step)
        mask[task, entity, : counts[task]] = inside
        states[task, entity, : counts[task]][inside] = _interpolate(t, x, np.clip(grid[inside], t[0], t[-1]))
    if not mask.all():
        states = filled(states, mask)
    own = float(np.nanmedian(np.diff(times, axis=1)))
    note = (
        f"resample={step:g} is finer than the file's own step, {own:g}: splines between frames smooth sudden changes "
        f"away; where the column holds numbers of frames, give the time between them instead, --frame-step"
    )
    notes = data.notes if step > 0.99 * own else (*data.notes, note)
    return replace(data, states=states, mask=None if mask.all() else mask, frame_step=step, notes=notes)


def _interpolate(t: np.ndarray, x: np.ndarray, at: np.ndarray) -> np.ndarray:
    if len(t) >= SPLINE:
        from scipy.interpolate import CubicSpline  # takes a second to import, and few files have gaps

        return CubicSpline(t, x, axis=0)(at)
    return np.stack([np.interp(at, t, column) for column in x.T], axis=-1)
