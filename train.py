"""Trains on many tasks at once, then meets test tasks for the first time. `python train.py --help` shows commands."""

import sys
import warnings

import hydra
import pytorch_lightning as pl
import torch
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf

from modmeta.errors import UserError
from modmeta.runs import check_resume, finish_loggers


def train(config: DictConfig) -> dict[str, float]:
    """One run: seed, instantiate, fit, test."""
    warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)  # Lightning's own, of torch
    if config.threads:
        torch.set_num_threads(config.threads)
    pl.seed_everything(config.seed, verbose=False)
    check_resume(config.ckpt_path)
    data = hydra.utils.instantiate(config.data)
    module = hydra.utils.instantiate(config.bouncegrad)
    module.config = OmegaConf.to_container(config, resolve=True)
    callbacks = [hydra.utils.instantiate(part) for part in (config.callbacks or {}).values() if part]
    loggers = [hydra.utils.instantiate(part) for part in (config.logger or {}).values() if part]
    trainer = hydra.utils.instantiate(config.trainer, callbacks=callbacks, logger=loggers)
    try:
        for logger in loggers:
            logger.log_hyperparams(module.config)
        trainer.fit(module, data, ckpt_path=config.ckpt_path, weights_only=True)
        trainer.test(module, data, verbose=False)
    finally:
        finish_loggers(loggers)
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(config: DictConfig) -> float | None:
    """What a sweep optimises is the energy of validation tasks, which needs no labels."""
    try:
        return train(config).get("val/energy")
    except (UserError, InstantiationException) as error:
        cause = error.__cause__ if isinstance(error.__cause__, ValueError | TypeError) else error
        print(f"error: {cause}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
