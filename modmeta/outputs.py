"""Atomic output directories with a manifest, so that `--overwrite` replaces only files that modmeta wrote.

Files are written to a temporary directory beside the target. A new output is renamed into place. An earlier output is
exchanged with the new one in one step. Files missing from its manifest belong to the user; they are hard-linked into
the new directory before the exchange, so they exist at all times.

The manifest `modmeta-output.json` holds `format`, `command` and `files`: relative path to `bytes` and `sha256`. It may
come from an untrusted source: paths that leave the directory, by `..` or a symbolic link, are rejected, and a file
whose content differs from its manifest entry is never removed.
"""

import ctypes
import errno
import hashlib
import json
import os
import shutil
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from modmeta.errors import DataError
from modmeta.io import Unwritable, check_parent, held, sync_directory, temporary_directory

MANIFEST = "modmeta-output.json"
FORMAT = 1
MOST_BYTES = 1 << 28  # largest manifest: a million files
AT_FDCWD, RENAME_EXCHANGE = -100, 2  # constants of Linux
Files = dict[str, tuple[int, str]]  # bytes and SHA-256 by relative path


@dataclass(frozen=True)
class _State:
    """State of the target: (device, inode) of an existing directory, and the files in its manifest."""

    inode: tuple[int, int] | None
    listed: Files


class OutputDirectory:
    """An output directory. The constructor checks that it can be written, before long computations.

    Args:
        path: the directory. Its parent must exist.
        command: name of the command that writes it, for the manifest.
        overwrite: whether an earlier output may be replaced.
        reads: input files and directories, which the output directory may not contain.

    Raises:
        DataError: the path is not writable, or holds files that modmeta did not write or that were changed since.
    """

    def __init__(self, path: Path, command: str, overwrite: bool, reads: Iterable[Path | str] = ()) -> None:
        self.path, self.command, self.overwrite, self.reads = path, command, overwrite, [Path(read) for read in reads]
        self.state = self._look()

    def _look(self) -> _State:
        path = self.path
        if path.is_symlink():
            raise DataError(f"{path} is a symbolic link; give its target, or another directory")
        if path.exists() and not path.is_dir():
            raise DataError(f"{path} is a file; give a directory")
        if not path.exists():
            check_parent(path)
            return _State(None, {})
        if os.path.ismount(path):
            raise DataError(f"{path} is mounted and cannot be replaced; choose a directory inside it")
        try:
            _check_elsewhere(path, self.reads)
            empty = not any(path.iterdir())
            if not empty and not os.path.lexists(path / MANIFEST):
                raise DataError(
                    f"{path} exists and holds files that modmeta did not write, which --overwrite never replaces; "
                    "choose another directory"
                )
            if not empty and not self.overwrite:
                raise DataError(f"{path} exists; choose another directory, or add --overwrite")
            listed = {} if empty else read_manifest(path)
            _check_unchanged(path, listed)
            check_parent(path)
            place = path.stat()
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error.strerror}); choose another directory") from error
        return _State((place.st_dev, place.st_ino), listed)

    @contextmanager
    def written(self) -> Iterator[Path]:
        """Yields a directory to fill. It replaces the target when the block ends without an error.

        Raises:
            DataError: the write failed, or the target was changed meanwhile. The target is unchanged.
        """
        try:
            with temporary_directory(self.path) as beside:
                new = beside / "new"
                new.mkdir()
                yield new
                made = _write_manifest(new, self.command)
                if self._look() != self.state:
                    raise DataError(f"{self.path} was changed while this command ran; choose another directory")
                self._put(new, made)
        except Unwritable as error:  # name the target, not the temporary file
            raise Unwritable(self.path, error.error) from error
        except OSError as error:
            raise Unwritable(self.path, error) from error

    def _put(self, new: Path, made: Files) -> None:
        if self.path.is_dir():
            new.chmod(stat.S_IMODE(self.path.stat().st_mode))
        if not self.state.listed and not (self.path / MANIFEST).exists():
            with held():
                try:
                    os.rename(new, self.path)  # fails if the target was created meanwhile
                except OSError as error:
                    if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                        raise DataError(
                            f"{self.path} was created by another process meanwhile; choose another directory"
                        ) from error
                    raise
                sync_directory(self.path.parent)
            return
        ours = {*self.state.listed, MANIFEST}
        _keep_foreign(self.path, new, ours)
        with held():
            _exchange(new, self.path)
            replaced = new.stat()
            if (replaced.st_dev, replaced.st_ino) != self.state.inode:  # another process replaced it first
                _exchange(new, self.path)
                raise DataError(f"{self.path} was changed while this command ran; choose another directory")
            try:
                _keep_foreign(new, self.path, ours)  # files added since the first call
            except DataError:
                _exchange(new, self.path)
                raise
            sync_directory(self.path.parent)


