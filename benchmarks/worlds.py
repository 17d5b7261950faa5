"""The cold start on worlds of unknown laws: edges right on new tasks, without labels in training.

    python -m benchmarks.worlds neurons grid DIR/heat.npz DIR/vortex.npz:2 --seeds 0 1 2 --tasks 300
    python -m benchmarks.worlds grid --constants never      # ablations: choices that are not left to the data
    python -m benchmarks.worlds contagion --family difference
    python -m benchmarks.worlds --table        # docs/benchmarks/worlds.md from all that was measured

A world is a name of `benchmarks.textbook`, `springsN` (N bodies, few pairs with springs), or a file with `train`
(tasks, entities, frames, features), `test` and `test_relations` (tasks, receiver, sender); `:P` says that its features
begin with P coordinates. Labels of half of the test tasks say which edge type is which; the other half are scored.
Every run is a file in results/worlds; with a world of the textbook it also has what the exact law finds in the same
tasks (`benchmarks.exact`).
"""

import argparse
import json
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.exact import exact_structures
from benchmarks.textbook import WORLDS, make
from modmeta.data.describe import looks_like_angles
from modmeta.data.generation import generate
from modmeta.evaluation.matching import Confusion, match_labels
from modmeta.graph.relations import from_matrix
from modmeta.io import write_json
from modmeta.machine import commit, hardware
from modmeta.model.basis import family_named
from modmeta.search.cold_start import Kind, Start, cold_start, infer, with_circles
from modmeta.simulators import Springs

ROOT = Path(__file__).resolve().parents[1]
RESULTS, PAGE = ROOT / "results" / "worlds", ROOT / "docs" / "benchmarks" / "worlds.md"
EXACT = 25  # tasks on which the exact law is tried, for the first seed alone
NEW = 100  # tasks to score a built-in world on
SPARSE, PARTNERS, FAR = r"springs(\d+)", 1.4, 1000.0  # of sparse springs: name, mean number of partners, and the walls
HEAD = """# Worlds of unknown laws

Written by `python -m benchmarks.worlds --table`. The cold start alone (`modmeta.search.cold_start`), before any neural
module: laws, then structures, from unlabelled trajectories. Scored on half of 100 new tasks; labels of the other half
say which edge type is which. No structural prior. *Exact law* is told the world's equations, every entity's constants
and whether relations go both ways, and names the likeliest row. Seconds of the cold start, {machines},
beside other work that took more than half of the machine: by the clock they are upper bounds. The exact law is tried on
25 of the scored tasks of the first seed. Runs are of several commits; every file in results/worlds names its own. The
steep finish was developed on the very tasks of lennard_jones that its row scores; when slopes of entities count was
settled after a row of flock (seed 1) and of amplitudes (seed 0, 300 tasks) had failed, when functions of their own
count after one of dampings (seed 1), and by how much strengths must differ after one of lennard_jones (seed 1).

"""
COLUMNS = (
    "world",
    "training tasks",
    "edge types",
    "edges right, mean (by seed)",
    "exact law",
    "commonest type",
    "certainty",
    "form of law, by seed",
    "CPU seconds (by the clock)",
)
CHOICES = """
## What choices bring

The cold start with one choice that is not left to the data: constants of entities never or always, or a single family
of laws; above them the same tasks with all left to the data.

| world | training tasks | choice | edges right, mean (by seed) | form of law, by seed | CPU seconds |
|---|---|---|---|---|---|
"""
OWN = {"never": False, "always": True}
PRIORS = "none: no symmetry, no labels; features as the family in `form` says"


def read(world: str, tasks: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Kind]:
    """Training states, test states, test relations (B, N, S) and what features are."""
    if world in WORLDS:
        made, kind = make(world, tasks + NEW, seed), Kind(WORLDS[world].coordinates, WORLDS[world].angles)
        kind = with_circles(kind, made.states[:tasks])
        return made.states[:tasks], made.states[tasks:], from_matrix(made.relations[tasks:]), kind
    if sparse := re.fullmatch(SPARSE, world):
        return _sparse_springs(int(sparse[1]), tasks, seed)
    path, _, coordinates = world.partition(":")
    with np.load(path, allow_pickle=False) as file:
        train, test, relations = (torch.from_numpy(file[key]) for key in ("train", "test", "test_relations"))
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))[:tasks]
    kind = Kind(int(coordinates or 0), looks_like_angles(train.numpy()))
    return train[order], test, from_matrix(relations.long()), kind


