"""`modmeta inspect`: summarises a data file and suggests settings for training."""

import argparse
import shlex
from pathlib import Path
from typing import Any

from modmeta.cli.options import add_reading, reading_of


def add_parser(subparsers: Any) -> None:
    """Registers the command."""
    parser = subparsers.add_parser("inspect", help="summarise a data file and suggest settings for training")
    parser.add_argument("file", type=Path, help=".npz, .npy, HDF5, CSV or Parquet file, or directory in NRI's layout")
    add_reading(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Prints tables and suggestions. Missing frames are counted, not refused.

    Raises:
        UserError: the file cannot be read, or holds no trajectories.
    """
    from rich.table import Table

    from modmeta.data import formats
    from modmeta.data.describe import in_order
    from modmeta.errors import DataError
    from modmeta.terminal import Terminal
    from modmeta.text import for_console

    args.missing = "mask"
    splits = {name: in_order(data) for name, data in formats.load(args.file, args.split, reading_of(args)).items()}
    if not splits:
        raise DataError(f"{args.file} holds no trajectories")
    console = Terminal()
    table = Table(title=for_console(args.file))
    for column in ("split", "tasks", "entities", "frames", "frame step", "missing states", "relations"):
        table.add_column(column, justify="left" if column == "split" else "right")
    for name, data in splits.items():
        table.add_row(for_console(name), *_row(data))
    console.print(table)
    first = next(iter(splits.values()))
    console.print(_ranges(first))
    for line in suggestions(args.file, splits, args.group):
        console.print(for_console(line), soft_wrap=True)


def _row(data: Any) -> list[str]:
    there = None if data.mask is None else data.mask.any(axis=2)
    absent = 0 if data.mask is None else int((~data.mask[there]).sum())
    entities = str(data.sizes[0]) if len(data.sizes) == 1 else f"{data.sizes[0]} to {data.sizes[-1]}"
    known = "unknown" if data.relations is None else f"{int(data.relations.max()) + 1} types"
    return [str(data.num_tasks), entities, str(data.num_frames), f"{data.frame_step:g}", str(absent), known]


def _groups(data: Any) -> str:
    """Number of groups and of their tasks, such as `10 groups of 2 to 5 tasks, which share relations`."""
    import numpy as np

    sizes = np.bincount(data.group_index())
    least, most = int(sizes.min()), int(sizes.max())
    tasks = f"{least} to {most} tasks" if least < most else f"{most} task{'s' if most > 1 else ''}"
    return f"{len(sizes)} group{'s' if len(sizes) > 1 else ''} of {tasks}, which share relations"


def _windows(file: Path, data: Any, length: int) -> str:
    """Note on the windows that training would cut few long recordings into."""
    from modmeta.data.transforms.windows import windows
    from modmeta.errors import DataError

    try:
        count = windows(data, length, str(file)).num_tasks
    except DataError as error:
        return f"training would refuse the file: {error}"
    what = "one long recording is" if data.num_tasks == 1 else f"{data.num_tasks} long recordings are"
    return (
        f"{what} cut into windows for training, which share relations: {count} windows of {length} frames; choose "
        "another length with data.window=N, or none with data.window=null"
    )


def _ranges(data: Any) -> Any:
    from rich.table import Table

    from modmeta.text import for_console

    table = Table(title="features")
    for column in ("feature", "least", "median", "greatest", "standard deviation"):
        table.add_column(column, justify="left" if column == "feature" else "right")
    import numpy as np

    seen = data.states if data.mask is None else data.states[data.mask]
    flat = seen.reshape(-1, data.num_features)
    for name, values in zip(data.features, flat.T, strict=True):
        table.add_row(
            for_console(name),
            *(f"{value:.4g}" for value in (values.min(), np.median(values), values.max(), values.std())),
        )
    return table


def suggestions(file: Path, splits: dict[str, Any], group: str) -> list[str]:
    """Notes on the data, and a command that trains on it with the same groups."""
    from modmeta.data.describe import find_positions, frame_motion
    from modmeta.data.reading import GROUP
    from modmeta.data.transforms.windows import automatic_length
    from modmeta.training.run import experiment_for
    from modmeta.training.words import setting

    first = next(iter(splits.values()))
    positions, moving = find_positions(first)
    sized = {name: data for name, data in splits.items() if len(data.sizes) > 1}
    lines = [f"{name}: tasks by number of entities: {data.tasks_by_size()}" for name, data in sized.items()]
    lines += [f"{name}: {_groups(data)}" for name, data in splits.items() if data.group_names is not None]
    words = [f"modmeta train {shlex.quote(str(file))}"]
    if group != GROUP:
        plain = group.replace("_", "a").isalnum()  # needs no quotes
        words.append(f"data.group={group}" if plain else shlex.quote(setting("data.group", group)))
    if moving:
        motion, explained = frame_motion(first, positions)
        lines.append(
            f"{', '.join(first.features[:positions])} are coordinates; their velocities follow ({explained:.1%} of the "
            f"motion explained, {motion:.4g} time units a frame); experiment={experiment_for(first)} is trained"
        )
    elif positions:
        lines.append(
            f"{', '.join(first.features[:positions])} are coordinates without velocities; they are estimated, and "
            "experiment=moving is trained. If forces set velocities (overdamped motion, vortices), leave "
            "data.velocities=estimated out: experiment=laws is trained"
        )
        words += ["data.velocities=estimated"]
    else:
        lines.append(
            "no feature is named like a coordinate: experiment=laws is trained, which searches for the law. If the "
            "first P features are coordinates, add data.positions=P"
        )
    if any(data.mask is not None and not data.mask[data.mask.any(axis=2)].all() for data in splits.values()):
        lines.append("states are missing; time steps next to them are left out of all energies")
        words += ["data.reading.missing=mask"]
    length = automatic_length(first) if len(splits) == 1 else None
    if length is not None:
        lines.append(_windows(file, first, length))
    elif len(splits) == 1 and first.num_tasks < 3:
        lines.append(
            "fewer than three tasks: enough to infer from, too few to train on, unless data.window=N cuts them into "
            "windows"
        )
    if first.relations is None and positions:  # otherwise held-out frames choose it
        lines.append(
            "relations are unknown: to choose the number of edge types, add -m model.num_edge_modules=1,2,3,4 and take "
            "the least beyond which val/gain no longer grows, the gain over no relations on held-out frames"
        )
    return [*lines, "", " ".join(words)]
