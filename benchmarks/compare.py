"""Plots curves of several runs.

    python -m benchmarks.compare OUT.png LABEL=RUN ...      # accuracy of the search over wall-clock time
    python -m benchmarks.compare OUT.png --visits FILE ...  # that and its proposal network, acceptance, temperature

RUN is a run's directory, FILE one of `results/`; either will do. Without a label the name of its directory counts.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

EVERY = 10  # epochs that a point of noisy curves is the mean of
PANELS = {
    "train/edge_accuracy": "edges right, search",
    "train/proposal_accuracy": "edges right, proposal network",
    "train/accepted_worse": "worse moves accepted",
    "train/temperature": "temperature, nats",
}


def history_of(path: Path) -> list[dict[str, Any]]:
    """Curves of a run, a row an epoch."""
    rows: list[dict[str, Any]] = json.loads((path / "curves.json" if path.is_dir() else path).read_text())["history"]
    return rows


def over_seconds(ax: Axes, label: str, history: Sequence[dict[str, Any]]) -> None:
    """Accuracy of the structures of training tasks."""
    ax.plot([row["seconds"] for row in history], [row["train/edge_accuracy"] for row in history], label=label)
    ax.set(xlabel="seconds of training, two CPU cores", ylabel="edge accuracy of the search", ylim=(0.45, 1.02))


def over_visits(axes: Sequence[Axes], label: str, history: Sequence[dict[str, Any]]) -> None:
    """One panel for each of `PANELS`."""
    parts = [history[i : i + EVERY] for i in range(0, len(history), EVERY)]
    for ax, (name, title) in zip(axes, PANELS.items(), strict=True):
        means = [sum(row[name] for row in part) / len(part) for part in parts]
        ax.plot([part[-1]["epoch"] for part in parts], means, label=label)
        ax.set(xlabel="visits to each training task", title=title)
        ax.set(**({"ylim": (0.45, 1.02)} if "accuracy" in name else {"yscale": "log"}))


def main() -> None:
    """Writes the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("runs", nargs="+", metavar="[LABEL=]RUN")
    parser.add_argument("--visits", action="store_true")
    given = parser.parse_args()
    figure = Figure(figsize=(9, 6) if given.visits else (7, 4), layout="constrained")
    axes = list(figure.subplots(2, 2).flat) if given.visits else [figure.subplots()]
    for run in given.runs:
        label, _, path = run.rpartition("=")
        label, history = label or Path(path).resolve().parent.name, history_of(Path(path))
        if given.visits:
            over_visits(axes, label, history)
        else:
            over_seconds(axes[0], label, history)
    for ax in axes:
        ax.grid(alpha=0.3)
    if given.visits:
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    else:
        axes[0].legend(loc="center right")
    figure.savefig(given.out, dpi=150)


if __name__ == "__main__":
    main()
