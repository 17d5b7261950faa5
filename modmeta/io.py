"""Atomic file writing: a file is either complete or absent, even if the process is killed.

Content is written to a temporary file `.NAME.RANDOM.modmeta-tmp` in the target's directory, synced to disk and then
renamed. Errors, SIGINT and SIGTERM remove the temporary file; SIGKILL leaves the temporary file behind.
"""

import contextlib
import errno
import json
import os
import shutil
import signal
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO, Any

from modmeta.errors import DataError

TEMPORARY = ".modmeta-tmp"  # suffix of temporary files and directories
UMASK = os.umask(0o077)  # `tempfile` creates files that only the owner can read; results get the usual permissions
os.umask(UMASK)
REMEDIES = {
    errno.ENOSPC: "free some space, or choose another disk",
    errno.EDQUOT: "your disk quota is exceeded: free some space, or choose another disk",
    errno.EFBIG: "the file exceeds the size limit: raise the limit, or choose another disk",
    errno.EROFS: "the file system is read-only: choose another directory",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EIO: "the disk reports an error: choose another disk",
}
WITHOUT_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)


class Interrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM was received; `number` is the signal number."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class _Signals:
    """Nesting depth of `held`, the deferred signal (0 if none), and the time at which the last signal was raised."""

    held, waiting, last = 0, 0, float("-inf")


def _interrupt(number: int, frame: FrameType | None) -> None:
    if _Signals.held:
        _Signals.waiting = number
    elif time.monotonic() - _Signals.last > 1:  # `timeout` and schedulers may send the same signal twice
        _Signals.last = time.monotonic()
        raise Interrupted(number)


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM and SIGINT raise `Interrupted` in the block, so that `finally` clauses run.

    Signals that the process was started to ignore stay ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, _interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def held() -> Iterator[None]:
    """Defers SIGTERM and SIGINT to the end of the block. For short critical sections such as renames."""
    if threading.current_thread() is not threading.main_thread():  # handlers run in the main thread only
        yield
        return
    _Signals.held += 1
    try:
        yield
    finally:
        _Signals.held -= 1
        if not _Signals.held and _Signals.waiting:
            number, _Signals.waiting = _Signals.waiting, 0
            _interrupt(number, None)


def reason_and_remedy(error: OSError) -> str:
    """Reason and remedy for a failed write."""
    remedy = REMEDIES.get(error.errno or 0, "check space and permissions")
    return f"({error.strerror or 'incomplete write'}); {remedy}"  # NumPy's error for a full disk has no reason


class Unwritable(DataError):
    """`path` could not be written because of `error`."""

    def __init__(self, path: Path | str, error: OSError) -> None:
        super().__init__(f"{path} cannot be written {reason_and_remedy(error)}")
        self.error = error


def temporary_name(path: Path) -> str:
    """Prefix of temporary names for `path`, truncated because file systems limit the length of names."""
    return f".{path.name[:40]}."


@contextmanager
def whole_file(path: Path, write: Callable[[IO[bytes]], object]) -> Iterator[Path]:
    """Yields a temporary file beside `path`, filled by `write` and synced, for the block to rename; else it is removed.

    Raises:
        OSError: the disk is full, or the directory is not writable. No temporary file is left.
    """
    name = None
    try:
        with held():
            handle, name = tempfile.mkstemp(TEMPORARY, temporary_name(path), path.parent)
        with open(handle, "w+b") as file:  # HDF5 reads back while writing
            write(file)
            file.flush()
            os.chmod(name, stat.S_IMODE(path.stat().st_mode) if path.is_file() else 0o666 & ~UMASK)
            os.fsync(handle)
        yield Path(name)
    finally:
        with held():
            if name is not None:
                Path(name).unlink(missing_ok=True)


@contextmanager
def temporary_directory(path: Path) -> Iterator[Path]:
    """Yields an empty directory beside `path` and removes it after the block.

    Raises:
        OSError: the disk is full, or the parent directory is not writable.
    """
    name = None
    try:
        with held():
            name = tempfile.mkdtemp(TEMPORARY, temporary_name(path), path.parent)
        yield Path(name)
    finally:
        with held():
            if name is not None:
                shutil.rmtree(name, ignore_errors=True)


