"""Settings of the training command that do not exist, or have no fitting value, answered in one line."""

import difflib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args, get_type_hints

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException, MissingConfigException
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf

from modmeta.errors import UserError
from modmeta.io import expanded

PACKAGED = "pkg://"
NEAR = 3  # names that are offered
MEANT = {bool: "true or false", int: "a whole number", float: "a number"}
OF_RUNS = {"threads": int}  # types of settings that are null by default and belong to no class


def check_settings(words: Sequence[str], configuration: str) -> None:
    """Checks that settings compose a configuration.

    Args:
        words: settings in Hydra's grammar; nothing is checked where there are options besides `--multirun`.
        configuration: location of `train.yaml`: a directory, or `pkg://` and a package.

    Raises:
        UserError: a setting, a choice of a group, or the run to resume does not exist; or text stands for a
            number, or a fraction for a whole one.
    """
    options = [word for word in words if word.startswith("-")]
    if set(options) - {"--multirun", "-m"} or GlobalHydra.instance().is_initialized():
        return
    try:
        given = OverridesParser.create().parse_overrides(list(words[len(options) :]))
    except HydraException:
        return  # Hydra's own words point at the place
    for one in given:
        _check_resumed(one)
    given = [one for one in given if not str(one.key_or_group).startswith("hydra")]
    swept, once = ([one for one in given if one.is_sweep_override() == many] for many in (True, False))
    packaged = configuration.startswith(PACKAGED)
    root = Path(str(files(configuration.removeprefix(PACKAGED)))) if packaged else Path(configuration).absolute()
    with initialize_config_dir(version_base="1.3", config_dir=str(root)):
        try:
            _check_values(once, compose("train", [str(one.input_line) for one in once]), root)
        except MissingConfigException as error:
            raise _no_choice(error) from error
        except HydraException as error:
            if found := _unknown(once, once, root):
                raise found from error
        if swept and not any(_is_group(one, root) for one in swept) and (found := _unknown(swept, once, root)):
            raise found


def _check_resumed(one: Override) -> None:
    name = str(one.value() or "") if one.key_or_group == "resume" and not one.is_sweep_override() else ""
    if name and not expanded(name).exists():
        raise UserError(f"{name} does not exist, so there is no run to resume; check the name of its directory")


def _no_choice(error: MissingConfigException) -> UserError:
    """What to say of a choice that a group does not have."""
    options = list(error.options or [])
    group, _, choice = str(error.missing_cfg_file).rpartition("/")
    near = difflib.get_close_matches(choice, options, NEAR) or options
    return UserError(f"{group}={choice}: no such choice; {group} may be {_either(near)}")


def _unknown(given: Sequence[Override], beside: Sequence[Override], root: Path) -> UserError | None:
    """What to say of the first setting that does not exist beside the choices of groups; None if all do."""
    groups = [one for one in beside if _is_group(one, root)]
    try:
        config = compose("train", [str(one.input_line) for one in groups])
    except HydraException:
        config = compose("train", [])
    names = list(_leaves(config)) + sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_dir())
    for one in given:
        key = str(one.key_or_group)
        if one in groups or one.type not in (OverrideType.CHANGE, OverrideType.DEL) or key in names:
            continue
        last = {name.rpartition(".")[2]: name for name in reversed(names)}
        near = difflib.get_close_matches(key, names, NEAR, 0.75)
        near += [last[name] for name in difflib.get_close_matches(key.rpartition(".")[2], list(last), NEAR, 0.75)]
        offered = list(dict.fromkeys(near))[:NEAR]
        advice = f"did you mean {_either(offered)}?" if offered else "modmeta train --help lists all"
        return UserError(f"{key} is no setting; {advice}")
    return None


def _check_values(given: Sequence[Override], config: DictConfig, root: Path) -> None:
    """
    Args:
        given: settings.
        config: what they compose.
        root: its directory.

    Raises:
        UserError: a value is text where a number, or true or false, is meant.
    """
    usual = _leaves(compose("train", [str(one.input_line) for one in given if _is_group(one, root)]))
    here = _leaves(config)
    for one in given:
        key = str(one.key_or_group)
        kind = type(one.value())
        if one.type is not OverrideType.CHANGE or _is_group(one, root) or kind not in (str, float):
            continue
        parent, _, name = key.rpartition(".")
        meant = _types(here.get(f"{parent}._target_"), name) or {OF_RUNS.get(key, type(usual.get(key)))}
        fits = bool(meant & {kind, str}) or (kind is float and int not in meant)
        if not fits and (named := [what for other, what in MEANT.items() if other in meant]):
            raise UserError(f"{key}={one.value()} must be {_either(named)}")


def _types(target: Any, name: str) -> set[type]:
    """Types that a class, given by its name, takes for one of its settings; empty where it does not say."""
    if not isinstance(target, str):  # Hydra logs an error for what is no name
        return set()
    try:
        made = [get_type_hints(vars(one)["__init__"]) for one in get_class(target).__mro__ if "__init__" in vars(one)]
    except Exception:  # of a function, or with names that only type checkers see
        return set()
    hint = next((hints[name] for hints in made if name in hints), None)  # a subclass passes on what it does not name
    return {kind for kind in get_args(hint) or (hint,) if kind is not None}


def _is_group(one: Override, root: Path) -> bool:
    return (root / str(one.key_or_group).partition("@")[0]).is_dir()


def _leaves(config: DictConfig) -> dict[str, Any]:
    """All settings by their names, inner ones and those that hold others too; interpolations as they are written."""
    out: dict[str, Any] = {}

    def walk(node: Any, prefix: str) -> None:
        for key, value in node.items() if isinstance(node, dict) else ():
            out[f"{prefix}{key}"] = value
            walk(value, f"{prefix}{key}.")

    walk(OmegaConf.to_container(config), "")
    return out


def _either(names: Sequence[str]) -> str:
    return ", ".join(names[:-1]) + " or " + names[-1] if len(names) > 1 else names[0] if names else "nothing"
