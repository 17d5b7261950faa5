"""Groups runs that differ by seed alone; means and standard deviations over seeds."""

import json
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from modmeta.report.runs import LARGEST, Run
from modmeta.training.configs import MISSING, is_free

# What parts of a model take for granted, by the names of their classes.
ASSUMED = {
    "ContinuousDynamics": "positions follow velocities in continuous time, walls reflect",
    "IsotropicFeatures": "isotropic laws, equal and opposite, with a power of the distance",
    "RelativeFeatures": "laws of differences",
}
# Keys that depend on the seed, and on where a run wrote.
SEEDS = ("seed", "data.seed", "data.order_seed", "method.seed")
BESIDES = ("callbacks", "trainer.default_root_dir", "trainer.plugins", "data.num_tasks", "data.train")
# Keys added later, with the values that earlier runs had.
ADDED = {
    "method.soft": False, "method.persist": True, "method.decoded": None, "method.searched_frames": None,
    "model.family": None, "proposal.published": False, "restart_likelihood": None, "search.slow": None,
    "model.smooth": True, "search.roles": False, "model.strengths": False,
    "model.constants": False, "data.smoothing": 0,
}  # fmt: skip
# The configuration holds these twice: as config groups, and as parts of the method.
COPIES = tuple(
    f"method.{part}"
    for part in (
        "model.dynamics", "model.likelihood", "search", "temperature", "proposal", "optimizer", "scheduler",
        "gradient_clip", "proposal_optimizer",
    )
)  # fmt: skip


def _within(key: str, parts: Sequence[str]) -> bool:
    return any(key == part or key.startswith(f"{part}.") for part in parts)


def settings_of(run: Run) -> tuple[tuple[str, str], ...]:
    """Settings of a run that determine its results, except number of tasks and seed."""
    kept = {
        key: value
        for key, value in run.settings.items()
        if key not in SEEDS and not is_free(key) and not _within(key, (*BESIDES, *COPIES))
    }
    kept = ADDED | kept
    for name in ("model.strengths", "model.constants", "data.smoothing"):
        kept[name] = kept[name] or ADDED[name]  # null: no cold start has looked
    if kept.get("ckpt_path"):
        kept["ckpt_path"] = "a run"  # of the same seed
    if kept["search.roles"]:
        kept["search.roles"] = "those of its training tasks"
    if not run.settings.get("method.adapt_steps"):
        kept.pop("method.adapt_rate", None)  # has no effect
    return tuple(sorted((key, json.dumps(value, sort_keys=True)) for key, value in kept.items()))


@dataclass(frozen=True)
class Group:
    """Finished runs of the same settings, by seed.

    Attributes:
        name: name of the experiment.
        tasks: number of training tasks.
        runs: at least one.
    """

    name: str
    tasks: int
    runs: tuple[Run, ...]

    def values(self, measure: str) -> list[float]:
        """Values of a measure, of the runs that have it."""
        return [value for run in self.runs if (value := run.value(measure)) is not None]

    def mean(self, measure: str) -> float | None:
        """Mean of a measure over seeds; None where no run has it."""
        values = self.values(measure)
        if any(abs(value) > LARGEST for value in values):
            return sum(values) / len(values)  # infinite or NaN, which `statistics` does not handle
        return statistics.fmean(values) if values else None

    def deviation(self, measure: str) -> float | None:
        """Standard deviation over seeds; None for fewer than two."""
        values = self.values(measure)
        if len(values) < 2:
            return None
        return statistics.stdev(values) if all(abs(value) < LARGEST for value in values) else math.nan

    @cached_property
    def settings(self) -> dict[str, str]:
        return dict(settings_of(self.runs[0]))

    @property
    def stopped(self) -> float | None:
        """Visits of tasks after which training stopped before it had flattened, in any run; None where it had."""
        if all(run.flattened is not False for run in self.runs):
            return None
        return min((visits for run in self.runs if (visits := run.visits) is not None), default=math.nan)

    @property
    def hardware(self) -> str:
        """Hardware of the runs, for tables."""
        return "; ".join(sorted({machine(run.metrics.get("hardware")) + _instead(run) for run in self.runs}))

    @property
    def priors(self) -> str:
        """Structural priors of the runs, what their models assume, and forecasts that are means of several rollouts."""
        named = sorted({str(prior) for run in self.runs for prior in run.metrics.get("priors") or []})
        settings = self.runs[0].settings
        parts = [self._class("dynamics"), self._class("features")]
        named += [ASSUMED[part] for part in parts if part in ASSUMED]
        members = settings.get("method.model.members", settings.get("model.members"))
        named += [f"forecasts are means of {members} rollouts"] if isinstance(members, int) and members > 1 else []
        return "; ".join(named) or "none"

    def _class(self, part: str) -> str:
        """Name of the class of the dynamics or the pair features; empty for a method without them."""
        ends = {"dynamics": ("model._target_", "method.model.dynamics._target_"),
                "features": ("model.features._target_", "method.model.dynamics.features._target_")}  # fmt: skip
        found = [self.runs[0].settings.get(key) for key in ends[part]]
        return next((name.rsplit(".", 1)[-1] for name in found if isinstance(name, str)), "")

    @property
    def features(self) -> str:
        """Pair features that edge modules see."""
        return self._class("features").removesuffix("Features").lower() or "-"


def _instead(run: Run) -> str:
    """Precision of a run, where the processor lacked the requested one; older runs do not record it."""
    hardware, asked = run.metrics.get("hardware"), run.settings.get("trainer.precision")
    used = hardware.get("precision", asked) if isinstance(hardware, dict) else asked
    return "" if str(used)[:2] == str(asked)[:2] else f", {used}"


def machine(hardware: Any) -> str:
    """Short text for the hardware entry of `metrics.json`."""
    if not isinstance(hardware, dict):
        return "unknown"
    gpus = hardware.get("gpus")
    if gpus and isinstance(gpus, list):
        return ", ".join(map(str, gpus))
    threads = hardware.get("threads", "?")
    return f"{hardware.get('cpu', 'unknown')}, {threads} thread{'' if threads == 1 else 's'}"


def grouped(runs: Iterable[Run]) -> list[Group]:
    """Groups finished runs by settings, ordered by name, tasks and settings."""
    found: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        found.setdefault((run.name, int(run.tasks or 0), settings_of(run)), []).append(run)
    return [
        Group(name, tasks, tuple(sorted(of, key=lambda run: (str(type(run.seed)), run.seed, run.where))))
        for (name, tasks, _), of in sorted(found.items(), key=lambda item: item[0])
    ]


def distinctions(groups: Sequence[Group]) -> list[str]:
    """Settings that distinguish groups of the same name and tasks, such as `data.test=200`; empty where unique."""
    out = []
    for group in groups:
        rivals = [other for other in groups if (other.name, other.tasks) == (group.name, group.tasks)]
        keys = sorted({key for other in rivals for key in other.settings | group.settings})
        differing = [key for key in keys if len({other.settings.get(key, MISSING) for other in rivals}) > 1]
        words = [f"{key}={group.settings[key].strip(chr(34))}" for key in differing if key in group.settings]
        out.append(" ".join(words[:4]) + (" …" if len(words) > 4 else ""))
    return out
