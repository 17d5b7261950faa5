"""The command `modmeta`: parses the command line and runs a command."""

import argparse
import os
import signal
import sys
from collections.abc import Sequence

from modmeta import __version__
from modmeta.cli import completion, evaluate, generate, infer, inspect, prune, report, train, unseen
from modmeta.errors import UserError
from modmeta.io import Interrupted, interruptible, reason_and_remedy

# These modules import what they need only when they run, so that --help is fast.
COMMANDS = (train, generate, inspect, infer, evaluate, prune, unseen, report, completion)


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(prog="modmeta", description="Infers hidden relations from trajectories.")
    parser.add_argument("--version", action="version", version=f"modmeta {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(subparsers)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        arguments: command line; None for `sys.argv`.

    Returns:
        The exit status: 0 for success, 2 for a mistake of the user or a failed read or write, 130 after SIGINT, 143
        after SIGTERM, 141 if standard output is a closed pipe.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["train"]:  # handles signals itself: SIGTERM saves a checkpoint
        return train.train(words[1:])
    parser = build_parser()
    args = parser.parse_args(words or ["--help"])
    if not hasattr(args, "run"):
        parser.error("a command is missing; modmeta --help lists them")
    try:
        with interruptible():
            args.run(args)
            sys.stdout.flush()
    except UserError as error:
        return _ended(f"error: {error}", 2)
    except BrokenPipeError:
        _silence()
        return 128 + signal.SIGPIPE
    except OSError as error:
        what = f"{error.filename} cannot be read or written" if error.filename else "standard output cannot be written"
        return _ended(f"error: {what} {reason_and_remedy(error)}", 2)
    except KeyboardInterrupt as error:
        number = error.number if isinstance(error, Interrupted) else signal.SIGINT
        return _ended("interrupted" if number == signal.SIGINT else "ended by SIGTERM", 128 + number)
    return 0


def _ended(line: str, status: int) -> int:
    print(line, file=sys.stderr)
    try:
        sys.stdout.flush()
    except OSError:
        _silence()
    return status


def _silence() -> None:
    """Redirects standard output to the null device, so that the interpreter's final flush does not fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
