"""README and the site: links lead somewhere, commands parse, generated pages are complete."""

import argparse
import re
import runpy
import shlex
import tomllib
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import hydra
import pytest
import yaml
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep
from hydra.errors import ConfigCompositionException

from modmeta.cli.main import build_parser
from modmeta.cli.train import hydra_words
from tests.runs import ROOT

DOCS = ROOT / "docs"
HOOKS: dict[str, Any] = runpy.run_path(str(DOCS / "hooks.py"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)


def without_code(text: str) -> str:
    """Prose, where brackets and parentheses are links."""
    return re.sub(r"`[^`\n]*`", "", FENCE.sub("", text))


def commands() -> list[str]:
    """Every command line that a page shows in a block of shell, once, without its comment."""
    out = {}
    for page in PAGES:
        for language, block in FENCE.findall(page.read_text(encoding="utf-8")):
            if language == "sh":
                for line in block.splitlines():
                    words = shlex.split(line, comments=True)
                    words = words[1:] if words[:1] == ["exec"] else words
                    if words[:1] == ["modmeta"] or words[:2] == ["python", "train.py"]:
                        out[shlex.join(words)] = page
    return list(out)


@cache
def parser() -> argparse.ArgumentParser:
    return build_parser()


def names() -> dict[str, argparse.ArgumentParser]:
    """Parsers of the commands by name."""
    return {name: sub for name, _, sub in HOOKS["subcommands"](parser())}


class Asked(NamedTuple):
    """What words of the command line ask of the configuration: options of groups, and values by key."""

    choices: dict[str, str]
    values: dict[str, str]


def asked(words: list[str]) -> Asked:
    """Of a sweep the first values; all options that it goes over must exist."""
    choices, values = {}, {}
    for override in OverridesParser.create().parse_overrides([word for word in words if word != "-m"]):
        if isinstance(override.value(), IntervalSweep):
            jobs = [f"{override.key_or_group}={override.value().start}"]
        elif override.is_sweep_override():
            jobs = [job for (job,) in BasicSweeper.split_arguments([override], None)[0]]
        else:
            jobs = [override.input_line]
        assert "-m" in words or len(jobs) == 1, f"{override.input_line} is a sweep, which needs -m"
        group = override.key_or_group
        if (ROOT / "conf" / group).is_dir() and not override.is_delete():
            for option in re.findall(r"[^=,\[\]]+", ",".join(job.split("=", 1)[1] for job in jobs)):
                there = (ROOT / "conf" / group / f"{option}.yaml").exists()
                assert there or group.startswith("hydra"), f"conf/{group} has no {option}"
            choices[override.get_key_element()] = jobs[0]
        else:
            values[override.input_line.split("=")[0]] = jobs[0]
    return Asked(choices, values)


def composes(wanted: Asked) -> None:
    """Composes the configuration, which knows every key, without running anything."""
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        words = [*wanted.choices.values(), *wanted.values.values()]
        hydra.compose("train", words, return_hydra_config=any(word.startswith("hydra") for word in words))


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_bytes()) <= 6000


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    generated = {DOCS / address for address in HOOKS["generated"]()}
    for link in LINK.findall(without_code(page.read_text(encoding="utf-8"))):
        if re.match(r"https?://", link):
            continue
        target = (page.parent / link.split("#")[0]).resolve()
        on_site = DOCS in page.parents and target in generated
        assert target.exists() or on_site, f"{page.name}: {link}"
        assert DOCS not in page.parents or DOCS in target.parents, f"{page.name}: {link} is not on the site"


def test_every_page_is_in_the_navigation() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = set(re.findall(r"[\w/-]+\.md", text))
    there = {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")} | set(HOOKS["generated"]())
    assert listed == there


def settings(words: list[str]) -> list[str] | None:
    """The words of a command that the configuration reads; none where there are none."""
    if words[0] == "python":
        return None if "--help" in words else words[2:]
    if words[1] == "train":
        file = ["data=files", "data.path=FILE"] if any(word.endswith((".csv", ".npz")) for word in words[2:4]) else []
        return file + [word for word in words[2:] if word == "-m" or re.match(r"[\w/@.+~]+=", word)]
    return None


def agree(one: Asked, other: Asked) -> bool:
    """Whether one composition serves both: the same experiment, no group twice, no value in a group of the other's."""
    if one.choices.get("experiment") != other.choices.get("experiment"):
        return False
    merged = one.choices | other.choices
    roots = {key.strip("+~").split(".")[0] for key in one.values | other.values}
    return merged == other.choices | one.choices and not roots & (one.choices.keys() ^ other.choices.keys())


def configurations() -> list[Asked]:
    """What commands ask for; those of one experiment together, as far as they agree, since composing takes long."""
    out: list[Asked] = []
    for line in commands():
        words = settings(shlex.split(line))
        if words:
            new = asked(words)
            fits = [one for one in out if agree(one, new)]
            if fits:
                fits[0].choices.update(new.choices)
                fits[0].values.update(new.values)
            else:
                out.append(new)
    return out


def test_settings_in_commands_compose() -> None:
    found = configurations()
    assert len(found) > 10
    for one in found:
        composes(one)


@pytest.mark.parametrize("line", [line for line in commands() if line.startswith("modmeta")])
def test_command_parses(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = shlex.split(line)
    if words[1] == "train":  # whose words may stand before and after options
        monkeypatch.chdir(tmp_path)
        for word in words:  # files of the reader's
            if word.endswith(".csv"):
                Path(word).touch()
        assert hydra_words(words[2:])
        return
    if "--trust" in words:  # a package of the reader's, which parsing would trust
        at = words.index("--trust")
        words = words[:at] + words[at + 2 :]
    if words[-1] == "--help":
        assert len(words) == 2 or words[1] in names()
    else:
        parser().parse_args(words[1:])


def test_wrong_commands_do_not_parse() -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(["infer", "RUN", "springs.csv", "--nonsense"])
    with pytest.raises(AssertionError, match="nonsense"):
        asked(["-m", "experiment=springs5,nonsense"])
    with pytest.raises(AssertionError, match="needs -m"):
        asked(["seed=0,1"])
    with pytest.raises(ConfigCompositionException, match=r"data\.nonsense"):
        composes(asked(["data.nonsense=1"]))


def test_reference_has_every_command_and_option() -> None:
    text = HOOKS["command_line"]()
    assert names()
    for name, sub in names().items():
        section = text.split(f"## modmeta {name}\n")[1].split("\n## ")[0]
        for action in sub._actions:
            for option in action.option_strings or []:
                assert option in ("-h", "--help") or f"`{option}`" in section, (name, option)


def test_reference_has_every_value_of_the_configuration() -> None:
    pages = HOOKS["configuration"]() + HOOKS["experiments"]()
    blocks = [yaml.safe_load(block) for language, block in FENCE.findall(pages) if language == "yaml"]
    files = sorted((ROOT / "conf").rglob("*.yaml"))
    assert len(blocks) == len(files)
    for path in files:
        assert yaml.safe_load(path.read_text(encoding="utf-8")) in blocks, path
    assert set(HOOKS["groups"]()) == set(HOOKS["GROUPS"])


def test_development_does_without_the_packages_of_the_site() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    packages = [re.split(r"[\[<>=]", entry)[0] for entry in project["optional-dependencies"]["docs"]]
    pinned = re.findall(r"^([\w.-]+)==", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.M)
    assert set(packages) <= set(pinned)
    assert not set(packages) & {re.split(r"[\[<>=]", entry)[0] for entry in project["optional-dependencies"]["dev"]}
