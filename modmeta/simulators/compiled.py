"""Functions compiled to machine code, cached on disk if the file system is writable."""

from collections.abc import Callable
from typing import Any

import numba


def compiled(**how: Any) -> Callable[[Callable[..., Any]], Any]:
    """`numba.njit` with `nogil=True` and, where possible, `cache=True`.

    Numba raises an error if neither the package nor the home directory is writable, as in a read-only container. Then
    every process compiles the function again.
    """

    def compile_(function: Callable[..., Any]) -> Any:
        try:
            return numba.njit(nogil=True, cache=True, **how)(function)
        except RuntimeError:
            return numba.njit(nogil=True, **how)(function)

    return compile_
