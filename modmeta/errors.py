"""Errors that a user can fix."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from modmeta.text import plain

MESSAGE_LENGTH = 2000  # characters of a message; names in a file may be long


class UserError(ValueError):
    """Invalid input or settings. The message states what is wrong, where, and how to fix it.

    Names in the message may come from untrusted files, so it is reduced to one line of printable text.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(plain(message, MESSAGE_LENGTH))


class DataError(UserError):
    """An invalid data file or data setting."""


class TaskError(DataError):
    """An error about one task.

    Args:
        task: index of the task in the data passed to the function that raises.
        what: what is wrong with it.
    """

    def __init__(self, task: int, what: str) -> None:
        super().__init__(f"task {task}: {what}")
        self.task, self.what = task, what

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.task, self.what)  # from one process to another


@contextlib.contextmanager
def renumbered(ids: Sequence[Any]) -> Iterator[None]:
    """Renumbers `TaskError`s raised in the block, which processes a subset of tasks: index i becomes `ids[i]`."""
    try:
        yield
    except TaskError as error:
        raise TaskError(ids[error.task], error.what) from error


@contextlib.contextmanager
def naming_file(file: object) -> Iterator[None]:
    """Adds the file name to `TaskError`s raised in the block, as `DataError`."""
    try:
        yield
    except TaskError as error:
        raise DataError(f"{file}: {error}") from error


def cause_of(error: BaseException) -> BaseException:
    """The error to show to the user: Hydra wraps errors of constructors, whose cause is the informative one."""
    inner = error.__cause__
    return inner if not isinstance(error, UserError) and isinstance(inner, ValueError | TypeError) else error


class Preempted(Exception):
    """SIGTERM stopped the run after a checkpoint was saved. Its argument is the run directory."""
