"""Standard output as a terminal with tables."""

from rich.console import Console


class Terminal(Console):
    """Standard output; that nobody reads it any more (`| head`) is an error that a caller can meet."""

    def on_broken_pipe(self) -> None:
        """
        Raises:
            BrokenPipeError: always.
        """
        raise BrokenPipeError
