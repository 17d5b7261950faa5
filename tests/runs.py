"""Runs of the shipped configuration in a temporary directory."""

import copy
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import hydra
import pytest
import pytorch_lightning as pl
import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import OverrideType
from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf, open_dict

from modmeta.cli.train import train as train_command
from modmeta.training.bouncegrad import BounceGrad
from modmeta.training.callbacks import record
from modmeta.training.capture import Recorder
from modmeta.training.run import train

ROOT = Path(__file__).resolve().parents[1]
QUICK = (
    "data.num_tasks=12",
    "data.valid=6",
    "data.test=6",
    "data.batch_size=4",
    "data.batches_per_epoch=5",
    "trainer.max_epochs=4",
    "trainer.check_val_every_n_epoch=2",
    "trainer.accelerator=cpu",
    "trainer.devices=1",
    "model.hidden=16",
    "callbacks.progress=null",
    "logger.wandb=null",
)


@cache
def _composed(*choices: str) -> DictConfig:
    """Hydra reads forty files for it, which takes as long as a short run."""
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return hydra.compose("train", [*choices], return_hydra_config=True)


def _with_hydra(*words: str) -> DictConfig:
    """The configuration of `python train.py WORDS`, files read once for the same choices of groups."""
    choices, values = [], []
    for word, one in zip(words, OverridesParser.create().parse_overrides(list(words)), strict=True):
        group = (ROOT / "conf" / one.key_or_group.split("@")[0].replace(".", "/")).is_dir()
        if group or one.type != OverrideType.CHANGE or one.key_or_group.startswith("hydra."):
            choices.append(word)
        else:
            values.append(one)
    config = copy.deepcopy(_composed(*choices))
    OmegaConf.set_struct(config, True)  # a value that does not exist is an error
    for one in values:
        OmegaConf.update(config, one.key_or_group, one.value())
    config.hydra.overrides.task = list(words)
    return config


def configured(*words: str) -> DictConfig:
    """As `compose`, for tests that write nothing."""
    return _apart(_with_hydra(*words), ".")


def _apart(config: DictConfig, directory: str) -> DictConfig:
    """A configuration without Hydra's own, which is set, since values refer to it."""
    with open_dict(config):
        config.hydra.runtime.output_dir = directory
    HydraConfig.instance().set_config(config)
    with open_dict(config):
        config.pop("hydra")
    return config


def compose(directory: Path, *overrides: str) -> DictConfig:
    """The configuration of `python train.py OVERRIDES` with its output under `directory`."""
    return _apart(_with_hydra(*overrides, f"data_dir={directory.parent / 'data'}"), str(directory))


@contextmanager
def undrawn() -> Iterator[None]:
    """Runs of this process leave an empty picture of their curves; drawing it takes as long as their training."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(record, "plot_curves", lambda history: Figure(figsize=(1, 1)))
        yield


def run(directory: Path, *overrides: str, drawn: bool = False) -> dict[str, float]:
    """A run of `python train.py OVERRIDES` in this process; `drawn`: with a picture of its curves."""
    config = compose(directory, *overrides)
    with nullcontext() if drawn else undrawn(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("modmeta.training.run.commit", lambda: "a commit")  # tests run in trees that are being edited
        return train(config)


def fitted(directory: Path, *overrides: str, record: Recorder | None = None, precision: Any = "32-true") -> BounceGrad:
    """The module of a run that only trains, whose steps are recorded so (`modmeta/training/capture.py`)."""
    config = compose(directory / "run", *overrides)
    pl.seed_everything(0, verbose=False)
    data, module = hydra.utils.instantiate(config.data), hydra.utils.instantiate(config.method)
    trainer = pl.Trainer(
        max_epochs=config.trainer.max_epochs, accelerator=config.trainer.accelerator, devices=1, precision=precision,
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        limit_val_batches=0, use_distributed_sampler=False,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("modmeta.training.bouncegrad.recorder", lambda device: record)
        trainer.fit(module, data)
    return module


@contextmanager
def accompanied(*callbacks: pl.Callback) -> Iterator[None]:
    """Further callbacks for the runs of this process, which their configuration does not know."""
    original = pl.Trainer.fit

    def fit(trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        trainer.callbacks[:0] = callbacks  # type: ignore[attr-defined]
        original(trainer, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pl.Trainer, "fit", fit)
        yield


class Stop(Exception):
    """As if the process were killed."""


class KilledAt(pl.Callback):
    """Interrupts a run when an epoch starts, or by SIGTERM at a batch of it."""

    def __init__(self, epoch: int, batch: int | None = None) -> None:
        self.epoch, self.batch = epoch, batch

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.batch is None and trainer.current_epoch == self.epoch:
            raise Stop

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: object, i: int) -> None:
        if trainer.current_epoch == self.epoch and i == self.batch:
            os.kill(os.getpid(), signal.SIGTERM)


class KilledInTest(pl.Callback):
    """Interrupts a run when training is over and nothing is measured yet."""

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        raise Stop


def command(*words: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    """A command of the project as a user would run it, in a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "WANDB_SILENT": "true", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *words], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )


def launched(capfd: pytest.CaptureFixture[str], cwd: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    """What `python train.py WORDS` prints and ends with; in this process, which saves its start."""
    capfd.readouterr()
    with pytest.MonkeyPatch.context() as patch, undrawn():
        patch.chdir(cwd)
        GlobalHydra.instance().clear()
        quiet = ("hydra/job_logging=none", "hydra/hydra_logging=none")
        try:
            status = train_command([*words, *quiet], str(ROOT / "conf"))
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
    return subprocess.CompletedProcess(words, status, *capfd.readouterr())


def refusal(capfd: pytest.CaptureFixture[str], cwd: Path, *words: str) -> str:
    """What `python train.py WORDS` prints before it ends with an error."""
    done = launched(capfd, cwd, *words)
    assert done.returncode != 0
    return done.stderr


def checkpoint(directory: Path) -> dict[str, Any]:
    """The last checkpoint of a run."""
    return torch.load(directory / "checkpoints" / "last.ckpt", weights_only=True)


def same(a: object, b: object, where: str = "checkpoint") -> None:
    """Fails where two nested values differ by a single bit."""
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert isinstance(b, dict)
        assert a.keys() == b.keys(), where
        for key in a:
            same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list | tuple):
        assert isinstance(b, list | tuple)
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            same(x, y, f"{where}[{i}]")
    elif isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype, where
        assert a.numpy().tobytes() == b.numpy().tobytes(), where
    else:
        assert a == b or (a != a and b != b), f"{where}: {a} is not {b}"


def same_run(one: Path, other: Path) -> None:
    """Fails where the states that two runs ended with differ, but for seconds and directories."""
    whole, parts = checkpoint(one), checkpoint(other)
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step"):
        same(whole[part], parts[part], part)
    for part in ("bank", "generators", "epoch"):
        same(whole["modmeta"][part], parts["modmeta"][part], part)
    histories = [content["callbacks"]["RunRecord"]["history"] for content in (whole, parts)]
    for row in [row for history in histories for row in history]:
        row.pop("seconds")
        row.pop("train/tasks_per_second")
    same(histories[0], histories[1], "curves")
