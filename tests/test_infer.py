"""`modmeta infer` and `inspect`, the Python interface, posteriors against exact marginals, pictures."""

import json
import shutil
from pathlib import Path

import h5py
import networkx as nx
import numpy as np
import pyarrow.csv as csv
import pyarrow.parquet as parquet
import pytest
import torch
from matplotlib.figure import Figure

import modmeta
from modmeta.cli.main import main
from modmeta.data import formats
from modmeta.data.formats.columns import write_columns
from modmeta.data.formats.relations import relations_table
from modmeta.data.generation import generate
from modmeta.data.reading import Reading
from modmeta.data.trajectories import Trajectories
from modmeta.errors import DataError
from modmeta.evaluation.calibration import Calibration, calibration_error, nll
from modmeta.evaluation.posterior import exact, sample, scorer, split_r_hat, table
from modmeta.graph.bank import random_structure
from modmeta.plots import pictures
from modmeta.simulators import Springs
from tests.conftest import make_model
from tests.runs import ROOT, command, run


@pytest.fixture(scope="module")
def springs() -> Trajectories:
    """Twelve spring systems that the shipped model has never seen."""
    return generate(Springs(), {"test": (12, 49)}, seed=99, progress=False)["test"]


@pytest.fixture(scope="module")
def written(springs: Trajectories, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of them, and one of their relations, `truth.csv` beside it."""
    path = tmp_path_factory.mktemp("springs") / "springs.csv"
    formats.save(path, {"test": springs})
    write_columns(path.with_name("truth.csv"), relations_table(springs), False)
    return path


def test_infer_writes_what_is_true(written: Path, springs: Trajectories, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["--relations", str(written.with_name("truth.csv")), "--report", "--observed", "40", "--steps", "9"]
    assert main(["infer", "springs5", str(written), "-o", str(out), *words]) == 0
    rows = csv.read_csv(out / "relations.csv")
    assert rows.column_names == ["task", "receiver", "sender", "relation", "probability"]
    assert rows.equals(parquet.read_table(out / "relations.parquet").cast(rows.schema))
    assert len(rows) == 12 * 20
    task, receiver, sender, relation = (rows[name].to_numpy() for name in rows.column_names[:4])
    assert (springs.relations[task, receiver, sender] == relation).mean() >= 0.995
    arrays = np.load(out / "relations.npz", allow_pickle=False)
    np.testing.assert_array_equal(arrays["relations"][task, receiver, sender], relation)
    np.testing.assert_allclose(arrays["probabilities"][task, receiver, sender].sum(-1), 1, atol=1e-5)
    graph = nx.read_graphml(out / "graphs" / "3.graphml")
    assert len(graph.edges) == 20
    assert all(data["relation"] == springs.relations[3, int(b), int(a)] for a, b, data in graph.edges(data=True))
    ahead = np.load(out / "forecasts.npz", allow_pickle=False)
    assert np.abs(ahead["mean"] - springs.states[:, :, 40:49]).max() < 0.05
    assert (ahead["low"] <= ahead["high"]).all()
    page = (out / "report.html").read_text()
    assert page.count("data:image/png;base64,") == len(list((out / "figures").iterdir()))
    assert "http" not in page
    assert back_in(out / "relations.csv", written, springs)


def back_in(relations: Path, states: Path, springs: Trajectories) -> bool:
    """What was inferred can be given as labels."""
    data = formats.load(states, how=Reading(relations=str(relations)))["test"]
    return float((data.relations == springs.relations).mean()) >= 0.995


def test_masked_frames_and_other_entities(springs: Trajectories, tmp_path: Path) -> None:
    """A task of four entities and a hole in another one; both in one file, names as strings."""
    save = tmp_path / "holes.h5"
    mask = np.ones(springs.states.shape[:3], bool)
    mask[2, :, 11] = False
    names = np.array([f"é{i}" for i in range(12)])
    states = springs.states.copy()
    states[2, :, 11] = np.nan
    with h5py.File(save, "w") as file:
        file["states"], file["mask"], file["features"] = states, mask, ["x", "y", "vx", "vy"]
        file["task_names"] = names.astype(object)
        file.attrs["frame_step"] = 0.1
    assert main(["infer", "springs5", str(save), "-o", str(tmp_path / "out"), "--missing", "mask"]) == 0
    rows = csv.read_csv(tmp_path / "out" / "relations.csv")
    assert set(rows["task"].to_pylist()) == set(names.tolist())
    found = np.load(tmp_path / "out" / "relations.npz", allow_pickle=False)["relations"]
    assert (found == springs.relations).mean() >= 0.995


def test_python_interface_keeps_the_kind(springs: Trajectories) -> None:
    model = modmeta.load("springs5")
    found = model.infer(springs.states)
    assert (found.relations == springs.relations)[:, ~np.eye(5, dtype=bool)].mean() >= 0.995
    assert found.evidence.shape == (12, 5)
    one = model.infer(torch.from_numpy(springs.states[4]))
    assert isinstance(one.relations, torch.Tensor)
    np.testing.assert_array_equal(one.relations[0].numpy(), found.relations[4])
    sampled = model.infer(springs.states[:3], sampling=True)
    np.testing.assert_allclose(sampled.probabilities, found.probabilities[:3], atol=0.02)
    assert sampled.r_hat.max() < 1.1
    ahead = model.forecast(springs.states[:2, :, :30], model.infer(springs.states[:2, :, :30]), 5)
    assert np.abs(ahead.mean - springs.states[:2, :, 30:35]).max() < 0.02
    with pytest.raises(DataError, match="4 features"):
        model.infer(springs.states[..., :3])
    assert {"springs5"} <= set(modmeta.models())
    for name in modmeta.models():
        assert (ROOT / "modmeta" / "pretrained" / f"{name}.ckpt").stat().st_size < 1_000_000


@pytest.mark.parametrize("temperature", [1.0, 5.0])
def test_sampling_agrees_with_exact_marginals(temperature: float) -> None:
    """Several chains of slotwise Gibbs sampling against the enumeration of all rows, where there is real doubt."""
    model = make_model("additive", "student_t", k=3)
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(4, 4, 3, 4, generator=torch.Generator().manual_seed(3))
    structure = random_structure(4, 4, 3, 1, generator)
    with torch.no_grad():
        score = scorer(model, states, structure)
        energies = table(score, structure, 3)
        truth = exact(energies, structure, 3, temperature)
        chains = sample(model, states, structure, temperature, generator, chains=64, sweeps=400)
    assert ((truth > 0.1) & (truth < 0.9)).any()
    np.testing.assert_allclose(chains.probabilities, truth, atol=0.03)
    assert chains.r_hat.max() < 1.05


def test_split_r_hat_tells_chains_that_disagree() -> None:
    draws = torch.rand(200, 4, generator=torch.Generator().manual_seed(0))
    assert float(split_r_hat(draws)) == pytest.approx(1, abs=0.02)
    draws[:, 0] += 1
    assert float(split_r_hat(draws)) > 1.3
    drifting = torch.rand(200, 4, generator=torch.Generator().manual_seed(0)) + torch.linspace(0, 3, 200).unsqueeze(1)
    assert float(split_r_hat(drifting)) > 1.3


def test_calibration_error_of_known_cases() -> None:
    generator = np.random.default_rng(0)
    chance = generator.uniform(0.5, 1, 40_000)
    right = generator.uniform(size=len(chance)) < chance
    probabilities = torch.from_numpy(np.stack((chance, 1 - chance), -1))
    labels = torch.from_numpy(np.where(right, 0, 1))
    assert calibration_error(probabilities, labels) < 0.01
    sure = torch.tensor([[0.99, 0.01]]).repeat(100, 1)
    half = torch.arange(100) % 2
    assert calibration_error(sure, half) == pytest.approx(0.49)
    assert nll(sure, half) == pytest.approx(-0.5 * (np.log(0.99) + np.log(0.01)), rel=1e-5)


def test_training_on_a_file_without_labels(written: Path, tmp_path: Path) -> None:
    quick = ["trainer.max_epochs=2", "data.batches_per_epoch=5", "callbacks.progress=null", "logger.wandb=null"]
    measures = run(tmp_path / "run", "data=files", f"data.path={written}", *quick, "model.num_edge_modules=3")
    history = json.loads((tmp_path / "run" / "curves.json").read_text())["history"]
    assert np.isfinite(history[-1]["val/held_out"])
    assert "test/edge_accuracy" not in measures
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["config"]["data"]["num_entities"] == 5
    assert metrics["config"]["method"]["observed_frames"] == 40
    assert metrics["train/tasks"] == 8
    content = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert content["modmeta"]["calibration"]["frames"] == [10, 20]
    out = tmp_path / "out"
    assert main(["infer", str(tmp_path / "run"), str(written), "-o", str(out)]) == 0
    shares = np.load(out / "relations.npz", allow_pickle=False)["probabilities"]
    assert shares.shape == (12, 5, 5, 3)


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
    with pytest.raises(DataError, match="missing=mask"):
        run(tmp_path / "again", "data=files", f"data.path={table}", *quick)


def test_fit_in_python(springs: Trajectories) -> None:
    words = ("trainer.max_epochs=1", "data.batches_per_epoch=2", "callbacks.progress=null")
    model = modmeta.fit(springs.states, modules=2, overrides=words)
    found = model.infer(springs.states[:2])
    assert found.relations.shape == (2, 5, 5)


def test_pictures_draw_on_the_axes_they_are_given(springs: Trajectories) -> None:
    figure = Figure()
    axes = figure.subplots(2, 4).flatten()
    names, relations = list("abcde"), springs.relations[0]
    chances = np.eye(2)[relations]
    states, ahead = springs.states[0, :, :30], springs.states[0, :, 30:40]
    assert pictures.plot_trajectories(axes[0], states, names, ahead, ahead - 0.1, ahead + 0.1, ahead) is axes[0]
    assert len(axes[0].collections) >= 5
    assert pictures.plot_series(axes[1], states[..., 0], names, *[ahead[..., 0]] * 3) is axes[1]
    assert pictures.plot_matrix(axes[2], relations, chances, names) is axes[2]
    assert len(axes[2].texts) == 20
    assert pictures.plot_graph(axes[3], states[:, -1, :2], relations, chances, names) is axes[3]
    pull = np.array([[1.0, 4.0], [-1.0, -4.0]])
    assert pictures.plot_laws(axes[4], np.array([1.0, 2.0]), pull, names[:2], logarithmic=True) is axes[4]
    assert axes[4].lines[1].get_ydata()[1] == 4.0
    assert pictures.plot_energies(axes[5], np.ones((6, 2)), np.ones(6)) is axes[5]
    assert pictures.plot_usage(axes[6], np.array([0.4, 0.6]), names[:2]) is axes[6]
    assert pictures.plot_reliability(axes[7], np.array([0.5, np.nan]), np.array([0.5, np.nan]), np.array([3, 0]))
    figure.canvas.draw()


def test_inspect_tells_and_suggests(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(written)]) == 0
    told = capsys.readouterr().out
    assert "their velocities follow" in told
    assert "0.1 time units a frame" in told
    assert f"modmeta train {written} model=continuous" in " ".join(told.split())


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


def test_bands_hold_what_comes() -> None:
    """Nine of ten, on tasks that neither training nor calibration has seen, near and far."""
    data = generate(Springs(), {"test": (40, 70)}, seed=77, stream="task")["test"]
    model = modmeta.load("springs5")
    seen, ahead = data.states[:, :, :49], data.states[:, :, 49:69]
    forecast = model.forecast(seen, model.infer(seen), 20)
    held = ((ahead >= forecast.low) & (ahead <= forecast.high)).mean((0, 1, 3))
    assert ((held > 0.75) & (held < 0.98)).all()
    assert Calibration.from_state(model.calibration.state_dict()) == model.calibration
    assert Calibration.from_state({"frames": [2], "temperatures": [1.0]}) == Calibration()
