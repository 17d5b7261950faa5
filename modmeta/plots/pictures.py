"""Pictures of inferred relations; every function draws on `ax` and returns it."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.patches import Rectangle

from modmeta.text import for_plot

COLOURS = ("#9aa0a6", "#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b", "#e377c2")
WIDE = 4  # letters that fit side by side below a matrix


def colour(index: int) -> str:
    """Colour of a relation or an entity."""
    return COLOURS[index % len(COLOURS)]


def plot_trajectories(
    ax: Axes,
    states: np.ndarray,
    names: Sequence[object],
    mean: np.ndarray | None = None,
    low: np.ndarray | None = None,
    high: np.ndarray | None = None,
    truth: np.ndarray | None = None,
) -> Axes:
    """Paths of entities in the plane, later frames darker, and forecasts with their bands.

    Args:
        states: (N, T, D), of which the first two features are coordinates.
        names: of the entities.
        mean, low, high: forecasts (N, steps, D).
        truth: true states after the last frame, (N, steps, D), dotted.
    """
    for entity, path in enumerate(states):
        shade = colour(entity + 1)
        parts = np.stack((path[:-1, :2], path[1:, :2]), axis=1)
        ax.add_collection(LineCollection(list(parts), colors=shade, alpha=list(np.linspace(0.25, 1, len(parts)))))
        ax.plot(*path[-1, :2], "o", color=shade, markersize=5, label=f"entity {entity}")
        if mean is not None:
            ahead = np.concatenate((path[-1:, :2], mean[entity, :, :2]))
            ax.plot(*ahead.T, "--", color=shade, linewidth=1.2)
        if low is not None and high is not None:
            width, centre = (high - low)[entity, :, :2] / 2, (high + low)[entity, :, :2] / 2
            x, y, dx, dy = centre[:, 0], centre[:, 1], width[:, 0], width[:, 1]
            ax.errorbar(x, y, yerr=dy, xerr=dx, fmt="none", ecolor=shade, alpha=0.25, linewidth=3)
        if truth is not None:
            ax.plot(*truth[entity, :, :2].T, ":", color=shade, linewidth=1.5)
    ax.autoscale()
    ax.set_aspect("equal", adjustable="datalim")
    _name_entries(ax, names)
    return ax


def _name_entries(ax: Axes, names: Sequence[object]) -> None:
    """Adds a legend of entities; names are set afterwards because matplotlib drops labels that begin with `_`."""
    for entry, name in zip(ax.legend(fontsize=7, loc="best").get_texts(), names, strict=True):
        entry.set_text(for_plot(name))


def plot_series(
    ax: Axes, states: np.ndarray, names: Sequence[object], mean: np.ndarray, low: np.ndarray, high: np.ndarray
) -> Axes:
    """One feature (N, T) over frames, and its forecast (N, steps) with bands."""
    t, steps = states.shape[1], mean.shape[1]
    ahead = np.arange(t - 1, t + steps)
    for entity in range(len(states)):
        shade, last = colour(entity + 1), states[entity, -1:]
        ax.plot(np.arange(t), states[entity], color=shade)
        ax.plot(ahead, np.concatenate((last, mean[entity])), "--", color=shade)
        bounds = [np.concatenate((last, bound[entity])) for bound in (low, high)]
        ax.fill_between(ahead, bounds[0], bounds[1], color=shade, alpha=0.2, linewidth=0)
    ax.axvline(t - 1, color="black", linewidth=0.6)
    ax.set_xlabel("frame")
    return ax


def plot_matrix(
    ax: Axes, relations: np.ndarray, probabilities: np.ndarray | None = None, names: Sequence[object] | None = None
) -> Axes:
    """Relations (N, N) as colours, each with its probability, (N, N, R), where these are given."""
    n = len(relations)
    for receiver, sender in np.ndindex(n, n):
        if receiver == sender:
            continue
        relation, chance, text = int(relations[receiver, sender]), 1.0, ""
        if probabilities is not None:
            chance = float(np.clip(probabilities[receiver, sender, relation], 0, 1))
            text = f"\n{chance:.2f}"
        ax.add_patch(_square(sender, receiver, colour(relation), chance))
        if n <= 12:
            ax.text(sender, receiver, f"{relation}{text}", ha="center", va="center", fontsize=7)
    ax.set(xlim=(-0.5, n - 0.5), ylim=(n - 0.5, -0.5), xlabel="sender", ylabel="receiver", aspect="equal")
    labels = [for_plot(name) for name in (range(n) if names is None else names)]
    wide = max(map(len, labels), default=0) > WIDE
    ax.set_xticks(range(n), labels, rotation=90 if n > 8 or wide else 0)
    ax.set_yticks(range(n), labels)
    ax.tick_params(labelsize=7 if wide else 10)
    return ax


def plot_graph(
    ax: Axes, positions: np.ndarray, relations: np.ndarray, probabilities: np.ndarray, names: Sequence[object]
) -> Axes:
    """Arrows from sender to receiver over positions (N, 2); relation 0 is thin and grey, low probabilities faint."""
    for receiver, sender in np.ndindex(*relations.shape):
        relation = int(relations[receiver, sender])
        if receiver == sender:
            continue
        chance = float(np.clip(probabilities[receiver, sender, relation], 0, 1))  # rounding errors
        style = {"color": colour(relation), "alpha": max(chance, 0.1) * (0.35 if relation == 0 else 1.0)}
        arrow = {"arrowstyle": "-|>", "connectionstyle": "arc3,rad=0.12", "shrinkA": 9, "shrinkB": 9, **style}
        arrow["linewidth"] = 0.8 if relation == 0 else 1.6
        ax.annotate("", tuple(positions[receiver]), tuple(positions[sender]), arrowprops=arrow)
    ax.scatter(positions[:, 0], positions[:, 1], s=220, color="white", edgecolor="black", zorder=3)
    for place, name in zip(positions, names, strict=True):
        ax.text(place[0], place[1], for_plot(name), ha="center", va="center", fontsize=7, zorder=4)
    ax.margins(0.15)
    ax.set_aspect("equal", adjustable="datalim")
    return ax


def plot_laws(
    ax: Axes, distances: np.ndarray, pulls: np.ndarray, labels: Sequence[str], logarithmic: bool = False
) -> Axes:
    """Pull of every module (K, points) over distance (points,); on log axes, its magnitude."""
    for module, (pull, label) in enumerate(zip(pulls, labels, strict=True)):
        ax.plot(distances, np.abs(pull) if logarithmic else pull, color=colour(module), label=label)
    if logarithmic:
        ax.set(xscale="log", yscale="log", ylabel="magnitude of the message")
    else:
        ax.axhline(0, color="black", linewidth=0.6)
        ax.set_ylabel("pull towards the sender, a frame")
    ax.set_xlabel("distance")
    ax.grid(alpha=0.3)
    ax.legend()
    return ax


def plot_usage(ax: Axes, usage: np.ndarray, labels: Sequence[str]) -> Axes:
    """Share of edges of every module, (K,)."""
    ax.bar(range(len(usage)), usage, color=[colour(module) for module in range(len(usage))])
    ax.set_xticks(range(len(usage)), labels)
    ax.set(ylim=(0, 1), ylabel="share of edges")
    return ax


def plot_reliability(ax: Axes, confidence: np.ndarray, right: np.ndarray, count: np.ndarray) -> Axes:
    """Reliability diagram: accuracy over confidence by bin; dot area grows with the number of edges."""
    ax.plot((0, 1), (0, 1), color="black", linewidth=0.6)
    known = count > 0
    size = 12 + 150 * count[known] / max(count.sum(), 1)
    ax.plot(confidence[known], right[known], color=colour(1), linewidth=1)
    ax.scatter(confidence[known], right[known], s=size, color=colour(1))
    ax.set(
        xlim=(0, 1.02),
        ylim=(0, 1.02),
        xlabel="probability of the relation named",
        ylabel="share that is right",
        aspect="equal",
    )
    return ax


def _square(x: int, y: int, shade: str, chance: float) -> Rectangle:
    return Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=shade, alpha=0.15 + 0.7 * chance, edgecolor="white")
