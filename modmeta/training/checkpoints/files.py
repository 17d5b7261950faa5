"""Checkpoints on disk: written in one piece, the last two kept, their checksums tested, nothing in them executed."""

import io
import os
import pickle
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.io import CheckpointIO

from modmeta.errors import UserError
from modmeta.io import sync_directory, whole_file
from modmeta.training.checkpoints.pickles import Foreign, checked

LAST, PREVIOUS, DAMAGED = "last.ckpt", "previous.ckpt", "damaged.ckpt"


class Damaged(UserError):
    """A checkpoint that was cut short or altered."""


def save(content: dict[str, Any], path: Path) -> None:
    """Writes a checkpoint; the one that was there stays as `previous.ckpt`.

    At every moment one of the two is whole: the new one is complete on the disk before names change. The two never
    share their blocks on the disk, as hard links would, so that damage to one spares the other.

    Raises:
        OSError: the disk is full, or the directory cannot be written to. Then nothing has changed.
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
    """The contents of a checkpoint, plain values and tensors, after its checksums were tested.

    Raises:
        Damaged: it was cut short or altered.
        UserError: it is missing, or holds pickled code.
    """
    check(path)
    content = _checked(path)
    try:
        return torch.load(content, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} holds more than plain values and tensors; it is not loaded: it could run code"
        ) from error
    except Exception as error:  # altered bytes make torch raise nearly anything
        raise Damaged(f"{path} cannot be read as a checkpoint: it is damaged; use an earlier one") from error


def _checked(path: Path) -> io.BytesIO:
    """A checkpoint in memory whose pickle makes plain values and tensors.

    Raises:
        Damaged: its pickle is cut short.
        UserError: it does more than make plain values and tensors.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return checked(archive)
    except Foreign as error:
        raise UserError(
            f"{path} holds more than plain values and tensors ({error}); it is not loaded: it could run code"
        ) from error
    except Exception as error:  # altered bytes make the reader raise nearly anything
        raise Damaged(f"{path} cannot be read as a checkpoint: it is damaged; use an earlier one") from error


def check(path: Path) -> None:
    """Tests the checksum (CRC-32) of every part of a checkpoint.

    Raises:
        Damaged: one is wrong, or the file was cut short.
        UserError: it is missing, or no checkpoint.
    """
    if path.exists() and not path.is_file():  # a pipe has no end
        raise UserError(f"{path} is not a file; name a run directory or a checkpoint")
    try:
        with open(path, "rb") as file:
            start = file.read(2)
        if start not in (b"", b"P", b"PK", b"\0", b"\0\0"):
            raise UserError(f"{path} is not a checkpoint of modmeta; it is not loaded: it could run code")
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()  # stored as they are, so that none is larger than the file
            stored = all(part.compress_type == zipfile.ZIP_STORED for part in parts)
            if not stored or sum(part.file_size for part in parts) > path.stat().st_size:
                raise UserError(f"{path} declares more than the file holds; it is no checkpoint of modmeta")
            wrong = archive.testzip()
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist; name a run directory or a checkpoint") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise Damaged(f"{path} is damaged: it is truncated or altered; use an earlier one") from error
    if wrong is not None:
        raise Damaged(f"{path} is damaged: the checksum of its part {wrong} is wrong; use an earlier one")


def find_newest(directory: Path) -> Path | None:
    """The newest whole checkpoint of a directory; none where there is no checkpoint.

    Warns where the last one is damaged and the one before it is taken.

    Raises:
        Damaged: none is whole.
        UserError: the last one is no checkpoint.
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
                f"{directory}: {both} cannot be read, damaged on the disk; nothing is left to resume from. Put a copy "
                "of one of them there, or train again in another directory"
            ) from error
        warnings.warn(f"{error}: {previous.name}, the one before it, is used", stacklevel=2)
        return previous
    return last


class DurableCheckpoints(CheckpointIO):
    """How Lightning writes and reads checkpoints.

    A checkpoint that cannot be written, because the disk is full, say, is warned of, and training goes on; the next
    one tries again.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        try:
            save(checkpoint, Path(path))
        except OSError as error:
            warnings.warn(
                f"{path} could not be written ({error.strerror or error}); the checkpoint before it is kept, training "
                "goes on and tries again after the next epoch: free some space",
                stacklevel=2,
            )

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = True) -> dict[str, Any]:
        return load(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)
