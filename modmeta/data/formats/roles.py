"""Roles of the columns of a table: task, frame, entity, group, features, or none.

Columns whose names were not given are recognised by the names that trackers use (`modmeta.data.names`). A table may be
long, one row for every entity and frame, or wide, one row for every frame: `x1, y1, x2, y2`, `ant_a_x, ant_a_y, …`, or
one column for every entity.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from modmeta.data.formats.clock import Clock
from modmeta.data.formats.columns import Table, is_number
from modmeta.data.names import (
    ENTITIES,
    FRAMES,
    NO_STATES,
    TASKS,
    axis_of,
    find,
    first_of,
    is_confidence,
    is_index,
    motion_order,
    nameless,
    plain_name,
)  # fmt: skip
from modmeta.data.reading import GROUP, TASK, Reading
from modmeta.errors import DataError

SPLIT = "split"
VALUE = "value"  # feature of a wide table with one column for every entity
FRAME, ENTITY = "frame", "entity"  # default names
COUNTED = 20  # rows that number themselves, so that the column is an index
Wide = dict[str, dict[str, str]]  # columns by entity and feature


@dataclass(frozen=True)
class Source:
    """A table of trajectories and the roles of its columns.

    Args:
        table: the table.
        how: reading options with the names of the table's own columns.
        features: names of the features.
        wide: columns by entity and feature of a wide table; None for a long one.
        one_recording: whether there is no column of tasks.
        counted: whether there is no column of frames, so that rows count them.
        notes: what was recognised or left out.
    """

    table: Table
    how: Reading
    features: tuple[str, ...]
    wide: Wide | None
    one_recording: bool
    counted: bool
    notes: tuple[str, ...]

    @classmethod
    def of(cls, table: Table, how: Reading) -> "Source":
        """Finds the roles of all columns.

        Raises:
            DataError: a column is missing or of the wrong type.
        """
        return _Roles(table, how).source()

    @property
    def path(self) -> Path:
        """The file."""
        return self.table.path

    @property
    def keys(self) -> list[str]:
        """Columns that identify a row."""
        split = [SPLIT] if SPLIT in self.table.names and SPLIT not in self.features else []
        return [*split, self.how.task, self.how.entity, self.how.frame]

    @property
    def group(self) -> str | None:
        """Column of the groups; None if there is none."""
        return self.how.group_among(self.table.names, str(self.path))

    @cached_property
    def clock(self) -> Clock:
        """How times become numbers."""
        where = f"{self.path}: column {self.how.frame!r}"
        if self.counted:
            return Clock(where, pa.float64(), 0)
        return Clock.of(where, self.table.sample[self.how.frame])

    def batches(self, features: bool = False) -> Iterator[pa.Table]:
        """Yields the key columns, frames as float64, the groups and, if wanted, the features in batches of rows.

        Raises:
            DataError: the file is damaged or a column has the wrong type.
        """
        text = [name for name in dict.fromkeys([*self.keys, self.group]) if name is not None]
        text = [name for name in text if name in self.table.names and name not in (self.how.frame, self.how.entity)]
        numbers = [name for name, _ in self.how.mask_below] if features else []
        if self.wide is None:
            text = [*text, self.how.entity]
            numbers = [*dict.fromkeys([*self.features, *numbers])] if features else []
        else:
            numbers = [column for columns in self.wide.values() for column in columns.values()] if features else []
        count = 0
        moments = [] if self.counted else [self.how.frame]
        if self.counted and not numbers:
            numbers = [next(iter(next(iter((self.wide or {}).values())).values()))]  # to count rows by
        for table in self.table.batches(text, numbers, moments):
            if self.counted:
                table = table.append_column(self.how.frame, pa.array(np.arange(count, count + len(table), dtype=float)))
                count += len(table)
            else:
                place = table.column_names.index(self.how.frame)
                table = table.set_column(place, self.how.frame, self.clock.seconds(table[self.how.frame]))
            if self.one_recording:
                table = table.append_column(self.how.task, pa.array(np.zeros(len(table), np.int64)))
            table = table if self.wide is None else self._long(table, text, features)
            yield self._sure(table) if features else table

    def _long(self, table: pa.Table, text: list[str], features: bool) -> pa.Table:
        """One row for every entity from one for every frame."""
        assert self.wide is not None
        shared = table.select([*text, *([self.how.task] if self.how.task not in text else []), self.how.frame])
        wanted = [*dict.fromkeys([*self.features, *(name for name, _ in self.how.mask_below)])] if features else []
        parts = []
        for entity, columns in self.wide.items():
            part = shared.append_column(self.how.entity, pa.array([entity] * len(table), pa.string()))
            for name in wanted:
                part = part.append_column(name, table[columns[name]].cast(pa.float64()))
            parts.append(part)
        return pa.concat_tables(parts)

    def _sure(self, table: pa.Table) -> pa.Table:
        """Features of rows whose confidence is too low, or missing, become NaN."""
        for name, least in self.how.mask_below:
            sure = pc.fill_null(pc.greater_equal(table[name].cast(pa.float64()), least), False)
            for feature in self.features:
                place = table.column_names.index(feature)
                column = table[feature].cast(pa.float64())
                table = table.set_column(place, feature, pc.if_else(sure, column, pa.scalar(np.nan)))
        return table


class _Roles:
    """Finds the roles of the columns of one table."""

    def __init__(self, table: Table, how: Reading) -> None:
        self.table, self.how, self.notes = table, how, list(table.notes)
        self.names = table.names
        self.features = None if how.features is None else tuple(map(self._given, how.features))
        self.unsure = tuple((self._given(name), least) for name, least in how.mask_below)

    def source(self) -> Source:
        how = self.how
        task = self._role("task", how.task, TASK, TASKS)
        frame = self._role("frame", how.frame, FRAME, FRAMES, (task,))
        entity = self._role("entity", how.entity, ENTITY, ENTITIES, (task, frame))
        group = None if how.group is None else find(how.group, self.names)
        how = replace(how, group=group or how.group)
        how.group_among(self.names, str(self.table.path))
        wide = None
        if entity is None:
            index = next((name for name in self.names if name not in (task, frame) and is_index(name)), None)
            frame = frame if frame is not None else index
            others = [name for name in self.names if name not in (task, frame, SPLIT, group or how.group)]
            wide = self._wide(others)
            if wide is None or (frame is None and task is not None):
                raise self._missing("entity" if frame is not None else "frame", (task, frame, entity))
        if frame is None and wide is None:
            raise self._missing("frame", (task, frame, entity))
        counted, how = frame is None, self._named(how, task, frame, entity)
        if counted:
            self.notes.append("rows are frames 0, 1, …; --frame-step gives the time between them")
        if task is None:
            self.notes.append(
                "no column names tasks, so all rows are one recording, task 0; --task names another column"
            )
        source = Source(self.table, replace(how, mask_below=self.unsure), (), wide, task is None, counted, ())
        chosen = self._features(source) if wide is None else self._wide_features(wide)
        self._check(source, chosen)
        features = how.features if how.features is not None and wide is None else chosen
        if self.features is not None:
            features = self.features
        return replace(source, features=features, notes=tuple(self.notes))

    def _named(self, how: Reading, task: str | None, frame: str | None, entity: str | None) -> Reading:
        """The options with names of columns; a missing column keeps a name that no other has."""

        def free(name: str) -> str:
            return name if name not in self.names else free(f"{name}_")

        return replace(
            how, task=task or free(TASK), frame=free(FRAME) if frame is None else frame, entity=entity or free(ENTITY),
            features=self.features,
        )  # fmt: skip

    def _given(self, name: str) -> str:
        """A column that the user named.

        Raises:
            DataError: it does not exist.
        """
        wide = self._wide(list(self.names)) if find(name, self.names) is None else None
        known = [*self.names, *(next(iter(wide.values())) if wide else ())]
        found = find(name, known)
        if found is None:
            raise DataError(f"{self.table.path}: no column {name!r} among {known}; choose features among these")
        return found

    def _role(
        self, purpose: str, name: str, default: str, synonyms: tuple[str, ...], taken: tuple[str | None, ...] = ()
    ) -> str | None:
        """The column of a role: as named, or else by its usual names; None if there is none.

        Raises:
            DataError: a column that was named does not exist.
        """
        found = find(name, self.names)
        if found is not None:
            return found
        if name != default:
            raise self._missing(purpose, taken)
        used = {*taken, *(self.features or ()), self.how.group, *(name for name, _ in self.unsure)}
        found = first_of(synonyms, [name for name in self.names if name not in used])
        if found is not None:
            self.notes.append(f"column {found!r} holds the {purpose}; --{purpose} names another one")
        return found

    def _missing(self, purpose: str, taken: tuple[str | None, ...]) -> DataError:
        names, given = list(self.names), getattr(self.how, purpose)
        if self.table.headless:
            return DataError(
                f"{self.table.path}: no column {given!r}, and no line of names; add one, such as task,frame,entity,x,y,"
                " or name the columns: --frame column1 --entity column2 --features column3,column4"
            )
        used = {*taken, *(self.features or ()), SPLIT, self.how.task, self.how.frame, self.how.entity}
        left = [name for name in names if name not in used and not is_index(name) and axis_of(name) is None]
        advice = f", such as --{purpose} {left[0]} ({purpose}={left[0]})" if left else f", or add a column {given}"
        if len(left) > 1:
            advice = f" among {left} by --{purpose} NAME ({purpose}=NAME)"
        return DataError(
            f"{self.table.path}: no column {given!r} among {names}; name the column of the {purpose}{advice}"
        )

    def _features(self, source: Source) -> tuple[str, ...]:
        """Features of a long table."""
        if self.features is not None:
            return self.features
        roles = {*source.keys, source.group, GROUP}
        others = [name for name in self.names if name not in roles]
        gone = [name for name in others if self._is_no_state(source, name)]
        if len(gone) == len(others):  # a table of one feature that has an odd name
            gone = [name for name in others if is_index(name)] if len(others) > 1 else [*filter(nameless, others)]
        if gone:
            self.notes.append(f"left out: {', '.join(map(repr, gone))}; --features chooses columns")
        chosen = tuple(name for name in others if name not in gone)
        if not chosen:
            how = source.how
            raise DataError(
                f"{self.table.path}: no columns other than {how.task}, {how.frame} and {how.entity}; add features, "
                "such as x, y"
            )
        return chosen

    def _is_no_state(self, source: Source, name: str) -> bool:
        """Whether a column is an index, another name or time of the row, a label, or empty."""
        plain, kind = plain_name(name), self.table.kinds[name]
        if is_index(name) or plain in NO_STATES or name in dict(self.unsure) or self._counts(name):
            return True
        if pa.types.is_null(kind) and len(self.table.sample):
            return True
        if plain == "id" or plain.endswith("_id"):
            return True
        if plain not in FRAMES or len(self.table.sample) < 2:
            return False
        try:
            time, frame = (
                Clock.of("", column).seconds(column).to_numpy()
                for column in (self.table.sample[name], self.table.sample[source.how.frame])
            )
        except DataError:
            return False
        if source.how.task in self.table.names:  # times may begin again
            first = self.table.sample[source.how.task].to_pylist()
            same = np.array([task == first[0] for task in first])
            time, frame = time[same], frame[same]
        order = np.argsort(frame, kind="stable")
        return bool((np.diff(time[order]) >= 0).all() and time.std() > 0)

    def _counts(self, name: str) -> bool:
        """Whether the first rows of a column number the rows."""
        values = self.table.sample[name]
        if len(values) < COUNTED or values.null_count or not pa.types.is_integer(values.type):
            return False
        rows = values.to_numpy()
        return bool(rows[0] in (0, 1) and (np.diff(rows) == 1).all())

    def _check(self, source: Source, features: tuple[str, ...]) -> None:
        """Rejects features that are no numbers.

        Raises:
            DataError: naming the first such column.
        """
        columns = features
        if source.wide is not None:
            columns = tuple(columns[name] for columns in source.wide.values() for name in features)
        for name in columns:
            kind = self.table.kinds[name]
            if is_number(kind):
                continue
            good = [other for other in columns if is_number(self.table.kinds[other])]
            if re.fullmatch(r", such as '[+-]?\d{1,3}(,\d{3})+(\.\d*)?'", example := self._example(name)):
                raise DataError(
                    f"{self.table.path}: column {name!r} has separators of thousands{example}; write numbers without"
                )
            chosen = motion_order(tuple(good))
            best = ",".join([*chosen[0], *chosen[1]] or good) or "..."
            raise DataError(
                f"{self.table.path}: column {name!r} is of type {kind}{example}; features must be numbers, "
                f"so choose others with features=[{best}], --features {best}"
            )

    def _example(self, name: str) -> str:
        """A value of a column of text that is no number."""
        if not pa.types.is_string(self.table.kinds[name]):
            return ""
        words = [word for word in self.table.sample[name].to_pylist() if word is not None]
        for word in words:
            try:
                float(word)
            except ValueError:
                return f", such as {word[:60]!r}"
        return ""

    def _wide(self, names: list[str]) -> Wide | None:
        """Columns by entity and feature, if the names are those of a wide table."""
        best: Wide | None = None
        for form in FORMS:
            found = _by_entity(names, form)
            if found and (best is None or sum(map(len, found.values())) > sum(map(len, best.values()))):
                best = found
        if best is None and not any(axis_of(name) for name in names):
            left = [name for name in names if is_number(self.table.kinds[name]) and not is_index(name)]
            best = {name: {VALUE: name} for name in left} if len(left) > 1 and len(left) == len(names) else None
            if self.table.headless and any(map(self._may_be_key, names)):
                return None
        return best

    def _may_be_key(self, name: str) -> bool:
        """Whether a column without a name may hold frames or entities rather than states: integers, or growing."""
        column = self.table.sample[name]
        if pa.types.is_integer(column.type):
            return True
        return len(column) < 3 or bool((np.diff(column.to_numpy().astype(float)) > 0).all())

    def _wide_features(self, wide: Wide) -> tuple[str, ...]:
        features = tuple(name for name in next(iter(wide.values())) if name not in dict(self.unsure))
        used = {column for columns in wide.values() for column in columns.values()}
        entities = ", ".join([*list(wide)[:4], *(["…"] if len(wide) > 4 else [])])
        self.notes.append(f"one row is one frame of {len(wide)} entities: {entities}")
        gone = [name for name in self.names if name not in used and plain_name(name) not in (*FRAMES, *TASKS, SPLIT)]
        gone = [name for name in gone if name not in (self.how.group, "") and not is_index(name)]
        if gone:
            self.notes.append(f"left out: {', '.join(map(repr, gone[:8]))}")
        return features


# ---- names of columns of wide tables -------------------------------------------------------------------------------


def _digits_last(name: str) -> tuple[str, str] | None:
    found = re.fullmatch(r"(.*\D)(\d+)", name)
    return (found[2], found[1].rstrip(" _.-")) if found else None


def _entity_first(name: str) -> tuple[str, str] | None:
    if ":" in name:
        entity, _, feature = name.partition(":")
        return (entity, feature) if entity and feature else None
    parts = re.split(r"([\s_.\-]+)", name)
    cut = len(parts) - 1
    while cut > 2 and (axis := axis_of("".join(parts[cut - 2 :]))) is not None and not axis.point:
        cut -= 2
    return ("".join(parts[: cut - 1]), "".join(parts[cut:])) if cut > 1 else None


def _feature_first(name: str) -> tuple[str, str] | None:
    found = re.fullmatch(r"([^\s_.\-]+)[\s_.\-]+(.+)", name)
    return (found[2], found[1]) if found else None


FORMS = (_digits_last, _entity_first, _feature_first)


def _by_entity(names: list[str], form: Callable[[str], tuple[str, str] | None]) -> Wide | None:
    """Columns of entities that have the same features, coordinates among them; None for fewer than two."""
    found: Wide = {}
    for name in names:
        parts = form(re.sub(r"\s*[\[(][^\])]*[\])]", "", name).strip())
        if parts is not None:
            found.setdefault(parts[0], {})[parts[1]] = name
    usual = Counter(tuple(sorted(columns)) for columns in found.values()).most_common(1)
    if not usual or not any(_is_coordinate(feature) for feature in usual[0][0]):
        return None
    out = {entity: columns for entity, columns in found.items() if tuple(sorted(columns)) == usual[0][0]}
    order = list(next(iter(out.values())))
    return (
        {entity: {name: columns[name] for name in order} for entity, columns in out.items()} if len(out) > 1 else None
    )


def _is_coordinate(feature: str) -> bool:
    axis = axis_of(feature)
    return axis is not None and not is_confidence(feature)
