"""Runs on tasks of different numbers of entities."""

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.csv as csv
import pytest

from modmeta.cli.evaluate import evaluate
from modmeta.cli.main import main
from modmeta.data import formats
from modmeta.data.formats.columns import write_columns
from modmeta.data.formats.relations import relations_table
from modmeta.data.generation import interleaved
from modmeta.data.trajectories import Trajectories
from modmeta.errors import DataError
from modmeta.training.checkpoints.loading import load_model
from tests.runs import QUICK, checkpoint, run
from tests.unit.data.test_sizes import SIZES, springs


@pytest.fixture(scope="module")
def parts() -> list[Trajectories]:
    """Six tasks of three, five and four entities each."""
    return [springs(size) for size in SIZES]


@pytest.fixture(scope="module")
def mixed(parts: list[Trajectories]) -> Trajectories:
    """All of them, one of every size after the other."""
    return interleaved(parts).validate("mixed")


FILE = [word for word in QUICK if not word.startswith(("data.num_tasks", "data.valid", "data.test"))]


@pytest.fixture(scope="module")
def trained(parts: list[Trajectories], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a table of tasks of three sizes, with labels."""
    directory = tmp_path_factory.mktemp("sizes")
    data = interleaved(parts)
    formats.save(directory / "a.csv", {"all": data})
    write_columns(directory / "relations.csv", relations_table(data), False)
    words = ["data=files", f"data.path={directory / 'a.csv'}", f"data.reading.relations={directory / 'relations.csv'}"]
    measures = run(directory / "run", *FILE, *words)
    assert "test/edge_accuracy" in measures
    return directory


def test_a_table_of_several_sizes_trains_and_infers(trained: Path) -> None:
    saved, data = load_model(trained / "run")[1], formats.load(trained / "a.csv")["test"]
    assert saved["num_entities"] == [3, 4, 5]
    bank = checkpoint(trained / "run")["modmeta"]["bank"]
    assert set((bank["types"] >= 0).sum(1).tolist()) <= {3, 4, 5}
    assert bank["visits"].min() > 0
    out = trained / "out"
    words = ["--relations", str(trained / "relations.csv"), "--observed", "9", "--steps", "3", "--report"]
    assert main(["infer", str(trained / "run"), str(trained / "a.csv"), "-o", str(out), *words]) == 0
    rows = csv.read_csv(out / "relations.csv")
    pairs = Counter(rows["task"].to_pylist())
    assert [pairs[task] for task in range(18)] == [n * (n - 1) for n in data.counts]
    arrays = np.load(out / "relations.npz")
    assert (arrays["relations"][0, 3:] == -1).all()
    assert (arrays["relations"][1] >= 0).all()
    assert np.isnan(np.load(out / "forecasts.npz")["mean"][0, 3:]).all()


def test_evaluate_takes_the_sizes_it_was_trained_on(trained: Path, mixed: Trajectories, tmp_path: Path) -> None:
    formats.save(tmp_path / "a.npz", {"test": mixed})
    found = evaluate(trained / "run", tmp_path / "a.npz")
    assert {"test/edge_accuracy_n3", "test/edge_accuracy_n4", "test/edge_accuracy_n5"} <= set(found)
    share = [found[f"test/edge_accuracy_n{n}"] * n * (n - 1) for n in (3, 4, 5)]
    assert found["test/edge_accuracy"] == pytest.approx(sum(share) / (6 + 12 + 20), rel=1e-5)
    formats.save(tmp_path / "six.npz", {"test": springs(6)})
    with pytest.raises(DataError, match=r"six\.npz: 6 entities.*trained on \[3, 4, 5\].*--any-entities"):
        evaluate(trained / "run", tmp_path / "six.npz")


def test_unlabelled_arrays_with_gaps_train(parts: list[Trajectories], tmp_path: Path) -> None:
    """NaN for entities that a task lacks and for a frame that one was not seen in; the search by proposals, too."""
    data = interleaved(parts)
    states = np.where(data.mask[..., None], data.states, np.nan)
    states[2, 1, 4] = np.nan
    np.savez(tmp_path / "a.npz", states=states, features=data.features, frame_step=data.frame_step)
    words = ["data=files", f"data.path={tmp_path / 'a.npz'}", "data.reading.missing=mask", "search.enumerate_up_to=4"]
    assert np.isfinite(run(tmp_path / "run", *FILE, *words)["val/energy"])
