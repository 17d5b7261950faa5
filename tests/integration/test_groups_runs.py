"""One network, many recordings: `modmeta train FILE` with groups, then `infer` and `evaluate`, resumed and sharded."""

import csv
import json
from pathlib import Path

import hydra
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

import modmeta
from modmeta.cli.main import main
from modmeta.data.loading.filemodule import tasks_of
from modmeta.data.reading import Reading
from modmeta.errors import UserError
from modmeta.evaluation.nulls import Compared, Gain
from modmeta.evaluation.verdict import FOUND, UNRESOLVED
from modmeta.training.judge import judge
from modmeta.training.trained import Trained
from tests.runs import KilledAt, accompanied, checkpoint, command, same_run, undrawn

N = 6
SHORT = (
    "trainer.max_epochs=3", "data.batches_per_epoch=4", "data.batch_size=6", "trainer.accelerator=cpu",
    "trainer.devices=1", "callbacks.progress=null", "logger=[csv]", "model.num_edge_modules=2", "threads=1",
)  # fmt: skip


def exchange(graphs: np.ndarray, groups: np.ndarray, frames: int, seed: int, noise: float = 0.0) -> np.ndarray:
    """Recordings (tasks, N, T, 1) of heat that flows along the graph of every task's group."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(len(groups), N))
    path = [x]
    for _ in range(frames - 1):
        for _ in range(10):
            x = x + 0.02 * (graphs[groups] * (x[:, None, :] - x[:, :, None])).sum(2)
        path.append(x)
    states = np.stack(path, 2)[..., None]
    return states + noise * rng.normal(size=states.shape)


def graphs(number: int, seed: int) -> np.ndarray:
    drawn = np.random.default_rng(seed).random((number, N, N)) < 0.3
    return (drawn * (1 - np.eye(N))).astype(np.int64)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two networks with fifteen recordings each, labelled to score them."""
    truth, groups = graphs(2, 0), np.arange(30) % 2
    path = tmp_path_factory.mktemp("groups") / "networks.npz"
    names = np.array(["left", "right"])[groups]
    np.savez(path, states=exchange(truth, groups, 20, 1), relations=truth[groups], groups=names, frame_step=0.2)
    return path


def train(run: Path, file: Path, *words: str) -> None:
    with undrawn():
        assert main(["train", str(file), "-o", str(run), *SHORT, *words]) in (0, None)


@pytest.fixture(scope="module")
def whole(file: Path) -> Path:
    run = file.parent / "whole"
    train(run, file)
    return run


def test_the_bank_has_a_structure_a_group(whole: Path, file: Path) -> None:
    bank = checkpoint(whole)["modmeta"]["bank"]
    assert bank["relations"].shape == (2, N, N - 1)
    metrics = json.loads((whole / "metrics.json").read_text())
    assert metrics["test/edge_accuracy"] == 1
    assert metrics["test/auroc"] == pytest.approx(1)
    assert metrics["verdict"] == "relations found"
    assert metrics["val/gain_over_exchanged"] > 5 * metrics["val/gain_over_exchanged_error"]


