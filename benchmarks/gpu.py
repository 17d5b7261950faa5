"""What a GPU does: equality with the CPU, rates, seconds to targets, memory, and the published search at its own sizes.

    make gpu                                     # eight minutes at most; writes results/gpu.json
    python -m benchmarks.gpu --limit 120 card equal step     # some parts, in two minutes
    python -m benchmarks.gpu --dry               # on a CPU, with the smallest sizes: shows that the script works

Parts run in this order; one that fails is reported and the others go on. Every part's figures are written as soon as
they are there. `paper` takes what is left of the time.
"""

import argparse
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import hydra
import pytest
import pytorch_lightning as pl
import torch
from rich.console import Console

from benchmarks import published_step, scale, step, target
from modmeta.evaluation.matching import Confusion, match_labels, matched_accuracy
from modmeta.io import write_json
from modmeta.machine import commit, hardware
from modmeta.model.grouped import row_products
from modmeta.training import bouncegrad
from modmeta.training.bouncegrad import BounceGrad

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 465.0  # seconds of a whole run
WARM = 12  # steps before a rate is measured
RATES = {"springs5": (100, 1000, 4000), "charged5": (1000,), "paper/springs5": (128, 1024)}  # batch sizes
UNRECORDED = {"springs5": (100,), "paper/springs5": (128,)}  # of these, also without graphs
ROWS = 2**20  # of a product of rows, as gradients of weights are
MEMORY = (100, 250)  # entities
PAPER_BATCH = 512

Figures = dict[str, Any]
console = Console(width=150)


