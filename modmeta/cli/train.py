"""`modmeta train`: starts a run or a sweep, or resumes an interrupted run."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from modmeta.errors import UserError
from modmeta.io import expanded
from modmeta.training.words import is_setting, setting, with_new_names, with_plain_path

PACKAGE = "pkg://modmeta.conf"  # location of the configuration in an installed package
EPILOG = """\
  modmeta train experiment=springs5                    the main result, a minute on two cores
  modmeta train FILE.csv -o RUN                        train on your own trajectories
  modmeta train --resume RUN                           resume an interrupted run
  modmeta train -m experiment=springs5 seed=0,1,2      a sweep
  modmeta train --help                                 every group and value
"""
OF_HYDRA = (  # options of Hydra that take a value
    ("-c", "--cfg"), ("-p", "--package"), ("-cp", "--config-path"), ("-cn", "--config-name"), ("-cd", "--config-dir"),
)  # fmt: skip


def add_parser(subparsers: Any) -> None:
    """Registers the command."""
    parser = subparsers.add_parser(
        "train",
        help="train a model on simulated or your own trajectories",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_arguments(parser)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("words", nargs="*", metavar="FILE | KEY=VALUE", help="data file, and settings of the run")
    parser.add_argument("-o", "--output", metavar="RUN", help="directory of the run, or of the sweep with -m")
    parser.add_argument("--resume", metavar="RUN", help="resume the run in this directory with its own settings")
    parser.add_argument("-m", "--multirun", action="store_true", help="start a run for each value: seed=0,1,2")


def train(words: Sequence[str], configuration: str = PACKAGE) -> int:
    """Runs the command.

    Args:
        words: command line after `train`.
        configuration: location of `train.yaml`: a directory, or `pkg://` and a package.

    Returns:
        The exit status: 0 for success, 2 for a mistake in `words`.

    Raises:
        SystemExit: a mistake in settings or data, a failed run, or SIGTERM (see `launch`).
    """
    try:
        given = _complete(hydra_words(words), configuration)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    from modmeta.training.launch import launch

    launch(given, configuration)
    return 0


def _complete(given: list[str], configuration: str) -> list[str]:
    """Words with the experiment that suits their file, checked.

    Raises:
        UserError: a setting or choice does not exist, or there is no run to resume.
    """
    if {"--help", "-h"} & set(given):
        return given
    from modmeta.training.misspelt import check_settings

    if "data=files" in given:
        check_settings([word for word in given if word.lstrip("+").startswith(("data.", "data="))], configuration)
        from modmeta.training.run import suited

        given = [*given, *suited(given)]
    check_settings(given, configuration)
    return given


def hydra_words(words: Sequence[str]) -> list[str]:
    """Translates the command line to Hydra's grammar: options first, then settings.

    Raises:
        UserError: an argument is neither a setting nor a file, or two arguments contradict each other.
    """
    parser = argparse.ArgumentParser(prog="modmeta train", add_help=False, allow_abbrev=False)
    _add_arguments(parser)
    for names in OF_HYDRA:
        parser.add_argument(*names)
    parser.add_argument("-i", "--info", nargs="?", const="all")
    args, options = parser.parse_known_intermixed_args(list(words))
    for names in (*OF_HYDRA, ("-i", "--info")):
        value = getattr(args, names[1][2:].replace("-", "_"))
        options += [] if value is None else [names[1], value]
    options += ["--multirun"] if args.multirun else []
    settings = [with_plain_path(with_new_names(word)) for word in args.words if is_setting(word)]
    files = [word for word in args.words if not is_setting(word)]
    if len(files) > 1:
        raise UserError(f"{files[0]} and {files[1]} are two files, but a run trains on one; leave one out")
    if args.resume is not None:
        other = [*files, *([] if args.output is None else [f"-o {args.output}"])]
        if other:
            raise UserError(f"--resume {args.resume} uses the run's own data and directory; leave out {other[0]}")
        settings.insert(0, setting("resume", args.resume))
    if files:
        check_file(files[0])
        settings = ["data=files", setting("data.path", str(expanded(files[0]).absolute())), *settings]
    if args.output is not None:
        settings.append(setting("hydra.sweep.dir" if args.multirun else "hydra.run.dir", args.output))
    return [*options, *settings]


def check_file(name: str) -> None:
    """
    Raises:
        UserError: the file does not exist, or is the directory of a run.
    """
    path = expanded(name)
    if not path.exists():
        raise UserError(
            f"{name} is neither a file nor a setting KEY=VALUE, such as experiment=springs5; see modmeta train --help"
        )
    if (path / ".hydra" / "config.yaml").exists():
        raise UserError(f"{name} is the directory of a run; resume it with --resume {name}")
