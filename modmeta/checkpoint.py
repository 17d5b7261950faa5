"""Loading a trained model: nothing in a checkpoint is executed, and its config may name modmeta's own parts only."""

import inspect
from pathlib import Path
from typing import Any

import hydra

from modmeta.bouncegrad import BounceGrad
from modmeta.checkpoint_files import LAST, find_newest, load
from modmeta.checkpoints.compat import upgraded
from modmeta.errors import UserError
from modmeta.structure.relations import reciprocity

# What a config in a checkpoint may name: constructors without side effects. `torch.hub.load` is torch's, too.
ALLOWED = (
    "modmeta.baselines.",
    "modmeta.bouncegrad.",
    "modmeta.model.",
    "modmeta.search.",
    "modmeta.schedules.",
    "torch.nn.",
    "torch.optim.",
)
FUNCTIONS = ("modmeta.search.", "modmeta.schedules.", "torch.")  # elsewhere it may name classes only


def find_checkpoint(path: str | Path) -> Path:
    """A checkpoint file, given itself or a run directory, of which the newest whole one is taken.

    Raises:
        UserError: there is none.
    """
    path = Path(path)
    if path.is_dir():
        found = find_newest(path / "checkpoints")
        if found is None:
            raise UserError(f"{path} is not a run directory: it has no checkpoints/{LAST}; name the checkpoint itself")
        return found
    return path


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The contents of a checkpoint: plain values and tensors, and a config that names our own parts only.

    Raises:
        UserError: the file is missing, damaged, holds pickled code, names other classes, or is not modmeta's.
    """
    file = find_checkpoint(path)
    content = load(file)
    if not isinstance(content, dict) or not {"state_dict", "modmeta"} <= content.keys():
        raise UserError(f"{file} is a checkpoint of another program; modmeta reads those of `python train.py`")
    content = upgraded(content, file)
    check_targets(content["modmeta"]["config"], file)
    return content


def check_targets(config: Any, file: Path, allowed: tuple[str, ...] = ALLOWED) -> None:
    """Refuses a config that names anything but what is defined in `allowed`.

    Raises:
        UserError: naming the class.
    """
    if isinstance(config, dict):
        target = config.get("_target_")
        if target is not None and not _defined_in(str(target), allowed):
            raise UserError(
                f"{file}: its config names {target!r}; a checkpoint may only name classes of modmeta and torch"
            )
        for part in config.values():
            check_targets(part, file, allowed)
    elif isinstance(config, list):
        for part in config:
            check_targets(part, file, allowed)


def _defined_in(target: str, allowed: tuple[str, ...]) -> bool:
    """Whether a name is a class or function of these modules; `modmeta.model.model.torch.hub.load` does not."""
    if not target.startswith(allowed):
        return False
    try:
        found = hydra.utils.get_object(target)
    except Exception:  # nothing of that name
        return False
    home = f"{getattr(found, '__module__', '')}."
    return home.startswith(allowed) and (inspect.isclass(found) or home.startswith(FUNCTIONS))


def load_model(path: str | Path) -> tuple[BounceGrad, dict[str, Any]]:
    """A trained module, ready to infer, and the description of the data that it was trained on, with the `reciprocity`
    of the structures found there.

    Args:
        path: run directory or checkpoint.

    Raises:
        UserError: as `read_checkpoint`.
    """
    content = read_checkpoint(path)
    config, data = content["modmeta"]["config"], content["modmeta"]["data"]
    try:
        module = hydra.utils.instantiate(config)
        module.load_state_dict(content["state_dict"])
    except (RuntimeError, TypeError, hydra.errors.InstantiationException) as error:
        raise UserError(
            f"{path} was written by another version of modmeta and does not fit this one: "
            + " ".join(str(error).split())
        ) from error
    if not isinstance(module, BounceGrad):
        raise UserError(
            f"{path} holds a baseline ({config['_target_']}); `python train.py` alone trains and tests those"
        )
    return module.eval(), {**data, "reciprocity": reciprocity_of(content)}


def reciprocity_of(content: dict[str, Any]) -> float | None:
    """Of the structures that training found, by a checkpoint that holds them or knows it; None without."""
    if (bank := content["modmeta"].get("bank")) is None:
        return content["modmeta"].get("reciprocity")
    return reciprocity(bank["relations"][bank["visits"] > 0])
