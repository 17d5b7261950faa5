"""What goes wrong around a run: full disks, places that cannot be written to, numbers that are not finite."""

import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from modmeta.errors import UserError
from modmeta.io import TEMPORARY
from modmeta.training.bouncegrad import BounceGrad
from modmeta.training.callbacks import room
from modmeta.training.checkpoints.files import load
from modmeta.training.distributed import alone
from modmeta.training.resume import finished
from modmeta.training.run import train
from tests.runs import QUICK, ROOT, accompanied, checkpoint, command, compose, launched, run, undrawn


class FullDisk(pl.Callback):
    """No file can grow beyond a few bytes while epochs 1 and 2 last: the system refuses to write, as on a full disk."""

    def __init__(self) -> None:
        self.limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        self.kept: list[int] = []

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        full = trainer.current_epoch in (1, 2)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100 if full else self.limits[0], self.limits[1]))
        path = Path(str(trainer.default_root_dir)) / "checkpoints" / "last.ckpt"
        self.kept.append(load(path)["epoch"] if path.exists() else -1)


def test_a_disk_that_fills_up_is_survived(tmp_path: Path) -> None:
    watch = FullDisk()
    with accompanied(watch), pytest.warns(UserWarning, match="could not be written") as told:
        measures = run(tmp_path / "run", *QUICK)
    assert watch.kept == [-1, 0, 0, 0]  # the checkpoint of epoch 0 stayed whole
    assert sum("last.ckpt could not" in str(warning.message) for warning in told) == 2
    assert checkpoint(tmp_path / "run")["epoch"] == 3
    assert finished(tmp_path / "run") == pytest.approx(measures, nan_ok=True)
    assert not list(tmp_path.rglob(f"*{TEMPORARY}"))


class FullAtLast(pl.Callback):
    """The disk fills up while the test is under way."""

    def __init__(self) -> None:
        self.limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, self.limits[1]))  # smaller than the curves


def test_a_run_without_results_has_failed_and_can_be_finished(tmp_path: Path) -> None:
    watch, words = FullAtLast(), (*QUICK, "trainer.max_epochs=2")
    try:
        with accompanied(watch), pytest.raises(UserError, match=r"results of .*run could not be.*--resume .*run$"):
            run(tmp_path / "run", *words, drawn=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, watch.limits)
    assert finished(tmp_path / "run") is None
    assert not list(tmp_path.rglob(f"*{TEMPORARY}"))
    measures = run(tmp_path / "run", *words)
    assert finished(tmp_path / "run") == pytest.approx(measures, nan_ok=True)


def test_a_place_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").write_text("in the way")
    with pytest.raises(UserError, match=r"run cannot be written to.*hydra\.run\.dir"):
        run(tmp_path / "run", *QUICK)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"file/run cannot be written to"):
        run(tmp_path / "file" / "run", *QUICK)


def test_a_disk_too_small_is_told_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "LOGS", 1e18)  # no disk has an exabyte
    with pytest.raises(UserError, match=r"need about 1,000,000,000,\d+ MB, but [\d,]+ MB are free"):
        run(tmp_path / "run", *QUICK)


def test_the_estimate_of_a_checkpoint_is_of_the_right_size(tmp_path: Path) -> None:
    config = compose(tmp_path / "run", *QUICK, "model.hidden=64", "trainer.max_epochs=1")
    with undrawn():
        train(config)
    module = hydra.utils.instantiate(config.method)
    estimated = room.checkpoint_bytes(module, torch.empty(config.data.num_tasks, 5, 1, 4))
    assert 0.5 < estimated / (tmp_path / "run" / "checkpoints" / "last.ckpt").stat().st_size < 2


class Poison(pl.Callback):
    """A weight, of the laws or of the likelihood, that is not a number from one batch on."""

    def __init__(self, part: str) -> None:
        self.part = part

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: BounceGrad, batch: Any, i: int) -> None:  # type: ignore[override]
        if trainer.current_epoch == 1 and i == 2:
            self.tasks = batch["task"].tolist()
            next(getattr(pl_module.model, self.part).parameters()).data.fill_(torch.nan)


@pytest.mark.parametrize(("part", "options"), [("dynamics", ()), ("likelihood", ("likelihood=gaussian",))])
def test_numbers_that_are_not_finite_name_their_tasks(part: str, options: tuple[str, ...], tmp_path: Path) -> None:
    watch = Poison(part)
    with accompanied(watch), pytest.raises(UserError, match=r"step 7 \(epoch 1, batch 2, .*not finite") as told:
        run(tmp_path / "run", *QUICK, *options)
    assert f"training tasks {watch.tasks}" in str(told.value)
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    assert f"the last good checkpoint is {path}" in str(told.value)
    assert all(bool(torch.isfinite(part).all()) for part in load(path)["state_dict"].values() if part.numel() > 9)


def test_one_process_a_directory(whole: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A second process that resumes the same run is told so, and disturbs nothing; in the end the lock is lifted."""
    shutil.copytree(whole, tmp_path / "run")
    with alone(tmp_path / "run"):
        refused = command(str(ROOT / "train.py"), f"resume={tmp_path / 'run'}", cwd=tmp_path)
    assert refused.returncode == 2
    assert "another process is using" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert "is finished" in launched(capfd, tmp_path, f"resume={tmp_path / 'run'}").stdout


@pytest.mark.slow
def test_an_interrupt_before_training_is_one_line(tmp_path: Path) -> None:
    np.savez(tmp_path / "walks.npz", states=np.random.default_rng(0).normal(size=(60, 6, 60, 3)).cumsum(2))
    words = [sys.executable, "-m", "modmeta", "train", "walks.npz", "threads=1", "logger=csv", "-o", "RUN"]
    with subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        assert process.stderr is not None
        assert any("searching for laws" in line for line in process.stderr)
        process.send_signal(signal.SIGINT)
        told = process.stderr.read()
    assert process.returncode == 128 + signal.SIGINT
    assert told.rstrip().endswith("interrupted")
    assert "Traceback" not in told
