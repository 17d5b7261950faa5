"""Long tables, CSV and Parquet: one row for each entity in each frame of each task.

Two passes over batches of rows: the first finds tasks, entities and frames, the second puts every row in its place. So
memory holds the states and one batch, not the table. Rows may come in any order. A column `split`, if there, tells
training, validation and test tasks apart. In CSV files an apostrophe before a name that a spreadsheet would execute,
such as `'=x`, is taken off (`modmeta.text.for_sheet`).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from modmeta.data.bounds import FREE, GAP, GAP_FREE, SPARSE
from modmeta.data.gaps import filled, resampled
from modmeta.data.reading import Reading
from modmeta.data.table_source import SPLIT, Source, check_keys, check_new, numbers
from modmeta.data.trajectories import Trajectories
from modmeta.errors import DataError

EVEN = 1e-3  # of a step: how far a frame may be from where an even step puts it


def read_table(path: Path, split: str | None, how: Reading) -> dict[str, Trajectories]:
    """Splits of a CSV or Parquet file; see `modmeta.data.files.load`.

    Raises:
        DataError: the table is damaged, a column is missing or of a wrong type, a row is there twice, a frame is
            missing or not where an even step puts it.
    """
    source = Source.of(path, how)
    layout = Layout.of(source)
    states, seen = _place(source, layout)
    splits = {}
    for name in layout.splits:
        if split in (None, name) or not layout.named:
            splits[split or name if not layout.named else name] = _trajectories(source, layout, states, seen, name)
    if not splits:
        raise DataError(f"{path} has no split {split!r}; choose one of {sorted(layout.splits)}")
    return splits


@dataclass(frozen=True)
class Layout:
    """Where every row goes.

    Attributes:
        splits: names, in the order of their first letters in train, valid, test, then others.
        named: whether the file names splits.
        tasks, entities: all names, sorted, as the file stores them.
        of_task: (split, task) codes, sorted, split * len(tasks) + task.
        pairs: task row * len(entities) + entity, sorted.
        moments: all values of the frame column, sorted.
        frames: task row * len(moments) + moment, sorted.
        slots: frame of every entry of `frames`.
        step: of the frame column; 0 where steps are uneven.
        rows: of the table.
    """

    splits: list[str]
    named: bool
    tasks: pa.Array
    entities: pa.Array
    of_task: np.ndarray
    pairs: np.ndarray
    moments: np.ndarray
    frames: np.ndarray
    slots: np.ndarray
    step: float
    rows: int

    @classmethod
    def of(cls, source: Source) -> "Layout":
        """The first pass."""
        how, keys = source.how, source.keys
        found: dict[str, list[pa.Table]] = {how.entity: [], how.frame: []}
        count = 0
        for table in source.batches():
            check_keys(source, table)
            count += len(table)
            for key, parts in found.items():
                parts.append(table.group_by([name for name in keys if name in (SPLIT, how.task, key)]).aggregate([]))
        if not sum(map(len, found[how.entity])):
            raise DataError(f"{source.path}: no rows; give at least one task")
        merged = {
            key: pa.concat_tables(parts).group_by(parts[0].column_names).aggregate([]) for key, parts in found.items()
        }
        by_entity, by_frame = merged[how.entity], merged[how.frame]
        named = SPLIT in keys
        splits = _ordered(by_entity[SPLIT].combine_chunks().unique().to_pylist()) if named else ["test"]
        tasks, entities = _names(by_entity[how.task]), _names(by_entity[how.entity])
        moments = np.unique(by_frame[how.frame].to_numpy().astype(float))

        def code(table: pa.Table) -> np.ndarray:
            return _task_code(table, how, splits if named else None, tasks)

        of_task = np.unique(code(by_entity))
        rows = np.searchsorted(of_task, code(by_entity))
        pairs = np.sort(rows * len(entities) + _index(by_entity[how.entity], entities))
        moment = np.searchsorted(moments, by_frame[how.frame].to_numpy().astype(float))
        frames = np.sort(np.searchsorted(of_task, code(by_frame)) * len(moments) + moment)
        step, slots = _grid(source, of_task, tasks, frames, moments)
        return cls(splits, named, tasks, entities, of_task, pairs, moments, frames, slots, step, count)


def _place(source: Source, layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    """The second pass: states (rows, N, T, D), NaN where nothing is, and which entities were seen when (rows, N, T)."""
    how, features = source.how, source.features
    b = len(layout.of_task)
    first_pair = np.searchsorted(layout.pairs, np.arange(b) * len(layout.entities))
    n = int(np.diff(first_pair, append=len(layout.pairs)).max())
    t = int(layout.slots.max()) + 1
    if b * n * t * len(features) > max(FREE // 8, SPARSE * layout.rows * len(features)):
        raise DataError(
            f"{source.path}: {layout.rows} rows, far too few for {b} tasks of up to {n} entities and {t} frames; check "
            f"columns {how.task}, {how.entity} and {how.frame}, or put tasks of like size into files of their own"
        )
    states = np.full((b, n, t, len(features)), np.nan)
    flat, seen = states.reshape(-1, len(features)), np.zeros(b * n * t, bool)
    for table in source.batches(features):
        code = _task_code(table, how, layout.splits if layout.named else None, layout.tasks)
        task = np.searchsorted(layout.of_task, code)
        pair = task * len(layout.entities) + _index(table[how.entity], layout.entities)
        entity = np.searchsorted(layout.pairs, pair) - first_pair[task]
        moment = np.searchsorted(layout.moments, table[how.frame].to_numpy().astype(float))
        frame = layout.slots[np.searchsorted(layout.frames, task * len(layout.moments) + moment)]
        place = (task * n + entity) * t + frame
        check_new(source, table, place, seen)
        seen[place] = True
        for column, name in enumerate(features):
            flat[place, column] = numbers(source, table, name)
    return states, seen.reshape(b, n, t)


def _trajectories(source: Source, layout: Layout, states: np.ndarray, seen: np.ndarray, split: str) -> Trajectories:
    how, where = source.how, f"{source.path}, split {split}" if layout.named else str(source.path)
    number = layout.splits.index(split)
    rows = np.flatnonzero(layout.of_task // len(layout.tasks) == number)
    if len(rows) < len(states):
        states, seen = states[rows], seen[rows]
    names = _as_numbers(np.array(layout.tasks.to_pylist()))[layout.of_task[rows] % len(layout.tasks)]
    entities = _entity_names(where, layout, rows, states.shape[1])
    data = Trajectories(states, None, source.features, how.frame_step or layout.step or 1.0, {}, seen, names, entities)
    if how.missing == "error":
        _check_complete(data, where, layout, rows)
    whole = np.isfinite(states).all(-1)
    mask = seen & whole
    if how.missing == "error" and (seen & ~whole).any():
        task, entity, frame, feature = np.argwhere(seen[..., None] & ~np.isfinite(states))[0].tolist()
        raise DataError(
            f"{where}: task {data.task_name(task)}, entity {data.entity_name(task, entity)}, frame "
            f"{_moment(layout, rows[task], frame):g}, column {source.features[feature]!r} is "
            f"{states[task, entity, frame, feature]}; repair it, or leave such frames out with missing=mask"
        )
    if not mask.any(axis=(1, 2)).all():
        task = int((~mask.any(axis=(1, 2))).argmax())
        raise DataError(f"{where}: task {data.task_name(task)} has no value that is a finite number; remove it")
    times = _times(layout, rows, states.shape[2])
    if how.resample is not None:
        step = how.resample
        return resampled(Trajectories(**(vars(data) | {"mask": mask})), times, step, where)
    full = bool(mask.all())
    return Trajectories(
        **(vars(data) | {"states": states if full else filled(states, mask), "mask": None if full else mask})
    )


# ---- names -----------------------------------------------------------------------------------------------------------


def _names(column: pa.ChunkedArray) -> pa.Array:
    """Distinct names of a column, sorted; as numbers where all are whole numbers."""
    unique = column.combine_chunks().unique()
    if pa.types.is_string(unique.type):
        try:
            order = pc.sort_indices(unique.cast(pa.int64()))
            return unique.take(order)
        except pa.ArrowInvalid:
            pass
    return unique.take(pc.sort_indices(unique))


def _as_numbers(names: np.ndarray) -> np.ndarray:
    """Names as integers where all are written as such."""
    try:
        numbers = names.astype(np.int64)
    except (ValueError, OverflowError):
        return names
    return numbers if (numbers.astype(str) == names.astype(str)).all() else names


def _index(column: pa.ChunkedArray, names: pa.Array) -> np.ndarray:
    return pc.index_in(column, value_set=names).to_numpy().astype(np.int64)


def _task_code(table: pa.Table, how: Reading, splits: list[str] | None, tasks: pa.Array) -> np.ndarray:
    code = _index(table[how.task], tasks)
    if splits is not None:
        code = code + len(tasks) * _index(table[SPLIT], pa.array(splits, table.schema.field(SPLIT).type))
    return code


def _entity_names(where: str, layout: Layout, rows: np.ndarray, n: int) -> np.ndarray:
    """Names of the entities of tasks, (rows, n)."""
    names = _as_numbers(np.array(layout.entities.to_pylist()))
    if len(layout.of_task) * n * names.itemsize > max(4 * FREE, 8 * SPARSE * layout.rows):
        raise DataError(f"{where}: names of entities take too much memory; shorten them, or number the entities")
    task, entity = np.divmod(layout.pairs, len(names))
    first = np.searchsorted(layout.pairs, np.arange(len(layout.of_task)) * len(names))
    out = np.zeros((len(layout.of_task), n), names.dtype)
    out[task, np.arange(len(task)) - first[task]] = names[entity]
    return out[rows]


def _ordered(splits: list[str]) -> list[str]:
    usual = ("train", "valid", "test")
    return sorted(splits, key=lambda name: (usual.index(name) if name in usual else len(usual), name))


# ---- frames ----------------------------------------------------------------------------------------------------------


def _grid(
    source: Source, of_task: np.ndarray, tasks: pa.Array, frames: np.ndarray, moments: np.ndarray
) -> tuple[float, np.ndarray]:
    """The step of the frame column, and the frame number of every entry of `frames`."""
    task, moment = np.divmod(frames, len(moments))
    time = moments[moment]
    first = np.searchsorted(task, np.arange(len(of_task)))
    rank = np.arange(len(task)) - first[task]
    if source.how.resample is not None:
        return 0.0, rank
    gaps = np.diff(time)[np.diff(task) == 0]
    if not len(gaps):
        return 1.0, rank
    step = float(f"{np.median(gaps):.12g}")
    with np.errstate(over="ignore"):
        place = (time - time[first[task]]) / step
    far = ~(place <= GAP_FREE + GAP * np.bincount(task)[task])
    if far.any():
        gap = np.append(0.0, np.diff(place) * (np.diff(task) == 0))
        at = int(np.where(task == task[far.argmax()], gap, 0).argmax())
        raise DataError(
            f"{source.path}: task {_task_name(of_task, tasks, task[at])}, {source.how.frame} {time[at]:.16g} comes "
            f"{gap[at]:.6g} steps after the one before, {time[at - 1]:.16g}; correct the row, or give each stretch a "
            "task of its own"
        )
    uneven = np.abs(place - np.round(place)) > EVEN
    if uneven.any():
        at = int(uneven.argmax())
        name = _task_name(of_task, tasks, task[at])
        raise DataError(
            f"{source.path}: task {name}, {source.how.frame} {time[at]:.6g} is not a multiple of {step:g} after "
            f"the first, {time[first[task[at]]]:.6g}; steps must be even, or give resample={step:g} to interpolate"
        )
    return step, np.round(place).astype(np.int64)


def _task_name(of_task: np.ndarray, tasks: pa.Array, row: int) -> object:
    return tasks[int(of_task[row] % len(tasks))].as_py()


def _times(layout: Layout, rows: np.ndarray, t: int) -> np.ndarray:
    """Values of the frame column by task and frame, (rows, t), NaN where there is none."""
    times = np.full((len(layout.of_task), t), np.nan)
    task, moment = np.divmod(layout.frames, len(layout.moments))
    times[task, layout.slots] = layout.moments[moment]
    return times[rows]


def _moment(layout: Layout, row: int, frame: int) -> float:
    """What the file calls a frame of a task."""
    times = _times(layout, np.array([row]), int(layout.slots.max()) + 1)[0]
    return float(times[frame]) if np.isfinite(times[frame]) else float(times[0] + frame * layout.step)


def _check_complete(data: Trajectories, where: str, layout: Layout, rows: np.ndarray) -> None:
    """Refuses tasks of fewer frames than others, and gaps."""
    assert data.mask is not None
    advice = "add it, or leave such frames out with missing=mask"
    frames = np.asarray(data.mask.any(axis=1))
    last = frames.shape[1] - frames[:, ::-1].argmax(axis=1)
    if last.min() < last.max():
        few, many = int(last.argmin()), int(last.argmax())
        raise DataError(
            f"{where}: task {data.task_name(few)} has {last[few]} frames but task {data.task_name(many)} has "
            f"{last[many]}; allow it with missing=mask"
        )
    if not frames.all():
        task, frame = np.argwhere(~frames)[0].tolist()
        raise DataError(
            f"{where}: task {data.task_name(task)} lacks frame {_moment(layout, rows[task], frame):g} among "
            f"others; {advice}"
        )
    lacking = ~data.mask & data.mask.any(axis=2, keepdims=True)  # entities that a task does not have lack nothing
    if lacking.any():
        task, entity, frame = np.argwhere(lacking)[0].tolist()
        raise DataError(
            f"{where}: task {data.task_name(task)}, entity {data.entity_name(task, entity)} lacks frame "
            f"{_moment(layout, rows[task], frame):g}; {advice}"
        )
