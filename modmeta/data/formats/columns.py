"""CSV and Parquet tables: validated columns, read in batches of rows and written atomically."""

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv
import pyarrow.parquet as parquet

from modmeta.data.bounds import COLUMNS, HEADER, NAME_LENGTH, check_size
from modmeta.errors import DataError
from modmeta.io import write_file
from modmeta.text import encodable, for_sheet, from_sheet

BLOCK = 1 << 24  # bytes of a CSV file read at a time
ROWS = 1 << 19  # rows of a Parquet file read at a time; fewer for many columns
PARTS = 1 << 18  # limit of row groups x columns of a Parquet file
FIRST_LINE = re.compile(rb'(?:[^"\r\n]++|"[^"]*+(?:"|$))*+')  # quoted names may contain line breaks


@dataclass(frozen=True)
class Table:
    """A CSV or Parquet table.

    Args:
        path: the file.
        names: names of the columns.
        stored: name in the file by column name; an apostrophe precedes names that a spreadsheet would execute.
    """

    path: Path
    names: tuple[str, ...]
    stored: dict[str, str]

    @classmethod
    def of(cls, path: Path) -> "Table":
        """Opens a file and checks its header and size.

        Raises:
            DataError: the file cannot be read, a column is repeated, or its declared size exceeds the limits.
        """
        try:
            if _is_csv(path):
                _check_header(path)
                with csv.open_csv(path, csv.ReadOptions(block_size=BLOCK), _parsing(path)) as reader:
                    stored = tuple(reader.schema.names)
                names = tuple(map(from_sheet, stored))
            else:
                _check_proportions(path)
                names = stored = tuple(parquet.read_schema(path).names)
        except DataError:
            raise
        except (pa.ArrowException, OSError, ValueError, KeyError) as error:
            raise _unreadable(path, error) from error
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise DataError(f"{path}: column {twice[0]!r} is repeated; rename one")
        return cls(path, names, dict(zip(names, stored, strict=True)))

    def batches(self, text: list[str], numbers: list[str]) -> Iterator[pa.Table]:
        """Yields the given columns in batches of rows.

        Args:
            text: columns of names, read from CSV as text.
            numbers: columns of numbers, read from CSV as float64.

        Raises:
            DataError: the file is damaged, or a column has the wrong type.
        """
        columns = [*text, *numbers]
        stored = [self.stored[name] for name in columns]
        try:
            if _is_csv(self.path):
                types = dict(zip(stored, [pa.string()] * len(text) + [pa.float64()] * len(numbers), strict=True))
                reader = csv.open_csv(
                    self.path,
                    read_options=csv.ReadOptions(block_size=BLOCK),
                    parse_options=_parsing(self.path),
                    convert_options=csv.ConvertOptions(column_types=types, include_columns=stored),
                )
                for batch in reader:
                    table = pa.Table.from_batches([batch]).rename_columns(columns)
                    for name in text:
                        _check_name_lengths(f"{self.path}: column {name!r}", table[name])
                        table = table.set_column(table.column_names.index(name), name, _unquoted(table[name]))
                    yield table
            else:
                rows = max(min(ROWS, BLOCK // len(columns)), 1)
                schema = parquet.read_schema(self.path)
                coded = [name for name in text if _is_text(schema.field(name).type)]  # store repeated names once
                with parquet.ParquetFile(self.path, read_dictionary=coded) as file:
                    for batch in file.iter_batches(rows, columns=columns):
                        yield _plain(self.path, pa.Table.from_batches([batch]))
        except DataError:
            raise
        except (pa.ArrowException, OSError, ValueError, KeyError) as error:
            raise _unreadable(self.path, error) from error


def _check_header(path: Path) -> None:
    """Rejects a CSV file whose first line is too long: its column names would need more memory than the file."""
    with path.open("rb") as file:
        start = file.read(HEADER)
    line = FIRST_LINE.match(start)
    assert line is not None
    if len(line.group()) == HEADER:
        raise DataError(f"{path}: the first line is longer than {HEADER} bytes; it must hold the column names")
    count = line.group().count(b"\t" if path.suffix.lower() == ".tsv" else b",") + 1
    if count > COLUMNS:
        raise DataError(f"{path}: {count} columns; give at most {COLUMNS}, with one row per entity and frame")


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
    for field in table.schema:
        plain = field.type
        if pa.types.is_dictionary(plain):
            plain = plain.value_type
            if _is_text(plain):
                for chunk in table[field.name].chunks:
                    _check_name_lengths(f"{path}: column {field.name!r}", chunk.dictionary)
        types.append(plain)
    return table.cast(pa.schema(zip(table.column_names, types, strict=True)))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_csv(path: Path) -> bool:
    return path.suffix.lower() in (".csv", ".tsv")


def _parsing(path: Path) -> csv.ParseOptions:
    return csv.ParseOptions(delimiter="\t" if path.suffix.lower() == ".tsv" else ",", newlines_in_values=True)


def _unreadable(path: Path, error: Any) -> DataError:
    if isinstance(error, OSError) and error.errno is not None:
        return DataError(f"{path} cannot be read ({os.strerror(error.errno)}); check the name")
    reason = " ".join(str(error).split())
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
