"""Text tables: compression, encoding, separator, decimal mark, header and comments are recognised from the first lines.

Arrow parses the numbers. It is given a stream of the rows alone: decompressed, in UTF-8, without header and comments.
"""

import bz2
import codecs
import csv
import gzip
import io
import lzma
import re
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.csv as arrow_csv

from modmeta.data.bounds import COLUMNS, HEADER, check_size
from modmeta.errors import DataError

BLOCK = 1 << 24  # bytes read at a time
LINES = 200  # from which the dialect is recognised
PREAMBLE = 30  # lines of a title that may precede the header
MISSING = ["", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NAN", "-nan", "-NaN", "NULL", "Null", "null", "None",
           "none", "NONE", "-", "--", "?", "missing", "NaT", "."]  # fmt: skip
SEPARATORS = {"\t": "tabs", ";": "semicolons", "|": "bars", ",": "commas", " ": "blanks"}
COMMENTS = ("#", "%", "//")
RECORD = re.compile(r'(?:[^"\r\n]|"[^"]*(?:"|$))*+(?:\r\n|\n|\r|$)')  # quoted fields may contain line breaks
NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*|\s*[+-]?(inf|infinity|nan)\s*", re.IGNORECASE)
COMMA_NUMBER = re.compile(r"\s*[+-]?(\d+,\d*|,\d+)([eE][+-]?\d+)?\s*")
COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".zip")
MAGIC = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}


