"""Tables on standard output, progress bars on standard error."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from modmeta.text import for_console

EVERY = 5.0  # seconds between lines of progress where standard error is no terminal


class Terminal(Console):
    """Standard output. A closed pipe (`| head`) raises an error for the caller instead of exiting, as rich does."""

    def on_broken_pipe(self) -> None:
        """Called by rich.

        Raises:
            BrokenPipeError: always.
        """
        raise BrokenPipeError


@contextmanager
def progress(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """Shows a progress bar on standard error, or, if that is no terminal, a line every `EVERY` seconds.

    Yields a function that advances it.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(description, total)
        return
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task(description, total=total)
        yield lambda amount: bar.advance(task, amount)


def _lines(description: str, total: int) -> Callable[[int], None]:
    done, last = 0, time.monotonic()

    def advance(amount: int) -> None:
        nonlocal done, last
        done += amount
        if time.monotonic() - last >= EVERY:
            last = time.monotonic()
            print(f"{description}: {done / max(total, 1):.0%}", file=sys.stderr, flush=True)

    return advance


@contextmanager
def doing(description: str) -> Iterator[Callable[[str], None]]:
    """Shows a spinner and seconds on standard error, or, if that is no terminal, a line every `EVERY` seconds at most.

    Yields a function that adds a detail.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _details(description)
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(description, total=None)
        yield lambda detail: bar.update(task, description=f"{description}: {detail}")


def _details(description: str) -> Callable[[str], None]:
    began = last = time.monotonic()

    def say(detail: str) -> None:
        nonlocal last
        if time.monotonic() - last >= EVERY:
            last = time.monotonic()
            print(f"{description}: {detail}, {last - began:.0f} s", file=sys.stderr, flush=True)

    return say


def measures_table(measures: dict[str, float], title: str) -> Table:
    """Table of measures by name; shares are shown as percentages."""
    table = Table(title=for_console(title))
    table.add_column("measure")
    table.add_column("value", justify="right")
    for name, value in measures.items():
        share = any(part in name for part in ("accuracy", "right", "auroc", "auprc", "f1"))
        table.add_row(for_console(name), f"{value:.2%}" if share else f"{value:.4g}")
    return table
