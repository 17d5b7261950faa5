"""How much a file may ask for: sizes are compared with what it holds before any memory is taken.

A file of numbers holds about what it says, compressed perhaps a tenth of it. One that says a thousand times as much is
damaged or made to fill memory. Small ones may say what they like: `FREE` is little beside what Python and torch take.
"""

from modmeta.errors import DataError

FREE = 1 << 25  # bytes that any file may ask for
RATIO = 32  # bytes of an array to one on the disk; measured states shrink by less than 10, all-zero ones by 1,000
SPARSE = 16  # places of a table's grid task x entity x frame to one row
GAP = 20  # steps to one frame of a task, and...
GAP_FREE = 1000  # ...steps in which every task may lack frames
COLUMNS = 4096  # of a table
HEADER = 1 << 20  # bytes of a table's first line
LETTERS = 256  # of a name, as of a file's on most disks
LABELS = 128  # relations and types are kept as one byte each
WHOLE = 2**53  # numbers beyond it are no longer all different as floats
LARGE = 1e32  # of a state: its square, and sums of those, are far from the end of float64
SETTINGS = 1 << 20  # letters of `settings`
DEEP = 32  # levels of lists and objects in `settings`


def check_size(where: str, declared: int, stored: int) -> None:
    """Refuses to read what is out of proportion.

    Args:
        where: file and part of it, to name in errors.
        declared: bytes of memory that it asks for.
        stored: bytes that it has on the disk.

    Raises:
        DataError: declared is far more than what was stored can hold.
    """
    if declared > max(FREE, RATIO * stored):
        raise DataError(
            f"{where}: says that it holds {size(declared)}, but has {size(stored)} in the file; it is damaged or made "
            "to fill memory, so make the file again, or save it without compression"
        )


def size(count: int) -> str:
    """Bytes in words."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}" if unit != "bytes" else f"{count} {unit}"
        count /= 1000  # type: ignore[assignment]
    return f"{count:.4g} TB"
