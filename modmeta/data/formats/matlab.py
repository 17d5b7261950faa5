"""MATLAB's `.mat` files, by content rather than ending: version 5 by SciPy, 7.3, which is HDF5, by h5py.

The arrays are those of `native`, such as `states`; a file with a single array of three or four axes needs no such name.
MATLAB stores arrays by columns; here they have the shape that MATLAB shows.
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from modmeta.data.bounds import check_size
from modmeta.data.formats import hdf5, native
from modmeta.data.formats.arrays import Arrays
from modmeta.data.reading import Reading
from modmeta.data.trajectories import Trajectories
from modmeta.errors import DataError

HDF = b"\x89HDF"


def read(path: Path, split: str | None, how: Reading) -> dict[str, Trajectories]:
    """Splits of a file; see `modmeta.data.formats.load`."""
    try:
        with path.open("rb") as file:
            start = file.read(520)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); check the name") from error
    if start.startswith(HDF) or start[512:].startswith(HDF):
        with hdf5.opened(path) as arrays:
            return native.from_arrays(path, Arrays(path, _Turned(arrays)), split, how)
    return native.from_arrays(path, Arrays(path, _variables(path)), split, how)


class _Turned(Mapping[str, np.ndarray]):
    """Arrays of version 7.3 in the order of axes that MATLAB shows; text of its numbers."""

    def __init__(self, arrays: Arrays) -> None:
        self.arrays = arrays

    def __getitem__(self, key: str) -> np.ndarray:
        return np.asarray(self.arrays[key].T)

    def __iter__(self) -> Iterator[str]:
        return iter([key for key in self.arrays if not key.startswith("#")])

    def __len__(self) -> int:
        return len(list(iter(self)))


def _variables(path: Path) -> dict[str, np.ndarray]:
    """Numbers and text of a file of version 5 or before."""
    import scipy.io

    try:
        names = [name for name, shape, kind in scipy.io.whosmat(path) if kind not in ("struct", "object", "function")]
        for name, shape, _ in scipy.io.whosmat(path):
            check_size(f"{path}, {name}", 8 * math.prod(shape), path.stat().st_size)
        content = scipy.io.loadmat(path, variable_names=names, chars_as_strings=True)
    except (DataError, MemoryError):
        raise
    except Exception as error:  # SciPy raises many types of errors for damaged files
        raise DataError(f"{path} is no .mat file of MATLAB, or is damaged ({error}); save it again") from error
    out = {}
    for name in names:
        array = np.asarray(content[name])
        if array.dtype == object:  # a cell of names
            try:
                array = np.array([str(np.asarray(cell).reshape(-1)[0]) for cell in array.ravel()])
            except IndexError:
                continue
        if array.dtype.kind in "biufU":
            out[name] = array.ravel() if min(array.shape, default=0) == 1 and array.ndim == 2 else array
    return out
