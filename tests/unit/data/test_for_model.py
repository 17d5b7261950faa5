"""From a file to a model: formats by ending or content, the same checks for every command, tasks of several sizes."""

import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from modmeta.api import Model, load, path_of
from modmeta.cli.main import main
from modmeta.data import formats
from modmeta.data.generation import generate, generate_sizes
from modmeta.data.loading.division import divided
from modmeta.data.loading.for_model import Options
from modmeta.data.reading import Reading
from modmeta.data.trajectories import Trajectories
from modmeta.errors import DataError
from modmeta.simulators import Springs
from tests.runs import ROOT


@pytest.fixture(scope="module")
def model() -> Model:
    return load("springs5")


@pytest.fixture(scope="module")
def tasks() -> Trajectories:
    """Two tasks of three and two of four entities."""
    return generate_sizes(Springs(), [3, 4], {"test": (4, 49)}, seed=1, stream="task")["test"]


@pytest.mark.parametrize("known", formats.FORMATS, ids=lambda known: known.endings[0])
def test_every_format_that_is_written_is_read_again(known: formats.Format, tmp_path: Path) -> None:
    data = generate(Springs(num_entities=3), {"test": (2, 5)}, seed=1, progress=False)["test"]
    path = tmp_path / f"data{known.endings[0]}"
    formats.save(path, {"test": data})
    again = formats.load(path)["test"]
    np.testing.assert_array_equal(again.states, data.states)
    assert again.features == data.features
    if known.magic:  # the content counts where the ending says nothing
        other = path.rename(tmp_path / "data.recording")
        np.testing.assert_array_equal(formats.load(other)["test"].states, data.states)


@pytest.mark.parametrize("what", ["features", "frames", "split", "nothing moves", "frame step"])
def test_every_command_refuses_in_the_same_words(
    what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, model: Model
) -> None:
    frames = 2 if what == "frames" else 49
    world = Springs(num_entities=5, sample_every=200 if what == "frame step" else 100)
    data = generate(world, {"test": (3, frames)}, seed=1, progress=False)["test"]
    if what == "features":
        data = Trajectories(data.states[..., :3], data.relations, data.features[:3], data.frame_step)
    if what == "nothing moves":
        data = Trajectories(data.states[:, :, :1].repeat(49, axis=2), None, data.features, data.frame_step)
    path, out = tmp_path / "data.npz", tmp_path / "out"
    formats.save(path, {"test": data})
    monkeypatch.setattr("modmeta.api.load", lambda _: model)
    split = ["--split", "dev"] if what == "split" else []
    said = set()
    for words in (
        ["infer", "springs5", str(path), "-o", str(out)],
        ["evaluate", "springs5", "--data", str(path), "--json", str(out)],
        ["unseen", "springs5", str(path), "-o", str(out)],
    ):
        assert main([*words, *split]) == 2
        said.add(capsys.readouterr().err.replace("49 of them", "2 of them"))
        assert not out.exists()
    assert len(said) == 1
    assert next(iter(said)).startswith(f"error: {path}")


def test_a_file_of_several_splits_asks_for_one(tmp_path: Path, model: Model) -> None:
    splits = generate(Springs(), {"train": (2, 9), "valid": (3, 9)}, seed=1, progress=False)
    formats.save(tmp_path / "two.npz", splits)
    with pytest.raises(DataError, match=r"splits \['train', 'valid'\]; choose one with --split"):
        model.read(tmp_path / "two.npz")
    loaded = model.read(tmp_path / "two.npz", Options(Reading(), split="valid", tasks=2, observed=6))
    assert loaded.seen.states.shape == (2, 5, 6, 4)
    np.testing.assert_array_equal(loaded.truth(2), splits["valid"].states[:2, :, 6:8])
    assert model.read(tmp_path / "two.npz", Options(split="valid")).truth(2) is None


