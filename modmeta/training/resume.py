"""Starts a run, or resumes an interrupted one: its recorded configuration and the checkpoint it continues from."""

import contextlib
import os
import re
import secrets
import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException

from modmeta.data.loading.filemodule import filled_from_file
from modmeta.errors import Preempted, UserError, cause_of
from modmeta.io import write_durably
from modmeta.plain import read_json, read_yaml
from modmeta.training.checkpoints.compat import upgraded_config
from modmeta.training.checkpoints.files import DAMAGED, LAST, find_newest
from modmeta.training.checkpoints.loading import find_checkpoint, read_checkpoint, skeleton
from modmeta.training.checkpoints.trust import check_config, shown, trust
from modmeta.training.configs import (
    FAILED,
    LINKED,
    LISTED,
    PLACES,
    RECORD,
    differences,
    differing,
    flat,
    is_free,
    rebound,
)
from modmeta.training.distributed import first
from modmeta.training.module import ResumableModule
from modmeta.training.start import as_recorded, begun
from modmeta.training.words import setting, with_new_names, with_new_references

LARGEST = 1 << 30  # largest modules, in bytes, of a resumed run without a checkpoint


def settle(config: DictConfig) -> DictConfig:
    """Resolves the configuration of a run and records it in the run's directory.

    If the directory already holds a run, the recorded configuration is used; only keys in `FREE` may differ from it.

    Raises:
        UserError: the settings differ from those of the run, there is no run to resume, the directory cannot be
            written to, or the recorded configuration is more than data or names a class that is not trusted.
    """
    for package in config.trust:
        trust(package)
    config = _with_new_names(config)
    record = Path(config.directory) / RECORD
    for part in (record.parent, Path(config.directory) / "checkpoints"):
        if part.is_symlink():  # in an untrusted run directory it could point to other files of the user
            raise UserError(f"{part} is a symbolic link; a run writes only into its own directory, so replace the link")
    if not first():  # the first process writes it, after its cold start if there is one
        _wait_for(record, 3600.0 if config.search.get("start") == "laws" else 60.0)
    if record.exists() and not _never_began(record):
        stored = read_record(record)
        if config.resume:
            check_size(stored["method"], Path(config.directory))
        return _continued(stored, config)
    if config.resume:
        raise UserError(_nothing_to_resume(Path(config.resume)))
    with open_dict(config):
        config.run_id = f"r{secrets.token_hex(4)}"  # a letter first: 123e4567 is a number to many readers of YAML
    try:
        record.parent.mkdir(parents=True, exist_ok=True)
        write_durably(record.with_name("overrides.yaml"), OmegaConf.to_yaml(HydraConfig.get().overrides.task).encode())
        settled = _filled(config, record)
        write_durably(record, OmegaConf.to_yaml(settled).encode())
    except OSError as error:
        raise UserError(f"{config.directory} cannot be written to ({error}); choose another, hydra.run.dir") from error
    return settled


def _with_new_names(config: DictConfig) -> DictConfig:
    """A configuration whose experiment file may be of an earlier version, in which `method` was `bouncegrad`."""
    with open_dict(config):
        if "bouncegrad" in config:
            config.method = OmegaConf.merge(config.method, config.pop("bouncegrad"))
    renamed = OmegaConf.create(_with_new_references(OmegaConf.to_container(config, resolve=False)))
    assert isinstance(renamed, DictConfig)
    OmegaConf.set_struct(renamed, OmegaConf.is_struct(config))
    return renamed


