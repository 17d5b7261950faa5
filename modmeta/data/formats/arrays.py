"""Reading named arrays from untrusted files, with errors for damaged ones, and conversion to numbers and labels."""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import IO, TypeVar

import numpy as np

from modmeta.data.reading import Reading
from modmeta.data.trajectories import Trajectories
from modmeta.data.transforms.gaps import absent_last, masked, resampled, with_absent, without_unseen
from modmeta.errors import DataError
from modmeta.io import write_file

Read = TypeVar("Read")


class Arrays(Mapping[str, np.ndarray]):
    """Arrays of a file by key, read on access.

    Raises:
        DataError: on access, if the array is damaged or pickled.
    """

    def __init__(self, path: Path, content: Mapping[str, np.ndarray]) -> None:
        self.path, self.content = path, content
        self.names = dict.fromkeys(content)  # `Mapping.__contains__` would read the array

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


def read_array(path: Path, read: Callable[[], Read], key: str | None) -> Read:
    """Result of `read`, with its exceptions converted to `DataError`."""
    where = f"{path}, key {key}" if key else str(path)
    try:
        return read()
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{path} cannot be read (No such file); check the name") from error
    except Exception as error:  # for damaged files NumPy, zipfile and HDF5 raise many types of errors
        raise DataError(f"{where}: damaged or truncated ({error}); create or copy the file again") from error


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
    """Reads an array in NumPy's format from a stream of `available` bytes, including the header.

    Raises:
        DataError: it is not an array, holds pickled objects, or declares more bytes than available.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about headers written by older versions
        if stream.read(len(np.lib.format.MAGIC_PREFIX)) != np.lib.format.MAGIC_PREFIX:
            raise DataError(f"{where}: not an array; save it with numpy.save or numpy.savez")
        stream.seek(0)
        version = np.lib.format.read_magic(stream)
        if version not in ((1, 0), (2, 0)):
            raise DataError(
                f"{where}: a structured array or an unknown version {version} of the format; save it as a plain array"
            )
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = header(stream)
        if dtype.hasobject:
            raise DataError(f"{where}: holds pickled objects, which are never loaded; save it as a plain array")
        declared = math.prod(shape) * dtype.itemsize
        if min(shape, default=0) < 0 or declared > available - stream.tell():
            raise DataError(
                f"{where}: damaged or truncated (its shape is {shape} of type {dtype}, {declared} bytes, but "
                f"{available - stream.tell()} are stored); create or copy the file again"
            )
        stream.seek(0)
        return np.lib.format.read_array(stream, allow_pickle=False)


def as_float(where: str, array: np.ndarray) -> np.ndarray:
    """Numbers as float64; float32 is kept.

    Raises:
        DataError: the type is not numeric.
    """
    if array.dtype.kind not in "fiu" or array.dtype.itemsize > 8:
        raise DataError(f"{where}: the type is {array.dtype}; save it as numbers, preferably float64")
    return array.astype(np.float32 if array.dtype.str[1:] == "f4" else np.float64, copy=False)


def as_labels(where: str, array: np.ndarray) -> np.ndarray:
    """Integers, or floats with integer values, as int64.

    Raises:
        DataError: the type is not numeric, or a value is not an integer.
    """
    if array.dtype.kind not in "fiub" or array.dtype.itemsize > 8:
        raise DataError(f"{where}: the type is {array.dtype}; save it as integer labels from 0")
    with np.errstate(invalid="ignore"):
        labels = array.astype(np.int64)
    wrong = labels != array
    if wrong.any():
        place = np.argwhere(wrong)[0].tolist()
        raise DataError(f"{where}: the value at {place} is {array[tuple(place)]}; labels must be integers from 0")
    return labels


def write_npz(path: Path, arrays: Mapping[str, np.ndarray], overwrite: bool) -> None:
    """Writes a `.npz` file.

    Raises:
        DataError: see `modmeta.io.write_file`.
    """
    write_file(path, lambda file: np.savez(file, **dict(arrays)), overwrite)  # type: ignore[arg-type]


def with_options(path: Path, splits: Mapping[str, Trajectories], how: Reading) -> dict[str, Trajectories]:
    """Applies reading options (features, masking, resampling, frame step) to trajectories read from arrays.

    Raises:
        DataError: shapes do not match, or a feature does not exist.
    """
    return {name: _with_options(data, how, f"{path}, split {name}") for name, data in splits.items()}


def _with_options(data: Trajectories, how: Reading, where: str) -> Trajectories:
    data.check_shapes(where)
    step = how.frame_step or data.frame_step
    data = replace(data, frame_step=step)
    data = _sure(data, how, where)
    if how.features is not None:
        missing = [name for name in how.features if name not in data.features]
        if missing:
            raise DataError(f"{where}: no feature {missing[0]!r} among {list(data.features)}")
        chosen = [data.features.index(name) for name in how.features]
        data = replace(data, states=data.states[..., chosen], features=how.features)
    data = {"mask": masked, "unseen": without_unseen, "error": with_absent}[how.missing](data)
    if how.resample is not None:
        data = absent_last(data).validate(where)
        data = resampled(data, np.tile(step * np.arange(data.num_frames), (data.num_tasks, 1)), how.resample, where)
    return data


def _sure(data: Trajectories, how: Reading, where: str) -> Trajectories:
    """States whose confidence is too low are NaN; confidences are no features."""
    if not how.mask_below:
        return data
    states = data.states
    for name, least in how.mask_below:
        if name not in data.features:
            raise DataError(f"{where}: no feature {name!r} among {list(data.features)}")
        sure = states[..., data.features.index(name)] >= least
        states = np.where(sure[..., None], states, np.nan)
    kept = [i for i, name in enumerate(data.features) if name not in dict(how.mask_below)]
    return replace(data, states=states[..., kept], features=tuple(data.features[i] for i in kept))