def test_sizes_are_inferred_as_each_by_itself(model: Model, tasks: Trajectories) -> None:
    """Trajectories, arrays with NaN, and arrays with a mask of entities are one thing."""
    found = model.infer(tasks)
    ahead = model.forecast(tasks, found, 3)
    three, four = np.flatnonzero(tasks.counts == 3), np.flatnonzero(tasks.counts == 4)
    for ids, n in ((three, 3), (four, 4)):
        alone = model.infer(tasks.states[ids, :n])
        np.testing.assert_array_equal(found.relations[ids, :n, :n], alone.relations)
        np.testing.assert_array_equal(found.probabilities[ids, :n, :n], alone.probabilities)
        np.testing.assert_array_equal(found.evidence[ids, :n], alone.evidence)
        np.testing.assert_array_equal(found.energies[ids], alone.energies)
        np.testing.assert_array_equal(ahead.mean[ids, :n], model.forecast(tasks.states[ids, :n], alone, 3).mean)
    assert (found.relations[three, 3] == -1).all()
    assert np.isnan(found.probabilities[three, :, 3]).all()
    assert np.isnan(ahead.mean[three, 3]).all()
    assert not np.isnan(ahead.mean[four]).any()
    absent = np.where(tasks.mask[..., None], tasks.states, np.nan)
    for again in (model.infer(absent), model.infer(torch.from_numpy(absent)), model.infer(tasks.states, tasks.mask)):
        np.testing.assert_array_equal(np.asarray(again.probabilities), found.probabilities)


def test_a_mask_of_entities_leaves_out_the_steps_of_what_was_not_seen(model: Model, tasks: Trajectories) -> None:
    states = tasks.states[np.flatnonzero(tasks.counts == 4)].copy()
    seen, steps = np.ones(states.shape[:3], bool), np.ones((2, 48), bool)
    seen[1, 2, 20], steps[1, 19:21] = False, False
    states[1, 2, 20] = np.nan
    found = model.infer(states, seen)
    states[1, 2, 20] = 0.3  # anything
    again, by_steps = model.infer(states, seen), model.infer(states, steps)
    np.testing.assert_array_equal(found.relations, by_steps.relations)
    np.testing.assert_array_equal(found.energies, again.energies)
    assert found.energies[1] < by_steps.energies[1], "more steps count"
    np.testing.assert_allclose(found.energies[0], by_steps.energies[0], rtol=1e-5)


def test_tasks_without_a_step_that_counts_are_refused_and_the_remedy_works(tmp_path: Path, model: Model) -> None:
    data = generate(Springs(), {"test": (2, 49)}, seed=1, progress=False)["test"]
    path = tmp_path / "gaps.h5"
    mask = np.ones(data.states.shape[:3], bool)
    mask[1] = np.arange(49) % 2 == (np.arange(5) > 0)[:, None]  # nobody is seen in two frames in a row
    formats.save(path, {"test": replace(data, mask=mask, task_names=np.array([3, 7]))})
    remedies = r"--resample 0\.1 --missing mask.*entity 1: 49%"
    with pytest.raises(DataError, match=rf"task 7 has no two frames in a row.*{remedies}"):
        model.read(path, Options(Reading(missing="mask")))
    table = tmp_path / "gaps.csv"
    formats.save(table, {"test": replace(data, mask=mask)})
    read = model.read(table, Options(Reading(missing="mask", resample=1, frame_step=0.1)))
    assert model.infer(read.seen, nulls=False).relations.shape == (2, 5, 5)
    with pytest.raises(DataError, match="states: task 1 has no two frames"):
        model.infer(data.states, mask=mask)
    with pytest.raises(DataError, match="split test: task 1 has no two frames"):
        divided("a", {"test": replace(data, mask=mask)}, 0.2, 0.2, 0)


@pytest.mark.parametrize("wrong", ["first", "all but one"])
def test_entities_that_a_task_lacks_come_last(model: Model, tasks: Trajectories, wrong: str) -> None:
    states = tasks.states[np.flatnonzero(tasks.counts == 4)].copy()
    states[0, 0 if wrong == "first" else slice(1, None)] = np.nan
    with pytest.raises(DataError, match="come last"):
        model.infer(states)


def test_evaluate_knows_models_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    data = generate(Springs(), {"test": (2, 60)}, seed=1, progress=False)
    formats.save(tmp_path / "data.npz", data)
    monkeypatch.setattr("modmeta.api.load", lambda given: model if path_of(given) == path_of("springs5") else None)
    assert main(["evaluate", "springs5", "--data", str(tmp_path / "data.npz")]) == 0
    assert "test/edge_accuracy" in capsys.readouterr().out


def test_the_wheel_holds_every_package() -> None:
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    there = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "modmeta").rglob("__init__.py")}
    assert listed == there | {"modmeta.conf"}
