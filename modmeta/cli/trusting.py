"""The option `--trust` of the commands that load a model."""

import argparse


def add_trust(parser: argparse.ArgumentParser) -> None:
    """Registers the option. Parsing it trusts the package."""
    parser.add_argument(
        "--trust", action=_Trust, metavar="PACKAGE",
        help="allow the model to use classes of your package PACKAGE; runs its code",
    )  # fmt: skip


class _Trust(argparse.Action):
    def __call__(
        self, parser: argparse.ArgumentParser, namespace: object, values: object, option: object = None
    ) -> None:
        from modmeta.errors import UserError
        from modmeta.training.checkpoints.trust import trust

        try:
            trust(str(values))
        except UserError as error:
            parser.error(str(error))
