"""`modmeta infer`: infers relations and forecasts of a data file with a trained model, and plots them."""

import argparse
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from modmeta.cli.options import add_reading, add_trust, add_window, reading_of
from modmeta.errors import UserError, naming_file
from modmeta.text import plain

MOST = 4  # processes for each processor; more only take memory


def add_parser(subparsers: Any) -> None:
    """Registers the command."""
    parser = subparsers.add_parser("infer", help="infer relations and forecasts of a data file with a trained model")
    parser.add_argument("model", help="run directory, checkpoint, or packaged model, such as springs5")
    parser.add_argument("file", type=Path, help="file or directory of trajectories, such as .csv, .parquet, .npz")
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="DIR", help="directory to write to")
    parser.add_argument("--steps", type=int, default=20, help="number of frames to forecast")
    parser.add_argument("--observed", type=int, help="infer from the first OBSERVED frames, forecast the next")
    parser.add_argument(
        "--velocities", choices=("given", "estimated"), help="estimated: compute velocities from positions"
    )
    parser.add_argument(
        "--relations", metavar="TABLE", help="table of true relations to compare with: task, receiver, sender, relation"
    )
    parser.add_argument(
        "--unlisted", choices=("none", "unknown"), default="none",
        help="pairs without a row in this table have no relation (none), or are not compared (unknown)",
    )  # fmt: skip
    parser.add_argument("--sample", action="store_true", help="sample structures even if all can be enumerated")
    parser.add_argument(
        "--nulls",
        action="store_true",
        help="compare all tasks, not a sample, with no relations and with partners exchanged, for the verdict",
    )
    parser.add_argument(
        "--devices", type=int, default=1, metavar="N",
        help="number of processes that share the tasks; results are those of one process, within rounding",
    )  # fmt: skip
    parser.add_argument("--report", action="store_true", help="also write report.html, a page to look at every task")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier output in the directory")
    add_reading(parser)
    add_window(parser)
    add_trust(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Infers, writes the output directory completely or not at all, and prints a summary.

    Raises:
        UserError: model or data cannot be read or do not fit each other, or the output exists.
    """
    from modmeta.outputs import OutputDirectory

    start = time.perf_counter()
    reads = [args.file, args.model, *([args.relations] if args.relations else [])]
    output = OutputDirectory(args.output, "infer", args.overwrite, reads)
    if args.unlisted == "unknown" and args.relations is None:
        raise UserError(
            "--unlisted unknown is about the table of --relations, which is not given; name it, or leave it out"
        )
    if args.steps < 1:
        raise UserError(f"--steps {args.steps} must be at least 1")
    processors = os.cpu_count() or 1
    if not 1 <= args.devices <= MOST * processors:
        raise UserError(
            f"--devices {args.devices} must be 1 to {MOST * processors}, {MOST} processes for each processor"
        )
    from modmeta.api import load_relational
    from modmeta.data.formats.relations import with_relations
    from modmeta.data.loading.for_model import Options
    from modmeta.machine import keep_freed_memory
    from modmeta.report import inference
    from modmeta.report.page import plotly
    from modmeta.terminal import progress

    keep_freed_memory()
    if args.report:
        plotly()  # before hours of work

    later = args.relations is not None and args.unlisted == "unknown"  # compared alone, so read in the end
    model, reading = load_relational(args.model), reading_of(args, relations=None if later else args.relations)
    options = Options(reading, args.split, observed=args.observed, velocities=args.velocities, window=args.window)
    loaded = model.read(args.file, options)
    data, truth, notes = loaded.seen, loaded.truth(args.steps), loaded.notes
    labelled = with_relations(data, Path(args.relations), str(args.file), listed=True) if later else data
    notes = (*notes, *labelled.notes[len(data.notes) :])
    title = f"{args.file.name} by {args.model}" if args.report else None

    def inferred(advance: Any, processes: Any) -> tuple[Any, Any]:
        with naming_file(args.file):
            nulls = args.nulls or None
            found = model.infer(data, sampling=args.sample, advance=advance, nulls=nulls, processes=processes)
            return found, model.forecast(data, found, args.steps, advance=advance, processes=processes)

    with several(args.devices) as processes:
        if processes is not None and not processes.first:
            inferred(None, processes)
            return
        with output.written() as directory, progress("inferring", 3 * data.num_tasks) as advance:
            found, ahead = inferred(advance, processes)
            facts = inference.write(directory, model, labelled, found, ahead, truth, notes, title, advance)
    for name, value in facts:  # the verdict first
        print(plain(f"{name}: {value}"))
    for note in notes:
        print(plain(f"note: {note}"))
    print(f"written to {plain(args.output)}, {time.perf_counter() - start:.1f} s")


@contextmanager
def several(number: int) -> Iterator[Any]:
    """`Processes` that share the work, which end their group afterwards; None for a single one."""
    if number == 1:
        yield None
        return
    from modmeta.training.distributed import own_processes
    from modmeta.training.processes import Processes

    with own_processes(), Processes(number) as processes:
        yield processes
