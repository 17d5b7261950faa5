"""Calibration of edge probabilities and the verdict at the end of training, stored in the checkpoint."""

from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import WandbLogger

from modmeta.data.loading.batches import by_size
from modmeta.evaluation.calibration import TASKS, calibrate
from modmeta.keys import RELATIONS, STATES
from modmeta.model.sight import counted
from modmeta.training.bouncegrad import BounceGrad
from modmeta.training.checkpoints.loading import read_checkpoint
from modmeta.training.checkpoints.plugin import DurableCheckpoints
from modmeta.training.judge import judge


class Calibrate(pl.Callback):
    """Fits temperatures of the posterior on validation tasks, judges what was found, and adds both to the checkpoint.

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
        valid, training = trainer.datamodule.splits["valid"], module.training  # type: ignore[attr-defined]
        module.eval()
        judged = judge(module, valid)
        added: dict[str, Any] = {"judged": judged.state_dict(), **_calibration(module, valid)}
        module.train(training)
        module.verdict = judged.verdict
        content = read_checkpoint(self.file)
        content["modmeta"] |= added
        DurableCheckpoints().save_checkpoint(content, self.file)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.experiment.summary.update(judged.verdict.measures())


def _calibration(module: BounceGrad, valid: Any) -> dict[str, Any]:
    whole = torch.arange(len(valid))
    if valid.mask is not None:
        whole = whole[counted(valid.mask).flatten(1).all(1)]
    if not len(whole) or module.search.horizon > 1 or module.model.noise:
        return {}
    scenes = []
    for ids in by_size(whole[:TASKS], valid.counts):
        batch = {name: part.to(module.device) for name, part in valid[ids.tolist()].items()}
        scenes.append((batch[STATES][:, :, : module.observed_frames], batch))
    if module.groups is not None:
        found = module.groups.calibrated([batch for _, batch in scenes], module.module_to_relation)
    else:
        labelled = [(states, batch.get(RELATIONS)) for states, batch in scenes]
        found = calibrate(module.model, module.search, labelled, module.module_to_relation, module.seed)
    return {"calibration": found.state_dict()}
