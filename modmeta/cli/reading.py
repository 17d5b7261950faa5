"""Options of the commands that read a data file."""

import argparse
from typing import Any


def add_reading(parser: argparse.ArgumentParser) -> None:
    """Registers the options."""
    group = parser.add_argument_group("reading the file")
    group.add_argument("--task", default="task", metavar="COLUMN", help="column of a table with the task")
    group.add_argument("--frame", default="frame", metavar="COLUMN", help="column with frame numbers or times")
    group.add_argument("--entity", default="entity", metavar="COLUMN", help="column with the entity")
    group.add_argument("--features", metavar="A,B,...", help="columns to use, coordinates first; default: all others")
    group.add_argument(
        "--missing", choices=("error", "mask"), default="error", help="refuse missing frames, or leave them out (mask)"
    )
    group.add_argument("--resample", type=float, metavar="STEP", help="interpolate to frames STEP apart in time")
    group.add_argument(
        "--frame-step", type=float, metavar="STEP", help="time between frames, if the file does not define it"
    )
    group.add_argument("--split", help="split of the file; default: test, or the only split")


def reading_of(args: argparse.Namespace, **more: Any) -> Any:
    """The `Reading` that the options describe."""
    from modmeta.data.reading import Reading

    features = tuple(args.features.split(",")) if args.features else None
    return Reading(
        task=args.task, frame=args.frame, entity=args.entity, features=features, missing=args.missing,
        resample=args.resample, frame_step=args.frame_step, **more,
    )  # fmt: skip
