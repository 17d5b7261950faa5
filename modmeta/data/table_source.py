"""Open tables, CSV and Parquet, as batches of rows, their columns checked."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv
import pyarrow.parquet as parquet

from modmeta.data.bounds import COLUMNS, HEADER, LETTERS, WHOLE, check_size
from modmeta.data.reading import Reading
from modmeta.errors import DataError
from modmeta.text import from_sheet

SPLIT = "split"
BLOCK = 1 << 24  # bytes of a CSV file read at a time
ROWS = 1 << 19  # rows of a Parquet file, likewise, or fewer where it has many columns
PARTS = 1 << 18  # row groups x columns of a Parquet file
FIRST_LINE = re.compile(rb'(?:[^"\r\n]++|"[^"]*+(?:"|$))*+')  # line ends between quotation marks belong to a name


@dataclass(frozen=True)
class Table:
    """An open table, CSV or Parquet: the names of its columns, and batches of its rows.

    Args:
        path: of the file.
        names: of its columns.
        stored: by name, what the file calls it: an apostrophe comes before names that a spreadsheet would execute.
    """

    path: Path
    names: tuple[str, ...]
    stored: dict[str, str]

    @classmethod
    def of(cls, path: Path) -> "Table":
        """Checks that the file can be read and is not out of proportion.

        Raises:
            DataError: it cannot, or is.
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
            raise DataError(f"{path}: column {twice[0]!r} is there twice; rename one")
        return cls(path, names, dict(zip(names, stored, strict=True)))

    def batches(self, text: list[str], numbers: list[str]) -> Iterator[pa.Table]:
        """The named columns, a batch of rows at a time.

        Args:
            text: columns of names; from CSV they come as text.
            numbers: columns of numbers; from CSV they come as float64.

        Raises:
            DataError: the file is damaged, or a column is not what it should be.
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
                        _check_letters(f"{self.path}: column {name!r}", table[name])
                        table = table.set_column(table.column_names.index(name), name, _unquoted(table[name]))
                    yield table
            else:
                rows = max(min(ROWS, BLOCK // len(columns)), 1)
                schema = parquet.read_schema(self.path)
                coded = [name for name in text if _is_text(schema.field(name).type)]  # a long name is read but once
                with parquet.ParquetFile(self.path, read_dictionary=coded) as file:
                    for batch in file.iter_batches(rows, columns=columns):
                        yield _plain(self.path, pa.Table.from_batches([batch]))
        except DataError:
            raise
        except (pa.ArrowException, OSError, ValueError, KeyError) as error:
            raise _unreadable(self.path, error) from error


def _check_header(path: Path) -> None:
    """Refuses a CSV file whose first line no table has: its names would take more memory than the file."""
    with path.open("rb") as file:
        start = file.read(HEADER)
    line = FIRST_LINE.match(start)
    assert line is not None
    if len(line.group()) == HEADER:
        raise DataError(f"{path}: the first line is longer than {HEADER} bytes; give names of columns in it")
    count = line.group().count(b"\t" if path.suffix.lower() == ".tsv" else b",") + 1
    if count > COLUMNS:
        raise DataError(f"{path}: {count} columns; give at most {COLUMNS}, such as one row for each entity and frame")


def _check_proportions(path: Path) -> None:
    """Refuses a Parquet file that says it holds far more than its size allows."""
    metadata = parquet.read_metadata(path)
    if metadata.num_columns > COLUMNS or metadata.num_columns * metadata.num_row_groups > PARTS:
        raise DataError(
            f"{path}: {metadata.num_columns} columns in {metadata.num_row_groups} row groups; give at most {COLUMNS} "
            f"columns, in fewer and larger groups"
        )
    rows = 0
    for group in (metadata.row_group(i) for i in range(metadata.num_row_groups)):
        columns = [group.column(i) for i in range(group.num_columns)]
        check_size(str(path), sum(column.total_uncompressed_size for column in columns), path.stat().st_size)
        rows += group.num_rows
    check_size(f"{path}, {rows} rows", max(rows, metadata.num_rows) * metadata.num_columns * 8, path.stat().st_size)


def _check_letters(where: str, column: pa.ChunkedArray) -> None:
    longest = pc.max(pc.binary_length(column)).as_py() or 0
    if longest > 4 * LETTERS:  # bytes of a letter in UTF-8
        raise DataError(f"{where}: a name of {longest} bytes; names have at most {LETTERS} letters, so shorten it")


def _unquoted(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Names of a CSV file without the apostrophe that keeps spreadsheets from executing them."""
    marked = pc.starts_with(column, "'")
    if not pc.any(marked).as_py():
        return column
    chunks = []
    for chunk in column.chunks:
        coded = chunk.dictionary_encode()
        names = pa.array([from_sheet(name) for name in coded.dictionary.to_pylist()], pa.string())
        chunks.append(names.take(coded.indices))
    return pa.chunked_array(chunks, pa.string())


