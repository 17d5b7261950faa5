"""HDF5: the arrays of `modmeta.data.files` under the same names, or in a group for each split (`train/states`).

A file may lead to others, by links, virtual data sets and external storage; those are never followed.
"""

import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from modmeta.data.archive import Arrays
from modmeta.data.bounds import FREE, LETTERS, SETTINGS, check_size
from modmeta.errors import DataError
from modmeta.io import check_free, write_file

DEPTH, OBJECTS = 8, 10_000  # of groups within groups; of groups and data sets
INFLATED = 1032  # bytes that deflate makes of one, at most


class _Datasets(Mapping[str, np.ndarray]):
    """Data sets of a file by name, a group's joined by `_`; attributes of the file count, too."""

    def __init__(self, path: Path, file: h5py.File) -> None:
        self.path, self.file, self.size = path, file, path.stat().st_size
        self.places: dict[str, str] = {}
        self._enter("", file, 0, set())
        self.attributes = [key for key in file.attrs if key not in self.places]

    def _enter(self, place: str, group: h5py.Group, depth: int, met: set[int]) -> None:
        """Notes what is in a group; a group that is met again, through a hard link, is passed over."""
        address = h5py.h5o.get_info(group.id).addr
        if address in met:
            return
        met.add(address)
        if depth > DEPTH or len(self.places) + len(group) > OBJECTS:
            raise DataError(f"{self.path}: more than {DEPTH} groups deep, or {OBJECTS} data sets; save arrays only")
        for name in group:
            below = f"{place}/{name}" if place else name
            if isinstance(group.get(name, getlink=True), h5py.HardLink) and (
                group.get(name, getclass=True) is h5py.Group
            ):
                self._enter(below, group[name], depth + 1, met)
            else:  # a data set, or a link, which is refused when it is asked for
                self.places[below.replace("/", "_")] = below

    def __getitem__(self, key: str) -> np.ndarray:
        where = f"{self.path}, key {key}"
        if key not in self.places:
            attribute = self.file.attrs.get_id(key)
            return self._values(where, attribute.dtype, attribute.shape, self.size, lambda: self.file.attrs[key])
        link = self.file.get(self.places[key], getlink=True)
        if not isinstance(link, h5py.HardLink):
            kind = "another file" if isinstance(link, h5py.ExternalLink) else "another place"
            raise DataError(f"{where}: a link to {kind}, {link.path!r}, which is not followed; save the array itself")
        data = self.file[self.places[key]]
        if not isinstance(data, h5py.Dataset):
            raise DataError(f"{where}: a type, not an array; save an array")
        settings = data.id.get_create_plist()
        if settings.get_external_count():
            raise DataError(f"{where}: its values lie in another file, which is not read; save a copy of the array")
        if data.is_virtual:
            raise DataError(f"{where}: put together from other data sets (virtual), which are not read; save a copy")
        stored = min(data.id.get_storage_size(), self.size)
        if data.chunks is not None:
            check_size(f"{where}, its chunks", math.prod(data.chunks) * data.dtype.itemsize, stored)
            _check_chunks(where, data)
        read = data.asstr if h5py.check_string_dtype(data.dtype) else lambda: data
        return self._values(where, data.dtype, data.shape, stored, lambda: read()[()])

    def _values(
        self, where: str, kind: np.dtype, shape: tuple[int, ...] | None, stored: int, read: Callable[[], Any]
    ) -> np.ndarray:
        if shape is None:
            raise DataError(f"{where}: empty; save an array")
        text = h5py.check_string_dtype(kind)
        if kind.kind not in "biufS" and not text:
            raise DataError(f"{where}: the type is {_words(kind)}; save it as numbers or text")
        check_size(where, math.prod(shape) * kind.itemsize, stored)
        values = np.asarray(read())
        if not text:
            return values.astype(str) if values.dtype.kind == "S" else values
        words = [word.decode() if isinstance(word, bytes) else str(word) for word in values.ravel().tolist()]
        longest = max(map(len, words), default=0)
        if longest > (LETTERS if len(words) > 1 else SETTINGS):
            raise DataError(f"{where}: a text of {longest} letters; names have at most {LETTERS}, so shorten it")
        return np.array(words, dtype=str).reshape(values.shape)

    def __iter__(self) -> Iterator[str]:
        return iter([*self.places, *self.attributes])

    def __len__(self) -> int:
        return len(self.places) + len(self.attributes)


def _words(kind: np.dtype) -> str:
    return "references" if h5py.check_ref_dtype(kind) else "lists" if h5py.check_vlen_dtype(kind) else str(kind)


def _check_chunks(where: str, data: h5py.Dataset) -> None:
    """Refuses compressed chunks that HDF5 would inflate without end: it does not stop at a chunk's size."""
    settings, whole = data.id.get_create_plist(), math.prod(data.chunks) * data.dtype.itemsize
    filters = [settings.get_filter(i)[0] for i in range(settings.get_nfilters())]
    if filters.count(h5py.h5z.FILTER_DEFLATE) > 1:
        raise DataError(f"{where}: compressed twice; save it again, compressed once or not at all")
    if h5py.h5z.FILTER_DEFLATE not in filters:
        return
    large: list[h5py.h5d.StoreInfo] = []
    data.id.chunk_iter(lambda chunk: large.append(chunk) if chunk.size * INFLATED > FREE else None)
    for chunk in large:
        _, raw = data.id.read_direct_chunk(chunk.chunk_offset)
        try:
            made = zlib.decompressobj().decompress(raw, whole + 64)
        except zlib.error:  # not compressed, or damaged: HDF5 finds out
            continue
        if len(made) > whole + 4:  # a checksum may be compressed along
            raise DataError(f"{where}: the chunk at {chunk.chunk_offset} holds more than its size; make the file again")


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
    except Exception as error:  # altered bytes make HDF5 raise nearly anything
        raise DataError(f"{path} is no HDF5 file, or is damaged ({error}); make or copy it again") from error
    with file:
        try:
            datasets = _Datasets(path, file)
        except DataError:
            raise
        except Exception as error:
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
