"""Open tables, CSV and Parquet, as batches of rows, their columns checked."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv
import pyarrow.parquet as parquet

from modmeta.data.reading import Reading
from modmeta.errors import DataError

SPLIT = "split"
BLOCK = 1 << 24  # bytes of a CSV file read at a time
ROWS = 1 << 19  # rows of a Parquet file, likewise


@dataclass(frozen=True)
class Source:
    """An open table: its name, its columns, and batches of its rows."""

    path: Path
    names: tuple[str, ...]
    how: Reading

    @classmethod
    def of(cls, path: Path, how: Reading) -> "Source":
        """Checks that the file can be read and has the columns that are needed."""
        try:
            schema = (
                csv.open_csv(path, parse_options=_parsing(path)).schema if _is_csv(path) else parquet.read_schema(path)
            )
        except (pa.ArrowException, OSError, ValueError) as error:
            raise _unreadable(path, error) from error
        source = cls(path, tuple(schema.names), how)
        twice = sorted({name for name in schema.names if schema.names.count(name) > 1})
        if twice:
            raise DataError(f"{path}: column {twice[0]!r} is there twice; rename one")
        for purpose, name in (("task", how.task), ("frame", how.frame), ("entity", how.entity)):
            if name not in schema.names:
                raise DataError(
                    f"{path}: no column {name!r} among {schema.names}; name the one that holds the {purpose}, "
                    f"such as {purpose}={next(iter(schema.names), 'NAME')}"
                )
        for name in how.features or ():
            if name not in schema.names:
                raise DataError(f"{path}: no column {name!r} among {schema.names}; choose features that are there")
        if not source.features:
            raise DataError(
                f"{path}: no column beside {how.task}, {how.frame} and {how.entity}; add features, such as x, y"
            )
        return source

    @property
    def keys(self) -> list[str]:
        """Columns that say what a row is about."""
        split = [SPLIT] if SPLIT in self.names and SPLIT not in (self.how.features or ()) else []
        return [*split, self.how.task, self.how.entity, self.how.frame]

    @property
    def features(self) -> tuple[str, ...]:
        """Columns of features."""
        return self.how.features or tuple(name for name in self.names if name not in self.keys)

    def batches(self, columns: list[str]) -> Iterator[pa.Table]:
        """The named columns, a batch of rows at a time.

        Raises:
            DataError: the file is damaged or a column is not what it should be.
        """
        try:
            if _is_csv(self.path):
                text = [name for name in self.keys if name != self.how.frame]
                types = {name: pa.string() for name in text} | {
                    name: pa.float64() for name in (self.how.frame, *self.features)
                }
                reader = csv.open_csv(
                    self.path,
                    read_options=csv.ReadOptions(block_size=BLOCK),
                    parse_options=_parsing(self.path),
                    convert_options=csv.ConvertOptions(column_types=types, include_columns=columns),
                )
                yield from (pa.Table.from_batches([batch]) for batch in reader)
            else:
                with parquet.ParquetFile(self.path) as file:
                    for batch in file.iter_batches(ROWS, columns=columns):
                        yield _plain(pa.Table.from_batches([batch]))
        except (pa.ArrowException, OSError, ValueError) as error:
            raise _unreadable(self.path, error) from error


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


def _plain(table: pa.Table) -> pa.Table:
    """Columns with dictionaries as the values that they stand for."""
    types = [field.type.value_type if pa.types.is_dictionary(field.type) else field.type for field in table.schema]
    return table.cast(pa.schema(zip(table.column_names, types, strict=True)))


def _is_csv(path: Path) -> bool:
    return path.suffix.lower() in (".csv", ".tsv")


def _parsing(path: Path) -> csv.ParseOptions:
    return csv.ParseOptions(delimiter="\t" if path.suffix.lower() == ".tsv" else ",")


def _unreadable(path: Path, error: Any) -> DataError:
    if isinstance(error, OSError) and error.errno is not None:
        return DataError(f"{path} cannot be read ({os.strerror(error.errno)}); check the name")
    said = " ".join(str(error).split())
    return DataError(f"{path} cannot be read as a table: {said[:300]}")
