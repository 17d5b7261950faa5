"""Mistakes that a user can mend."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any


class UserError(ValueError):
    """A mistake in input or settings: one sentence that says what is wrong, where, and what to do."""


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


class Preempted(Exception):
    """The run was asked to go (SIGTERM) and has saved its state; its argument is the run's directory."""
