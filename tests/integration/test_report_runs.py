"""Reports of real runs and sweeps."""

import csv
import json
import shutil
import statistics
from pathlib import Path

import pytest
from hydra.errors import InstantiationException
from PIL import Image

from modmeta.cli.main import main
from modmeta.errors import UserError
from modmeta.report.collect import collect
from modmeta.training.configs import FAILED
from tests.runs import QUICK, ROOT, launched, run
from tests.unit.report.test_report import RESULTS, cells


@pytest.mark.slow
def test_a_sweep_as_it_grows(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A real one over training tasks, of which a run is lost."""
    words = (
        "-m",
        "experiment=efficiency/springs5",
        "debug=fast",
        "data.num_tasks=5,6",
        "seed=3",
        "restarts=0",
    )
    words = (*words, f"hydra.sweep.dir={tmp_path / 'sweep'}", f"data_dir={tmp_path / 'data'}", "logger=[csv]")
    quiet = ("callbacks.progress=null", "trainer.accelerator=cpu", "method.model.members=1")
    done = launched(capfd, tmp_path, *words, *quiet)
    assert done.returncode == 0, done.stderr
    found = collect([tmp_path / "sweep"])
    assert found.sweeps == {"sweep": {"finished": 2}}
    assert {(run.where, run.tasks, run.seed) for run in found.runs} == {
        ("springs5_5tasks_seed3", 5, 3),
        ("springs5_6tasks_seed3", 6, 3),
    }
    assert all(run.metrics["train/seconds"] > 0 and run.history for run in found.runs)
    shutil.rmtree(tmp_path / "sweep" / "springs5_6tasks_seed3")
    assert collect([tmp_path / "sweep"]).sweeps == {"sweep": {"finished": 1, "not started": 1}}


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


def test_committed_results(tmp_path: Path) -> None:
    """Every group and figure is there, and a figure of table 2 is what the files say."""
    assert main(["report", str(RESULTS), "-o", str(tmp_path / "report")]) == 0
    text = (tmp_path / "report" / "RESULTS.md").read_text()
    files = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("charged5/5000tasks_*.json"))]
    accuracy = [content["test/edge_accuracy"] for content in files]
    expected = f"{statistics.mean(accuracy):.2%} ± {statistics.stdev(accuracy):.2%}"
    table = text[text.index("## Table 2") :]
    line = cells(table[table.index("### Charged") :], "Modular meta-learning, ours")[0]
    left = (1 - statistics.mean(accuracy)) / (1 - 0.884)
    assert line[:6] == ["Modular meta-learning, ours", "88.40%", expected, f"{left:.2g}", "5,000", str(len(files))]
    for name in ("efficiency", "ablations_charged5_1000tasks"):
        with Image.open(tmp_path / "report" / f"{name}.png") as image:
            assert min(image.size) > 300
        assert "<svg" in (tmp_path / "report" / f"{name}.svg").read_text()
        assert f"({name}.png)" in text
    with open(tmp_path / "report" / "efficiency.csv", newline="") as file:
        rows = {(row["world"], row["method"], row["tasks"]): row for row in csv.DictReader(file)}
    row = rows["charged5", "Modular meta-learning, ours", "5000"]
    assert float(row["edge_accuracy"]) == pytest.approx(statistics.mean(accuracy))
    assert float(rows["charged5", "Supervised encoder", "50000"]["edge_accuracy"]) == 0.95
    assert all(content["commit"] in text for content in files)
    assert str(tmp_path) not in text
    assert str(ROOT) not in text
