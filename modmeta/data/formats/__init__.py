"""File formats of trajectories, one module each, registered in `FORMATS`.

| format | module |
|---|---|
| `.npz`, `.npy`: named arrays | `npz`, `native` |
| HDF5: the same arrays | `hdf5`, `native` |
| tables, text, Parquet, Feather, workbooks, directories of them | `tables` |
| `.mat` of MATLAB | `matlab` |
| files of trackers: SLEAP, DeepLabCut, idtracker.ai, TrackMate | `trackers` |
| trajectories of atoms: xyz, LAMMPS | `atoms` |
| the published layout: a directory of `.npy` files, or arrays with its names | `nri` |

To add a format, write a module with `read(path, split, how)` and optionally `write(path, splits, overwrite)`, and add
it to `FORMATS`.
"""

import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from modmeta.data.formats import atoms, hdf5, matlab, npz, nri, tables, text, trackers
from modmeta.data.formats.columns import table_files
from modmeta.data.formats.relations import with_relations
from modmeta.data.reading import ALL, Reading
from modmeta.data.trajectories import Trajectories
from modmeta.data.transforms.gaps import absent_last
from modmeta.errors import DataError
from modmeta.io import check_free, expanded

Splits = dict[str, Trajectories]


@dataclass(frozen=True)
class Format:
    """A file format.

    Args:
        endings: suffixes of file names, lower case.
        magic: first bytes of files, used to recognise files with other suffixes.
        read: function (path, split or None for all, options) -> trajectories by split.
        write: function (path, trajectories by split, overwrite); None for read-only formats.
    """

    endings: tuple[str, ...]
    magic: tuple[bytes, ...]
    read: Callable[[Path, str | None, Reading], Splits]
    write: Callable[[Path, Mapping[str, Trajectories], bool], None] | None = None


NPZ = Format((".npz", ".npy"), (b"\x93NUMPY",), npz.read, npz.write)
NRI = Format((), (), nri.read)  # a directory
TEXT = Format((".txt", ".dat", ".xlsx", ".xlsm", *text.COMPRESSED), (), tables.read)
FORMATS = (
    NPZ,
    Format((".h5", ".hdf5", ".hdf"), (b"\x89HDF",), hdf5.read, hdf5.write),
    Format((".csv", ".tsv"), (), tables.read, tables.write),
    Format((".parquet", ".pq"), (b"PAR1",), tables.read, tables.write),
    Format((".feather", ".arrow"), (b"ARROW1",), tables.read),
    Format((".mat",), (b"MATLAB",), matlab.read),
    Format((".slp",), (), trackers.read_slp),
    Format((".xml",), (b"<?xml",), trackers.read_trackmate),
    Format(atoms.ENDINGS, (b"ITEM: TIMESTEP",), atoms.read),
    TEXT,
)


PANDAS = {
    ".json": "read_json({0!r})", ".jsonl": "read_json({0!r}, lines=True)", ".ndjson": "read_json({0!r}, lines=True)",
    ".pkl": "read_pickle({0!r})", ".pickle": "read_pickle({0!r})", ".dta": "read_stata({0!r})",
    ".sav": "read_spss({0!r})", ".sas7bdat": "read_sas({0!r})", ".ods": "read_excel({0!r})",
    ".xls": "read_excel({0!r})", ".orc": "read_orc({0!r})", ".html": "read_html({0!r})[0]",
}  # fmt: skip
ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".7z", ".rar")


def _check_known(path: Path) -> None:
    """Says of files of other programs, which are not read, how to convert them.

    Raises:
        DataError: it is one.
    """
    name, ending = path.name, path.suffix.lower()
    if not path.is_file():
        return
    if name.lower().endswith(ARCHIVES):
        raise DataError(f"{path} is an archive; unpack it and name the file, or the directory of recordings")
    if any(ending in known.endings for known in FORMATS):  # as others may add it
        return
    if ending in PANDAS:
        words = PANDAS[ending].format(name)
        trust = "; a pickle runs what is in it, so only if you trust it" if ending in (".pkl", ".pickle") else ""
        raise DataError(
            f"{path}: {ending} is not read; convert it in Python: import pandas; table = pandas.{words}; "
            f"table.to_csv({path.stem + '.csv'!r}, index=False){trust}"
        )
    if ending in (".rds", ".rda", ".rdata"):
        load = f"readRDS({name!r})" if ending == ".rds" else f"get(load({name!r}))"
        raise DataError(
            f"{path}: {ending} is not read; convert it in R: write.csv({load}, {path.stem + '.csv'!r}, "
            "row.names = FALSE)"
        )


