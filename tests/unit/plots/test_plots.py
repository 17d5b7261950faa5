"""Pictures show what they are given."""

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from modmeta.data.trajectories import Trajectories
from modmeta.evaluation.laws import laws, pull
from modmeta.plots import pictures
from modmeta.plots.dashboards import pixels, relations_figure, usage_figure
from tests.conftest import make_model


def test_pictures_draw_on_the_axes_they_are_given(springs: Trajectories) -> None:
    figure = Figure()
    axes = figure.subplots(2, 4).flatten()
    names, relations = list("abcde"), springs.relations[0]
    chances = np.eye(2)[relations]
    states, ahead = springs.states[0, :, :30], springs.states[0, :, 30:40]
    assert pictures.plot_trajectories(axes[0], states, names, ahead, ahead - 0.1, ahead + 0.1, ahead) is axes[0]
    assert len(axes[0].collections) >= 5
    assert pictures.plot_series(axes[1], states[..., 0], names, *[ahead[..., 0]] * 3) is axes[1]
    assert pictures.plot_matrix(axes[2], relations, chances, names) is axes[2]
    assert len(axes[2].texts) == 20
    assert pictures.plot_graph(axes[3], states[:, -1, :2], relations, chances, names) is axes[3]
    pull = np.array([[1.0, 4.0], [-1.0, -4.0]])
    assert pictures.plot_laws(axes[4], np.array([1.0, 2.0]), pull, names[:2], logarithmic=True) is axes[4]
    assert axes[4].lines[1].get_ydata()[1] == 4.0
    assert pictures.plot_usage(axes[6], np.array([0.4, 0.6]), names[:2]) is axes[6]
    assert pictures.plot_reliability(axes[7], np.array([0.5, np.nan]), np.array([0.5, np.nan]), np.array([3, 0]))
    figure.canvas.draw()


def test_the_pull_of_a_known_law() -> None:
    """A module that sends its receiver twice the displacement of the sender."""
    model = make_model("additive")
    modules = model.dynamics.edge_modules
    with torch.no_grad():
        for part in modules.parameters():
            part.zero_()
        assert modules.linear is not None
        modules.linear.weight[1, 0, 2] = 2.0  # of the first feature, the displacement, on the first velocity
    distances = torch.linspace(0.1, 1, 5)
    scaled = distances / model.dynamics.state_scale[0]
    law = pull(model.dynamics, 2, distances)
    assert law[0].abs().max() == 0
    sign = law[1, 0].sign()
    torch.testing.assert_close(sign * law[1], 2 * scaled * (law[1, 0].abs() / (2 * scaled[0])))
    _, in_frame = laws(model.dynamics, 2, (0.1, 1))
    torch.testing.assert_close(torch.from_numpy(in_frame[:, ::119]), law[:, ::4] * model.dynamics.change_scale[2])


def test_pictures_show_what_they_are_given() -> None:
    relations = torch.tensor([[[0, 1], [1, 0], [0, 0]]])
    same, other = relations_figure(relations, relations), relations_figure(relations, 1 - relations)
    assert (pixels(same) != pixels(other)).any()
    heights = [bar.get_height() for bar in usage_figure(relations, 2).axes[0].patches]
    assert heights == pytest.approx([4 / 6, 2 / 6])
    assert Image.fromarray(pixels(same)).size[0] > 100
