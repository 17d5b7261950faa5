"""Checkpoint files: atomic writes, the last two kept, checksums verified, no code executed on loading."""

import io
import os
import pickle
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch

from modmeta.errors import UserError
from modmeta.io import sync_directory, whole_file
from modmeta.training.checkpoints.pickles import Foreign, checked

LAST, PREVIOUS, DAMAGED = "last.ckpt", "previous.ckpt", "damaged.ckpt"


class Damaged(UserError):
    """A truncated or altered checkpoint."""


def save(content: dict[str, Any], path: Path) -> None:
    """Writes a checkpoint atomically. An existing `last.ckpt` becomes `previous.ckpt`.

    At least one of the two is intact at any moment: the new file is complete on disk before anything is renamed. They
    share no disk blocks, as hard links would, so damage to one does not affect the other.

    Raises:
        OSError: the disk is full, or the directory cannot be written to. The old checkpoints are unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    memory = io.BytesIO()
    torch.save(content, memory)
    with whole_file(path, lambda file: file.write(memory.getbuffer())) as new:
        if path.name == LAST and path.exists():
            os.replace(path, path.with_name(PREVIOUS))
        os.replace(new, path)
    sync_directory(path.parent)


def load(path: Path) -> Any:
    """Verifies the checksums of a checkpoint and returns its content: plain values and tensors.

    Raises:
        Damaged: the file is truncated or altered.
        UserError: the file is missing, or holds pickled code.
    """
    check(path)
    content = _checked(path)
    try:
        return torch.load(content, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} holds more than plain values and tensors; it is not loaded: it could run code"
        ) from error
    except Exception as error:  # altered bytes can make torch raise almost any exception
        raise Damaged(f"{path} cannot be read as a checkpoint: it is damaged; use an earlier one") from error


def _checked(path: Path) -> io.BytesIO:
    """Checks the pickle of a checkpoint and returns a copy of the archive in memory.

    Raises:
        Damaged: the pickle is truncated.
        UserError: the pickle creates more than plain values and tensors.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return checked(archive)
    except Foreign as error:
        raise UserError(
            f"{path} holds more than plain values and tensors ({error}); it is not loaded: it could run code"
        ) from error
    except Exception as error:  # altered bytes can make the reader raise almost any exception
        raise Damaged(f"{path} cannot be read as a checkpoint: it is damaged; use an earlier one") from error


def check(path: Path) -> None:
    """Verifies the checksum (CRC-32) of every member of a checkpoint archive.

    Raises:
        Damaged: a checksum is wrong, or the file is truncated.
        UserError: the file is missing, or not a checkpoint.
    """
    if path.exists() and not path.is_file():  # reading a pipe or device might never end
        raise UserError(f"{path} is not a file; name a run directory or a checkpoint")
    try:
        with open(path, "rb") as file:
            start = file.read(2)
        if start not in (b"", b"P", b"PK", b"\0", b"\0\0"):
            raise UserError(f"{path} is not a checkpoint of modmeta; it is not loaded: it could run code")
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()  # stored uncompressed, so that no member is larger than the file
            stored = all(part.compress_type == zipfile.ZIP_STORED for part in parts)
            if not stored or sum(part.file_size for part in parts) > path.stat().st_size:
                raise UserError(f"{path} declares more data than the file holds; it is not a checkpoint of modmeta")
            wrong = archive.testzip()
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist; name a run directory or a checkpoint") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise Damaged(f"{path} is damaged: it is truncated or altered; use an earlier checkpoint") from error
    if wrong is not None:
        raise Damaged(f"{path} is damaged: the checksum of its member {wrong} is wrong; use an earlier checkpoint")


def find_newest(directory: Path) -> Path | None:
    """The newest intact checkpoint of a directory, or None if there is no checkpoint.

    If `last.ckpt` is damaged, warns and returns `previous.ckpt`.

    Raises:
        Damaged: no checkpoint is intact.
        UserError: `last.ckpt` is not a checkpoint.
    """
    last, previous = directory / LAST, directory / PREVIOUS
    if not last.exists():
        return previous if previous.exists() else None
    try:
        check(last)
    except Damaged as error:
        both = f"{LAST} and {PREVIOUS}" if previous.exists() else LAST
        try:
            if not previous.exists():
                raise
            check(previous)
        except Damaged:
            raise Damaged(
                f"{directory}: {both} cannot be read, damaged on the disk; the run cannot resume. Restore one of them "
                "from a copy, or train again in another directory"
            ) from error
        warnings.warn(f"{error}: {previous.name}, the checkpoint before it, is used", stacklevel=2)
        return previous
    return last
