"""Sweeps: interrupted and resumed, on several processes, by Optuna, on SLURM."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import hydra
import pytest
import submitit
from omegaconf import OmegaConf

from modmeta.training.resume import finished
from tests.runs import QUICK, ROOT, command, launched

TRAIN = str(ROOT / "train.py")
SHORT = (*QUICK, "trainer.max_epochs=2")


def results(sweep: Path) -> dict[str, int]:
    """The runs that are finished, and when their results were written."""
    runs = [path.parent for path in sweep.glob("*/metrics.json")]
    return {run.name: (run / "metrics.json").stat().st_mtime_ns for run in runs if finished(run)}


@pytest.mark.slow
def test_a_sweep_done_again_does_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    sweep, short = tmp_path / "sweep", ("trainer.max_epochs=1", "data.batches_per_epoch=2")
    words = ("-m", *SHORT, *short, "seed=0,1", f"hydra.sweep.dir={sweep}", f"data_dir={tmp_path}/data")
    first = launched(capfd, tmp_path, *words)
    assert first.returncode == 0, first.stderr
    known = results(sweep)
    assert set(known) == {"0", "1"}
    again = launched(capfd, tmp_path, *words)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("is finished") == 2
    assert results(sweep) == known


@pytest.mark.parametrize(
    "words", [(), pytest.param(("sweep=efficiency", "data.num_tasks=5", "seed=0"), marks=pytest.mark.slow)]
)
def test_a_sweep_over_experiments_is_one_directory(
    words: tuple[str, ...], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Though each has a name of its own."""
    experiments = "experiment=baselines/static_springs5,baselines/correlation_data_springs5"
    quick = ("debug=fast", "logger=[]", "callbacks.progress=null", f"data_dir={tmp_path}/data")
    done = launched(capfd, tmp_path, "-m", experiments, *words, *quick)
    assert done.returncode == 0, done.stderr
    (sweep,) = (tmp_path / "runs").iterdir()
    named = {"static_springs5_5tasks_seed0", "correlation_data_springs5_5tasks_seed0"}
    assert set(results(sweep)) == (named if words else {"0", "1"})


def test_a_sweep_with_a_failed_run_does_the_others_and_says_so(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    quick = ("experiment=baselines/static_springs5", "debug=fast", "logger=[]", "callbacks.progress=null")
    words = ("-m", *quick, "data.num_tasks=0,5", f"hydra.sweep.dir={tmp_path / 'sweep'}", f"data_dir={tmp_path}/data")
    done = launched(capfd, tmp_path, *words)
    assert done.returncode == 1, done.stderr
    assert set(results(tmp_path / "sweep")) == {"1"}
    assert "error: data.num_tasks=0 must be at least 1" in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: 1 of the runs failed: sweep/0.")
    assert f"hydra.sweep.dir={tmp_path / 'sweep'}" in last
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_sweep_that_is_killed_goes_on(tmp_path: Path) -> None:
    """Twelve runs, killed three times: in the end there are twelve results, and none was reached twice."""
    sweep, generator = tmp_path / "sweep", random.Random(0)
    words = ("-m", *SHORT, "seed=range(12)", f"hydra.sweep.dir={sweep}", f"data_dir={tmp_path}/data")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    known: dict[str, int] = {}
    for number in (2, 5, 8):
        running = subprocess.Popen(
            [sys.executable, TRAIN, *words], env=environment, cwd=tmp_path, stdout=subprocess.DEVNULL
        )
        while len(results(sweep)) < number:
            assert running.poll() is None
            time.sleep(0.01)
        time.sleep(generator.uniform(0, 0.5))
        running.send_signal(signal.SIGKILL)
        running.wait()
        now = results(sweep)
        assert known.items() <= now.items()
        known = now
    begun = [path.parent.parent.name for path in sweep.glob("*/checkpoints/last.ckpt")]
    last = command(TRAIN, *words, cwd=tmp_path)
    assert last.returncode == 0, last.stderr
    now = results(sweep)
    assert set(now) == {str(number) for number in range(12)}
    assert known.items() <= now.items()  # what was finished was left alone
    assert last.stdout.count("is finished") == len(known)
    assert len(begun) >= len(known)


@pytest.mark.slow
@pytest.mark.parametrize(
    "how",
    [
        ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "seed=range(3)"),
        ("hydra/sweeper=tuning", "hydra.sweeper.n_trials=3", "optimizer.modules.lr=tag(log,interval(0.001,0.1))"),
    ],
    ids=["joblib", "optuna"],
)
def test_other_ways_to_sweep(how: tuple[str, ...], tmp_path: Path) -> None:
    """They finish, and do nothing the second time."""
    words = ("-m", *SHORT, *how, f"hydra.sweep.dir={tmp_path / 'sweep'}", f"data_dir={tmp_path}/data")
    done = command(TRAIN, *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    first = results(tmp_path / "sweep")
    assert set(first) == {"0", "1", "2"}
    again = command(TRAIN, *words, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert results(tmp_path / "sweep") == first
    if "hydra/sweeper=tuning" in how:
        best = OmegaConf.load(tmp_path / "sweep" / "optimization_results.yaml")
        energies = [finished(tmp_path / "sweep" / name)["val/energy"] for name in first]  # type: ignore[index]
        assert best.best_value == pytest.approx(min(energies))


@pytest.mark.slow
def test_a_sweep_of_runs_on_two_processes_each(tmp_path: Path) -> None:
    words = ("-m", *(word for word in SHORT if "devices" not in word), "trainer.devices=2", "+trainer.strategy=ddp")
    more = ("seed=0,1", f"hydra.sweep.dir={tmp_path / 'sweep'}", f"data_dir={tmp_path}/data")
    done = command(TRAIN, *words, *more, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert set(results(tmp_path / "sweep")) == {"0", "1"}


def test_slurm_gets_what_a_job_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dry run: the script that submitit would hand to sbatch."""
    for name in ("srun", "sbatch"):  # submitit looks for them
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        words = ["hydra/launcher=slurm", "hydra.launcher.partition=long", "hydra.launcher.gpus_per_node=2"]
        config = hydra.compose("train", words, return_hydra_config=True)
    launcher = OmegaConf.to_container(config.hydra.launcher)
    assert isinstance(launcher, dict)
    assert launcher.pop("_target_").endswith("SlurmLauncher")
    launcher.pop("submitit_folder")
    launcher["name"] = "train"
    executor = submitit.AutoExecutor(tmp_path, cluster="slurm", slurm_max_num_timeout=launcher.pop("max_num_timeout"))
    common = ("timeout_min", "cpus_per_task", "gpus_per_node", "tasks_per_node", "mem_gb", "nodes", "name")
    common = (*common, "stderr_to_stdout")
    executor.update_parameters(**{k if k in common else f"slurm_{k}": value for k, value in launcher.items()})
    script = executor._executor._make_submission_file_text("python train.py", "id")
    for line in ("--time=240", "--partition=long", "--gpus-per-node=2", "--mem=8GB", "--signal=USR2@120", "--nodes=1"):
        assert f"#SBATCH {line}" in script, script
