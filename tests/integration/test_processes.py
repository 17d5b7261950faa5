"""Several processes, over gloo: they train as one, and a resumed run may have another number of them."""

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modmeta.data.generation import generate
from modmeta.errors import TaskError, UserError
from modmeta.simulators import Springs
from modmeta.training.distributed import check_same_config
from modmeta.training.processes import Processes
from tests.runs import QUICK, ROOT, checkpoint, command, run

TRAIN = str(ROOT / "train.py")
# Every batch holds all tasks and the search is greedy, so that structures and gradients do not depend on who has what.
# The proposal network normalises by the batch of its own process, so it may differ; nothing is sampled from it.
SMALL = tuple(word for word in QUICK if "devices" not in word)
ALIKE = (
    *SMALL, "data.batch_size=12", "data.valid=7", "trainer.max_epochs=2", "trainer.check_val_every_n_epoch=1",
    "search.selection._target_=modmeta.search.selection.greedy", "optimizer.modules._target_=torch.optim.SGD",
    "~optimizer.modules.fused", "optimizer.modules.lr=0.05",
)  # fmt: skip


def curves(directory: Path) -> list[dict[str, float]]:
    return json.loads((directory / "curves.json").read_text())["history"]


@pytest.mark.parametrize("processes", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_several_processes_train_as_one(processes: int, tmp_path: Path) -> None:
    """Weights, energies and accuracies within rounding; the checkpoint holds the structures of all tasks."""
    run(tmp_path / "one", *ALIKE, "trainer.devices=1")
    words = (f"trainer.devices={processes}", "+trainer.strategy=ddp", f"hydra.run.dir={tmp_path / 'several'}")
    done = command(TRAIN, *ALIKE, *words, f"data_dir={tmp_path}/data", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    one, several = checkpoint(tmp_path / "one"), checkpoint(tmp_path / "several")
    for name, values in one["state_dict"].items():
        if name.startswith("model."):
            torch.testing.assert_close(several["state_dict"][name], values, rtol=1e-3, atol=1e-5, msg=name)
    banks = one["modmeta"]["bank"], several["modmeta"]["bank"]
    order = banks[1]["task_ids"].argsort()
    assert torch.equal(banks[1]["task_ids"][order], banks[0]["task_ids"])
    assert torch.equal(banks[1]["relations"][order], banks[0]["relations"])
    assert torch.equal(banks[1]["visits"][order], banks[0]["visits"])
    assert len(several["modmeta"]["generators"]) == processes
    for row, other in zip(curves(tmp_path / "one"), curves(tmp_path / "several"), strict=True):
        for name in ("train/loss", "train/changed", "train/edge_accuracy", "val/energy", "val/edge_accuracy"):
            assert other[name] == pytest.approx(row[name], rel=1e-3), name


def _ranks(rank: int, file: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    check_same_config({"seed": 0, "data": {"num_tasks": 5}})
    with pytest.raises(UserError, match=r"different settings: seed \(0, now 1\)"):
        check_same_config({"seed": rank, "data": {"num_tasks": 5}})
    torch.distributed.destroy_process_group()


def test_processes_with_different_settings_refuse_to_train(tmp_path: Path) -> None:
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # of forking with threads
        torch.multiprocessing.start_processes(_ranks, (str(tmp_path / "meeting"),), nprocs=2, start_method="fork")


def _shares(rank: int, file: str) -> None:
    os.environ |= {"LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "NODE_RANK": "0", "MASTER_ADDR": "", "MASTER_PORT": ""}
    torch.distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    processes, batches, done = Processes(2), [(np.array([place, place]), 5) for place in range(3)], []

    def work(ids: np.ndarray, n: int) -> tuple[int, int]:
        if n == 4:
            raise TaskError(int(ids[0]), "it is wrong")
        return int(ids[0]) * n, os.getpid()

    found = processes.each(work, batches, done.append)
    assert [number for number, _ in found] == [0, 5, 10]
    assert [by == found[0][1] for _, by in found] == [True, False, True]
    assert done == ([4, 2] if rank == 0 else [])
    assert processes.together(lambda: int(processes.reduce(processes.share(torch.arange(3)).sum()))) == 3
    with pytest.raises(TaskError if rank == 0 else SystemExit, match="task 1: it is wrong" if rank == 0 else None):
        processes.each(work, [batches[0], (np.array([1]), 4), (np.array([2]), 4)], None)
    torch.distributed.destroy_process_group()


def test_processes_share_batches_and_errors(tmp_path: Path) -> None:
    """Every batch is done once, in turn; results are in order in all processes; the first error is everyone's."""
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # of forking with threads
        torch.multiprocessing.start_processes(_shares, (str(tmp_path / "meeting"),), nprocs=2, start_method="fork")


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize("words", [(), ("--window", "13"), ("--group", "all", "--missing", "mask")])
def test_inference_by_several_processes_is_that_of_one(words: tuple[str, ...], processes: int, tmp_path: Path) -> None:
    """Batches of tasks, groups of windows, and one group of all tasks."""
    states = generate(Springs(), {"test": (120, 49)}, seed=7, progress=False)["test"].states
    if "all" in words:  # recordings of one network
        states = np.repeat(states[:1], 7, 0) + 0.001 * np.random.default_rng(0).normal(size=(7, *states.shape[1:]))
        states[2, 1, 10:20] = np.nan
    np.savez(tmp_path / "file.npz", states=states, features=np.array(["x", "y", "vx", "vy"]), frame_step=np.array(0.1))
    for number in (1, processes):
        given = ("springs5", "file.npz", "-o", str(number), "--steps", "3", "--devices", str(number), *words)
        done = command("-m", "modmeta", "infer", *given, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "warn" not in done.stderr.lower()
        assert done.stdout.count("verdict:") == 1
    for name in ("relations.npz", "forecasts.npz"):
        with np.load(tmp_path / "1" / name) as one, np.load(tmp_path / str(processes) / name) as several:
            for key in one:
                if one[key].dtype.kind == "f":
                    np.testing.assert_allclose(several[key], one[key], rtol=1e-4, atol=1e-5, err_msg=key)
                else:
                    np.testing.assert_array_equal(several[key], one[key], err_msg=key)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("all_of_them", [False, True])  # `kill`, and Ctrl-C in a terminal or a scheduler
def test_inference_by_several_processes_ends_on_signals(number: int, all_of_them: bool, tmp_path: Path) -> None:
    """At once, with one line, nobody left and nothing written."""
    states = generate(Springs(), {"test": (100, 49)}, seed=7, progress=False)["test"].states
    np.savez(tmp_path / "file.npz", states=np.repeat(states, 100, 0), features=np.array(["x", "y", "vx", "vy"]))
    running = subprocess.Popen(
        [sys.executable, "-m", "modmeta", "infer", "springs5", "file.npz", "-o", "out", "--devices", "2"],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, cwd=tmp_path, text=True,
        stderr=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    assert running.stderr is not None
    assert "inferring" in running.stderr.readline()
    (os.killpg if all_of_them else os.kill)(running.pid, number)
    out, said = running.communicate(timeout=30)
    assert running.returncode == 128 + number
    lines = [line for line in said.splitlines() if "inferring" not in line]
    assert lines == ["interrupted" if number == signal.SIGINT else "ended by SIGTERM"]
    assert not out
    assert [path.name for path in tmp_path.iterdir()] == ["file.npz"]
    with pytest.raises(ProcessLookupError):
        os.killpg(running.pid, 0)


def _until_epoch(directory: Path, epoch: int, *words: str) -> "subprocess.CompletedProcess[str]":
    """A run in processes of its own, asked to go (SIGTERM) once that epoch is saved."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    running = subprocess.Popen(
        [sys.executable, TRAIN, *words], env=environment, cwd=directory.parent, text=True, stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    while running.poll() is None:
        if (directory / "checkpoints" / "last.ckpt").exists() and checkpoint(directory)["epoch"] >= epoch:
            running.send_signal(signal.SIGTERM)
            break
        time.sleep(0.05)
    _, said = running.communicate(timeout=300)
    return subprocess.CompletedProcess(words, running.returncode, "", said)


@pytest.mark.slow
def test_the_number_of_processes_may_change(tmp_path: Path) -> None:
    """1, 2, 3 and 1 processes, each asked to go: no structure is lost, the curve goes on, the end is reached."""
    directory = tmp_path / "run"
    sizes = ("data.num_tasks=13", "data.batch_size=6", "data.batches_per_epoch=40", "trainer.max_epochs=30")
    words = ("experiment=springs5", *SMALL, *sizes, "model.hidden=32", f"data_dir={tmp_path}/data")
    done = _until_epoch(directory, 2, *words, "trainer.devices=1", f"hydra.run.dir={directory}")
    before = _state(directory, done)
    for processes, epoch in ((2, 8), (3, 14)):
        more = (f"trainer.devices={processes}", "+trainer.strategy=ddp")
        done = _until_epoch(directory, epoch, f"resume={directory}", *more)
        after = _state(directory, done)
        assert len(checkpoint(directory)["modmeta"]["generators"]) == processes
        assert (after["visits"] >= before["visits"]).all()
        assert after["visits"].sum() > before["visits"].sum()
        before = after
    last = command(TRAIN, f"resume={directory}", "trainer.devices=1", cwd=tmp_path)
    assert last.returncode == 0, last.stderr
    history = curves(directory)
    assert [row["epoch"] for row in history] == list(range(1, 31))
    assert [row["steps"] for row in history] == list(range(40, 1201, 40))
    accuracies = [row["train/edge_accuracy"] for row in history]
    assert accuracies[-1] > 0.9
    assert max(a - b for a, b in pairwise(accuracies[20:])) < 0.1  # no loss at any change


def _state(directory: Path, done: "subprocess.CompletedProcess[str]") -> dict[str, Any]:
    """The bank in the order of tasks."""
    assert done.returncode == 0, done.stderr
    assert f"modmeta train --resume {directory}" in done.stderr
    bank = checkpoint(directory)["modmeta"]["bank"]
    order = bank["task_ids"].argsort()
    assert bank["task_ids"][order].tolist() == list(range(13))
    return {name: values[order] for name, values in bank.items()}
