"""Tables of trajectories: one row per entity, frame and task, in any order, or one row per frame.

Columns are `task`, `frame`, `entity`, one per feature, and optionally `split` and `group`, or have other names that
`modmeta.data.formats.roles` recognises. Without a column of tasks all rows are of one recording, task 0. The file is
read twice in batches of rows: the first pass finds tasks, entities and frames, the second fills the states. So memory
holds the states and one batch, not the table. In CSV files the apostrophe before a name that a spreadsheet would
execute, such as `'=x`, is removed (`modmeta.text.for_sheet`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from modmeta.data.bounds import FREE, SPARSE, WHOLE
from modmeta.data.formats.clock import numbered
from modmeta.data.formats.columns import Table, as_table, write_columns
from modmeta.data.formats.relations import names_of
from modmeta.data.formats.roles import SPLIT, Source
from modmeta.data.names import plain_name
from modmeta.data.reading import GROUP, MASKED, Reading
from modmeta.data.trajectories import Trajectories
from modmeta.data.transforms.gaps import filled, resampled, unseen
from modmeta.errors import DataError


def read(path: Path, split: str | None, how: Reading) -> dict[str, Trajectories]:
    """Splits of a CSV or Parquet file; see `modmeta.data.formats.load`.

    Raises:
        DataError: the table is damaged, a column is missing or of the wrong type, a row is repeated, a frame is
            missing, or times are uneven.
    """
    return from_table(Table.of(path), split, how)


def from_table(table: Table, split: str | None, how: Reading) -> dict[str, Trajectories]:
    """Splits of a table; see `read`."""
    source, path = Source.of(table, how), table.path
    layout = _Layout.of(source)
    states, seen = _place(source, layout)
    splits = {}
    for name in layout.splits:
        if split in (None, name) or not layout.named:
            splits[split or name if not layout.named else name] = _trajectories(source, layout, states, seen, name)
    if not splits:
        raise DataError(f"{path} has no split {split!r}; choose one of {sorted(layout.splits)}")
    return splits


def write(path: Path, splits: Mapping[str, Trajectories], overwrite: bool) -> None:
    """Writes trajectories as one row per entity, frame and task. Relations are not written; they have their own table.

    Args:
        path: output file; its suffix selects CSV or Parquet.
        splits: trajectories by name; several splits add a column `split`, groups a column `group`.
        overwrite: whether to replace an existing file.

    Raises:
        DataError: see `modmeta.io.write_file`, or a feature has the name of another column.
    """
    features = {name for data in splits.values() for name in data.features}
    taken = {name for name in features if name in (SPLIT, "task", "frame", "entity") or plain_name(name) == GROUP}
    if taken:
        raise DataError(f"{path}: feature {min(taken)!r} has the name of another column; rename it, or save an .npz")
    parts = [_rows(data, name if len(splits) > 1 else None) for name, data in splits.items()]
    write_columns(path, pa.concat_tables(parts), overwrite, next(iter(splits.values())).frame_step)


def _rows(data: Trajectories, split: str | None) -> pa.Table:
    seen = np.ones(data.states.shape[:3], bool) if data.mask is None else data.mask
    tasks, frames, entities = np.nonzero(seen.transpose(0, 2, 1))
    columns: dict[str, np.ndarray | list] = {} if split is None else {"split": [split] * len(tasks)}
    names = names_of(data, tasks, entities, entities)
    columns |= {"task": names["task"], "frame": frames, "entity": names["receiver"]}
    columns |= {} if data.group_names is None else {GROUP: data.group_names[tasks]}
    states = data.states[tasks, entities, frames]
    return as_table(columns | {name: states[:, i] for i, name in enumerate(data.features)})


# ---- columns ---------------------------------------------------------------------------------------------------------


def _check_keys(source: Source, table: pa.Table) -> None:
    for name in source.keys + ([] if source.group is None else [source.group]):
        column = table[name]
        if name != source.how.frame and not (
            pa.types.is_integer(column.type) or pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
        ):
            raise DataError(f"{source.path}: column {name!r} is of type {column.type}; it must hold names or integers")
        empty = pc.is_null(column, nan_is_null=True)
        if pa.types.is_string(column.type):
            empty = pc.or_(empty, pc.equal(column, ""))
        if pc.any(empty).as_py():
            row = int(pc.index(empty, True).as_py())
            raise DataError(f"{source.path}: {_describe(table, source, row)} has no {name}; add it or remove the row")
        if name == source.how.frame and not pc.all(pc.is_finite(column)).as_py():
            row = int(pc.index(pc.is_finite(column), False).as_py())
            raise DataError(f"{source.path}: {_describe(table, source, row)}: the frame is not a finite number")
        if name == source.how.frame and (large := np.abs(column.to_numpy().astype(float)) > WHOLE).any():
            raise DataError(
                f"{source.path}: {_describe(table, source, int(large.argmax()))}: the frame is too large for a float, "
                "the limit is 2^53; correct it, subtract the first frame, or use larger units"
            )


def _describe(table: pa.Table, source: Source, row: int) -> str:
    """Describes a row by its keys, for error messages."""
    frame = table[source.how.frame][row].as_py()
    text = "none" if frame is None else source.clock.text(frame)
    keys = [name for name in source.keys if name != source.how.frame]
    return "the row of " + ", ".join(
        [*(f"{key} {table[key][row].as_py()}" for key in keys), f"{source.how.frame} {text}"]
    )


def _check_new(source: Source, table: pa.Table, place: np.ndarray, seen: np.ndarray) -> None:
    old = seen[place]
    order = np.argsort(place, kind="stable")
    old[order[1:][np.diff(place[order]) == 0]] = True
    if old.any():
        advice = ", or name the column of the task, because there is no column 'task'" if source.one_recording else ""
        raise DataError(f"{source.path}: {_describe(table, source, int(old.argmax()))} is repeated; remove one{advice}")


# ---- rows ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Layout:
    """Position of every row of the table in the arrays.

    Attributes:
        splits: names of splits in the order train, valid, test, others.
        named: whether the file has a column `split`.
        tasks, entities: all names, sorted, as stored in the file.
        of_task: codes of the tasks, split * len(tasks) + task, sorted. Their order is the order of tasks in arrays.
        pairs: codes of the entities of tasks, task index * len(entities) + entity, sorted.
        moments: all values of the frame column, sorted.
        frames: codes of the frames of tasks, task index * len(moments) + moment, sorted.
        slots: frame number of every entry of `frames`.
        step: step of the frame column; 0 when resampling.
        rows: number of rows of the table.
        groups: name of the group of every entry of `of_task`; None without groups.
        notes: what was recognised or left out.
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
    groups: np.ndarray | None
    notes: tuple[str, ...]

    @classmethod
    def of(cls, source: Source) -> "_Layout":
        """The first pass over the file."""
        how, keys = source.how, source.keys
        found: dict[str, list[pa.Table]] = {how.entity: [], how.frame: []}
        found |= {} if source.group is None else {source.group: []}
        count = 0
        for table in source.batches():
            _check_keys(source, table)
            count += len(table)
            for key, parts in found.items():
                names = dict.fromkeys([*(name for name in keys if name in (SPLIT, how.task)), key])
                parts.append(table.group_by(list(names)).aggregate([]))
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
        step, slots, note = _slots(source, of_task, tasks, frames, moments)
        groups = None
        if source.group is not None:
            by_group = merged[source.group]
            groups = _groups(source, of_task, tasks, code(by_group), by_group[source.group])
        notes = source.notes if note is None else (*source.notes, note)
        return cls(splits, named, tasks, entities, of_task, pairs, moments, frames, slots, step, count, groups, notes)