def format_of(path: Path) -> Format:
    """Format of a file by suffix, else by its first bytes; `NPZ`, whose reader reports the error, if none matches."""
    if path.is_dir():
        return NRI if any(path.glob("loc_*.npy")) or not table_files(path) else TEXT
    if npz.is_archive(path):
        return NPZ
    for known in FORMATS:
        if path.suffix.lower() in known.endings:
            return known
    try:
        with path.open("rb") as file:
            start = file.read(4096)
    except OSError:
        start = b""
    by_content = next((known for known in FORMATS if start.startswith(known.magic or (b"\0" * 5000,))), None)
    if by_content is not None:
        return by_content
    return TEXT if start and text.is_text(start) else NPZ


def load(path: Path | str, split: str | None = None, how: Reading | None = None) -> dict[str, Trajectories]:
    """Reads and validates a file, or a directory in the published layout.

    Args:
        path: a file of one of `FORMATS`, or a directory; `-` is standard input.
        split: split to read; None for all. A file without splits gets this name, or `test`.
        how: names of columns, treatment of missing values and uneven times.

    Returns:
        Trajectories by split, in the order train, valid, test, others.

    Raises:
        DataError: the file is missing, damaged, pickled, has an unknown layout, or its values are invalid.
    """
    path, how = expanded(path), how or Reading()
    if str(path) == "-":
        with piped() as copy:
            return load(copy, split, how)
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise DataError(f"{path} is neither a file nor a directory; copy its content to a file")
    _check_known(path)
    try:
        splits = format_of(path).read(path, split, how)
        for name, data in splits.items():
            where = f"{path}, split {name}"
            data.check_shapes(where)
            data = absent_last(data)
            if how.group == ALL and data.group_names is None:
                data = replace(data, group_names=np.full(data.num_tasks, ALL))
            if how.relations is not None:
                data = with_relations(data, Path(how.relations), where)
            splits[name] = data.validate(where)
    except MemoryError as error:
        raise DataError(f"{path} does not fit into memory; split it into several files") from error
    _check_groups(path, splits)
    usual = ("train", "valid", "test")
    return dict(sorted(splits.items(), key=lambda item: usual.index(item[0]) if item[0] in usual else len(usual)))


@contextmanager
def piped() -> Iterator[Path]:
    """A file with the content of standard input, since tables are read twice."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "standard input"
        with path.open("wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
        yield path


def save(path: Path | str, splits: Mapping[str, Trajectories], overwrite: bool = False) -> None:
    """Writes one file atomically: HDF5, CSV or Parquet by its suffix, otherwise `.npz`.

    Args:
        path: output file in an existing directory. Tables do not store relations.
        splits: trajectories by name, with equal features, frame step and settings.
        overwrite: whether to replace an existing file.

    Raises:
        DataError: the file exists, cannot be written, or the trajectories are invalid.
    """
    path = Path(path)
    check_free(path, overwrite)
    _check_agreement(path, splits)
    by_ending = (known.write for known in FORMATS if known.write and path.suffix.lower() in known.endings)
    write = next(by_ending, NPZ.write)
    assert write is not None
    write(path, splits, overwrite)


def _check_groups(path: Path, splits: Mapping[str, Trajectories]) -> None:
    grouped = [name for name, data in splits.items() if data.group_names is not None]
    if grouped and (without := [name for name in splits if name not in grouped]):
        raise DataError(
            f"{path}: split {grouped[0]} has groups but split {without[0]} has none; give the groups of all splits"
        )


def _check_agreement(path: Path, splits: Mapping[str, Trajectories]) -> None:
    if not splits:
        raise DataError(f"{path}: no split to save; give at least one")
    _check_groups(path, splits)
    name, first = next(iter(splits.items()))
    for other, data in splits.items():
        if not other.isidentifier():
            raise DataError(f"{path}: {other!r} is not a valid split name; use letters, digits and underscores")
        data.validate(f"{path}, split {other}")
        for what in ("features", "frame_step", "settings"):
            if getattr(data, what) != getattr(first, what):
                raise DataError(
                    f"{path}: {what} of split {other}, {getattr(data, what)}, differs from that of split {name}, "
                    f"{getattr(first, what)}; save them to separate files"
                )
