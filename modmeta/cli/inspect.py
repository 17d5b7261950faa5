"""`modmeta inspect`: summarises a data file and prints a command that trains on it."""

import argparse
import json
import shlex
from pathlib import Path
from typing import Any

from modmeta.cli.options import add_reading, reading_of

STANDARD_INPUT = "-"


def add_parser(subparsers: Any) -> None:
    """Registers the command."""
    parser = subparsers.add_parser("inspect", help="summarise a data file and suggest settings for training")
    parser.add_argument("file", type=Path, help="file or directory of trajectories in any format; - is standard input")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_reading(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Prints tables and suggestions. Missing frames are counted, not refused.

    Raises:
        UserError: the file cannot be read, or holds no trajectories.
    """
    from dataclasses import replace

    from modmeta.data import formats
    from modmeta.data.describe import in_order
    from modmeta.errors import DataError
    from modmeta.terminal import Terminal
    from modmeta.text import for_console
    from modmeta.training.suggestions import Suggestion

    given = reading_of(args)
    found = formats.load(args.file, args.split, replace(given, missing="mask"))
    splits = {name: in_order(data) for name, data in found.items()}
    if not splits:
        raise DataError(f"{args.file} holds no trajectories")
    suggestion = Suggestion.of(args.file, splits, given)
    command = f"modmeta train {shlex.join(suggestion.words)}"
    if str(args.file) == STANDARD_INPUT:
        command = f"save standard input to a file, then: {command}"
    if suggestion.refused:
        command = ""
    if args.json:
        facts = {name: dict(zip(COLUMNS[1:], _row(data), strict=True)) for name, data in splits.items()}
        out = {"file": str(args.file), "splits": facts, "features": _features(next(iter(splits.values()))),
               "notes": suggestion.notes, "command": command or None}  # fmt: skip
        print(json.dumps(out))
        return
    console = Terminal()
    console.print(_table(args.file, splits))
    console.print(_ranges(next(iter(splits.values()))))
    for line in suggestion.notes:
        console.print(for_console(line), soft_wrap=True)
    if command:
        console.print()
        console.print(for_console(command), soft_wrap=True)


COLUMNS = ("split", "tasks", "entities", "frames", "frame step", "missing states", "relations")


def _table(file: Path, splits: dict[str, Any]) -> Any:
    from rich.table import Table

    from modmeta.text import for_console

    table = Table(title=for_console(file))
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == "split" else "right")
    for name, data in splits.items():
        table.add_row(for_console(name), *_row(data))
    return table


def _row(data: Any) -> list[str]:
    absent = 0 if data.mask is None else int((~data.mask[data.there]).sum())
    entities = str(data.sizes[0]) if len(data.sizes) == 1 else f"{data.sizes[0]} to {data.sizes[-1]}"
    known = "unknown" if data.relations is None else f"{int(data.relations.max()) + 1} types"
    return [str(data.num_tasks), entities, str(data.num_frames), f"{data.frame_step:g}", str(absent), known]


def _features(data: Any) -> dict[str, list[float]]:
    """Least, median and greatest value and standard deviation by feature."""
    import numpy as np

    seen = data.states if data.mask is None else data.states[data.mask]
    flat = seen.reshape(-1, data.num_features)
    return {
        name: [float(value) for value in (values.min(), np.median(values), values.max(), values.std())]
        for name, values in zip(data.features, flat.T, strict=True)
    }


def _ranges(data: Any) -> Any:
    from rich.table import Table

    from modmeta.text import for_console

    table = Table(title="features")
    for column in ("feature", "least", "median", "greatest", "standard deviation"):
        table.add_column(column, justify="left" if column == "feature" else "right")
    for name, values in _features(data).items():
        table.add_row(for_console(name), *(f"{value:.4g}" for value in values))
    return table