def _slots(
    source: Source, of_task: np.ndarray, tasks: pa.Array, frames: np.ndarray, moments: np.ndarray
) -> tuple[float, np.ndarray, str | None]:
    """Step of the frame column, frame number of every entry of `frames`, and a note if times are uneven."""
    task, moment = np.divmod(frames, len(moments))
    if source.how.resample is not None:
        return 0.0, np.arange(len(task)) - np.searchsorted(task, task), None
    of = lambda row: _task_name(of_task, tasks, int(row))  # noqa: E731
    return numbered(str(source.path), source.how.frame, source.clock, task, moments[moment], of)


def _groups(
    source: Source, of_task: np.ndarray, tasks: pa.Array, codes: np.ndarray, column: pa.ChunkedArray
) -> np.ndarray:
    """Names of the groups of all tasks, (tasks,), from all different pairs of a task's code and its group.

    Raises:
        DataError: a task has several groups.
    """
    names = _as_numbers(np.array(column.to_pylist()))
    order = np.argsort(codes, kind="stable")
    twice = np.flatnonzero(np.diff(codes[order]) == 0)
    if len(twice):
        one, other = order[twice[0]], order[twice[0] + 1]
        row = int(np.searchsorted(of_task, codes[one]))
        raise DataError(
            f"{source.path}: task {_task_name(of_task, tasks, row)} has the groups {names[one]} and {names[other]} in "
            f"column {source.group!r}; give all its rows one group, or every part a task of its own"
        )
    return np.asarray(names[order])


