"""Compares configurations key by key."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

RECORD = Path(".hydra") / "config.yaml"  # the configuration of a run, relative to its directory
FAILED = "failed.txt"  # the error of a failed run, in its directory
MISSING = "not set"
# Keys that may change when a run resumes: they determine where it runs and what it logs, not what it computes.
FREE = (
    "trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.strategy", "trainer.max_time",
    "trainer.profiler", "trainer.log_every_n_steps", "threads", "logger", "results", "data_dir", "data.data_dir",
    "callbacks.progress", "callbacks.last", "callbacks.record", "callbacks.pictures", "callbacks.room",
    "directory", "run_id", "resume", "trust",
)  # fmt: skip
LISTED = ("logger",)  # groups that accept a list of options; Hydra does not list them in `runtime.choices`
# Keys with these names must hold the run's directory, unless the command sets them.
PLACES = ("directory", "default_root_dir", "save_dir", "dirpath")
LINKED = {"results": "callbacks.record.results", "data_dir": "data.data_dir"}  # keys that refer to a key in FREE


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """Flattens a nested configuration to `{dotted.key: value}`. Lists and empty mappings are values."""
    if not isinstance(config, Mapping) or not config:
        return {prefix: config}
    out: dict[str, Any] = {}
    for key, value in config.items():
        out |= flat(value, f"{prefix}.{key}" if prefix else str(key))
    return out


def rebound(config: Any, old: str, new: str) -> Any:
    """Replaces a string, such as the directory of a run, everywhere in a plain configuration.

    Paths below a replaced directory change with it.
    """
    if isinstance(config, dict):
        return {key: rebound(value, old, new) for key, value in config.items()}
    if isinstance(config, list):
        return [rebound(value, old, new) for value in config]
    if isinstance(config, str) and (config == old or config.startswith(f"{old}/")):
        return new + config[len(old) :]
    return config


def is_free(key: str) -> bool:
    """Whether a key or one of its parents is in `FREE`, so that it may change when a run resumes."""
    return any(key == free or key.startswith(f"{free}.") for free in FREE)


def differing(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Keys with different values in two flat configurations, sorted."""
    return sorted(key for key in one.keys() | other.keys() if one.get(key, MISSING) != other.get(key, MISSING))


def differences(one: dict[str, Any], other: dict[str, Any]) -> str:
    """The differences as text for a message: `seed (0, now 1), trainer.max_epochs (4, now 8)`."""
    return ", ".join(f"{key} ({one.get(key, MISSING)}, now {other.get(key, MISSING)})" for key in differing(one, other))