@pytest.mark.parametrize(("like", "verdict"), [(True, FOUND), (False, UNRESOLVED)])
def test_what_laws_find_is_resolved_where_the_module_has_it(
    like: bool, verdict: str, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Validation tasks too few to tell; and structures as in the bank, or their opposites."""
    gain, sure = Gain(0.02, 0.01, 3), Gain(0.1, 0.01, 15)
    few, laws = Compared(gain, gain, 0.9, 0.0, 4), Compared(sure, sure, 0.9, 0.0, 16)
    monkeypatch.setattr("modmeta.training.judge.compared", lambda *_, **__: few)
    config = OmegaConf.load(whole / ".hydra" / "config.yaml")
    data = hydra.utils.instantiate(config.data)
    data.setup("fit")
    relations = checkpoint(whole)["modmeta"]["bank"]["relations"].long()
    structures = relations if like else 1 - relations
    module = modmeta.load(whole).module
    assert judge(module, data.splits["valid"], data.splits["train"], laws, structures).verdict.name == verdict


def test_relations_of_groups_are_written_by_their_names(whole: Path, file: Path, tmp_path: Path) -> None:
    with undrawn():
        main(["infer", str(whole), str(file), "-o", str(tmp_path / "out"), "--steps", "3", "--observed", "16"])
    with (tmp_path / "out" / "relations.csv").open() as table:
        rows = list(csv.DictReader(table))
    assert list(rows[0]) == ["group", "receiver", "sender", "relation", "probability"]
    found = {(row["group"], int(row["receiver"]), int(row["sender"])): int(row["relation"]) for row in rows}
    truth = graphs(2, 0)
    assert len(found) == 2 * N * (N - 1)
    assert all(found[name, i, j] == truth[k, i, j] for k, name in enumerate(("left", "right")) for i, j in pairs())
    with (tmp_path / "out" / "forecasts.csv").open() as table:
        assert len({row["task"] for row in csv.DictReader(table)}) == 30, "forecasts are of recordings"


def pairs() -> list[tuple[int, int]]:
    return [(i, j) for i in range(N) for j in range(N) if i != j]


def test_a_new_group_is_told_by_its_recordings_together(whole: Path) -> None:
    """Noise hides the graph from a single recording of eight frames, but not from forty."""
    truth = graphs(1, 5)
    states = exchange(truth, np.zeros(40, int), 8, 6, noise=0.03)
    model = modmeta.load(whole)
    alone = model.infer(states[:1]).relations[0]
    together = model.infer(states, groups=["new"] * 40)
    assert together.relations.shape == (1, N, N)
    assert together.groups is not None
    assert together.groups.tolist() == ["new"]
    off = ~np.eye(N, dtype=bool)
    assert (together.relations[0] == truth[0])[off].mean() > 0.95
    assert (alone == truth[0])[off].mean() < 0.95
    ahead = model.forecast(states, together, 2)
    assert ahead.mean.shape == (40, N, 2, 1)
    with pytest.raises(UserError, match="an integer or string for every task"):
        model.infer(states, groups=["new"])


def test_a_killed_run_continues_to_the_bit(whole: Path, file: Path, tmp_path: Path) -> None:
    run = tmp_path / "killed"
    with accompanied(KilledAt(1, batch=2)), pytest.raises(SystemExit):
        train(run, file)
    with undrawn():
        main(["train", "--resume", str(run)])
    same_run(whole, run)


@pytest.mark.parametrize("setting", ["search.symmetric=true", "model.strengths=true"])
def test_settings_that_do_not_go_with_groups_are_refused(
    setting: str, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        train(tmp_path / "run", file, setting)
    told = capsys.readouterr()
    assert setting in told.err
    assert "set it to false, or set data.group=null" in " ".join(told.err.split())
    assert "laws tried" not in told.out, "before the search for laws"


@pytest.mark.slow
def test_one_recording_is_cut_into_windows(tmp_path: Path) -> None:
    """A table without a task column: one network, one recording."""
    truth = graphs(1, 3)
    rng = np.random.default_rng(0)
    x, path = rng.normal(size=N), []
    for _ in range(300):  # stirred, or the heat would settle
        path.append(x)
        for _ in range(10):
            x = x + 0.02 * (truth[0] * (x[None, :] - x[:, None])).sum(1) + 0.05 * rng.normal(size=N)
    with (tmp_path / "recording.csv").open("w") as table:
        print("frame,entity,heat", file=table)
        for frame, row in enumerate(path):
            for entity, value in enumerate(row):
                print(f"{frame},{entity},{value:.6f}", file=table)
    train(tmp_path / "run", tmp_path / "recording.csv")
    bank = checkpoint(tmp_path / "run")["modmeta"]["bank"]
    assert bank["relations"].shape == (1, N, N - 1)
    assert isinstance(modmeta.load(tmp_path / "run").module, Trained)
    assert torch.isfinite(bank["energies"]).all()


@pytest.mark.slow
def test_entities_of_a_recording_come_and_go(tmp_path: Path) -> None:
    """Windows that lack one are trained on; the pair that is never seen together is told as such."""
    truth = graphs(1, 3)
    rng = np.random.default_rng(0)
    x, seen = rng.normal(size=N), np.ones((400, N), bool)
    seen[200:, 4] = seen[:200, 5] = seen[90:120, 1] = False
    with (tmp_path / "recording.csv").open("w") as table:
        print("frame,animal,heat", file=table)
        for frame in range(400):
            for entity in np.flatnonzero(seen[frame]):
                print(f"{frame},{entity},{x[entity]:.6f}", file=table)
            for _ in range(10):
                acting = np.where(seen[frame], truth[0], 0)  # who is away does nothing
                x = x + 0.02 * (acting * (x[None, :] - x[:, None])).sum(1) + 0.05 * rng.normal(size=N)
    words = ("data.reading.missing=mask", "data.reading.entity=animal", "model.family=difference")
    train(tmp_path / "run", tmp_path / "recording.csv", *words, "callbacks.pictures=null")
    given = ("--entity", "animal", "--missing", "mask", "--window", "20", "--steps", "1")
    with undrawn():
        main(["infer", str(tmp_path / "run"), str(tmp_path / "recording.csv"), "-o", str(tmp_path / "out"), *given])
    with (tmp_path / "out" / "relations.csv").open() as table:
        rows = {(int(row["receiver"]), int(row["sender"])): row for row in csv.DictReader(table)}
    assert rows.keys() == set(pairs())
    assert {pair for pair, row in rows.items() if row["seen_together"] == "false"} == {(4, 5), (5, 4)}
    assert torch.isfinite(checkpoint(tmp_path / "run")["modmeta"]["bank"]["energies"]).all()
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["train/tasks"] == 13


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_recordings_of_a_group_may_be_spread_over_processes(
    processes: int, whole: Path, file: Path, tmp_path: Path
) -> None:
    """Structures as one process finds them, kept once in the checkpoint."""
    words = [word for word in SHORT if "devices" not in word]
    several = (f"trainer.devices={processes}", "+trainer.strategy=ddp", "callbacks.pictures=null")
    done = command("-m", "modmeta", "train", str(file), "-o", str(tmp_path / "run"), *words, *several, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    one, bank = (checkpoint(path)["modmeta"]["bank"] for path in (whole, tmp_path / "run"))
    assert torch.equal(bank["task_ids"], one["task_ids"])
    assert torch.equal(bank["relations"], one["relations"])
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["test/auroc"] == pytest.approx(1)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["halfway", "map", "diffusion"])
def test_steps_that_tell_a_group_may_be_spread_over_processes(way: str, file: Path, tmp_path: Path) -> None:
    """From training to the test, two find what one does; energies differ, since their batches are other ones."""
    words = [word for word in SHORT if "devices" not in word]
    words += ["callbacks.pictures=null", f"search.slow={way}", "model.family=difference"]
    for number in (1, 2):
        several = (f"trainer.devices={number}", "+trainer.strategy=ddp") if number > 1 else ("trainer.devices=1",)
        run = ("-m", "modmeta", "train", str(file), "-o", str(tmp_path / str(number)))
        done = command(*run, *words, *several, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    one, bank = (checkpoint(tmp_path / name)["modmeta"]["bank"] for name in ("1", "2"))
    assert torch.equal(bank["relations"], one["relations"])
    mine, theirs = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("1", "2"))
    assert mine["config"]["search"]["slow"] == theirs["config"]["search"]["slow"] == way
    for name in ("test/auroc", "test/edge_accuracy"):
        assert theirs[name] == pytest.approx(mine[name], rel=1e-3), name
    assert mine["verdict"] == theirs["verdict"]


@pytest.mark.slow
def test_whole_groups_are_held_out_and_told_from_their_own_recordings(tmp_path: Path) -> None:
    """Twelve networks; the last of them is not among those of training."""
    truth, groups = graphs(12, 8), np.repeat(np.arange(12), 4)
    path = tmp_path / "many.npz"
    np.savez(path, states=exchange(truth, groups, 20, 9), relations=truth[groups], groups=groups, frame_step=0.2)
    held = next(
        seed
        for seed in range(20)
        if not (tasks_of(str(path), Reading(), 0.2, 0.2, seed)["train"].group_names == 11).any()
    )
    train(tmp_path / "run", path, f"data.split_seed={held}", "model.family=difference")
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["test/edge_accuracy"] > 0.99
