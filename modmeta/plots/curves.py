"""Curves of one run over its wall-clock."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

PANELS = (
    (
        "edge accuracy",
        {"val/edge_accuracy": "validation", "train/edge_accuracy": "search", "train/proposal_accuracy": "proposal"},
    ),
    ("energy, nats per frame and feature", {"train/loss": "training", "val/energy": "validation"}),
    ("temperature", {"train/temperature": "temperature"}),
    (
        "moves of the search",
        {"train/changed": "receivers that changed", "train/accepted_worse": "worse moves accepted"},
    ),
)


def plot_history(ax: Axes, history: Sequence[dict[str, float]], names: dict[str, str]) -> Axes:
    """Draws the named values of a run's history over its seconds on `ax`, and returns it."""
    for name, label in names.items():
        points = [(row["seconds"], row[name]) for row in history if name in row]
        if points:
            ax.plot(*zip(*points, strict=True), label=label, marker="." if len(points) < 40 else None)
    ax.set_xlabel("seconds of training")
    ax.grid(alpha=0.3)
    if ax.lines:
        ax.legend()
    return ax


def plot_curves(history: Sequence[dict[str, float]]) -> Figure:
    """Four panels: accuracy, energy, temperature, moves."""
    figure = Figure(figsize=(10, 7), layout="constrained")
    for ax, (title, names) in zip(figure.subplots(2, 2).flat, PANELS, strict=True):
        plot_history(ax, history, names)
        ax.set_title(title)
        if title == "temperature":
            ax.set_yscale("log")
    return figure
