"""Runs that tests of several files look at."""

from pathlib import Path

import pytest

from tests.runs import QUICK, run


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run that was never interrupted, to be read only; its data lies in `data` beside it."""
    directory = tmp_path_factory.mktemp("whole") / "run"
    run(directory, *QUICK)
    return directory
