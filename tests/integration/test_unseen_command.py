"""`modmeta unseen` on a trained run."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from modmeta.cli.main import main
from modmeta.data import formats
from modmeta.data.generation import generate
from modmeta.graph.relations import reciprocity
from modmeta.simulators import Springs
from modmeta.training.checkpoints.loading import read_checkpoint
from tests.runs import QUICK, run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A short run, and a file of three tasks."""
    directory = tmp_path_factory.mktemp("unseen")
    frames = ("data.frames=14", "method.observed_frames=14")
    run(directory / "run", "experiment=springs5", *QUICK, *frames, "search.sweeps=1")
    tasks = generate(Springs(), {"test": (3, 49)}, seed=8, progress=False)
    formats.save(directory / "tasks.npz", tasks)
    return directory / "run", directory / "tasks.npz"


def results(directory: Path) -> dict[str, np.ndarray]:
    with np.load(directory / "unseen.npz", allow_pickle=False) as arrays:
        return dict(arrays)


def test_the_truth_changes_no_estimate(trained: tuple[Path, Path], tmp_path: Path) -> None:
    """Only what is seen enters: another hidden trajectory changes the score and nothing else."""
    model, data = trained
    splits = formats.load(data)
    states = splits["test"].states.copy()
    states[:, 1] = np.random.default_rng(0).normal(size=states[:, 1].shape)
    other = type(splits["test"])(states, splits["test"].relations, splits["test"].features, 0.1)
    formats.save(tmp_path / "other.npz", {"test": other})
    for name, file in (("first", data), ("second", tmp_path / "other.npz")):
        assert main(["unseen", str(model), str(file), "-o", str(tmp_path / name), "--hide", "1"]) == 0
    first, second = results(tmp_path / "first"), results(tmp_path / "second")
    assert first.keys() == second.keys()
    for key, array in first.items():
        np.testing.assert_array_equal(array, second[key])
    assert first["states"].shape == (3, 1, 14, 4)
    assert first["relations"].shape == (3, 5, 5)
    scores = [json.loads((tmp_path / name / "unseen.json").read_text())["mse"] for name in ("first", "second")]
    assert scores[0] != scores[1]
    assert (tmp_path / "first" / "unseen.png").stat().st_size > 10_000


@pytest.mark.slow
def test_known_relations_are_kept_in_the_order_of_the_file(trained: tuple[Path, Path], tmp_path: Path) -> None:
    model, data = trained
    words = ["unseen", str(model), str(data), "-o", str(tmp_path), "--hide", "1", "--relations", "known"]
    assert main([*words, "--tasks", "2"]) == 0
    content = json.loads((tmp_path / "unseen.json").read_text())
    assert content["priors"] == ["true relations are given"]
    bank = read_checkpoint(model)["modmeta"]["bank"]
    assert content["reciprocity"] == reciprocity(bank["relations"])
    np.testing.assert_array_equal(results(tmp_path)["relations"], formats.load(data)["test"].relations[:2])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--hide", "5"], "--hide 5: entities of .* are numbered 0 to 4"),
        (["--relations", "known"], "--relations known needs --hide"),
        (["--hide", "0", "--count", "2"], "--hide takes out one entity"),
        (["--split", "train"], "has no split 'train'"),
        (["--tasks", "9"], "cannot take 9 tasks of 3"),
    ],
)
def test_mistakes_are_named(
    trained: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    model, data = trained
    assert main(["unseen", str(model), str(data), "-o", str(tmp_path / "out"), *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert re.search(message, error)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_search_of_one_receiver_finds_no_mutual_relations(
    trained: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--symmetric` is refused in one line; the advice is taken."""
    content = torch.load(trained[0] / "checkpoints" / "last.ckpt", weights_only=True)
    content["modmeta"]["config"]["search"]["receivers"] = "one"
    torch.save(content, tmp_path / "one.ckpt")
    words = ["unseen", str(tmp_path / "one.ckpt"), str(trained[1]), "-o", str(tmp_path / "out"), "--tasks", "1"]
    assert main([*words, "--symmetric"]) == 2
    assert re.fullmatch(r"error: .*one\.ckpt.*search\.receivers=one; add --no-symmetric\n", capsys.readouterr().err)
    assert main([*words, "--no-symmetric"]) == 0


def test_results_are_not_overwritten(
    trained: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, data = trained
    (tmp_path / "unseen.npz").write_text("mine")
    assert main(["unseen", str(model), str(data), "-o", str(tmp_path)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert (tmp_path / "unseen.npz").read_text() == "mine"
