"""`modmeta evaluate`: structures and forecasts of a trained model on a file that it has never seen."""

import argparse
from pathlib import Path
from typing import Any

from modmeta.cli.trusting import add_trust
from modmeta.errors import DataError
from modmeta.io import check_free, write_file


def add_parser(subparsers: Any) -> None:
    """Registers the command."""
    parser = subparsers.add_parser(
        "evaluate", help="infer structures for a data file and print the protocol's measures"
    )
    parser.add_argument("model", help="run directory or checkpoint")
    parser.add_argument("--data", required=True, type=Path, help="data file; of several splits, `test` is used")
    parser.add_argument("--split", default=None, help="split of the file to use")
    parser.add_argument("--json", type=Path, default=None, help="also write the measures to this file")
    parser.add_argument("--overwrite", action="store_true", help="replace the JSON file if it exists")
    parser.add_argument("--any-entities", action="store_true", help="accept another number of entities than trained on")
    add_trust(parser)
    parser.set_defaults(run=run)


def evaluate(model: Path | str, data: Path, split: str | None = None, any_entities: bool = False) -> dict[str, float]:
    """The protocol's measures of a model on a file.

    Labels are matched as on the model's validation tasks, errors are in its protocol units.

    Args:
        model: run directory or checkpoint.
        data: file of trajectories; without relations only forecasts are scored.
        split: of the file; none for `test`, or the only one.
        any_entities: accept another number of entities than the model was trained on.

    Raises:
        UserError: model or data cannot be read, or do not fit each other.
    """
    import torch
    from rich.console import Console
    from rich.progress import track

    from modmeta.checkpoints.loading import load_model
    from modmeta.data import files
    from modmeta.data.datamodule import TaskBatches, as_dataset
    from modmeta.data.familiar import Known, check_familiar
    from modmeta.data.scaling import Units
    from modmeta.evaluation.posterior import OVERFLOWN
    from modmeta.keys import MASK, RELATIONS, STATES, TYPES

    module, trained = load_model(model)
    splits = files.load(data)
    name = split or ("test" if "test" in splits else next(iter(splits)))
    if name not in splits:
        raise DataError(f"{data} has no split {name!r}; choose one of {sorted(splits)} with --split")
    tasks = splits[name]
    if tasks.num_features != trained["num_features"]:
        raise DataError(
            f"{data}: {tasks.num_features} features, but the model was trained on {trained['num_features']}"
        )
    known = trained["num_entities"]
    new = [size for size in tasks.sizes if size not in ([known] if isinstance(known, int) else known)]
    if new and not any_entities:
        raise DataError(
            f"{data}: {', '.join(map(str, new))} entities, but the model was trained on {known}; "
            "--any-entities applies it all the same"
        )
    if tasks.num_frames < module.observed_frames:
        raise DataError(f"{data}: {tasks.num_frames} frames, but structures are inferred from {module.observed_frames}")
    if tasks.relations is not None and tasks.relations.max() >= trained["num_relations"]:
        raise DataError(f"{data}: relation {tasks.relations.max()}, but the model knows {trained['num_relations']}")
    kinds = len(module.measures.types.counts)
    if module.module_to_type is not None and tasks.types is not None and tasks.types.max() >= kinds:
        raise DataError(f"{data}: type {tasks.types.max()} of entity, but the model knows {kinds}")
    check_familiar(tasks, Known.of(module.model.dynamics, trained), str(data))
    dataset = as_dataset(tasks, Units(tuple(trained["units"]["offset"]), tuple(trained["units"]["scale"])))
    with torch.no_grad():
        batches = TaskBatches(len(dataset), 50, None, None, counts=dataset.counts)
        console = Console(stderr=True)
        quiet = not console.is_terminal
        for ids in track(batches, description="inferring", transient=True, console=console, disable=quiet):
            batch = dataset[ids]
            inferred = module.infer(batch[STATES], mask=batch.get(MASK))
            lost = (~inferred.energies.isfinite()).nonzero()
            if len(lost):
                raise DataError(f"{data}: task {tasks.task_name(ids[int(lost[0])])}: {OVERFLOWN}")
            module.measures.update(
                module.model, inferred, batch[STATES], batch.get(RELATIONS), module.module_to_relation,
                types=batch.get(TYPES), module_to_type=module.module_to_type,
            )  # fmt: skip
    return {f"test/{key}": float(value) for key, value in module.measures.compute().items()}


def run(args: argparse.Namespace) -> None:
    """Prints the table, and writes it where asked."""
    from modmeta.checkpoints.loading import find_checkpoint
    from modmeta.report.run import as_json, measures_table
    from modmeta.report.terminal import Terminal

    reads = (args.data, find_checkpoint(args.model))
    if args.json is not None:
        check_free(args.json, args.overwrite, reads)
    measures = evaluate(args.model, args.data, args.split, args.any_entities)
    if args.json is not None:  # first, for nobody may be reading what is printed
        write_file(args.json, lambda file: file.write(as_json(measures)), args.overwrite, reads)
    Terminal().print(measures_table(measures, f"{args.model} on {args.data}"))
