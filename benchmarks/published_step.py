"""Times the published search and gradient step, as we implement it and as the published program does, on one batch.

    python -m benchmarks.published_step

The reference is our own code for what the published program does (github.com/FerranAlet/modular-metalearning,
neurips2019). A structure is a list of edges for each module. Loops over tasks join the graphs of a batch into one. Each
module is called on its edges, and a dense one-hot matrix of the joint graph sums the messages. The current and the
proposed structures are both rolled out with gradients, and after every task has chosen one backward pass goes through
both. Both implementations have the same weights and proposals, and their energies must agree. The proposal network is
the same in both and is left out. On a GPU ours is timed both as Python starts it and as a recorded graph.
"""

import time
from contextlib import nullcontext

import torch
from rich.console import Console
from torch import Tensor, nn

from benchmarks.step import make, synchronize
from modmeta.graph.bank import Structure, random_structure
from modmeta.graph.relations import senders
from modmeta.model.grouped import GroupedMLP
from modmeta.search.metropolis import score_wholes
from modmeta.search.problem import Candidates, Problem
from modmeta.training.bouncegrad import BounceGrad
from modmeta.training.capture import WARM, Recorded, recorder
from modmeta.training.run import has_bfloat16

REPEATS = 5

Lists = list[list[tuple[int, int]]]  # edges (sender, receiver) of a task, by module


def sequential(networks: GroupedMLP, which: int) -> nn.Sequential:
    """One network of a `GroupedMLP` as an `nn.Sequential`."""
    parts: list[nn.Module] = []
    for layer in networks.layers:
        linear = nn.Linear(layer.weight.shape[1], layer.weight.shape[2])
        linear.weight.data.copy_(layer.weight[which].T)
        linear.bias.data.copy_(layer.bias[which, 0])
        parts += [linear, nn.ReLU()]
    return nn.Sequential(*parts[:-1])


class Published:
    """The published implementation: structures are lists of edges."""

    def __init__(self, module: BounceGrad) -> None:
        dynamics = module.model.dynamics
        self.module, self.horizon = module, module.search.horizon
        self.device = dynamics.centre.device
        self.edges = [sequential(dynamics.edge_modules, k).to(self.device) for k in range(dynamics.num_edge_modules)]
        self.node = sequential(dynamics.node_modules, 0).to(self.device)

    def graph(self, structures: list[Lists], num_entities: int) -> list[tuple[Tensor, Tensor, Tensor]]:
        """For each module the senders (E,), receivers (E,) and one-hot receivers (B N, E) of the joint graph."""
        joint = []
        for module in range(len(self.edges)):
            by, to = [], []
            for task, lists in enumerate(structures):
                for sender, receiver in lists[module]:
                    by.append(task * num_entities + sender)
                    to.append(task * num_entities + receiver)
            one_hot = torch.zeros(len(structures) * num_entities, len(to), device=self.device)
            one_hot[to, range(len(to))] = 1.0
            joint.append((torch.tensor(by, device=self.device), torch.tensor(to, device=self.device), one_hot))
        return joint

    def energies(self, states: Tensor, structures: list[Lists]) -> Tensor:
        """Energies (B,) of states (B, N, T, D) under the structures."""
        b, n, frames, d = states.shape
        joint, horizon = self.graph(structures, n), self.horizon
        now = states[:, :, :-1:horizon].flatten(0, 1)
        steps = []
        for _ in range(horizon):
            received = now.new_zeros(*now.shape[:2], self.edges[0][-1].out_features)  # type: ignore[arg-type]
            for network, (by, to, one_hot) in zip(self.edges, joint, strict=True):
                sent = network(torch.cat((now[to], now[by]), dim=-1))  # (E, R, C)
                received = received + (one_hot @ sent.flatten(1)).view_as(received)
            now = now + self.node(torch.cat((now, received), dim=-1))
            steps.append(now)
        predicted = torch.stack(steps, dim=2).flatten(1, 2)[:, : frames - 1].view(b, n, frames - 1, d)
        scale = self.module.model.log_scale(states)
        return self.module.model.likelihood.energy(predicted - states[:, :, 1:], scale).sum((1, 2, 3))

    def step(self, states: Tensor, current: Structure, proposed: Structure, threshold: Tensor) -> Tensor:
        """One search and gradient step. Returns the energies (B,) of the chosen structures."""
        now, then = lists_of(current, len(self.edges)), lists_of(proposed, len(self.edges))
        before, after = self.energies(states, now), self.energies(states, then)
        energies = torch.where(after - before < threshold, after, before)
        energies.mean().backward()
        return energies.detach()


