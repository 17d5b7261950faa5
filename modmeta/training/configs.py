"""Configurations compared key by key."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

RECORD = Path(".hydra") / "config.yaml"  # the configuration of a run, in its directory
FAILED = "failed.txt"  # why a run failed, in its directory
MISSING = "not set"
# What may change when a run is taken up: where and how it runs and what it tells, not what it computes.
FREE = (
    "trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.strategy", "trainer.max_time",
    "trainer.profiler", "trainer.log_every_n_steps", "threads", "logger", "results", "data_dir", "data.data_dir",
    "callbacks.progress", "callbacks.last", "callbacks.record", "callbacks.pictures", "callbacks.room",
    "directory", "run_id", "resume", "trust",
)  # fmt: skip
LISTED = ("logger",)  # groups of which several values may be chosen; Hydra does not count them among its choices
# Where a run writes: keys of this name hold its directory, unless the command itself says otherwise.
PLACES = ("directory", "default_root_dir", "save_dir", "dirpath")
LINKED = {"results": "callbacks.record.results", "data_dir": "data.data_dir"}  # what follows a key that may change


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """A nested configuration as `{dotted.key: value}`; lists and empty mappings are values."""
    if not isinstance(config, Mapping) or not config:
        return {prefix: config}
    out: dict[str, Any] = {}
    for key, value in config.items():
        out |= flat(value, f"{prefix}.{key}" if prefix else str(key))
    return out


def rebound(config: Any, old: str, new: str) -> Any:
    """A plain configuration in which a value, such as the directory of a run, is replaced wherever it stands.

    Paths below a directory move with it.
    """
    if isinstance(config, dict):
        return {key: rebound(value, old, new) for key, value in config.items()}
    if isinstance(config, list):
        return [rebound(value, old, new) for value in config]
    if isinstance(config, str) and (config == old or config.startswith(f"{old}/")):
        return new + config[len(old) :]
    return config


def is_free(key: str) -> bool:
    """Whether a key, or what it lies in, is among those that change nothing that a run computes."""
    return any(key == free or key.startswith(f"{free}.") for free in FREE)


def differing(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Keys of two flat configurations that do not have the same value."""
    return sorted(key for key in one.keys() | other.keys() if one.get(key, MISSING) != other.get(key, MISSING))


def differences(one: dict[str, Any], other: dict[str, Any]) -> str:
    """What differs, for a message: `seed (0, now 1), trainer.max_epochs (4, now 8)`."""
    return ", ".join(f"{key} ({one.get(key, MISSING)}, now {other.get(key, MISSING)})" for key in differing(one, other))
