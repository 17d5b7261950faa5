"""`modmeta generate`, end to end."""

from pathlib import Path

import numpy as np
import pytest

from modmeta.cli import generate as command
from modmeta.cli import main as cli
from modmeta.data.formats import load
from modmeta.data.generation import generate
from modmeta.errors import UserError
from modmeta.outputs import MANIFEST
from modmeta.simulators import WORLDS, Charged

COUNTS = {"train": (3, 4), "valid": (2, 4), "test": (2, 6)}
OPTIONS = ["--train", "3", "--valid", "2", "--test", "2", "--frames", "4", "--test-frames", "6", "--entities", "3"]


@pytest.mark.parametrize("stream", ["task", "nri"])
def test_file_holds_what_the_simulator_gives(stream: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "charged.npz"
    options = [*OPTIONS, "--seed", "4", "--noise", "0.1", "--stream", stream, "-o", str(path)]
    assert cli.main(["generate", "charged", *options]) == 0
    expected = generate(Charged(num_entities=3, observation_noise=0.1), COUNTS, seed=4, stream=stream)
    splits = load(path)
    assert list(splits) == list(COUNTS)
    for split, data in splits.items():
        np.testing.assert_array_equal(data.states, expected[split].states)
        np.testing.assert_array_equal(data.relations, expected[split].relations)
        assert data.settings == expected[split].settings
    out, err = capsys.readouterr()
    assert "train 3 x 4 frames" in out
    assert err == ""


def test_published_layout(tmp_path: Path) -> None:
    assert cli.main(["generate", "springs", *OPTIONS, "--format", "nri", "-o", str(tmp_path / "d")]) == 0
    names = {file.name for file in (tmp_path / "d").iterdir()}
    arrays = {f"{part}_{split}_springs3.npy" for part in ("loc", "vel", "edges") for split in COUNTS}
    assert names == arrays | {MANIFEST}
    assert np.load(tmp_path / "d" / "loc_test_springs3.npy").shape == (2, 6, 2, 3)
    assert load(tmp_path / "d")["train"].num_tasks == 3


@pytest.mark.parametrize("world", ["kuramoto", "masses", "mixed"])
def test_worlds_that_were_not_published(world: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["generate", world, *OPTIONS, "-o", str(tmp_path / "out.npz")]
    assert cli.main([*arguments, "--stream", "nri"]) == 2
    assert capsys.readouterr().err == f"error: world {world} has no stream 'nri'; choose 'task'\n"
    assert cli.main(arguments) == 0
    data = load(tmp_path / "out.npz")["test"]
    assert data.features == WORLDS[world].features
    assert data.settings["world"] == world
    expected = generate(WORLDS[world](num_entities=3), COUNTS)["test"].types
    np.testing.assert_array_equal(data.types, expected)


def test_mixed_relations_survive_the_published_layout(tmp_path: Path) -> None:
    assert cli.main(["generate", "mixed", *OPTIONS, "--format", "nri", "-o", str(tmp_path / "d")]) == 0
    expected = generate(WORLDS["mixed"](num_entities=3), COUNTS)
    for split, data in load(tmp_path / "d").items():
        np.testing.assert_array_equal(data.relations, expected[split].relations)


def test_oscillators_do_not_fit_the_published_layout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["generate", "kuramoto", *OPTIONS, "--format", "nri", "-o", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert "are not positions and their velocities" in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("form", ["npz", "nri"])
def test_existing_output_is_refused_before_any_work(
    form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["generate", "springs", *OPTIONS, "--format", form, "-o", str(tmp_path / "out")]
    assert cli.main(arguments) == 0
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    before = {file: file.read_bytes() for file in files}
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr("modmeta.data.generation.generate", lambda *_, **__: pytest.fail("simulated in vain"))
        assert cli.main([*arguments, "--seed", "1"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert "exists" in err
    assert err.count("\n") == 1
    assert {file: file.read_bytes() for file in files} == before
    assert cli.main([*arguments, "--seed", "1", "--overwrite"]) == 0
    assert any(file.read_bytes() != before[file] for file in files)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["-o", "a.npz"], "nothing to generate"),
        (["--train", "-1", "-o", "a.npz"], "number of tasks is -1"),
        (["--train", "2", "--frames", "0", "-o", "a.npz"], "number of frames is 0"),
        (["--train", "2", "--entities", "1", "-o", "a.npz"], "num_entities=1"),
        (["--train", "2", "--noise", "-1", "-o", "a.npz"], "observation_noise=-1.0"),
        (["--train", "2", "--seed", "-1", "-o", "a.npz"], "seed=-1"),
        (["--train", "2", "--threads", "0", "-o", "a.npz"], "threads=0"),
        (["--train", "2", "-o", "nowhere/a.npz"], "nowhere is not a directory"),
        (["--train", "2", "-o", "."], "is a directory"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["generate", "springs", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert word in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arguments", [["generate"], ["generate", "planets", "-o", "a"], ["generate", "springs"]])
def test_unknown_commands(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    assert "usage" in capsys.readouterr().err


@pytest.mark.parametrize(("raised", "status"), [(KeyboardInterrupt(), 130), (UserError("so"), 2)])
def test_exit_status(raised: BaseException, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(args: object) -> None:
        raise raised

    monkeypatch.setattr(command, "run", fail)
    assert cli.main(["generate", "springs", "-o", "a"]) == status
