"""Files of trajectories: one reader, and writer where there is one, a file; `FORMATS` lists them.

| format | module |
|---|---|
| `.npz`, `.npy`: arrays by name | `npz`, `native` |
| HDF5: the same arrays | `hdf5`, `native` |
| CSV and Parquet: a row for each entity in each frame of each task | `tables` |
| the published layout, a directory of `.npy` or arrays by its names | `nri` |

To add one, write a file with `read(path, split, how)`, and `write(path, splits, overwrite)` if it can be written, and
enter it in `FORMATS`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from modmeta.data.formats import hdf5, npz, nri, tables
from modmeta.data.formats.relations import with_relations
from modmeta.data.reading import Reading
from modmeta.data.trajectories import Trajectories
from modmeta.data.transforms.gaps import absent_last
from modmeta.errors import DataError
from modmeta.io import check_free

Splits = dict[str, Trajectories]


@dataclass(frozen=True)
class Format:
    """A kind of file.

    Args:
        endings: of its files' names, in lower case.
        magic: bytes that such files begin with, by which one of another ending is recognised.
        read: path, split or none for all, and how to read, to trajectories by split.
        write: path, trajectories by split, and whether to overwrite; none where it is only read.
    """

    endings: tuple[str, ...]
    magic: tuple[bytes, ...]
    read: Callable[[Path, str | None, Reading], Splits]
    write: Callable[[Path, Mapping[str, Trajectories], bool], None] | None = None


NPZ = Format((".npz", ".npy"), (b"PK", b"\x93NUMPY"), npz.read, npz.write)
NRI = Format((), (), nri.read)  # a directory
FORMATS = (
    NPZ,
    Format((".h5", ".hdf5", ".hdf"), (b"\x89HDF",), hdf5.read, hdf5.write),
    Format((".csv", ".tsv"), (), tables.read, tables.write),
    Format((".parquet", ".pq"), (b"PAR1",), tables.read, tables.write),
)


def format_of(path: Path) -> Format:
    """The format of a file by its ending, else by its first bytes; `NPZ`, which says what is wrong, where none fits."""
    if path.is_dir():
        return NRI
    for known in FORMATS:
        if path.suffix.lower() in known.endings:
            return known
    try:
        with path.open("rb") as file:
            start = file.read(8)
    except OSError:
        start = b""
    return next((known for known in FORMATS if known.magic and start.startswith(known.magic)), NPZ)


def load(path: Path | str, split: str | None = None, how: Reading | None = None) -> dict[str, Trajectories]:
    """Reads a file, or a directory in the published layout, and validates what it holds.

    Args:
        path: of the file, of one of `FORMATS`, or a directory.
        split: read this one only; also the name that a single array gets.
        how: names of columns, and what to do about what is missing or uneven.

    Returns:
        Trajectories by split.

    Raises:
        DataError: the file is missing, damaged, pickled, of an unknown layout, or its values do not make sense.
    """
    path, how = Path(path), how or Reading()
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise DataError(f"{path} is neither a file nor a directory; copy what it gives to a file")
    try:
        splits = format_of(path).read(path, split, how)
        for name, data in splits.items():
            where = f"{path}, split {name}"
            data.check_shapes(where)
            data = absent_last(data)
            if how.relations is not None:
                data = with_relations(data, Path(how.relations), where)
            splits[name] = data.validate(where)
    except MemoryError as error:
        raise DataError(f"{path} does not fit into memory; split it into several files") from error
    usual = ("train", "valid", "test")  # in this order, others after them as they come
    return dict(sorted(splits.items(), key=lambda item: usual.index(item[0]) if item[0] in usual else len(usual)))


def save(path: Path | str, splits: Mapping[str, Trajectories], overwrite: bool = False) -> None:
    """Writes one file, `.npz`, or by its ending HDF5, CSV or Parquet, completely or not at all.

    Args:
        path: of the file; its directory exists. Tables hold no relations.
        splits: trajectories by name; features, frame step and settings are the same in all.
        overwrite: replace a file that is there.

    Raises:
        DataError: the file exists, cannot be written, or the trajectories are not valid.
    """
    path = Path(path)
    check_free(path, overwrite)
    _check_agreement(path, splits)
    by_ending = (known.write for known in FORMATS if path.suffix.lower() in known.endings)
    write = next(by_ending, NPZ.write)
    assert write is not None
    write(path, splits, overwrite)


def _check_agreement(path: Path, splits: Mapping[str, Trajectories]) -> None:
    if not splits:
        raise DataError(f"{path}: no split to save; give at least one")
    name, first = next(iter(splits.items()))
    for other, data in splits.items():
        if not other.isidentifier():
            raise DataError(f"{path}: {other!r} cannot name a split; use letters, digits and underscores")
        data.validate(f"{path}, split {other}")
        for what in ("features", "frame_step", "settings"):
            if getattr(data, what) != getattr(first, what):
                raise DataError(
                    f"{path}: {what} of split {other}, {getattr(data, what)}, differs from that of split {name}, "
                    f"{getattr(first, what)}; save them to separate files"
                )
