"""Curves and pictures on dashboards, with real loggers that write files."""

import csv
import json
from pathlib import Path

import pytest

from modmeta.training.run import group_of
from tests.runs import QUICK, KilledAt, Stop, accompanied, run

WANDB = [word for word in QUICK if "wandb" not in word]
PICTURES = {"relations", "laws", "usage"}


@pytest.mark.slow
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


def test_a_sweep_is_a_group() -> None:
    assert group_of("RunMode.MULTIRUN", "runs/sweep_1", "springs5") == "sweep_1"
    assert group_of("RunMode.RUN", "runs/sweep_1", "springs5") == "springs5"
