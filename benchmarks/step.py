"""Roofline of one BounceGrad step: the fraction of the attainable matrix-product rate that each part reaches.

    python -m benchmarks.step                               # the default experiment, springs5
    python -m benchmarks.step experiment=paper/springs5     # any other, with overrides of train.py

Every matrix product of a part is recorded with shapes and strides and replayed without the rest. The replay takes the
time that the part would take if it consisted of matrix products only, at this machine's rate for these shapes. `share`
is the time of the replay over the time of the part. `floor` adds the activation functions of the modules and their
gradients, replayed likewise: no way of writing the part needs less. Floating-point operations are counted by torch's
counter; a test compares them with a formula in the sizes of the networks.
"""

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import hydra
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from modmeta.graph.bank import random_structure
from modmeta.machine import keep_freed_memory
from modmeta.model.grouped import GroupedMLP
from modmeta.search.problem import Problem, one_step_problem
from modmeta.training.bouncegrad import BounceGrad

PRODUCTS = {"aten::mm", "aten::bmm", "aten::addmm", "aten::baddbmm"}
ACTIVATIONS = {
    f"aten::{name}" for name in ("silu", "silu_backward", "relu", "threshold_backward", "elu", "elu_backward")
}
REPEATS = 15


class Recorder(TorchDispatchMode):
    """Records operations with random operands of the same shapes and strides.

    Args:
        names: of the operations.
    """

    def __init__(self, names: set[str]) -> None:
        super().__init__()
        self.names = names
        self.calls: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.name().split(".")[0] in self.names:
            like = tuple(torch.randn_like(a) if isinstance(a, Tensor) else a for a in args)
            self.calls.append((func, like, dict(kwargs or {})))
        return func(*args, **(kwargs or {}))

    def replay(self) -> None:
        """Repeats the recorded operations."""
        for func, args, kwargs in self.calls:
            func(*args, **kwargs)


def synchronize(device: str) -> None:
    """Waits until a GPU has done its work."""
    if device != "cpu":
        torch.cuda.synchronize()


def seconds(work: Callable[[], object], repeats: int = REPEATS, device: str = "cpu") -> float:
    """Median seconds of a call, after two calls to warm up."""
    times = []
    for _ in range(repeats + 2):
        start = time.perf_counter()
        work()
        synchronize(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[2:])


def mlp_flops(network: GroupedMLP, rows: int) -> int:
    """Floating-point operations of the matrix products of a forward pass over `rows` inputs: two per weight."""
    weights = [layer.weight for layer in network.layers]
    if network.linear is not None:
        weights.append(network.linear.weight)
    return sum(2 * rows * weight.numel() for weight in weights)


def parts_of(module: BounceGrad, states: Tensor) -> dict[str, Callable[[], object]]:
    """The parts of a training step on a batch of states (B, N, T, D), each as a function to call."""
    model, search, generator = module.model, module.search, torch.Generator(states.device).manual_seed(0)
    dynamics = model.dynamics
    b, n = states.shape[:2]
    structure = random_structure(b, n, dynamics.num_edge_modules, dynamics.num_node_modules, generator)
    logits = module.proposal(states).detach()
    exact, kernel = search.horizon == 1, search.kernel(model, n)
    proposed = logits if search.needs_proposal(model, n) else None

    def problem() -> Problem:
        if exact:
            return one_step_problem(model, states, structure, logits=proposed, edge_cost=search.edge_cost)
        return Problem(model, states, horizon=search.horizon, logits=proposed, edge_cost=search.edge_cost)

    with torch.no_grad():
        shared = problem()
    labels = structure.edge_modules.flatten()

    def gradient() -> None:
        if exact:
            loss = model.receiver_energies(
                states,
                dynamics.messages(states),
                structure.edge_modules.unsqueeze(2),
                structure.node_modules.unsqueeze(2),
            ).sum()
        else:
            loss = model.energies(states, structure, search.horizon).sum()
        loss.backward()

    def propose() -> None:
        torch.nn.functional.cross_entropy(module.proposal(states).flatten(0, -2), labels).backward()

    temperature = torch.ones((), device=states.device)

    def search_step() -> None:
        """As in inference: computes the messages, which a training step shares with the gradient step."""
        with torch.no_grad():
            kernel(generator, structure, problem(), temperature)

    return {
        "search": search_step,
        "search_shared": lambda: kernel(generator, structure, shared, temperature),
        "gradient": gradient,
        "proposal": propose,
    }


def measure(module: BounceGrad, states: Tensor) -> dict[str, dict[str, float]]:
    """Operations, time in ms, time of its matrix products, share and floor, for every part of a step."""
    figures = {}
    for name, work in parts_of(module, states).items():
        with FlopCounterMode(display=False) as counter:
            work()
        with Recorder(PRODUCTS) as recorder, Recorder(ACTIVATIONS) as other:
            work()
        device = states.device.type
        total, products, activations = (seconds(f, device=device) for f in (work, recorder.replay, other.replay))
        figures[name] = {
            "flops": float(counter.get_total_flops()),
            "ms": 1e3 * total,
            "products_ms": 1e3 * products,
            "share": products / total,
            "floor": (products + activations) / total,
        }
    return figures


def make(*overrides: str) -> tuple[BounceGrad, Tensor]:
    """A new module and a batch of its training tasks, as `train.py OVERRIDES` creates them."""
    root = Path(__file__).resolve().parents[1]
    with hydra.initialize_config_dir(str(root / "conf"), version_base="1.3"):
        config = hydra.compose("train", [*overrides, "data.valid=2", "data.test=2", f"directory={mkdtemp()}"])
    keep_freed_memory()
    torch.manual_seed(0)
    data = hydra.utils.instantiate(config.data)
    data.prepare_data()
    data.setup()
    module = hydra.utils.instantiate(config.method)
    module.model.dynamics.set_scales(data.model_scales())
    return module.train(), next(iter(data.train_dataloader()))["states"]


def run(*overrides: str) -> dict[str, float]:
    """Prints the table of an experiment and returns the share and floor of each part."""
    module, states = make(*overrides)
    figures = measure(module, states)
    name = next((word.split("=")[1] for word in overrides if word.startswith("experiment=")), "default")
    table = Table(title=f"one step of {name}, {len(states)} tasks, {torch.get_num_threads()} threads")
    for column in ("part", "MFLOP", "ms", "products, ms", "GFLOP/s attainable", "share", "floor"):
        table.add_column(column, justify="left" if column == "part" else "right")
    for part, of in figures.items():
        rate = of["flops"] / of["products_ms"] / 1e6
        table.add_row(
            part,
            f"{of['flops'] / 1e6:.0f}",
            f"{of['ms']:.2f}",
            f"{of['products_ms']:.2f}",
            f"{rate:.0f}",
            f"{of['share']:.0%}",
            f"{of['floor']:.0%}",
        )
    Console().print(table)
    return {f"{part}_{what}": of[what] for part, of in figures.items() for what in ("share", "floor")}


if __name__ == "__main__":
    run(*(sys.argv[1:] or ["experiment=springs5"]))
