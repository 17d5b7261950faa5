"""The benchmarks: a table on the terminal, figures in `results/benchmarks/bench.json`.

python -m benchmarks                 # all, a quarter of an hour
python -m benchmarks step tasks      # some; keeps the figures of the others
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import generation, published_step, scale, step, target
from modmeta.io import write_json
from modmeta.machine import commit, hardware

Figures = dict[str, float]
FILE = Path(__file__).resolve().parents[1] / "results" / "benchmarks" / "bench.json"


SHORT = ("search.start=weights", "trainer.max_epochs=1")  # runs as short as the targets allow


def steps() -> Figures:
    """Rooflines of a training step with our search, and with the published one in two sizes."""
    figures = step.run("experiment=springs5")
    for name, experiment in (("paper", "paper/springs5"), ("paper_small", "paper/springs5_small")):
        figures |= {f"{name}_{part}": share for part, share in step.run(f"experiment={experiment}").items()}
    return figures


PARTS: dict[str, Callable[[], Figures]] = {
    "generation": lambda: generation.run(full=True),
    "step": steps,
    "published_step": published_step.run,
    "target": lambda: (
        target.run("springs5", 0.99, *SHORT, "data.batches_per_epoch=50")
        | target.run("charged5", 0.97, *SHORT, "data.batches_per_epoch=120")
    ),
    "entities": scale.entities,
    "modules": scale.modules,
    "tasks": scale.tasks,
}


def main(names: list[str]) -> None:
    """Measures, prints the table and writes the JSON file."""
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        sys.exit(f"error: unknown benchmark {', '.join(unknown)}; choose from {', '.join(PARTS)}")
    kept = json.loads(FILE.read_text()) if FILE.exists() and names else {}
    made: Figures = {}
    for name in names or PARTS:
        made |= PARTS[name]()
    table = Table(title="benchmarks")
    table.add_column("figure")
    table.add_column("value", justify="right")
    for name, value in made.items():
        table.add_row(name, f"{value:.4g}")
    Console().print(table)
    FILE.parent.mkdir(parents=True, exist_ok=True)
    write_json(FILE, kept | made | {"hardware": hardware(), "commit": commit()})


if __name__ == "__main__":
    main(sys.argv[1:])
