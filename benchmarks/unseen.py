"""Accuracy of inferred hidden entities on test tasks, with one entity of each task hidden.

    python -m benchmarks.unseen springs=RUN charged=RUN               # every part, 200 tasks
    python -m benchmarks.unseen springs=RUN --parts known --tasks 50

RUN is a directory of `train.py`, whose test tasks are used (`--split valid` while developing). Every part writes
`results/benchmarks/unseen_PART.json`:

- `known`: springs, all relations known;
- `unknown`: springs, relations inferred; assumed mutual if those found in training are, as in `modmeta unseen`;
- `free`: the same without this prior;
- `count`: springs, number of hidden entities in scenes with one hidden entity and in complete scenes;
- `two`: the same in scenes with two hidden entities;
- `charged`: charged particles, relations inferred.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import hydra
import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from modmeta.graph.relations import from_matrix, to_matrix
from modmeta.hidden.count import MOST, count_hidden
from modmeta.hidden.infer import find, informed, priors_of
from modmeta.hidden.measures import Truth, located, measures, modules_of, silent_modules
from modmeta.io import write_json
from modmeta.machine import commit, hardware
from modmeta.terminal import measures_table
from modmeta.training.bouncegrad import BounceGrad
from modmeta.training.checkpoints.loading import load_model

RESULTS = Path(__file__).resolve().parents[1] / "results" / "benchmarks"
PARTS = dict.fromkeys(("known", "unknown", "free", "count", "two"), "springs") | {"charged": "charged"}


def tasks_of(run: Path, split: str, count: int) -> tuple[Tensor, Tensor]:
    """States (B, N, T, D) and relations (B, N, N) of the first `count` tasks of a split of the run's data."""
    data = hydra.utils.instantiate(json.loads((run / "metrics.json").read_text())["config"]["data"])
    data.prepare_data()
    data.setup()
    tasks = data.splits[split]
    return tasks.states[:count], to_matrix(tasks.relations[:count].long())


def infer_hidden(module: BounceGrad, states: Tensor, relations: Tensor, known: bool, seed: int) -> dict[str, Any]:
    """Hides entity 0 of every task, infers it and returns the measures."""
    order = [*range(1, states.shape[1]), 0]
    states, relations = states[:, order, : module.observed_frames], relations[:, order][:, :, order]
    visible, truth = states[:, :-1], Truth(states[:, -1:], relations)
    rows = modules_of(module.module_to_relation, from_matrix(relations)) if known else None
    start = time.perf_counter()
    with Progress(transient=True) as progress:
        bar = progress.add_task("searching", total=len(states))
        found = find(module.model, module.search, visible, 1, rows, seed, lambda done: progress.advance(bar, done))
    silent = silent_modules(module.model, visible)
    out = measures(found, truth, module.module_to_relation, silent)
    out["located"] = float(located(found, module.model, silent).double().mean())
    return out | {"seconds": round(time.perf_counter() - start, 1)}


def count_entities(module: BounceGrad, states: Tensor, relations: Tensor, hidden: int, seed: int) -> dict[str, Any]:
    """Accuracy of the inferred number of hidden entities, if the first `hidden` entities are hidden."""
    states = states[:, :, : module.observed_frames]
    silent = torch.isin(relations, module.module_to_relation[silent_modules(module.model, states)])
    number = torch.full((len(states),), states.shape[1])
    if hidden:
        number = (~silent[:, hidden:, :hidden]).sum(1).amin(1)  # fewest relations of any hidden entity
    start = time.perf_counter()
    with Progress(transient=True) as progress:
        bar = progress.add_task("counting", total=(MOST + 1) * len(states))
        counted = count_hidden(
            module.model, module.search, states[:, hidden:], seed, lambda done: progress.advance(bar, done)
        )
    right, many = counted.number == hidden, number >= 2
    return {
        f"hidden_{hidden}_tasks": len(states),
        f"hidden_{hidden}_accuracy": float(right.double().mean()),
        f"hidden_{hidden}_accuracy_two_relations": float(right[many].double().mean()),
        f"hidden_{hidden}_any_accuracy_two_relations": float(
            ((counted.number > 0) == (hidden > 0))[many].double().mean()
        ),
        f"hidden_{hidden}_tasks_two_relations": int(many.sum()),
        f"hidden_{hidden}_counts": counted.number.bincount(minlength=MOST + 1).tolist(),
        f"hidden_{hidden}_seconds": round(time.perf_counter() - start, 1),
    }


def run(part: str, directory: Path, split: str, count: int, seed: int) -> dict[str, Any]:
    """The measures of one part."""
    module, trained = load_model(directory)
    module.requires_grad_(False)
    if part != "free":
        entities = trained["num_entities"] + MOST
        module.search = informed(module.search, module.model, trained["reciprocity"], entities)
    states, relations = tasks_of(directory, split, count)
    if part == "count":
        complete = count_entities(module, states, relations, 0, seed)
        complete = {name: value for name, value in complete.items() if "relations" not in name}
        out = complete | count_entities(module, states, relations, 1, seed)
    elif part == "two":
        out = count_entities(module, states, relations, 2, seed)
    else:
        out = infer_hidden(module, states, relations, part == "known", seed)
        out["priors"] = priors_of(module.search, part == "known")
    return out | {
        "split": split,
        "seed": seed,
        "training_tasks": trained["num_tasks"],
        "training_seed": json.loads((directory / "metrics.json").read_text())["seed"],
        "threads": torch.get_num_threads(),
        "hardware": hardware(),
        "commit": commit(),
    }


def main() -> None:
    """Measures all parts, prints the tables and writes the JSON files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="WORLD=RUN", help="run directories")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="parts to measure")
    parser.add_argument("--tasks", type=int, default=200, help="number of tasks")
    parser.add_argument("--split", default="test", help="split to use")
    parser.add_argument("--seed", type=int, default=0, help="random seed")
    parser.add_argument("--results", type=Path, default=RESULTS, help="directory to write to")
    args = parser.parse_args()
    runs = dict(word.split("=", 1) for word in args.runs)
    args.results.mkdir(parents=True, exist_ok=True)
    for part in args.parts:
        if PARTS[part] in runs:
            out = run(part, Path(runs[PARTS[part]]), args.split, args.tasks, args.seed)
            write_json(args.results / f"unseen_{part}.json", out)
            Console().print(measures_table({k: v for k, v in out.items() if isinstance(v, float)}, part))
            Console().print(out.get("mse_by_relations", ""))


if __name__ == "__main__":
    main()
