"""Commands in processes of their own, as a user starts them."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from modmeta.api import path_of
from modmeta.cli import generate
from modmeta.cli.main import main
from modmeta.cli.train import train
from modmeta.simulators import WORLDS
from modmeta.training.resume import finished
from tests.runs import ROOT, command, undrawn
from tests.unit.cli.test_train_command import QUIET, STRANGE


def test_wandb_offline_and_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`python train.py` in its own process, with a real offline wandb run; then `modmeta evaluate` on its data."""
    done = command(
        str(ROOT / "train.py"),
        "experiment=springs5",
        "debug=fast",
        "trainer.accelerator=cpu",
        f"data_dir={tmp_path}/data",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "test/edge_accuracy" in done.stdout
    assert list(tmp_path.glob("runs/springs5/*/wandb/offline-run-*/*.wandb"))
    directory = next(tmp_path.glob("runs/springs5/*"))
    file = next((tmp_path / "data").glob("*.npz"))
    monkeypatch.chdir(tmp_path)
    words = ["evaluate", str(directory), "--data", str(file), "--json", "out.json"]
    assert main(words) == 0
    assert "test/edge_accuracy" in json.loads((tmp_path / "out.json").read_text())
    assert main(words) == 2
    refused = capsys.readouterr().err
    assert refused.startswith("error: ")
    assert "out.json" in refused


def write_csv(path: Path) -> None:
    """Ten tasks of three entities that move on straight lines, of 20 frames."""
    with open(path, "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["task", "frame", "entity", "x", "y", "vx", "vy"])
        for task in range(10):
            for frame in range(20):
                for entity in range(3):
                    vx, vy = 0.1 * (entity + 1) + 0.01 * task, -0.05 * (task + entity)
                    rows.writerow([task, frame, entity, entity + vx * frame, task + vy * frame, vx, vy])


def test_a_file_and_a_directory_of_any_name_are_trained_and_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Resumed from another directory."""
    monkeypatch.chdir(tmp_path)
    write_csv(tmp_path / STRANGE)
    run = tmp_path / "r=1 #[2], 'é'"
    GlobalHydra.instance().clear()
    with undrawn():
        assert train([STRANGE, "-o", run.name, *QUIET], str(ROOT / "conf")) == 0
    capfd.readouterr()
    assert finished(run) is not None
    record = OmegaConf.load(run / ".hydra" / "config.yaml")
    assert record.data.path == str(tmp_path / STRANGE)
    assert record.directory == str(run)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    GlobalHydra.instance().clear()
    assert main(["train", "--resume", str(run)]) == 0
    assert f"{run} is finished" in capfd.readouterr().out
    assert not list((tmp_path / "elsewhere").iterdir())


def test_help_is_fast_and_complete() -> None:
    program = (
        "import sys; from modmeta.cli.main import build_parser; text = build_parser().format_help();"
        "assert not {'numpy', 'numba', 'torch'} & set(sys.modules), 'imports too much';"
        "print(text)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "generate" in done.stdout
    assert "evaluate" in done.stdout
    assert set(generate.WORLDS) == set(WORLDS)


@pytest.mark.slow
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
    assert b"Traceback" not in done.stderr  # a slow machine prints its progress
    assert done.returncode == 141
    assert "test/edge_accuracy" in (tmp_path / "out.json").read_text()
