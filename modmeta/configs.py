"""Configurations compared key by key."""

from collections.abc import Mapping
from typing import Any

MISSING = "not set"


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """A nested configuration as `{dotted.key: value}`; lists and empty mappings are values."""
    if not isinstance(config, Mapping) or not config:
        return {prefix: config}
    out: dict[str, Any] = {}
    for key, value in config.items():
        out |= flat(value, f"{prefix}.{key}" if prefix else str(key))
    return out


def differing(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Keys of two flat configurations that do not have the same value."""
    return sorted(key for key in one.keys() | other.keys() if one.get(key, MISSING) != other.get(key, MISSING))


def differences(one: dict[str, Any], other: dict[str, Any]) -> str:
    """What differs, for a message: `seed (0, now 1), trainer.max_epochs (4, now 8)`."""
    return ", ".join(f"{key} ({one.get(key, MISSING)}, now {other.get(key, MISSING)})" for key in differing(one, other))
