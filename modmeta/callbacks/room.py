"""Whether disk and memory suffice, found out before training."""

import shutil
import warnings
from pathlib import Path
from typing import cast

import pytorch_lightning as pl
import torch
from rich.console import Console
from torch import Tensor

from modmeta.bouncegrad import BounceGrad
from modmeta.errors import UserError
from modmeta.io import write_durably
from modmeta.model.continuous import ContinuousDynamics
from modmeta.model.grouped import GroupedLinear

COPIES = 3  # checkpoints on disk while one is written: the last, the one before it, the new one
LOGS = 20e6  # bytes of curves, pictures and offline logs


class Room(pl.Callback):
    """Tells what a run needs, and stops it where its directory cannot take the checkpoints.

    Args:
        directory: of the run.
    """

    def __init__(self, directory: str) -> None:
        self.directory = Path(directory)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """
        Raises:
            UserError: the directory cannot be written to, or its disk is too full.
        """
        if not trainer.is_global_zero:
            return
        module = cast(BounceGrad, pl_module)
        tasks = trainer.datamodule.splits["train"].states  # type: ignore[attr-defined]
        size = trainer.datamodule.batch_size // trainer.world_size  # type: ignore[attr-defined]
        disk, memory = COPIES * checkpoint_bytes(module, tasks) + LOGS, step_bytes(module, tasks, size)
        free = self._free()
        Console(stderr=True).print(
            f"needs about {disk / 1e6:,.0f} MB of disk, {free / 1e6:,.0f} MB are free; "
            f"about {memory / 1e6:,.0f} MB of memory for a step, {available(module.device) / 1e6:,.0f} MB are free"
        )
        if disk > free:
            raise UserError(
                f"{self.directory}: checkpoints and logs need about {disk / 1e6:,.0f} MB, but {free / 1e6:,.0f} MB are "
                "free; free some space, or choose another disk with hydra.run.dir"
            )
        if memory > available(module.device):
            warnings.warn("a step may not fit in memory; lower data.batch_size", stacklevel=2)

    def _free(self) -> int:
        """Free bytes of the directory's disk, after a trial of writing there."""
        trial = self.directory / "checkpoints" / "trial"
        try:
            trial.parent.mkdir(parents=True, exist_ok=True)
            write_durably(trial, bytes(1 << 16))
            trial.unlink()
        except OSError as error:
            raise UserError(
                f"{self.directory} cannot be written to ({error.strerror}); choose another place with hydra.run.dir"
            ) from error
        return shutil.disk_usage(self.directory).free


def checkpoint_bytes(module: BounceGrad, states: Tensor) -> float:
    """Estimated size of a checkpoint: weights, two moments of each for the optimiser, structures of all tasks."""
    weights = sum(part.numel() * part.element_size() for part in module.state_dict().values())
    tasks, entities = states.shape[:2]
    return 3 * weights + tasks * (entities * entities + 20) + 1e5


def step_bytes(module: BounceGrad, states: Tensor, batch_size: int) -> float:
    """Estimated memory of a step on a batch (B, N, T, D), half of it for gradients.

    What counts are the hidden layers of all edge modules on all pairs and frames, each with the values before and after
    its activation, and the predictions of all candidate rows of all receivers.
    """
    entities, frames, features = states.shape[1:]
    dynamics = module.model.dynamics
    widths = sum(layer.bias.numel() for layer in cast(list[GroupedLinear], dynamics.edge_modules.layers))
    nodes = dynamics.places.shape[1] + 1 if isinstance(dynamics, ContinuousDynamics) else 1  # where forces are taken
    hidden = 2 * widths * entities * (entities - 1) * nodes
    rows = dynamics.num_edge_modules ** (entities - 1) * dynamics.num_node_modules
    if not module.search.enumerates(module.model, entities):
        rows = module.search.samples + (entities - 1) * (dynamics.num_edge_modules - 1) * module.search.flips
    return 2 * 4.0 * batch_size * frames * (hidden + 2 * entities * rows * features)


def available(device: torch.device) -> float:
    """Free memory of a device in bytes; infinite where the system does not tell."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    told = Path("/proc/meminfo")
    if not told.exists():
        return float("inf")
    lines = dict(line.split(":", 1) for line in told.read_text().splitlines())
    return 1024.0 * int(lines["MemAvailable"].split()[0])
