"""Options that several commands have."""

import argparse
from typing import Any


def add_reading(parser: argparse.ArgumentParser) -> None:
    """Registers the options of commands that read a file of trajectories."""
    group = parser.add_argument_group("reading the file")
    group.add_argument("--task", default="task", metavar="COLUMN", help="column of a table with the task")
    group.add_argument("--frame", default="frame", metavar="COLUMN", help="column with frame numbers or times")
    group.add_argument("--entity", default="entity", metavar="COLUMN", help="column with the entity")
    add_group(group)
    group.add_argument("--features", metavar="A,B,...", help="columns to use, coordinates first; default: all others")
    group.add_argument(
        "--missing",
        choices=("unseen", "error", "mask"),
        default="unseen",
        help="leave out entities that a frame has no value of (unseen) or all that is missing (mask), or refuse",
    )
    group.add_argument(
        "--mask-below", metavar="COLUMN=VALUE,...", help="leave out states whose confidence in COLUMN is below VALUE"
    )
    group.add_argument("--resample", type=float, metavar="STEP", help="interpolate to frames STEP apart in time")
    group.add_argument(
        "--frame-step", type=float, metavar="STEP", help="time between frames, if the file does not define it"
    )
    group.add_argument("--split", help="split of the file; default: test, or the only split")


def add_group(parser: Any) -> None:
    """Registers the option of commands that pool the tasks of a group."""
    parser.add_argument(
        "--group", default="group", metavar="COLUMN|all",
        help="column or key with the group of a task, whose tasks share relations; all: one group of all tasks",
    )  # fmt: skip


def add_window(parser: Any) -> None:
    """Registers the option of commands that may cut recordings into windows."""
    parser.add_argument(
        "--window", type=int, metavar="FRAMES",
        help="cut every task into windows of so many frames, which share relations, and infer from all of them",
    )  # fmt: skip


def reading_of(args: argparse.Namespace, **more: Any) -> Any:
    """How these options ask a file to be read."""
    from modmeta.data.reading import Reading

    features = tuple(args.features.split(",")) if args.features else None
    unsure = [pair.rpartition("=") for pair in (args.mask_below or "").split(",") if pair]
    return Reading(
        task=args.task, frame=args.frame, entity=args.entity, features=features, missing=args.missing,
        resample=args.resample, frame_step=args.frame_step, group=args.group,
        mask_below=[(name, least) for name, _, least in unsure], **more,
    )  # fmt: skip


def add_trust(parser: argparse.ArgumentParser) -> None:
    """Registers the option of commands that load a model; a package is trusted as soon as the option is read."""
    parser.add_argument(
        "--trust", action=_Trust, metavar="PACKAGE",
        help="package of your own whose classes the model may name; its code is run",
    )  # fmt: skip


class _Trust(argparse.Action):
    def __call__(
        self, parser: argparse.ArgumentParser, namespace: object, values: object, option: object = None
    ) -> None:
        from modmeta.errors import UserError
        from modmeta.training.checkpoints.trust import trust

        try:
            trust(str(values))
        except UserError as error:
            parser.error(str(error))
