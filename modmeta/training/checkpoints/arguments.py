"""Checks the values of a configuration against the type annotations of the classes that it names."""

import inspect
import math
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from modmeta.errors import UserError
from modmeta.training.checkpoints.trust import named, shown

# Smallest allowed value of an integer, by key; 0 for all other keys.
LEAST = {
    "sweeps": 1, "substeps": 1, "horizon": 1, "members": 1, "nodes": 2, "observed_frames": 2, "num_edge_modules": 1,
    "num_node_modules": 1, "num_relations": 1, "num_types": 1, "num_features": 1, "num_frames": 2, "hidden": 1,
    "enumerate_up_to": 0, "forecast_steps": 1,
}  # fmt: skip


def check_arguments(config: Any, where: object) -> None:
    """Refuses a configuration with values of the wrong type or out of range.

    Args:
        config: configuration of a model that passed `check_config`, upgraded to this version.
        where: file named in errors.

    Raises:
        UserError: names the class, the key and the value.
    """
    if isinstance(config, list):
        for part in config:
            check_arguments(part, where)
    if not isinstance(config, dict):
        return
    if isinstance(target := config.get("_target_"), str):
        made = named(target)
        constructor = made.__init__ if inspect.isclass(made) else made
        try:
            hints = typing.get_type_hints(constructor)
        except (NameError, TypeError, AttributeError):  # classes of torch or of the user may have no annotations
            hints = {}
        for key, value in config.items():
            if key in hints and not (fits(value, hints[key]) and sensible(value, key)):
                part = target.rpartition(".")[2]
                raise UserError(
                    f"{where}: its configuration gives {key}={shown(value)} to {part}, which does not accept this "
                    "value; the file was altered, or written by another version of modmeta"
                )
    for part in config.values():
        check_arguments(part, where)


def sensible(value: Any, key: str) -> bool:
    """Whether a number, or every number of a list, is allowed for a key: not NaN, no integer below its minimum."""
    if isinstance(value, list):
        return all(sensible(part, key) for part in value)
    if type(value) is float:
        return not math.isnan(value)
    return type(value) is not int or value >= LEAST.get(key, 0)


def fits(value: Any, hint: Any) -> bool:
    """Whether a plain value has an annotated type. A dictionary is accepted for any class: it configures an object."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, one) for one in arguments)
    if origin is typing.Literal:
        return value in arguments
    if hint is None or hint is type(None):
        return value is None
    if hint in (bool, int, str):
        return type(value) is hint
    if hint is float:
        return type(value) in (int, float)
    if hint in (tuple, list) or origin in (tuple, list, Sequence):
        of = [one for one in arguments if one is not Ellipsis]
        each = of * len(value) if isinstance(value, list) and len(of) == 1 else of
        return isinstance(value, list) and all(fits(part, one) for part, one in zip(value, each, strict=False))
    if hint is dict or origin in (dict, Mapping):
        return isinstance(value, dict)
    return isinstance(value, dict)
