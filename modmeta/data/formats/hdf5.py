"""HDF5: the arrays of `native` under the same names, or in one group per split (`train/states`).

References to other files (links, virtual data sets, external storage) are never followed.
"""

import math
import mmap
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from modmeta.data.bounds import FREE, NAME_LENGTH, SETTINGS, check_size
from modmeta.data.formats import native, trackers
from modmeta.data.formats.arrays import Arrays, read_array, with_options
from modmeta.data.reading import Reading
from modmeta.data.trajectories import Trajectories
from modmeta.errors import DataError
from modmeta.io import write_file

DEPTH, OBJECTS = 8, 10_000  # limits of nesting levels of groups, and of the number of data sets
HEAP = b"GCOL\x01\0\0\0"  # what a heap of texts begins with
INFLATED = 1032  # largest compression ratio of deflate


def read(path: Path, split: str | None, how: Reading) -> dict[str, Trajectories]:
    """Splits of a file; see `modmeta.data.formats.load`."""
    with opened(path) as arrays:
        content = arrays.content
        assert isinstance(content, _Datasets)
        found = read_array(path, lambda: content.tracked(arrays), None)
        if found is not None:
            how.group_among((), str(path))
            return with_options(path, {split or "test": found}, how)
        return native.from_arrays(path, arrays, split, how)


def check(path: Path) -> None:
    """Checks a file that another library reads; see `_Datasets.check`.

    Raises:
        DataError: the file is damaged, or refers to other files.
    """
    with opened(path) as arrays:
        content = arrays.content
        assert isinstance(content, _Datasets)
        read_array(path, content.check, None)


def write(path: Path, splits: Mapping[str, Trajectories], overwrite: bool) -> None:
    """Writes one file; see `modmeta.data.formats.save`."""
    arrays = native.to_arrays(path, splits)

    def fill(stream: object) -> None:
        with h5py.File(stream, "w") as file:
            for key, array in arrays.items():
                text = array.dtype.kind == "U"
                file.create_dataset(
                    key, data=array.astype(object) if text else array, dtype=h5py.string_dtype() if text else None
                )

    write_file(path, fill, overwrite)


