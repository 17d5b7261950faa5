"""Named arrays on disk: read with every kind of damage reported, written in one piece."""

import math
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from modmeta.data.bounds import check_size
from modmeta.errors import DataError
from modmeta.io import write_file


class Arrays(Mapping[str, np.ndarray]):
    """Arrays of a file by key, each read when it is asked for.

    Raises:
        DataError: on reading an array that is damaged or pickled.
    """

    def __init__(self, path: Path, content: Mapping[str, np.ndarray]) -> None:
        self.path, self.content = path, content
        self.names = dict.fromkeys(content)  # a mapping asked whether it holds a key reads the value

    def __getitem__(self, key: str) -> np.ndarray:
        if key not in self.names:
            raise KeyError(key)
        return read_array(self.path, lambda: self.content[key], key)

    def __contains__(self, key: object) -> bool:
        return key in self.names

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


@contextmanager
def open_arrays(path: Path) -> Iterator[Arrays]:
    """The arrays of a `.npz`; that of a `.npy` has the key `states`.

    Raises:
        DataError: the file is missing or is neither.
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
            raise DataError(f"{path} is neither a .npz nor a .npy file, or is damaged; save it with numpy.savez")


class _Members(Mapping[str, np.ndarray]):
    """Arrays of a `.npz`, each compared with its size in the file before it is read."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self.path, self.archive, self.size = path, zipfile.ZipFile(file), path.stat().st_size
        self.members: dict[str, zipfile.ZipInfo] = {}
        for member in self.archive.infolist():
            key = member.filename.removesuffix(".npy")
            if key in self.members:
                raise DataError(f"{path}: {key!r} is there twice; save the file again with numpy.savez")
            if key.startswith(("/", "\\")) or ".." in key.replace("\\", "/").split("/"):
                raise DataError(f"{path}: {key!r} is a place on a disk and names no array; save it with numpy.savez")
            self.members[key] = member

    def __getitem__(self, key: str) -> np.ndarray:
        member = self.members[key]
        where = f"{self.path}, key {key}"
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise DataError(f"{where}: compressed in a way that NumPy does not use; use numpy.savez_compressed")
        check_size(where, member.file_size, min(member.compress_size, self.size))
        with self.archive.open(member) as stream:
            return _read_npy(where, stream, member.file_size)

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
        raise DataError(f"{path} is damaged or cut short ({error}); make or copy it again") from error


def load_array(path: Path, key: str | None = None) -> np.ndarray:
    """The array of a `.npy` file.

    Raises:
        DataError: the file is missing, damaged or pickled.
    """

    def read() -> np.ndarray:
        with path.open("rb") as stream:
            return _read_npy(f"{path}, key {key}" if key else str(path), stream, path.stat().st_size)

    return read_array(path, read, key)


def _read_npy(where: str, stream: IO[bytes], available: int) -> np.ndarray:
    """An array in NumPy's format, of `available` bytes, its header among them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of headers by older versions
        if stream.read(len(np.lib.format.MAGIC_PREFIX)) != np.lib.format.MAGIC_PREFIX:
            raise DataError(f"{where}: not an array; save it with numpy.save or numpy.savez")
        stream.seek(0)
        version = np.lib.format.read_magic(stream)
        if version not in ((1, 0), (2, 0)):
            raise DataError(f"{where}: a table or an unknown version of the format {version}; save it as a plain array")
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = header(stream)
        if dtype.hasobject:
            raise DataError(f"{where}: holds pickled objects, which are never loaded; save it as a plain array")
        asked = math.prod(shape) * dtype.itemsize
        if min(shape, default=0) < 0 or asked > available - stream.tell():
            raise DataError(
                f"{where}: damaged or cut short (its shape is {shape} of type {dtype}, {asked} bytes, but "
                f"{available - stream.tell()} are there); make or copy the file again"
            )
        stream.seek(0)
        return np.lib.format.read_array(stream, allow_pickle=False)


def read_array(path: Path, read: Callable[[], np.ndarray], key: str | None) -> np.ndarray:
    """What `read` gives, its failures put into words."""
    where = f"{path}, key {key}" if key else str(path)
    try:
        return read()
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{path} cannot be read (No such file); check the name") from error
    except Exception as error:  # altered bytes make NumPy, zipfile and HDF5 raise nearly anything
        raise DataError(f"{where}: damaged or cut short ({error}); make or copy the file again") from error


def as_float(where: str, array: np.ndarray) -> np.ndarray:
    """Numbers as float64; float32 stays what it is.

    Raises:
        DataError: they are no numbers.
    """
    if array.dtype.kind not in "fiu" or array.dtype.itemsize > 8:
        raise DataError(f"{where}: the type is {array.dtype}; save it as numbers, best float64")
    return array.astype(np.float32 if array.dtype.str[1:] == "f4" else np.float64, copy=False)


def as_labels(where: str, array: np.ndarray) -> np.ndarray:
    """Integers, or floats without a fraction, as int64.

    Raises:
        DataError: they are something else.
    """
    if array.dtype.kind not in "fiub" or array.dtype.itemsize > 8:
        raise DataError(f"{where}: the type is {array.dtype}; save it as integer labels from 0")
    with np.errstate(invalid="ignore"):
        labels = array.astype(np.int64)
    wrong = labels != array
    if wrong.any():
        place = np.argwhere(wrong)[0].tolist()
        raise DataError(f"{where}: the value at {place} is {array[tuple(place)]}; labels are integers from 0")
    return labels


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], overwrite: bool) -> None:
    """Writes a `.npz`.

    Raises:
        DataError: see `modmeta.io.write_file`.
    """
    write_file(path, lambda file: np.savez(file, **dict(arrays)), overwrite)  # type: ignore[arg-type]
