"""Training from found structures beside training from random ones.

    python -m benchmarks.starts curves springs5 grid     # edges right over seconds, three seeds, where not yet measured
    python -m benchmarks.starts laws springs5 charged5   # runs with search.start=laws that are not in results/starts
    python -m benchmarks.starts --table                  # docs/benchmarks/starts.md; random ones are those of results/

Curves are of five worlds: two experiments of the paper's, with one model and either start, and three worlds of
`benchmarks.textbook`, where laws begin `experiment=laws` and random structures the default model, as `modmeta train
FILE` has them. Rows are those of `benchmarks.runs`, which also makes the runs from random structures.
"""

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.runs import OWN, RESULTS, ROOT, Row, train
from benchmarks.target import Clock, timed
from benchmarks.textbook import WORLDS, make
from modmeta.io import write_json
from modmeta.machine import commit, hardware
from modmeta.training.callbacks.record import result_file

FOUND, PAGE = RESULTS / "starts", ROOT / "docs" / "benchmarks" / "starts.md"
CURVES, PICTURE = FOUND / "curves", PAGE.with_suffix(".png")
STARTS = ("laws", "weights")
CURVED = ("springs5", "charged5", "grid", "contagion", "regulation")
BEGUN = ("laws", "random")
TARGET, LIMIT = 0.99, 15.0  # edges right, busy seconds: what ends a curve
TASKS = (50, 500)
HEAD = """# Starts of training

Written by `python -m benchmarks.starts --table`.

{curves}
## Whole runs
The same experiment, tasks and seed, from structures that were found and from random ones (`search.start`). Edges right
and MSE on new tasks. Seconds of training by the clock, without the cold start of `laws`; both take the same number of
steps, so that other seconds are those of a busier machine.

| experiment | tasks | start | seed | edges right | MSE, step 1 | MSE, step 10 | training, s |
|---|---|---|---|---|---|---|---|
"""


def rows() -> list[Row]:
    """Experiments of our own, of 50 and 500 tasks; the paper's inputs have a start of their own."""
    kept = [row for row in OWN if row.tasks in TASKS and "inputs/" not in row.experiment and len(row.seeds) == 3]
    return [row for row in kept if "members" not in " ".join(row.overrides)]


def started(row: Row, start: str) -> Row:
    """The row with another start."""
    name = f"{row.name or row.experiment}_{start}"
    return row._replace(name=name, directory=FOUND, overrides=(*row.overrides, f"search.start={start}"))


def line(row: Row, start: str, seed: int) -> str | None:
    """A line of the table; None without its file."""
    file = result_file(row.directory, row.name or row.experiment, row.tasks, seed)
    if not file.exists():
        return None
    of: dict[str, Any] = json.loads(file.read_text())
    errors = [f"{of[f'test/mse_{step}']:.2g}" for step in (1, 10)]
    accuracy, seconds = f"{of['test/edge_accuracy']:.2%}", f"{of['train/seconds']:.0f}"
    cells = [row.experiment, f"{row.tasks:,}", start, str(seed), accuracy, *errors, seconds]
    return f"| {' | '.join(cells)} |\n"


def table() -> str:
    """The page: for every seed that has a found start, the random one above it."""
    text = HEAD.format(curves=curves_in_words())
    for row in rows():
        for seed in row.seeds:
            found = [line(started(row, start), start, seed) for start in STARTS]
            if any(found):
                text += "".join(one for one in (line(row, "random", seed), *found) if one)
    return text


def measured(world: str, start: str, seed: int) -> dict[str, Any]:
    """A curve of one run, cold start included."""
    clock = Clock(TARGET, LIMIT)
    with TemporaryDirectory() as folder:
        words = _words(world, start, seed, Path(folder))
        timed(clock, f"seed={seed}", *words)
    shown = " ".join("data.path=FILE" if word.startswith("data.path=") else word for word in words)
    names = ("step", "seconds", "cpu_seconds", "edges_right")
    return {
        "world": world,
        "start": start,
        "seed": seed,
        "target": TARGET,
        "limit": LIMIT,
        "settings": shown,
        "curve": [dict(zip(names, (step, *rest), strict=True)) for step, *rest in clock.curve],
        "hardware": hardware(),
        "commit": commit(),
    }


