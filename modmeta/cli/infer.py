"""`modmeta infer`: relations, forecasts and pictures of a file of trajectories, by a trained model."""

import argparse
import time
from pathlib import Path
from typing import Any

from modmeta.cli.reading import add_reading, reading_of
from modmeta.cli.trusting import add_trust
from modmeta.errors import DataError, UserError, numbered
from modmeta.text import plain

MOTION = 0.02  # relative difference of the time between frames that is let pass
AXES = {"energies": 0} | dict.fromkeys(("evidence", "node_modules", "types", "mean", "low", "high"), 1)  # of entities


def add_parser(subparsers: Any) -> None:
    """Registers the command."""
    parser = subparsers.add_parser("infer", help="relations, forecasts and pictures of a file, by a trained model")
    parser.add_argument(
        "model", help="run directory, checkpoint, or name of a model that comes along, such as springs5"
    )
    parser.add_argument("file", type=Path, help=".npz, .npy, HDF5, CSV or Parquet, or a directory in NRI's layout")
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="DIR", help="directory to write to")
    parser.add_argument("--steps", type=int, default=20, help="frames to forecast, after the last one")
    parser.add_argument("--observed", type=int, help="use the first so many frames and forecast those after them")
    parser.add_argument(
        "--velocities", choices=("given", "estimated"), help="estimated: from positions, by differences"
    )
    parser.add_argument(
        "--relations", metavar="TABLE", help="true relations, to compare: task, receiver, sender, relation"
    )
    parser.add_argument("--sample", action="store_true", help="sample structures even where all can be weighed")
    parser.add_argument("--report", action="store_true", help="also write report.html, one page with all figures")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier output in the directory")
    add_reading(parser)
    add_trust(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Infers and writes, all or nothing."""
    from modmeta.outputs import OutputDirectory

    start = time.perf_counter()
    reads = [args.file, args.model, *([args.relations] if args.relations else [])]
    output = OutputDirectory(args.output, "infer", args.overwrite, reads)
    if args.steps < 1:
        raise UserError(f"--steps {args.steps}: forecast at least one frame")
    from modmeta.api import load

    model = load(args.model)
    data, truth, notes = prepare(model, args)
    with output.written() as directory:
        facts = _write(directory, model, data, truth, notes, args)
    for note in notes:
        print(plain(f"note: {note}"))
    for name, value in facts:
        print(plain(f"{name}: {value}"))
    print(f"written to {plain(args.output)}, {time.perf_counter() - start:.1f} s")


def prepare(model: Any, args: argparse.Namespace) -> tuple[Any, Any, list[str]]:
    """Trajectories as the model wants them, the frames after those observed or none, and what to mind.

    Raises:
        DataError: the file does not fit the model.
    """
    from modmeta.data import files
    from modmeta.data.describe import check_moving, find_positions, frame_motion, in_order, with_room_for_velocities
    from modmeta.data.familiar import check_familiar
    from modmeta.data.gaps import absent_last
    from modmeta.data.observation import estimate_velocities

    splits = files.load(args.file, args.split, reading_of(args, relations=args.relations))
    data = in_order(splits["test"] if "test" in splits else next(iter(splits.values())))
    if len(splits) > 1 and args.split is None and "test" not in splits:
        raise DataError(f"{args.file} has splits {sorted(splits)}; choose one with --split")
    check_moving(data, str(args.file))
    observed = data.num_frames if args.observed is None else args.observed
    if not 3 <= observed <= data.num_frames:
        raise DataError(f"{args.file}: {observed} frames to observe, of {data.num_frames}; at least 3 are needed")
    data = absent_last(data, observed)
    positions, expected = int(model.data["positions"]), int(model.data["num_features"])
    estimated = args.velocities or model.data.get("velocities", "given")
    if estimated == "estimated" and positions:
        data = estimate_velocities(with_room_for_velocities(data, positions), positions, observed)
    if data.num_features != expected:
        advice = ""
        if positions and data.num_features == expected - positions:
            advice = "; if velocities are what is missing, add --velocities estimated"
        raise DataError(
            f"{args.file}: {data.num_features} features {list(data.features)}, but the model was trained on "
            f"{expected}, {list(model.features)}{advice}; choose with --features"
        )
    notes = [] if data.features == model.features or not find_positions(data)[1] else [
        f"features {list(data.features)} are taken for {list(model.features)}"
    ]  # fmt: skip
    motion, known = frame_motion(data, positions)[0], model.data.get("frame_motion")
    if known and motion and abs(motion / known - 1) > MOTION:
        raise DataError(
            f"{args.file}: a frame is {motion:.4g} time units by positions and velocities, but {known:.4g} for the "
            f"model; bring it to the model's with --resample, in the units of the frame column, or train a model on it"
        )
    note = check_familiar(data.frames(observed), model.known, str(args.file))
    notes += [note] if note else []
    truth = data.states[:, :, observed : observed + args.steps] if observed < data.num_frames else None
    return data.frames(observed), truth, notes


def _write(directory: Path, model: Any, data: Any, truth: Any, notes: list[str], args: argparse.Namespace) -> Any:
    from rich.console import Console
    from rich.progress import Progress

    from modmeta.report import inference

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("inferring", total=data.num_tasks * 2)
        found, ahead = infer_groups(model, data, args.steps, args.sample, lambda n: progress.advance(bar, n))
        inference.write_relations(directory, data, found)
        inference.write_types(directory, data, found)
        inference.write_forecasts(directory, data, model.features, ahead)
        inference.write_graphs(directory, data, found, lambda: progress.advance(bar))
        drawn = inference.figures(model, data, found, ahead, truth)
        (directory / "figures").mkdir()
        for name, (_, figure) in drawn.items():
            figure.savefig(directory / "figures" / name, dpi=110)
    facts = _facts(model, data, found, ahead, truth)
    if args.report:
        title = f"{args.file.name} by {args.model}"
        (directory / "report.html").write_text(inference.report(title, facts, notes, drawn), encoding="utf-8")
    return facts


def infer_groups(model: Any, data: Any, steps: int, sampling: bool, advance: Any) -> tuple[Any, Any]:
    """Relations and forecasts, tasks of as many entities together; what a task lacks is NaN, relations -1."""
    import numpy as np

    from modmeta.api import BATCH, Forecasts, Relations
    from modmeta.data.gaps import steps_that_count

    counts = np.full(data.num_tasks, data.num_entities) if data.counts is None else data.counts
    mask = steps_that_count(data)
    whole: dict[str, Any] = {}
    for count in np.unique(counts):
        tasks = np.flatnonzero(counts == count)
        for i in range(0, len(tasks), BATCH):
            ids = tasks[i : i + BATCH]
            states = data.states[ids, :count]
            with numbered([data.task_name(task) for task in ids]):
                found = model.infer(states, None if mask is None else mask[ids], sampling)
                ahead = model.forecast(states, found, steps)
            for name, part in (vars(found) | vars(ahead)).items():
                if part is not None:
                    _put(whole, name, part, ids, data.num_tasks, data.num_entities)
            advance(len(ids))
    relations = Relations(**{name: whole.get(name) for name in Relations.__dataclass_fields__})
    return relations, Forecasts(whole["mean"], whole["low"], whole["high"])


def _put(whole: dict[str, Any], name: str, part: Any, ids: Any, tasks: int, entities: int) -> None:
    import numpy as np

    entity_axes = AXES.get(name, 2)
    shape = (tasks, *[entities] * entity_axes, *part.shape[1 + entity_axes :])
    if name not in whole:
        whole[name] = np.full(shape, -1 if name == "relations" else np.nan, part.dtype)
    whole[name][(ids, *[slice(0, size) for size in part.shape[1 : 1 + entity_axes]])] = part


def _facts(model: Any, data: Any, found: Any, ahead: Any, truth: Any) -> list[tuple[str, str]]:
    import numpy as np

    from modmeta.data.table_output import pairs_of

    tasks, receivers, senders = pairs_of(data)
    relation = found.relations[tasks, receivers, senders]
    sure = found.probabilities[tasks, receivers, senders, relation]
    facts = [
        ("tasks", str(data.num_tasks)),
        ("pairs", str(len(tasks))),
        *((f"relation {r}", f"{(relation == r).mean():.1%} of pairs") for r in range(model.num_relations)),
        ("probability of the relation named, mean", f"{sure.mean():.4f}"),
        ("pairs named with less than 90%", str(int((sure < 0.9).sum()))),
    ]
    if found.r_hat is not None:
        worst = float(found.r_hat[tasks, receivers, senders].max())
        facts.append(
            ("split R-hat, largest", f"{worst:.3f}" + (" (above 1.1: chains disagree)" if worst > 1.1 else ""))
        )
    if data.relations is not None:
        right, known = _accuracy(relation, data.relations[tasks, receivers, senders], model.data.get("labelled", True))
        facts.append(("edges right", f"{right:.2%}" + known))
    if truth is not None:
        steps = truth.shape[2]
        there = np.isfinite(ahead.mean).all((2, 3)) if data.counts is not None else np.ones(truth.shape[:2], bool)
        truth, mean, low, high = (part[there][:, :steps] for part in (truth, ahead.mean, ahead.low, ahead.high))
        error = np.sqrt(((mean - truth) ** 2).mean())
        inside = ((truth >= low) & (truth <= high)).mean()
        facts.append((f"forecast error over {steps} frames, root mean square", f"{error:.4g}"))
        facts.append(("states within the bands", f"{inside:.1%}"))
    return facts


def _accuracy(found: Any, true: Any, labelled: bool) -> tuple[float, str]:
    """Share of pairs right; kinds that a model found without labels are first matched to the true ones."""
    import numpy as np
    import torch

    from modmeta.evaluation.matching import match_labels

    if labelled:
        return float((found == true).mean()), ""
    kinds = int(max(found.max(), true.max())) + 1
    counts = torch.from_numpy(np.bincount(found * kinds + true, minlength=kinds**2).reshape(kinds, kinds))
    return float((match_labels(counts).numpy()[found] == true).mean()), ", after matching kinds to those of the table"
