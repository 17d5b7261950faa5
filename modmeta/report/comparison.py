"""Figures of many runs: accuracy over training tasks, what settings are worth, curves over search steps."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from modmeta.report.ablations import BASE, Variant
from modmeta.report.groups import Group
from modmeta.report.paper import OURS, PUBLISHED_TASKS, ROWS, WORLDS, Row
from modmeta.text import for_plot

ACCURACY = "test/edge_accuracy"
COLOURS = ("#1b6ca8", "#d1495b", "#3a7d44", "#edae49", "#7b4b94", "#8c564b", "#e377c2", "#17becf")
CLOSE = 4.0  # points between published figures that share a label
PARTS = {"": "black", "model": COLOURS[0], "likelihood": COLOURS[1], "training": COLOURS[2], "selection": COLOURS[3]}
PARTS |= {"search": COLOURS[4]}


def _spread(groups: Sequence[Group], measure: str) -> tuple[np.ndarray, np.ndarray]:
    """Means and standard deviations, 0 where there is one seed."""
    pairs = [(group.mean(measure), group.deviation(measure) or 0.0) for group in groups]
    return np.array([mean for mean, _ in pairs], float), np.array([deviation for _, deviation in pairs])


Lines = Sequence[tuple[Row, Sequence[Group]]]  # methods, each with a group for every number of tasks, increasing


def plot_efficiency(ax: Axes, lines: Lines, world: str, colours: dict[str, str]) -> Axes:
    """Edge accuracy in % over training tasks on `ax`, which is returned.

    Args:
        ax: to draw on.
        lines: methods.
        world: whose published figures are marked.
        colours: of the methods, by their rows' names.
    """
    low = 50.0
    for row, groups in lines:
        ours, colour = row.name == OURS, colours[row.name]
        mean, deviation = _spread(groups, ACCURACY)
        tasks = [group.tasks for group in groups]
        (line,) = ax.plot(tasks, 100 * mean, marker="o", markersize=4, color=colour, label=for_plot(row.label, 60))
        line.set(linewidth=2.4 if ours else 1.5, zorder=4 if ours else 3)
        ends = 100 * (mean - deviation), np.minimum(100 * (mean + deviation), 100)
        ax.fill_between(tasks, *ends, color=colour, alpha=0.2, linewidth=0)
        low = min([low, *ends[0][np.isfinite(ends[0])]])
    _mark_published(ax, world)
    sizes = sorted({group.tasks for _, groups in lines for group in groups})
    ax.set_xscale("log")
    ax.set_xticks(sizes, [f"{size:,}" for size in sizes], fontsize=8)
    ax.set_xticks([], minor=True)
    ax.set(title=WORLDS[world], xlabel="training tasks", ylabel="edge accuracy on new tasks, %")
    ax.set_xlim(min(sizes) / 1.3, max(sizes) * 1.3)
    ax.set_ylim(low - 1, 101.5)
    ax.grid(alpha=0.3)
    return ax


def _mark_published(ax: Axes, world: str) -> None:
    """Published figures as horizontal lines; those that lie together are named together."""
    marks: list[tuple[list[float], list[str]]] = []
    known = [(row.published(world, ACCURACY), row) for row in ROWS if row.name != OURS]
    for figure, row in sorted(((100 * figure, row) for figure, row in known if figure is not None), reverse=True):
        if not marks or marks[-1][0][-1] - figure > CLOSE:
            marks.append(([], []))
        marks[-1][0].append(figure)
        marks[-1][1].append(row.label.split(",")[0].split(" (Kipf")[0])
    for figures, labels in marks:
        for figure in set(figures):
            ax.axhline(figure, color="grey", linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        middle = sum(figures) / len(figures)
        ax.annotate(
            "\n".join(labels), (1, middle), xycoords=("axes fraction", "data"), fontsize=7, color="dimgrey",
            va="center", xytext=(4, 0), textcoords="offset points",
        )  # fmt: skip


def efficiency_figure(panels: Mapping[str, Lines]) -> Figure:
    """A panel for each world."""
    others = dict.fromkeys(row.name for lines in panels.values() for row, _ in lines if row.name != OURS)
    colours = {name: COLOURS[place % len(COLOURS)] for place, name in enumerate(others)} | {OURS: "black"}
    figure = Figure(figsize=(7 * len(panels), 4.8), layout="constrained")
    for ax, (world, lines) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        plot_efficiency(ax, lines, world, colours)
    drawn = [line for ax in figure.axes for line in ax.get_lines()]
    named = {name: line for line in drawn if not (name := str(line.get_label())).startswith("_")}
    figure.legend(list(named.values()), list(named), loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    figure.suptitle(f"mean and spread over seeds; dashed: published, from {PUBLISHED_TASKS:,} tasks", fontsize=9)
    return figure


def plot_variants(ax: Axes, variants: Sequence[tuple[Variant, Group]], measure: str, factor: float) -> Axes:
    """A bar with its spread for every variant, from the top down, on `ax`, which is returned."""
    mean, deviation = (factor * part for part in _spread([group for _, group in variants], measure))
    places = np.arange(len(variants))
    colours = [PARTS.get(variant.part, "grey") for variant, _ in variants]
    ax.barh(places, mean, color=colours, alpha=0.85, height=0.7)
    several = deviation > 0
    ax.errorbar(mean[several], places[several], xerr=deviation[several], fmt="none", ecolor="black", capsize=2.5)
    digits = 2 if factor != 1 else 0
    for place, value, spread in zip(places, mean, deviation, strict=True):
        text = f"{value:.{digits}f}" + (f" ± {spread:.{digits}f}" if spread else "")
        ax.annotate(
            text, (1, place), xycoords=("axes fraction", "data"), xytext=(4, 0), textcoords="offset points",
            va="center", fontsize=7,
        )  # fmt: skip
    base = [value for (variant, _), value in zip(variants, mean, strict=True) if variant.label == BASE]
    if base:
        ax.axvline(base[0], color="black", linewidth=0.8, linestyle=(0, (4, 3)))
    ax.set_ylim(len(variants) - 0.4, -0.6)
    ax.grid(alpha=0.3, axis="x")
    ax.set_axisbelow(True)
    return ax


def variants_figure(variants: Sequence[tuple[Variant, Group]]) -> Figure:
    """Edge accuracy and seconds of every variant."""
    figure = Figure(figsize=(12, 1.3 + 0.29 * len(variants)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 1.4))
    plot_variants(left, variants, ACCURACY, 100)
    plot_variants(right, variants, "train/seconds", 1)
    labels = [variant.title for variant, _ in variants]
    left.set_yticks(range(len(variants)), labels)
    means = 100 * _spread([group for _, group in variants], ACCURACY)[0]
    left.set_xlim(min([45.0, *means[np.isfinite(means)]]) - 1, 101)
    right.set_xlim(left=0)
    left.axvline(50, color="grey", linewidth=0.8)
    left.set_xlabel("edge accuracy on new tasks, % (grey: chance; dashed: as shipped)")
    right.set_xlabel("seconds of training")
    return figure


def plot_steps(ax: Axes, lines: Sequence[tuple[Variant, Group]], name: str, factor: float) -> Axes:
    """A curve of training over search steps, mean and spread over seeds, on `ax`, which is returned."""
    for variant, group in lines:
        curves = [
            [(row["steps"], row[name]) for row in run.history if {name, "steps"} <= row.keys()] for run in group.runs
        ]
        curves = [curve for curve in curves if curve]
        if not curves:
            continue
        length = min(map(len, curves))
        values = factor * np.array([[value for _, value in curve[:length]] for curve in curves])
        steps, colour = [step for step, _ in curves[0][:length]], f"C{lines.index((variant, group))}"
        mean, deviation = values.mean(0), values.std(0, ddof=1) if len(values) > 1 else np.zeros(length)
        ax.plot(steps, mean, marker=".", color=colour, label=variant.label)
        ax.fill_between(steps, mean - deviation, mean + deviation, color=colour, alpha=0.2, linewidth=0)
    ax.set_xlabel("search steps")
    ax.grid(alpha=0.3)
    return ax


def proposals_figure(lines: Sequence[tuple[Variant, Group]]) -> Figure:
    """Edge accuracy of the search, and how many receivers take another row, over search steps."""
    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    plot_steps(left, lines, "train/edge_accuracy", 100).set_ylabel("edge accuracy of the search, %")
    plot_steps(right, lines, "train/changed", 100).set_ylabel("receivers that take another row, %")
    left.legend(fontsize=8)
    return figure
