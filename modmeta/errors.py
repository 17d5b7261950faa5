"""Mistakes that a user can mend."""


class UserError(ValueError):
    """A mistake in input or settings: one sentence that says what is wrong, where, and what to do."""


class DataError(UserError):
    """A mistake in a data file or in the settings of data."""


class Preempted(Exception):
    """The run was asked to go (SIGTERM) and has saved its state; its argument is the run's directory."""
