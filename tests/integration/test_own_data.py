"""Runs on files of a user: tables, missing frames, types; from file to inferred graph."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.csv as csv
import pytest
import torch

import modmeta
from modmeta.cli.evaluate import evaluate
from modmeta.cli.main import main
from modmeta.data import formats
from modmeta.data.loading.filemodule import filled_from_file
from modmeta.data.trajectories import Trajectories
from modmeta.errors import DataError
from modmeta.model.likelihood import Gaussian
from modmeta.training import run as training
from modmeta.training.bouncegrad import BounceGrad
from tests.runs import QUICK, ROOT, checkpoint, command, compose, run, undrawn


@pytest.mark.slow
def test_a_run_tells_types_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Trained, evaluated on a file and applied to it; a run on data without types holds nothing of them."""
    options = (*QUICK, "experiment=masses5", "data.frames=12", "data.test_frames=20", "method.observed_frames=12")
    measures = run(tmp_path / "run", *options, "data.valid=20")
    assert 0.5 <= measures["test/type_accuracy"] <= 1
    kept = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert kept["test/type_accuracy"] == measures["test/type_accuracy"]
    assert sorted(checkpoint(tmp_path / "run")["state_dict"]["module_to_type"].tolist()) == [0, 1]
    assert kept["val/type_accuracy"] >= 0.5
    stored = next((tmp_path / "data").glob("masses5-*.npz"))
    assert evaluate(tmp_path / "run", stored)["test/type_accuracy"] == pytest.approx(measures["test/type_accuracy"])
    assert main(["infer", str(tmp_path / "run"), str(stored), "-o", str(tmp_path / "out"), "--observed", "12"]) == 0
    table = csv.read_csv(tmp_path / "out" / "entities.csv")
    assert table.column_names == ["task", "entity", "type", "probability"]
    truth = formats.load(stored)["test"].types.ravel()
    found = float((table["type"].to_numpy() == truth).mean())
    assert found == pytest.approx(measures["test/type_accuracy"], abs=0.15)  # at another temperature
    assert filled_from_file(compose(tmp_path / "own", "data=files", f"data.path={stored}")).data.num_types == 2
    with pytest.raises(DataError, match="entity type 2, but"):
        run(tmp_path / "few", *options, "data.world.masses=[1,2,3]")


def test_training_on_a_file_without_labels(springs_file: Path, tmp_path: Path) -> None:
    quick = ["trainer.max_epochs=2", "data.batches_per_epoch=5", "callbacks.progress=null", "logger.wandb=null"]
    measures = run(tmp_path / "run", "data=files", f"data.path={springs_file}", *quick, "model.num_edge_modules=3")
    history = json.loads((tmp_path / "run" / "curves.json").read_text())["history"]
    assert np.isfinite(history[-1]["val/held_out"])
    assert "test/edge_accuracy" not in measures
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["config"]["data"]["num_entities"] == 5
    assert metrics["config"]["method"]["observed_frames"] == 40
    assert metrics["train/tasks"] == 8
    content = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert content["modmeta"]["calibration"]["frames"] == [10, 20, 40, 320]
    out = tmp_path / "out"
    assert main(["infer", str(tmp_path / "run"), str(springs_file), "-o", str(out)]) == 0
    shares = np.load(out / "relations.npz", allow_pickle=False)["probabilities"]
    assert shares.shape == (12, 5, 5, 3)


@pytest.mark.slow
def test_data_with_velocities_restart_with_another_likelihood(springs_file: Path, tmp_path: Path) -> None:
    """Which the run's own directory then holds, whatever its first configuration says."""
    quick = ["trainer.max_epochs=1", "data.batches_per_epoch=3", "callbacks.progress=null", "logger.wandb=null"]
    words = [*quick, "experiment=moving", "data=files", f"data.path={springs_file}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BounceGrad, "stuck", property(lambda module: True))
        patch.setattr(training, "better", lambda one, two, other: two)
        run(tmp_path / "run", *words)
    metrics = [json.loads((tmp_path / "run" / part / "metrics.json").read_text()) for part in ("", "restart_0")]
    kinds = [part["config"]["likelihood"]["_target_"].rpartition(".")[2] for part in metrics]
    assert kinds == ["Gaussian", "StudentT"]
    assert all(np.isfinite(part["val/gain"]) for part in metrics)
    assert isinstance(modmeta.load(tmp_path / "run").module.model.likelihood, Gaussian)
    assert run(tmp_path / "run", *words), "a finished run is not begun again"


def test_positions_alone_and_missing_frames(springs: Trajectories, tmp_path: Path) -> None:
    table = tmp_path / "places.parquet"
    mask = np.ones(springs.states.shape[:3], bool)
    mask[3, :, 20] = False
    places = Trajectories(springs.states[..., :2], None, ("x", "y"), 0.1, {}, mask)
    formats.save(table, {"all": places})
    quick = ["trainer.max_epochs=1", "data.batches_per_epoch=3", "callbacks.progress=null", "logger.wandb=null"]
    words = [f"data.path={table}", "data.velocities=estimated", "data.reading.missing=mask", "model=continuous"]
    measures = run(tmp_path / "run", "data=files", *words, *quick)
    assert np.isfinite(measures["val/energy"])
    with pytest.raises(DataError, match=r"data\.reading\.missing=mask"):
        run(tmp_path / "again", "data=files", f"data.path={table}", *quick)


def test_fit_in_python(springs: Trajectories) -> None:
    words = ("trainer.max_epochs=1", "data.batches_per_epoch=2", "callbacks.progress=null")
    with undrawn():
        model = modmeta.fit(springs.states, modules=2, overrides=words)
    found = model.infer(springs.states[:2])
    assert found.relations.shape == (2, 5, 5)


@pytest.mark.slow
def test_fit_in_python_restarts_as_the_command_does(springs: Trajectories) -> None:
    words = ("trainer.max_epochs=1", "data.batches_per_epoch=2", "callbacks.progress=null")
    with pytest.MonkeyPatch.context() as patch, undrawn():
        patch.setattr(BounceGrad, "stuck", property(lambda module: True))
        patch.setattr(training, "better", lambda one, two, other: two)
        model = modmeta.fit(springs.states, modules=2, overrides=words)
    assert isinstance(model.module.model.likelihood, Gaussian)


@pytest.mark.slow
def test_a_new_user_gets_a_graph(tmp_path: Path) -> None:
    """Systems made outside the package, of other mass, box and frame step: from file to graph in three commands."""
    made = command(str(ROOT / "examples" / "springs_scipy.py"), "springs.csv", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    train = ["model=continuous", "search.sweeps=3", "optimizer.modules.lr=1e-2", "trainer.max_epochs=8"]
    done = command(
        str(ROOT / "train.py"), "data=files", "data.path=springs.csv", "hydra.run.dir=run", *train, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    infer = ["infer", "run", "springs.csv", "-o", "out", "--relations", "springs_truth.csv"]
    done = command("-m", "modmeta.cli.main", *infer, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    right = next(line for line in done.stdout.splitlines() if line.startswith("edges right"))
    assert float(right.split()[2].rstrip("%,")) >= 98, right
    shutil.rmtree(tmp_path / "run")
