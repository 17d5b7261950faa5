"""Modules in any composition against one pooled network and MAML, on new tasks from 8 examples.

    python -m benchmarks.compositions                    # all rows and three seeds; skips rows that are in `results/`
    python -m benchmarks.compositions sum2 --seeds 0     # rows whose name contains one of the words
    python -m benchmarks.compositions chain3 --runs DIR  # keeps the directories of runs there
    python -m benchmarks.compositions --look DIR         # medians of errors and wrong structures of such runs
    python -m benchmarks.compositions --step             # one batched step against one task at a time
    python -m benchmarks.compositions --table            # docs/benchmarks/compositions.md from all that was measured

Every row is a run of `train.py` as a user would start it, on one thread. All methods of a world have the same tasks;
baselines have the epochs below, with which MAML takes about our seconds of the processor. *Exact* does not learn:
it scores all structures of the hidden functions themselves. Writes `results/benchmarks/compositions/`.
"""

import argparse
import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

import modmeta
from modmeta.compositions import Chain, ComposedModel, Composition, Library, Sum
from modmeta.compositions.problem import CompositionProblem, kernel_of, random_slots
from modmeta.data.loading.functions import FunctionDataModule
from modmeta.io import write_json
from modmeta.machine import commit, hardware, keep_freed_memory
from modmeta.search.search import Search
from modmeta.search.selection import gibbs
from modmeta.simulators.functions import HiddenFunctions

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results" / "benchmarks" / "compositions"
PAGE = ROOT / "docs" / "benchmarks" / "compositions.md"


def _world(how: str, functions: int, slots: int) -> tuple[str, ...]:
    parts = f"[{','.join(['f'] * slots)}]"
    return (
        f"data.world.how={how}", f"data.world.functions={functions}", f"data.world.slots={slots}",
        f"model.libraries.f.modules={functions}", f"model.composition.parts={parts}",
    )  # fmt: skip


class World(NamedTuple):
    """Tasks, and what learns them.

    Attributes:
        hidden: hidden functions; None for sines.
        experiment: of ours.
        settings: of ours, and of baselines where they are of the data.
        epochs: of pooled network and MAML; MAML gets about the seconds of ours.
        baseline: further settings of these.
    """

    hidden: HiddenFunctions | None
    experiment: str
    settings: tuple[str, ...]
    epochs: tuple[int, int]
    baseline: tuple[str, ...] = ()


def _same(how: str, functions: int, slots: int, epochs: tuple[int, int], *more: str) -> World:
    """Slots of one library."""
    return World(HiddenFunctions(how, functions, slots), how, (*_world(how, functions, slots), *more), epochs)


SHORT = "trainer.max_epochs=6"  # of 100 batches
WORLDS = {
    "sum2_of_20": World(HiddenFunctions("sum", 20, 2), "sum", (SHORT,), (60, 60)),
    "sum3_of_20": _same("sum", 20, 3, (20, 60), SHORT, "search.enumerate_up_to=8000"),
    "chain2_of_20": World(HiddenFunctions("chain", 20, 2), "chain", (SHORT,), (60, 75)),
    "chain3_of_5": _same("chain", 5, 3, (60, 95), SHORT),
    "chain3_of_20": _same("chain", 20, 3, (20, 170), "trainer.max_epochs=3", "search.enumerate_up_to=8000",
                          "method.gradient_steps=12"),
    "concatenate2_of_20": World(HiddenFunctions("concatenate", 20, 2), "concatenate", (SHORT,), (20, 180)),
    "attend2_of_5": World(HiddenFunctions("attend", 5, 4), "attend", ("trainer.max_epochs=12",), (20, 130)),
    "field2_of_10": World(HiddenFunctions("field", 10, 2), "field", (SHORT,), (20, 60), ("method.inputs=2",)),
    "graph3_of_2": World(HiddenFunctions("graph", 2, 6), "graph", ("trainer.max_epochs=10",), (20, 60),
                         ("method.inputs=3", "method.outputs=3")),
    "sines": World(None, "sines", (SHORT,), (20, 60)),
}  # fmt: skip
METHODS = ("ours", "pooled", "maml", "exact")
BASELINE = (
    "callbacks=baseline", "~model", "~likelihood", "~search", "~temperature", "~proposal",
    "~optimizer", "name=functions",
)  # fmt: skip
COMMON = (
    "logger=csv", "callbacks.progress=null", "trainer.accelerator=cpu", "trainer.devices=1", "threads=1",
    "trainer.check_val_every_n_epoch=1000",
)  # fmt: skip


