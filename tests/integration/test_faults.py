"""Full disks, signals and rivals: a command of each kind; all commands in `make faults`."""

import pytest

from tests.runs import ROOT, command


@pytest.mark.slow
def test_a_command_of_each_kind_survives_every_fault() -> None:
    """One that writes a file and one that writes a directory; others and their outcome: `python -m tests.faults`."""
    cases = ("prune", "generate --format nri")
    done = command("-m", "tests.faults", "--only", *cases, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    for case in cases:
        assert done.stdout.count(f"\n| `{case}` |") == 5
    assert "WRONG" not in done.stdout