def sync_directory(directory: Path) -> None:
    """Syncs the entries of a directory to disk."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_durably(path: Path, content: bytes) -> None:
    """Replaces a file atomically: readers see either the old content or the new.

    Raises:
        OSError: the disk is full, or the directory is not writable. The old content is kept.
    """
    with whole_file(path, lambda file: file.write(content)) as new:
        os.replace(new, path)
    sync_directory(path.parent)


def remove_temporary(directory: Path) -> None:
    """Removes temporary files left by killed writers, recursively. No process may be writing there."""
    for path in directory.rglob(f".*{TEMPORARY}"):
        with contextlib.suppress(OSError):
            path.unlink() if path.is_file() else shutil.rmtree(path, ignore_errors=True)


def check_parent(path: Path) -> None:
    """Checks that `path` can be created.

    Raises:
        DataError: the parent directory does not exist or is not writable.
    """
    if not path.parent.is_dir():
        raise DataError(f"{path.parent} is not a directory; create it first")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise DataError(f"{path.parent} is not writable; check permissions, or choose another directory")


def check_free(path: Path, overwrite: bool, reads: Iterable[Path | str] = ()) -> None:
    """Checks that a file may be written. Call it before long computations.

    Args:
        path: output file.
        overwrite: whether an existing file may be replaced. Only regular files are ever replaced.
        reads: input files and directories. The output may not be one of them, or lie inside one that exists.

    Raises:
        DataError: the file exists and `overwrite` is false, it is an input, or its directory is not writable.
    """
    if path.is_symlink():
        raise DataError(f"{path} is a symbolic link; give its target, or another file name")
    if path.is_dir():
        raise DataError(f"{path} is a directory; give a file name")
    if path.exists():
        if not path.is_file():
            raise DataError(f"{path} is not a regular file; choose another name")
        for read in map(Path, reads):
            if read.exists() and (read.samefile(path) or path.resolve().is_relative_to(read.resolve())):
                raise DataError(f"{path} is the input {read} or part of it; choose another name")
        if not overwrite:
            raise DataError(f"{path} exists; choose another name, or add --overwrite")
    check_parent(path)


def write_file(
    path: Path, write: Callable[[IO[bytes]], object], overwrite: bool, reads: Iterable[Path | str] = ()
) -> None:
    """Writes an output file atomically.

    Args:
        path: output file.
        write: function that writes the content to an open binary file.
        overwrite: whether to replace an existing file, including one created while this function runs.
        reads: input files; see `check_free`.

    Raises:
        DataError: see `check_free`, or the write failed. An existing file is unchanged.
    """
    check_free(path, overwrite, reads)
    try:
        with whole_file(path, write) as new:
            check_free(path, overwrite, reads)
            if overwrite:
                os.replace(new, path)
            else:
                _name_anew(new, path)
        sync_directory(path.parent)
    except FileExistsError as error:
        raise DataError(
            f"{path} was created by another process meanwhile; choose another name, or add --overwrite"
        ) from error
    except OSError as error:
        raise Unwritable(path, error) from error


def _name_anew(new: Path, path: Path) -> None:
    """Links a file to a new name.

    Raises:
        FileExistsError: the name exists.
    """
    try:
        os.link(new, path)
    except OSError as error:
        if error.errno not in WITHOUT_LINKS:
            raise
        with held():  # the file system has no hard links: reserve the name first
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
            os.replace(new, path)


def as_json(content: dict[str, Any]) -> bytes:
    """Content of a JSON file."""
    return (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Replaces a JSON file atomically; see `write_durably`."""
    write_durably(path, as_json(content))


def expanded(path: Path | str) -> Path:
    """A path whose `~` is the home directory, unless a file has that name or there is no such directory."""
    path = Path(path)
    if path.exists() or not str(path).startswith("~"):
        return path
    try:
        return path.expanduser()
    except RuntimeError:
        return path
