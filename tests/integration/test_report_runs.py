"""Reports of real runs and sweeps."""

import shutil
from pathlib import Path

import pytest
from hydra.errors import InstantiationException

from modmeta.errors import UserError
from modmeta.report.collect import collect
from modmeta.training.configs import FAILED
from tests.runs import QUICK, ROOT, command, run


def test_a_sweep_as_it_grows(tmp_path: Path) -> None:
    """A real one over training tasks, of which a run is lost and another fails."""
    words = (
        "train.py",
        "-m",
        "experiment=efficiency/springs5",
        "debug=fast",
        "data.num_tasks=5,6",
        "seed=3",
        "restarts=0",
    )
    words = (*words, f"hydra.sweep.dir={tmp_path / 'sweep'}", f"data_dir={tmp_path / 'data'}", "logger=[csv]")
    quiet = ("callbacks.progress=null", "trainer.accelerator=cpu", "method.model.members=1")
    done = command(str(ROOT / words[0]), *words[1:], *quiet, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = collect([tmp_path / "sweep"])
    assert found.sweeps == {"sweep": {"finished": 2}}
    assert {(run.where, run.tasks, run.seed) for run in found.runs} == {
        ("springs5_5tasks_seed3", 5, 3),
        ("springs5_6tasks_seed3", 6, 3),
    }
    assert all(run.metrics["train/seconds"] > 0 and run.history for run in found.runs)
    shutil.rmtree(tmp_path / "sweep" / "springs5_6tasks_seed3")
    assert collect([tmp_path / "sweep"]).sweeps == {"sweep": {"finished": 1, "not begun": 1}}


def test_a_run_that_fails_says_why(tmp_path: Path) -> None:
    """And no more once it goes well."""
    with pytest.raises((UserError, InstantiationException)):
        run(tmp_path / "run", *QUICK, "data.path=none.npz")
    (failed,) = collect([tmp_path / "run"]).runs
    assert failed.state == "failed"
    assert "data.path" in failed.note
    run(tmp_path / "other", *QUICK, "trainer.max_epochs=1")
    (tmp_path / "other" / "metrics.json").unlink()
    (tmp_path / "other" / FAILED).write_text("earlier\n")
    run(tmp_path / "other", *QUICK, "trainer.max_epochs=1")
    assert not (tmp_path / "other" / FAILED).exists()
    assert collect([tmp_path / "other"]).runs[0].state == "finished"
