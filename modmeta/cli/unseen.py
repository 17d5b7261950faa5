"""`modmeta unseen`: infers hidden entities from observed ones."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modmeta.cli.options import add_trust
from modmeta.errors import DataError, UserError

if TYPE_CHECKING:
    from torch import Tensor

    from modmeta.api import Model
    from modmeta.data.trajectories import Trajectories
    from modmeta.hidden.count import Counted
    from modmeta.hidden.result import Group
    from modmeta.outputs import OutputDirectory
    from modmeta.training.trained import Trained

OUTPUTS = ("unseen.npz", "unseen.json", "unseen.png")
DRAWN = 5  # number of tasks in the figure

EPILOG = """\
examples:
  modmeta unseen RUN FILE -o DIR                    one hidden entity in every task
  modmeta unseen RUN FILE -o DIR --hide 0           remove entity 0, infer it and score the result
  modmeta unseen RUN FILE -o DIR --count auto       none, one or two hidden entities, by the energy of held-out frames
"""


def add_parser(subparsers: Any) -> None:
    """Registers the command."""
    parser = subparsers.add_parser(
        "unseen",
        help="infer hidden entities",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", help="run directory, checkpoint, or packaged model, such as springs5")
    parser.add_argument("data", type=Path, help="data file")
    parser.add_argument("-o", "--output", required=True, type=Path, help=f"directory for {', '.join(OUTPUTS)}")
    parser.add_argument("--split", default=None, help="split to use; default: `test`, or the only split")
    parser.add_argument("--tasks", type=int, default=None, help="use only the first TASKS tasks")
    parser.add_argument("--hide", type=int, default=None, metavar="ENTITY", help="remove this entity and score it")
    parser.add_argument(
        "--relations",
        choices=("known", "unknown"),
        default="unknown",
        help="known: use the relations of the file (needs --hide)",
    )
    parser.add_argument(
        "--symmetric",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="prior that relations are mutual (named in unseen.json); default: if those found in training are",
    )
    parser.add_argument("--count", choices=("1", "2", "auto"), default="1", help="hidden entities per task")
    parser.add_argument("--seed", type=int, default=0, help="random seed")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier output in the directory")
    add_trust(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Infers hidden entities, writes the output directory and prints the measures.

    Raises:
        UserError: model or data cannot be read or do not fit each other, or the output exists.
    """
    from modmeta.outputs import OutputDirectory

    output = OutputDirectory(args.output, "unseen", args.overwrite, (args.data, args.model))
    if args.hide is not None and args.count != "1":
        raise UserError(f"--hide takes out one entity, so --count {args.count} cannot be scored; leave out one of them")
    if args.relations == "known" and args.hide is None:
        raise UserError("--relations known needs --hide: a file has no relations of entities that are not in it")
    if args.symmetric and args.relations == "known":
        raise UserError("--symmetric is a prior on inferred relations; leave out --symmetric or --relations known")
    from modmeta.api import load_relational
    from modmeta.hidden.count import MOST
    from modmeta.hidden.infer import informed

    model = load_relational(args.model)
    module, trained = model.module, model.data
    tasks = _tasks(args, model)
    entities = tasks.num_entities + (0 if args.hide is not None else MOST if args.count == "auto" else int(args.count))
    search, relational = module.search, module.model
    wanted = search.symmetric if args.symmetric is None else args.symmetric
    if wanted and args.relations == "unknown":
        if search.receivers != "all":
            raise UserError(
                f"the prior of mutual relations needs search.receivers=all, but {args.model} was trained with "
                f"search.receivers={search.receivers}; add --no-symmetric"
            )
        if not search.enumerates(relational, entities):
            raise UserError(
                f"the prior of mutual relations needs all candidates to be enumerated, but {entities} entities have "
                f"more than search.enumerate_up_to={search.enumerate_up_to}; add --no-symmetric"
            )
    if args.symmetric is None:
        module.search = informed(search, relational, trained["reciprocity"], entities)
    else:
        module.search = replace(search, symmetric=args.symmetric)
    module.requires_grad_(False)
    _infer(args, output, model, tasks)


def _tasks(args: argparse.Namespace, model: "Model") -> "Trajectories":
    """The tasks of the file, checked against the model."""
    from modmeta.data.loading.for_model import Options

    options = Options(split=args.split, tasks=args.tasks, observed=model.module.observed_frames)
    tasks = model.read(args.data, options).seen
    if tasks.counts is not None:
        raise DataError(f"{args.data} has tasks of {tasks.sizes} entities; make one file for each size")
    if args.hide is not None and not 0 <= args.hide < tasks.num_entities:
        raise UserError(f"--hide {args.hide}: entities of {args.data} are numbered 0 to {tasks.num_entities - 1}")
    if tasks.num_entities - (args.hide is not None) < 2:
        raise DataError(f"{args.data}: fewer than 2 visible entities are left; use tasks with more entities")
    if args.relations == "known" and tasks.relations is None:
        raise DataError(f"{args.data} holds no relations; leave out --relations known")
    if model.module.model.dynamics.needs_path:
        raise UserError(
            f"{args.model}: model=laws needs states of several frames; train with model=continuous or default"
        )
    if model.module.model.dynamics.has_constants:
        raise UserError(f"{args.model}: entities have constants of their own; train with model.constants=false")
    if not model.module.model.dynamics.additive:
        raise UserError(
            f"{args.model}: hidden entities need additive messages; train with model=continuous or model.additive=true"
        )
    return tasks


