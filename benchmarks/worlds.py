"""The cold start on worlds of unknown laws: edges right on new tasks, without labels in training.

    python -m benchmarks.worlds neurons grid DIR/heat.npz DIR/vortex.npz:2 --seeds 0 1 2 --tasks 300

A world is a name of `benchmarks.textbook`, or a file with `train` (tasks, entities, frames, features), `test` and
`test_relations` (tasks, receiver, sender); `:P` says that its features begin with P coordinates. Labels of half of
the test tasks say which kind is which; the other half are scored. Prints a Markdown table, row by row.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.textbook import WORLDS, make
from modmeta.evaluation.matching import Confusion, match_labels
from modmeta.graph.relations import from_matrix
from modmeta.search.cold_start import Kind, cold_start, infer, looks_like_angles

NEW = 100  # tasks to score a built-in world on


def read(world: str, tasks: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Kind]:
    """Training states, test states, test relations (B, N, S) and what features are."""
    if world in WORLDS:
        made = WORLDS[world]
        states, relations = make(world, tasks + NEW, seed)
        return states[:tasks], states[tasks:], from_matrix(relations[tasks:]), Kind(made.coordinates, made.angles)
    path, _, coordinates = world.partition(":")
    with np.load(path, allow_pickle=False) as file:
        train, test, relations = (torch.from_numpy(file[key]) for key in ("train", "test", "test_relations"))
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))[:tasks]
    return train[order], test, from_matrix(relations.long()), Kind(int(coordinates or 0), looks_like_angles(train))


def score(structures: Tensor, relations: Tensor, kinds: int) -> float:
    """Fraction of edges right on the second half of tasks, kinds matched to labels on the first."""
    half, confusion = len(structures) // 2, Confusion(kinds, int(relations.max()) + 1)
    confusion.update(structures[:half], relations[:half])
    return float((match_labels(confusion.matrix())[structures[half:]] == relations[half:]).double().mean())


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("worlds", nargs="+", metavar="WORLD", help=f"FILE[:P] or one of {', '.join(WORLDS)}")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--tasks", type=int, default=300, help="to learn from")
    parser.add_argument("--choose-kinds", action="store_true", help="let held-out frames choose the number of kinds")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print("| world | seed | form | edges right | certainty | gain (nats) | kinds | suggested | seconds |")
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    for world in arguments.worlds:
        for seed in arguments.seeds:
            train, test, relations, kind = read(world, arguments.tasks, seed)
            kinds = int(relations.max()) + 1
            began = time.perf_counter()
            start = cold_start(train, kind, num_kinds=None if arguments.choose_kinds else kinds, seed=seed)
            seconds = time.perf_counter() - began
            answer, form, used = infer(start, test), start.form, len(start.kinds.laws)
            name = f"{form.basis.family.name}, {'own constants, ' if form.constants else ''}"
            name += "weak form" if form.smooth else "map"
            gain = f"{start.trials[0].gain:.2f} ± {start.trials[0].gain_error:.2f}"
            print(
                f"| {Path(world.partition(':')[0]).stem} | {seed} | {name} "
                f"| {score(answer.structures, relations, used):.2%} "
                f"| {float(answer.certainty.mean()):.3f} | {gain} | {used} | {start.suggested} | {seconds:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