def lists_of(structure: Structure, num_modules: int) -> list[Lists]:
    """The edges (sender, receiver) of every task, by module."""
    everyone = senders(structure.node_modules.shape[1]).tolist()
    out = []
    for rows in structure.edge_modules.tolist():
        lists: Lists = [[] for _ in range(num_modules)]
        for receiver, (row, by) in enumerate(zip(rows, everyone, strict=True)):
            for module, sender in zip(row, by, strict=True):
                lists[module].append((sender, receiver))
        out.append(lists)
    return out


def ours(module: BounceGrad, states: Tensor, current: Structure, proposed: Structure, threshold: Tensor) -> Tensor:
    """The same step with modmeta's kernel; the candidates are the current and the proposed rows. Returns (B,)."""
    moving = (current.edge_modules != proposed.edge_modules).any(-1)

    def accept(scores: Tensor, *_: object) -> Tensor:
        return (scores[..., 1] - scores[..., 0] < threshold.unsqueeze(1)).long()

    rows = torch.stack((current.edge_modules, proposed.edge_modules), dim=2)  # (B, N, 2, S)
    types = torch.stack((current.node_modules, proposed.node_modules), dim=2)
    problem = Problem(module.model, states, horizon=module.search.horizon, gradients=True)
    wholes = score_wholes(problem, current, Candidates(rows, types, current.node_modules), moving)
    energies = wholes.of(accept(wholes.energies.detach().unsqueeze(1)))
    energies.mean().backward()
    return energies.detach().squeeze(1)


def run(device: str = "cpu") -> dict[str, float]:
    """Times all implementations alternately and returns the ratios of tasks per second to the published one."""
    module, states = make("experiment=paper/springs5")
    module, states = module.to(device), states.to(device)
    b, n = states.shape[:2]
    generator = torch.Generator(device).manual_seed(0)
    k = module.model.dynamics.num_edge_modules
    current, other = (random_structure(b, n, k, 1, generator) for _ in range(2))
    moving = torch.randint(n, (b, 1), generator=generator, device=device) == torch.arange(n, device=device)
    proposed = Structure(
        torch.where(moving.unsqueeze(-1), other.edge_modules, current.edge_modules), current.node_modules
    )
    threshold = -torch.rand(b, generator=generator, device=device).log()
    yardstick = Published(module)
    ways = {
        "published": lambda: yardstick.step(states, current, proposed, threshold),
        "float32": lambda: ours(module, states, current, proposed, threshold),
    }
    if device != "cpu" or has_bfloat16():
        ways["bfloat16"] = ways["float32"]
    record, repeats = recorder(torch.device(device)), REPEATS
    if record is not None:
        repeats += WARM + 1  # and the one that is compared
        for name in ("float32", "bfloat16"):  # each has a graph of its own
            step = Recorded(lambda _: ours(module, states, current, proposed, threshold), [*module.parameters()],
                            generator, record)  # fmt: skip
            ways[f"{name} recorded"] = lambda step=step: step(None, {})
    times: dict[str, list[float]] = {name: [] for name in ways}
    energies: dict[str, Tensor] = {}
    for repeat in range(repeats + 1):
        for name, work in ways.items():
            autocast = torch.autocast(device, torch.bfloat16) if "bfloat16" in name else nullcontext()
            module.zero_grad()
            synchronize(device)
            begun = time.perf_counter()
            with autocast:
                energies[name] = work()
            synchronize(device)
            if repeat:
                times[name].append(time.perf_counter() - begun)
    for name in ways:
        if "float32" in name:
            torch.testing.assert_close(energies[name], energies["published"], rtol=1e-3, atol=1e-3)
    rate = {name: b / min(taken) for name, taken in times.items()}
    console = Console()
    for name, tasks in rate.items():
        console.print(f"{name:>17}: {tasks:6.1f} tasks/s, {tasks / rate['published']:.2f} times the published rate")
    short = {"float32": "fp32", "bfloat16": "bf16"}
    of = {name: "_".join(short.get(word, word) for word in name.split()) for name in rate if name != "published"}
    return {f"paper_step_ratio_{to}": rate[name] / rate["published"] for name, to in of.items()}


if __name__ == "__main__":
    run()
