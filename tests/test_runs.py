"""Whole runs of the shipped configuration: every experiment, resuming, evaluation of checkpoints, two processes."""

import json
import math
from pathlib import Path

import hydra
import pytest
import torch
from hydra.errors import InstantiationException

from modmeta.cli.evaluate import evaluate
from modmeta.data.loading.batches import TaskBatches
from modmeta.errors import UserError
from modmeta.graph.bank import random_structure
from modmeta.model.dynamics.base import summed
from modmeta.model.noise import GAIN
from modmeta.search.problem import one_step_problem
from modmeta.training.checkpoints.loading import load_model
from tests.runs import QUICK, ROOT, checkpoint, command, compose, run, same

EXPERIMENTS = sorted(
    str(path.relative_to(ROOT / "conf/experiment"))[:-5]
    for path in (ROOT / "conf/experiment").rglob("*.yaml")
    if path.parent.name != "baselines"
)


WORLDS = sorted({path.stem for path in (ROOT / "conf/data").glob("*.yaml")} - {"simulated", "files"})


@pytest.mark.parametrize("world", WORLDS)
def test_every_data_file_describes_its_world(world: str, tmp_path: Path) -> None:
    data = hydra.utils.instantiate(compose(tmp_path / "run", f"data={world}").data)
    assert f"{data.world.name}{data.sizes[0]}" == world.replace("3kinds", "")
    assert len(data.world.features) == data.num_features
    assert len(data.world.edge_values) == data.num_relations
    names = data.world.features
    assert names[data.positions : 2 * data.positions] == tuple(f"v{name}" for name in names[: data.positions])


# Those of `efficiency/` and of ten particles are others with a few settings changed.
LONG = [name for name in EXPERIMENTS if "/" in name.replace("paper/", "") or name.endswith("10")]


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
    )
    assert 0.0 <= measures["test/edge_accuracy"] <= 1.0
    written = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert written["test/edge_accuracy"] == measures["test/edge_accuracy"]
    forecasts = {f"test/mse_{step}" for step in (1, 10, 20)} if "supervised" not in experiment else set()
    assert {name for name in measures if name.startswith("test/mse_")} == forecasts
    assert all(math.isfinite(measures[name]) and written[name] == measures[name] for name in forecasts)
    assert {"train/tasks", "train/seconds", "hardware", "seed", "commit", "config"} <= written.keys()
    assert (tmp_path / "run" / "curves.png").stat().st_size > 10_000


def test_a_run_learns_and_repeats(tmp_path: Path) -> None:
    """Equal runs give equal weights; a few seconds find most relations and predict far better than standing still."""
    longer = (*QUICK, "data.num_tasks=20", "data.batch_size=10", "data.batches_per_epoch=50", "trainer.max_epochs=8")
    first = run(tmp_path / "a", *longer)
    run(tmp_path / "b", *longer)
    same(checkpoint(tmp_path / "a")["state_dict"], checkpoint(tmp_path / "b")["state_dict"])
    history = json.loads((tmp_path / "a" / "curves.json").read_text())["history"]
    assert history[-1]["train/loss"] < history[0]["train/loss"]
    assert history[-1]["train/edge_accuracy"] > 0.9
    data = hydra.utils.instantiate(compose(tmp_path / "c", *longer).data)
    data.prepare_data()
    data.setup()
    states = data.splits["test"].states
    static = float((states[:, :, 49] - states[:, :, 50]).square().mean())
    assert first["test/mse_1"] < static / 5


def test_a_checkpoint_reproduces_its_measures(tmp_path: Path) -> None:
    measures = run(tmp_path / "run", *QUICK)
    file = next((tmp_path / "data").glob("*.npz"))
    again = evaluate(tmp_path / "run", file)
    for name, value in again.items():
        assert value == pytest.approx(measures[name], rel=1e-4, abs=1e-9), name
    module, data = load_model(tmp_path / "run")
    assert data["num_entities"] == 5
    assert torch.equal(module.module_to_relation, checkpoint(tmp_path / "run")["state_dict"]["module_to_relation"])


