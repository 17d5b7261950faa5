"""The option of commands that load a model: whose code a checkpoint may name."""

import argparse


def add_trust(parser: argparse.ArgumentParser) -> None:
    """Registers it; a package is trusted as soon as the option is read."""
    parser.add_argument(
        "--trust", action=_Trust, metavar="PACKAGE",
        help="package of your own whose classes the model may name; its code is run",
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
