"""What each choice of the charged experiment is worth: one left out at a time.

    python -m benchmarks.ablation              # a quarter of an hour on one core; rows already measured are kept
    python -m benchmarks.ablation 50 0         # from 50 training tasks, seed 0

Every row is a short run of `train.py` as a user would start it; its metrics lie under `results/ablation`. The table is
written to `benchmarks/ablation_charged5.md`.
"""

import sys
from pathlib import Path

from benchmarks.runs import RESULTS, train

COMMON = ("experiment=charged5", "trainer.max_epochs=8", "bouncegrad.model.members=1", "data.test=200")
DISCRETE = ("model=default", "features@model.features=isotropic")
ROWS: dict[str, tuple[str, ...]] = {
    "all": (),
    "relative features, laws with a direction of their own": ("features@model.features=relative",),
    "absolute features": ("features@model.features=absolute",),
    "cubic paths for close pairs, too": ("model.pieces=0", "search.sweeps=1"),
    "one step of a frame instead of continuous time": DISCRETE,
    "the same, protocol units instead of robust scales": (*DISCRETE, "model.robust=false"),
    "the same, no linear path": (*DISCRETE, "model.linear_path=false"),
    "Gaussian likelihood, learned scales": ("likelihood=gaussian",),
    "squared error": ("likelihood=squared",),
    "annealing from 10 instead of 1,000": ("temperature.start=10",),
    "no weight decay": ("optimizer.modules.weight_decay=0",),
    "learning rate 0.002": ("optimizer.modules.lr=2e-3",),
}


def main(tasks: int = 1000, seed: int = 0) -> None:
    """Runs what is missing and writes the table."""
    directory = RESULTS / "ablation"
    lines = ["| variant | edges right | agreement of halves | training, s |", "|---|---|---|---|"]
    for number, (label, overrides) in enumerate(ROWS.items()):
        row = train(directory, f"ablation{number:02d}", tasks, seed, *COMMON, *overrides)
        agreement = "-" if row["val/agreement"] is None else f"{row['val/agreement']:.2f}"
        lines.append(f"| {label} | {row['test/edge_accuracy']:.2%} | {agreement} | {row['train/seconds']:.0f} |")
    machine = f"{row['hardware']['cpu']}, one thread"
    title = (
        f"charged5, {tasks:,} training tasks, 8 epochs, 200 test tasks, seed {seed}; no structural prior; {machine}."
    )
    text = "\n".join([title, "", *lines])
    Path(__file__).with_name("ablation_charged5.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
