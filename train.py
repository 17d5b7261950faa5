"""Trains a model and tests it on new tasks. `python train.py --help` shows commands that work.

`modmeta train` of an installed package calls the same function with the same configuration.
"""

import sys
from pathlib import Path

from modmeta.cli.train import train

if __name__ == "__main__":
    sys.exit(train(sys.argv[1:], str(Path(__file__).resolve().with_name("conf"))))
