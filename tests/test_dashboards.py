"""Curves and pictures on dashboards, with real loggers that write files."""

import csv
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from modmeta.evaluation.laws import laws, pull
from modmeta.plots.dashboards import pixels, relations_figure, usage_figure
from modmeta.training.run import group_of
from tests.conftest import make_model
from tests.runs import QUICK, accompanied, run
from tests.test_resume import KilledAt, Stop

WANDB = [word for word in QUICK if "wandb" not in word]
PICTURES = {"relations", "laws", "usage"}


def test_a_run_that_is_taken_up_goes_on_in_the_same_wandb_run(tmp_path: Path) -> None:
    """Offline, with pictures; the rows of `curves.csv` go on as well."""
    with accompanied(KilledAt(3)), pytest.raises(Stop):
        run(tmp_path / "run", *WANDB)
    run(tmp_path / "run", *WANDB)
    runs = sorted((tmp_path / "run" / "wandb").glob("offline-run-*"))
    assert len(runs) == 2
    assert len({path.name.split("-")[-1] for path in runs}) == 1
    for path in runs:
        shown = {image.name.split("_")[0] for image in (path / "files" / "media" / "images" / "pictures").glob("*.png")}
        assert shown == PICTURES
    with open(tmp_path / "run" / "curves.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    history = json.loads((tmp_path / "run" / "curves.json").read_text())["history"]
    losses = [float(row["train/loss"]) for row in rows if row["train/loss"]]
    assert losses == pytest.approx([row["train/loss"] for row in history])


def test_tensorboard_by_option(tmp_path: Path) -> None:
    run(tmp_path / "run", *WANDB, "logger=[csv,tensorboard]", "trainer.max_epochs=2")
    content = b"".join(path.read_bytes() for path in (tmp_path / "run" / "tensorboard").glob("events.out.tfevents.*"))
    for name in ("train/loss", "train/temperature", "val/energy", *(f"pictures/{name}" for name in PICTURES)):
        assert name.encode() in content


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


def test_a_sweep_is_a_group() -> None:
    assert group_of("RunMode.MULTIRUN", "runs/sweep_1", "springs5") == "sweep_1"
    assert group_of("RunMode.RUN", "runs/sweep_1", "springs5") == "springs5"
