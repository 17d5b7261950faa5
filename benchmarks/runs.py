"""The figures of README: every run behind them, and the table that they make.

    python -m benchmarks.runs                  # about two hours on one core; runs already in `results/` are kept
    python -m benchmarks.runs charged10        # the rows whose name holds the word

Every run is one of `train.py` as a user would start it, on one CPU thread, and leaves one JSON file in `results/`
(settings, seed, commit, hardware, wall-clock, all measures). The table is written to `results/README.md`.
"""

import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results"


class Row(NamedTuple):
    """Runs that differ by their seeds alone."""

    experiment: str
    tasks: int
    overrides: tuple[str, ...] = ()
    seeds: Sequence[int] = (0, 1, 2)
    name: str | None = None  # where it is not the experiment's


RESTARTS = ("restarts=3",)
SEVEN_MORE = ("data.test=200", "bouncegrad.model.members=1")  # for their accuracy alone
ROWS = (
    Row("springs5", 5, RESTARTS),
    Row("springs5", 20),
    Row("springs5", 500),
    Row("springs5_noise", 500),
    Row("springs5_noise", 500, ("data.noise=0.05",), name="springs5_noise5"),
    Row("springs5_positions", 500),
    Row("springs3kinds5", 500),
    Row("springs10", 500),
    Row("masses5", 500),
    Row("masses5", 500, ("data.world.friction=0",), name="masses5_frictionless"),
    Row("kuramoto5", 500),
    Row("charged5", 50),
    Row("charged5", 50, SEVEN_MORE, seeds=range(3, 10)),
    Row("charged5", 500),
    Row("charged5", 2000),
    Row("charged5_noise", 500),
    Row("charged10", 500),
)


def train(directory: Path, name: str, tasks: int, seed: int, *overrides: str) -> dict[str, Any]:
    """The metrics of a run of `train.py`, which is done unless its file lies in the directory."""
    file = directory / f"{name}_{tasks}tasks_seed{seed}.json"
    if not file.exists():
        words = [f"name={name}", f"data.num_tasks={tasks}", f"seed={seed}", f"results={directory.relative_to(ROOT)}"]
        words += ["threads=1", "~logger.wandb", *overrides]
        subprocess.run([sys.executable, "train.py", *words], cwd=ROOT, check=True)
    metrics: dict[str, Any] = json.loads(file.read_text())
    return metrics


def spread(values: Sequence[float], form: str) -> str:
    """Mean and standard deviation."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):{form}} ± {deviation:{form}}"


def line(row: Row, runs: Sequence[dict[str, Any]]) -> str:
    """A row of the table."""
    name, accuracy = row.name or row.experiment, [run["test/edge_accuracy"] for run in runs]
    errors = [[run[f"test/mse_{step}"] for run in runs] for step in (1, 10)]
    cells = [
        " ".join((name, *row.overrides)),
        f"{row.tasks:,}",
        str(len(runs)),
        spread(accuracy, ".2%"),
        f"{min(accuracy):.2%}",
    ]
    types = [run["test/type_accuracy"] for run in runs if "test/type_accuracy" in run]
    cells += [spread(types, ".2%") if types else ""]
    cells += [spread(of, ".1e") for of in errors]
    cells += [f"{statistics.mean(run['train/seconds'] for run in runs):.0f}"]
    return f"| {' | '.join(cells)} |"


def main(word: str = "") -> None:
    """Runs what is missing and writes the table."""
    head = ("experiment", "tasks", "seeds", "edges right", "worst", "types right")
    head += ("MSE, step 1", "MSE, step 10", "training, s")
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    machines = set()
    for row in ROWS:
        name = row.name or row.experiment
        there = all((RESULTS / f"{name}_{row.tasks}tasks_seed{seed}.json").exists() for seed in row.seeds)
        if word not in name and not there:
            continue
        overrides = (f"experiment={row.experiment}", *row.overrides)
        runs = [train(RESULTS, name, row.tasks, seed, *overrides) for seed in row.seeds]
        machines |= {f"{run['hardware']['cpu']}, {run['hardware']['threads']} thread(s)" for run in runs}
        lines.append(line(row, runs))
    title = (
        "Runs of `python -m benchmarks.runs` on test tasks never seen, labels fixed on validation; no structural prior."
    )
    text = "\n".join([title, "", *lines, "", f"Mean ± standard deviation over seeds. {'; '.join(sorted(machines))}."])
    (RESULTS / "README.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main(*sys.argv[1:2])