def _place(source: Source, layout: _Layout) -> tuple[np.ndarray, np.ndarray]:
    """The second pass: states (tasks, N, T, D), NaN if missing, and whether an entity was observed (tasks, N, T)."""
    how, features = source.how, source.features
    b = len(layout.of_task)
    first_pair = np.searchsorted(layout.pairs, np.arange(b) * len(layout.entities))
    n = int(np.diff(first_pair, append=len(layout.pairs)).max())
    t = int(layout.slots.max()) + 1
    if b * n * t * len(features) > max(FREE // 8, SPARSE * layout.rows * len(features)):
        raise DataError(
            f"{source.path}: {layout.rows} rows, far too few for {b} tasks of up to {n} entities and {t} frames; check "
            f"columns {how.task}, {how.entity} and {how.frame}, or put tasks of similar size into separate files"
        )
    states = np.full((b, n, t, len(features)), np.nan)
    flat, seen = states.reshape(-1, len(features)), np.zeros(b * n * t, bool)
    for table in source.batches(True):
        code = _task_code(table, how, layout.splits if layout.named else None, layout.tasks)
        task = np.searchsorted(layout.of_task, code)
        pair = task * len(layout.entities) + _index(table[how.entity], layout.entities)
        entity = np.searchsorted(layout.pairs, pair) - first_pair[task]
        moment = np.searchsorted(layout.moments, table[how.frame].to_numpy().astype(float))
        frame = layout.slots[np.searchsorted(layout.frames, task * len(layout.moments) + moment)]
        place = (task * n + entity) * t + frame
        _check_new(source, table, place, seen)
        seen[place] = True
        for column, name in enumerate(features):
            flat[place, column] = table[name].to_numpy().astype(float)
    return states, seen.reshape(b, n, t)


def _trajectories(source: Source, layout: _Layout, states: np.ndarray, seen: np.ndarray, split: str) -> Trajectories:
    how, where = source.how, f"{source.path}, split {split}" if layout.named else str(source.path)
    number = layout.splits.index(split)
    rows = np.flatnonzero(layout.of_task // len(layout.tasks) == number)
    if len(rows) < len(states):
        states, seen = states[rows], seen[rows]
    names = _as_numbers(np.array(layout.tasks.to_pylist()))[layout.of_task[rows] % len(layout.tasks)]
    entities = _entity_names(where, layout, rows, states.shape[1])
    data = Trajectories(
        states, None, source.features, how.frame_step or layout.step or 1.0, {}, seen, names, entities,
        group_names=None if layout.groups is None else layout.groups[rows], notes=layout.notes,
    )  # fmt: skip
    if how.missing != "mask":
        _check_complete(data, where, layout, rows)
    mask = seen & np.isfinite(states).all(-1)
    lost = seen & np.isnan(states).all(-1) if how.missing == "unseen" else np.zeros_like(seen)
    if (there := mask.any(axis=2))[lost.any(axis=2)].any():  # entities without any value are absent, which is no gap
        data = replace(data, notes=(*data.notes, unseen(lost[there].sum() / seen[there].sum())))
    wrong = seen & ~mask & ~lost
    if how.missing != "mask" and wrong.any():
        task, entity, frame, feature = np.argwhere(wrong[..., None] & ~np.isfinite(states))[0].tolist()
        raise DataError(
            f"{where}: task {data.task_name(task)}, entity {data.entity_name(task, entity)}, frame "
            f"{_moment(layout, rows[task], frame):g}, column {source.features[feature]!r} is "
            f"{states[task, entity, frame, feature]}; correct it, or mask such frames with {MASKED}"
        )
    if not mask.any(axis=(1, 2)).all():
        task = int((~mask.any(axis=(1, 2))).argmax())
        raise DataError(f"{where}: task {data.task_name(task)} has no finite value; remove the task")
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
    """Distinct names of a column, sorted numerically if all are integers."""
    unique = column.combine_chunks().unique()
    if pa.types.is_string(unique.type):
        try:
            order = pc.sort_indices(unique.cast(pa.int64()))
            return unique.take(order)
        except pa.ArrowInvalid:
            pass
    return unique.take(pc.sort_indices(unique))


def _as_numbers(names: np.ndarray) -> np.ndarray:
    """Names as int64 if all are written as integers."""
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


def _entity_names(where: str, layout: _Layout, rows: np.ndarray, n: int) -> np.ndarray:
    """Names of the entities of the given tasks, (tasks, n)."""
    names = _as_numbers(np.array(layout.entities.to_pylist()))
    if len(layout.of_task) * n * names.itemsize > max(4 * FREE, 8 * SPARSE * layout.rows):
        raise DataError(f"{where}: names of entities need too much memory; shorten them, or number the entities")
    task, entity = np.divmod(layout.pairs, len(names))
    first = np.searchsorted(layout.pairs, np.arange(len(layout.of_task)) * len(names))
    out = np.zeros((len(layout.of_task), n), names.dtype)
    out[task, np.arange(len(task)) - first[task]] = names[entity]
    return out[rows]


def _ordered(splits: list[str]) -> list[str]:
    usual = ("train", "valid", "test")
    return sorted(splits, key=lambda name: (usual.index(name) if name in usual else len(usual), name))


# ---- frames ----------------------------------------------------------------------------------------------------------


def _task_name(of_task: np.ndarray, tasks: pa.Array, row: int) -> object:
    return tasks[int(of_task[row] % len(tasks))].as_py()


def _times(layout: _Layout, rows: np.ndarray, t: int) -> np.ndarray:
    """Values of the frame column by task and frame, (tasks, t), NaN if missing."""
    times = np.full((len(layout.of_task), t), np.nan)
    task, moment = np.divmod(layout.frames, len(layout.moments))
    times[task, layout.slots] = layout.moments[moment]
    return times[rows]


def _moment(layout: _Layout, row: int, frame: int) -> float:
    """Value of the frame column for a frame of a task."""
    times = _times(layout, np.array([row]), int(layout.slots.max()) + 1)[0]
    return float(times[frame]) if np.isfinite(times[frame]) else float(times[0] + frame * layout.step)


def _check_complete(data: Trajectories, where: str, layout: _Layout, rows: np.ndarray) -> None:
    """Rejects missing frames, and tasks with fewer frames than others."""
    assert data.mask is not None
    advice = f"add it, or mask such frames with {MASKED}"
    frames = np.asarray(data.mask.any(axis=1))
    last = frames.shape[1] - frames[:, ::-1].argmax(axis=1)
    if last.min() < last.max():
        few, many = int(last.argmin()), int(last.argmax())
        raise DataError(
            f"{where}: task {data.task_name(few)} has {last[few]} frames but task {data.task_name(many)} has "
            f"{last[many]}; allow it with {MASKED}"
        )
    if not frames.all():
        task, frame = np.argwhere(~frames)[0].tolist()
        raise DataError(
            f"{where}: task {data.task_name(task)} lacks frame {_moment(layout, rows[task], frame):g} for all "
            f"entities; {advice}"
        )
    missing = ~data.mask & data.mask.any(axis=2, keepdims=True)  # frames of absent entities are not missing
    if missing.any():
        task, entity, frame = np.argwhere(missing)[0].tolist()
        raise DataError(
            f"{where}: task {data.task_name(task)}, entity {data.entity_name(task, entity)} lacks frame "
            f"{_moment(layout, rows[task], frame):g}; {advice}"
        )
