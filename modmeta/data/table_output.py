"""Long tables written: what `modmeta.data.tables` reads."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as parquet

from modmeta.data.trajectories import Trajectories
from modmeta.errors import DataError
from modmeta.io import write_file
from modmeta.text import encodable, for_sheet


def save_table(path: Path, splits: Mapping[str, Trajectories], overwrite: bool) -> None:
    """Writes trajectories as one row for each entity in each frame, without relations, which are a table of their own.

    Args:
        path: ends in `.csv` or `.parquet`.
        splits: by name; of several, a column `split` tells them apart.
        overwrite: replace a file that is there.

    Raises:
        DataError: as `modmeta.io.write_file`, or a feature has the name of another column.
    """
    taken = {"split", "task", "frame", "entity"}.intersection(*(data.features for data in splits.values()))
    if taken:
        raise DataError(f"{path}: feature {min(taken)!r} has the name of another column; rename it, or save an .npz")
    parts = [_rows(data, name if len(splits) > 1 else None) for name, data in splits.items()]
    write_columns(path, pa.concat_tables(parts), overwrite, next(iter(splits.values())).frame_step)


def as_table(columns: Mapping[str, np.ndarray | list]) -> pa.Table:
    """Columns by name as a table; what UTF-8 cannot hold of names becomes an escape."""
    out = {}
    for name, values in columns.items():
        try:
            out[encodable(name)] = pa.array(values)
        except UnicodeError:
            out[encodable(name)] = pa.array([encodable(value) for value in values])
    return pa.table(out)


def write_columns(path: Path, table: pa.Table, overwrite: bool, frame_step: float | None = None) -> None:
    """Writes a table, CSV or Parquet by the ending of its name.

    Names in a CSV file that a spreadsheet would execute get an apostrophe before them (`modmeta.text.for_sheet`), which
    reading takes back.

    Raises:
        DataError: as `modmeta.io.write_file`.
    """
    if path.suffix.lower() in (".csv", ".tsv"):
        delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
        options = csv.WriteOptions(quoting_style="needed", delimiter=delimiter)
        write_file(path, lambda file: csv.write_csv(_guarded(table), file, options), overwrite)
        return
    if frame_step is not None:
        table = table.replace_schema_metadata({"modmeta": json.dumps({"frame_step": frame_step})})
    write_file(path, lambda file: parquet.write_table(table, file), overwrite)


def _guarded(table: pa.Table) -> pa.Table:
    """A table that a spreadsheet may open."""
    columns = []
    for column in table.columns:
        if pa.types.is_string(column.type):
            coded = column.combine_chunks().dictionary_encode()
            names = pa.array([for_sheet(name) for name in coded.dictionary.to_pylist()], pa.string())
            column = names.take(coded.indices)
        columns.append(column)
    return pa.table(columns, names=[for_sheet(name) for name in table.column_names])


def relations_table(data: Trajectories) -> pa.Table:
    """True relations, one row for every ordered pair."""
    assert data.relations is not None
    tasks, receivers, senders = pairs_of(data)
    columns = names_of(data, tasks, receivers, senders)
    return as_table(columns | {"relation": data.relations[tasks, receivers, senders]})


def pairs_of(data: Trajectories) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices of task, receiver and sender of every ordered pair of entities that a task has, each (pairs,)."""
    there = np.ones(data.states.shape[:2], bool) if data.mask is None else np.asarray(data.mask.any(axis=-1))
    pairs = there[:, :, None] & there[:, None, :] & ~np.eye(data.num_entities, dtype=bool)
    tasks, receivers, senders = np.nonzero(pairs)
    return tasks, receivers, senders


def names_of(
    data: Trajectories, tasks: np.ndarray, receivers: np.ndarray, senders: np.ndarray
) -> dict[str, np.ndarray]:
    """Names of tasks, receivers and senders, by column."""
    return {
        "task": tasks if data.task_names is None else data.task_names[tasks],
        "receiver": receivers if data.entity_names is None else data.entity_names[tasks, receivers],
        "sender": senders if data.entity_names is None else data.entity_names[tasks, senders],
    }


def _rows(data: Trajectories, split: str | None) -> pa.Table:
    seen = np.ones(data.states.shape[:3], bool) if data.mask is None else data.mask
    tasks, frames, entities = np.nonzero(seen.transpose(0, 2, 1))
    columns: dict[str, np.ndarray | list] = {} if split is None else {"split": [split] * len(tasks)}
    names = names_of(data, tasks, entities, entities)
    columns |= {"task": names["task"], "frame": frames, "entity": names["receiver"]}
    states = data.states[tasks, entities, frames]
    return as_table(columns | {name: states[:, i] for i, name in enumerate(data.features)})
