"""Training from Python: what `python train.py data=files` does, in a directory of its own."""

from collections.abc import Sequence
from pathlib import Path

import hydra
import pytorch_lightning as pl
from omegaconf import OmegaConf

from modmeta.data.loading.filemodule import filled_from_file
from modmeta.runs import trainer_of

# What suits entities with places and velocities; see conf/experiment/springs5.yaml.
MOVING = ("model=continuous", "search.sweeps=3", "optimizer.modules.lr=1e-2")
QUIET = ("name=fit", "logger=[csv]", "callbacks.record=null")


def fit_file(path: Path, directory: Path, overrides: Sequence[str]) -> Path:
    """Trains on a file of trajectories; the run's directory, with its last checkpoint.

    Args:
        path: of the file.
        directory: of the run.
        overrides: settings, as on the command line.

    Raises:
        UserError: file or settings make no sense.
    """
    from modmeta.data import formats
    from modmeta.data.describe import find_positions

    moving = find_positions(next(iter(formats.load(path).values())))[1]
    words = ["data=files", f"data.path={path}", f"directory={directory}", *QUIET, *(MOVING if moving else ())]
    with hydra.initialize_config_module("modmeta.conf", version_base="1.3"):
        config = filled_from_file(hydra.compose("train", [*words, *overrides]))
    pl.seed_everything(config.bouncegrad.seed, verbose=False)
    data, module = hydra.utils.instantiate(config.data), hydra.utils.instantiate(config.bouncegrad)
    module.config = OmegaConf.to_container(config, resolve=True)
    trainer_of(config).fit(module, data)
    return directory