@dataclass(frozen=True)
class Source:
    """A table of trajectories: its columns by their purposes."""

    table: Table
    how: Reading

    @classmethod
    def of(cls, path: Path, how: Reading) -> "Source":
        """Checks that the file can be read and has the columns that are needed."""
        source = cls(Table.of(path), how)
        names = list(source.names)
        for purpose, name in (("task", how.task), ("frame", how.frame), ("entity", how.entity)):
            if name not in names:
                raise DataError(
                    f"{path}: no column {name!r} among {names}; name the one that holds the {purpose}, "
                    f"such as {purpose}={next(iter(names), 'NAME')}"
                )
        for name in how.features or ():
            if name not in names:
                raise DataError(f"{path}: no column {name!r} among {names}; choose features that are there")
        if not source.features:
            raise DataError(
                f"{path}: no column beside {how.task}, {how.frame} and {how.entity}; add features, such as x, y"
            )
        return source

    @property
    def path(self) -> Path:
        """Of the file."""
        return self.table.path

    @property
    def names(self) -> tuple[str, ...]:
        """All columns."""
        return self.table.names

    @property
    def keys(self) -> list[str]:
        """Columns that say what a row is about."""
        split = [SPLIT] if SPLIT in self.names and SPLIT not in (self.how.features or ()) else []
        return [*split, self.how.task, self.how.entity, self.how.frame]

    @property
    def features(self) -> tuple[str, ...]:
        """Columns of features."""
        return self.how.features or tuple(name for name in self.names if name not in self.keys)

    def batches(self, features: tuple[str, ...] = ()) -> Iterator[pa.Table]:
        """The keys, and some features, a batch of rows at a time.

        Raises:
            DataError: the file is damaged or a column is not what it should be.
        """
        text = [name for name in self.keys if name != self.how.frame]
        return self.table.batches(text, [self.how.frame, *features])


def check_keys(source: Source, table: pa.Table) -> None:
    for name in source.keys:
        column = table[name]
        wanted = pa.types.is_integer(column.type) or pa.types.is_floating(column.type)
        if name == source.how.frame and not wanted:
            raise DataError(f"{source.path}: column {name!r} is of type {column.type}; give frame numbers or times")
        if name != source.how.frame and not (
            pa.types.is_integer(column.type) or pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
        ):
            raise DataError(f"{source.path}: column {name!r} is of type {column.type}; give names or whole numbers")
        empty = pc.is_null(column, nan_is_null=True)
        if pa.types.is_string(column.type):
            empty = pc.or_(empty, pc.equal(column, ""))
        if pc.any(empty).as_py():
            row = int(pc.index(empty, True).as_py())
            raise DataError(
                f"{source.path}: {_describe(table, source, row)} has no {name}; fill it in or remove the row"
            )
        if name == source.how.frame and not pc.all(pc.is_finite(column)).as_py():
            row = int(pc.index(pc.is_finite(column), False).as_py())
            raise DataError(f"{source.path}: {_describe(table, source, row)}: the frame is not a finite number")
        if name == source.how.frame and (large := np.abs(column.to_numpy().astype(float)) > WHOLE).any():
            raise DataError(
                f"{source.path}: {_describe(table, source, int(large.argmax()))}: frames go up to 2^53, "
                "beyond which floats do not tell them apart; correct it, or subtract the first, or give larger units"
            )


def _describe(table: pa.Table, source: Source, row: int) -> str:
    """A row by its keys."""
    return "the row of " + ", ".join(f"{name} {table[name][row].as_py()}" for name in source.keys)


def check_new(source: Source, table: pa.Table, place: np.ndarray, seen: np.ndarray) -> None:
    old = seen[place]
    order = np.argsort(place, kind="stable")
    old[order[1:][np.diff(place[order]) == 0]] = True
    if old.any():
        raise DataError(f"{source.path}: {_describe(table, source, int(old.argmax()))} is there twice; remove one")


def numbers(source: Source, table: pa.Table, name: str) -> np.ndarray:
    column = table[name]
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        raise DataError(
            f"{source.path}: column {name!r} is of type {column.type}; features are numbers, so choose others with "
            "features=..."
        )
    return column.to_numpy().astype(float)


def _plain(path: Path, table: pa.Table) -> pa.Table:
    """Columns with dictionaries as the values that they stand for."""
    types = []
    for field in table.schema:
        plain = field.type
        if pa.types.is_dictionary(plain):
            plain = plain.value_type
            if _is_text(plain):
                for chunk in table[field.name].chunks:
                    _check_letters(f"{path}: column {field.name!r}", chunk.dictionary)
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
    said = " ".join(str(error).split())
    return DataError(f"{path} cannot be read as a table: {said[:300]}")
