"""HDF5: the arrays of `modmeta.data.files` under the same names, or in a group for each split (`train/states`)."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from modmeta.data.archive import Arrays
from modmeta.errors import DataError
from modmeta.io import check_free, write_file


class _Datasets(Mapping[str, np.ndarray]):
    """Data sets of a file by name, a group's joined by `_`; attributes of the file count, too."""

    def __init__(self, file: h5py.File) -> None:
        self.file = file
        self.places: dict[str, str] = {}
        file.visititems(self._enter)

    def _enter(self, place: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):
            self.places[place.replace("/", "_")] = place

    def __getitem__(self, key: str) -> np.ndarray:
        if key in self.places:
            data = self.file[self.places[key]]
            return (
                np.asarray(data.asstr()[()]).astype(str)
                if h5py.check_string_dtype(data.dtype)
                else np.asarray(data[()])
            )
        value = np.asarray(self.file.attrs[key])
        return value.astype(str) if value.dtype.kind in "OS" else value

    def __iter__(self) -> Iterator[str]:
        return iter([*self.places, *(key for key in self.file.attrs if key not in self.places)])

    def __len__(self) -> int:
        return len(list(iter(self)))


@contextmanager
def open_hdf5(path: Path) -> Iterator[Arrays]:
    """The arrays of a file.

    Raises:
        DataError: it is missing, damaged, or no HDF5.
    """
    if not path.is_file():
        raise DataError(f"{path} cannot be read (No such file); check the name")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise DataError(f"{path} is no HDF5 file, or is damaged ({error}); make or copy it again") from error
    with file:
        try:
            datasets = _Datasets(file)
        except (RuntimeError, OSError, ValueError, KeyError) as error:
            raise DataError(f"{path} is damaged ({error}); make or copy it again") from error
        yield Arrays(path, datasets)


def write_hdf5(path: Path, arrays: Mapping[str, np.ndarray], overwrite: bool) -> None:
    """Writes arrays to a file, completely or not at all.

    Raises:
        DataError: as `modmeta.io.write_file`.
    """
    check_free(path, overwrite)

    def write(stream: object) -> None:
        with h5py.File(stream, "w") as file:
            for key, array in arrays.items():
                text = array.dtype.kind == "U"
                file.create_dataset(
                    key, data=array.astype(object) if text else array, dtype=h5py.string_dtype() if text else None
                )

    write_file(path, write, overwrite)
