"""Pictures of hidden entities: observed paths, predictions without hidden entities, inferred paths."""

import torch
from matplotlib.axes import Axes
from torch import Tensor

SEEN, WITHOUT, HIDDEN = "tab:blue", "tab:red", "tab:orange"


def plot_scene(ax: Axes, visible: Tensor, without: Tensor, paths: Tensor, truth: Tensor | None) -> Axes:
    """Paths in the plane, as in figure 4 of the paper, on `ax`, which is returned.

    Args:
        ax: to draw on.
        visible: observed states (V, T, D).
        without: what the model predicts from frame 0 without hidden entities, (V, T, D).
        paths: inferred (H, T, D).
        truth: of the hidden entities (H, T, D), if it is known.
    """
    parts: list[tuple[Tensor | None, str, str, str]] = [
        (without, WITHOUT, ":", "predicted without it"),
        (visible, SEEN, "-", "seen"),
        (paths, HIDDEN, "-", "inferred"),
        (truth, "black", "--", "hidden"),
    ]
    for states, colour, style, label in parts:
        for i, path in enumerate(states if states is not None else ()):
            ax.plot(path[:, 0], path[:, 1], style, color=colour, label=label if i == 0 else None)
            ax.plot(path[0, 0], path[0, 1], "o", color=colour, markersize=4)
    seen = torch.cat((visible, paths))[..., :2].flatten(0, 1)
    middle, reach = seen.mean(0), float((seen - seen.mean(0)).abs().max()) * 1.15 + 1e-6
    ax.set_xlim(float(middle[0]) - reach, float(middle[0]) + reach)
    ax.set_ylim(float(middle[1]) - reach, float(middle[1]) + reach)
    ax.set_aspect("equal")
    return ax


def plot_spread(
    ax: Axes, paths: Tensor, deviations: Tensor, others: Tensor, shares: Tensor, truth: Tensor | None
) -> Axes:
    """First coordinate of hidden entities over frames with two standard deviations on `ax`, which is returned.

    Args:
        ax: to draw on.
        paths, deviations: inferred (H, T, D).
        others: paths of every start, (M, H, T, D).
        shares: weights of the starts, (M,); the less, the paler.
        truth: of the hidden entities (H, T, D), if it is known.
    """
    deviations = deviations.clamp_max(10)
    frames = torch.arange(paths.shape[1])
    for other, share in zip(others, shares, strict=True):
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