def _sparse_springs(entities: int, tasks: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Kind]:
    """Bodies of which each has a spring to one or two others, far from any wall, every task its own graph."""
    share = PARTNERS / (entities - 1)
    springs = Springs(num_entities=entities, probabilities=(1 - share, share), box=FAR)
    made = generate(springs, {"train": (tasks, 50), "test": (NEW, 50)}, seed=seed, stream="task", progress=False)
    train, test = (torch.from_numpy(made[split].states) for split in ("train", "test"))
    relations = made["test"].relations
    assert relations is not None
    return train, test, from_matrix(torch.from_numpy(relations).long()), Kind(2, (False,) * 4)


def score(structures: Tensor, relations: Tensor, kinds: int) -> float:
    """Fraction of edges right on the second half of tasks, kinds matched to labels on the first."""
    half, confusion = len(structures) // 2, Confusion(kinds, int(relations.max()) + 1)
    confusion.update(structures[:half], relations[:half])
    return float((match_labels(confusion.matrix())[structures[half:]] == relations[half:]).double().mean())


def form_in_words(start: Start) -> str:
    """Family of laws, constants, order in time."""
    form = start.form
    return f"{form.basis.family.name}{form.own_in_words}, {'weak form' if form.smooth else 'map'}"


def exact(world: str, tasks: int, seed: int) -> float:
    """Edges right on some of the tasks that are scored, where law and constants of entities are known."""
    made = make(world, tasks + NEW, seed)
    scored = slice(tasks + NEW // 2, tasks + NEW // 2 + EXACT)
    found = exact_structures(WORLDS[world], made.states[scored], made.own[scored])
    return float((found == from_matrix(made.relations[scored])).double().mean())


def measure(
    world: str, tasks: int, seed: int, given: bool, with_exact: bool, constants: str | None, family: str | None
) -> dict[str, Any]:
    """One run."""
    train, test, relations, kind = read(world, tasks, seed)
    kinds = int(relations.max()) + 1
    began, busy = time.perf_counter(), time.process_time()
    start = cold_start(
        train, kind, num_kinds=kinds if given else None, seed=seed,
        constants=OWN[constants] if constants else None, family=family_named(family) if family else None,
    )  # fmt: skip
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - busy
    answer, used = infer(start, test), len(start.kinds.laws)
    return {
        "world": Path(world.partition(":")[0]).stem,
        "tasks": tasks,
        "seed": seed,
        "kinds_given": given,
        "choice": choice_in_words(constants, family),
        "kinds": used,
        "kinds_true": kinds,
        "edges_right": score(answer.structures, relations, used),
        "exact_law": exact(world, tasks, seed) if with_exact and world in WORLDS else None,
        "commonest": float(torch.bincount(relations.flatten()).max() / relations.numel()),
        "certainty": float(answer.certainty.mean()),
        "gain": start.gain,
        "gain_error": start.trials[0].gain_error,
        "form": form_in_words(start),
        "features": f"{train.shape[-1]}, of which {kind.coordinates} coordinates and {sum(kind.angles)} angles",
        "priors": PRIORS,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu_seconds, 1),
        "hardware": hardware(),
        "commit": commit(),
    }


def choice_in_words(constants: str | None, family: str | None) -> str | None:
    """What was not left to the data; None if all was."""
    words = [*([f"own constants {constants}"] if constants else []), *([family] if family else [])]
    return ", ".join(words) or None


def file_name(run: dict[str, Any]) -> str:
    """Of a run's results."""
    words = [run["world"], f"{run['tasks']}tasks", f"seed{run['seed']}", *([] if run["kinds_given"] else ["chosen"])]
    return "_".join([*words, *(run["choice"] or "").replace(",", "").split()]) + ".json"