def command(world: str, method: str, seed: int) -> list[str]:
    """Settings of a row."""
    hidden, experiment, settings, epochs, more = WORLDS[world]
    if method == "ours":
        return [f"experiment=functions/{experiment}", *settings, f"seed={seed}", *COMMON]
    data = ["data=sines"] if hidden is None else ["data=functions", *(
        f"data.world.{name}={getattr(hidden, name)}" for name in ("how", "functions", "slots"))]  # fmt: skip
    length = f"trainer.max_epochs={epochs[method == 'maml']}"
    return [f"method={method}", *BASELINE, *data, *more, length, f"seed={seed}", *COMMON]


def exact(world: str, seed: int) -> dict[str, Any]:
    """Test measures of a search over all structures of the hidden functions, on the test tasks of the runs.

    `rivals` are root mean squared errors on the examples of the best wrong structure, over tasks: the least, and
    the quantiles at 1%, 5% and 50%. Modules with larger errors than these cannot tell structures apart.
    """
    hidden = WORLDS[world].hidden
    assert hidden is not None
    data, began = FunctionDataModule(hidden, seed=seed), time.process_time()
    data.setup()
    test, n = data.splits["test"], data.support
    every = np.array(list(itertools.product(range(hidden.functions), repeat=hidden.slots)))
    _, first = np.unique(hidden.alike(every), axis=0, return_index=True)
    every = every[first]
    found, rivals = [], []
    for x, y, slots in zip(test.x.double().numpy(), test.y.numpy(), test.slots.numpy(), strict=True):
        values = hidden.values(every, np.broadcast_to(x[:n], (len(every), *x[:n].shape)), seed)
        squares = ((values - y[:n]) ** 2).mean((1, 2))
        wrong = (hidden.alike(every) != hidden.alike(slots[None])).any(1)
        found.append(every[squares.argmin()])
        rivals.append(float(np.sqrt(squares[wrong].min())))
    best = np.stack(found)
    right = (hidden.alike(best) == hidden.alike(test.slots.numpy())).all(1)
    errors = ((hidden.values(best, test.x.double().numpy(), seed) - test.y.numpy())[:, n:] ** 2).mean((1, 2))
    new = test.unseen.numpy()
    return {
        "test/structures": float(right.mean()), "test/error": float(errors.mean()),
        "test/error_seen": float(errors[~new].mean()), "test/error_unseen": float(errors[new].mean()),
        "rivals": np.quantile(rivals, (0, 0.01, 0.05, 0.5)).round(5).tolist(), "world": world, "method": "exact",
        "seed": seed, "cpu_seconds": round(time.process_time() - began, 1), "commit": commit(), "hardware": hardware(),
    }  # fmt: skip


def run(world: str, method: str, seed: int, kept_in: Path | None = None) -> dict[str, Any]:
    """One run: its test measures and seconds of the processor, start and validation included."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "WANDB_MODE": "offline"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory() as directory:
        where = (kept_in or Path(directory)).resolve() / f"{world}_{method}_seed{seed}"
        words = [sys.executable, "train.py", *command(world, method, seed), f"hydra.run.dir={where}"]
        subprocess.run(words, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
        measures = json.loads((where / "metrics.json").read_text())
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    kept = {name: value for name, value in measures.items() if name.startswith("test/")}
    return kept | {
        "world": world, "method": method, "seed": seed, "cpu_seconds": round(after.ru_utime - before.ru_utime, 1),
        "settings": command(world, method, seed), "commit": commit(), "hardware": hardware(),
    }  # fmt: skip


def look(where: Path, world: str, seed: int) -> dict[str, Any]:
    """Medians of errors on the test tasks of a run of ours, and numbers of wrong structures: (seen, unseen) each.

    A wrong structure costs a task as much as all right ones together, so means compare how many are wrong.
    """
    hidden = WORLDS[world].hidden
    assert hidden is not None
    model, data = modmeta.load(where), FunctionDataModule(hidden, seed=seed)
    data.setup()
    test, n = data.splits["test"], data.support
    found = model.infer(test.x[:, :n], test.y[:, :n])
    errors = (model.predict(test.x[:, n:], found) - test.y[:, n:]).square().mean((1, 2))
    right = model.module.right(found.structures, test.slots)
    parts = (~test.unseen, test.unseen)
    return {
        "medians": [float(errors[part].median()) for part in parts],
        "right_means": [float(errors[part & right].mean()) for part in parts],
        "wrong": [int((part & ~right).sum()) for part in parts],
    }


RATES = ("batched", "alone", "ratio")
HEAD = """# Compositions