def _with_new_references(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_new_references(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_with_new_references(part) for part in value]
    return with_new_references(value) if isinstance(value, str) else value


def resolved(config: DictConfig) -> DictConfig:
    """A copy of a configuration with every `${...}` resolved.

    Raises:
        UserError: a setting refers to one that there is not: parts of the configuration do not fit each other.
    """
    try:
        plain = OmegaConf.create(OmegaConf.to_container(config, resolve=True))
    except InterpolationKeyError as error:
        wanted = re.findall(r"'([\w.]+)'", str(error))[:1] or ["another setting"]
        part = wanted[0].split(".")[0]
        raise UserError(
            f"{error.full_key} is taken from {wanted[0]}, which is not set; choose a `{part}` that has it "
            f"(data=functions for few-shot methods), or set {error.full_key}"
        ) from None
    assert isinstance(plain, DictConfig)
    return plain


def _filled(config: DictConfig, record: Path) -> DictConfig:
    """The resolved configuration of a new run, with values from its data file. An error is recorded in the run."""
    try:
        with failure_noted(record.parent.parent):
            _check_numbers(config)
            return resolved(begun(filled_from_file(config)))
    except UserError:
        write_durably(record, OmegaConf.to_yaml(resolved(config)).encode())
        raise


def _check_numbers(config: DictConfig) -> None:
    """
    Raises:
        UserError: a number of the trainer is none; Lightning would fail with a traceback, after a cold start.
    """
    for key in ("max_epochs", "max_steps", "check_val_every_n_epoch", "log_every_n_steps"):
        value = config.trainer.get(key)
        if value is not None and not isinstance(value, int):
            raise UserError(f"trainer.{key}={value!r} must be a whole number")


def _never_began(record: Path) -> bool:
    """Whether a run failed before its first checkpoint, so that a run with other settings may replace it."""
    directory = record.parent.parent
    return (directory / FAILED).exists() and not (directory / "checkpoints").exists()


def _wait_for(record: Path, seconds: float = 60.0) -> None:
    limit = time.monotonic() + seconds
    while not record.exists() and time.monotonic() < limit:
        time.sleep(0.1)


def read_record(record: Path) -> dict[str, Any]:
    """Reads and checks the recorded configuration of a run, upgraded to this version.

    Raises:
        UserError: the file is not the record of a run, is more than plain data, or names a class that is not trusted.
    """
    stored = read_yaml(record)
    if not isinstance(stored, dict) or not all(type(stored.get(key)) is str for key in ("directory", "run_id", "name")):
        raise UserError(f"{record} was not written by a run; name the directory of a run")
    check_config(stored, str(record), of_run=True)
    stored = upgraded_config(stored)
    check_config(stored.get("method"), str(record))
    if not stored["run_id"].replace("-", "").isalnum() or Path(stored["name"]).name != stored["name"]:
        raise UserError(
            f"{record}: run_id {shown(stored['run_id'])} or name {shown(stored['name'])} is no plain name; name the "
            "directory of another run"
        )
    return stored


def _continued(stored: dict[str, Any], given: DictConfig) -> DictConfig:
    """The recorded configuration with the changes of the command.

    Raises:
        UserError: the command changes a key that is not in `FREE`.
    """
    stored = rebound(stored, stored["directory"], str(given.directory))
    raw = given.copy()
    with open_dict(raw):
        raw.run_id = stored["run_id"]
    changed = _overridden(stored, raw) if given.resume else resolved(filled_from_file(as_recorded(raw, stored)))
    with open_dict(changed):
        changed.resume, changed.run_id, changed.trust = given.resume, stored["run_id"], list(given.trust)
    before, after = flat(stored), flat(OmegaConf.to_container(changed))
    wrong = [key for key in differing(before, after) if not is_free(key)]
    if wrong:
        written = {} if given.resume else flat(OmegaConf.to_container(given))  # leave out keys that refer to others
        wrong = [key for key in wrong if not str(written.get(key)).startswith("${")] or wrong
        difference = differences(
            {key: before[key] for key in wrong if key in before}, {k: after[k] for k in wrong if k in after}
        )
        raise UserError(
            f"{given.directory} holds a run with other settings: {difference}. A run resumes with its own settings; to "
            f"start a new run from its state, give the new settings and ckpt_path={given.directory}"
        )
    return changed


def _overridden(stored: dict[str, Any], given: DictConfig) -> DictConfig:
    """The recorded configuration with the overrides of a command that resumes the run.

    Groups in `FREE` may change; any other group must be chosen as in the command that started the run.

    Raises:
        UserError: an override names another group option or an unknown key, or the run would write outside its
            directory.
    """
    directory = Path(given.directory)
    words = [word for word in HydraConfig.get().overrides.task if not word.startswith(("resume=", "trust="))]
    path = (directory / RECORD).with_name("overrides.yaml")
    begun = read_yaml(path) if path.exists() else []
    begun = [with_new_names(str(word)) for word in begun] if isinstance(begun, list) else []
    groups: list[Override] = []
    values: list[Override] = []
    for override in OverridesParser.create().parse_overrides(words):
        is_group = override.key_or_group in (*HydraConfig.get().runtime.choices, *LISTED)
        (groups if is_group else values).append(override)
    other = [group.input_line for group in groups if not is_free(group.key_or_group) and group.input_line not in begun]
    if other:
        raise UserError(
            f"{directory} holds a run that was started with "
            f"{shown(' '.join(map(str, begun)) or 'the default settings')}, without {' '.join(map(str, other))}; leave "
            "that out"
        )
    _check_places(stored, [str(override.key_or_group) for override in values], directory)
    changed = OmegaConf.create(stored)
    try:
        for group in groups:
            if is_free(group.key_or_group):
                chosen = given.get(group.key_or_group)
                changed[group.key_or_group] = OmegaConf.to_container(chosen) if chosen else {}
        ConfigLoaderImpl._apply_overrides_to_config(values, changed)
        for key, follower in LINKED.items():
            if any(override.key_or_group == key for override in values) and OmegaConf.select(
                changed, follower.rpartition(".")[0]
            ):
                OmegaConf.update(changed, follower, changed[key])
        return resolved(changed)
    except (OmegaConfBaseException, hydra.errors.HydraException) as error:
        raise UserError(f"{directory} holds a run without this setting: {error}") from error


def _check_places(stored: dict[str, Any], said: list[str], directory: Path) -> None:
    """
    Args:
        stored: recorded configuration.
        said: keys that the command sets.
        directory: directory of the run.

    Raises:
        UserError: the run would write outside its directory, and the command does not say so.
    """
    for key, value in flat(stored).items():
        elsewhere = key.rsplit(".", 1)[-1] in PLACES and isinstance(value, str) and value != stored["directory"]
        if elsewhere and key not in said:
            raise UserError(
                f"{directory}: the run writes to {shown(value)}, outside of its directory; to allow this, repeat the "
                f"setting: {key}={shown(value)}"
            )


def _nothing_to_resume(directory: Path) -> str:
    sweep = directory / "multirun.yaml"
    words = read_yaml(sweep) if sweep.exists() else None
    for key in ("hydra", "overrides"):
        words = words.get(key) if isinstance(words, dict) else None
    if isinstance(words, dict) and all(isinstance(words.get(key), list) for key in ("task", "hydra")):
        again = [*map(str, words["task"]), *map(str, words["hydra"]), setting("hydra.sweep.dir", str(directory))]
        command = shlex.join(["modmeta", "train", "-m", *again])
        return f"resume={directory} is a sweep; run its command again: {command}"
    return f"resume={directory}: no run was started there; name the directory of a run, which holds {RECORD}"


def check_size(config: dict[str, Any], directory: Path) -> None:
    """Refuses to resume a run whose configured modules are far larger than its checkpoints, before they are built.

    Raises:
        UserError: names the directory and the size in GB.
    """
    files = list((directory / "checkpoints").glob("*.ckpt"))
    most = max([LARGEST, *(4 * file.stat().st_size for file in files)])
    parts = skeleton(config, directory / RECORD).state_dict().values()
    size = sum(part.numel() * part.element_size() for part in parts)
    if size > most:
        raise UserError(
            f"{directory}: its modules would take {size / 1e9:,.1f} GB, far more than its checkpoints hold; the run is "
            "not resumed, since its configuration may have been altered"
        )


def starting_point(config: DictConfig, module: ResumableModule) -> Path | None:
    """The checkpoint that training continues from: the newest intact one of the run, else `ckpt_path`, else None.

    Raises:
        UserError: the checkpoint is damaged, not trusted, or holds another model.
    """
    directory = Path(config.directory) / "checkpoints"
    own = find_newest(directory)
    if own is not None and own.name != LAST and first():
        if (directory / LAST).exists():
            os.replace(directory / LAST, directory / DAMAGED)  # else the next save would replace the intact one by it
        write_durably(directory / LAST, own.read_bytes())  # a run that has finished training saves no checkpoint again
    path = own or (find_checkpoint(config.ckpt_path) if config.ckpt_path else None)
    if path is None:
        return None
    content = read_checkpoint(path)
    try:
        module.load_state_dict(content["state_dict"])
    except RuntimeError as error:
        before, now = flat(content["modmeta"]["config"]), flat(module.run_config["method"])
        raise UserError(f"{path} holds another model: {differences(before, now) or error}") from error
    return path


def finished(directory: Path) -> dict[str, float] | None:
    """The test measures and `val/energy` of a finished run; None if the run has not been tested."""
    try:
        content = read_json(directory / "metrics.json")
    except UserError:
        return None
    if not isinstance(content, dict):
        return None
    measures = {name: value for name, value in content.items() if name.startswith(("test/", "val/energy"))}
    if not all(type(value) in (int, float) for name, value in measures.items() if name.startswith("test/")):
        return None
    return measures if any(name.startswith("test/") for name in measures) else None


@contextlib.contextmanager
def failure_noted(directory: Path) -> Iterator[None]:
    """Removes `failed.txt` from a run directory, and writes the error to a new one if the block fails.

    A run that is killed, interrupted or preempted has not failed and gets no file.
    """
    note = directory / FAILED
    note.unlink(missing_ok=True)
    try:
        yield
    except Preempted:
        raise
    except Exception as error:
        cause = cause_of(error)
        with contextlib.suppress(OSError):  # a full disk must not mask the error
            write_durably(note, f"{type(cause).__name__}: {cause}\n".encode())
        raise
