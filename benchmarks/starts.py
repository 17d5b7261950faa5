"""Training from found structures beside training from random ones: the experiments of the paper's worlds, seed by seed.

    python -m benchmarks.starts laws springs5 charged5   # runs with search.start=laws that are not in results/starts
    python -m benchmarks.starts --table                  # docs/benchmarks/starts.md; random ones are those of results/

Rows are those of `benchmarks.runs`, which also makes the runs from random structures.
"""

import json
import sys
from typing import Any

from benchmarks.runs import OWN, RESULTS, ROOT, Row, train
from modmeta.training.callbacks.record import result_file

FOUND, PAGE = RESULTS / "starts", ROOT / "docs" / "benchmarks" / "starts.md"
STARTS = ("laws", "weights")
TASKS = (50, 500)
HEAD = """# Starts of training

Written by `python -m benchmarks.starts --table`. The same experiment, tasks and seed, from structures that were found
and from random ones (`search.start`). Edges right and MSE on new tasks. Seconds of training by the clock, without the
cold start of `laws`; both take the same number of steps, so that other seconds are those of a busier machine.

| experiment | tasks | start | seed | edges right | MSE, step 1 | MSE, step 10 | training, s |
|---|---|---|---|---|---|---|---|
"""


def rows() -> list[Row]:
    """Experiments of our own, of 50 and 500 tasks; the paper's inputs have a start of their own."""
    kept = [row for row in OWN if row.tasks in TASKS and "inputs/" not in row.experiment and len(row.seeds) == 3]
    return [row for row in kept if "members" not in " ".join(row.overrides)]


def started(row: Row, start: str) -> Row:
    """The row with another start."""
    name = f"{row.name or row.experiment}_{start}"
    return row._replace(name=name, directory=FOUND, overrides=(*row.overrides, f"search.start={start}"))


def line(row: Row, start: str, seed: int) -> str | None:
    """A line of the table; None without its file."""
    file = result_file(row.directory, row.name or row.experiment, row.tasks, seed)
    if not file.exists():
        return None
    of: dict[str, Any] = json.loads(file.read_text())
    errors = [f"{of[f'test/mse_{step}']:.2g}" for step in (1, 10)]
    accuracy, seconds = f"{of['test/edge_accuracy']:.2%}", f"{of['train/seconds']:.0f}"
    cells = [row.experiment, f"{row.tasks:,}", start, str(seed), accuracy, *errors, seconds]
    return f"| {' | '.join(cells)} |\n"


def table() -> str:
    """The page: for every seed that has a found start, the random one above it."""
    text = HEAD
    for row in rows():
        for seed in row.seeds:
            found = [line(started(row, start), start, seed) for start in STARTS]
            if any(found):
                text += "".join(one for one in (line(row, "random", seed), *found) if one)
    return text


def main(words: list[str]) -> None:
    """Runs what is missing of a start, of the experiments named, or writes the page."""
    if words == ["--table"]:
        PAGE.write_text(table())
        return
    if not words or words[0] not in STARTS:
        sys.exit(f"error: name a start first, one of {', '.join(STARTS)}")
    for row in rows():
        if len(words) == 1 or (row.name or row.experiment) in words[1:]:
            train(started(row, words[0]), row.seeds[0])


if __name__ == "__main__":
    main(sys.argv[1:])
