"""Runs behind the figures of README and RESULTS.md: ours, comparisons, ablations.

    python -m benchmarks.runs                  # most of a day on one core; skips runs that are in `results/`
    python -m benchmarks.runs nri charged10    # runs whose name contains one of the words
    modmeta report results -o docs/results --force   # their tables and figures

Every run is a run of `train.py` as a user would start it, on one CPU thread, and writes one JSON file to
`results/EXPERIMENT/` (settings, seed, commit, hardware, wall-clock, all measures, curves).
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from modmeta.report.ablations import COMMON, VARIANTS, name_of
from modmeta.training.callbacks.record import result_file

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results"


class Row(NamedTuple):
    """Runs that differ in their seeds alone."""

    experiment: str
    tasks: int
    overrides: tuple[str, ...] = ()
    seeds: Sequence[int] = (0, 1, 2)
    name: str | None = None  # if it differs from the experiment's
    directory: Path = RESULTS
    start: str | None = None  # name of runs from whose checkpoints these begin, seed by seed


RESTARTS = ("restarts=3",)
SEVEN_MORE = ("data.test=200", "method.model.members=1")  # only their accuracy is reported
SIZES = (5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
FEW = 10  # with so few tasks a run may need a restart
OWN = (
    *(Row(world, tasks, RESTARTS if tasks <= FEW else ()) for world in ("springs5", "charged5") for tasks in SIZES),
    Row("charged5", 50, SEVEN_MORE, seeds=range(3, 10)),
    Row("springs5_noise", 500),
    Row("springs5_noise", 500, ("data.noise=0.05",), name="springs5_noise5"),
    Row("springs5_positions", 500),
    Row("springs3kinds5", 500),
    Row("springs10", 500),
    Row("masses5", 500),
    Row("masses5", 500, ("data.world.friction=0",), name="masses5_frictionless"),
    Row("kuramoto5", 500),
    Row("charged5_noise", 500),
    Row("charged10", 500),
    *(
        Row(f"inputs/{name}", 5000, name=name)
        for name in ("absolute_springs5", "absolute_charged5", "relative_charged5")
    ),
)
TRAINED = ("nri", "supervised", "nri_true", "nri_full", "lstm_joint", "lstm_single", "correlation_lstm")
# The published search and sizes are slow: 40 steps, three minutes, fewer new tasks.
PAPER = ("data.batches_per_epoch=10", "trainer.max_epochs=4", "trainer.check_val_every_n_epoch=4", "data.test=200")


def compared() -> Iterator[Row]:
    """Runs of the methods that ours is compared with."""
    for world in ("springs5", "charged5"):
        for method in ("static", "correlation_data", *TRAINED):
            yield Row(f"baselines/{method}_{world}", 5000, name=f"{method}_{world}")
        if world == "springs5":  # adapts the NRI trained above to new tasks
            yield Row("baselines/nri_adapted_springs5", 5000, name="nri_adapted_springs5", start="nri_springs5")
        for tasks in SIZES[:-1]:  # shorter runs, as the sweeps of conf/experiment/efficiency have them
            yield Row(f"baselines/correlation_data_{world}", tasks, name=f"correlation_data_{world}")
            for method in ("nri", "supervised", "paper"):
                yield Row(f"efficiency/{method}_{world}", tasks, name=f"{method}_{world}")
        yield Row(f"paper/{world}", SIZES[-1], PAPER, name=f"paper_{world}")
        yield Row(f"paper/{world}_small", 300, seeds=(0,), name=f"paper_{world}_small")
    far = ("trainer.max_epochs=240", "trainer.check_val_every_n_epoch=20")  # six times the visits of the row above
    yield Row("baselines/nri_charged5", 5000, far, (0,), name="nri_charged5_long")
    for world, variant, overrides in (
        ("springs5", "uniform", ("search.uniform=true",)),
        ("springs5", "short", _epochs(300)),
        ("springs5", "single", ("data.batch_size=1", *_epochs(300))),
        ("charged5", "long", _epochs(3600)),
    ):
        yield Row(f"paper/{world}_small", 300, overrides, (0,), name=f"paper_{world}_small_{variant}")


def _epochs(number: int) -> tuple[str, str]:
    return f"trainer.max_epochs={number}", f"trainer.check_val_every_n_epoch={number}"


def ablations() -> Iterator[Row]:
    """Variants of the charged experiment that differ in one setting."""
    for place, variant in enumerate(VARIANTS):
        experiment, *common = COMMON
        name, directory = name_of(place), RESULTS / "ablation"
        overrides = (*common, *variant.overrides)
        yield Row(experiment.split("=")[1], 1000, overrides, name=name, directory=directory)


def train(row: Row, seed: int) -> None:
    """Starts a run of `train.py`, unless its file exists."""
    name = row.name or row.experiment
    if result_file(row.directory, name, row.tasks, seed).exists():
        return
    words = [f"results={row.directory.relative_to(ROOT)}", *row.overrides]
    if row.start:
        words.append(f"ckpt_path={_end_of(row.start, row.tasks, seed)}")
    _command(row.experiment, name, row.tasks, seed, *words)


def _command(experiment: str, name: str, tasks: int, seed: int, *more: str) -> None:
    words = [f"experiment={experiment}", f"name={name}", f"data.num_tasks={tasks}", f"seed={seed}"]
    words += ["threads=1", "~logger.wandb", *more]
    print(" ".join(words), flush=True)
    subprocess.run([sys.executable, "train.py", *words], cwd=ROOT, check=True)


def _end_of(name: str, tasks: int, seed: int) -> Path:
    """Newest finished run of a baseline; trains it again if only its results were kept."""
    for again in (False, True):
        if again:
            _command(f"baselines/{name}", name, tasks, seed)
        for file in sorted((ROOT / "runs" / name).glob("*/metrics.json"), reverse=True):
            metrics = json.loads(file.read_text())
            if (metrics["train/tasks"], metrics["seed"]) == (tasks, seed):
                return file.parent.relative_to(ROOT)
    raise SystemExit(f"runs/{name}: the run of {tasks} tasks, seed {seed}, was interrupted")


def main(words: Sequence[str]) -> None:
    """Runs what is missing."""
    for row in (*OWN, *compared(), *ablations()):
        if not words or any(word in (row.name or row.experiment) for word in words):
            for seed in row.seeds:
                train(row, seed)


if __name__ == "__main__":
    main(sys.argv[1:])
