"""`modmeta evaluate`: scores the structures and forecasts of a trained model on a data file."""

import argparse
from pathlib import Path
from typing import Any

from modmeta.cli.options import add_group, add_trust, add_window
from modmeta.errors import naming_file
from modmeta.io import check_free, write_file


def add_parser(subparsers: Any) -> None:
    """Registers the command."""
    parser = subparsers.add_parser(
        "evaluate", help="infer structures for a data file and print the measures of the protocol"
    )
    parser.add_argument("model", help="run directory, checkpoint, or packaged model, such as springs5")
    parser.add_argument("--data", required=True, type=Path, help="data file")
    parser.add_argument("--split", default=None, help="split to use; default: `test`, or the only split")
    parser.add_argument("--json", type=Path, default=None, help="also write the measures to this file")
    parser.add_argument("--overwrite", action="store_true", help="replace the JSON file if it exists")
    parser.add_argument(
        "--any-entities", action="store_true", help="accept numbers of entities that the model was not trained on"
    )
    add_group(parser)
    add_window(parser)
    add_trust(parser)
    parser.set_defaults(run=run)


def evaluate(
    model: Path | str,
    data: Path,
    split: str | None = None,
    any_entities: bool = False,
    group: str | None = "group",
    window: int | None = None,
) -> dict[str, float]:
    """Measures of the protocol for a model on a data file; see `modmeta.api.Model.evaluate`.

    Args:
        model: run directory, checkpoint, or name of a packaged model.
        data: file of trajectories. Without relations only forecasts are scored.
        split: split of the file; None for `test`, or the only split.
        any_entities: accept numbers of entities that the model was not trained on.
        group: column or key of the group of a task, or `all`; see `modmeta.data.reading.Reading`.
        window: frames of the windows into which tasks are cut; None for whole tasks.

    Raises:
        UserError: model or data cannot be read, or do not fit each other.
    """
    from modmeta.api import load_relational
    from modmeta.data.loading.for_model import Options
    from modmeta.data.reading import Reading
    from modmeta.terminal import progress

    trained = load_relational(model)
    observed = trained.module.observed_frames
    options = Options(
        Reading(group=group), split, observed=observed, any_entities=any_entities, labelled=True, window=window
    )
    tasks = trained.read(data, options).data
    with naming_file(data), progress("inferring", tasks.num_tasks) as advance:
        return trained.evaluate(tasks, advance)


def run(args: argparse.Namespace) -> None:
    """Prints the measures, and writes them to a JSON file if requested."""
    from modmeta.api import path_of
    from modmeta.io import as_json
    from modmeta.terminal import Terminal, measures_table
    from modmeta.training.checkpoints.loading import find_checkpoint

    reads = (args.data, find_checkpoint(path_of(args.model)))
    if args.json is not None:
        check_free(args.json, args.overwrite, reads)
    measures = evaluate(args.model, args.data, args.split, args.any_entities, args.group, args.window)
    if args.json is not None:  # before printing, which fails if standard output is a closed pipe
        write_file(args.json, lambda file: file.write(as_json(measures)), args.overwrite, reads)
    Terminal().print(measures_table(measures, f"{args.model} on {args.data}"))
