"""What each choice of the charged experiment is worth: one left out at a time.

    python -m benchmarks.ablation              # half an hour on one core; rows already measured are kept
    python -m benchmarks.ablation 50 0         # from 50 training tasks, seed 0

Every row is a run of `train.py` as a user would start it; its metrics lie under `results/ablation`. The table is
written to `results/ablation/charged5_TASKStasks_seedSEED.md`.
"""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

COMMON = (
    "experiment=charged5",
    "~logger.wandb",
    "threads=1",
    "trainer.max_epochs=16",
    "bouncegrad.model.members=1",
    "data.test=500",
)
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
    lines = [
        f"charged5, {tasks} training tasks, 500 test tasks, seed {seed}; 16 epochs, one CPU core; no structural prior.",
        "",
        "| variant | edges right | agreement of halves | training, s |",
        "|---|---|---|---|",
    ]
    base = ROOT / "results" / "ablation"
    for number, (label, overrides) in enumerate(ROWS.items()):
        name = f"ablation{number:02d}"
        file = base / f"{name}_{tasks}tasks_seed{seed}.json"
        if not file.exists():
            words = (*COMMON, *overrides, f"name={name}", f"data.num_tasks={tasks}", f"seed={seed}", f"results={base}")
            subprocess.run([sys.executable, "train.py", *words], cwd=ROOT, check=True)
        row = json.loads(file.read_text())
        agreement = row["val/agreement"]
        lines.append(
            f"| {label} | {row['test/edge_accuracy']:.2%} | {agreement:.2f} | {row['train/seconds']:.0f} |"
            if agreement is not None
            else f"| {label} | {row['test/edge_accuracy']:.2%} | - | {row['train/seconds']:.0f} |"
        )
        (base / f"charged5_{tasks}tasks_seed{seed}.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
