"""Pooled search whose tasks are spread over processes, here threads: as that of one process, within rounding."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from modmeta.search import halfway, slow
from modmeta.search.infer import Inferred
from modmeta.search.pooled import PooledProblem, in_batches, infer_pooled
from modmeta.search.search import Search
from modmeta.search.selection import gibbs
from tests.conftest import make_model

GROUPS = torch.tensor([0, 0, 1, 0, 1, 0, 0])
SHARES = {1: [7], 3: [3, 4, 0]}  # the last of three processes has no task


class Peers:
    """Threads that wait for one another where processes would."""

    def __init__(self, number: int) -> None:
        self.meeting, self.values = threading.Barrier(number, timeout=60), [torch.empty(0)] * number

    def gather(self, rank: int, value: Any) -> list[Any]:
        self.values[rank] = value
        self.meeting.wait()
        values = list(self.values)
        self.meeting.wait()
        return values


def found(search: Search, states: Tensor, processes: int) -> list[Inferred]:
    """What every process finds; each has neighbouring tasks."""
    model, (b, n, _, d), peers = make_model("additive"), states.shape, Peers(processes)

    def work(rank: int, mine: Tensor) -> Inferred:
        batches = in_batches(states[mine], GROUPS[mine], None)
        reduce: Callable[[Tensor], Tensor] = lambda total: torch.stack(peers.gather(rank, total)).sum(0)  # noqa: E731
        problem = PooledProblem(model, states.new_zeros(2, n, 1, d), batches=batches)
        if processes > 1:
            problem = replace(problem, reduce=reduce, gather=lambda value: peers.gather(rank, value))
        return infer_pooled(search, problem, torch.Generator().manual_seed(0))

    torch.manual_seed(0)  # of the model
    with ThreadPoolExecutor(processes) as pool:
        return list(pool.map(work, range(processes), torch.arange(b).split(SHARES[processes])))


@pytest.mark.parametrize(
    "way", ["rows", "grams", "diffusion", "halfway", pytest.param("lagged", marks=pytest.mark.slow)]
)
def test_processes_find_what_one_finds(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(slow.ITERATIONS, "diffusion", 10)
    monkeypatch.setattr(slow, "MOST_STEPS", 25)  # of 55 in the group of five tasks
    monkeypatch.setattr(halfway, "MOST_STEPS", 25)
    features = 1 if way in slow.WAYS else 4
    states = torch.randn(7, 4, 12, features, generator=torch.Generator().manual_seed(1))
    search = Search(gibbs, enumerate_up_to=1 if way == "grams" else 64, samples=0)
    if way not in ("rows", "grams"):
        search = Search(gibbs, slow=way)
    (one,) = found(search, states, 1)
    for other in found(search, states, 3):
        assert torch.equal(other.structure.edge_modules, one.structure.edge_modules)
        torch.testing.assert_close(other.probabilities, one.probabilities, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(other.energies, one.energies, rtol=1e-5, atol=1e-4)
