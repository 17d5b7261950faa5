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
LONGEST = 1 << 24  # bytes of the pickle
MOST_OPERATIONS = 3_000_000  # of the pickle: curves of some twenty thousand epochs
LARGEST_KEY = 1 << 31  # of dictionaries; large ones can be chosen to have one hash, which takes forever


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

    def __call__(self) -> Any:
        return OrderedDict()


class Reader(pickle._Unpickler):  # the one in Python, whose memo is a dictionary
    """Runs a pickle on stand-ins.

    Args:
        content: the pickle.
        sizes: bytes of every storage by its key.
    """

    def __init__(self, content: bytes, sizes: dict[str, int]) -> None:
        super().__init__(io.BytesIO(content))
        self.sizes = sizes
        self.changed: list[OrderedDict[Any, Any]] = []

    def load(self) -> Any:
        content = super().load()
        for part in self.changed:  # at the end, for what it was given may have grown since
            if part.__dict__.keys() != {"_metadata"} or not _is_metadata(part.__dict__["_metadata"]):
                raise Foreign("it changes a dictionary")
        return content

    stack: list[Any]  # of the unpickler, which types do not know
    pop_mark: Callable[[], list[Any]]

    def load_setitem(self) -> None:
        items = self.stack[-2:]
        del self.stack[-2:]
        self.set_items(items)

    def load_setitems(self) -> None:
        self.set_items(self.pop_mark())

    def set_items(self, items: list[Any]) -> None:
        """Sets keys and values, in turn, of the dictionary on the stack."""
        if type(self.stack[-1]) not in (dict, OrderedDict):
            raise Foreign("it changes what is no dictionary")
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


def _is_metadata(value: Any) -> bool:
    """Versions of the parts of a module, as torch keeps them."""
    return isinstance(value, dict) and all(
        isinstance(part, dict) and all(version is None or type(version) is int for version in part.values())
        for part in value.values()
    )


def checked(archive: zipfile.ZipFile) -> io.BytesIO:
    """Reads the pickle of a checkpoint, an archive whose members are stored uncompressed.

    Returns:
        An archive of the same members for torch, whose reader finds others than Python's in one that is made so: it
        takes `DATA.PKL` for `data.pkl`.

    Raises:
        Foreign: it does more than make plain values and tensors that the archive holds.
    """
    names = archive.namelist()
    if (
        len({name.lower() for name in names}) != len(names)
        or sum(name.rsplit("/", 1)[-1] == "data.pkl" for name in names) != 1
    ):
        raise Foreign("it is no checkpoint of torch")
    pickled = next(name for name in names if name.rsplit("/", 1)[-1] == "data.pkl")
    top = pickled.removesuffix("data.pkl")
    root = f"{top}data/"
    if f"{top}constants.pkl" in names or archive.getinfo(pickled).file_size > LONGEST:
        raise Foreign("it is no checkpoint of modmeta")
    sizes = {
        part.filename.removeprefix(root): part.file_size
        for part in archive.infolist()
        if part.filename.startswith(root)
    }
    content = archive.read(pickled)
    for count, (opcode, _, _) in enumerate(pickletools.genops(content)):
        if opcode.name not in OPCODES:
            raise Foreign(f"it holds the operation {opcode.name}")
        if count == MOST_OPERATIONS:
            raise Foreign(f"it takes more than {MOST_OPERATIONS:,} operations")
    Reader(content, sizes).load()
    copy = io.BytesIO()
    with zipfile.ZipFile(copy, "w") as new:
        for name in names:
            if name.startswith(top):
                new.writestr(f"checkpoint/{name.removeprefix(top)}", archive.read(name))
    copy.seek(0)
    return copy
