"""Calibration of edge probabilities and the verdict at the end of training, stored in the checkpoint."""

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import WandbLogger
from torch import Tensor

from modmeta.data.loading.batches import TaskDataset, by_size
from modmeta.evaluation.calibration import calibrate, enough
from modmeta.keys import RELATIONS, STATES
from modmeta.model.dynamics.laws import LawDynamics
from modmeta.model.sight import counted
from modmeta.training.bouncegrad import BounceGrad
from modmeta.training.checkpoints.loading import read_checkpoint
from modmeta.training.checkpoints.plugin import DurableCheckpoints
from modmeta.training.judge import judge

OUTDONE = (
    "warning: laws fitted in closed form foretell held-out frames better than the modules, by {:.2g} nats a number. "
    "A run of laws may find more, with your settings of data: {}"
)


def advice(module: BounceGrad, better: float) -> str | None:
    """A warning where a rival is better than modules that are no laws, by so many nats a number; else None."""
    dynamics, path = module.model.dynamics, module.run_config["data"].get("path")
    if not better > 0 or isinstance(dynamics, LawDynamics):
        return None
    words = [] if path is None else [str(path)]
    number = f"model.num_edge_modules={dynamics.num_edge_modules}"
    return OUTDONE.format(better, shlex.join(["modmeta", "train", *words, "experiment=laws", number]))


class Calibrate(pl.Callback):
    """Fits temperatures of the posterior, judges what was found, and adds both to the checkpoint.

    Temperatures are those of validation tasks. Where these are few and have no labels, training tasks count, too.

    Temperatures are not fitted if the search scores rollouts (`horizon` > 1), if the model learns observation noise, or
    if no validation task is complete.

    Args:
        directory: directory of the run.
    """

    def __init__(self, directory: str) -> None:
        self.file = Path(directory) / "checkpoints" / "last.ckpt"

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        module = cast(BounceGrad, pl_module)
        if not trainer.is_global_zero or not self.file.exists():
            return
        splits, training = trainer.datamodule.splits, module.training  # type: ignore[attr-defined]
        module.eval()
        begun = module.beginning
        laws, structures = (None, None) if begun is None else (begun.compared, begun.relations)
        judged = judge(module, splits["valid"], splits["train"], laws, structures)
        added: dict[str, Any] = {
            "judged": judged.state_dict(),
            **_calibration(module, splits),
        }
        if said := advice(module, added.get("calibration", {}).get("outdone", 0.0)):
            print(said, file=sys.stderr)
        module.train(training)
        module.verdict = judged.verdict
        content = read_checkpoint(self.file)
        content["modmeta"] |= added
        DurableCheckpoints().save_checkpoint(content, self.file)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.experiment.summary.update(judged.verdict.measures())


def _calibration(module: BounceGrad, splits: Mapping[str, TaskDataset]) -> dict[str, Any]:
    most = enough(splits["valid"].states.shape[1])
    scenes = _scenes(module, splits["valid"], most)
    if not scenes or module.search.horizon > 1 or module.model.noise:
        return {}
    if module.groups is not None:
        found = module.groups.calibrated([batch for _, batch in scenes], module.module_to_relation)
    else:
        labelled = [(states, batch.get(RELATIONS)) for states, batch in scenes]
        few = 0 if RELATIONS in scenes[0][1] else most - sum(len(states) for states, _ in scenes)
        more = [states for states, _ in _scenes(module, splits["train"], few)]
        found = calibrate(module.model, module.search, labelled, module.module_to_relation, module.seed, more=more)
    return {"calibration": found.state_dict()}


def _scenes(module: BounceGrad, tasks: TaskDataset, most: int) -> list[tuple[Tensor, dict[str, Tensor]]]:
    """Observed frames of tasks without gaps, and their batches, by number of entities."""
    whole = torch.arange(len(tasks))
    if tasks.mask is not None:
        whole = whole[counted(tasks.mask).flatten(1).all(1)]
    scenes = []
    for ids in by_size(whole[:most], tasks.counts) if len(whole) and most else ():
        batch = {name: part.to(module.device) for name, part in tasks[ids.tolist()].items()}
        scenes.append((batch[STATES][:, :, : module.observed_frames], batch))
    return scenes
