"""Named arrays of a file: every kind of damage is reported; numbers, labels and features as they were asked for."""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import IO

import numpy as np

from modmeta.data.reading import Reading
from modmeta.data.trajectories import Trajectories
from modmeta.data.transforms.gaps import absent_last, masked, resampled, with_absent
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


def load_array(path: Path, key: str | None = None) -> np.ndarray:
    """The array of a `.npy` file.

    Raises:
        DataError: the file is missing, damaged or pickled.
    """

    def read() -> np.ndarray:
        with path.open("rb") as stream:
            return read_npy(f"{path}, key {key}" if key else str(path), stream, path.stat().st_size)

    return read_array(path, read, key)


def read_npy(where: str, stream: IO[bytes], available: int) -> np.ndarray:
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


def write_npz(path: Path, arrays: Mapping[str, np.ndarray], overwrite: bool) -> None:
    """Writes a `.npz`.

    Raises:
        DataError: see `modmeta.io.write_file`.
    """
    write_file(path, lambda file: np.savez(file, **dict(arrays)), overwrite)  # type: ignore[arg-type]


def as_asked(path: Path, splits: Mapping[str, Trajectories], how: Reading) -> dict[str, Trajectories]:
    """Arrays, which say less of themselves than tables, in the way that was asked for.

    Raises:
        DataError: their shapes do not belong together, or a feature is not there.
    """
    return {name: _as_asked(data, how, f"{path}, split {name}") for name, data in splits.items()}


def _as_asked(data: Trajectories, how: Reading, where: str) -> Trajectories:
    data.check_shapes(where)
    step = how.frame_step or data.frame_step
    data = replace(data, frame_step=step)
    if how.features is not None:
        lacking = [name for name in how.features if name not in data.features]
        if lacking:
            raise DataError(f"{where}: no feature {lacking[0]!r} among {list(data.features)}")
        chosen = [data.features.index(name) for name in how.features]
        data = replace(data, states=data.states[..., chosen], features=how.features)
    data = masked(data) if how.missing == "mask" else with_absent(data)
    if how.resample is not None:
        data = absent_last(data).validate(where)
        data = resampled(data, np.tile(step * np.arange(data.num_frames), (data.num_tasks, 1)), how.resample, where)
    return data
