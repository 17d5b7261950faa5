"""Figures of hidden entities: what was seen, what the model predicts without them, where they are inferred to be."""

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from modmeta.hidden.infer import Found
from modmeta.hidden.measures import located, silent_modules
from modmeta.hidden.result import Group, predicted_without
from modmeta.training.bouncegrad import BounceGrad

SEEN, WITHOUT, HIDDEN = "tab:blue", "tab:red", "tab:orange"


def plot_scene(ax: Axes, visible: Tensor, without: Tensor, paths: Tensor, truth: Tensor | None) -> Axes:
    """The plane, as in figure 4 of the paper, on `ax`, which is returned.

    Args:
        ax: to draw on.
        visible: observed states (V, T, D).
        without: what the model predicts from frame 0 without hidden entities, (V, T, D).
        paths: inferred (H, T, D).
        truth: of the hidden entities (H, T, D), if it is known.
    """
    kinds: list[tuple[Tensor | None, str, str, str]] = [
        (without, WITHOUT, ":", "predicted without it"),
        (visible, SEEN, "-", "seen"),
        (paths, HIDDEN, "-", "inferred"),
        (truth, "black", "--", "hidden"),
    ]
    for states, colour, style, label in kinds:
        for i, path in enumerate(states if states is not None else ()):
            ax.plot(path[:, 0], path[:, 1], style, color=colour, label=label if i == 0 else None)
            ax.plot(path[0, 0], path[0, 1], "o", color=colour, markersize=4)
    seen = torch.cat((visible, paths))[..., :2].flatten(0, 1)
    middle, reach = seen.mean(0), float((seen - seen.mean(0)).abs().max()) * 1.15 + 1e-6
    ax.set_xlim(float(middle[0]) - reach, float(middle[0]) + reach)
    ax.set_ylim(float(middle[1]) - reach, float(middle[1]) + reach)
    ax.set_aspect("equal")
    return ax


def plot_spread(ax: Axes, found: Found, task: int, truth: Tensor | None) -> Axes:
    """One coordinate of the hidden entities over the frames on `ax`: every start's path, and two standard deviations.

    Paths of starts that explain the visible entities worse are the paler.
    """
    paths, deviations = found.paths[task], found.deviations[task].clamp_max(10)
    shares = (-found.excess[task]).softmax(0)
    frames = torch.arange(paths.shape[1])
    for other, share in zip(found.others[task], shares, strict=True):
        for path in other:
            ax.plot(frames, path[:, 0], color="grey", alpha=max(0.25, float(share)), linewidth=1)
    for i, (path, deviation) in enumerate(zip(paths, deviations, strict=True)):
        low, high = path[:, 0] - 2 * deviation[:, 0], path[:, 0] + 2 * deviation[:, 0]
        ax.fill_between(frames, low, high, color=HIDDEN, alpha=0.25, label="2 standard deviations" if i == 0 else None)
        ax.plot(frames, path[:, 0], color=HIDDEN, label="inferred" if i == 0 else None)
    for i, path in enumerate(truth if truth is not None else ()):
        ax.plot(frames, path[:, 0], "--", color="black", label="hidden" if i == 0 else None)
    ax.set_xlabel("frame")
    ax.set_ylabel("x, protocol units")
    ax.grid(alpha=0.3)
    middle, reach = float(paths[..., 0].mean()), float(paths[..., 0].std()) * 4 + 0.05
    ax.set_ylim(middle - reach, middle + reach)
    return ax


def plot_tasks(module: BounceGrad, visible: Tensor, group: Group, truth: Tensor | None, count: int) -> Figure:
    """Scenes above, spread over starts below, a column for each of the first tasks of a group.

    Args:
        module: trained.
        visible: of the group (b, V, T, D).
        group: inferred.
        truth: of the hidden entities (b, H, T, D), if it is known.
        count: of tasks that are drawn.
    """
    figure = Figure(figsize=(3.6 * count, 6.6), layout="constrained")
    axes = figure.subplots(2, count, squeeze=False)
    without = predicted_without(module, visible[:count])
    known = located(group.found, module.model, silent_modules(module.model, visible)).all(1)
    for i in range(count):
        hidden = None if truth is None else truth[i]
        plot_scene(axes[0, i], visible[i], without[i], group.found.paths[i], hidden)
        plot_spread(axes[1, i], group.found, i, hidden)
        axes[0, i].set_title(f"task {int(group.tasks[i])}" + ("" if known[i] else ": cannot be located"))
    for row in axes:
        row[0].legend(fontsize=7)
    return figure
