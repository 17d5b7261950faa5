"""Functions compiled to machine code, kept on disk for the next process where there is room for it."""

from collections.abc import Callable
from typing import Any

import numba


def compiled(**how: Any) -> Callable[[Callable[..., Any]], Any]:
    """Compiles a function, as `numba.njit` does, and without the global lock.

    Numba refuses to compile at all where neither the package nor the home directory can be written to, as in a
    container that is read-only; there it is done anew in every process.
    """

    def compile_(function: Callable[..., Any]) -> Any:
        try:
            return numba.njit(nogil=True, cache=True, **how)(function)
        except RuntimeError:
            return numba.njit(nogil=True, **how)(function)

    return compile_
