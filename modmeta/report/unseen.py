"""The figure of `modmeta unseen`: scenes and spreads of the first tasks."""

from matplotlib.figure import Figure
from torch import Tensor

from modmeta.evaluation.verdict import Judged
from modmeta.hidden.measures import located, silent_modules
from modmeta.hidden.result import Group, predicted_without
from modmeta.plots.unseen import plot_scene, plot_spread
from modmeta.training.trained import Trained


def plot_tasks(
    module: Trained, visible: Tensor, group: Group, truth: Tensor | None, count: int, judged: Judged
) -> Figure:
    """Scenes above, spread over starts below, a column for each of the first tasks of a group.

    Args:
        module: trained.
        visible: of the group (b, V, T, D).
        group: inferred.
        truth: of the hidden entities (b, H, T, D), if it is known.
        count: of tasks that are drawn.
        judged: what the checkpoint knows of the model's fit.
    """
    figure = Figure(figsize=(3.6 * count, 6.6), layout="constrained")
    axes = figure.subplots(2, count, squeeze=False)
    without = predicted_without(module, visible[:count])
    known = located(group.found, module.model, silent_modules(module.model, visible), judged).all(1)
    for i in range(count):
        hidden = None if truth is None else truth[i]
        plot_scene(axes[0, i], visible[i], without[i], group.found.paths[i], hidden)
        found, shares = group.found, (-group.found.excess[i]).softmax(0)
        plot_spread(axes[1, i], found.paths[i], found.deviations[i], found.others[i], shares, hidden)
        axes[0, i].set_title(f"task {int(group.tasks[i])}" + ("" if known[i] else ": cannot be located"))
    for row in axes:
        row[0].legend(fontsize=7)
    return figure
