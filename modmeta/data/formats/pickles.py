"""Arrays in pickles, read without running anything: stand-in objects replace the classes that a pickle names."""

import io
import math
import pickle
import re
from typing import Any

import numpy as np

from modmeta.errors import DataError

LEVELS = 32  # of nested lists and dictionaries
PARTS = 1_000_000  # values in all; lists that hold the same list twice grow without bound
CLASSES = {
    ("numpy", "ndarray"): "array", ("numpy", "dtype"): "type", ("_codecs", "encode"): "encode",
    **{(f"numpy.{core}.multiarray", name): name for core in ("core", "_core") for name in ("_reconstruct", "scalar")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): "buffer" for core in ("core", "_core")},
}  # fmt: skip


class _Type:
    """A type of numbers or text."""

    def __init__(self, code: str = "", align: bool = False, copy: bool = False) -> None:
        self.code, self.order = str(code), "="

    def __setstate__(self, state: tuple) -> None:
        self.order = {"<": "<", ">": ">"}.get(state[1], "=")

    def resolved(self) -> np.dtype:
        if not re.fullmatch(r"[biufUSO]\d{0,6}", self.code):
            raise pickle.UnpicklingError(f"type {self.code[:40]!r}")
        return np.dtype(self.code).newbyteorder(self.order)  # type: ignore[arg-type]


class _Array:
    """An array that is filled by its state."""

    value: Any = None

    def __init__(self, *arguments: Any) -> None:
        pass

    def __setstate__(self, state: tuple) -> None:
        _, shape, kind, columns, content = state
        dtype, shape = kind.resolved(), tuple(int(size) for size in shape)
        if dtype.kind == "O":
            self.value = np.empty(len(content), object)
            self.value[:] = content
        else:
            raw = content.encode("latin1") if isinstance(content, str) else bytes(content)
            self.value = np.frombuffer(raw, dtype)
        if min(shape, default=0) < 0 or math.prod(shape) != self.value.size:
            raise pickle.UnpicklingError(f"shape {shape}")
        self.value = self.value.reshape(shape, order="F" if columns else "C")


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """
        Raises:
            pickle.UnpicklingError: the class has no stand-in.
        """
        known = CLASSES.get((module, name))
        if known is None:
            raise pickle.UnpicklingError(f"{module}.{name}"[:80])
        # new functions each time, since a pickle may set attributes of what it is given
        return {
            "array": _Array, "_reconstruct": lambda *_: _Array(), "type": _Type, "scalar": lambda *of: _scalar(*of),
            "encode": lambda *of: _encoded(*of), "buffer": lambda *of: _buffer(*of),
        }[known]  # fmt: skip


def _scalar(kind: _Type, raw: bytes) -> Any:
    return np.frombuffer(raw if isinstance(raw, bytes) else raw.encode("latin1"), kind.resolved())[0]


def _encoded(text: str, encoding: str) -> bytes:
    return text.encode("latin1")


def _buffer(raw: Any, kind: _Type, shape: tuple, order: str) -> _Array:
    array = _Array()
    array.__setstate__((1, shape, kind, order == "F", raw))
    return array


def unpickled(where: str, content: bytes) -> Any:
    """Plain values and arrays of a pickle.

    Args:
        where: the file, for messages.
        content: the pickle.

    Raises:
        DataError: it is damaged, or names a class other than an array.
    """
    try:
        return _plain(_Reader(io.BytesIO(content)).load(), LEVELS, [PARTS])
    except MemoryError:
        raise
    except Exception as error:  # pickles fail in many ways
        raise DataError(
            f"{where}: holds pickled objects that are no arrays ({error}), which are never loaded; save plain arrays"
        ) from error


def _plain(value: Any, levels: int, left: list[int]) -> Any:
    """The arrays that stand-ins hold; objects within lists and dictionaries likewise, `left` of them at most."""
    left[0] -= 1
    if levels == 0 or left[0] < 0:
        raise pickle.UnpicklingError("nested too deep")
    if isinstance(value, _Array):
        array = value.value
        if isinstance(array, np.ndarray) and array.dtype == object:
            items = [_plain(item, levels - 1, left) for item in array.ravel()]
            return items[0] if array.ndim == 0 else items
        return array
    if isinstance(value, dict):
        return {key: _plain(item, levels - 1, left) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_plain(item, levels - 1, left) for item in value)
    return value
