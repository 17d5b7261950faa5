"""Mistakes that a user can mend."""

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


class Preempted(Exception):
    """The run was asked to go (SIGTERM) and has saved its state; its argument is the run's directory."""
