"""`modmeta completion`: prints a script for tab completion in a shell."""

import argparse
from pathlib import Path
from typing import Any, cast

from modmeta.errors import UserError

SHELLS = ("bash", "zsh", "tcsh")
FILES = ("words", "output", "resume", "model", "file", "data")  # arguments that name files or directories
EPILOG = """\
  modmeta completion bash > ~/.local/share/bash-completion/completions/modmeta
  modmeta completion zsh > ~/.zsh/completions/_modmeta      where ~/.zsh/completions is in $fpath
"""


def add_parser(subparsers: Any) -> None:
    """Registers the command."""
    parser = subparsers.add_parser(
        "completion",
        help="print a script for tab completion in a shell",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("shell", choices=SHELLS, help="shell to write the script for")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Prints the script.

    Raises:
        UserError: the package shtab is not installed.
    """
    try:
        import shtab
    except ImportError as error:
        raise UserError("tab completion needs the package shtab, which is not installed: pip install shtab") from error
    from modmeta.cli.main import build_parser

    parser = build_parser()
    commands = next(action for action in parser._actions if isinstance(action.choices, dict))
    for command in cast(dict[str, argparse.ArgumentParser], commands.choices).values():
        for action in command._actions:
            if action.choices is None and (action.type is Path or action.dest in FILES):
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    print(shtab.complete(parser, args.shell))
