"""Reads a run from its directory, or from the file of results that it wrote.

A run is *finished* when it was tested (`metrics.json` holds `test/...`), *failed* when it left `failed.txt`, *running*
while files in its directory are recent, else *interrupted*: the same command resumes it.
"""

import contextlib
import csv
import io
import math
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modmeta.errors import UserError
from modmeta.plain import TEXT_BYTES, read_json, read_text, read_yaml
from modmeta.training.checkpoints.compat import upgraded_config
from modmeta.training.configs import FAILED, RECORD, flat

METRICS = "metrics.json"
SILENT = 20 * 60  # seconds without a new file after which a run counts as interrupted: twice those between checkpoints
LONGEST_NAME = 200  # characters
MOST = 10**12  # tasks, steps or seconds
LARGEST = 1e100  # a finite measure has a smaller magnitude
LAST = 0.75  # share of a run's steps after which its curves must be flat
RISE = 0.005  # of the edge accuracy on validation tasks that still counts as flat
FALL = 0.05  # of the validation energy, as a share of its fall over the run, likewise
FEW_WRONG = 0.95  # edge accuracy above which a falling energy does not matter: it is of scales and forecasts


@dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        where: path relative to the one that was given, for messages.
        name: name of the experiment.
        tasks: number of training tasks.
        seed: seed of the run.
        state: finished, running, interrupted or failed.
        metrics: content of `metrics.json`.
        settings: flat configuration.
        history: one dictionary an epoch, where curves were kept.
        note: progress of an unfinished run, or why it failed.
    """

    where: str
    name: str
    tasks: int | None
    seed: int | None
    state: str
    metrics: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    note: str = ""

    def value(self, measure: str) -> float | None:
        """Returns a measure such as `test/mse_1`, or None where the run lacks it."""
        value = self.metrics.get(measure)
        return float(value) if isinstance(value, int | float) else None

    @property
    def flattened(self) -> bool | None:
        """Whether its training had flattened: more of it would hardly have changed which edges are right.

        At the end the edge accuracy on validation tasks is half a point above its best in the first three quarters at
        most, and the validation energy is below its lowest there by a twentieth of its fall over the run at most, or
        95% of the edges are right. A run with one validation cannot show it. None for a method that does not train, or
        a run without curves.
        """
        steps = self.value("train/steps")
        if steps is None or steps <= 1 or not self.history:
            return None
        told = [row for row in self.history if {"steps", "val/energy"} <= row.keys()]
        before = [row for row in told if row["steps"] <= LAST * told[-1]["steps"]]
        if not before:
            return False
        last, name = told[-1], "val/edge_accuracy"
        right, best = last.get(name), max((row[name] for row in before if name in row), default=None)
        rises = right is not None and best is not None and right - best > RISE
        lowest, whole = min(row["val/energy"] for row in before), before[0]["val/energy"] - last["val/energy"]
        falls = lowest - last["val/energy"] > FALL * whole > 0
        return not rises and not (falls and (right is None or right < FEW_WRONG))

    @property
    def visits(self) -> float | None:
        """Visits of tasks in training."""
        steps, size = self.value("train/steps"), self.settings.get("data.batch_size")
        return None if steps is None or not isinstance(size, int) else steps * min(size, self.tasks or size)

    @property
    def diverged(self) -> list[str]:
        """Names of test measures that are not finite."""
        return [name for name, value in self.metrics.items() if name.startswith("test/") and not math.isfinite(value)]


def read_file(path: Path, where: str) -> Run | None:
    """Reads a run from a JSON file; None where the file holds something else.

    Raises:
        UserError: it cannot be read, is not JSON, or is not what a run writes.
    """
    content = read_json(path)
    if not isinstance(content, dict) or not {"config", "train/tasks"} <= content.keys():
        return None
    return _finished(content, path, where)


def _finished(content: dict[str, Any], path: Path, where: str) -> Run | None:
    """Returns a tested run, or None where it was not tested."""
    _check(content, path)
    if not any(key.startswith("test/") for key in content):
        return None
    tasks, seed = int(content["train/tasks"]), content.get("seed")
    settings, history = flat(upgraded_config(content["config"])), _history(content, path)
    return Run(where, content["config"]["name"], tasks, seed, "finished", content, settings, history)


def _check(content: dict[str, Any], path: Path) -> None:
    """Refuses results that no run writes; the message names the first wrong entry."""
    config, priors = content.get("config"), content.get("priors")
    name = config.get("name") if isinstance(config, dict) else None
    numbers = {key: value for key, value in content.items() if key.startswith(("test/", "train/"))}
    tests = any(key.startswith("test/") for key in numbers)
    right = {
        "config": isinstance(config, dict),
        "config.name": isinstance(name, str) and len(name) <= LONGEST_NAME,
        "priors": priors is None or (isinstance(priors, list) and all(isinstance(prior, str) for prior in priors)),
        "seed": content.get("seed") is None or type(content["seed"]) is int,
        "train/tasks": not tests or "train/tasks" in content,
    } | {key: _plausible(key, value) for key, value in numbers.items()}
    wrong = [key for key, fits in right.items() if not fits]
    if wrong:
        raise UserError(f"{path}: {wrong[0]} is not what a run writes")


def _plausible(key: str, value: Any) -> bool:
    """Checks the range of a measure; a diverged run has infinite or NaN errors."""
    if type(value) not in (int, float):
        return False
    if key == "train/tasks":
        return value == value // 1 and 1 <= value < MOST
    if key in ("train/seconds", "train/steps"):
        return 0 <= value < MOST
    if "accuracy" in key:
        return math.isnan(value) or 0 <= value <= 1 + 1e-6
    return not math.isfinite(value) or abs(value) < LARGEST


def _history(content: Any, path: Path) -> list[dict[str, float]]:
    """Checks and returns the rows of a history."""
    rows = content.get("history", []) if isinstance(content, dict) else None
    if not isinstance(rows, list) or not all(
        isinstance(row, dict)
        and all(type(value) in (int, float) and not LARGEST < abs(value) < math.inf for value in row.values())
        for row in rows
    ):
        raise UserError(f"{path}: history is not what a run writes")
    return rows


def read_directory(directory: Path, where: str) -> Run:
    """Reads the run of a directory in any state.

    Raises:
        UserError: its files cannot be read.
    """
    metrics, curves = directory / METRICS, directory / "curves.json"
    if metrics.exists():
        content = read_json(metrics)
        if not isinstance(content, dict) or not isinstance(content.get("config"), dict):
            raise UserError(f"{metrics} is not what a run writes")
        content["history"] = _history(read_json(curves), curves) if curves.exists() else []
        run = _finished(content, metrics, where)
        if run is not None:
            return run
        config = content["config"]
    else:
        config = _recorded(directory / RECORD)
    settings, name = flat(upgraded_config(config)), str(config.get("name", "${"))
    state, note = _state(directory, settings)
    name = where.rsplit("/", 1)[-1] if "${" in name else name  # only Hydra can resolve it
    return Run(where, name, settings.get("data.num_tasks"), settings.get("seed"), state, settings=settings, note=note)


def _recorded(record: Path) -> dict[str, Any]:
    """Reads the configuration of a run; interpolations stay unresolved."""
    config = read_yaml(record)
    if not isinstance(config, dict):
        raise UserError(f"{record} is not what a run writes")
    return config


def _state(directory: Path, settings: dict[str, Any]) -> tuple[str, str]:
    """Returns state and note of a run without results."""
    note = directory / FAILED
    if note.exists():
        try:
            return "failed", (read_text(note, TEXT_BYTES).strip().splitlines() or ["no reason given"])[0]
        except UserError:
            return "failed", f"{FAILED} cannot be read"
    silent = time.time() - _last_written(directory)
    reached = f"{_epochs(directory / 'curves.csv')} of {settings.get('trainer.max_epochs', '?')} epochs"
    since = f"{silent / 60:.0f} minutes" if silent < 7200 else f"{silent / 3600:.0f} hours"
    return "running" if silent < SILENT else "interrupted", f"{reached}, last file written {since} ago"


def _last_written(directory: Path) -> float:
    """Time of the last write in a directory; links are not followed."""
    last = 0.0
    for place, directories, files in os.walk(directory):
        for name in (*directories, *files):
            with contextlib.suppress(OSError):  # deleted in the meantime
                last = max(last, os.lstat(os.path.join(place, name)).st_mtime)
    return last


def _epochs(curves: Path) -> int:
    """Number of epochs in the curves of a running run; 0 where they cannot be read."""
    if not curves.exists():
        return 0
    try:
        rows = csv.DictReader(io.StringIO(read_text(curves, TEXT_BYTES)))
        return max((int(float(row["epoch"])) + 1 for row in rows if row.get("epoch")), default=0)
    except (UserError, ValueError, OverflowError, csv.Error):
        return 0
