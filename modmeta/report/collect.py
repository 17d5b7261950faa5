"""Finds runs below paths: run directories, sweeps (also unfinished ones), folders of results."""

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modmeta.errors import UserError
from modmeta.plain import read_yaml
from modmeta.report.groups import settings_of
from modmeta.report.runs import METRICS, Run, read_directory, read_file
from modmeta.training.configs import RECORD

SWEEP = "multirun.yaml"  # Hydra's, in the directory of a sweep
DEEPEST = 30  # nested directories
LONGEST_COMMAND = 10_000  # characters of a sweep's command
MOST_BRACKETS = 200  # opening brackets in that command
MOST_RUNS = 10_000  # runs of a sweep that are looked up one by one


@dataclass
class Found:
    """What was found below the paths.

    Attributes:
        runs: in the order of the paths.
        twice: number of duplicates left out: finished runs of the same settings and seed.
        sweeps: number of runs in each state, by sweep; `not started` is one of the states.
        unreadable: messages about files that could not be read.
    """

    runs: list[Run] = field(default_factory=list)
    twice: int = 0
    sweeps: dict[str, Counter[str]] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)

    @property
    def finished(self) -> list[Run]:
        return [run for run in self.runs if run.state == "finished"]

    @property
    def unfinished(self) -> list[Run]:
        return [run for run in self.runs if run.state != "finished"]


def collect(paths: Iterable[Path]) -> Found:
    """Reads all runs below some paths.

    Args:
        paths: run directories, sweeps, folders of results or of any of these, JSON files.

    Raises:
        UserError: a path does not exist, or no run is there.
    """
    found = Found()
    places: dict[Path, Run] = {}
    for path in paths:
        if not path.exists():
            raise UserError(f"{path} does not exist; name run directories, sweeps or files of results")
        if path.is_dir():
            before = len(found.unreadable)
            below = dict(_below(path, path, found))
            if not below and len(found.unreadable) == before:
                raise UserError(f"{path} holds no runs and no results of runs")
        else:
            before = len(found.unreadable)
            run = _read(read_file, path, str(path), found)
            if run is None and len(found.unreadable) == before:
                found.unreadable.append(
                    f"{path} holds no results of a run, as metrics.json does or what results=DIR leaves"
                )
            below = {path: run} if run is not None else {}
        for place, run in below.items():
            places.setdefault(place.resolve(), run)
    runs = list(places.values())
    if not runs:
        more = len(found.unreadable) - 1
        raise UserError("no run could be read: " + found.unreadable[0] + (f", and {more} more" if more else ""))
    found.runs = _once(runs)
    found.twice = len(runs) - len(found.runs)
    return found


def _once(runs: list[Run]) -> list[Run]:
    """Keeps one of several finished runs of the same settings and seed; `results=DIR` writes such copies."""
    kept: dict[Any, Run] = {}
    for place, run in enumerate(runs):
        key = (settings_of(run), run.tasks, run.seed) if run.state == "finished" else place
        if key not in kept or (run.history and not kept[key].history):  # prefer the one with curves
            kept[key] = run
    return list(kept.values())


def _below(directory: Path, top: Path, found: Found, above: tuple[Path, ...] = ()) -> Iterator[tuple[Path, Run]]:
    """Finds runs in a directory; ignores restarts within a run, and links back to a directory `above`."""
    where = directory.relative_to(top).as_posix() if directory != top else top.resolve().name
    try:
        if directory.resolve() in above:
            return
        above = (*above, directory.resolve())
        is_run = (directory / RECORD).exists() or (directory / METRICS).exists()
        parts = [] if is_run else sorted(directory.iterdir())
        folders = {part for part in parts if part.is_dir() and not part.name.startswith(".")}
    except (OSError, RuntimeError) as error:
        found.unreadable.append(f"{where} cannot be read: {getattr(error, 'strerror', None) or error}")
        return
    if is_run:
        run = _read(read_directory, directory, where, found)
        if run is not None:
            yield directory, run
        return
    if len(above) > DEEPEST:
        found.unreadable.append(f"{where} is nested more than {DEEPEST} directories deep")
        return
    runs: list[tuple[Path, Run]] = []
    for part in parts:
        if part in folders:
            runs += _below(part, top, found, above)
        elif part.suffix == ".json":
            run = _read(read_file, part, part.relative_to(top).as_posix(), found)
            runs += [(part, run)] if run is not None else []
    if (directory / SWEEP).exists():
        counts = Counter(run.state for _, run in runs)
        found.sweeps[where] = counts + Counter({"not started": not_started(directory)})
    yield from runs


def _read(read: Callable[[Path, str], Run | None], path: Path, where: str, found: Found) -> Run | None:
    try:
        return read(path, where)
    except UserError as error:  # one broken file must not hide all others
        found.unreadable.append(str(error).replace(str(path), where))
        return None


def not_started(sweep: Path) -> int:
    """Number of runs of a sweep that have no directory yet; 0 where its command cannot be read."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    words = _words(sweep / SWEEP)
    opened = sum(word.count(bracket) for word in words for bracket in "([{")
    if not words or sum(map(len, words)) > LONGEST_COMMAND or opened > MOST_BRACKETS:
        return 0
    begun = set()
    for record in sweep.glob("**/.hydra/overrides.yaml"):
        with contextlib.suppress(UserError):
            content = read_yaml(record)
            begun.add(tuple(map(str, content)) if isinstance(content, list) else ())
    try:
        overrides = OverridesParser.create().parse_overrides(words)
        total = math.prod(map(_choices, overrides))
        if total > MOST_RUNS:  # too many to look up one by one
            return max(total - len(begun), 0)
        batches = BasicSweeper.split_arguments(overrides, None)
        return sum(tuple(run) not in begun for batch in batches for run in batch)
    except (HydraException, RecursionError, ValueError, TypeError, ArithmeticError):
        return 0


def _words(record: Path) -> list[str]:
    """Words of the command of a sweep, if Hydra's basic sweeper ran it."""
    try:
        content = read_yaml(record)
    except UserError:
        return []
    hydra = content.get("hydra") if isinstance(content, dict) else None
    sweeper, given = (hydra.get(key) if isinstance(hydra, dict) else None for key in ("sweeper", "overrides"))
    if not isinstance(sweeper, dict) or not isinstance(given, dict) or not isinstance(given.get("task"), list):
        return []
    params = sweeper.get("params") or {}
    if not str(sweeper.get("_target_")).endswith(".BasicSweeper") or not isinstance(params, dict):
        return []
    return [f"{key}={value}" for key, value in params.items()] + [str(word) for word in given["task"]]


def _choices(override: Any) -> int:
    """Number of values that a sweep gives a key, without expanding them."""
    from hydra.core.override_parser.types import ChoiceSweep, RangeSweep

    value = override.value()
    if isinstance(value, ChoiceSweep):
        return len(value.list)
    if isinstance(value, RangeSweep):
        start, stop, step = (float(part or 0) for part in (value.start, value.stop, value.step))
        return max(math.ceil((stop - start) / step), 0)
    return 1