def _check_elsewhere(path: Path, reads: Iterable[Path]) -> None:
    """Rejects a directory that contains the working directory, the home directory or an input."""
    here = path.resolve()
    places = {"the working directory": Path.cwd(), "the home directory": Path(os.path.expanduser("~"))}
    places |= {str(read): read for read in reads if read.exists()}
    for name, place in places.items():
        if place.resolve().is_relative_to(here) or Path(os.path.abspath(place)).is_relative_to(here):
            raise DataError(f"{path} is or contains {name}, which --overwrite never replaces; choose another directory")


def read_manifest(directory: Path) -> Files:
    """Files listed in the manifest of a directory.

    Raises:
        DataError: the manifest is damaged, or lists a path outside the directory.
    """
    path = directory / MANIFEST
    try:
        if path.is_symlink() or not path.is_file() or path.stat().st_size > MOST_BYTES:
            raise ValueError("not a regular file, or too large")
        content = json.loads(path.read_bytes())
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise ValueError(f"the format is not {FORMAT}")
        files = content["files"]
        return {_plain(name): (_integer(entry["bytes"]), str(entry["sha256"])) for name, entry in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            f"{path} is not a manifest that modmeta wrote ({type(error).__name__}: {str(error)[:100]!r}); "
            "choose another directory"
        ) from error


def _plain(name: str) -> str:
    """Returns `name` if it is a normalised relative path.

    Raises:
        ValueError: it is not.
    """
    parts = PurePosixPath(name).parts
    if not parts or ".." in parts or name != "/".join(parts) or name.startswith("/") or name == MANIFEST:
        raise ValueError(f"{name[:50]!r} is not a path inside the directory")
    if not name.isprintable() or len(name.encode()) > 4096 or "\\" in name:
        raise ValueError(f"{name[:50]!r} is not a name that modmeta writes")
    return name


def _integer(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("a size is not an integer")
    return value


def _check_unchanged(directory: Path, listed: Files) -> None:
    """Checks that listed files still have their size and digest. Missing files are accepted.

    Raises:
        DataError: a file was changed.
    """
    for name, (size, digest) in listed.items():
        path = directory / name
        places = [directory / part for part in PurePosixPath(name).parents if part.parts]
        found = _lstat(path)
        if found is None and not any(place.is_symlink() for place in places):
            continue
        same_size = found is not None and stat.S_ISREG(found.st_mode) and found.st_size == size
        if any(place.is_symlink() for place in places) or not same_size or _digest(path) != digest:
            raise DataError(
                f"{path} was changed since modmeta wrote it, so it is not replaced; move it, or choose another "
                "directory"
            )


def _lstat(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _digest(path: Path, sync: bool = False) -> str:
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        if sync:
            os.fsync(file.fileno())
    return digest


def _write_manifest(directory: Path, command: str) -> Files:
    """Syncs all files and writes their manifest, in sorted order and without times, so that it is reproducible."""
    made = {}
    for path in sorted(part for part in directory.rglob("*") if part.is_file()):
        made[path.relative_to(directory).as_posix()] = (path.stat().st_size, _digest(path, sync=True))
    files = {name: {"bytes": size, "sha256": digest} for name, (size, digest) in made.items()}
    content = {"format": FORMAT, "command": command, "files": files}
    with open(directory / MANIFEST, "w", encoding="utf-8") as file:
        file.write(json.dumps(content, indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())
    for place in (directory, *(part for part in directory.rglob("*") if part.is_dir())):
        sync_directory(place)
    return made


def _keep_foreign(source: Path, target: Path, ours: set[str]) -> None:
    """Hard-links every file of `source` that is not in `ours` into `target`.

    Raises:
        DataError: the new output has a file of that name, or the file system has no hard links.
    """
    made = {parent.as_posix() for name in ours for parent in PurePosixPath(name).parents}
    for place, directories, files in os.walk(source, topdown=False):
        here = Path(place).relative_to(source)
        links = [name for name in directories if (Path(place) / name).is_symlink()]
        for name in (*files, *links):
            path, other = Path(place) / name, target / here / name
            if (here / name).as_posix() in ours:
                continue
            known = _lstat(other)
            if known is not None and os.path.samestat(known, path.lstat()):
                continue
            try:
                other.parent.mkdir(parents=True, exist_ok=True)
                os.link(path, other, follow_symlinks=False)
            except OSError as error:
                raise DataError(
                    f"{path} was not written by modmeta and cannot be kept in the new output ({error.strerror}); "
                    "move it, or choose another directory"
                ) from error
        if here.as_posix() not in made:  # a directory of the user
            if not os.path.lexists(target / here):
                (target / here).mkdir(parents=True)
            shutil.copystat(place, target / here)


def _exchange(one: Path, other: Path) -> None:
    """Exchanges the names of two directories: atomically on Linux, in three renames elsewhere."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if sys.platform == "linux" else None
    if call is not None:
        if call(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0:
            return
        code = ctypes.get_errno()
        if code not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
            raise OSError(code, os.strerror(code), str(other))
    aside = one.with_name("aside")
    os.rename(other, aside)
    try:
        os.rename(one, other)
    except OSError:
        os.rename(aside, other)
        raise
    os.rename(aside, one)
