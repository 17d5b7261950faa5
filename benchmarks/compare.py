"""Plots the accuracy of several runs over wall-clock time: `python -m benchmarks.compare OUT.png LABEL=RUN ...`."""

import json
import sys
from pathlib import Path

from matplotlib.figure import Figure


def main(out: str, *runs: str) -> None:
    """Reads `curves.json` of each run directory and plots the accuracy of the structures of training tasks."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    ax = figure.subplots()
    for run in runs:
        label, directory = run.rsplit("=", 1)
        history = json.loads((Path(directory) / "curves.json").read_text())["history"]
        ax.plot([row["seconds"] for row in history], [row["train/edge_accuracy"] for row in history], label=label)
    ax.set(xlabel="seconds of training, two CPU cores", ylabel="edge accuracy of the search", ylim=(0.45, 1.02))
    ax.grid(alpha=0.3)
    ax.legend(loc="center right")
    figure.savefig(out, dpi=150)


if __name__ == "__main__":
    main(*sys.argv[1:])