def _check_heaps(path: Path) -> None:
    """Checks the heaps in which HDF5 keeps texts; it goes round for ever in one whose free space has no size.

    Raises:
        DataError: there is such a heap.
    """
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as raw:

        def number(at: int, size: int) -> int:
            return int.from_bytes(raw[at : at + size], "little")

        heap, left = raw.find(HEAP), len(raw) // 16 + 1  # texts that the file has room for
        while heap >= 0:
            at, end = heap + 16, min(heap + number(heap + 8, 8), len(raw))
            while at + 16 <= end:
                index, size = number(at, 2), number(at + 8, 8)
                step = 16 + -(-size // 8) * 8 if index else size
                left -= 1
                if not step or left < 0:
                    raise DataError(f"{path} is damaged (a heap of texts without end); write it anew")
                at += step
            heap = raw.find(HEAP, heap + 1)


class _Datasets(Mapping[str, np.ndarray]):
    """Data sets and attributes of a file by name; names of groups are joined by `_`."""

    def __init__(self, path: Path, file: h5py.File) -> None:
        self.path, self.file, self.size = path, file, path.stat().st_size
        self.places: dict[str, str] = {}
        self._enter("", file, 0, set())
        self.attributes = [key for key in file.attrs if key not in self.places]

    def _enter(self, place: str, group: h5py.Group, depth: int, met: set[int]) -> None:
        """Records the data sets of a group recursively. Groups already visited, through a hard link, are skipped."""
        address = h5py.h5o.get_info(group.id).addr
        if address in met:
            return
        met.add(address)
        if depth > DEPTH or len(self.places) + len(group) > OBJECTS:
            raise DataError(f"{self.path}: more than {DEPTH} groups deep, or {OBJECTS} data sets; save fewer arrays")
        for name in group:
            below = f"{place}/{name}" if place else name
            if isinstance(group.get(name, getlink=True), h5py.HardLink) and (
                group.get(name, getclass=True) is h5py.Group
            ):
                self._enter(below, group[name], depth + 1, met)
            else:  # a data set, or a link, which is rejected on access
                self.places[below.replace("/", "_")] = below

    def __getitem__(self, key: str) -> np.ndarray:
        where = f"{self.path}, key {key}"
        if key not in self.places:
            attribute = self.file.attrs.get_id(key)
            return self._values(where, attribute.dtype, attribute.shape, self.size, lambda: self.file.attrs[key])
        data, stored = self._own(key)
        read = data.asstr if h5py.check_string_dtype(data.dtype) else lambda: data
        return self._values(where, data.dtype, data.shape, stored, lambda: read()[()])

    def check(self) -> None:
        """Checks that all data sets are in this file, for a reader that would follow links.

        Raises:
            DataError: a link, values in another file, or chunks larger than declared.
        """
        for key in self.places:
            self._own(key)

    def _own(self, key: str) -> tuple[h5py.Dataset, int]:
        """A data set that is whole in this file, and the bytes that it takes there."""
        where = f"{self.path}, key {key}"
        link = self.file.get(self.places[key], getlink=True)
        if not isinstance(link, h5py.HardLink):
            kind = "another file" if isinstance(link, h5py.ExternalLink) else "another place"
            raise DataError(f"{where}: a link to {kind}, {link.path!r}, is not followed; save the array itself")
        data = self.file[self.places[key]]
        if not isinstance(data, h5py.Dataset):
            raise DataError(f"{where}: a type, not an array; save an array")
        settings = data.id.get_create_plist()
        if settings.get_external_count():
            raise DataError(f"{where}: its values are stored in another file, which is not read; save a copy")
        if data.is_virtual:
            raise DataError(f"{where}: virtual data sets are not read; save a copy")
        stored = min(data.id.get_storage_size(), self.size)
        if data.chunks is not None:
            check_size(f"{where}, its chunks", math.prod(data.chunks) * data.dtype.itemsize, stored)
            _check_chunks(where, data)
        return data, stored

    def _is_own(self, place: str) -> bool:
        """Whether an object is in this file, not a link."""
        return isinstance(self.file.get(place, getlink=True), h5py.HardLink)

    def tracked(self, arrays: Arrays) -> Trajectories | None:
        """The recording of a tracker's file; None if it is none."""
        if "nwb_version" in self.file.attrs:
            raise self._series_of_nwb()
        for name, place in self.places.items():
            data = self.file[place] if self._is_own(place) else None
            if isinstance(data, h5py.Dataset) and "values_block_0" in (data.dtype.names or ()):
                check_size(f"{self.path}, {name}", data.size * data.dtype.itemsize, self.size)
                names = data.attrs.get("values_block_0_kind", b"")
                return trackers.deeplabcut(self.path, data["values_block_0"], bytes(names))
        own = {name: place for name, place in self.places.items() if self._is_own(place)}
        dims = {
            name: str(self.file[place].attrs["dims"]) for name, place in own.items() if "dims" in self.file[place].attrs
        }
        return trackers.from_hdf5(self.path, arrays, dims)

    def _series_of_nwb(self) -> DataError:
        """An error that names the series of a file of Neurodata Without Borders, and lines that make states of them."""
        shapes: dict[str, tuple[int, ...]] = {}
        for place in self.places.values():
            data = self.file[place] if place.endswith("/data") and self._is_own(place) else None
            if isinstance(data, h5py.Dataset) and data.dtype.kind in "iuf" and data.ndim in (1, 2):
                shapes[place] = data.shape
        words = f"{self.path} is a file of Neurodata Without Borders, which does not say what an entity is; "
        if not shapes:
            return DataError(f"{words}it holds no series of numbers; save the states of its entities as a table")
        several = list(shapes.values())
        most = max(several, key=lambda shape: (shape[1:] in ((2,), (3,)), len(shape), several.count(shape)))
        alike = [place for place, shape in shapes.items() if shape == most]
        of_axes = most[1:] in ((2,), (3,)) and len(alike) > 1
        states = f"numpy.stack([file[name][:]{'' if of_axes else '[:, None]'} for name in {alike}], 1)"
        if len(most) == 2 and not of_axes:  # frames and cells, of one state each
            states = f"file['{alike[0]}'][:][..., None]"
        held = ", ".join(f"{place} {shape}" for place, shape in list(shapes.items())[:8])
        return DataError(
            f"{words}it holds {held}. In Python, with those that are entities: import h5py, numpy; file = "
            f"h5py.File('{self.path.name}'); numpy.save('{self.path.stem}.npy', {states}); then add --frame-step"
        )

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
        longest, limit = max(map(len, words), default=0), NAME_LENGTH if len(words) > 1 else SETTINGS
        if longest > limit:
            raise DataError(f"{where}: a text has {longest} characters; shorten it to at most {limit}")
        return np.array(words, dtype=str).reshape(values.shape)

    def __iter__(self) -> Iterator[str]:
        return iter([*self.places, *self.attributes])

    def __len__(self) -> int:
        return len(self.places) + len(self.attributes)


def _words(kind: np.dtype) -> str:
    return "references" if h5py.check_ref_dtype(kind) else "lists" if h5py.check_vlen_dtype(kind) else str(kind)


def _check_chunks(where: str, data: h5py.Dataset) -> None:
    """Rejects compressed chunks larger than their declared size, because HDF5 decompresses them without a limit."""
    settings, whole = data.id.get_create_plist(), math.prod(data.chunks) * data.dtype.itemsize
    filters = [settings.get_filter(i)[0] for i in range(settings.get_nfilters())]
    if filters.count(h5py.h5z.FILTER_DEFLATE) > 1:
        raise DataError(f"{where}: compressed twice; save it with at most one compression filter")
    if h5py.h5z.FILTER_DEFLATE not in filters:
        return
    large: list[h5py.h5d.StoreInfo] = []
    data.id.chunk_iter(lambda chunk: large.append(chunk) if chunk.size * INFLATED > FREE else None)
    for chunk in large:
        _, raw = data.id.read_direct_chunk(chunk.chunk_offset)
        try:
            made = zlib.decompressobj().decompress(raw, whole + 64)
        except zlib.error:  # not compressed, or damaged, which HDF5 reports
            continue
        if len(made) > whole + 4:  # allow for a checksum
            raise DataError(
                f"{where}: the chunk at {chunk.chunk_offset} holds more than its size; create the file again"
            )


@contextmanager
def opened(path: Path) -> Iterator[Arrays]:
    """Yields the arrays of a file.

    Raises:
        DataError: the file is missing, damaged, or not HDF5.
    """
    if not path.is_file():
        raise DataError(f"{path} cannot be read (No such file); check the name")
    try:
        file = h5py.File(path, "r")
    except Exception as error:  # HDF5 raises many types of errors for damaged files
        raise DataError(f"{path} is not an HDF5 file, or is damaged ({error}); create or copy it again") from error
    with file:
        _check_heaps(path)
        try:
            datasets = _Datasets(path, file)
        except DataError:
            raise
        except Exception as error:
            raise DataError(f"{path} is damaged ({error}); create or copy it again") from error
        yield Arrays(path, datasets)
