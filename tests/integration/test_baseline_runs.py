"""Runs of baselines: every experiment, resumed runs, choice of weights, precision."""

import json
import math
import warnings
from pathlib import Path

import pytest
import torch

from modmeta.errors import Preempted, UserError
from modmeta.report.collect import collect
from modmeta.report.groups import grouped
from modmeta.training.checkpoints.loading import load_model
from tests.runs import KilledAt, KilledInTest, Stop, accompanied, checkpoint, run, same
from tests.unit.baselines.test_baselines import EXPERIMENTS

SPRINGS = [name for name in EXPERIMENTS if name.endswith("springs5")]


TINY = (
    "data.num_tasks=12", "data.valid=6", "data.test=6", "data.batch_size=4", "data.batches_per_epoch=3",
    "data.frames=20", "data.test_frames=42", "method.observed_frames=20", "trainer.accelerator=cpu",
    "trainer.devices=1", "callbacks.progress=null", "logger.wandb=null",
)  # fmt: skip


SMALL = ("method.encoder.hidden=8", "method.decoder.hidden=8")


FORECASTS = ("static", "lstm_single", "lstm_joint", "nri", "nri_full", "nri_true", "nri_adapted")


INFERS = ("correlation_data", "correlation_lstm", "nri", "nri_adapted", "supervised")


@pytest.mark.parametrize("experiment", SPRINGS)
def test_every_experiment_runs(experiment: str, tmp_path: Path) -> None:
    name = experiment.removesuffix("_springs5")
    few = () if name in ("static", "correlation_data") else ("trainer.max_epochs=2",)
    few += ("method.adapt_steps=2",) if name == "nri_adapted" else ()
    measures = run(tmp_path / "run", f"experiment=baselines/{experiment}", *TINY, *few)
    written = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert written["config"]["name"] == experiment
    assert {"train/tasks", "train/seconds", "train/steps", "hardware", "seed", "commit", "priors"} <= written.keys()
    assert ("test/mse_10" in measures) == (name in FORECASTS)
    assert ("test/edge_accuracy" in measures) == (name in INFERS)
    for key in ("test/mse_1", "test/mse_10", "test/mse_20", "test/edge_accuracy"):
        assert math.isfinite(written.get(key, 0.0))
    if name in INFERS:
        assert 0.0 <= written["val/edge_accuracy"] <= 1.0
    with pytest.raises(UserError, match="baseline"):
        load_model(tmp_path / "run")


@pytest.mark.slow  # the contract of baselines has shorter ones of every method
@pytest.mark.parametrize("experiment", ["nri_springs5", "lstm_joint_springs5"])
def test_continued_equals_uninterrupted(experiment: str, tmp_path: Path) -> None:
    """Broken off at an epoch's start, in the middle of one, and before the test: the same to the last bit."""
    small = SMALL if experiment.startswith("nri") else ("method.hidden=8",)
    options = (f"experiment=baselines/{experiment}", *TINY, *small, "trainer.max_epochs=4")
    options += ("trainer.check_val_every_n_epoch=2",)
    whole = run(tmp_path / "whole", *options)
    for interruption, told in ((KilledAt(1), Stop), (KilledAt(2, batch=1), Preempted), (KilledInTest(), Stop)):
        torch.manual_seed(12345)
        with accompanied(interruption), pytest.raises(told):
            run(tmp_path / "parts", *options)
    parts = run(tmp_path / "parts", *options)
    one, other = checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "parts")
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step"):
        same(one[part], other[part], part)
    for part in ("best", "generators", "epoch"):
        same(one["modmeta"][part], other["modmeta"][part], part)
    assert whole == parts


def test_weights_are_chosen_on_validation_tasks(tmp_path: Path) -> None:
    """An encoder that knows its few tasks by heart is tested as it was when it was best on others."""
    options = ("experiment=baselines/supervised_springs5", *TINY, "method.encoder.hidden=32")
    run(tmp_path / "run", *options, "trainer.max_epochs=6", "trainer.check_val_every_n_epoch=1")
    history = json.loads((tmp_path / "run" / "curves.json").read_text())["history"]
    best = checkpoint(tmp_path / "run")["modmeta"]["best"]
    assert best["energy"] == pytest.approx(min(row["val/energy"] for row in history))
    assert int(best["state"]["steps_done"]) in [row["steps"] for row in history]


@pytest.mark.parametrize(("capability", "used"), [("AVX512", "bf16-mixed"), ("AVX2", "32-true")])
def test_processors_without_bfloat16_do_without(
    capability: str, used: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Settings stay as they are, for a run may be taken up on another machine; the record tells what was used."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    options = ("experiment=baselines/supervised_springs5", *TINY, "trainer.max_epochs=1", "trainer.accelerator=cpu")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        run(tmp_path / "run", *options)
    assert any("no products in bfloat16" in str(warning.message) for warning in told) == (used == "32-true")
    content = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert content["hardware"]["precision"] == used
    assert content["config"]["trainer"]["precision"] == "bf16-mixed"
    (group,) = grouped(collect([tmp_path / "run"]).finished)
    assert group.hardware.endswith(", 32-true") == (used == "32-true")
