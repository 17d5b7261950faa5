"""The beginning of a run, and its being taken up where it was broken off."""

import json
import os
import secrets
import time
from pathlib import Path

import hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from modmeta.bouncegrad import BounceGrad
from modmeta.checkpoint import ALLOWED, check_targets, find_checkpoint, read_checkpoint
from modmeta.checkpoint_files import DAMAGED, LAST, find_newest
from modmeta.checkpoints.compat import upgraded_config
from modmeta.configs import RECORD, differences, differing, flat, is_free
from modmeta.durable import write_durably
from modmeta.errors import UserError
from modmeta.processes import first

# What the configuration of a run may name besides what one in a checkpoint may.
PARTS = (
    *ALLOWED, "modmeta.callbacks.", "modmeta.checkpoint_files.", "modmeta.data.", "modmeta.evaluation.",
    "modmeta.report.", "pytorch_lightning.Trainer", "pytorch_lightning.trainer.", "pytorch_lightning.callbacks.",
    "pytorch_lightning.loggers.", "pytorch_lightning.profilers.", "wandb.Settings", "wandb.sdk.wandb_settings.",
)  # fmt: skip


def settle(config: DictConfig) -> DictConfig:
    """The configuration that a run goes by, recorded in its directory.

    A directory that holds a run already is that run's: its configuration stands, but for keys that `is_free`.

    Raises:
        UserError: the settings given do not fit those of the run, there is none to resume, or its configuration names
            foreign classes.
    """
    record = Path(config.directory) / RECORD
    if not first():  # the first process writes it
        _wait_for(record)
    if record.exists():
        stored = OmegaConf.load(record)
        stored = OmegaConf.create(upgraded_config(OmegaConf.to_container(stored)))
        assert isinstance(stored, DictConfig)
        check_targets(OmegaConf.to_container(stored), record, PARTS)
        return _taken_up(stored, config)
    if config.resume:
        raise UserError(_nothing_to_resume(Path(config.resume)))
    with open_dict(config):
        config.run_id = secrets.token_hex(4)
    try:
        record.parent.mkdir(parents=True, exist_ok=True)
        write_durably(record.with_name("overrides.yaml"), OmegaConf.to_yaml(HydraConfig.get().overrides.task).encode())
        write_durably(record, OmegaConf.to_yaml(config).encode())
    except OSError as error:
        raise UserError(f"{config.directory} cannot be written to ({error}); choose another, hydra.run.dir") from error
    return config


def _wait_for(record: Path, seconds: float = 60.0) -> None:
    limit = time.monotonic() + seconds
    while not record.exists() and time.monotonic() < limit:
        time.sleep(0.1)


def _taken_up(stored: DictConfig, given: DictConfig) -> DictConfig:
    """The recorded configuration with the changes that a command asks for."""
    changed = _overridden(stored, Path(given.directory)) if given.resume else given.copy()
    with open_dict(changed):
        changed.resume, changed.run_id = given.resume, stored.run_id
    before, after = (flat(OmegaConf.to_container(part)) for part in (stored, changed))  # unresolved: causes only
    wrong = [key for key in differing(before, after) if not is_free(key)]
    if wrong:
        told = differences(
            {key: before[key] for key in wrong if key in before}, {k: after[k] for k in wrong if k in after}
        )
        raise UserError(
            f"{given.directory} holds a run with other settings: {told}. A run is taken up as it was begun; to begin "
            f"another from where it is, give the new settings and ckpt_path={given.directory}"
        )
    return changed


def _overridden(stored: DictConfig, directory: Path) -> DictConfig:
    """The recorded configuration under the words of a command that resumes; groups must be as they were."""
    words = [word for word in HydraConfig.get().overrides.task if not word.startswith("resume=")]
    path = (directory / RECORD).with_name("overrides.yaml")
    begun = list(OmegaConf.load(path)) if path.exists() else []
    groups: list[Override] = []
    values: list[Override] = []
    for override in OverridesParser.create().parse_overrides(words):
        is_group = override.key_or_group in HydraConfig.get().runtime.choices
        (groups if is_group else values).append(override)
    other = [group.input_line for group in groups if group.input_line not in begun]
    if other:
        raise UserError(
            f"{directory} holds a run that was begun with {' '.join(begun) or 'the default settings'}, without "
            f"{' '.join(map(str, other))}; leave that out"
        )
    changed = stored.copy()
    try:
        ConfigLoaderImpl._apply_overrides_to_config(values, changed)
    except (OmegaConfBaseException, hydra.errors.HydraException) as error:
        raise UserError(f"{directory} holds a run that has no such setting: {error}") from error
    return changed


def _nothing_to_resume(directory: Path) -> str:
    sweep = directory / "multirun.yaml"
    if sweep.exists():
        words = OmegaConf.load(sweep).hydra.overrides
        command = " ".join(["python train.py -m", *words.task, *words.hydra])
        return f"resume={directory} is a sweep; run its command again: {command} hydra.sweep.dir={directory}"
    return f"resume={directory}: no run was begun there; name the directory of a run, which holds {RECORD}"


def starting_point(config: DictConfig, module: BounceGrad) -> Path | None:
    """The checkpoint that training goes on from: the run's own newest whole one, else `ckpt_path`.

    Raises:
        UserError: it is damaged, not to be trusted, or of another model.
    """
    directory = Path(config.directory) / "checkpoints"
    own = find_newest(directory)
    if own is not None and own.name != LAST and first():
        if (directory / LAST).exists():
            os.replace(directory / LAST, directory / DAMAGED)  # lest the next save keep it and drop the whole one
        write_durably(directory / LAST, own.read_bytes())  # a run that had come to its end saves no more
    path = own or (find_checkpoint(config.ckpt_path) if config.ckpt_path else None)
    if path is None:
        return None
    content = read_checkpoint(path)
    try:
        module.load_state_dict(content["state_dict"])
    except RuntimeError as error:
        before, now = flat(content["modmeta"]["config"]), flat(module.config["bouncegrad"])
        raise UserError(f"{path} holds another model: {differences(before, now) or error}") from error
    return path


def finished(directory: Path) -> dict[str, float] | None:
    """The measures of a run that has met its test tasks; none for one that has not come so far."""
    try:
        content = json.loads((directory / "metrics.json").read_text())
    except (OSError, ValueError):
        return None
    measures = {name: value for name, value in content.items() if name.startswith(("test/", "val/energy"))}
    return measures if any(name.startswith("test/") for name in measures) else None
