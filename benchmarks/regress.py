"""Rows of our own run again, beside what they were at an earlier commit.

    python -m benchmarks.regress springs5 kuramoto5   # the first seed of rows so named, if not in benchmarks/reruns
    python -m benchmarks.regress --table              # docs/benchmarks/regress.md

Rows are those of `benchmarks.runs`. A row whose file in results/ was replaced since needs no other run.
"""

import json
import statistics
import subprocess
import sys
from typing import Any

from benchmarks.runs import OWN, ROOT, Row, train
from modmeta.training.callbacks.record import result_file

BEFORE = "1df05cd"
RERUNS, PAGE = ROOT / "benchmarks" / "reruns", ROOT / "docs" / "benchmarks" / "regress.md"
NAMES = ("charged10", "kuramoto5", "springs5_noise", "springs5_noise5", "charged5_noise", "springs5_positions",
         "masses5", "masses5_frictionless")  # fmt: skip
TASKS = (50, 500, 5000)
MEASURES = ("test/edge_accuracy", "test/mse_1", "test/mse_10")
COLUMNS = (
    "experiment", "tasks", "seed", "commit", "edges right, before", "now", "MSE, step 1, before", "now",
    "MSE, step 10, before", "now", "behind",
)  # fmt: skip
HEAD = f"""# Rows run again

Written by `python -m benchmarks.regress --table`. The same experiment, tasks and seed at commit `{BEFORE}` and now, on
new tasks. In brackets the spread at `{BEFORE}`: the standard deviation over its seeds. *Behind* names what is worse by
more than twice that spread, and by more than the last digit shown.

| {" | ".join(COLUMNS)} |
{"|---" * len(COLUMNS)}|
"""


def rows() -> list[Row]:
    """Those that must not get worse."""
    return [row for row in OWN if not row.overrides or row.name in NAMES if _named(row) in NAMES or _sized(row)]


def _named(row: Row) -> str:
    return row.name or row.experiment


def _sized(row: Row) -> bool:
    return row.experiment in ("springs5", "charged5") and row.tasks in TASKS


def before(row: Row, seed: int) -> dict[str, Any]:
    """Results as they were, when all lay in one folder."""
    file = f"results/{_named(row)}_{row.tasks}tasks_seed{seed}.json"
    command = ["git", "-C", str(ROOT), "show", f"{BEFORE}:{file}"]
    of: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return of


def now(row: Row, seed: int) -> dict[str, Any] | None:
    """Results since; None where there are none."""
    for directory in (RERUNS, row.directory):
        file = result_file(directory, _named(row), row.tasks, seed)
        of: dict[str, Any] | None = json.loads(file.read_text()) if file.exists() else None
        if of and of["commit"] != before(row, seed)["commit"]:
            return of
    return None


def line(row: Row, seed: int, spreads: dict[str, float]) -> str | None:
    """A line of the table."""
    new, old = now(row, seed), before(row, seed)
    if new is None:
        return None
    cells, behind = [_named(row), f"{row.tasks:,}", str(seed), f"`{new['commit'][:7]}`"], []
    for name in MEASURES:
        digits = ".2%" if "accuracy" in name else ".2g"
        cells += [f"{old[name]:{digits}} ({spreads[name]:{digits}})", f"{new[name]:{digits}}"]
        worse = (old[name] - new[name]) if "accuracy" in name else new[name] - old[name]
        if worse > 2 * spreads[name] and f"{old[name]:{digits}}" != f"{new[name]:{digits}}":
            behind.append(name.removeprefix("test/"))
    return f"| {' | '.join([*cells, ', '.join(behind)])} |\n"


def table() -> str:
    """The page."""
    text = HEAD
    for row in rows():
        olds = [before(row, seed) for seed in row.seeds]
        spreads = {name: statistics.stdev(old[name] for old in olds) for name in MEASURES}
        text += "".join(one for seed in row.seeds if (one := line(row, seed, spreads)))
    missing = [f"{_named(row)} ({row.tasks:,})" for row in rows() if not any(now(row, seed) for seed in row.seeds)]
    text += f"\nNot run again yet: {', '.join(missing)}.\n" if missing else ""
    return text + "".join(_range(world) for world in ("springs5", "charged5"))


def _range(world: str) -> str:
    """How far apart runs of many tasks were, in words: three seeds alone may lie near one another by chance."""
    of = [row for row in OWN if row.experiment == world and row.tasks >= TASKS[1] and not row.overrides]
    errors = [before(row, seed)[MEASURES[-1]] for row in of for seed in row.seeds]
    which = f"{world}, {TASKS[1]} to {TASKS[-1]:,} tasks, all {len(errors)} runs at `{BEFORE}`"
    return f"\n{which}: MSE, step 10, {min(errors):.2g} to {max(errors):.2g}.\n"


def main(words: list[str]) -> None:
    """Runs the first seeds of the rows named, or writes the page."""
    if words == ["--table"]:
        PAGE.write_text(table())
        return
    for row in rows():
        if _named(row) in words and now(row, row.seeds[0]) is None:
            train(row._replace(directory=RERUNS), row.seeds[0])


if __name__ == "__main__":
    main(sys.argv[1:])
