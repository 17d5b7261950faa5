"""Pictures of one run: curves over wall-clock, relations of single tasks, laws and use of its modules."""

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from modmeta.evaluation.laws import pull
from modmeta.graph.relations import to_matrix
from modmeta.model.dynamics.base import Dynamics
from modmeta.plots.pictures import colour, plot_laws, plot_matrix, plot_usage

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
    """Draws values of a run's history over seconds on `ax` and returns it."""
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
    """Four panels: accuracy, energy, temperature, moves of the search."""
    figure = Figure(figsize=(10, 7), layout="constrained")
    for ax, (title, names) in zip(figure.subplots(2, 2).flat, PANELS, strict=True):
        plot_history(ax, history, names)
        ax.set_title(title)
        if title == "temperature":
            ax.set_yscale("log")
    return figure


def relations_figure(found: Tensor, truth: Tensor | None) -> Figure:
    """Inferred relations (B, N, S), and the true ones below them if there are labels."""
    rows = [("found", found)] + ([("true", truth)] if truth is not None else [])
    figure = Figure(figsize=(2.2 * len(found), 2.4 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), len(found), squeeze=False)
    for (name, relations), line in zip(rows, axes, strict=True):
        for task, (ax, matrix) in enumerate(zip(line, to_matrix(relations.cpu()).numpy(), strict=True)):
            plot_matrix(ax, matrix).set_title(f"task {task}, {name}")
    return figure


def laws_figure(dynamics: Dynamics, positions: int, farthest: float = 1.0) -> Figure:
    """Pull of every edge module over distance, up to `farthest` in protocol units."""
    distances = torch.linspace(0.02, farthest, 100)
    pulls = pull(dynamics, positions, distances).numpy()
    figure = Figure(figsize=(6, 4), layout="constrained")
    ax = plot_laws(figure.subplots(), distances.numpy(), pulls, [f"module {k}" for k in range(len(pulls))])
    ax.set(ylabel="pull towards the sender, usual changes", title="laws of the edge modules")
    return figure


def usage_figure(modules: Tensor, num_modules: int) -> Figure:
    """Share of training edges (B, N, S) of each edge module, over all tasks and by task.

    Slots of entities that a task lacks hold -1.
    """
    held = modules.flatten(1).unsqueeze(-1) == torch.arange(num_modules)
    shares = held.sum(1) / (modules >= 0).flatten(1).sum(1, keepdim=True).double()  # (B, K)
    figure = Figure(figsize=(8, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    labels = [f"module {k}" for k in range(num_modules)]
    plot_usage(left, shares.mean(0).numpy(), labels).set_title("use of the edge modules")
    plot_shares(right, shares.numpy(), labels).set_title("over tasks")
    return figure


def plot_shares(ax: Axes, shares: np.ndarray, labels: list[str]) -> Axes:
    """Histogram of the shares of edges of each module by task, (B, K), on `ax`, which is returned."""
    shades = [colour(module) for module in range(len(labels))]
    ax.hist(shares, bins=np.linspace(0, 1, 21).tolist(), color=shades, label=labels)
    ax.set(xlabel="share of a task's edges", ylabel="tasks")
    ax.legend()
    return ax


def pixels(figure: Figure) -> np.ndarray:
    """Renders a figure as an image (height, width, 3) uint8."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