class Rate(pl.Callback):
    """Measures tasks a second after some steps, and lists the lines that wait for the GPU in one step."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.first, self.steps, self.rate = seconds, 0.0, 0, 0.0
        self.waits: list[str] = []

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        self.steps += 1
        if self.steps == WARM // 2 and module.device.type == "cuda":
            self.caught = warnings.catch_warnings(record=True)
            self.told = self.caught.__enter__()
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
        if self.steps == WARM:
            step.synchronize(module.device.type)
            self.first = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.steps == WARM // 2 and module.device.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")
            self.caught.__exit__(None, None, None)
            found = {f"{Path(one.filename).name}:{one.lineno}" for one in self.told if "synchroniz" in str(one.message)}
            self.waits = sorted(found)
        done = self.steps - WARM
        if done >= 5 and time.perf_counter() - self.first > self.seconds:
            step.synchronize(module.device.type)
            self.rate = len(batch["states"]) * (done + 1) / (time.perf_counter() - self.first)
            trainer.should_stop = True


def fitted(callback: pl.Callback, device: str, *overrides: str, precision: str = "32-true") -> BounceGrad:
    """Trains without validation until the callback stops it."""
    with TemporaryDirectory() as directory:
        words = (f"directory={directory}", f"data_dir={ROOT / 'data'}", "data.test=2", "data.valid=2")
        with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            config = hydra.compose("train", [*words, *overrides])
        pl.seed_everything(config.seed, verbose=False)
        data, module = hydra.utils.instantiate(config.data), hydra.utils.instantiate(config.method)
        trainer = pl.Trainer(
            max_epochs=100_000, accelerator="gpu" if device == "cuda" else "cpu", devices=1, logger=False,
            callbacks=[callback], enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
            limit_val_batches=0, use_distributed_sampler=False, precision=precision,
        )  # fmt: skip
        trainer.fit(module, data)
        return module.eval()


class Bench:
    """The parts, on one device.

    Args:
        device: `cuda` or `cpu`.
        dry: smallest sizes.
        until: clock time, as of `time.perf_counter`, at which the last part ends.
    """

    def __init__(self, device: str, dry: bool, until: float) -> None:
        self.device, self.dry, self.until = device, dry, until

    def card(self) -> Figures:
        """Rates that bound all others: a copy within memory, and products of large matrices."""
        size, numbers = (512, 2**20) if self.dry else (8192, 2**30)
        made = torch.randn(numbers, device=self.device)
        copy = step.seconds(lambda: made.clone(), 3, self.device)
        figures = {"copy_tb_s": 2 * 4 * numbers / copy / 1e12}
        for name, kind, tf32 in (("float32", torch.float32, False), ("tf32", torch.float32, True),
                                 ("bfloat16", torch.bfloat16, False)):  # fmt: skip
            torch.set_float32_matmul_precision("high" if tf32 else "highest")
            a, b = (torch.randn(size, size, device=self.device, dtype=kind) for _ in range(2))
            figures[f"{name}_tflop_s"] = 2 * size**3 / step.seconds(lambda a=a, b=b: a @ b, 3, self.device) / 1e12
        torch.set_float32_matmul_precision("highest")
        x, grad = (torch.randn(2, ROWS // 256 if self.dry else ROWS, 32, device=self.device) for _ in range(2))
        figures["rows_whole_ms"] = 1e3 * step.seconds(lambda: x.mT @ grad, 3, self.device)
        figures["rows_parts_ms"] = 1e3 * step.seconds(lambda: row_products(x, grad), 3, self.device)
        return figures

    def equal(self) -> Figures:
        """The marked tests."""
        file = str(ROOT / "tests" / "integration" / "test_cuda.py")
        plain = (
            "-p",
            "no:cacheprovider",
            "-o",
            "filterwarnings=",
        )
        return {"tests_status": int(pytest.main([file, "-q", "-m", "gpu", "--tb=short", *plain]))}

    def rates(self) -> Figures:
        """Tasks a second of whole training steps, by batch size and precision; lines that wait for the GPU.

        With graphs, and for some sizes without; how many graphs there were, or why there were none.
        """
        figures: Figures = {}
        kinds = ("32-true",) if self.dry else ("32-true", "bf16-mixed")
        rows = [(name, batch, kind, True) for name, sizes in RATES.items() for batch in sizes for kind in kinds]
        rows = [row for row in rows if not self.dry or row[1] == RATES[row[0]][0]]
        rows += [(name, batch, kind, False) for name, sizes in UNRECORDED.items() for batch in sizes for kind in kinds]
        for name, batch, kind, graphs in rows:
            label = f"{name.replace('/', '_')}_{batch}_{kind}{'' if graphs else '_unrecorded'}"
            try:
                figures |= {f"{label}_{what}": value for what, value in self.rate(name, batch, kind, graphs).items()}
            except Exception as error:
                console.print(f"{label}: {error}")
                console.print(traceback.format_exc(limit=-4))
        return figures

    def rate(self, name: str, batch: int, precision: str, graphs: bool) -> Figures:
        """Of an experiment; `graphs`: whether steps may be recorded."""
        rate, batch = Rate(0.1 if self.dry else 1.0), 4 if self.dry else batch
        tasks = (f"data.num_tasks={8 if self.dry else 8000}", f"data.batch_size={batch}")
        with nullcontext() if graphs else patch.object(bouncegrad, "recorder", lambda device: None):
            module = fitted(rate, self.device, f"experiment={name}", *tasks, precision=precision)
        assert module.steps is not None
        found = {"graphs": len(module.steps.recorded), "refused": sorted(module.steps.refused.values())}
        return {"tasks_s": rate.rate, "waits": rate.waits, **found}

    def step(self) -> Figures:
        """Share of a step's parts that are matrix products, by size of the batch."""
        figures: Figures = {}
        for name, batch in (("springs5", 4000), ("paper/springs5", 512)):
            size = 4 if self.dry else batch
            words = (f"experiment={name}", f"data.num_tasks={size}", f"data.batch_size={size}")
            module, states = step.make(*words)
            for part, of in step.measure(module.to(self.device), states.to(self.device)).items():
                for kind, value in of.items():
                    figures[f"{name.replace('/', '_')}_{batch}_{part}_{kind}"] = value
        return figures

    def published(self) -> Figures:
        """Our step against the published way of writing it."""
        return published_step.run(self.device)

    def target(self) -> Figures:
        """Seconds of training to the accuracy of the targets, one seed."""
        words = ("search.start=weights", "trainer.max_epochs=1")
        few = ("data.num_tasks=12", "data.valid=4", "data.batches_per_epoch=10") if self.dry else ()
        accelerator, figures = "gpu" if self.device == "cuda" else "cpu", {}
        for name, least, steps in (("springs5", 0.99, 60), ("charged5", 0.97, 120)):
            taken = target.seconds(
                name, least, *words, f"data.batches_per_epoch={steps}", *few, accelerator=accelerator
            )
            figures[f"{name}_seconds_to_{100 * least:.0f}"] = taken
        return figures

    def memory(self) -> Figures:
        """Inference on many entities."""
        few = ("data.num_tasks=12", "data.batches_per_epoch=5", "trainer.max_epochs=1") if self.dry else ()
        words = ("data.num_entities=[5,10]", "trainer.max_epochs=6", "data.valid=10")
        module, data, _ = scale.train(*words, *few, accelerator="gpu" if self.device == "cuda" else "cpu")
        module.to(self.device)
        figures: Figures = {}
        for n in (12,) if self.dry else MEMORY:
            if self.device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            right, each = scale.accuracy(module, data, n, 1)
            figures |= {f"entities_{n}_accuracy": right, f"entities_{n}_edge_us": 1e6 * each}
            if self.device == "cuda":
                figures[f"entities_{n}_peak_gb"] = torch.cuda.max_memory_allocated() / 2**30
        return figures

    def paper(self) -> Figures:
        """The published search at its own sizes until the time is over; its curve, then new tasks."""
        few = ("data.num_tasks=128", "data.batch_size=16", "model.hidden=16", "proposal.hidden=16") if self.dry else ()
        torch.set_float32_matmul_precision("high")
        curve = Curve(min(self.until - time.perf_counter() - 15, 3.0 if self.dry else torch.inf))
        words = ("experiment=paper/springs5", "data.num_tasks=50000", f"data.batch_size={PAPER_BATCH}", *few)
        module = fitted(curve, self.device, *words)
        new: Figures = {}
        for sweeps in (50, 200):
            module.search = replace(module.search, sweeps=5 if self.dry else sweeps)
            new[f"new_tasks_{sweeps}_steps"] = curve.accuracy(module)
        torch.set_float32_matmul_precision("highest")
        return {"batch": PAPER_BATCH, "products": "tf32", "curve": curve.rows, **new}


