"""One graph for many recordings: `modmeta train FILE`, then `modmeta infer`, scored by the order of directed pairs.

    python -m benchmarks.groups DIR/vn15_springs.npz DIR/netsim3.npz --tasks 10 50 --seeds 0 1 2
    python -m benchmarks.groups DIR/netsim3.npz --tasks 50 --way diffusion     # relations from steps alone
    python -m benchmarks.groups DIR/recording.npz --frames 500 1000 2000 4000 6000         # one recording, grown
    python -m benchmarks.groups DIR/recording.npz --frames 500 1000 --way least-squares    # on the features of springs
    python -m benchmarks.groups --table        # docs/benchmarks/groups.md from all that was measured

A file has `states` (tasks, entities, frames, features) and `relations` or `truth`, one graph or one for every task,
`[receiver, sender]`. The recordings are written without it, as one group; no option is given but two edge types. Which
of them is the edge is read off the graph. `--every K` keeps every K-th frame, `--frames T` the first T of these;
`--noise S` adds noise of observation, S standard deviations of each feature.
"""

import argparse
import json
import sys
import tempfile
import time
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc, binary_average_precision

from benchmarks import pooled
from benchmarks.networks import FAMILIES
from modmeta.io import write_json
from modmeta.machine import commit, hardware
from modmeta.search import halfway
from modmeta.search.slow import WAYS, log_odds, moments, odds, parted

ROOT = Path(__file__).resolve().parents[1]
RESULTS, PAGE = ROOT / "results" / "groups", ROOT / "docs" / "benchmarks" / "groups.md"
SQUARES = "least-squares"
PRIORS = "two edge types, how frequent each is is learned; no symmetry, no labels"
HEAD = """# One graph, many recordings

Written by `python -m benchmarks.groups --table`. `modmeta train FILE data.group=all model.num_edge_modules=2`, then
`modmeta infer RUN FILE --group all`, on the same recordings: nothing was held out but the graph. Scored by directed
pairs; which edge type is the edge, or none, is read off the graph; precision is at the true number of edges.
Priors: {priors}.
Seconds of the CPU, of both commands, {machines}, and a thousandth of one for every ordered pair.
One recording is trained on and told without any option but the file: how many edge types there are is chosen as well.

"""
STEPS = """
## Frames far apart

`python -m benchmarks.groups FILE --way WAY`: relations by `search.slow` alone, no law and no training. Sparse
relations, no symmetry given (`halfway` learns how often they are mutual), no labels; relations are the pairs of larger
weight.
Noise is of observation, a share of each feature's standard deviation.
`er50`: one graph of 50 nodes, published with Michaelis-Menten kinetics and diffusion (AUC 0.983 and 0.934 there, every
fourth frame, five frames: Pan, Shi, Dokmanic 2024). The strength of the penalty was settled on netsim3 and mm_er50,
how much the weight back counts on subjects of netsim3 that no row of one subject scores.
`_ba_SEED`: graphs of Barabasi and Albert by `python -m benchmarks.networks` (0.930 and 0.944 there), `_half` rounded to
float16 as theirs are. `network30`: 30 noise-driven nodes; from 1, 2, 5, 10, 20, 40 of its recordings the known law with
a sparse penalty has 0.75, 0.82, 0.90, 0.98, 1.00, 1.00, ridge regression 0.70, 0.72, 0.81, 0.90, 0.97, 0.98.
`rossler_er50`, `opinions_er50`: the same graph; features that never change drive entities in `map`. Functions of
`halfway` where frames are far apart were settled on `rossler_er50` and oscillators of other seeds than rows have.
`_stepT`: frames T apart in place of 1.
`kuramoto`, `springs` by `benchmarks.networks` too (0.949 and 0.999 published on `er`); `springs_er_100`, `_250`: 3% of
pairs are related (`_10`: 30%), frames 0.1 apart.
`recording`: one recording of six springs driven by noise; `least-squares` is told that changes of velocity are linear
in the own position and velocity and in the differences of positions to all others. Where the verdict is
`nothing found`, probabilities are those before anything is observed, and AUROC is 0.5.

"""
FAMILIES_HEAD = """
## Families of graphs

`python -m benchmarks.networks springs netsims --graph FAMILY --nodes NODES --tasks 120 --frames 49`, then
`python -m benchmarks.groups FILE --way halfway`: AUROC of directed pairs from 10 and from 120 recordings, mean over
graphs. Families and dynamics as in StructInfer (Wang, Tong, Pang 2023), graphs by generators of our own, without noise.
That regressions decide alone where they tell every weight was settled after rows of food webs had come out worse.

"""
COLUMNS = (
    "file",
    "recordings x frames",
    "AUROC, mean (by seed)",
    "AUPRC",
    "precision",
    "pairs right",
    "law, by seed",
    "seconds",
    "ms a pair",
)


