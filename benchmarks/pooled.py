"""Thousands of recordings of one graph: memory, seconds of a pass over them, and what two processes find.

    python -m benchmarks.networks springs --nodes 30 --tasks 8000 --frames 20 --out DIR
    python -m benchmarks.pooled DIR/springs_er_30_0.npz --tasks 1000 2000 4000 8000 --devices 1 2
    python -m benchmarks.groups --table        # docs/benchmarks/groups.md, with what was measured

A packaged model (`grams`) or steps alone (`--way halfway`) tell the graph from all recordings together. Every
measurement is a command of its own. Memory is the highest of a process during the search, less what it has with the
recordings in memory.
"""

import argparse
import json
import subprocess
import sys
import time
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchmetrics.functional.classification import binary_auroc

import modmeta
from modmeta.cli.infer import several
from modmeta.io import interruptible, write_json
from modmeta.machine import commit, hardware
from modmeta.search.infer import Inferred
from modmeta.search.pooled import PooledProblem, in_batches, infer_pooled

RESULTS = Path(__file__).resolve().parents[1] / "results" / "pooled"
GRAMS = "grams"
HEAD = """
## Thousands of recordings

`python -m benchmarks.pooled FILE --way WAY`: {nodes} springs, one graph, {frames} frames a recording, told from all
recordings together by the packaged model `springs5` (`grams`: a pass over all recordings, and draws from its sums, as
in a search step of training) or by steps alone (`halfway`: regression on the first 10,000 steps). Memory is what the
search of a process takes beyond the recordings, of which a thousand take 10 MB; it is that of the tasks met at once.
Seconds are of the CPU, of the busiest process.

| way | recordings | processes | AUROC | structure as of one process | memory, MB | seconds |
|---|---|---|---|---|---|---|
"""


def memory(what: str) -> float:
    """MB of this process: `VmRSS` now, `VmHWM` at most since the last reset."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what))
    return int(line.split()[1]) / 1024


def measure(path: Path, tasks: int, way: str, devices: int) -> dict[str, Any] | None:
    """One measurement; None in processes that are not the first."""
    torch.set_num_threads(1)
    model = modmeta.load("springs5")
    with np.load(path) as file:
        states = torch.from_numpy(file["states"][:tasks].astype(np.float32))
        truth = torch.from_numpy(file["relations"] > 0)
    states = (states - torch.tensor(model.units.offset)) / torch.tensor(model.units.scale)
    search = model.module.search if way == GRAMS else replace(model.module.search, slow=way)
    (_, n, _, d), groups = states.shape, torch.zeros(tasks, dtype=torch.long)
    whole = PooledProblem(model.module.model, states.new_zeros(1, n, 1, d), batches=in_batches(states, groups, None))

    def work(problem: PooledProblem) -> tuple[Inferred, dict[str, float]]:
        Path("/proc/self/clear_refs").write_text("5")  # the highest memory begins anew
        before, began = memory("VmRSS"), time.process_time()
        with torch.no_grad():
            found = infer_pooled(search, problem, torch.Generator().manual_seed(0), draw=way == GRAMS)
        return found, {"memory_mb": memory("VmHWM") - before, "seconds": time.process_time() - began}

    with several(devices) as processes:
        if processes is None:
            found, mine = work(whole)
            each = [mine]
        else:

            def shared() -> tuple[Inferred, list[dict[str, float]]]:
                ids = processes.share(torch.arange(tasks))
                part = replace(whole, batches=in_batches(states, groups[ids], None, ids))
                found, mine = work(replace(part, reduce=processes.reduce, gather=processes.gather))
                return found, processes.gather(mine)

            found, each = processes.together(shared)
            if not processes.first:
                return None
    off = ~torch.eye(n, dtype=torch.bool)
    edge, told = truth[off], found.probabilities[0, ..., 1].flatten()
    right = ((told > 0.5) == edge).double().mean()
    told = told if right > 0.5 else 1 - told
    return {
        "file": path.stem, "way": way, "tasks": tasks, "processes": devices, "entities": n, "frames": states.shape[2],
        "auroc": float(binary_auroc(told.double(), edge.long())), "edges_right": float(max(right, 1 - right)),
        "structure": "".join(map(str, found.structure.edge_modules.flatten().tolist())),
        **{name: round(max(one[name] for one in each), 1) for name in each[0]},
        "hardware": hardware(), "commit": commit(),
    }  # fmt: skip


def section(runs: list[dict[str, Any]]) -> str:
    """The part of the page of all runs; empty if there are none."""
    if not runs:
        return ""
    one = {(run["way"], run["tasks"]): run["structure"] for run in runs if run["processes"] == 1}
    rows = []
    for run in sorted(runs, key=lambda run: (run["way"], run["tasks"], run["processes"])):
        as_one = one.get((run["way"], run["tasks"])) == run["structure"]
        cells = [
            run["way"], str(run["tasks"]), str(run["processes"]), f"{run['auroc']:.4f}", "yes" if as_one else "no",
            f"{run['memory_mb']:.0f}", f"{run['seconds']:.0f}",
        ]  # fmt: skip
        rows.append(f"| {' | '.join(cells)} |\n")
    return HEAD.format(nodes=runs[0]["entities"], frames=runs[0]["frames"]) + "".join(rows)


def main() -> None:
    """Measures, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--tasks", nargs="+", type=int, default=[1000, 2000, 4000, 8000])
    parser.add_argument("--way", choices=(GRAMS, "halfway"), default=GRAMS)
    parser.add_argument("--devices", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of results")
    parser.add_argument("--alone", action="store_true", help="one measurement, in this process")
    arguments = parser.parse_args()
    if arguments.alone:
        (tasks,), (devices,) = arguments.tasks, arguments.devices
        with interruptible():
            run = measure(arguments.file, tasks, arguments.way, devices)
        if run is not None:
            name = f"{run['file']}_{run['way']}_{tasks}tasks_{devices}processes.json"
            write_json(arguments.out / name, run)
            print(json.dumps(run), file=sys.stderr)
        return
    arguments.out.mkdir(parents=True, exist_ok=True)
    for tasks, devices in product(arguments.tasks, arguments.devices):
        words = ["--tasks", tasks, "--devices", devices, "--way", arguments.way, "--out", arguments.out, "--alone"]
        command = [sys.executable, "-m", "benchmarks.pooled", str(arguments.file), *map(str, words)]
        with interruptible():
            subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
