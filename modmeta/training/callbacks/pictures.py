"""Pictures for the dashboards of wandb and TensorBoard."""

from typing import cast

import pytorch_lightning as pl
import torch
from matplotlib.figure import Figure
from pytorch_lightning.loggers import TensorBoardLogger, WandbLogger

from modmeta.data.loading.batches import by_size
from modmeta.data.loading.datamodule import TrajectoryDataModule
from modmeta.keys import RELATIONS, STATES
from modmeta.plots.dashboards import laws_figure, pixels, relations_figure, usage_figure
from modmeta.training.bouncegrad import BounceGrad
from modmeta.training.checkpoints.files import LAST


class Pictures(pl.Callback):
    """Logs relations of validation tasks, learned laws and module usage after every validation.

    If wandb is online, also uploads the last checkpoint as an artifact at the end of training.

    Args:
        tasks: number of validation tasks whose relations are shown.
    """

    def __init__(self, tasks: int = 4) -> None:
        self.tasks = tasks

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        loggers = [logger for logger in trainer.loggers if isinstance(logger, WandbLogger | TensorBoardLogger)]
        if not loggers or not trainer.is_global_zero:
            return
        for name, figure in self._figures(trainer, cast(BounceGrad, pl_module)).items():
            image = pixels(figure)
            for logger in loggers:
                if isinstance(logger, WandbLogger):
                    logger.log_image(f"pictures/{name}", [image])
                else:
                    logger.experiment.add_image(f"pictures/{name}", image, trainer.global_step, dataformats="HWC")

    def _figures(self, trainer: pl.Trainer, module: BounceGrad) -> dict[str, Figure]:
        data = cast(TrajectoryDataModule, trainer.datamodule)  # type: ignore[attr-defined]
        valid = data.splits["valid"]
        batch = valid[by_size(torch.arange(len(valid)), valid.counts)[0][: self.tasks].tolist()]
        with torch.no_grad():
            found = module.infer(batch[STATES].to(module.device)).structure.edge_modules
        relations = module.module_to_relation[found] if RELATIONS in batch else found
        figures = {"relations": relations_figure(relations, batch.get(RELATIONS))}
        dynamics = module.model.dynamics
        if data.positions and dynamics.additive:
            figures["laws"] = laws_figure(dynamics, data.positions)
        if module.bank is not None:
            figures["usage"] = usage_figure(module.bank.relations.cpu(), dynamics.num_edge_modules)
        return figures

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger) and trainer.is_global_zero and not logger.experiment.offline:
                import wandb

                artifact = wandb.Artifact(f"checkpoint-{logger.experiment.id}", type="model")
                artifact.add_file(str(cast(BounceGrad, pl_module).run_config["directory"]) + f"/checkpoints/{LAST}")
                logger.experiment.log_artifact(artifact)
