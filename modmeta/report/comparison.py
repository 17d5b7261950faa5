"""Figures of many runs: accuracy over training tasks, ablations, curves over search steps."""

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from modmeta.plots.comparison import Curve, plot_bars, plot_efficiency, plot_steps
from modmeta.report.ablations import BASE, Variant
from modmeta.report.groups import Group
from modmeta.report.paper import OURS, PUBLISHED_TASKS, ROWS, WORLDS, Row
from modmeta.text import for_plot

ACCURACY = "test/edge_accuracy"
COLOURS = ("#1b6ca8", "#d1495b", "#3a7d44", "#edae49", "#7b4b94", "#8c564b", "#e377c2", "#17becf")
PARTS = {"": "black", "model": COLOURS[0], "likelihood": COLOURS[1], "training": COLOURS[2], "selection": COLOURS[3]}
PARTS |= {"search": COLOURS[4]}

Lines = Sequence[tuple[Row, Sequence[Group]]]  # methods, each with a group for every number of tasks, increasing


def _spread(groups: Sequence[Group], measure: str) -> tuple[np.ndarray, np.ndarray]:
    """Means and standard deviations over seeds; 0 for one seed."""
    pairs = [(group.mean(measure), group.deviation(measure) or 0.0) for group in groups]
    return np.array([mean for mean, _ in pairs], float), np.array([deviation for _, deviation in pairs])


def efficiency_figure(panels: Mapping[str, Lines]) -> Figure:
    """Edge accuracy over training tasks, one panel for each world."""
    others = dict.fromkeys(row.name for lines in panels.values() for row, _ in lines if row.name != OURS)
    colours = {name: COLOURS[place % len(COLOURS)] for place, name in enumerate(others)} | {OURS: "black"}
    figure = Figure(figsize=(7 * len(panels), 4.8), layout="constrained")
    for ax, (world, lines) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        curves = [
            Curve(
                _named(row, of), [group.tasks for group in of], *_spread(of, ACCURACY),
                colours[row.name], row.name == OURS, [group.stopped is None for group in of],
            )
            for row, of in lines
        ]  # fmt: skip
        plot_efficiency(ax, curves, _published(world)).set_title(WORLDS[world])
    drawn = [line for ax in figure.axes for line in ax.get_lines()]
    named = {name: line for line in drawn if not (name := str(line.get_label())).startswith("_")}
    figure.set_figheight(3.9 + 0.06 * sum(2 + name.count("\n") for name in named))  # of axes, and a legend in 3 columns
    figure.legend(list(named.values()), list(named), loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    told = f"mean and spread over seeds; dashed: published, from {PUBLISHED_TASKS:,} tasks"
    figure.suptitle(f"{told}; open: training was stopped while it still gained", fontsize=9)
    return figure


def _named(row: Row, of: Sequence[Group]) -> str:
    """A method with its features and priors, for the legend."""
    features = [] if of[-1].features == "-" or of[-1].features in row.label else [f"{of[-1].features} features"]
    known = [*features, *(of[-1].priors.split("; ") if of[-1].priors != "none" else [])]
    known = [part for part in known if "rollouts" not in part]  # they change forecasts alone
    told = textwrap.wrap(for_plot(f"({'; '.join(known)})", 200), 60) if known else []
    return "\n".join((for_plot(row.label, 70), *told))


def _published(world: str) -> list[tuple[float, str]]:
    """Published edge accuracies of other methods in %, decreasing, with short labels."""
    known = [(row.published(world, ACCURACY), row) for row in ROWS if row.name != OURS]
    ordered = sorted(((100 * figure, row) for figure, row in known if figure is not None), reverse=True)
    return [(figure, row.label.split(",")[0].split(" (Kipf")[0]) for figure, row in ordered]


def variants_figure(variants: Sequence[tuple[Variant, Group]]) -> Figure:
    """Edge accuracy and training time of every variant."""
    figure = Figure(figsize=(12, 1.3 + 0.29 * len(variants)), layout="constrained")
    axes = left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 1.4))
    groups, colours = [group for _, group in variants], [PARTS.get(variant.part, "grey") for variant, _ in variants]
    base = next((place for place, (variant, _) in enumerate(variants) if variant.label == BASE), None)
    for ax, measure, factor, digits in zip(axes, (ACCURACY, "train/seconds"), (100, 1), (2, 0), strict=True):
        mean, deviation = (factor * part for part in _spread(groups, measure))
        plot_bars(ax, mean, deviation, colours, None if base is None else mean[base], digits)
    left.set_yticks(range(len(variants)), [variant.title for variant, _ in variants])
    means = 100 * _spread(groups, ACCURACY)[0]
    left.set_xlim(min([45.0, *means[np.isfinite(means)]]) - 1, 101)
    right.set_xlim(left=0)
    left.axvline(50, color="grey", linewidth=0.8)
    left.set_xlabel("edge accuracy on new tasks, % (grey: chance; dashed: as shipped)")
    right.set_xlabel("seconds of training")
    return figure


def proposals_figure(lines: Sequence[tuple[Variant, Group]]) -> Figure:
    """Edge accuracy of the search, and share of receivers whose incoming edges change, over search steps."""
    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    plot_steps(left, _over_steps(lines, "train/edge_accuracy")).set_ylabel("edge accuracy of the search, %")
    plot_steps(right, _over_steps(lines, "train/changed")).set_ylabel("receivers that take another row, %")
    left.legend(fontsize=8)
    return figure


def _over_steps(lines: Sequence[tuple[Variant, Group]], name: str) -> list[Curve]:
    """Mean and deviation over seeds of a value in %, over the steps that all seeds have."""
    out = []
    for place, (variant, group) in enumerate(lines):
        curves = [
            [(row["steps"], row[name]) for row in run.history if {name, "steps"} <= row.keys()] for run in group.runs
        ]
        curves = [curve for curve in curves if curve]
        if not curves:
            continue
        length = min(map(len, curves))
        values = 100 * np.array([[value for _, value in curve[:length]] for curve in curves])
        deviation = values.std(0, ddof=1) if len(values) > 1 else np.zeros(length)
        steps = [step for step, _ in curves[0][:length]]
        out.append(Curve(variant.label, steps, values.mean(0), deviation, f"C{place}"))
    return out
