"""The pickle of a checkpoint, read without executing it: plain values and tensors, no larger than the file?

`torch.load(weights_only=True)` executes no foreign code. But it calls `bytearray(10**12)`, reads past the end of a
storage that declares too much, and expands one number to a trillion. Here every callable is a stand-in.
"""

import io
import math
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from typing import Any

OPCODES = frozenset(
    (
        "PROTO", "FRAME", "MARK", "STOP", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1",
        "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE", "TUPLE", "TUPLE1",
        "TUPLE2", "TUPLE3", "APPEND", "APPENDS", "SETITEM", "SETITEMS", "BINPUT", "LONG_BINPUT", "BINGET",
        "LONG_BINGET", "MEMOIZE", "GLOBAL", "REDUCE", "BUILD", "BINPERSID",
    )
)  # fmt: skip
BYTES = {
    "Double": 8, "Long": 8, "Float": 4, "Int": 4, "Half": 2, "BFloat16": 2, "Short": 2, "Char": 1, "Byte": 1, "Bool": 1,
}  # fmt: skip
LONGEST = 1 << 28  # bytes of the pickle


class Foreign(Exception):
    """The pickle does more than make plain values and tensors."""


class Tensor:
    """Stands for a tensor."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise Foreign("it changes a tensor")


class Kind:
    """Stands for a kind of storage."""

    __slots__ = ("itemsize",)

    def __init__(self, itemsize: int) -> None:
        self.itemsize = itemsize

    def __setstate__(self, state: Any) -> None:
        raise Foreign("it changes a class")


class Storage:
    """Stands for a storage of so many numbers."""

    __slots__ = ("numbers",)

    def __init__(self, numbers: int) -> None:
        self.numbers = numbers

    def __setstate__(self, state: Any) -> None:
        raise Foreign("it changes a storage")


class Rebuild:
    """Stands for the function that makes a tensor of a storage."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise Foreign("it changes a function")

    def __call__(self, storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> Tensor:
        whole = (offset, *size, *stride) if type(size) is tuple and type(stride) is tuple else (None,)
        if type(storage) is not Storage or len(size) != len(stride) or not all(_is_count(number) for number in whole):
            raise Foreign("it makes a tensor of something else than a storage")
        if math.prod(size) > storage.numbers:  # strides of 0 repeat numbers
            raise Foreign("it makes a tensor of more numbers than are stored")
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if math.prod(size) and last >= storage.numbers:
            raise Foreign("it makes a tensor that reaches beyond what is stored")
        return Tensor()


class Ordered:
    """Stands for the class of ordered dictionaries, to which torch gives attributes."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise Foreign("it changes a class")

    def __call__(self, *parts: Any) -> Any:
        return OrderedDict(*parts)


class Reader(pickle._Unpickler):  # the one in Python, whose memo is a dictionary
    """Runs a pickle on stand-ins.

    Args:
        content: the pickle.
        sizes: bytes of every storage by its key.
    """

    def __init__(self, content: bytes, sizes: dict[str, int]) -> None:
        super().__init__(io.BytesIO(content))
        self.sizes = sizes

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return Ordered()
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return Rebuild()
        kind = name.removesuffix("Storage")
        if module == "torch" and name == f"{kind}Storage" and kind in BYTES:
            return Kind(BYTES[kind])
        raise Foreign(f"it names {module[:80]!r} {name[:80]!r}")

    def persistent_load(self, pid: Any) -> Storage:
        if type(pid) is not tuple or len(pid) != 5 or pid[0] != "storage" or type(pid[1]) is not Kind:
            raise Foreign("it refers to something else than a storage")
        _, kind, key, _, numbers = pid
        if not _is_count(numbers) or type(key) is not str or self.sizes.get(key) != numbers * kind.itemsize:
            raise Foreign("a storage is not as large as it declares")
        return Storage(numbers)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 62


def check_pickle(archive: zipfile.ZipFile) -> None:
    """Reads the pickle of a checkpoint, an archive whose members are stored uncompressed.

    Raises:
        Foreign: it does more than make plain values and tensors that the archive holds.
    """
    names = archive.namelist()
    if len(set(names)) != len(names) or sum(name.rsplit("/", 1)[-1] == "data.pkl" for name in names) != 1:
        raise Foreign("it is no checkpoint of torch")
    pickled = next(name for name in names if name.rsplit("/", 1)[-1] == "data.pkl")
    root = f"{pickled.removesuffix('data.pkl')}data/"
    if f"{pickled.removesuffix('data.pkl')}constants.pkl" in names or archive.getinfo(pickled).file_size > LONGEST:
        raise Foreign("it is no checkpoint of modmeta")
    sizes = {
        part.filename.removeprefix(root): part.file_size
        for part in archive.infolist()
        if part.filename.startswith(root)
    }
    content = archive.read(pickled)
    for opcode, _, _ in pickletools.genops(content):
        if opcode.name not in OPCODES:
            raise Foreign(f"it holds the operation {opcode.name}")
    Reader(content, sizes).load()
