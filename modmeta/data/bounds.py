"""Limits on untrusted files: declared sizes are compared with stored sizes before any memory is allocated.

Compression shrinks files of numbers about ten times. A file that declares a thousand times its stored size is damaged
or malicious. Declared sizes up to `FREE` are always accepted, because Python and torch need more memory than that.
"""

from modmeta.errors import DataError

FREE = 1 << 25  # bytes that any file may declare
RATIO = 32  # bytes of an array per stored byte; measured states compress less than 10 times, zeros 1,000 times
SPARSE = 16  # cells of a table's grid task x entity x frame per row
GAP = 20  # time steps per frame of a task, ...
GAP_FREE = 1000  # ... plus steps without frames that every task may have
COLUMNS = 4096  # columns of a table
HEADER = 1 << 20  # bytes of a table's first line
NAME_LENGTH = 256  # characters of a name, about the limit of file names
LABELS = 128  # number of labels: relations and types are stored as int8
WHOLE = 2**53  # larger integers are not exact as float64
LARGE = 1e32  # magnitude of a state: its square, and sums of squares, stay far below the float64 maximum
SETTINGS = 1 << 20  # characters of `settings`
SETTINGS_DEPTH = 32  # nesting levels of `settings`


def check_size(where: str, declared: int, stored: int) -> None:
    """Rejects data whose declared size is out of proportion to its stored size.

    Args:
        where: file and part of it, for error messages.
        declared: bytes of memory needed to load it.
        stored: bytes stored on disk.

    Raises:
        DataError: `declared` exceeds `FREE` and is more than `RATIO` times `stored`.
    """
    if declared > max(FREE, RATIO * stored):
        raise DataError(
            f"{where}: the declared size is {size(declared)}, but only {size(stored)} are stored; the file is damaged "
            "or malicious, so create it again, or save it without compression"
        )


def size(count: int) -> str:
    """A number of bytes as text with a decimal unit, such as `33.6 MB`."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}" if unit != "bytes" else f"{count} {unit}"
        count /= 1000  # type: ignore[assignment]
    return f"{count:.4g} TB"
