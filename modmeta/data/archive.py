"""Named arrays on disk: read with every kind of damage reported, written in one piece."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from modmeta.errors import DataError
from modmeta.io import write_file


class Arrays(Mapping[str, np.ndarray]):
    """Arrays of a file by key, each read when it is asked for.

    Raises:
        DataError: on reading an array that is damaged or pickled.
    """

    def __init__(self, path: Path, content: Mapping[str, np.ndarray]) -> None:
        self.path, self.content = path, content

    def __getitem__(self, key: str) -> np.ndarray:
        if key not in self.content:
            raise KeyError(key)
        return read_array(self.path, lambda: self.content[key], key)

    def __contains__(self, key: object) -> bool:
        return key in self.content

    def __iter__(self) -> Iterator[str]:
        return iter(self.content)

    def __len__(self) -> int:
        return len(self.content)


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


def _archive(path: Path, file: IO[bytes]) -> Mapping[str, np.ndarray]:
    try:
        return np.load(file, allow_pickle=False)
    except Exception as error:
        raise DataError(f"{path} is damaged or cut short ({error}); make or copy it again") from error


def load_array(path: Path, key: str | None = None) -> np.ndarray:
    """The array of a `.npy` file.

    Raises:
        DataError: the file is missing, damaged or pickled.
    """
    return read_array(path, lambda: np.load(path, allow_pickle=False), key)


def read_array(path: Path, read: Callable[[], np.ndarray], key: str | None) -> np.ndarray:
    """What `read` gives, its failures put into words."""
    where = f"{path}, key {key}" if key else str(path)
    try:
        array = read()
    except Exception as error:  # altered bytes make NumPy and zipfile raise nearly anything
        if "pickle" in str(error).lower():
            raise DataError(
                f"{where}: holds pickled objects, which are never loaded; save it as a plain array"
            ) from error
        raise DataError(f"{where}: damaged or cut short ({error}); make or copy the file again") from error
    if not isinstance(array, np.ndarray):
        raise DataError(f"{where}: not an array; save it with numpy.save or numpy.savez")
    return array


def as_float(where: str, array: np.ndarray) -> np.ndarray:
    """Numbers as float64; float32 stays what it is.

    Raises:
        DataError: they are no numbers.
    """
    if array.dtype.kind not in "fiu":
        raise DataError(f"{where}: the type is {array.dtype}; save it as numbers, best float64")
    return array.astype(np.float32 if array.dtype.str[1:] == "f4" else np.float64, copy=False)


def as_labels(where: str, array: np.ndarray) -> np.ndarray:
    """Integers, or floats without a fraction, as int64.

    Raises:
        DataError: they are something else.
    """
    if array.dtype.kind not in "fiub":
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
