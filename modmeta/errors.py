"""Mistakes that a user can mend."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from modmeta.text import plain

LONGEST = 2000  # letters of a message; names in a file may be long


class UserError(ValueError):
    """A mistake in input or settings: one sentence that says what is wrong, where, and what to do.

    Names in it may come from a stranger's file, so it is one line of printable text.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(plain(message, LONGEST))


class DataError(UserError):
    """A mistake in a data file or in the settings of data."""


class TaskError(DataError):
    """Something about one task.

    Args:
        task: its number among those given.
        what: is wrong with it.
    """

    def __init__(self, task: int, what: str) -> None:
        super().__init__(f"task {task}: {what}")
        self.task, self.what = task, what


@contextlib.contextmanager
def numbered(ids: Sequence[Any]) -> Iterator[None]:
    """Within it some tasks of several are looked at; their errors name the tasks as these `ids` do."""
    try:
        yield
    except TaskError as error:
        raise TaskError(ids[error.task], error.what) from error


@contextlib.contextmanager
def of_file(file: object) -> Iterator[None]:
    """Within it, errors about a task name the file, too."""
    try:
        yield
    except TaskError as error:
        raise DataError(f"{file}: {error}") from error


def cause_of(error: BaseException) -> BaseException:
    """What a user is told of an error: what a part refused, where Hydra wraps it."""
    inner = error.__cause__
    return inner if not isinstance(error, UserError) and isinstance(inner, ValueError | TypeError) else error


class Preempted(Exception):
    """SIGTERM ended the run after it saved a checkpoint; its argument is the run's directory."""
