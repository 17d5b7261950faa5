"""Whole runs on worlds of unknown laws: `modmeta train FILE` with no option but the number of edge types.

    python -m benchmarks.trained DIR/heat.npz DIR/vortex.npz --seeds 0 1 2
    python -m benchmarks.trained DIR/lotka.npz --choose-kinds       # nor that
    python -m benchmarks.trained DIR/heat.npz --start random        # without the cold start
    python -m benchmarks.trained springs15 --seeds 0 1 2            # 15 bodies, few pairs with springs, no walls
    python -m benchmarks.trained --table                            # docs/benchmarks/trained.md from all results

A world is one of `benchmarks.worlds`. Its training tasks are written to a file as a user has them, without labels, and
without names of features unless these are coordinates and velocities; the run splits off its own validation and test
tasks.
`Model.infer` then sees the new tasks. Labels of half of them say which edge type is which; the other half are scored.
Every run is a file in results/worlds/trained.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from torch import Tensor

import modmeta
from benchmarks.worlds import RESULTS as COLD
from benchmarks.worlds import ROOT, read
from modmeta.evaluation.calibration import to_relations
from modmeta.evaluation.matching import Confusion, match_labels
from modmeta.graph.relations import from_matrix
from modmeta.io import write_json
from modmeta.machine import commit, hardware
from modmeta.model.basis import Kind

RESULTS, PAGE = COLD / "trained", ROOT / "docs" / "benchmarks" / "trained.md"
AHEAD = 5  # frames of a forecast
CHOSEN = ("family", "coordinates", "smooth", "constants")
HEAD = """# Trained runs on worlds of unknown laws

Written by `python -m benchmarks.trained --table`. `modmeta train FILE model.num_edge_modules=K` with no other option
(*chosen*: nor K), from a file of states alone, of which the run keeps two fifths for validation and test. Scored on
half of 100 new tasks; labels of the other half say which edge type is which. Confidence is the mean probability of the
relation named. Forecast error: mean squared error {ahead} frames ahead over that of the last frame standing still.
Seconds of the whole command by the clock, {machines}, beside other work: upper bounds; in brackets those of the
processor, where they were measured. Of coordinates and velocities (springsN) the file has the names.

"""
COLUMNS = (
    "world", "tasks in the file", "edge types", "start", "edges right, mean (by seed)", "confidence",
    "cold start alone, all tasks", "forecast error", "model, by seed", "seconds (CPU)",
)  # fmt: skip


def train(states: Tensor, kind: Kind, directory: Path, words: list[str]) -> tuple[float, float]:
    """Trains on a file of states as a user would; seconds by the clock, and of the processor."""
    axes = "xyz"[: kind.coordinates] if kind.second_order else ""
    names = {"features": np.array([*axes, *(f"v{axis}" for axis in axes)])} if axes else {}
    np.savez(directory / "states.npz", states=states.numpy(), **names)
    command = [sys.executable, "-m", "modmeta", "train", str(directory / "states.npz"), *words]
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    subprocess.run([*command, "-o", str(directory / "run")], check=True, cwd=directory, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - began, spent


def score(probabilities: Tensor, relations: Tensor) -> tuple[float, float]:
    """Edges right on the second half of tasks, modules matched to labels on the first; the mean probability of the
    relation named.

    Args:
        probabilities: of every module, (B, N, S, K).
        relations: true, (B, N, S).
    """
    half, kinds = len(relations) // 2, probabilities.shape[-1]
    confusion = Confusion(kinds, int(relations.max()) + 1)
    confusion.update(probabilities[:half].argmax(-1), relations[:half])
    chances = to_relations(probabilities[half:], match_labels(confusion.matrix()))
    best = chances.max(-1)
    return float((best.indices == relations[half:]).double().mean()), float(best.values.mean())


def forecast_error(model: modmeta.Model, states: Tensor, angles: tuple[bool, ...]) -> float:
    """Mean squared error of the last frames, forecast from those before, over that of standing still."""
    seen, ahead = states[:, :, :-AHEAD], states[:, :, -AHEAD:]
    forecast = torch.as_tensor(model.forecast(seen, model.infer(seen), AHEAD).mean)
    turning = torch.tensor(angles)

    def off(of: Tensor) -> Tensor:
        apart = of - ahead
        return torch.where(turning, torch.remainder(apart + torch.pi, 2 * torch.pi) - torch.pi, apart)[:, :, -1]

    each = [off(of).square().mean((0, 1)) for of in (forecast, seen[:, :, -1:])]
    return float((each[0] / each[1]).mean())


def measure(world: str, tasks: int, seed: int, given: bool, start: str | None) -> dict[str, Any]:
    """One run."""
    states, test, relations, kind = read(world, tasks, seed)
    kinds = int(relations.max()) + 1
    words = [f"seed={seed}", *([f"model.num_edge_modules={kinds}"] if given else [])]
    words += ["model=default"] if start == "random" else []
    with tempfile.TemporaryDirectory() as folder:
        seconds, cpu_seconds = train(states, kind, Path(folder), words)
        model = modmeta.load(Path(folder) / "run")
        config = OmegaConf.to_container(OmegaConf.load(Path(folder) / "run" / ".hydra" / "config.yaml"))
        measures = json.loads((Path(folder) / "run" / "metrics.json").read_text())
    found = torch.as_tensor(model.infer(test).modules)
    edges = torch.stack([from_matrix(found[..., k]) for k in range(found.shape[-1])], -1)
    right, confidence = score(edges, relations)
    choices = config["model"]
    return {
        "world": Path(world.partition(":")[0]).stem,
        "tasks": tasks,
        "seed": seed,
        "start": config["search"]["start"],
        "kinds_given": given,
        "kinds": found.shape[-1],
        "kinds_true": kinds,
        "edges_right": right,
        "confidence": confidence,
        "commonest": float(torch.bincount(relations.flatten()).max() / relations.numel()),
        "forecast_error": forecast_error(model, test[len(test) // 2 :], kind.angles),
        "model": choices["_target_"].rpartition(".")[2],
        "choices": {name: choices[name] for name in CHOSEN if name in choices},
        "likelihood": config["likelihood"]["_target_"].rpartition(".")[2],
        "features": choices["features"]["_target_"].rpartition(".")[2],
        "priors": model.module.priors,
        "agreement": float(model.module.agreement),
        "val_energy": measures.get("val/energy"),
        "command": " ".join(["modmeta train FILE", *words, "-o RUN"]),
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu_seconds, 1),
        "hardware": hardware(),
        "commit": commit(),
    }


def file_name(run: dict[str, Any]) -> str:
    """Of a run's results."""
    words = [run["world"], f"{run['tasks']}tasks", f"seed{run['seed']}", run["start"]]
    return "_".join([*words, *([] if run["kinds_given"] else ["chosen"])]) + ".json"


