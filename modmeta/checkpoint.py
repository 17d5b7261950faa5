"""Loading a trained model: nothing in a checkpoint is executed, and its config may name modmeta's own parts only."""

import pickle
from pathlib import Path
from typing import Any

import hydra
import torch

from modmeta.bouncegrad import BounceGrad
from modmeta.errors import UserError

# What a config in a checkpoint may name: constructors without side effects. `torch.hub.load` is torch's, too.
ALLOWED = (
    "modmeta.bouncegrad.",
    "modmeta.model.",
    "modmeta.search.",
    "modmeta.schedules.",
    "torch.nn.",
    "torch.optim.",
)


def find_checkpoint(path: str | Path) -> Path:
    """A checkpoint file, given itself or a run directory.

    Raises:
        UserError: there is none.
    """
    path = Path(path)
    if path.is_dir():
        found = path / "checkpoints" / "last.ckpt"
        if not found.exists():
            raise UserError(
                f"{path} is not a run directory: it has no checkpoints/last.ckpt; name the checkpoint itself"
            )
        return found
    if not path.exists():
        raise UserError(f"{path} does not exist; name a run directory or a checkpoint")
    return path


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The contents of a checkpoint: plain values and tensors.

    Raises:
        UserError: the file is missing, damaged, holds pickled code, or is not modmeta's.
    """
    file = find_checkpoint(path)
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{file} holds more than plain values and tensors, or is damaged; it is not loaded: it could run code"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{file} cannot be read as a checkpoint: it is truncated or damaged; use an earlier one"
        ) from error
    if not isinstance(content, dict) or not {"state_dict", "modmeta"} <= content.keys():
        raise UserError(f"{file} is a checkpoint of another program; modmeta reads those of `python train.py`")
    return content


def check_targets(config: Any, file: Path) -> None:
    """Refuses a config that names anything but `ALLOWED`.

    Raises:
        UserError: naming the class.
    """
    if isinstance(config, dict):
        target = config.get("_target_")
        if target is not None and not str(target).startswith(ALLOWED):
            raise UserError(
                f"{file}: its config names {target!r}; a checkpoint may only name classes of modmeta and torch"
            )
        for part in config.values():
            check_targets(part, file)
    elif isinstance(config, list):
        for part in config:
            check_targets(part, file)


def load_model(path: str | Path) -> tuple[BounceGrad, dict[str, Any]]:
    """A trained module, ready to infer, and the description of the data that it was trained on.

    Args:
        path: run directory or checkpoint.

    Raises:
        UserError: as `read_checkpoint` and `check_targets`.
    """
    content, file = read_checkpoint(path), find_checkpoint(path)
    config, data = content["modmeta"]["config"], content["modmeta"]["data"]
    check_targets(config, file)
    try:
        module = hydra.utils.instantiate(config)
        module.load_state_dict(content["state_dict"])
    except (RuntimeError, TypeError, hydra.errors.InstantiationException) as error:
        raise UserError(
            f"{file} was written by another version of modmeta and does not fit this one: "
            + " ".join(str(error).split())
        ) from error
    return module.eval(), data
