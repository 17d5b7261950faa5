"""Checks the pickle of a checkpoint without executing it: only plain values and tensors, no larger than the file.

`torch.load(weights_only=True)` executes no foreign code, but it calls `bytearray(10**12)`, reads past the end of a
storage that declares too much, and expands one number to a trillion. Here stand-in objects replace every callable.
"""

import io
import math
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from types import NoneType
from typing import Any, ClassVar

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
LONGEST = 1 << 24  # largest pickle in bytes
MOST_OPERATIONS = 3_000_000  # largest number of pickle operations; enough for curves of about 20,000 epochs
LARGEST_KEY = 1 << 31  # bound on integer keys: large integers can be chosen with equal hashes, which takes forever


class Foreign(Exception):
    """The pickle creates more than plain values and tensors."""


class Tensor:
    """Stand-in for a tensor."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise Foreign("it changes a tensor")


class StorageType:
    """Stand-in for a storage class of torch, such as `FloatStorage`."""

    __slots__ = ("itemsize",)

    def __init__(self, itemsize: int) -> None:
        self.itemsize = itemsize

    def __setstate__(self, state: Any) -> None:
        raise Foreign("it changes a class")


class Storage:
    """Stand-in for a storage of `numbers` numbers."""

    __slots__ = ("numbers",)

    def __init__(self, numbers: int) -> None:
        self.numbers = numbers

    def __setstate__(self, state: Any) -> None:
        raise Foreign("it changes a storage")


class Rebuild:
    """Stand-in for torch's function that builds a tensor from a storage."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise Foreign("it changes a function")

    def __call__(self, storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> Tensor:
        whole = (offset, *size, *stride) if type(size) is tuple and type(stride) is tuple else (None,)
        if type(storage) is not Storage or len(size) != len(stride) or not all(_is_count(number) for number in whole):
            raise Foreign("it makes a tensor of something other than a storage")
        if math.prod(size) > storage.numbers:  # strides of 0 repeat numbers
            raise Foreign("it makes a tensor of more numbers than are stored")
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if math.prod(size) and last >= storage.numbers:
            raise Foreign("it makes a tensor that reaches beyond what is stored")
        return Tensor()


class Ordered:
    """Stand-in for `OrderedDict`, on which torch sets attributes."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise Foreign("it changes a class")

    def __call__(self) -> Any:
        return OrderedDict()


class Reader(pickle._Unpickler):  # the pure-Python unpickler, whose methods can be overridden
    """Runs a pickle on stand-ins.

    Args:
        content: the pickle.
        sizes: size of every storage in bytes, by its key.
    """

    def __init__(self, content: bytes, sizes: dict[str, int]) -> None:
        super().__init__(io.BytesIO(content))
        self.sizes = sizes
        self.changed: list[OrderedDict[Any, Any]] = []

    def load(self) -> Any:
        content = super().load()
        for part in self.changed:  # at the end: attributes may have changed after they were set
            if part.__dict__.keys() != {"_metadata"} or not _is_metadata(part.__dict__["_metadata"]):
                raise Foreign("it changes a dictionary")
        return content

    stack: list[Any]  # attributes of the unpickler that type stubs lack
    pop_mark: Callable[[], list[Any]]

    def load_setitem(self) -> None:
        items = self.stack[-2:]
        del self.stack[-2:]
        self.set_items(items)

    def load_setitems(self) -> None:
        self.set_items(self.pop_mark())

    def set_items(self, items: list[Any]) -> None:
        """Sets alternating keys and values in the dictionary on top of the stack."""
        if type(self.stack[-1]) not in (dict, OrderedDict):
            raise Foreign("it sets items of an object that is not a dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) not in (str, bool, NoneType) and not (type(key) is int and abs(key) < LARGEST_KEY):
                raise Foreign(f"it has a key of type {type(key).__name__}")
            self.stack[-1][key] = value

    def load_build(self) -> None:
        if type(self.stack[-2]) is OrderedDict and type(self.stack[-1]) is dict:
            self.changed.append(self.stack[-2])
        elif type(self.stack[-2]) in (dict, OrderedDict, list):
            raise Foreign("it changes a class")
        super().load_build()  # type: ignore[misc]

    dispatch: ClassVar[dict[int, Any]] = pickle._Unpickler.dispatch | {
        pickle.SETITEM[0]: load_setitem, pickle.SETITEMS[0]: load_setitems, pickle.BUILD[0]: load_build,
    }  # fmt: skip

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return Ordered()
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return Rebuild()
        dtype = name.removesuffix("Storage")
        if module == "torch" and name == f"{dtype}Storage" and dtype in BYTES:
            return StorageType(BYTES[dtype])
        raise Foreign(f"it names {module[:80]!r} {name[:80]!r}")

    def persistent_load(self, pid: Any) -> Storage:
        if type(pid) is not tuple or len(pid) != 5 or pid[0] != "storage" or type(pid[1]) is not StorageType:
            raise Foreign("it refers to something other than a storage")
        _, storage_type, key, _, numbers = pid
        if not _is_count(numbers) or type(key) is not str or self.sizes.get(key) != numbers * storage_type.itemsize:
            raise Foreign("a storage does not have its declared size")
        return Storage(numbers)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 62


def _is_metadata(value: Any) -> bool:
    """Whether a value is the `_metadata` of a `state_dict`: version numbers of submodules."""
    return isinstance(value, dict) and all(
        isinstance(part, dict) and all(version is None or type(version) is int for version in part.values())
        for part in value.values()
    )


def checked(archive: zipfile.ZipFile) -> io.BytesIO:
    """Checks the pickle of a checkpoint archive and returns a clean copy of the archive for torch.

    The copy is needed because torch's zip reader can be made to find other members than Python's: it takes `DATA.PKL`
    for `data.pkl`.

    Args:
        archive: checkpoint whose members are stored uncompressed.

    Raises:
        Foreign: the pickle creates more than plain values and tensors stored in the archive.
    """
    names = archive.namelist()
    if (
        len({name.lower() for name in names}) != len(names)
        or sum(name.rsplit("/", 1)[-1] == "data.pkl" for name in names) != 1
    ):
        raise Foreign("it is not a checkpoint of torch")
    pickled = next(name for name in names if name.rsplit("/", 1)[-1] == "data.pkl")
    top = pickled.removesuffix("data.pkl")
    root = f"{top}data/"
    if f"{top}constants.pkl" in names or archive.getinfo(pickled).file_size > LONGEST:
        raise Foreign("it is not a checkpoint of modmeta")
    sizes = {
        part.filename.removeprefix(root): part.file_size
        for part in archive.infolist()
        if part.filename.startswith(root)
    }
    content = archive.read(pickled)
    for count, (opcode, _, _) in enumerate(pickletools.genops(content)):
        if opcode.name not in OPCODES:
            raise Foreign(f"it holds the pickle operation {opcode.name}")
        if count == MOST_OPERATIONS:
            raise Foreign(f"it has more than {MOST_OPERATIONS:,} pickle operations")
    Reader(content, sizes).load()
    copy = io.BytesIO()
    with zipfile.ZipFile(copy, "w") as new:
        for name in names:
            if name.startswith(top):
                new.writestr(f"checkpoint/{name.removeprefix(top)}", archive.read(name))
    copy.seek(0)
    return copy
