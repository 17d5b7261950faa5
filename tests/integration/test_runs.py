"""Whole runs of the shipped configuration: every experiment, restarts, early stopping, noise, measures."""

import json
import math
from pathlib import Path

import hydra
import pytest
import torch
from hydra.errors import InstantiationException

from modmeta.cli.evaluate import evaluate
from modmeta.errors import UserError
from modmeta.model.noise import GAIN
from modmeta.training.checkpoints.loading import load_model
from modmeta.training.run import train
from tests.runs import QUICK, ROOT, checkpoint, compose, run, same_run

EXPERIMENTS = sorted(
    str(path.relative_to(ROOT / "conf/experiment"))[:-5]
    for path in (ROOT / "conf/experiment").rglob("*.yaml")
    if path.parent.name != "baselines"
)


# Those of `efficiency/`, of noise and of ten particles are others with a few settings changed, masses and oscillators
# with other data; those of the paper and `laws` run in files of their own.
LONG = [
    name
    for name in EXPERIMENTS
    if "/" in name.replace("paper/", "")
    or name.endswith(("10", "_small", "_noise"))
    or name in ("paper/charged5", "paper/springs5", "laws", "masses5", "kuramoto5")
]


@pytest.mark.parametrize(
    "experiment", [pytest.param(name, marks=pytest.mark.slow if name in LONG else ()) for name in EXPERIMENTS]
)
def test_every_experiment_runs(experiment: str, tmp_path: Path) -> None:
    measures = run(
        tmp_path / "run",
        f"experiment={experiment}",
        "debug=fast",
        "callbacks.progress=null",
        "logger.wandb=null",
        "trainer.accelerator=cpu",
        drawn=experiment == "springs5",
    )
    functions = experiment.startswith("functions/")
    main = "test/error" if functions else "test/edge_accuracy"
    assert 0.0 <= measures[main] <= (math.inf if functions else 1.0)
    written = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert written[main] == measures[main]
    without = functions or "supervised" in experiment
    kinds = ("", "_single") if experiment.split("/")[-1] == "charged5" and "/" not in experiment else ("",)
    forecasts = set() if without else {f"test/mse_{step}{kind}" for step in (1, 10, 20) for kind in kinds}
    assert {name for name in measures if name.startswith("test/mse_")} == forecasts
    assert all(math.isfinite(measures[name]) and written[name] == measures[name] for name in forecasts)
    assert {"train/tasks", "train/seconds", "hardware", "seed", "commit", "config"} <= written.keys()
    assert (tmp_path / "run" / "curves.png").stat().st_size > (10_000 if experiment == "springs5" else 0)


def test_equal_runs_give_equal_weights(whole: Path, tmp_path: Path) -> None:
    run(tmp_path / "again", *QUICK)
    same_run(whole, tmp_path / "again")


def test_a_run_learns(tmp_path: Path) -> None:
    """A few seconds find most relations and predict far better than standing still."""
    longer = (*QUICK, "data.num_tasks=20", "data.batch_size=10", "data.batches_per_epoch=50", "trainer.max_epochs=8")
    first = run(tmp_path / "a", *longer)
    history = json.loads((tmp_path / "a" / "curves.json").read_text())["history"]
    assert history[-1]["train/loss"] < history[0]["train/loss"]
    assert history[-1]["train/edge_accuracy"] > 0.9
    data = hydra.utils.instantiate(compose(tmp_path / "c", *longer).data)
    data.prepare_data()
    data.setup()
    states = data.splits["test"].states
    static = float((states[:, :, 49] - states[:, :, 50]).square().mean())
    assert first["test/mse_1"] < static / 5


def test_a_checkpoint_reproduces_its_measures(whole: Path) -> None:
    measures = json.loads((whole / "metrics.json").read_text())
    file = next((whole.parent / "data").glob("*.npz"))
    again = evaluate(whole, file)
    for name, value in again.items():
        assert value == pytest.approx(measures[name], rel=1e-4, abs=1e-9), name
    module, data = load_model(whole)
    assert data["num_entities"] == 5
    assert torch.equal(module.module_to_relation, checkpoint(whole)["state_dict"]["module_to_relation"])


