"""Modules in any composition against one pooled network and MAML, on new tasks from 8 examples.

    python -m benchmarks.compositions                    # all rows and three seeds; skips rows that are in `results/`
    python -m benchmarks.compositions sum2 --seeds 0     # rows whose name contains one of the words
    python -m benchmarks.compositions --step             # one batched step against one task at a time

Every row is a run of `train.py` as a user would start it, on one thread. All methods of a world have the same tasks;
baselines have the epochs below; the table says what each took of the processor. Writes
`results/benchmarks/compositions/` and prints the table of all rows that are there.
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

import torch

from modmeta.compositions import Chain, Composition, Library, Sum
from modmeta.io import write_json
from modmeta.machine import commit, hardware, keep_freed_memory

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results" / "benchmarks" / "compositions"


def _world(how: str, functions: int, slots: int) -> tuple[str, ...]:
    parts = f"[{','.join(['f'] * slots)}]"
    return (
        f"data.world.how={how}", f"data.world.functions={functions}", f"data.world.slots={slots}",
        f"model.libraries.f.modules={functions}", f"model.composition.parts={parts}",
    )  # fmt: skip


# World: experiment and settings of ours, and epochs of a baseline.
WORLDS: dict[str, tuple[str, tuple[str, ...], int]] = {
    "sum2_of_20": ("sum", ("trainer.max_epochs=6",), 60),
    "sum3_of_10": ("sum", (*_world("sum", 10, 3), "trainer.max_epochs=6"), 60),
    "sum3_of_20": ("sum", (*_world("sum", 20, 3), "search.enumerate_up_to=8000", "trainer.max_epochs=6"), 60),
    "chain2_of_8": ("chain", (*_world("chain", 8, 2), "trainer.max_epochs=6"), 60),
    "chain2_of_20": ("chain", ("trainer.max_epochs=6",), 60),
    "chain3_of_5": ("chain", (*_world("chain", 5, 3), "trainer.max_epochs=6"), 60),
    "chain3_of_10": ("chain", (*_world("chain", 10, 3), "trainer.max_epochs=6"), 60),
}
METHODS = ("ours", "pooled", "maml")
BASELINE = (
    "data=functions", "callbacks=baseline", "~model", "~likelihood", "~search", "~temperature", "~proposal",
    "~optimizer", "name=functions",
)  # fmt: skip
COMMON = (
    "logger=csv", "callbacks.progress=null", "trainer.accelerator=cpu", "trainer.devices=1", "threads=1",
    "trainer.check_val_every_n_epoch=1000",
)  # fmt: skip


def command(world: str, method: str, seed: int) -> list[str]:
    """Settings of a row."""
    experiment, settings, epochs = WORLDS[world]
    if method == "ours":
        return [f"experiment=functions/{experiment}", *settings, f"seed={seed}", *COMMON]
    data = [word for word in settings if word.startswith("data.")] or [f"data.world.how={experiment}"]
    return [f"method={method}", *BASELINE, *data, f"trainer.max_epochs={epochs}", f"seed={seed}", *COMMON]


def run(world: str, method: str, seed: int) -> dict[str, Any]:
    """One run: its test measures and seconds of the processor, start and validation included."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "WANDB_MODE": "offline"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory() as directory:
        words = [sys.executable, "train.py", *command(world, method, seed), f"hydra.run.dir={directory}/run"]
        subprocess.run(words, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
        measures = json.loads((Path(directory) / "run" / "metrics.json").read_text())
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    kept = {name: value for name, value in measures.items() if name.startswith("test/")}
    return kept | {
        "world": world, "method": method, "seed": seed, "cpu_seconds": round(after.ru_utime - before.ru_utime, 1),
        "settings": command(world, method, seed), "commit": commit(), "hardware": hardware(),
    }  # fmt: skip


def table(runs: list[dict[str, Any]]) -> str:
    """Rows of all runs, means over seeds."""
    lines = [
        "| world | method | seeds | structures right, % | error, seen | error, unseen | CPU seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for key in sorted({(one["world"], METHODS.index(one["method"])) for one in runs}):
        mine = [one for one in runs if (one["world"], METHODS.index(one["method"])) == key]

        def mean(name: str, mine: list[dict[str, Any]] = mine) -> float:
            values = [one[name] for one in mine if name in one]
            return sum(values) / len(values) if values else float("nan")

        seeds = ", ".join(str(one["seed"]) for one in sorted(mine, key=lambda one: one["seed"]))
        right = " / ".join(f"{100 * one['test/structures']:.1f}" for one in mine if "test/structures" in one) or "-"
        lines.append(
            f"| {key[0]} | {METHODS[key[1]]} | {seeds} | {right} | {mean('test/error_seen'):.2g} | "
            f"{mean('test/error_unseen'):.2g} | {mean('cpu_seconds'):.0f} |"
        )
    return "\n".join(lines)


def step() -> dict[str, Any]:
    """Tasks a second of a search and gradient step, 20 modules and 3 slots, all tasks at once and one at a time."""
    keep_freed_memory()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    out: dict[str, Any] = {}
    parts: dict[str, Composition] = {"sum": Sum(["f"] * 3), "chain": Chain(["f"] * 3)}
    for name, composition in parts.items():
        libraries = {"f": Library(20)}
        tasks = 128
        x = torch.rand(tasks, 16, 1, generator=generator)
        rows = torch.randint(20, (tasks, 3), generator=generator)

        def gradient(x: torch.Tensor, rows: torch.Tensor, composition: Composition = composition,
                     libraries: dict[str, Library] = libraries) -> None:  # fmt: skip
            composition.chosen(libraries, x, rows).square().mean().backward()  # type: ignore[no-untyped-call]

        for how, pieces in (("batched", [slice(None)]), ("alone", [slice(i, i + 1) for i in range(tasks)])):
            for piece in pieces:
                gradient(x[piece], rows[piece])
            began = time.process_time()
            repeats = 10 if how == "batched" else 2
            for _ in range(repeats):
                for piece in pieces:
                    gradient(x[piece], rows[piece])
            out[f"{name}_{how}"] = round(tasks * repeats / (time.process_time() - began))
        out[f"{name}_ratio"] = round(out[f"{name}_batched"] / out[f"{name}_alone"], 1)
    return out


def main() -> None:
    """Runs what is asked for and not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="rows whose WORLD_METHOD contains one of these; all without any")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--step", action="store_true", help="time steps instead")
    args = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    if args.step:
        found = step()
        write_json(RESULTS / "step.json", found | {"hardware": hardware(), "commit": commit()})
        print(found)
        return
    for world in WORLDS:
        for method in METHODS:
            for seed in args.seeds:
                file = RESULTS / f"{world}_{method}_seed{seed}.json"
                if file.exists() or (args.words and not any(word in file.stem for word in args.words)):
                    continue
                write_json(file, run(world, method, seed))
                print(file.name, flush=True)
    print(table([json.loads(file.read_text()) for file in sorted(RESULTS.glob("*_seed*.json"))]))


if __name__ == "__main__":
    main()
