"""What disks and schedulers do to commands; all of it in `make faults`."""

import os
import subprocess
import sys
from pathlib import Path

from modmeta.api import path_of
from modmeta.cli.main import main
from tests.runs import ROOT, command


def test_a_command_of_each_kind_survives_every_fault() -> None:
    """One that writes a file and one that writes a directory; others and their outcome: `python -m tests.faults`."""
    cases = ("prune", "generate --format nri")
    done = command("-m", "tests.faults", "--only", *cases, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    for case in cases:
        assert done.stdout.count(f"\n| `{case}` |") == 5
    assert "WRONG" not in done.stdout


def test_output_that_nobody_reads(tmp_path: Path) -> None:
    """As in `modmeta evaluate … | head -1`: no traceback, and what goes to files is written."""
    data = str(tmp_path / "data.npz")
    assert main(["generate", "springs", "--test", "1", "--test-frames", "60", "-o", data]) == 0
    words = ["evaluate", str(path_of("springs5")), "--data", data, "--json", str(tmp_path / "out.json")]
    reading, writing = os.pipe()
    os.close(reading)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "modmeta.cli.main", *words], stdout=writing, stderr=subprocess.PIPE, env=environment
    )
    os.close(writing)
    assert done.stderr == b""
    assert done.returncode == 141
    assert "test/edge_accuracy" in (tmp_path / "out.json").read_text()