Written by `python -m benchmarks.compositions --table` from results/benchmarks/compositions. {machine}, one thread,
beside other work, so only seconds of the processor are given, start-up and imports included. 1,000 training tasks, new
tasks from 8 examples; half of 400 test tasks have combinations that training never had (*unseen*). `test/error` is the
mean squared error on 32 queries; the variance of the values is about 1 (sines: about 4).

*Ours* is `python train.py experiment=functions/NAME` with the settings in the file of the run. *Pooled* is one network
for all tasks, fine-tuned on the examples; *MAML* is second order, one step of training at 0.01 and ten steps on the
examples of a new task, not tuned further. It is our own, for all tasks of a batch at once; its gradients are those of
the library `higher`, which evaluates one task after the other (`tests/unit/baselines/test_functions.py`). It is given
about our seconds of the processor, or more. All have the same tasks. *Exact* does not learn: it scores all structures
of the hidden functions themselves, an upper bound.
`sum3_of_20` is a sum of 3 of 20 hidden functions, `graph3_of_2` a step of a graph of three entities with two kinds of
edges.

"""


def measured() -> list[dict[str, Any]]:
    """All runs that are there."""
    return [json.loads(file.read_text()) for file in sorted(RESULTS.glob("*_seed*.json"))]


def page(runs: list[dict[str, Any]]) -> str:
    """The page of results."""
    lines = [HEAD.format(machine=runs[0]["hardware"]["cpu"]) + table(runs), ""]
    rivals = sorted((one["world"], one["seed"], one["rivals"]) for one in runs if one["method"] == "exact")
    if rivals:
        lines += [
            "## How much eight examples tell",
            "Root mean squared error, on the examples, of the best wrong structure of the hidden functions themselves. "
            "Modules whose errors are larger cannot tell such structures apart.\n",
            "| world | seed | least of 400 tasks | 1% | 5% | median |", "|---|---|---|---|---|---|",
            *(f"| {world} | {seed} | " + " | ".join(f"{part:.3f}" for part in each) + " |"
              for world, seed, each in rivals), "",
        ]  # fmt: skip
    looked = [one for one in runs if "medians" in one]
    if looked:
        lines += [
            "## Seen and unseen combinations",
            "A wrong structure costs as much as hundreds of right ones, so the means above compare how many of 200 are "
            "wrong. Seen, then unseen combinations (`python -m benchmarks.compositions --look DIR`).\n",
            "| world | seed | wrong structures | median error | mean error where right |", "|---|---|---|---|---|",
            *(f"| {one['world']} | {one['seed']} | {', '.join(map(str, one['wrong']))} | "
              + " | ".join(", ".join(f"{part:.2g}" for part in one[name]) for name in ("medians", "right_means")) + " |"
              for one in looked), "",
        ]  # fmt: skip
    if (file := RESULTS / "step.json").exists():
        found = json.loads(file.read_text())
        lines += [
            "## Many structures at once",
            "Tasks a second of a search step and a gradient step with 20 modules and 3 slots, 16 points a task, one "
            "thread (`python -m benchmarks.compositions --step`). *Changes*: the search weighs all changes of one "
            "slot and 8 samples; what candidates have in common is computed once. *All*: it weighs all 8,000 "
            "structures, which one task alone fills the processor with: a chain of three takes 8,420 modules at 16 "
            "points, 6.5 million hidden units, and no batch makes these fewer. *None*: the gradient step alone.\n",
            "| composition | search | 128 tasks at once | one at a time | ratio |", "|---|---|---|---|---|",
            *("| " + " | ".join((name, how, *(str(found[f"{name}_{how}_{part}"]) for part in RATES))) + " |"
              for name in ("sum", "chain") for how in ("none", "changes", "all")),
            "",
        ]  # fmt: skip
    return "\n".join(lines)


def table(runs: list[dict[str, Any]]) -> str:
    """Rows of all runs, errors and seconds as means over seeds."""
    lines = [
        "| world | method | seeds | structures right, % | error, seen | error, unseen | CPU seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for key in sorted({(one["world"], METHODS.index(one["method"])) for one in runs}):
        mine = [one for one in runs if (one["world"], METHODS.index(one["method"])) == key]
        mine.sort(key=lambda one: one["seed"])

        def mean(name: str, mine: list[dict[str, Any]] = mine) -> str:
            values = [one[name] for one in mine if name in one]
            return f"{sum(values) / len(values):.2g}" if values else "-"

        seeds = ", ".join(str(one["seed"]) for one in mine)
        right = ", ".join(f"{100 * one['test/structures']:.1f}" for one in mine if "test/structures" in one) or "-"
        errors = [mean("test/error_seen"), mean("test/error_unseen")] if "test/error_seen" in mine[0] else [
            mean("test/error"), "-"]  # fmt: skip
        seconds = round(sum(one["cpu_seconds"] for one in mine) / len(mine))
        lines.append(f"| {key[0]} | {METHODS[key[1]]} | {seeds} | {right} | {' | '.join(errors)} | {seconds} |")
    return "\n".join(lines)


def step() -> dict[str, Any]:
    """Tasks a second, 20 modules and 3 slots: a search step and a gradient step, of all tasks at once or one by one.

    The search weighs all changes of one slot and eight samples, or all 8,000 structures, or there is none. The best of
    three measurements each, since other work slows them.
    """
    keep_freed_memory()
    torch.set_num_threads(1)
    generator, tasks, out = torch.Generator().manual_seed(0), 128, {}
    parts: dict[str, Composition] = {"sum": Sum(["f"] * 3), "chain": Chain(["f"] * 3)}
    x, y = torch.rand(2, tasks, 16, 1, generator=generator)
    for name, composition in parts.items():
        model = ComposedModel({"f": Library(20)}, composition)
        start = random_slots(tasks, model.sizes, generator)
        for scored, most in (("none", 1), ("changes", 0), ("all", 8000)):
            kernel = None if most == 1 else kernel_of(Search(gibbs, enumerate_up_to=most), model)

            def both(some: slice, kernel: Any = kernel, start: Any = start, model: ComposedModel = model) -> None:
                problem, rows = (
                    CompositionProblem(model, x[some], y[some]),
                    type(start)(*(part[some] for part in start)),
                )
                found = rows if kernel is None else kernel(generator, rows, problem, torch.tensor(1.0))[0]
                model.squares(x[some], y[some], found.edge_modules[:, 0]).mean().backward()

            each = [slice(i, i + 1) for i in range(16 if most == 8000 else tasks)]
            rates = [0.0, 0.0]
            for number, pieces in [(0, [slice(None)]), (1, each)] * 3:  # in turn, since other work slows either
                both(pieces[0])
                repeats = 5 if number == 0 and most != 8000 else 1
                began = time.process_time()
                for piece in pieces * repeats:
                    both(piece)
                done = len(pieces) * repeats if number else tasks * repeats
                rates[number] = max(rates[number], done / (time.process_time() - began))
            out |= {
                f"{name}_{scored}_{how}": round(rate) for how, rate in zip(("batched", "alone"), rates, strict=True)
            }
            out[f"{name}_{scored}_ratio"] = round(rates[0] / rates[1], 1)
    return out


def main() -> None:
    """Runs what is asked for and not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="rows whose WORLD_METHOD contains one of these; all without any")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, help="directory in which runs are kept; none are without it")
    parser.add_argument("--look", type=Path, help="directory of such runs of ours, whose rows get more measures")
    parser.add_argument("--step", action="store_true", help="time steps instead")
    parser.add_argument("--table", action="store_true", help="write the page from what was measured")
    args = parser.parse_args()
    if args.table:
        PAGE.write_text(page(measured()))
        return
    RESULTS.mkdir(parents=True, exist_ok=True)
    if args.step:
        found = step()
        write_json(RESULTS / "step.json", found | {"hardware": hardware(), "commit": commit()})
        print(found)
        return
    if args.look:
        for kept in sorted(args.look.glob("*_ours_seed*")):
            file = RESULTS / f"{kept.name}.json"
            world, seed = kept.name.split("_ours_seed")
            if file.exists() and WORLDS[world].hidden is not None:
                write_json(file, json.loads(file.read_text()) | look(kept, world, int(seed)))
        return
    for world in WORLDS:
        for method in METHODS:
            for seed in args.seeds:
                file = RESULTS / f"{world}_{method}_seed{seed}.json"
                if method == "exact" and WORLDS[world].hidden is None:
                    continue
                if file.exists() or (args.words and not any(word in file.stem for word in args.words)):
                    continue
                write_json(file, exact(world, seed) if method == "exact" else run(world, method, seed, args.runs))
                print(file.name, flush=True)
    print(table(measured()))


if __name__ == "__main__":
    main()