def read(
    path: Path, tasks: int | None, every: int, frames: int | None, seed: int, noise: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """States (tasks, N, T, D) of recordings drawn at random, and the graph (N, N).

    Args:
        path: of the file.
        tasks: number of recordings; None for all.
        every: frames from one that is kept to the next.
        frames: number of those; None for all.
        seed: of the draw, and of noise.
        noise: of observation, as a share of the standard deviation of each feature.
    """
    with np.load(path, allow_pickle=False) as file:
        states, truth = file["states"], file["relations" if "relations" in file else "truth"]
    order = np.sort(np.random.default_rng(seed).permutation(len(states))[:tasks])
    states = states[order][:, :, ::every][:, :, :frames].astype(np.float64)
    if noise:
        states += noise * states.std((0, 1, 2)) * np.random.default_rng([seed, 1]).normal(size=states.shape)
    return states, (truth[0] if truth.ndim == 3 else truth) > 0


def measure(path: Path, tasks: int | None, every: int, frames: int | None, seed: int, noise: float) -> dict[str, Any]:
    """One run."""
    from modmeta.cli.main import main as modmeta

    states, truth = read(path, tasks, every, frames, seed, noise)
    began, busy = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        file, run, out = (str(Path(folder) / name) for name in ("recordings.npz", "run", "out"))
        np.savez(file, states=states)
        settings = [f"seed={seed}", "logger=[csv]", "threads=1", "callbacks.progress=null", "callbacks.pictures=null"]
        several = len(states) > 1  # one recording needs no option
        modmeta(["train", file, "-o", run, *settings, *["data.group=all", "model.num_edge_modules=2"] * several])
        modmeta(["infer", run, file, "-o", out, *["--group", "all"] * several])
        seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - busy
        with np.load(Path(out) / "relations.npz") as found:
            chances = found["probabilities"][0]
        config = json.loads((Path(run) / "metrics.json").read_text())["config"]
    off = ~np.eye(len(truth), dtype=bool)
    edge = torch.from_numpy(truth[off])
    named = torch.from_numpy(chances[off]).double()
    ways = [*named.unbind(-1), *(1 - named).unbind(-1)]  # one edge type is the edge, or none
    chance = max(ways, key=lambda chance: int(((chance > 0.5) == edge).sum()))
    return {
        **_told(path, states, every, seed, noise, chance, edge),
        "confidence": float(chances[off].max(-1).mean()),
        "form": _in_words(config),
        "priors": PRIORS,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu_seconds, 1),
    }


def _told(
    path: Path, states: np.ndarray, every: int, seed: int, noise: float, chance: Tensor, edge: Tensor
) -> dict[str, Any]:
    """What was measured and where, and how well chances of edges (pairs,) tell the edges."""
    best = chance.argsort(descending=True, stable=True)[: int(edge.sum())]
    return {
        "file": path.stem,
        "tasks": len(states),
        "frames": states.shape[2],
        "every": every,
        "entities": states.shape[1],
        "seed": seed,
        **({"noise": noise} if noise else {}),
        "auroc": float(binary_auroc(chance, edge.long())),
        "auprc": float(binary_average_precision(chance, edge.long())),
        "precision": float(edge[best].double().mean()),
        "edges_right": float(((chance > 0.5) == edge).double().mean()),
        "hardware": hardware(),
        "commit": commit(),
    }


