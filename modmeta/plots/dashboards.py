"""Pictures of what a run has learned so far: relations of single tasks, laws of its modules, use of its modules."""

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from modmeta.graph.relations import to_matrix
from modmeta.model.dynamics.base import Dynamics


def plot_matrix(ax: Axes, relations: Tensor, num_relations: int, title: str) -> Axes:
    """Draws the relations (N, S) of one task as a matrix of receivers and senders on `ax`, and returns it."""
    matrix = to_matrix(relations.unsqueeze(0).cpu())[0].double()
    matrix.fill_diagonal_(torch.nan)
    ax.imshow(matrix.numpy(), vmin=0, vmax=max(num_relations - 1, 1), cmap="viridis")
    ax.set(title=title, xlabel="sender", ylabel="receiver", xticks=range(len(matrix)), yticks=range(len(matrix)))
    return ax


def relations_figure(found: Tensor, truth: Tensor | None, num_relations: int) -> Figure:
    """Relations found (B, N, S), those of the labels below them where there are any."""
    rows = [("found", found)] + ([("true", truth)] if truth is not None else [])
    figure = Figure(figsize=(2.2 * len(found), 2.4 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), len(found), squeeze=False)
    for (name, relations), line in zip(rows, axes, strict=True):
        for task, (ax, row) in enumerate(zip(line, relations, strict=True)):
            plot_matrix(ax, row, num_relations, f"task {task}, {name}")
    return figure


@torch.no_grad()
def pull(dynamics: Dynamics, positions: int, distances: Tensor) -> Tensor:
    """What each module sends to an entity at rest from one at each distance: (K, distances).

    The component towards the sender, of the velocity where there is one, in units of the usual change.
    """
    d, device = dynamics.centre.numel(), dynamics.centre.device
    states = dynamics.centre.expand(1, 2, len(distances), d).clone()
    states[0, 1, :, 0] += distances.to(device)
    sent = dynamics.pair_law(states)[0, 0, 0]  # (K, distances, C)
    return sent[..., positions if sent.shape[-1] >= 2 * positions else 0].cpu()


def laws_figure(dynamics: Dynamics, positions: int, farthest: float = 1.0) -> Figure:
    """The pull of every module over the distance, up to `farthest` in units of the protocol."""
    distances = torch.linspace(0.02, farthest, 100)
    figure = Figure(figsize=(6, 4), layout="constrained")
    ax = figure.subplots()
    for k, values in enumerate(pull(dynamics, positions, distances)):
        ax.plot(distances.numpy(), values.numpy(), label=f"module {k}")
    ax.set(xlabel="distance", ylabel="pull towards the sender, usual changes", title="laws of the edge modules")
    ax.grid(alpha=0.3)
    ax.legend()
    return figure


def usage_figure(relations: Tensor, num_modules: int) -> Figure:
    """Share of edges of the training tasks (B, N, S) on which each module sits, and how it spreads over tasks.

    Slots of entities that a task lacks hold -1.
    """
    held = relations.flatten(1).unsqueeze(-1) == torch.arange(num_modules)
    shares = held.sum(1) / (relations >= 0).flatten(1).sum(1, keepdim=True).double()  # (B, K)
    figure = Figure(figsize=(8, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.bar(range(num_modules), shares.mean(0).numpy())
    left.set(xlabel="module", ylabel="share of edges", xticks=range(num_modules), title="use of the edge modules")
    right.hist(shares.numpy(), bins=np.linspace(0, 1, 21), label=[f"module {k}" for k in range(num_modules)])
    right.set(xlabel="share of a task's edges", ylabel="tasks", title="over tasks")
    right.legend()
    return figure


def pixels(figure: Figure) -> np.ndarray:
    """A figure as an image (height, width, 3) uint8."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
