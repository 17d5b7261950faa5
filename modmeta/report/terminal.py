"""Standard output as a terminal with tables."""

from rich.console import Console


class Terminal(Console):
    """Standard output; where nobody reads it any more (`| head`) that is an error of the caller's, not the end of all."""

    def on_broken_pipe(self) -> None:
        """
        Raises:
            BrokenPipeError: always.
        """
        raise BrokenPipeError
