"""Runs below some paths: sweeps as they grow, directories of results, single runs."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modmeta.configs import RECORD
from modmeta.errors import UserError
from modmeta.report.groups import settings_of
from modmeta.report.runs import METRICS, Run, read_directory, read_file

SWEEP = "multirun.yaml"  # Hydra's, in the directory of a sweep


@dataclass
class Found:
    """What lay below the paths.

    Attributes:
        runs: in the order of the paths.
        twice: how many were left out, for one of the same settings and seed came before.
        sweeps: how many runs of each sweep are in which state, `not begun` among them.
        unreadable: files that should have been results, and why they were not read.
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
        paths: run directories, sweeps, directories of results or of any of these, JSON files.

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
            run = read_file(path, path.name)
            if run is None:
                raise UserError(f"{path} holds no results of a run, as metrics.json does or what results=DIR leaves")
            below = {path: run}
        for place, run in below.items():
            places.setdefault(place.resolve(), run)
    runs = list(places.values())
    found.runs = _once(runs)
    found.twice = len(runs) - len(found.runs)
    return found


def _once(runs: list[Run]) -> list[Run]:
    """Finished runs of the same settings and seed once; `results=DIR` leaves copies of what runs hold."""
    kept: dict[Any, Run] = {}
    for place, run in enumerate(runs):
        key = (settings_of(run), run.tasks, run.seed) if run.state == "finished" else place
        if key not in kept or (run.history and not kept[key].history):  # rather the one that has curves
            kept[key] = run
    return list(kept.values())


def _below(directory: Path, top: Path, found: Found) -> Iterator[tuple[Path, Run]]:
    """Runs in a directory; restarts within a run are not runs of their own."""
    where = directory.relative_to(top).as_posix() if directory != top else top.resolve().name
    if (directory / RECORD).exists() or (directory / METRICS).exists():
        run = _read(read_directory, directory, where, found)
        if run is not None:
            yield directory, run
        return
    runs: list[tuple[Path, Run]] = []
    for part in sorted(directory.iterdir()):
        if part.is_dir() and not part.name.startswith("."):
            runs += _below(part, top, found)
        elif part.suffix == ".json":
            run = _read(read_file, part, part.relative_to(top).as_posix(), found)
            runs += [(part, run)] if run is not None else []
    if (directory / SWEEP).exists():
        counts = Counter(run.state for _, run in runs)
        found.sweeps[where] = counts + Counter({"not begun": _not_begun(directory)})
    yield from runs


def _read(read: Callable[[Path, str], Run | None], path: Path, where: str, found: Found) -> Run | None:
    try:
        return read(path, where)
    except UserError as error:  # one broken file must not hide all others
        found.unreadable.append(str(error).replace(str(path), where))
        return None


def _not_begun(sweep: Path) -> int:
    """Runs that the command of a sweep asks for and that have no directory yet; 0 where that cannot be told."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        hydra: Any = OmegaConf.load(sweep / SWEEP).hydra
        if not hydra.sweeper._target_.endswith(".BasicSweeper"):
            return 0
        words = [f"{key}={value}" for key, value in (hydra.sweeper.params or {}).items()] + list(hydra.overrides.task)
        batches = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(words), None)
        begun = [list(OmegaConf.load(record)) for record in sweep.glob("**/.hydra/overrides.yaml")]
    except (OSError, OmegaConfBaseException, HydraException, YAMLError, AttributeError):
        return 0
    return sum(words not in begun for batch in batches for words in batch)
