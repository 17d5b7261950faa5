"""Runs of the shipped configuration in a temporary directory."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict

from train import train

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


def compose(directory: Path, *overrides: str) -> DictConfig:
    """The configuration of `python train.py OVERRIDES` with its output under `directory`."""
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = hydra.compose("train", [*overrides, f"data_dir={directory.parent / 'data'}"], return_hydra_config=True)
    with open_dict(config):
        config.hydra.runtime.output_dir = str(directory)
    HydraConfig.instance().set_config(config)
    with open_dict(config):
        config.pop("hydra")
    return config


def run(directory: Path, *overrides: str) -> dict[str, float]:
    """A run of `python train.py OVERRIDES` in this process."""
    return train(compose(directory, *overrides))


def command(*words: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    """A command of the project as a user would run it, in a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "WANDB_SILENT": "true", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *words], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )


def checkpoint(directory: Path) -> dict[str, Any]:
    """The last checkpoint of a run."""
    return torch.load(directory / "checkpoints" / "last.ckpt", weights_only=True)
