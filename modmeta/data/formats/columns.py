"""Columns of tables, read in batches of rows, and written atomically.

A table is text (`modmeta.data.formats.text`), Parquet, Arrow (Feather), a directory of such files, a sheet of a
workbook (`.xlsx`), or a table in memory.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv
import pyarrow.parquet as parquet

from modmeta.data.bounds import COLUMNS, NAME_LENGTH, check_size
from modmeta.data.formats.text import BLOCK, MISSING, Dialect
from modmeta.data.names import find
from modmeta.errors import DataError
from modmeta.io import write_file
from modmeta.text import encodable, for_sheet, from_sheet

ROWS = 1 << 19  # rows of a Parquet file read at a time; fewer for many columns
PARTS = 1 << 18  # limit of row groups x columns of a Parquet file
SAMPLE = 200  # rows from which roles of columns are recognised
EXACT = 2**53  # larger integers are not exact as float64
ARROW = b"ARROW1"
Rows = Callable[[list[str], dict[str, pa.DataType]], Iterator[pa.Table]]


@dataclass(frozen=True)
class Table:
    """A table whose columns can be read in batches of rows.

    Args:
        path: the file.
        names: names of the columns.
        kinds: type of every column; of text files as the first rows have it.
        sample: the first rows.
        rows: function of names of columns, and of the types that text is read as, to batches of rows.
        notes: what was recognised, where it is not the usual form.
        headless: whether the file has no line of names.
    """

    path: Path
    names: tuple[str, ...]
    kinds: dict[str, pa.DataType]
    sample: pa.Table
    rows: Rows = field(repr=False)
    notes: tuple[str, ...] = ()
    headless: bool = False

    @classmethod
    def of(cls, path: Path) -> "Table":
        """Opens a file, or a directory of files, and checks its header and size.

        Raises:
            DataError: the file cannot be read, a column is repeated, or its declared size exceeds the limits.
        """
        try:
            if path.is_dir():
                return _of_parts(path)
            if path.suffix.lower() in WORKBOOKS:
                return cls.in_memory(path, *sheet(path))
            with path.open("rb") as file:
                start = file.read(8)
            if start.startswith(b"PAR1") or path.suffix.lower() in (".parquet", ".pq"):
                return _of_parquet(path)
            return _of_arrow(path) if start.startswith(ARROW) else _of_text(path)
        except DataError:
            raise
        except MemoryError:
            raise
        except Exception as error:  # Arrow, zlib and zipfile raise many types of errors for damaged files
            raise _unreadable(path, error) from error

    @classmethod
    def in_memory(cls, path: Path, table: pa.Table, notes: tuple[str, ...] = ()) -> "Table":
        """A table that is in memory; `path` names it in messages."""

        def rows(columns: list[str], types: dict[str, pa.DataType]) -> Iterator[pa.Table]:
            yield table.select(columns)

        return _checked(path, table.schema, table.slice(0, SAMPLE), rows, notes)

    def find(self, name: str) -> str | None:
        """The column of that name, if need be without case and punctuation; None if there is none."""
        return find(name, self.names)

    def batches(self, text: list[str], numbers: list[str], moments: list[str] | None = None) -> Iterator[pa.Table]:
        """Yields the given columns in batches of rows.

        Args:
            text: columns of names: strings, or integers.
            numbers: columns of numbers, as float64; booleans are 1 and 0.
            moments: columns of times, in the type of the file.

        Raises:
            DataError: the file is damaged, or a column has the wrong type.
        """
        columns = [*text, *numbers, *(moments or [])]
        types = dict.fromkeys(text, pa.string())
        types |= {name: pa.bool_() if pa.types.is_boolean(self.kinds[name]) else pa.float64() for name in numbers}
        types |= {name: self._moment_type(name) for name in moments or []}
        try:
            for table in self.rows(columns, types):
                if not len(table):
                    continue
                out = {}
                for name in columns:
                    column = table[name]
                    if name in types and name in text:
                        column = _as_names(f"{self.path}: column {name!r}", column, self.kinds[name])
                    elif name in numbers:
                        column = as_numbers(column)
                    out[name] = column
                yield pa.table(out)
        except DataError:
            raise
        except MemoryError:
            raise
        except Exception as error:
            raise _unreadable(self.path, error) from error

    def _moment_type(self, name: str) -> pa.DataType:
        """Type in which times of a text file are read: integers as float64 if these are exact."""
        kind = self.kinds[name]
        if pa.types.is_integer(kind):
            largest = max((abs(value) for value in self.sample[name].to_pylist() if value is not None), default=0)
            return kind if largest > EXACT else pa.float64()
        return pa.float64() if pa.types.is_null(kind) else kind


def is_number(kind: pa.DataType) -> bool:
    """Whether values of a type are numbers; booleans are 1 and 0, a column without values holds missing numbers."""
    types = pa.types
    return bool(
        types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind) or types.is_decimal(kind)
        or types.is_null(kind)
    )  # fmt: skip


def as_numbers(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Booleans as 1 and 0, decimals as float64; other columns unchanged."""
    kind = column.type
    if pa.types.is_boolean(kind):
        return column.cast(pa.int8()).cast(pa.float64())
    return column.cast(pa.float64()) if pa.types.is_decimal(kind) or pa.types.is_null(kind) else column


