"""Comparisons of many runs: accuracy over training tasks, bars of variants, curves over search steps."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes

CLOSE = 4.0  # points between published figures that share a label


class Curve(NamedTuple):
    """Means and standard deviations over seeds.

    Attributes:
        label: text of the legend.
        x: (points,), increasing.
        mean, deviation: (points,).
        colour: of matplotlib.
        bold: drawn above the others.
        flat: whether the training behind every point had flattened, (points,); None for all. Other points are open,
            and no line passes through them.
    """

    label: str
    x: Sequence[float]
    mean: np.ndarray
    deviation: np.ndarray
    colour: str
    bold: bool = False
    flat: Sequence[bool] | None = None


def plot_efficiency(ax: Axes, curves: Sequence[Curve], published: Sequence[tuple[float, str]]) -> Axes:
    """Accuracy in % over training tasks on `ax`, which is returned.

    Args:
        ax: to draw on.
        curves: methods, as shares.
        published: figures in % and their methods, decreasing.
    """
    low = 50.0
    for curve in curves:
        mean, deviation = curve.mean, curve.deviation
        flat = np.ones(len(mean), dtype=bool) if curve.flat is None else np.asarray(curve.flat)
        whole = np.where(flat, 100 * mean, np.nan)
        (line,) = ax.plot(curve.x, whole, marker="o", markersize=4, color=curve.colour, label=curve.label)
        line.set(linewidth=2.4 if curve.bold else 1.5, zorder=4 if curve.bold else 3)
        ends = 100 * (mean - deviation), np.minimum(100 * (mean + deviation), 100)
        ax.fill_between(curve.x, *ends, color=curve.colour, alpha=0.2, linewidth=0, where=flat)
        x, y, spread = (np.asarray(part)[~flat] for part in (curve.x, 100 * mean, 100 * deviation))
        ax.errorbar(
            x, y, spread, fmt="o", markersize=5, markerfacecolor="none", color=curve.colour, elinewidth=0.8, zorder=3
        )
        low = min([low, *ends[0][np.isfinite(ends[0])]])
    _mark_published(ax, published)
    sizes = sorted({size for curve in curves for size in curve.x})
    ax.set_xscale("log")
    ax.set_xticks(sizes, [f"{size:,}" for size in sizes], fontsize=8)
    ax.set_xticks([], minor=True)
    ax.set(xlabel="training tasks", ylabel="edge accuracy on new tasks, %")
    ax.set_xlim(min(sizes) / 1.3, max(sizes) * 1.3)
    ax.set_ylim(low - 1, 101.5)
    ax.grid(alpha=0.3)
    return ax


def _mark_published(ax: Axes, published: Sequence[tuple[float, str]]) -> None:
    """Horizontal lines; those that lie close together share a label."""
    marks: list[tuple[list[float], list[str]]] = []
    for figure, label in published:
        if not marks or marks[-1][0][-1] - figure > CLOSE:
            marks.append(([], []))
        marks[-1][0].append(figure)
        marks[-1][1].append(label)
    for figures, labels in marks:
        for figure in set(figures):
            ax.axhline(figure, color="grey", linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        middle = sum(figures) / len(figures)
        ax.annotate(
            "\n".join(labels), (1, middle), xycoords=("axes fraction", "data"), fontsize=7, color="dimgrey",
            va="center", xytext=(4, 0), textcoords="offset points",
        )  # fmt: skip


def plot_bars(
    ax: Axes, mean: np.ndarray, deviation: np.ndarray, colours: Sequence[str], base: float | None, digits: int
) -> Axes:
    """Bars with spreads, from the top down, on `ax`, which is returned.

    Args:
        ax: to draw on.
        mean, deviation: (bars,).
        colours: (bars,).
        base: value that a dashed line marks.
        digits: of the values beside the bars.
    """
    places = np.arange(len(mean))
    ax.barh(places, mean, color=colours, alpha=0.85, height=0.7)
    several = deviation > 0
    ax.errorbar(mean[several], places[several], xerr=deviation[several], fmt="none", ecolor="black", capsize=2.5)
    for place, value, spread in zip(places, mean, deviation, strict=True):
        text = f"{value:.{digits}f}" + (f" ± {spread:.{digits}f}" if spread else "")
        ax.annotate(
            text, (1, place), xycoords=("axes fraction", "data"), xytext=(4, 0), textcoords="offset points",
            va="center", fontsize=7,
        )  # fmt: skip
    if base is not None:
        ax.axvline(base, color="black", linewidth=0.8, linestyle=(0, (4, 3)))
    ax.set_ylim(len(mean) - 0.4, -0.6)
    ax.grid(alpha=0.3, axis="x")
    ax.set_axisbelow(True)
    return ax


def plot_steps(ax: Axes, curves: Sequence[Curve]) -> Axes:
    """Curves of training over search steps, mean and spread over seeds, on `ax`, which is returned."""
    for label, steps, mean, deviation, colour, *_ in curves:
        ax.plot(steps, mean, marker=".", color=colour, label=label)
        ax.fill_between(steps, mean - deviation, mean + deviation, color=colour, alpha=0.2, linewidth=0)
    ax.set_xlabel("search steps")
    ax.grid(alpha=0.3)
    return ax
