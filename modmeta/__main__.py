"""`python -m modmeta` runs the command `modmeta`."""

import sys

from modmeta.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
