"""The command `modmeta`."""

import argparse
import sys
from collections.abc import Sequence

from modmeta.cli import evaluate, generate, infer, inspect, prune, report, unseen
from modmeta.errors import UserError

# Modules that import what they need only when they run, so that --help is fast.
COMMANDS = (generate, inspect, infer, evaluate, prune, unseen, report)


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(prog="modmeta", description="Hidden relations from trajectories.")
    subparsers = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(subparsers)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit status, 2 for a mistake that the user can mend."""
    args = build_parser().parse_args(arguments)
    try:
        args.run(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
