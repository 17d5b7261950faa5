"""Trains on many tasks at once, then meets test tasks for the first time. `python train.py --help` shows commands.

The command `modmeta train` of an installed package is the same function with the same configuration.
"""

import sys
from pathlib import Path

from modmeta.cli.train import train

if __name__ == "__main__":
    sys.exit(train(sys.argv[1:], str(Path(__file__).resolve().with_name("conf"))))