@dataclass(frozen=True)
class Dialect:
    """How a text table is written.

    Args:
        path: the file.
        names: of the columns, as written; empty for the columns of an index or a trailing separator.
        separator: between fields; a blank stands for any number of blanks and tabs.
        decimal: mark before the decimals.
        encoding: of the text.
        start: characters before the first row.
        sample: the first rows, with the types that Arrow infers; columns are named by their number.
        notes: what was recognised, where it is not the usual form.
        headless: whether there is no line of names.
        commented: whether there are lines of comments.
        padded: whether blanks follow every separator.
    """

    path: Path
    names: tuple[str, ...]
    separator: str
    decimal: str
    encoding: str
    start: int
    sample: pa.Table
    notes: tuple[str, ...] = ()
    headless: bool = False
    commented: bool = False
    padded: bool = False

    @classmethod
    def of(cls, path: Path) -> "Dialect":
        """Recognises the dialect of a file.

        Raises:
            DataError: the file is empty, no text, or its first line exceeds the limits.
            OSError: it cannot be read.
        """
        with opened(path) as file:
            start = file.read(HEADER)
            whole = not file.read(1)
        encoding = _encoding(path, start)
        decoder = codecs.getincrementaldecoder(encoding)()
        text = decoder.decode(start, final=whole)
        return _recognised(path, text, encoding, whole)

    @property
    def kinds(self) -> list[pa.DataType]:
        """Type of every column, from the first rows."""
        return list(self.sample.schema.types)

    @property
    def width(self) -> int:
        """Number of columns."""
        return len(self.names)

    def rows(self, columns: dict[int, pa.DataType]) -> Iterator[pa.RecordBatch]:
        """Yields columns, named by their number, in batches of rows.

        Args:
            columns: types by number of the column.

        Raises:
            DataError: a row has another number of fields, or a field is not of its type. The message names it.
            pa.ArrowException, OSError: the file is damaged.
        """
        wrong: list[arrow_csv.InvalidRow] = []
        try:
            yield from self._read(columns, wrong)
        except pa.ArrowInvalid as error:
            if wrong:
                row = wrong[0]
                raise DataError(
                    f"{self.path}: Expected {self.width} columns, got {row.actual_columns} in the row "
                    f"{row.text[:60]!r}; {SEPARATORS[self.separator]} separate columns, so correct this row"
                ) from error
            self._explain(columns)
            raise

    def _read(self, columns: dict[int, pa.DataType], wrong: list[arrow_csv.InvalidRow]) -> Iterator[pa.RecordBatch]:
        names = [str(i) for i in range(self.width)]

        def remember(row: arrow_csv.InvalidRow) -> str:
            wrong.append(row)
            return "error"

        with opened(self.path) as file:
            stream = _Stream(self._chunks(file))
            reader = arrow_csv.open_csv(
                pa.PythonFile(stream, "r"),
                arrow_csv.ReadOptions(block_size=BLOCK, column_names=names),
                arrow_csv.ParseOptions(
                    delimiter="\t" if self.separator == " " else self.separator,
                    newlines_in_values=True,
                    invalid_row_handler=remember,
                ),
                arrow_csv.ConvertOptions(
                    column_types={str(i): kind for i, kind in columns.items()},
                    include_columns=[str(i) for i in columns],
                    null_values=MISSING,
                    decimal_point=self.decimal,
                    true_values=["true", "True", "TRUE"],
                    false_values=["false", "False", "FALSE"],
                ),
            )
            yield from reader

    def _explain(self, columns: dict[int, pa.DataType]) -> None:
        """Names the first field that is not of the type of its column.

        Raises:
            DataError: there is one.
        """
        before = 0
        for batch in self._read(dict.fromkeys(columns, pa.string()), []):
            for i, kind in columns.items():
                if pa.types.is_string(kind):
                    continue
                for row, value in enumerate(batch.column(list(columns).index(i)).to_pylist()):
                    if value is not None and value.strip() not in MISSING and not self._fits(value, kind):
                        raise DataError(
                            f"{self.path}: column {self.names[i].strip()!r} is of type string; {value.strip()[:60]!r} "
                            f"in row {before + row + 1} is no {_word(kind)}"
                        )
            before += len(batch)

    def _fits(self, value: str, kind: pa.DataType) -> bool:
        if pa.types.is_floating(kind) or pa.types.is_integer(kind):
            return NUMBER.fullmatch(value.replace(",", ".") if self.decimal == "," else value) is not None
        return not pa.types.is_string(_sample([[value]], 1, self.decimal).schema.types[0])

    def _chunks(self, file: IO[bytes]) -> Iterator[bytes]:
        """Rows in UTF-8 with single separators, cut at line breaks."""
        decoder = codecs.getincrementaldecoder(self.encoding)()
        skip, rest = self.start, ""
        while True:
            block = file.read(BLOCK // 4)
            text = rest + decoder.decode(block, final=not block)
            if skip:
                text, skip = text[skip:], max(skip - len(text), 0)
            cut = len(text) if not block or len(text) > BLOCK else text.rfind("\n") + 1
            rest, text = text[cut:], text[:cut]
            if text:
                yield self._cleaned(text).encode()
            if not block:
                return

    def _cleaned(self, text: str) -> str:
        if self.commented:
            text = re.sub(r"(?m)^(#|%|//)[^\r\n]*(\r\n|\n|\r|$)", "", text)
        if self.padded:
            text = re.sub(f"{re.escape(self.separator)} +", self.separator, text)
        if self.separator == " ":
            text = re.sub(r"(?m)^[ \t]+|[ \t]+(?=[\r\n]|$)", "", text)
            text = re.sub(r"[ \t]+", "\t", text)
        return text


def _word(kind: pa.DataType) -> str:
    return "number" if pa.types.is_floating(kind) or pa.types.is_integer(kind) else str(kind)


class _Stream(io.RawIOBase):
    """A file of chunks."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self.chunks, self.rest = chunks, memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def]
        while not len(self.rest):
            try:
                self.rest = memoryview(next(self.chunks))
            except StopIteration:
                return 0
        count = min(len(buffer), len(self.rest))
        buffer[:count] = self.rest[:count]
        self.rest = self.rest[count:]
        return count


# ---- files -----------------------------------------------------------------------------------------------------------


class _Bounded:
    """A decompressed file whose size is bounded by that of the compressed one."""

    def __init__(self, path: Path, file: IO[bytes], stored: int) -> None:
        self.path, self.file, self.stored, self.count = path, file, stored, 0

    def read(self, size: int) -> bytes:
        data = self.file.read(size)
        self.count += len(data)
        check_size(str(self.path), self.count, self.stored)
        return data

    def __enter__(self) -> "_Bounded":
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()


def opened(path: Path) -> IO[bytes]:
    """The bytes of a text file; of a compressed one, gz, bz2, xz, zst or zip, its content.

    Raises:
        DataError: a zip archive does not hold exactly one file.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        magic = file.read(8)
    stored = path.stat().st_size
    for start, reader in MAGIC.items():
        if magic.startswith(start):
            return _Bounded(path, reader(path, "rb"), stored)  # type: ignore[operator, return-value]
    if magic.startswith(b"\x28\xb5\x2f\xfd"):
        return _Bounded(path, pa.input_stream(str(path), compression="zstd"), stored)  # type: ignore[return-value]
    if magic.startswith(b"PK"):
        return _Bounded(path, _member(path), stored)  # type: ignore[return-value]
    return path.open("rb")


def _member(path: Path) -> IO[bytes]:
    archive = zipfile.ZipFile(path)
    members = [one for one in archive.infolist() if not one.is_dir() and not one.filename.startswith("__MACOSX/")]
    if len(members) != 1:
        raise DataError(
            f"{path} holds {len(members)} files, {[one.filename for one in members][:5]}; unpack it and name one, or "
            "the directory if they are recordings"
        )
    return archive.open(members[0])


def is_text(start: bytes) -> bool:
    """Whether the first bytes of a file are text, or compressed text, rather than an unknown binary format."""
    if start.startswith((*MAGIC, b"PK", codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return True
    controls = sum(byte < 32 and byte not in b"\t\n\r\f" for byte in start)
    return (controls == 0 and b"\n" in start) or (b"\r" in start and controls == 0)


def _encoding(path: Path, start: bytes) -> str:
    for mark, name in (
        (codecs.BOM_UTF8, "utf-8-sig"),
        (codecs.BOM_UTF16_LE, "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16"),
    ):
        if start.startswith(mark):
            return name
    if (nul := start[:4000].count(0)) and nul > len(start[:4000]) / 4 and nul < len(start[:4000]):
        return "utf-16-be" if start[0] == 0 else "utf-16-le"
    try:
        codecs.getincrementaldecoder("utf-8")().decode(start)
    except UnicodeDecodeError:
        try:
            start.decode("cp1252")
        except UnicodeDecodeError as error:
            raise DataError(f"{path} is no text in UTF-8, UTF-16 or Windows-1252; save it as UTF-8") from error
        return "cp1252"
    return "utf-8"


# ---- recognition -----------------------------------------------------------------------------------------------------


@dataclass
class _Lines:
    """The first records of a file, without comments, each with its end in the text."""

    records: list[str] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    comments: list[str] = field(default_factory=list)
    commented: bool = False


def _lines(text: str, whole: bool) -> _Lines:
    out, place = _Lines(), 0
    while place < len(text) and len(out.records) < LINES:
        found = RECORD.match(text, place)
        assert found is not None
        if found.end() == place or (found.end() == len(text) and not whole and out.records):
            break  # cut off
        record, place = found.group().strip("\r\n"), found.end()
        if record.startswith(COMMENTS):
            out.commented = True
            if not out.records:
                out.comments.append(record)
        elif record.strip():
            out.records.append(record)
            out.ends.append(place)
        elif out.ends:
            out.ends[-1] = place
    return out


def fields(record: str, separator: str) -> list[str]:
    """Fields of a row."""
    if separator == " ":
        return record.split()
    try:
        return next(csv.reader([record], delimiter=separator, skipinitialspace=f'{separator} "' in record), [])
    except csv.Error:
        return record.split(separator)


def _separator(records: list[str], suffix: str) -> tuple[str, int]:
    """The separator that cuts most records into equally many fields, and that number."""
    usual = "\t" if suffix == ".tsv" else ","
    best, score, width = usual, 0.0, 1
    for separator in (usual, *(one for one in SEPARATORS if one != usual)):
        sizes = [len(fields(record, separator)) for record in records]
        count, times = max(Counter(sizes).items(), key=lambda item: (item[1], item[0]))
        named = any(size in (count, count - 1) for size in sizes[:1])  # commas of decimals are not in the line of names
        found = times / len(records) + (0.5 if named else 0)
        if count > 1 and found > score + 1e-9:
            best, score, width = separator, found, count
    return best, width


def _recognised(path: Path, text: str, encoding: str, whole: bool) -> Dialect:
    first = re.match(r"\ufeff?sep=(.)[ \t]*(\r\n|\n|\r)", text)
    offset = first.end() if first else 0
    lines = _lines(text[offset:], whole)
    if not lines.records:
        raise DataError(f"{path}: Empty CSV file; give a line of names and a row for every entity and frame")
    if not whole and len(lines.records) == 1 and lines.ends[0] >= len(text) - offset:
        raise DataError(f"{path}: the first line is longer than {HEADER} bytes; it must hold the column names")
    if "\0" in text:
        raise DataError(f"{path} holds NUL characters, so it is no text; save it as CSV in UTF-8")
    separator, width = (first[1], 0) if first else _separator(lines.records, path.suffix.lower())
    rows = [fields(record, separator) for record in lines.records]
    width = width or Counter(map(len, rows)).most_common(1)[0][0]
    head = 0
    while head < min(PREAMBLE, len(rows) - 1) and len(rows[head]) < width - 1 and len(rows[head]) <= 2:
        head += 1
    notes = [f"{head} lines before the names are left out"] if head else []
    if rows[head] and rows[head][0].strip() == "scorer":
        names, body = _deeplabcut(rows[head:])
        body += head
        notes.append("DeepLabCut's layout")
    else:
        names, body, more = _header(rows, head, lines.comments, separator)
        notes += more
    if len(names) > COLUMNS:
        raise DataError(f"{path}: {len(names)} columns; give at most {COLUMNS}, with one row per entity and frame")
    decimal = _decimal(rows[body:], separator)
    if separator != "," or decimal != ".":
        notes.append(f"{SEPARATORS.get(separator, separator)} separate columns; the decimal mark is {decimal!r}")
    if encoding not in ("utf-8", "utf-8-sig"):
        notes.append(f"its encoding is {encoding.replace('cp1252', 'Windows-1252')}")
    start = offset + (lines.ends[body - 1] if body else 0)
    sample = _sample([row for row in rows[body:] if len(row) == len(names)], len(names), decimal)
    padded = separator != " " and all(f"{separator} " in record for record in lines.records[head:])
    padded = padded and all(_is_padded(record, separator) for record in lines.records[head:])
    names = [name.strip() for name in names] if padded or separator == " " else names
    return Dialect(
        path,
        tuple(names),
        separator,
        decimal,
        encoding,
        start,
        sample,
        tuple(notes),
        body == 0,
        lines.commented,
        padded,
    )


def _is_padded(record: str, separator: str) -> bool:
    return all(part.startswith(" ") for part in record.split(separator)[1:])


def _header(rows: list[list[str]], head: int, comments: list[str], separator: str) -> tuple[list[str], int, list[str]]:
    """Names, number of records before the first row, and notes."""
    names, body = rows[head], head + 1
    data = rows[head + 1] if len(rows) > head + 1 else []
    if names and all(_is_value(name) for name in names):
        last = [name.strip() for name in fields(comments[-1].lstrip("#%/ "), separator)] if comments else []
        if len(last) == len(names) and not all(map(_is_value, last)):  # as numpy.savetxt writes a header
            return last, head, []
        return (
            [f"column{i + 1}" for i in range(len(names))],
            head,
            ["no line of names: columns are column1, column2, …"],
        )
    notes = []
    while body < min(head + 4, len(rows) - 1) and _is_units(rows[body], rows[body + 1 :]):
        body += 1
    if body > head + 1:
        notes.append(f"{body - head - 1} lines of units or titles after the names are left out")
    rest = rows[body:]
    if len(data) == len(names) + 1 and 2 * sum(len(row) == len(data) for row in rest) > len(rest):
        trailing = all(not row[-1].strip() for row in rest if len(row) == len(data))
        names = [*names, ""] if trailing else ["", *names]
    return names, body, notes


def _is_value(text: str) -> bool:
    return bool(text.strip()) and (NUMBER.fullmatch(text) or COMMA_NUMBER.fullmatch(text)) is not None


def _is_units(row: list[str], below: list[list[str]]) -> bool:
    """Whether a row holds no number where the rows below do."""
    if any(map(_is_value, row)):
        return False
    solid = [other for other in below if any(map(_is_value, other))][:5]
    if not solid:
        return False
    share = sum(map(_is_value, solid[0])) / max(len(solid[0]), 1)
    return share >= 0.5 and len(row) >= len(solid[0]) - 1 and any(cell.strip() for cell in row)


def _deeplabcut(rows: list[list[str]]) -> tuple[list[str], int]:
    """Names INDIVIDUAL:BODYPART_COORD, or BODYPART:COORD of a single animal, and the number of header lines."""
    levels: dict[str, list[str]] = {}
    for row in rows:
        if row[0].strip() not in ("scorer", "individuals", "bodyparts", "coords"):
            break
        levels[row[0].strip()] = [cell.strip() for cell in row[1:]]
    parts, coords = levels.get("bodyparts", []), levels.get("coords", [])
    animals = levels.get("individuals")
    if animals is None or len(set(animals)) < 2:
        names = [f"{part}:{coord}" for part, coord in zip(parts, coords, strict=False)]
    else:
        names = [f"{one}:{part}_{coord}" for one, part, coord in zip(animals, parts, coords, strict=False)]
    return ["frame", *names], len(levels)


def _decimal(rows: list[list[str]], separator: str) -> str:
    """The mark of most different decimals: names repeat. A comma in a table with commas only if there are no points."""
    cells = {cell for row in rows for cell in row}
    commas = sum(COMMA_NUMBER.fullmatch(cell) is not None for cell in cells)
    points = sum("." in cell and NUMBER.fullmatch(cell) is not None for cell in cells)
    return "," if commas > points and not (points and separator == ",") else "."


def _sample(rows: list[list[str]], width: int, decimal: str) -> pa.Table:
    """Rows as a table with the types that Arrow infers."""
    names = [str(i) for i in range(width)]
    if not rows:
        return pa.table({name: pa.nulls(0) for name in names})
    out = io.StringIO()
    csv.writer(out, quoting=csv.QUOTE_MINIMAL).writerows([[cell.strip() for cell in row] for row in rows])
    return arrow_csv.read_csv(
        pa.BufferReader(out.getvalue().encode()),
        arrow_csv.ReadOptions(column_names=names),
        arrow_csv.ParseOptions(newlines_in_values=True),
        arrow_csv.ConvertOptions(null_values=MISSING, decimal_point=decimal, strings_can_be_null=True),
    )