def _as_names(where: str, column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    """Names; whole numbers that were written with decimals are integers again."""
    if pa.types.is_floating(column.type):
        try:
            return column.cast(pa.int64())
        except pa.ArrowInvalid:
            return column
    if not _is_text(column.type):
        return column
    if pa.types.is_large_string(column.type):
        column = column.cast(pa.string())
    _check_name_lengths(where, column)
    if pa.types.is_floating(kind):
        column = pc.replace_substring_regex(column, r"^([+-]?\d+)\.0+$", r"\1")
    return column


def _checked(path: Path, schema: pa.Schema, sample: pa.Table, rows: Rows, notes: tuple[str, ...] = ()) -> Table:
    """A table of a schema, whose names must be unique."""
    names = tuple(schema.names)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{path}: column {twice[0]!r} is repeated; rename one")
    return Table(path, names, dict(zip(names, schema.types, strict=True)), sample, rows, notes)


# ---- text ------------------------------------------------------------------------------------------------------------


def _of_text(path: Path) -> Table:
    dialect = Dialect.of(path)
    place: dict[str, int] = {}
    for i, stored in enumerate(dialect.names):
        name = from_sheet(stored)
        if not name and pa.types.is_null(dialect.kinds[i]):
            continue  # of a separator at the end of every row
        if name in place:
            raise DataError(f"{path}: column {name!r} is repeated; rename one")
        place[name] = i
    sample = pa.table({name: dialect.sample.column(i) for name, i in place.items()})

    def rows(columns: list[str], types: dict[str, pa.DataType]) -> Iterator[pa.Table]:
        wanted = {place[name]: types.get(name, dialect.kinds[place[name]]) for name in columns}
        for batch in dialect.rows(wanted):
            table = pa.Table.from_batches([batch]).rename_columns(columns)
            for i, name in enumerate(columns):
                if types.get(name) == pa.string():
                    table = table.set_column(i, name, _unquoted(table[name]))
            yield table

    kinds = dict(zip(place, sample.schema.types, strict=True))
    return Table(path, tuple(place), kinds, sample, rows, dialect.notes, dialect.headless)


# ---- Arrow and Parquet -----------------------------------------------------------------------------------------------


def _of_arrow(path: Path) -> Table:
    with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as file:
        schema = file.schema
        sample = file.get_batch(0).slice(0, SAMPLE) if file.num_record_batches else schema.empty_table().to_batches()
        first = pa.Table.from_batches([sample] if file.num_record_batches else [], schema)

    def rows(columns: list[str], types: dict[str, pa.DataType]) -> Iterator[pa.Table]:
        with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as file:
            for i in range(file.num_record_batches):
                yield _plain(path, pa.Table.from_batches([file.get_batch(i)]).select(columns))

    return _checked(path, schema, _plain(path, first), rows)


def _of_parquet(path: Path) -> Table:
    _check_proportions(path)
    schema = parquet.read_schema(path)

    def rows(columns: list[str], types: dict[str, pa.DataType]) -> Iterator[pa.Table]:
        count = max(min(ROWS, BLOCK // len(columns)), 1)
        coded = [name for name in columns if _is_text(schema.field(name).type)]  # store repeated names once
        with parquet.ParquetFile(path, read_dictionary=coded) as file:
            for batch in file.iter_batches(count, columns=columns):
                yield _plain(path, pa.Table.from_batches([batch]))

    twice = sorted({name for name in schema.names if schema.names.count(name) > 1})
    if twice:
        raise DataError(f"{path}: column {twice[0]!r} is repeated; rename one")
    with parquet.ParquetFile(path) as file:
        sample = next(file.iter_batches(SAMPLE), None)
    first = schema.empty_table() if sample is None else pa.Table.from_batches([sample])
    return _checked(path, schema, _plain(path, first), rows)


def _of_parts(path: Path) -> Table:
    """A directory of tables with the same columns, in the order of their names, as one table.

    Files of text without a column of tasks are recordings, named after the files.
    """
    files = table_files(path)
    parts = [Table.of(file) for file in files]
    first = parts[0]
    for part in parts:
        if set(part.names) != set(first.names):
            odd = sorted(set(part.names) ^ set(first.names))
            raise DataError(
                f"{path}: {part.path.name} and {first.path.name} differ in column {odd[0]!r}; make them alike"
            )
    recordings = first.path.suffix.lower() not in (".parquet", ".pq", ".feather", ".arrow") and len(parts) > 1
    recordings = recordings and not any(find(name, first.names) for name in ("task", "trial", "recording", "video"))

    def rows(columns: list[str], types: dict[str, pa.DataType]) -> Iterator[pa.Table]:
        for part in parts:
            for table in part.rows([name for name in columns if name in part.names], types):
                if recordings and "task" in columns:
                    table = table.append_column("task", pa.array([part.path.name.partition(".")[0]] * len(table)))
                yield table.select(columns)

    names, kinds, notes = first.names, first.kinds, (f"{len(parts)} files are one table", *first.notes)
    sample = first.sample
    if recordings:
        names, kinds = ("task", *names), {"task": pa.string(), **kinds}
        sample = sample.append_column("task", pa.array([first.path.stem] * len(sample)))
        notes = (f"each of {len(parts)} files is a recording, named after the file", *first.notes)
    return Table(path, names, kinds, sample, rows, notes, first.headless)


def table_files(path: Path) -> list[Path]:
    """Tables in a directory, in the order of their names; parts of partitions in directories below it, too."""
    found = [file for file in sorted(path.glob("**/*")) if file.is_file() and file.suffix.lower() in TABLES]
    kinds = {file.suffix.lower() for file in found}
    if len(kinds) > 1:
        raise DataError(
            f"{path} holds files {', '.join(sorted(kinds))}; name one file, or move each kind to a directory"
        )
    return found


# ---- workbooks -------------------------------------------------------------------------------------------------------

WORKBOOKS = (".xlsx", ".xlsm")
TABLES = (".csv", ".tsv", ".txt", ".parquet", ".pq", ".feather", ".arrow")


def sheet(path: Path) -> tuple[pa.Table, tuple[str, ...]]:
    """The sheet of a workbook that has most cells, for others hold remarks and settings, and a note if there are such.

    Raises:
        DataError: openpyxl is not installed, or the file is no workbook.
    """
    try:
        from openpyxl import load_workbook
    except ModuleNotFoundError as error:
        raise DataError(
            f"{path} is a workbook; install its reader, pip install 'modmeta[formats]', or save the sheet as CSV"
        ) from error
    try:
        with path.open("rb") as file:
            book = load_workbook(file, read_only=True, data_only=True)
            sheets = [
                [row for row in one.iter_rows(values_only=True) if any(cell is not None for cell in row)]
                for one in book.worksheets
            ]
            names = list(book.sheetnames)
    except (FileNotFoundError, PermissionError, MemoryError):
        raise
    except Exception as error:  # openpyxl raises many types of errors for damaged files
        raise DataError(f"{path} is no workbook of Excel, or is damaged ({error}); save the sheet as CSV") from error
    most = max(range(len(sheets)), key=lambda i: sum(map(len, sheets[i])))
    values = sheets[most]
    alike = [name for name, rows in zip(names, sheets, strict=True) if len(rows) > 1 and rows[0] == values[0]]
    if len(alike) > 1:
        raise DataError(
            f"{path}: the sheets {alike[:5]} have the same columns; join them in one, with a column task, or save each "
            "as CSV in a directory of recordings"
        )
    notes = (f"the sheet {names[most]!r} is read, of {names}",) if len(names) > 1 else ()
    if len(values) < 2:
        raise DataError(f"{path}: no rows; give a line of names and a row for every entity and frame")
    used = [i for i in range(len(values[0])) if any(i < len(row) and row[i] is not None for row in values)]
    columns = {}
    for i in used:
        name = "" if values[0][i] is None else str(values[0][i]).strip()
        if name in columns:
            raise DataError(f"{path}: column {name!r} is repeated; rename one")
        cells = [row[i] if i < len(row) else None for row in values[1:]]
        cells = [None if isinstance(cell, str) and cell.strip() in MISSING else cell for cell in cells]
        try:
            columns[name] = pa.array(cells)
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            columns[name] = pa.array([None if cell is None else str(cell) for cell in cells])
    return pa.table(columns), notes


# ---- checks ----------------------------------------------------------------------------------------------------------


def _check_proportions(path: Path) -> None:
    """Rejects a Parquet file whose declared size is out of proportion to its stored size."""
    metadata = parquet.read_metadata(path)
    if metadata.num_columns > COLUMNS or metadata.num_columns * metadata.num_row_groups > PARTS:
        raise DataError(
            f"{path}: {metadata.num_columns} columns in {metadata.num_row_groups} row groups; use at most {COLUMNS} "
            "columns and fewer, larger groups"
        )
    rows = 0
    for group in (metadata.row_group(i) for i in range(metadata.num_row_groups)):
        columns = [group.column(i) for i in range(group.num_columns)]
        check_size(str(path), sum(column.total_uncompressed_size for column in columns), path.stat().st_size)
        rows += group.num_rows
    check_size(f"{path}, {rows} rows", max(rows, metadata.num_rows) * metadata.num_columns * 8, path.stat().st_size)


def _check_name_lengths(where: str, column: pa.ChunkedArray) -> None:
    longest = pc.max(pc.binary_length(column)).as_py() or 0
    if longest > 4 * NAME_LENGTH:  # up to 4 bytes per character in UTF-8
        raise DataError(f"{where}: a name has {longest} bytes; shorten it to at most {NAME_LENGTH} characters")


def _unquoted(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Removes the apostrophe that `for_sheet` adds to names."""
    marked = pc.starts_with(column, "'")
    if not pc.any(marked).as_py():
        return column
    chunks = []
    for chunk in column.chunks:
        coded = chunk.dictionary_encode()
        names = pa.array([from_sheet(name) for name in coded.dictionary.to_pylist()], pa.string())
        chunks.append(names.take(coded.indices))
    return pa.chunked_array(chunks, pa.string())


def _plain(path: Path, table: pa.Table) -> pa.Table:
    """Decodes dictionary-encoded columns and checks the lengths of names."""
    types = []
    for column in table.schema:
        plain = column.type
        if pa.types.is_dictionary(plain):
            plain = plain.value_type
            if _is_text(plain):
                for chunk in table[column.name].chunks:
                    _check_name_lengths(f"{path}: column {column.name!r}", chunk.dictionary)
        types.append(plain)
    return table.cast(pa.schema(zip(table.column_names, types, strict=True)))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _unreadable(path: Path, error: Any) -> DataError:
    if isinstance(error, OSError) and error.errno is not None:
        return DataError(f"{path} cannot be read ({os.strerror(error.errno)}); check the name")
    reason = " ".join(str(error).split())
    if reason == "Empty CSV file":  # a line without an end, and none after it
        return DataError(f"{path} has no rows of numbers; give a line of names and a row for every entity and frame")
    return DataError(f"{path} cannot be read as a table: {reason[:300]}")


# ---- writing ---------------------------------------------------------------------------------------------------------


def as_table(columns: Mapping[str, np.ndarray | list]) -> pa.Table:
    """Table of columns by name. Characters that UTF-8 cannot encode are escaped."""
    out = {}
    for name, values in columns.items():
        try:
            out[encodable(name)] = pa.array(values)
        except UnicodeError:
            out[encodable(name)] = pa.array([encodable(value) for value in values])
    return pa.table(out)


def write_columns(path: Path, table: pa.Table, overwrite: bool, frame_step: float | None = None) -> None:
    """Writes a table as CSV or TSV by suffix, otherwise as Parquet.

    In CSV files names that a spreadsheet would execute are prefixed with an apostrophe (`modmeta.text.for_sheet`);
    reading removes it.

    Raises:
        DataError: see `modmeta.io.write_file`.
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
    """Escapes column names and text for spreadsheets; see `for_sheet`."""
    columns = []
    for column in table.columns:
        if pa.types.is_string(column.type):
            coded = column.combine_chunks().dictionary_encode()
            names = pa.array([for_sheet(name) for name in coded.dictionary.to_pylist()], pa.string())
            column = names.take(coded.indices)
        columns.append(column)
    return pa.table(columns, names=[for_sheet(name) for name in table.column_names])
