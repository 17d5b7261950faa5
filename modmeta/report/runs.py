"""A run as it lies on the disk: its directory, or the file of results that it wrote.

It is *finished* when it has met its test tasks (`metrics.json` holds `test/...`), *failed* when it left `failed.txt`,
*running* while something in its directory was written lately, else *broken off*: the same command takes it up.
"""

import csv
import json
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modmeta.checkpoints.compat import upgraded_config
from modmeta.configs import RECORD, flat
from modmeta.errors import UserError

FAILED = "failed.txt"  # why a run failed, in its directory
METRICS = "metrics.json"
SILENT = 20 * 60  # seconds without a written file, twice those between checkpoints, after which a run is broken off


@dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        where: its place below the path that was given, for messages.
        name: of its experiment.
        tasks: training tasks.
        seed: of the run.
        state: finished, running, broken off or failed.
        metrics: content of `metrics.json`.
        settings: flat configuration.
        history: a row an epoch, where curves were kept.
        note: how far it came, or why it failed.
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
        """A measure, such as `test/mse_1`; none where the run has none."""
        value = self.metrics.get(measure)
        return None if value is None else float(value)

    @property
    def diverged(self) -> list[str]:
        """Measures of test tasks that are not finite."""
        return [name for name, value in self.metrics.items() if name.startswith("test/") and not math.isfinite(value)]


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}") from error


def read_file(path: Path, where: str) -> Run | None:
    """The run that a JSON file tells of; none where it holds something else.

    Raises:
        UserError: it is not JSON, or results are not numbers.
    """
    content = _json(path)
    if not isinstance(content, dict) or not isinstance(content.get("config"), dict) or "train/tasks" not in content:
        return None
    return _finished(content, path, where)


def _finished(content: dict[str, Any], path: Path, where: str) -> Run | None:
    """A run that has met its test tasks; none where it has not."""
    numbers = {name: value for name, value in content.items() if name.startswith(("test/", "train/"))}
    wrong = [name for name, value in numbers.items() if isinstance(value, bool) or not isinstance(value, int | float)]
    name = content["config"].get("name")
    if wrong or not isinstance(name, str):
        raise UserError(f"{path}: {wrong[0] if wrong else 'config.name'} is not what a run writes")
    if not any(key.startswith("test/") for key in numbers):
        return None
    settings = flat(upgraded_config(content["config"]))
    tasks, seed, history = int(content["train/tasks"]), content.get("seed"), _history(content)
    return Run(where, name, tasks, seed, "finished", content, settings, history)


def _history(content: Any) -> list[dict[str, float]]:
    rows = content.get("history") if isinstance(content, dict) else None
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def read_directory(directory: Path, where: str) -> Run:
    """The run of a directory, in whatever state it is.

    Raises:
        UserError: its files cannot be read.
    """
    metrics, curves = directory / METRICS, directory / "curves.json"
    if metrics.exists():
        content = _json(metrics)
        if not isinstance(content, dict) or not isinstance(content.get("config"), dict):
            raise UserError(f"{metrics} is not what a run writes")
        content["history"] = _history(_json(curves)) if curves.exists() else []
        run = _finished(content, metrics, where)
        if run is not None:
            return run
        config = content["config"]
    else:
        config = _recorded(directory / RECORD)
    settings, name = flat(upgraded_config(config)), str(config.get("name", "${"))
    state, note = _state(directory, settings)
    name = where.rsplit("/", 1)[-1] if "${" in name else name  # Hydra alone could tell
    return Run(where, name, settings.get("data.num_tasks"), settings.get("seed"), state, settings=settings, note=note)


def _recorded(record: Path) -> dict[str, Any]:
    """The configuration of a run; references in it stay as they are written."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        config = OmegaConf.to_container(OmegaConf.load(record))
    except (OSError, OmegaConfBaseException, YAMLError) as error:
        raise UserError(f"{record} cannot be read: {str(error).splitlines()[0]}") from error
    if not isinstance(config, dict):
        raise UserError(f"{record} is not what a run writes")
    return {str(key): value for key, value in config.items()}


def _state(directory: Path, settings: dict[str, Any]) -> tuple[str, str]:
    """Of a run without results, and how far it came."""
    note = directory / FAILED
    if note.exists():
        return "failed", (note.read_text(encoding="utf-8").strip().splitlines() or ["no reason given"])[0]
    silent = time.time() - max((path.lstat().st_mtime for path in directory.rglob("*")), default=0.0)
    epochs, curves = 0, directory / "curves.csv"
    if curves.exists():
        with open(curves, newline="", encoding="utf-8") as file:
            epochs = max((int(float(row["epoch"])) + 1 for row in csv.DictReader(file) if row.get("epoch")), default=0)
    reached = f"{epochs} of {settings.get('trainer.max_epochs', '?')} epochs"
    since = f"{silent / 60:.0f} minutes" if silent < 7200 else f"{silent / 3600:.0f} hours"
    return "running" if silent < SILENT else "broken off", f"{reached}, last file written {since} ago"
