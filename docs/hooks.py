"""Generates pages of the site at build time: command line, configuration, notebooks, changelog.

`mkdocs build` calls `on_files`. The functions that write reference pages need no package of the `docs` extra, so tests
can check them.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CONF = ROOT / "conf"
GROUPS = {  # groups of conf/ in the order of the page, with descriptions
    "method": "The method that is trained: modmeta's own or a baseline.",
    "data": "The simulated world, `files` for your own trajectories, or `functions` for few-shot regression.",
    "model": "Edge modules, node modules and the dynamics that they form.",
    "features": "What an edge module sees of a pair. Choose with `features@model.features=NAME`.",
    "likelihood": "How prediction errors are weighed.",
    "search": "Which receivers move, which candidates they have, how these are scored and selected.",
    "temperature": "The annealing schedule of the search.",
    "proposal": "The network that proposes structures.",
    "encoder": "The encoder of NRI and of the supervised baseline.",
    "optimizer": "Optimizers and learning-rate schedules.",
    "trainer": "The Lightning trainer.",
    "logger": "Where curves go. Choose several as a list: `logger=[csv,wandb]`.",
    "callbacks": "Checkpoints, results, pictures, calibration, early stopping.",
    "sweep": "Predefined sweeps.",
    "debug": "Short runs that find mistakes.",
    "baselines": "Settings that the experiments on baselines share. Not chosen by hand.",
    "functions": "Settings that the experiments with functions share. Not chosen by hand.",
    "hydra/launcher": "Where the runs of a sweep are started.",
    "hydra/sweeper": "How the settings of a sweep are chosen.",
}


# ---- command line ----------------------------------------------------------------------------------------------------


def command_line() -> str:
    """The page of all commands, from their parsers."""
    from modmeta.cli.main import build_parser

    lines = [
        "# Command line",
        "",
        "A command that fails prints one line with the reason and exits with status 2. "
        "Other statuses: 0 success, 1 a sweep with a failed run, 130 after SIGINT, 143 after SIGTERM. "
        "`modmeta train` saves a checkpoint on SIGTERM and exits with status 0.",
        "",
    ]
    for name, help_text, parser in subcommands(build_parser()):
        usage = " ".join(parser.format_usage().split()).removeprefix("usage: ")
        about = parser.description or help_text
        lines += [f"## modmeta {name}", "", _sentence(about), "", f"```text\n{usage}\n```", ""]
        lines += ["| argument | meaning | default |", "|---|---|---|"]
        for action in parser._actions:
            if action.dest != "help":
                lines.append(f"| {_names(action)} | {_cell(action.help or '')} | {_default(action)} |")
        lines.append("")
    lines += ["## python train.py", "", "Runs the Hydra configuration of `conf/`. `-m` starts a sweep.", ""]
    lines += [f"```text\n{train_help()}\n```", "", "See [Configuration](configuration.md) for every value.", ""]
    return "\n".join(lines)


def subcommands(parser: argparse.ArgumentParser) -> Iterator[tuple[str, str, argparse.ArgumentParser]]:
    """Name, help and parser of every subcommand."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for name, sub in action.choices.items():
                if name in helps:
                    yield name, helps[name], sub


def train_help() -> str:
    """The examples of `python train.py --help`."""
    import yaml

    template = yaml.safe_load((CONF / "train.yaml").read_text(encoding="utf-8"))["hydra"]["help"]["template"]
    return str(template.split("== Groups")[0]).rstrip()


def _names(action: argparse.Action) -> str:
    value = action.metavar or ("{" + ",".join(map(str, action.choices)) + "}" if action.choices else None)
    if not action.option_strings:
        return f"`{value or action.dest}`"
    takes = action.nargs != 0
    return ", ".join(f"`{name}`" for name in action.option_strings) + (
        f" `{_cell(str(value or action.dest.upper()))}`" if takes else ""
    )


def _default(action: argparse.Action) -> str:
    if action.required:
        return "required"
    if action.default is None or action.default == argparse.SUPPRESS or action.nargs == 0:
        return ""
    return f"`{action.default}`"


def _cell(text: str) -> str:
    return " ".join(text.replace("%%", "%").split()).replace("|", "\\|")


def _sentence(text: str) -> str:
    text = " ".join(text.split())
    return text[:1].upper() + text[1:].rstrip(".") + "."


# ---- configuration ---------------------------------------------------------------------------------------------------


def configuration() -> str:
    """The page of all configuration groups, with every file and its comments."""
    lines = [
        "# Configuration",
        "",
        "Choose an option of a group with `group=option` and set a value with `key=value`. "
        "These are the files of `conf/` with their comments.",
        "",
        "## All settings of a run: train.yaml",
        "",
        _yaml(CONF / "train.yaml"),
        "",
    ]
    for group in groups():
        lines += [f"## {group}", "", GROUPS.get(group, ""), ""]
        for path in sorted((CONF / group).glob("*.yaml")):
            lines += [f"### {group}={path.stem}", "", _yaml(path), ""]
    return "\n".join(lines)


def groups() -> list[str]:
    """Groups of conf/ except experiments: those in `GROUPS` in their order, then any others."""
    there = {path.parent.relative_to(CONF).as_posix() for path in CONF.rglob("*.yaml") if path.parent != CONF}
    there = {group for group in there if group.split("/")[0] != "experiment"}
    return [group for group in GROUPS if group in there] + sorted(there - set(GROUPS))


def experiments() -> str:
    """The page of all experiments."""
    lines = [
        "# Experiments",
        "",
        "One file is one row of a table of results. Start it with `python train.py experiment=NAME` and change any "
        "value on the command line.",
        "",
    ]
    folder = CONF / "experiment"
    paths = sorted(folder.rglob("*.yaml"), key=lambda path: (path.parent != folder, path))
    for path in paths:
        lines += [f"## {path.relative_to(folder).with_suffix('').as_posix()}", "", _yaml(path), ""]
    return "\n".join(lines)


def _yaml(path: Path) -> str:
    return f"```yaml\n{path.read_text(encoding='utf-8').rstrip()}\n```"


# ---- the site --------------------------------------------------------------------------------------------------------


def generated() -> dict[str, Any]:
    """Pages without a file: path of the page, and a function that returns its text, or the notebook to convert."""
    pages: dict[str, Any] = {
        "reference/command-line.md": command_line,
        "reference/configuration.md": configuration,
        "reference/experiments.md": experiments,
        "project/contributing.md": lambda: (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"),
        "project/changelog.md": lambda: (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"),
    }
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        pages[f"tutorials/{path.stem}.md"] = path
    return pages


def on_files(files: Any, config: Any) -> Any:
    """Adds the generated pages to those of docs/."""
    from mkdocs.structure.files import File

    for address, source in generated().items():
        if isinstance(source, Path):
            text, images = notebook(source)
            for name, content in images.items():
                files.append(File.generated(config, f"tutorials/{name}", content=content))
            files.append(File.generated(config, address, content=text))
        else:
            files.append(File.generated(config, address, content=source()))
    return files


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:
    """Adds a CSS class to the page written by `modmeta report`, whose tables are wide."""
    return f'<div class="results">{html}</div>' if page.file.src_uri == "results/RESULTS.md" else html


def notebook(path: Path) -> tuple[str, dict[str, bytes]]:
    """Converts a notebook with its stored outputs to Markdown. Also returns its images by path."""
    from nbconvert import MarkdownExporter

    text, resources = MarkdownExporter().from_filename(
        str(path), resources={"unique_key": path.stem, "output_files_dir": "images"}
    )
    return text, {name.replace("\\", "/"): content for name, content in resources["outputs"].items()}
