"""NumPy files: `.npz` with named arrays (layouts `native` or `nri`), and `.npy` with states only."""

import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from modmeta.data.bounds import check_size
from modmeta.data.formats import native, trackers
from modmeta.data.formats.arrays import Arrays, load_array, read_npy, write_npz
from modmeta.data.formats.columns import TABLES
from modmeta.data.reading import Reading
from modmeta.data.trajectories import Trajectories
from modmeta.errors import DataError


def read(path: Path, split: str | None, how: Reading) -> dict[str, Trajectories]:
    """Splits of a file; see `modmeta.data.formats.load`."""
    if (pickled := pickled_content(path)) is not None:
        return trackers.read_pickled(path, pickled, split, how)
    with _opened(path) as arrays:
        return native.from_arrays(path, arrays, split, how)


def is_archive(path: Path) -> bool:
    """Whether a file is a zip archive of arrays, whatever its ending."""
    try:
        with path.open("rb") as file:
            if file.read(2) != b"PK":
                return False
            return any(name.endswith(".npy") for name in zipfile.ZipFile(file).namelist())
    except Exception:  # for damaged files zipfile raises many types of errors; a reader then reports them
        return False


def write(path: Path, splits: Mapping[str, Trajectories], overwrite: bool) -> None:
    """Writes one file; see `modmeta.data.formats.save`."""
    write_npz(path, native.to_arrays(path, splits), overwrite)


def pickled_content(path: Path) -> bytes | None:
    """The pickle in a `.npy` file of an object, as idtracker.ai writes; None if the file is anything else."""
    try:
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if np.lib.format.read_magic(file) != (1, 0):
                return None
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
            return file.read() if dtype.hasobject and shape == () else None
    except Exception:  # its reader reports what is wrong
        return None


@contextmanager
def _opened(path: Path) -> Iterator[Arrays]:
    """Yields the arrays of a `.npz` file, or the array of a `.npy` file under the key `states`.

    Raises:
        DataError: the file is missing, damaged, or in another format.
    """
    try:
        file = path.open("rb")
        magic = file.read(6)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); check the name") from error
    with file:
        if magic == b"\x93NUMPY":
            yield Arrays(path, {"states": load_array(path, "states")})
        elif magic[:2] == b"PK":
            file.seek(0)
            yield Arrays(path, _archive(path, file))
        else:
            raise DataError(
                f"{path} is neither a .npz nor a .npy file, or is damaged; save it with numpy.savez, or in another "
                f"form that is read: tables ({', '.join(TABLES)}, .xlsx, also compressed), .h5, .mat, .slp, .xml of "
                "TrackMate, .xyz, .lammpstrj"
            )


class _Members(Mapping[str, np.ndarray]):
    """Arrays of a `.npz` file; declared sizes are checked before reading."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self.path, self.archive, self.size = path, zipfile.ZipFile(file), path.stat().st_size
        self.members: dict[str, zipfile.ZipInfo] = {}
        for member in self.archive.infolist():
            key = member.filename.removesuffix(".npy")
            if key in self.members:
                raise DataError(f"{path}: {key!r} is repeated; save the file again with numpy.savez")
            if key.startswith(("/", "\\")) or ".." in key.replace("\\", "/").split("/"):
                raise DataError(f"{path}: {key!r} is a path, not the name of an array; save it with numpy.savez")
            self.members[key] = member

    def __getitem__(self, key: str) -> np.ndarray:
        member = self.members[key]
        where = f"{self.path}, key {key}"
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise DataError(f"{where}: NumPy does not use this compression method; use numpy.savez_compressed")
        check_size(where, member.file_size, min(member.compress_size, self.size))
        with self.archive.open(member) as stream:
            return read_npy(where, stream, member.file_size)

    def __iter__(self) -> Iterator[str]:
        return iter(self.members)

    def __len__(self) -> int:
        return len(self.members)


def _archive(path: Path, file: IO[bytes]) -> Mapping[str, np.ndarray]:
    try:
        return _Members(path, file)
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{path} is damaged or truncated ({error}); create or copy it again") from error