def test_wandb_offline_and_command_line(tmp_path: Path) -> None:
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
    told = command(
        "-m", "modmeta.cli.main", "evaluate", str(directory), "--data", str(file), "--json", "out.json", cwd=tmp_path
    )
    assert told.returncode == 0, told.stderr
    assert "test/edge_accuracy" in json.loads((tmp_path / "out.json").read_text())
    refused = command(
        "-m", "modmeta.cli.main", "evaluate", str(directory), "--data", str(file), "--json", "out.json", cwd=tmp_path
    )
    assert refused.returncode == 2
    assert "out.json" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_batches_are_passes_in_random_order() -> None:
    sampler = TaskBatches(10, 3, 4, seed=1)
    served = []
    for epoch in range(6):
        sampler.set_epoch(epoch)
        served += list(sampler)
    assert all(len(batch) == len(set(batch)) == 3 for batch in served)
    for start in range(0, 24, 3):  # three batches to a pass, no task twice in it
        assert len({task for batch in served[start : start + 3] for task in batch}) == 9
    assert served[:3] != served[3:6]
    sampler.set_epoch(2)
    assert list(sampler) == served[8:12]


def test_ranks_share_the_tasks_without_overlap() -> None:
    parts = [{task for batch in TaskBatches(11, 4, None, 0, rank, 2) for task in batch} for rank in range(2)]
    assert not parts[0] & parts[1]
    assert parts[0] <= set(range(0, 11, 2))
    assert len(TaskBatches(11, 4, None, 0, 0, 2)) == len(TaskBatches(11, 4, None, 0, 1, 2)) == 2
    everything = [task for rank in range(2) for batch in TaskBatches(11, 4, None, None, rank, 2) for task in batch]
    assert sorted(everything) == list(range(11))


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


def test_soft_rows_descend_the_free_energy(tmp_path: Path) -> None:
    """The gradient of -T log sum over rows of exp(-E / T), whatever was drawn."""
    module = hydra.utils.instantiate(compose(tmp_path / "run", "method.soft=true", "model.hidden=8").method)
    states, generator = torch.randn(3, 4, 9, 4), torch.Generator().manual_seed(0)
    structure = random_structure(3, 4, 2, 1, generator)
    problem, temperature = one_step_problem(module.model, states), torch.tensor(3.0)
    (messages, score), kernel = problem.one_step(), module.search.kernel(module.model, 4)
    new, info = kernel(generator, structure, problem, temperature)
    rows = score(summed(messages, info.candidates.rows), info.candidates.types)
    free = -temperature * (-rows / temperature).logsumexp(-1).sum()
    parameters = [part for part in module.model.parameters() if part.requires_grad]
    wanted = torch.autograd.grad(free, parameters, retain_graph=True, allow_unused=True)
    got = torch.autograd.grad(
        module._energy(problem, new, info, temperature), parameters, retain_graph=True, allow_unused=True
    )
    hard = score(summed(messages, new.relations.unsqueeze(2)), new.types.unsqueeze(2))
    other = torch.autograd.grad(hard.sum(), parameters, allow_unused=True)
    for ours, truth in zip(got, wanted, strict=True):
        torch.testing.assert_close(ours, truth, rtol=1e-3, atol=1e-4)
    assert any(a is not None and not torch.allclose(a, b, rtol=0.1) for a, b in zip(got, other, strict=True))


@pytest.mark.parametrize(
    ("words", "error"),
    [(("search.enumerate_up_to=4",), r"all rows of a receiver, here 1 \* 2\^4"), (("search=paper",), "receivers=all")],
)
def test_soft_rows_need_all_rows(tmp_path: Path, words: tuple[str, ...], error: str) -> None:
    with pytest.raises((UserError, InstantiationException), match=error):
        run(tmp_path / "run", *QUICK, "method.soft=true", *words)
