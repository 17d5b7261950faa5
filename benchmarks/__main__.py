"""All benchmarks in one run, a quarter of an hour: a table on the terminal, `results/bench.json` beside it."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import generation, published_step, scale, step, target
from modmeta.report.run import commit, hardware, write_json


def main() -> None:
    """Measures, prints and writes."""
    figures = generation.run(full=True) | step.run("experiment=springs5")
    figures |= {f"paper_{name}": share for name, share in step.run("experiment=paper/springs5").items()}
    figures |= published_step.run() | target.run("springs5", 0.99) | target.run("charged5", 0.97) | scale.run()
    table = Table(title="benchmarks")
    table.add_column("figure")
    table.add_column("value", justify="right")
    for name, value in figures.items():
        table.add_row(name, f"{value:.4g}")
    Console().print(table)
    results = Path(__file__).resolve().parents[1] / "results"
    results.mkdir(exist_ok=True)
    write_json(results / "bench.json", figures | {"hardware": hardware(), "commit": commit()})


if __name__ == "__main__":
    main()