def _words(world: str, start: str, seed: int, folder: Path) -> tuple[str, ...]:
    """Of the command."""
    if world not in WORLDS:
        return f"experiment={world}", f"search.start={start}", "data.num_tasks=100", "data.valid=50", "data.test=2"
    made, path = make(world, 300, seed), folder / "tasks.npz"
    np.savez(path, states=made.states.numpy(), relations=made.relations.numpy())
    model = "experiment=laws" if start == "laws" else "model=default"
    return "data=files", f"data.path={path}", f"model.num_edge_modules={WORLDS[world].kinds}", model


def curve_file(world: str, start: str, seed: int) -> Path:
    """Of a curve."""
    return CURVES / f"{world}_{start}_seed{seed}.json"


def _curves(world: str, start: str) -> list[dict[str, Any]]:
    files = [curve_file(world, start, seed) for seed in range(3)]
    return [json.loads(file.read_text()) for file in files if file.exists()]


def curves_in_words() -> str:
    """A table of what ended the curves, under their picture."""
    lines = [
        "## Edges right over seconds",
        f"Until {TARGET:.0%} of the edges of validation tasks are right, or for {LIMIT:.0f} s of one core, cold start",
        "included; labels are matched on the same tasks. Whole runs from random structures are longer. Springs and",
        "charges, 100 training tasks: the same model from either start. Other worlds, of `benchmarks.textbook`, 300",
        "tasks in the file: `experiment=laws` from laws, the default model from random structures.",
        "",
        f"![edges right over seconds]({PICTURE.name})",
        "",
        "| world | start | seconds, by seed | edges right at the end, by seed |",
        "|---|---|---|---|",
    ]
    for world in CURVED:
        for start in BEGUN:
            if ends := [(run["curve"][-1], run["seed"]) for run in _curves(world, start)]:
                seconds = ", ".join(f"{seed}: {end['cpu_seconds']:.1f}" for end, seed in ends)
                right = ", ".join(f"{seed}: {end['edges_right']:.1%}" for end, seed in ends)
                lines.append(f"| {world} | {start} | {seconds} | {right} |")
    return "\n".join([*lines, ""])


def picture() -> Figure:
    """A panel for every world; a line for every seed."""
    figure = Figure(figsize=(2.4 * len(CURVED), 2.8), layout="constrained")
    axes: list[Axes] = list(figure.subplots(1, len(CURVED), sharey=True))
    for ax, world in zip(axes, CURVED, strict=True):
        for place, start in enumerate(BEGUN):
            for number, run in enumerate(_curves(world, start)):
                points = [(point["cpu_seconds"], 100 * point["edges_right"]) for point in run["curve"]]
                label = f"from {start}" if start == "laws" else "from random structures"
                ax.plot(*zip(*points, strict=True), f"C{place}o-", linewidth=1, markersize=4 - 2 * place,
                        label="_" * min(number, 1) + label)  # fmt: skip
        ax.set(title=world, xlabel="busy seconds", xlim=(0, None))
    axes[0].set_ylabel("edges right, %")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8)
    return figure


def main(words: list[str]) -> None:
    """Runs what is missing of a start or of curves, of the experiments named, or writes the page."""
    if words == ["--table"]:
        PAGE.write_text(table())
        picture().savefig(PICTURE, dpi=120)
        return
    if not words or words[0] not in (*STARTS, "curves"):
        sys.exit(f"error: name a start first, one of {', '.join(STARTS)}, or curves")
    if words[0] == "curves":
        _measure(words[1:] or list(CURVED))
        return
    for row in rows():
        if len(words) == 1 or (row.name or row.experiment) in words[1:]:
            train(started(row, words[0]), row.seeds[0])


def _measure(worlds: list[str]) -> None:
    torch.set_num_threads(1)
    CURVES.mkdir(parents=True, exist_ok=True)
    for seed in range(3):
        for world in worlds:
            for start in BEGUN:
                if not (file := curve_file(world, start, seed)).exists():
                    write_json(file, run := measured(world, start, seed))
                    print(world, start, seed, run["curve"][-1], flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
