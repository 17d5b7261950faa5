"""Files that are there in full or not at all, whatever happens while they are written."""

import os
from pathlib import Path


def write_partial(path: Path, content: bytes) -> Path:
    """Writes beside `path` and waits for the disk; the file's name is returned, none is left where writing fails.

    Raises:
        OSError: the disk is full, or the directory cannot be written to.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        with open(partial, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    return partial


def sync_directory(directory: Path) -> None:
    """Waits until the names in a directory are on the disk."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_durably(path: Path, content: bytes) -> None:
    """Writes a file in one piece: whoever reads it finds all of the old content or all of the new, also after a crash.

    Raises:
        OSError: as `write_partial`; the old content is untouched.
    """
    os.replace(write_partial(path, content), path)
    sync_directory(path.parent)
