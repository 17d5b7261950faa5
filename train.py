"""Trains on many tasks at once, then meets test tasks for the first time. `python train.py --help` shows commands."""

import sys
import traceback
import warnings
from pathlib import Path

import hydra
import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from modmeta.errors import Preempted, UserError, cause_of
from modmeta.io import why
from modmeta.memory import keep_freed
from modmeta.processes import alone, own_processes
from modmeta.resume import finished, settle, starting_point
from modmeta.runs import ADVICE, Fit, as_single_run, attempt, failed, failure_noted, promote, trainer_of
from modmeta.text import plain


def train(config: DictConfig) -> dict[str, float]:
    """One run, begun or taken up; nothing where it is finished."""
    warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)  # Lightning's own, of torch
    # Set even where it changes nothing: from then on MKL keeps to this number, and a run can be repeated bit for bit.
    torch.set_num_threads(config.threads or torch.get_num_threads())
    keep_freed()
    config = settle(config)
    with alone(Path(config.directory)), own_processes():
        return work(config)


def work(config: DictConfig) -> dict[str, float]:
    """What is left to do of a run."""
    directory = Path(config.directory)
    done = finished(directory)
    if done is not None:
        print(f"{directory} is finished; its results are in metrics.json")
        return done
    with failure_noted(directory):
        return complete(config)


def complete(config: DictConfig) -> dict[str, float]:
    """Fit, again from other initial modules while it looks stuck, then test the fit of least energy."""
    directory = Path(config.directory)
    best = last = fit(attempt(config, 0))
    seconds = last.record.seconds
    for number in range(1, config.restarts + 1):
        if not last.module.stuck:
            break
        print(f"structures look arbitrary (agreement {float(last.module.agreement):.2f}): restart {number}")
        last.finish()
        last = fit(attempt(config, number))
        seconds += last.record.seconds
        best = min(best, last, key=lambda fitted: fitted.energy)
    if best.module.seed != config.seed:
        promote(best, directory)
    best.record.seconds = seconds  # of all attempts
    best.trainer.test(best.module, best.trainer.datamodule, verbose=False)  # type: ignore[attr-defined]
    last.finish()
    if best.record.unwritten:
        raise UserError(f"{best.record.unwritten}. The run is saved; finish it: python train.py resume={directory}")
    if best.module.stuck:
        print(ADVICE.format(float(best.module.agreement)), file=sys.stderr)
    return {name: float(value) for name, value in best.trainer.callback_metrics.items()} | {"val/energy": best.energy}


def fit(config: DictConfig) -> Fit:
    """Seed, instantiate, fit."""
    pl.seed_everything(config.bouncegrad.seed, verbose=False)
    data = hydra.utils.instantiate(config.data)
    module = hydra.utils.instantiate(config.bouncegrad)
    module.config = OmegaConf.to_container(config, resolve=True)
    path = starting_point(config, module)
    trainer = trainer_of(config)
    fitted = Fit(trainer, module, Path(config.directory))
    as_single_run()
    try:
        for logger in trainer.loggers:
            logger.log_hyperparams(module.config)
        trainer.fit(module, data, ckpt_path=path, weights_only=True)
    except BaseException:
        fitted.finish()
        raise
    return fitted


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(config: DictConfig) -> float | None:
    """What a sweep optimises is the energy of validation tasks, which needs no labels."""
    try:
        return train(config)["val/energy"]
    except (UserError, InstantiationException) as error:
        return failed(config, error, f"error: {plain(cause_of(error))}")
    except OSError as error:
        place = error.filename or config.directory
        return failed(config, error, f"error: {plain(place)} cannot be read or written {why(error)}")
    except Preempted as asked:
        print(f"asked to go; the run is saved. Take it up with: python train.py resume={asked}", file=sys.stderr)
        sys.exit(0)
    except Exception as error:
        if HydraConfig.get().mode != RunMode.MULTIRUN:
            raise
        return failed(config, error, traceback.format_exc())


if __name__ == "__main__":
    main()