def measure_steps(
    path: Path, tasks: int | None, every: int, frames: int | None, seed: int, noise: float, way: str
) -> dict[str, Any]:
    """Relations by `modmeta.search.slow` or `halfway` alone, or by least squares; no law."""
    torch.set_num_threads(1)
    states, truth = read(path, tasks, every, frames, seed, noise)
    began, busy = time.perf_counter(), time.process_time()
    if way == "halfway":
        told = halfway.log_odds(halfway.ends(torch.from_numpy(states))).flatten()
    elif way == SQUARES:
        told = odds(torch.from_numpy(least_squares(states))).flatten()
    else:
        values, drives = parted(torch.from_numpy(states))
        told = log_odds(moments(values[..., 0], None, drives), way).flatten()
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - busy
    edge = torch.from_numpy(truth[~np.eye(len(truth), dtype=bool)])
    return {
        **_told(path, states, every, seed, noise, told.sigmoid(), edge),
        "way": way,
        "form": f"steps: {way}",
        "priors": "sparse; how frequent relations are is learned",
        "seconds": round(seconds, 3),
        "cpu_seconds": round(cpu_seconds, 3),
    }


def least_squares(states: np.ndarray) -> np.ndarray:
    """Weights of springs, (N, N), `[receiver, sender]`, told what they depend on; noise drives the velocities.

    Args:
        states: (tasks, N, T, D), half coordinates, half velocities.
    """
    n, half = states.shape[1], states.shape[-1] // 2
    place, speed = states[:, :, :-1, :half], states[:, :, :-1, half:]
    weights = np.zeros((n, n))
    for i in range(n):
        others = np.delete(np.arange(n), i)
        sent = [*(place[:, others] - place[:, [i]]).swapaxes(0, 1), place[:, i], speed[:, i]]
        constants = [np.broadcast_to(axis, place[:, i].shape) for axis in np.eye(half)]
        columns = np.stack([column.ravel() for column in (*sent, *constants)], 1)
        change = np.diff(states[:, i, :, half:], axis=1).ravel()
        weights[i, others] = np.linalg.lstsq(columns, change, rcond=None)[0][: n - 1]
    return weights


def file_name(run: dict[str, Any]) -> str:
    """Of a run's results."""
    every = f"_every{run['every']}" if run["every"] > 1 else ""
    noise = f"_noise{run['noise']:g}" if "noise" in run else ""
    way = f"_{run['way']}" if "way" in run else ""
    return f"{run['file']}_{run['tasks']}tasks_{run['frames']}frames{every}{noise}{way}_seed{run['seed']}.json"


def page(runs: list[dict[str, Any]]) -> str:
    """The page of all runs."""
    machines = sorted({f"{run['hardware']['threads']} thread(s) of {run['hardware']['cpu']}" for run in runs})
    trained, steps = ([run for run in runs if ("way" in run) == alone] for alone in (False, True))
    text = HEAD.format(machines="; ".join(machines), priors=PRIORS) + _table(trained)
    by_family = [run for run in steps if _family(run)]
    if by_family:
        text += FAMILIES_HEAD + _families(by_family)
    rest = [run for run in steps if not _family(run)]
    return text + (STEPS + _table(rest) if rest else "")


def _family(run: dict[str, Any]) -> tuple[str, str] | None:
    """Graph and dynamics of a run of `halfway` whose file is of a family; none for others."""
    dynamics, _, graph = run["file"].partition("_")
    named = (kind for kind in FAMILIES if graph.startswith(kind) and run.get("way") == "halfway")
    return next(((kind, dynamics) for kind in named), None)