def test_a_run_that_looks_stuck_starts_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Twenty steps find nothing; two restarts follow, and the least energy of validation tasks wins."""
    directory = tmp_path / "run"
    run(directory, *QUICK, "restarts=2", f"results={tmp_path / 'results'}")
    said = capsys.readouterr()
    assert "restart 2" in said.out
    assert "structures look arbitrary" in said.err
    final = json.loads((directory / "metrics.json").read_text())
    others = [json.loads(path.read_text()) for path in directory.glob("restart_*/metrics.json")]
    assert final["val/energy"] == min(metrics["val/energy"] for metrics in [final, *others])
    assert "test/edge_accuracy" in final
    assert not any("test/edge_accuracy" in metrics for metrics in others)  # test tasks are met once
    assert final["train/seconds"] > max(metrics["train/seconds"] for metrics in others)  # those of all attempts
    energy = checkpoint(directory)["state_dict"]["agreement"]
    assert float(energy) == pytest.approx(final["val/agreement"])
    kept = json.loads((tmp_path / "results" / "springs5" / "12tasks_seed0.json").read_text())
    assert kept.pop("history")  # a file that stands alone holds the curves, too
    assert kept == final


def test_results_of_an_edited_tree_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures that go beside others must be those of a commit; nothing is computed before that is said."""
    monkeypatch.setattr("modmeta.training.run.commit", lambda: "0123456789ab+")
    with pytest.raises(UserError, match="uncommitted changes"):
        train(compose(tmp_path / "run", *QUICK, f"results={tmp_path / 'results'}"))
    assert not (tmp_path / "results").exists()


def test_a_single_module_runs(tmp_path: Path) -> None:
    """A sweep over the number of modules begins at one."""
    measures = run(tmp_path / "run", *QUICK, "experiment=springs5", "model.num_edge_modules=1")
    assert 0 < measures["test/edge_accuracy"] < 1


def test_a_run_that_gains_no_more_ends_early(tmp_path: Path) -> None:
    early = ("callbacks=early_stopping", "callbacks.early.patience=1", "callbacks.early.min_delta=1000")
    run(tmp_path / "run", *QUICK, *early, "trainer.max_epochs=10", "trainer.check_val_every_n_epoch=1")
    history = json.loads((tmp_path / "run" / "curves.json").read_text())["history"]
    assert len(history) == 2  # the first validation, and one without a gain


@pytest.mark.parametrize("velocities", ["given", "estimated"])
def test_noise_reaches_the_model(velocities: str, tmp_path: Path) -> None:
    """Which begins to learn how strong it is: in places at once, in velocities only when laws explain them."""
    options = (*QUICK, "experiment=springs5_noise", "data.noise=0.05", f"data.velocities={velocities}")
    measures = run(tmp_path / "run", *options)
    assert math.isfinite(measures["test/mse_1"])
    ratios = checkpoint(tmp_path / "run")["state_dict"]["model.noise.ratios"]
    assert ratios[0] > math.log(0.03) / GAIN + 0.01
    assert ratios[1] != math.log(0.03) / GAIN


@pytest.mark.parametrize(
    ("words", "error"),
    [(("search.enumerate_up_to=4",), r"all rows of a receiver, here 1 \* 2\^4"), (("search=paper",), "receivers=all")],
)
def test_soft_rows_need_all_rows(tmp_path: Path, words: tuple[str, ...], error: str) -> None:
    with pytest.raises((UserError, InstantiationException), match=error):
        run(tmp_path / "run", *QUICK, "method.soft=true", *words)


@pytest.mark.slow
def test_a_search_may_begin_anew_at_every_visit(tmp_path: Path) -> None:
    """With `persist=false` greedy search from one receiver cannot build on what it found before."""
    words = (*QUICK, "search.receivers=one", "temperature.start=1.0", "trainer.max_epochs=4", "data.batch_size=12")
    words = (*words, "data.batches_per_epoch=15")
    run(tmp_path / "kept", *words)
    run(tmp_path / "anew", *words, "method.persist=false")
    curves = [json.loads((tmp_path / name / "curves.json").read_text())["history"] for name in ("kept", "anew")]
    kept, anew = (history[-1]["train/changed"] for history in curves)
    assert kept < anew / 2
