"""The one writer of files: each is there in full or not at all, whatever happens while it is written.

Content goes to a temporary file in the target's own directory, `.NAME.RANDOM.modmeta-tmp`, waits for the disk and then
takes the target's name. An error, SIGINT or SIGTERM removes the temporary file; SIGKILL leaves it, and nothing else.
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

TEMPORARY = ".modmeta-tmp"  # how the names of temporary files and directories end
UMASK = os.umask(0o077)  # `tempfile` makes files that only their owner can read; the results are for others, too
os.umask(UMASK)
REMEDIES = {
    errno.ENOSPC: "free some space, or choose another disk",
    errno.EDQUOT: "your quota is used up: free some space, or choose another disk",
    errno.EFBIG: "files may not be that large here: raise the limit, or choose another disk",
    errno.EROFS: "choose a place that can be written to",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EIO: "the disk fails: choose another one",
}
WITHOUT_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)


class Interrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM; `number` is the signal's."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class _Signals:
    """What arrived while signals were held back, and when the last one was raised."""

    held, waiting, last = 0, 0, float("-inf")


def _interrupt(number: int, frame: FrameType | None) -> None:
    if _Signals.held:
        _Signals.waiting = number
    elif time.monotonic() - _Signals.last > 1:  # `timeout` and schedulers send the same signal twice at once
        _Signals.last = time.monotonic()
        raise Interrupted(number)


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM and SIGINT raise `Interrupted` in the block, so that what is half done is cleaned up.

    A signal that the process was started to ignore stays ignored.
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
    """Signals wait for the end of the block, which is short: names change in it, or temporary files go."""
    if threading.current_thread() is not threading.main_thread():  # handlers run in the main thread alone
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


def why(error: OSError) -> str:
    """What the system says of a failure to write, and what helps."""
    remedy = REMEDIES.get(error.errno or 0, "check space and permissions")
    return f"({error.strerror or 'not all of it was taken'}); {remedy}"  # NumPy says no more of a full disk


class Unwritable(DataError):
    """`path` could not be written, because of `error`."""

    def __init__(self, path: Path | str, error: OSError) -> None:
        super().__init__(f"{path} cannot be written {why(error)}")
        self.error = error


def temporary_name(path: Path) -> str:
    """How the names of temporary files for `path` begin; short where its own name is long."""
    return f".{path.name[:40]}."


@contextmanager
def whole_file(path: Path, write: Callable[[IO[bytes]], object]) -> Iterator[Path]:
    """A temporary file beside `path` that `write` has filled and the disk holds; the block gives it its name.

    Raises:
        OSError: the disk is full, or the directory cannot be written to. No temporary file is left.
    """
    name = None
    try:
        with held():
            handle, name = tempfile.mkstemp(TEMPORARY, temporary_name(path), path.parent)
        with open(handle, "w+b") as file:  # HDF5 reads what it writes
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
    """An empty directory beside `path`, gone after the block.

    Raises:
        OSError: the disk is full, or the directory around it cannot be written to.
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
    """Waits until the names in a directory are on the disk."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_durably(path: Path, content: bytes) -> None:
    """Writes a file of the program's own: whoever reads it finds all of the old content or all of the new.

    Raises:
        OSError: the disk is full, or the directory cannot be written to; the old content is untouched.
    """
    with whole_file(path, lambda file: file.write(content)) as new:
        os.replace(new, path)
    sync_directory(path.parent)


def remove_temporary(directory: Path) -> None:
    """Removes what writers that were killed left in a directory and below; nobody may be writing there."""
    for path in directory.rglob(f".*{TEMPORARY}"):
        with contextlib.suppress(OSError):
            path.unlink() if path.is_file() else shutil.rmtree(path, ignore_errors=True)


def check_parent(path: Path) -> None:
    """Refuses a place where nothing can be made.

    Raises:
        DataError: the directory around `path` does not exist, or cannot be written to.
    """
    if not path.parent.is_dir():
        raise DataError(f"{path.parent} is not a directory; create it first")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise DataError(f"{path.parent} cannot be written to; check permissions, or choose another place")


def check_free(path: Path, overwrite: bool, reads: Iterable[Path | str] = ()) -> None:
    """Refuses to write a file where something is, or where nothing can be; call it before long work, too.

    Args:
        path: of the file.
        overwrite: whether a file that is there may be replaced; what is no file never is.
        reads: what the command reads, which is not replaced, also not by another name of the same file.

    Raises:
        DataError: the file exists and is not to be overwritten, or its directory cannot be written to.
    """
    if path.is_symlink():
        raise DataError(f"{path} is a symbolic link; give the name of the file itself, or another one")
    if path.is_dir():
        raise DataError(f"{path} is a directory; give the name of a file")
    if path.exists():
        if not path.is_file():
            raise DataError(f"{path} is not a regular file; choose another name")
        for read in map(Path, reads):
            if read.exists() and (read.samefile(path) or path.resolve().is_relative_to(read.resolve())):
                raise DataError(f"{path} is what is read, {read}, or a part of it; choose another name")
        if not overwrite:
            raise DataError(f"{path} exists; choose another name, or allow it to be overwritten (--overwrite)")
    check_parent(path)


def write_file(
    path: Path, write: Callable[[IO[bytes]], object], overwrite: bool, reads: Iterable[Path | str] = ()
) -> None:
    """Writes a file for the user.

    Args:
        path: of the file.
        write: fills it.
        overwrite: replace a file that is there; one that came into being meanwhile is replaced only then.
        reads: see `check_free`.

    Raises:
        DataError: see `check_free`, or the disk does not take it. What was there is untouched.
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
        raise DataError(f"{path} exists since a moment ago; choose another name, or add --overwrite") from error
    except OSError as error:
        raise Unwritable(path, error) from error


def _name_anew(new: Path, path: Path) -> None:
    """Gives a file a second name that nothing has.

    Raises:
        FileExistsError: something has it.
    """
    try:
        os.link(new, path)
    except OSError as error:
        if error.errno not in WITHOUT_LINKS:
            raise
        with held():  # a file system without links: the name is taken first
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
            os.replace(new, path)


def as_json(content: dict[str, Any]) -> bytes:
    """Values as a file of JSON."""
    return (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a file in one piece: whoever reads it finds all of the old content or all of the new."""
    write_durably(path, as_json(content))
