"""Calibration of edge probabilities: the packaged models on new tasks.

    python -m benchmarks.calibration            # a few minutes; writes results/benchmarks/calibration.json

Relations are inferred from windows of 10, 20 and 49 frames. The expected calibration error uses 15 bins.
"""

from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import modmeta
from modmeta.data.generation import generate
from modmeta.evaluation.calibration import calibration_error
from modmeta.graph.relations import from_matrix
from modmeta.io import write_json
from modmeta.machine import commit, hardware
from modmeta.simulators import Charged, Kuramoto, Springs

WORLDS = {"springs5": Springs(), "charged5": Charged(), "kuramoto5": Kuramoto()}
WINDOWS, TASKS, SEED = (10, 20, 49), 500, 54321


def run() -> dict[str, Any]:
    """Edge accuracy, mean confidence and calibration error, by model and window."""
    out: dict[str, Any] = {}
    for name, world in WORLDS.items():
        made = generate(world, {"test": (TASKS, 49)}, seed=SEED, stream="task")["test"]
        assert made.relations is not None
        truth, model = from_matrix(torch.from_numpy(made.relations)), modmeta.load(name)
        for window in WINDOWS:
            found = torch.from_numpy(model.infer(made.states[:, :, :window]).probabilities)
            chances = torch.stack([from_matrix(found[..., r]) for r in range(found.shape[-1])], dim=-1)
            best = chances.max(-1)
            out[f"{name}_{window}_accuracy"] = float((best.indices == truth).double().mean())
            out[f"{name}_{window}_confidence"] = float(best.values.double().mean())
            out[f"{name}_{window}_calibration_error"] = calibration_error(chances, truth)
    return out


def main() -> None:
    """Measures, prints the table and writes the JSON file."""
    figures = run()
    table = Table(title=f"{TASKS} new tasks, seed {SEED}")
    for column in ("model", "frames", "edges right", "confidence", "calibration error"):
        table.add_column(column, justify="left" if column == "model" else "right")
    for name in WORLDS:
        for window in WINDOWS:
            cells = [figures[f"{name}_{window}_{what}"] for what in ("accuracy", "confidence", "calibration_error")]
            table.add_row(name, str(window), *(f"{cell:.2%}" for cell in cells))
    Console().print(table)
    results = Path(__file__).resolve().parents[1] / "results" / "benchmarks"
    write_json(results / "calibration.json", figures | {"seed": SEED, "hardware": hardware(), "commit": commit()})


if __name__ == "__main__":
    main()
