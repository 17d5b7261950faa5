"""The command that `modmeta inspect` prints runs as printed in bash: on every file that people write."""

# ruff: noqa: E501  names of files

import json
import subprocess
from pathlib import Path

import hydra
import numpy as np
import pytest
from omegaconf import OmegaConf

from modmeta.cli.main import main
from modmeta.cli.train import hydra_words
from modmeta.cli.train import train as train_command
from modmeta.data import formats
from modmeta.data.loading.filemodule import filled_from_file
from modmeta.data.trajectories import Trajectories
from tests.runs import configured, undrawn
from tests.unit.data.habits import HABITS, NAMES, STATES, Habit, columns, csv

TINY = ("debug=fast", "callbacks.progress=null", "logger.wandb=null")


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The command that `modmeta inspect` prints last."""
    assert main(["inspect", *words]) == 0
    *_, line = capsys.readouterr().out.rstrip().split("\n")
    assert line.startswith("modmeta train ")
    return line


def in_bash(command: str, cwd: Path) -> list[str]:
    """Words of a command as bash gives them to the program."""
    script = f'modmeta() {{ printf "%s\\0" "$@"; }}; {command}'
    return (
        subprocess.run(["bash", "-c", script], cwd=cwd, capture_output=True, check=True)
        .stdout.decode()
        .split("\0")[1:-1]
    )


def loaded(words: list[str]) -> tuple[Trajectories, dict]:
    """Training tasks that a command of `modmeta train` loads, and its configuration."""
    config = filled_from_file(configured(*hydra_words(words)))
    module = hydra.utils.instantiate(config.data)
    module.setup("fit")
    return module.splits["train"], OmegaConf.to_container(config, resolve=True)  # type: ignore[return-value]


MANY = {name: habit for name, habit in HABITS.items() if habit.tasks > 1}  # enough to train on
SOME = dict(list(MANY.items())[::3])  # the slow test trains on all of them


@pytest.mark.parametrize("habit", SOME.values(), ids=SOME.keys())
def test_the_printed_command_loads_the_file(
    habit: Habit, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    line = printed(capsys, habit.make(Path(".")).as_posix(), *habit.options)
    tasks, config = loaded(in_bash(line, tmp_path))
    assert np.isfinite(tasks.states.numpy()).all()
    assert tasks.states.shape[1] == 3
    estimated = "data.velocities=estimated" in line
    assert tasks.states.shape[3] == (4 if estimated else len(habit.features))
    assert config["data"]["positions"] == (
        2 if {"x", "y"} <= set(habit.features) and habit.more.get("names", True) else config["data"]["positions"]
    )


@pytest.mark.slow
@pytest.mark.parametrize("habit", MANY.values(), ids=MANY.keys())
def test_the_printed_command_trains(
    habit: Habit, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = in_bash(printed(capsys, str(habit.make(tmp_path)), *habit.options), tmp_path)
    with undrawn():
        assert train_command([*words, "-o", "run", *TINY]) == 0
    assert (tmp_path / "run" / "metrics.json").exists()


ODD = ["a=b.csv", "#1.csv", "small (1).csv", "größe.csv", "a,b.csv", "it's.csv", 'a"b.csv', "[1].csv", "{a}.csv", "~x.csv", "-a.csv",
       "a b.csv", "$HOME.csv", "a&b.csv", "seed=1", "x;y.csv", "+seed=1.csv", "a:b.csv", "*.csv", "back\\slash.csv", "%s.csv"]  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_any_name_of_a_file(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    csv(columns(), name)(tmp_path)
    line = printed(capsys, f"./{name}" if name.startswith("-") else name)
    assert loaded(in_bash(line, tmp_path))[0].states.shape == (2, 3, 10, 4)


@pytest.mark.parametrize("name", [name for name in ODD if not name.startswith("$")])
def test_any_name_as_a_setting(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    csv(columns(), name)(tmp_path)
    assert loaded(["data=files", f"data.path={name}"])[0].states.shape[1] == 3
    given = hydra_words(["experiment=springs5", f"ckpt_path={name}"])
    assert configured(*given).ckpt_path.endswith(name)


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    csv(columns())(tmp_path)
    for words in (["~/a.csv"], ["data=files", "data.path=~/a.csv"]):
        assert loaded(words)[0].states.shape[1] == 3
    assert formats.load("~/a.csv")["test"].num_entities == 3


def test_a_sweep_of_files_is_none_of_one(tmp_path: Path) -> None:
    assert "data.path=a.csv,b.csv" in hydra_words(["-m", "data=files", "data.path=a.csv,b.csv"])


def test_every_option_comes_along(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = columns() | {"score": [0.9] * 143 + [0.1]}
    names = {"task": "scene no", "frame": "when", "entity": "who's"}
    path = csv({names.get(name, name): values for name, values in table.items()})(tmp_path)
    options = [
        "--task",
        "scene no",
        "--frame",
        "when",
        "--entity",
        "who's",
        "--features",
        "x,y,vx,vy",
        "--frame-step",
        "0.1",
    ]
    line = printed(capsys, str(path), *options, "--group", "all", "--mask-below", "score=0.6")
    _, config = loaded(in_bash(line, tmp_path))
    reading = config["data"]["reading"]
    assert [reading[name] for name in ("task", "frame", "entity", "features", "frame_step", "group", "mask_below")] == [
        "scene no", "when", "who's", ["x", "y", "vx", "vy"], 0.1, "all", {"score": 0.6},
    ]  # fmt: skip
    line = printed(capsys, str(path), *options, "--resample", "0.5", "--missing", "mask")
    _, config = loaded(in_bash(line, tmp_path))
    assert (config["data"]["reading"]["resample"], config["data"]["reading"]["missing"]) == (0.5, "mask")


def test_kinds_of_relations_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    relations = np.zeros((4, 3, 3), int)
    relations[:, 0, 1] = 2
    np.savez(tmp_path / "a.npz", states=STATES, relations=relations, features=np.array(NAMES))
    line = printed(capsys, str(tmp_path / "a.npz"))
    assert line.endswith("model.num_edge_modules=3")
    assert loaded(in_bash(line, tmp_path))[1]["model"]["num_edge_modules"] == 3


def test_what_else_it_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    count = len(columns()["x"])
    table = columns() | {
        "mass": [1.5] * count,
        "likelihood": [0.9] * (count - 9) + [0.1] * 9,
        "heading": [90.0 + i for i in range(count)],
    }
    path = csv(table)(tmp_path)
    assert main(["inspect", str(path)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "mass is constant, 1.5" in said
    assert "heading looks like an angle in degrees" in said
    assert "--mask-below likelihood=0.6" in said
    assert "data.reading.features=[x,y,vx,vy]" in said
    assert main(["inspect", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["splits"]["test"]["tasks"] == "4"
    assert found["command"].startswith("modmeta train ")
    assert len(found["features"]["x"]) == 4
    assert "mass is constant, 1.5" in found["notes"]


def test_the_offered_mask_is_right(tmp_path: Path) -> None:
    from modmeta.data.reading import Reading

    count = len(columns()["x"])
    path = csv(columns() | {"likelihood": [0.9] * (count - 9) + [0.1] * 9})(tmp_path)
    data = formats.load(path, how=Reading(mask_below={"likelihood": 0.6}))["test"]
    assert data.features == NAMES
    assert (~data.mask).sum() == 9
    assert not data.mask[3, :, -3:].any()


def test_a_file_too_short_to_train_on_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "a.npz", states=STATES[:1, :, :4], features=np.array(NAMES))
    assert main(["inspect", str(tmp_path / "a.npz")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "training would refuse the file" in said
    assert "modmeta train" not in said


def test_one_recording_is_cut_into_windows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    phase = np.arange(3)[:, None] + 0.1 * np.arange(40)
    states = np.stack([np.sin(phase), np.cos(phase)], axis=-1)[None]
    np.savez(tmp_path / "a.npz", states=states, features=np.array(["x", "y"]))
    line = printed(capsys, str(tmp_path / "a.npz"))
    assert line.endswith("data.velocities=estimated data.window=10")
    assert loaded(in_bash(line, tmp_path))[0].states.shape[1:3] == (3, 10)


def test_tasks_with_the_same_labels_are_taken_for_one_network(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = np.random.default_rng(0)
    states, graph = made.normal(size=(9, 3, 12, 2)), np.array([[0, 1, 0], [0, 0, 1], [0, 0, 0]])
    np.savez(tmp_path / "one.npz", states=states, relations=graph)
    assert "data.group=all" in printed(capsys, str(tmp_path / "one.npz")).split()
    filled_from_file(configured("data=files", f"data.path={tmp_path / 'one.npz'}"))
    assert "labels of all tasks are the same: data.group=all" in capsys.readouterr().out
    other = np.stack([graph] * 8 + [graph.T])
    np.savez(tmp_path / "own.npz", states=states, relations=other)
    assert "data.group" not in printed(capsys, str(tmp_path / "own.npz"))
    np.savez(tmp_path / "unknown.npz", states=states)
    assert main(["inspect", str(tmp_path / "unknown.npz")]) == 0
    assert "if all tasks are of one network, add data.group=all" in " ".join(capsys.readouterr().out.split())