def page(runs: list[dict[str, Any]], cold: list[dict[str, Any]]) -> str:
    """The table of all runs, beside the cold start alone."""
    groups: dict[tuple[str, int, bool, str], list[dict[str, Any]]] = {}
    for run in sorted(runs, key=lambda run: (run["world"], -run["tasks"], not run["kinds_given"], run["start"])):
        groups.setdefault((run["world"], run["tasks"], run["kinds_given"], run["start"]), []).append(run)
    machines = sorted({f"{run['hardware']['threads']} thread(s) of {run['hardware']['cpu']}" for run in runs})
    lines = [
        *HEAD.format(machines="; ".join(machines), ahead=AHEAD).splitlines(),
        f"| {' | '.join(COLUMNS)} |",
        "|---" * len(COLUMNS) + "|",
        *(row(sorted(group, key=lambda run: run["seed"]), cold) for group in groups.values()),
    ]
    return "\n".join(lines) + "\n"


def row(runs: list[dict[str, Any]], cold: list[dict[str, Any]]) -> str:
    """Runs that differ in their seeds alone."""
    first = runs[0]
    same = [one for one in cold if all(one[name] == first[name] for name in ("world", "tasks", "kinds_given"))]
    by_seed = ", ".join(f"{run['seed']}: {run['edges_right']:.1%}" for run in runs)
    cells = [
        first["world"],
        str(first["tasks"]),
        f"{first['kinds_true']}, given" if first["kinds_given"] else f"chosen: {_each(runs, 'kinds', '{}')}",
        first["start"],
        f"{_mean(runs, 'edges_right'):.1%} ({by_seed})",
        f"{_mean(runs, 'confidence'):.3f}",
        f"{_mean(same, 'edges_right'):.1%}" if same else "",
        _each(runs, "forecast_error", "{:.2g}"),
        "; ".join(dict.fromkeys(_model(run) for run in runs)),
        _seconds(runs),
    ]
    return f"| {' | '.join(cells)} |"


def _model(run: dict[str, Any]) -> str:
    choices = run["choices"]
    if "family" not in choices:
        return str(run["model"])
    return ", ".join([choices["family"], *(["own constants"] if choices.get("constants") else [])])


def _seconds(runs: list[dict[str, Any]]) -> str:
    each = _each(runs, "seconds", "{:.0f}")
    return f"{each} ({_each(runs, 'cpu_seconds', '{:.0f}')})" if all("cpu_seconds" in run for run in runs) else each


def _each(runs: list[dict[str, Any]], what: str, how: str) -> str:
    return ", ".join(dict.fromkeys(how.format(run[what]) for run in runs))


def _mean(runs: list[dict[str, Any]], what: str) -> float:
    return sum(run[what] for run in runs) / len(runs)


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("worlds", nargs="*", metavar="WORLD", help="FILE or name of a textbook's world")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--tasks", nargs="+", type=int, default=[300], help="in the file")
    parser.add_argument("--choose-kinds", action="store_true", help="leave the number of edge types open")
    parser.add_argument("--start", choices=("random",), help="ablation: the default model, from random structures")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of results")
    parser.add_argument("--table", action="store_true", help="write the page from all results")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    cold = [json.loads(path.read_text()) for path in sorted(COLD.glob("*.json"))]
    for world in arguments.worlds:
        for tasks in arguments.tasks:
            for seed in arguments.seeds:
                run = measure(world, tasks, seed, not arguments.choose_kinds, arguments.start)
                arguments.out.mkdir(parents=True, exist_ok=True)
                write_json(arguments.out / file_name(run), run)
                print(row([run], cold), flush=True)
    if arguments.table:
        PAGE.write_text(page([json.loads(path.read_text()) for path in sorted(arguments.out.glob("*.json"))], cold))


if __name__ == "__main__":
    main()