def _families(runs: list[dict[str, Any]]) -> str:
    """A line for every family and dynamics, a column for every number of nodes and recordings."""
    cells: dict[tuple[Any, ...], list[float]] = {}
    for run in runs:
        cells.setdefault((_family(run), (run["entities"], run["tasks"])), []).append(run["auroc"])
    lines, columns = (sorted({key[at] for key in cells}) for at in (0, 1))
    head = ["family", "dynamics", *(f"{nodes} nodes, {tasks}" for nodes, tasks in columns)]
    text = f"| {' | '.join(head)} |\n{'|---' * len(head)}|\n"
    for line in lines:
        found = [cells.get((line, column)) for column in columns]
        text += f"| {' | '.join([*line, *(f'{sum(of) / len(of):.4f}' if of else '' for of in found)])} |\n"
    return text


def _table(runs: list[dict[str, Any]]) -> str:
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for run in sorted(runs, key=lambda run: (run["file"], -run["tasks"], run["frames"], run["seed"])):
        key = (run["file"], run["tasks"], run["frames"], run["every"], run.get("noise", 0.0), run.get("way"))
        groups.setdefault(key, []).append(run)
    head = f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|\n"
    return head + "".join(f"{row(key, group)}\n" for key, group in groups.items())


def row(key: tuple[Any, ...], runs: list[dict[str, Any]]) -> str:
    """A line of the table."""
    file, tasks, frames, every, noise = key[:5]
    spread = ", ".join(f"{run['seed']}: {run['auroc']:.4f}" for run in runs)
    seconds = sorted(run["cpu_seconds"] for run in runs)
    cells = [
        file,
        f"{tasks} x {frames}{f', every {every}.' if every > 1 else ''}{f', {noise:.0%} noise' if noise else ''}",
        f"{_mean(runs, 'auroc'):.4f} ({spread})",
        f"{_mean(runs, 'auprc'):.3f}",
        f"{_mean(runs, 'precision'):.3f}",
        f"{_mean(runs, 'edges_right'):.3f}",
        "; ".join(dict.fromkeys(run["form"] for run in runs)),
        f"{seconds[0]:.0f} to {seconds[-1]:.0f}",
        f"{1e3 * sum(seconds) / len(seconds) / (runs[0]['entities'] * (runs[0]['entities'] - 1)):.1f}",
    ]
    return f"| {' | '.join(cells)} |"


def _in_words(config: dict[str, Any]) -> str:
    model, way = config["model"], config["search"].get("slow")
    family = model.get("family") or model["_target_"].rpartition(".")[2]
    return f"{family}{', own constants' * bool(model.get('constants'))}{f'; steps: {way}' if way else ''}"


def _mean(runs: list[dict[str, Any]], what: str) -> float:
    return sum(run[what] for run in runs) / len(runs)


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--tasks", nargs="+", type=int, default=[None], help="number of recordings; all by default")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--frames", nargs="+", type=int, default=[None])
    parser.add_argument("--noise", type=float, default=0.0, help="of observation, as a share of standard deviations")
    parser.add_argument("--way", choices=(*WAYS, "halfway", SQUARES), help="relations from steps alone, no training")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of results")
    parser.add_argument("--table", action="store_true", help="write the page from all results")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for file in arguments.files:
        for tasks, frames, seed in product(arguments.tasks, arguments.frames, arguments.seeds):
            given = (file, tasks, arguments.every, frames, seed, arguments.noise)
            run = measure_steps(*given, arguments.way) if arguments.way else measure(*given)
            write_json(arguments.out / file_name(run), run)
            print(_table([run]).splitlines()[-1], file=sys.stderr, flush=True)
    if arguments.table:
        own, many = (
            [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
            for folder in (arguments.out, pooled.RESULTS)
        )
        PAGE.write_text(page(own) + pooled.section(many))


if __name__ == "__main__":
    main()
