"""Loads trained models. A checkpoint is untrusted data: it is checked before anything is built from it."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from modmeta.errors import UserError
from modmeta.graph.relations import reciprocity
from modmeta.training.checkpoints.arguments import check_arguments
from modmeta.training.checkpoints.compat import grown_state, upgraded
from modmeta.training.checkpoints.files import LAST, find_newest, load
from modmeta.training.checkpoints.trust import MOST, check_config, check_description, check_judged, named, shown
from modmeta.training.trained import Trained

COMPOSED = "modmeta.training.composed.ComposedBounceGrad"  # importing it imports Lightning, which takes seconds


def find_checkpoint(path: str | Path) -> Path:
    """The checkpoint file of a path: the file itself, or the newest intact checkpoint of a run directory.

    Raises:
        UserError: the directory has no checkpoint.
    """
    path = Path(path)
    if path.is_dir():
        found = find_newest(path / "checkpoints")
        if found is None:
            raise UserError(f"{path} is not a run directory: it has no checkpoints/{LAST}; name the checkpoint itself")
        return found
    return path


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Reads a checkpoint and checks that its tensors fit its configuration.

    Executes, imports and resolves nothing from the file, and allocates no more memory than its size.

    Args:
        path: run directory or checkpoint.

    Returns:
        A dictionary with `state_dict` and `modmeta` (configuration, data, state of the run).

    Raises:
        UserError: the file is missing, damaged, not a checkpoint of modmeta, holds more than data, or names a class
            that is not trusted.
    """
    file = find_checkpoint(path)
    content = load(file)
    if not isinstance(content, dict) or not {"state_dict", "modmeta"} <= content.keys():
        raise UserError(f"{file} is a checkpoint of another program; use one written by `modmeta train`")
    state, own = content["state_dict"], content["modmeta"]
    if not isinstance(own, dict) or not isinstance(own.get("config"), dict) or "data" not in own:
        raise UserError(f"{file} is a checkpoint of another program; use one written by `modmeta train`")
    check_config(own["config"], str(file))
    check_description(own["data"], own.get("calibration"), own.get("reciprocity"), str(file))
    check_judged(own.get("judged"), str(file))
    if not isinstance(state, dict) or not all(isinstance(part, Tensor) for part in state.values()):
        raise UserError(f"{file}: its state_dict holds more than tensors; it is not loaded")
    content = upgraded(content, file)
    made = skeleton(content["modmeta"]["config"], file).state_dict()
    content["state_dict"] = state = grown_state(content["state_dict"], made)
    expected = {name: tuple(part.shape) for name, part in made.items()}
    found = {name: tuple(part.shape) for name, part in state.items()}
    wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if wrong:
        name = wrong[0]
        raise UserError(
            f"{file} does not fit its own configuration: {shown(name)} has shape {found.get(name)}, but "
            f"{expected.get(name)} is expected; it was altered, or written by another version of modmeta"
        )
    return content


def built(config: Any) -> Any:
    """What a checked configuration describes, with the classes for inference; nothing in it is resolved."""
    if isinstance(config, list):
        return [built(part) for part in config]
    if not isinstance(config, dict):
        return config
    settings = {key: built(part) for key, part in config.items() if key not in ("_target_", "_partial_")}
    if "_target_" not in config:
        return settings
    made = named(config["_target_"])
    return partial(made, **settings) if config.get("_partial_") else made(**settings)


class _Undrawn(TorchFunctionMode):
    """Draws no normal numbers for parameters without memory: torch would import its compiler first, for seconds."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") == "normal_":
            return (kwargs or {})["tensor"] if not args else args[0]
        return func(*args, **(kwargs or {}))


def skeleton(config: dict[str, Any], where: str | Path) -> nn.Module:
    """Builds the module of a checked configuration on the meta device, without memory for parameters.

    Raises:
        UserError: the module cannot be built.
    """
    check_arguments(config, where)
    try:
        with torch.device("meta"), _Undrawn():
            module = built(config)
    except Exception as error:  # constructors may raise anything on unexpected values
        raise UserError(
            f"{where} was written by another version of modmeta and does not fit this one: "
            + shown(" ".join(str(error).split()))
        ) from error
    if not isinstance(module, nn.Module):
        raise UserError(f"{where}: its configuration does not describe a model")
    return module


def load_model(path: str | Path) -> tuple[Trained, dict[str, Any]]:
    """Loads a trained module in evaluation mode, and the description of its training data.

    Args:
        path: run directory or checkpoint.

    Returns:
        The module, and the description, to which `reciprocity` is added (see `reciprocity_of`).

    Raises:
        UserError: see `read_checkpoint`; or the checkpoint holds a baseline.
    """
    return model_of(read_checkpoint(path), path)


def model_of(content: dict[str, Any], path: str | Path) -> tuple[Trained, dict[str, Any]]:
    """`load_model` of a checkpoint that is read already; `path` is where, for messages."""
    config, data = content["modmeta"]["config"], content["modmeta"]["data"]
    module = built(config)
    module.load_state_dict(dict(content["state_dict"]))
    if not isinstance(module, Trained):
        raise UserError(f"{path} holds a baseline ({config['_target_']}); only `modmeta train` can test baselines")
    for name, count in (("module_to_relation", module.num_relations), ("module_to_type", MOST["num_types"])):
        labels = getattr(module, name)
        if labels is not None and not bool(((labels >= 0) & (labels < count)).all()):
            raise UserError(f"{path}: {name} has labels outside 0 to {count - 1}; use another checkpoint")
    features, bands = len(module.model.dynamics.state_scale), (content["modmeta"].get("calibration") or {}).get("bands")
    if data["num_features"] != features:
        raise UserError(f"{path}: data.num_features is {data['num_features']}, but its modules have {features}")
    if bands and {len(band) for band in bands} not in ({1}, {features}):
        raise UserError(f"{path}: calibration.bands does not have {features} features; use another checkpoint")
    try:
        return module.eval(), {**data, "reciprocity": reciprocity_of(content)}
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def composed(content: dict[str, Any]) -> bool:
    """Whether a checkpoint that is read holds a composition for functions."""
    return content["modmeta"]["config"].get("_target_") == COMPOSED


def reciprocity_of(content: dict[str, Any]) -> float | None:
    """Reciprocity of the structures found in training: computed from the bank, else the stored value, else None.

    Args:
        content: content of a checkpoint.

    Raises:
        UserError: the bank does not hold structures.
    """
    if (bank := content["modmeta"].get("bank")) is None:
        return content["modmeta"].get("reciprocity")
    try:
        return reciprocity(bank["relations"][bank["visits"] > 0])
    except (LookupError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        raise UserError("the bank of structures was not written by training; use another checkpoint") from error
