"""Scaling with the number of entities, edge modules and training tasks.

    python -m benchmarks.scale

*Entities*: a model trained on springs of 5 and 10 particles infers new tasks of 5 to 100: time per directed edge, edge
accuracy, peak memory. *Modules*: two-relation springs with 2 to 20 edge modules, several of which may match one
relation: edge accuracy on new tasks, time of a step. *Tasks*: time of a step with 500 and 50,000 training tasks, and
the share spent on loading tasks and storing structures.
"""

import resource
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import hydra
import pytorch_lightning as pl
import torch
from rich.console import Console
from rich.table import Table

from modmeta.data.generation import generate
from modmeta.data.loading.datamodule import TrajectoryDataModule
from modmeta.graph.relations import from_matrix
from modmeta.machine import keep_freed_memory
from modmeta.simulators import Springs
from modmeta.training.bouncegrad import BounceGrad

ROOT = Path(__file__).resolve().parents[1]
ENTITIES = {5: 100, 10: 50, 20: 10, 50: 2, 100: 1}  # number of entities: number of new tasks
MODULES = (2, 5, 10, 20)
NEW = 12345  # seed of new tasks


class Clock(pl.Callback):
    """Measures the seconds of training without set-up."""

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.begun = time.perf_counter()

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.seconds = time.perf_counter() - self.begun


def train(*overrides: str, accelerator: str = "cpu") -> tuple[BounceGrad, TrajectoryDataModule, float]:
    """Trains `experiment=springs5` with overrides and without validation. Also returns the seconds per step."""
    keep_freed_memory()
    clock = Clock()
    with TemporaryDirectory() as directory:
        words = ["experiment=springs5", f"directory={directory}", f"data_dir={ROOT / 'data'}", "data.test=10"]
        with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            config = hydra.compose("train", [*words, *overrides])
        pl.seed_everything(config.seed, verbose=False)
        data, module = hydra.utils.instantiate(config.data), hydra.utils.instantiate(config.method)
        trainer = pl.Trainer(
            max_epochs=config.trainer.max_epochs, accelerator=accelerator, devices=1, logger=False, limit_val_batches=0,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
            use_distributed_sampler=False, callbacks=[clock],
        )  # fmt: skip
        trainer.fit(module, data)
        return module.eval(), data, clock.seconds / module.done


def accuracy(module: BounceGrad, data: TrajectoryDataModule, entities: int, tasks: int) -> tuple[float, float]:
    """Edge accuracy on new tasks, with modules matched on the same tasks, and seconds per directed edge."""
    made: Any = generate(Springs(num_entities=entities), {"test": (tasks, 49)}, seed=NEW, stream="task")["test"]
    assert data.units is not None
    states, truth = data.units.normalised(made.states), from_matrix(torch.from_numpy(made.relations))
    states = states.to(module.device)
    begun = time.perf_counter()
    found = module.infer(states).structure.edge_modules.cpu()
    seconds = (time.perf_counter() - begun) / truth.numel()
    counts = torch.zeros(module.model.dynamics.num_edge_modules, 2)
    counts.index_put_((found.flatten(), truth.flatten()), torch.ones(()), accumulate=True)
    return float(counts.max(1).values.sum() / counts.sum()), seconds


def entities() -> dict[str, float]:
    """Inference on 5 to 100 entities."""
    module, data, _ = train("data.num_entities=[5,10]", "trainer.max_epochs=6", "data.valid=10")
    accuracy(module, data, 5, 10)  # to warm up
    figures, each = {}, {}
    for n, tasks in ENTITIES.items():
        figures[f"entities_{n}_accuracy"], each[n] = accuracy(module, data, n, tasks)
        figures[f"entities_{n}_edge_ms"] = 1e3 * each[n]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return figures | {"per_edge_ratio_100_to_10": each[100] / each[10], "entities_100_peak_gb": peak}


def modules() -> dict[str, float]:
    """Training with 2 to 20 edge modules."""
    figures, steps = {}, {}
    for k in MODULES:
        module, data, steps[k] = train(f"model.num_edge_modules={k}", "trainer.max_epochs=4", "data.valid=10")
        figures[f"modules_{k}_accuracy"], _ = accuracy(module, data, 5, 100)
        figures[f"modules_{k}_step_ms"] = 1e3 * steps[k]
    return figures | {"modules_step_ratio_20_to_2": steps[20] / steps[2]}


def tasks() -> dict[str, float]:
    """Training on 500 and on 50,000 tasks."""
    figures, steps = {}, {}
    for count in (500, 50_000):
        module, data, steps[count] = train(f"data.num_tasks={count}", "trainer.max_epochs=2", "data.valid=10")
        batches, bank = data.train_dataloader(), module.bank
        assert bank is not None
        begun, served = time.perf_counter(), 0
        for batch in batches:
            bank.put(batch["task"], bank.get(batch["task"]), torch.zeros(len(batch["task"])))
            served += 1
        share = (time.perf_counter() - begun) / served / steps[count]
        figures |= {f"tasks_{count}_step_ms": 1e3 * steps[count], f"tasks_{count}_loading_share": share}
    return figures | {"step_ratio_50000_to_500": steps[50_000] / steps[500]}


def run() -> dict[str, float]:
    """Runs all three benchmarks and prints a table."""
    figures = entities() | modules() | tasks()  # entities first: peak memory is that of the process so far
    table = Table(title=f"scale, {torch.get_num_threads()} threads")
    table.add_column("figure")
    table.add_column("value", justify="right")
    for name, value in figures.items():
        table.add_row(name, f"{value:.4g}")
    Console().print(table)
    return figures


if __name__ == "__main__":
    run()