class Curve(pl.Callback):
    """Accuracies of search and proposal network over visits of tasks, until the time is over.

    Attributes:
        rows: visits of tasks, seconds, accuracy of structures and proposals, temperature and acceptance; per epoch.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds, self.rows, self.visits = seconds, [], 0  # type: ignore[var-annotated]

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.begun = time.perf_counter()
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        self.data, module.total_steps = data, 10**9  # set when the rate is known

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.visits += len(batch["states"])
        taken = time.perf_counter() - self.begun
        if module.done >= 20 and module.done % 20 == 0:  # type: ignore[operator]
            step.synchronize(module.device.type)
            taken = time.perf_counter() - self.begun
            # the schedule of the temperature spans the run, whose length is known by its rate alone
            module.total_steps = int(module.done * self.seconds / taken)  # type: ignore[operator, assignment]
        trainer.should_stop = taken > self.seconds

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        told = {name: float(value) for name, value in trainer.callback_metrics.items()}
        row = {"visits": self.visits, "seconds": time.perf_counter() - self.begun, **told}
        self.rows.append(row)
        console.print({name: round(value, 4) for name, value in row.items()})

    @torch.no_grad()
    def accuracy(self, module: BounceGrad, tasks: int = 500) -> float:
        """Edge accuracy on tasks never trained on, labels matched on themselves."""
        module.to("cuda" if torch.cuda.is_available() else "cpu")
        batch = self.fresh(tasks)
        found = module.infer(batch["states"].to(module.device)).structure.edge_modules.cpu()
        confusion = Confusion(module.model.dynamics.num_edge_modules, module.num_relations)
        confusion.update(found, batch["relations"])
        counts = confusion.matrix()
        return float(matched_accuracy(counts, match_labels(counts)))

    def fresh(self, tasks: int) -> dict[str, torch.Tensor]:
        """New tasks of the training world, in its units."""
        from modmeta.data.generation import generate
        from modmeta.graph.relations import from_matrix
        from modmeta.simulators import Springs

        made = generate(Springs(), {"test": (tasks, 49)}, seed=12345, stream="task", progress=False)["test"]
        assert made.relations is not None
        relations = from_matrix(torch.from_numpy(made.relations))
        return {"states": self.data.units.normalised(made.states), "relations": relations}


PARTS = ("card", "equal", "rates", "step", "published", "target", "memory", "paper")


def main(words: list[str]) -> int:
    """Runs the parts and writes their figures; 1 if a part failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu")
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds of the whole run")
    parser.add_argument("--dry", action="store_true", help="on the CPU, with the smallest sizes; writes nothing")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "results" / "gpu.json")
    args = parser.parse_args(words)
    unknown = [name for name in args.parts if name not in PARTS]
    if unknown:
        parser.error(f"unknown part {', '.join(unknown)}; choose from {', '.join(PARTS)}")
    begun, device = time.perf_counter(), "cuda" if torch.cuda.is_available() and not args.dry else "cpu"
    if device == "cpu" and not args.dry:
        print("error: no CUDA device is visible; --dry runs the script on the CPU", file=sys.stderr)
        return 2
    bench, failed = Bench(device, args.dry, begun + args.limit), []
    made: Figures = {"hardware": hardware(), "commit": commit(), "torch": torch.__version__, "seed": 0}
    for name in args.parts or PARTS:
        part: Callable[[], Figures] = getattr(bench, name)
        start = time.perf_counter()
        try:
            made[name] = part()
        except Exception:
            failed.append(name)
            console.print(traceback.format_exc(limit=-6))
            continue
        made[name]["seconds"] = round(time.perf_counter() - start, 1)
        console.print(
            name, {k: round(v, 4) if isinstance(v, float) else v for k, v in made[name].items() if k != "curve"}
        )
        if not args.dry:
            args.output.parent.mkdir(parents=True, exist_ok=True)
            write_json(args.output, made)
    console.print(f"{time.perf_counter() - begun:.0f} s; failed: {failed or 'none'}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
