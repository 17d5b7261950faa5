"""What each choice of the charged experiment is worth: one left out at a time.

    python -m benchmarks.ablation              # half an hour on one core; runs already in `results/ablation` are kept
    python -m benchmarks.ablation 1000 0 1 2   # from 1,000 training tasks, three seeds
    modmeta report results -o report           # draws them

Every run is one of `train.py` as a user would start it. The variants are those of `modmeta/report/ablations.py`; the
table is written to `benchmarks/ablation_charged5.md`.
"""

import statistics
import sys
from pathlib import Path

from benchmarks.runs import RESULTS, spread, train
from modmeta.report.ablations import COMMON, VARIANTS, name_of


def main(tasks: int = 1000, *seeds: int) -> None:
    """Runs what is missing and writes the table."""
    directory, seeds = RESULTS / "ablation", seeds or (0,)
    lines = ["| variant | edges right | agreement of halves | training, s |", "|---|---|---|---|"]
    machines = set()
    for place, variant in enumerate(VARIANTS):
        runs = [train(directory, name_of(place), tasks, seed, *COMMON, *variant.overrides) for seed in seeds]
        machines |= {f"{run['hardware']['cpu']}, one thread" for run in runs}
        known = [run["val/agreement"] for run in runs if run["val/agreement"] is not None]
        agreement = f"{statistics.mean(known):.2f}" if known else "-"
        accuracy = [run["test/edge_accuracy"] for run in runs]
        right = spread(accuracy, ".2%") if len(runs) > 1 else f"{accuracy[0]:.2%}"
        seconds = statistics.mean(run["train/seconds"] for run in runs)
        lines.append(f"| {variant.title} | {right} | {agreement} | {seconds:.0f} |")
    title = (
        f"charged5, {tasks:,} training tasks, 8 epochs, 200 test tasks, seeds {', '.join(map(str, seeds))}; "
        f"no structural prior; {'; '.join(sorted(machines))}."
    )
    text = "\n".join([title, "", *lines])
    Path(__file__).with_name("ablation_charged5.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