def page(runs: list[dict[str, Any]]) -> str:
    """Tables of all runs."""
    runs = sorted(runs, key=lambda run: (run["world"], -run["tasks"], not run["kinds_given"], run["seed"]))
    groups: dict[tuple[str, int, bool, str | None], list[dict[str, Any]]] = {}
    for run in runs:
        groups.setdefault((run["world"], run["tasks"], run["kinds_given"], run.get("choice")), []).append(run)
    free = {key[:3]: group for key, group in groups.items() if key[3] is None}
    machines = sorted({f"{run['hardware']['threads']} thread(s) of {run['hardware']['cpu']}" for run in runs})
    lines = [
        *HEAD.format(machines="; ".join(machines)).splitlines(),
        f"| {' | '.join(COLUMNS)} |",
        "|---" * len(COLUMNS) + "|",
        *(_row(key, group) for key, group in free.items()),
    ]
    chosen = {key: group for key, group in groups.items() if key[3]}
    if chosen:
        lines += CHOICES.splitlines()
        for place in dict.fromkeys(key[:3] for key in chosen):
            lines += [_choice(free[place])] if place in free else []
            lines += [_choice(group) for key, group in chosen.items() if key[:3] == place]
    return "\n".join(lines) + "\n"


def _choice(runs: list[dict[str, Any]]) -> str:
    cells = [
        runs[0]["world"],
        str(runs[0]["tasks"]),
        runs[0].get("choice") or "none",
        _right(runs),
        "; ".join(dict.fromkeys(run["form"] for run in runs)),
        _range(runs, "cpu_seconds"),
    ]
    return f"| {' | '.join(cells)} |"


def _right(runs: list[dict[str, Any]]) -> str:
    by_seed = ", ".join(f"{run['seed']}: {run['edges_right']:.1%}" for run in runs)
    return f"{_mean(runs, 'edges_right'):.1%} ({by_seed})"


def _row(key: tuple[str, int, bool], runs: list[dict[str, Any]]) -> str:
    world, tasks, given = key
    known = [run["exact_law"] for run in runs if run["exact_law"] is not None]
    number = f"{runs[0]['kinds_true']}, given" if given else "chosen: " + ", ".join(str(run["kinds"]) for run in runs)
    cells = [
        world,
        str(tasks),
        number,
        _right(runs),
        f"{sum(known) / len(known):.1%}" if known else "",
        f"{_mean(runs, 'commonest'):.0%}",
        f"{_mean(runs, 'certainty'):.3f}",
        "; ".join(dict.fromkeys(run["form"] for run in runs)),
        f"{_range(runs, 'cpu_seconds')} ({_range(runs, 'seconds')})",
    ]
    return f"| {' | '.join(cells)} |"


def _range(runs: list[dict[str, Any]], what: str) -> str:
    ends = sorted({f"{value:.0f}" for value in (min(r[what] for r in runs), max(r[what] for r in runs))}, key=int)
    return " to ".join(ends)


def _mean(runs: list[dict[str, Any]], what: str) -> float:
    return sum(run[what] for run in runs) / len(runs)


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("worlds", nargs="*", metavar="WORLD", help=f"FILE[:P] or one of {', '.join(WORLDS)}")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--tasks", nargs="+", type=int, default=[300], help="to learn from")
    parser.add_argument(
        "--choose-kinds", action="store_true", help="let held-out frames choose the number of edge types"
    )
    parser.add_argument("--constants", choices=OWN, help="of entities; by default held-out frames choose")
    parser.add_argument("--family", metavar="NAME", help="of laws, the only one; by default held-out frames choose")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of results")
    parser.add_argument("--table", action="store_true", help="write the page from all results")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for world in arguments.worlds:
        for tasks in arguments.tasks:
            for seed in arguments.seeds:
                with_exact = seed == arguments.seeds[0] and not (arguments.constants or arguments.family)
                given = not arguments.choose_kinds
                run = measure(world, tasks, seed, given, with_exact, arguments.constants, arguments.family)
                arguments.out.mkdir(parents=True, exist_ok=True)
                write_json(arguments.out / file_name(run), run)
                print(_row((run["world"], tasks, run["kinds_given"]), [run]), flush=True)
    if arguments.table:
        PAGE.write_text(page([json.loads(path.read_text()) for path in sorted(arguments.out.glob("*.json"))]))


if __name__ == "__main__":
    main()