def _infer(
    args: argparse.Namespace,
    output: "OutputDirectory",
    model: "Model",
    tasks: "Trajectories",
) -> None:
    """Infers, writes and prints."""
    import torch

    from modmeta.data.formats.arrays import write_npz
    from modmeta.graph.relations import from_matrix
    from modmeta.hidden.infer import priors_of
    from modmeta.hidden.measures import Truth, modules_of
    from modmeta.hidden.result import arrays, content
    from modmeta.io import write_json
    from modmeta.machine import commit, hardware
    from modmeta.report.unseen import plot_tasks
    from modmeta.terminal import Terminal, measures_table
    from modmeta.text import for_console

    module, units = model.module, model.units
    states = units.normalised(tasks.states)
    order = [entity for entity in range(tasks.num_entities) if entity != args.hide]
    visible, truth, known = states[:, order], None, None
    if args.hide is not None:
        order.append(args.hide)
        matrix = None if tasks.relations is None else torch.from_numpy(tasks.relations)[:, order][:, :, order].long()
        truth = Truth(states[:, [args.hide]], matrix)
        if args.relations == "known" and matrix is not None:
            known = modules_of(module.module_to_relation, from_matrix(matrix))
    groups, counted = _search(args, module, visible, known)
    result = content(groups, module, visible, truth, model.judged)
    if counted is not None:
        numbers = counted.number.bincount(minlength=counted.energies.shape[1])
        result["tasks_by_count"] = {str(number): int(tasks) for number, tasks in enumerate(numbers)}
    saved = arrays(groups, module, visible, args.hide, units, model.judged)
    if counted is not None:
        saved["held_out_energies"] = counted.energies.numpy()
    settings = {name: getattr(args, name) for name in ("hide", "relations", "count", "seed")}
    settings |= {"verdict": model.judged.verdict.name}
    settings |= {"priors": priors_of(module.search, known is not None), "reciprocity": model.data["reciprocity"]}
    settings |= {"model": str(args.model), "data": str(args.data), "hardware": hardware(), "commit": commit()}
    with output.written() as directory:
        write_npz(directory / "unseen.npz", saved, overwrite=False)
        write_json(directory / "unseen.json", result | settings)
        if groups:
            group = groups[0]
            drawn = None if truth is None else truth.states[group.tasks]
            figure = plot_tasks(module, visible[group.tasks], group, drawn, min(DRAWN, len(group.tasks)), model.judged)
            figure.savefig(directory / "unseen.png", dpi=120)
    console = Terminal()
    numbers_only = {name: value for name, value in result.items() if isinstance(value, float)}
    console.print(measures_table(numbers_only, f"hidden entities of {args.data}"))
    console.print(f"verdict on the model: {model.judged.verdict}", highlight=False)
    if result.get("do_not_fit"):
        console.print(
            f"the model does not fit {len(result['do_not_fit'])} tasks: {result['do_not_fit']}", highlight=False
        )
    if "tasks_by_count" in result:
        console.print(f"tasks by number of hidden entities: {result['tasks_by_count']}")
    if "statement" in result:
        console.print(f"{result['statement']}: {result['cannot_be_located']}", highlight=False)
    if settings["priors"]:
        console.print(f"structural priors: {', '.join(settings['priors'])}")
    console.print(for_console(f"written to {args.output}"), soft_wrap=True)


def _search(
    args: argparse.Namespace, module: "Trained", visible: "Tensor", known: "Tensor | None"
) -> "tuple[list[Group], Counted | None]":
    """Hidden entities of all tasks, grouped by their number, and the counts if `--count auto`."""
    import torch
    from rich.console import Console
    from rich.progress import Progress

    from modmeta.hidden.count import MOST, count_hidden
    from modmeta.hidden.infer import find
    from modmeta.hidden.result import Group

    model, search, counted, groups = module.model, module.search, None, []
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        if args.count == "auto":
            bar = progress.add_task("counting", total=(MOST + 1) * len(visible))
            counted = count_hidden(model, search, visible, args.seed, lambda done: progress.advance(bar, done))
            count = counted.number
        else:
            count = torch.full((len(visible),), int(args.count))
        bar = progress.add_task("searching", total=int((count > 0).sum()))
        for number in range(1, int(count.max()) + 1):
            tasks = (count == number).nonzero().squeeze(1)
            if not len(tasks):
                continue
            rows = None if known is None else known[tasks]
            found = find(
                model, search, visible[tasks], number, rows, args.seed, lambda done: progress.advance(bar, done)
            )
            groups.append(Group(tasks, found))
    return groups, counted
