"""`modmeta report`: writes tables and figures of many runs, with published figures for comparison."""

import argparse
from pathlib import Path
from typing import Any

from modmeta.errors import UserError


def add_parser(subparsers: Any) -> None:
    """Registers the command."""
    parser = subparsers.add_parser("report", help="write tables and figures of many runs, with published figures")
    parser.add_argument(
        "paths", nargs="+", type=Path, metavar="PATH",
        help="run directory, sweep directory (finished or running), directory of results, or JSON file",
    )  # fmt: skip
    parser.add_argument("-o", "--output", required=True, type=Path, help="directory to write RESULTS.md and figures to")
    parser.add_argument(
        "--tasks", type=int, help="number of training tasks in tables 1 and 2; default: the largest of each method"
    )
    parser.add_argument("--overwrite", "--force", action="store_true", help="replace an existing report")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Writes the report.

    Raises:
        UserError: a path holds no runs, or the output exists or cannot be written.
    """
    from modmeta.outputs import OutputDirectory
    from modmeta.report.collect import collect
    from modmeta.report.results import RESULTS, results, write
    from modmeta.text import plain

    if args.tasks is not None and args.tasks < 1:
        raise UserError(f"--tasks {args.tasks} must be at least 1")
    output = OutputDirectory(args.output, "report", args.overwrite, args.paths)
    found = collect(args.paths)
    files = results(found, args.tasks)
    with output.written() as directory:
        write(directory, files)
    print(f"{args.output / RESULTS}: {len(found.finished)} finished and {len(found.unfinished)} unfinished runs")
    for where, counts in found.sweeps.items():
        print(f"sweep {plain(where, 400)}: {', '.join(f'{count} {state}' for state, count in counts.items())}")
    for line in found.unreadable:
        print(plain(f"not read: {line}", 2000))
