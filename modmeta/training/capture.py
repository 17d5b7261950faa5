"""Steps of training as CUDA graphs: a step is recorded once, then all of its small operations start at once.

A step of small batches is thousands of operations, each of which the processor starts one by one, while the GPU waits.
A graph (Nguyen et al., *Accelerating PyTorch with CUDA Graphs*, 2021) replays what a step did, on the same memory: its
inputs are copied to where they were, and results and gradients come to where they were. So a step can be recorded if
neither shapes nor branches depend on values (`machine.waits`); one that waits for the GPU is not. Random numbers are
drawn anew, since graphs know the generators. Before a graph counts, it repeats a step of other inputs, which is done
anew as well: what a graph gets wrong would be silent. Nothing of this happens on a CPU.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import torch
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

Out = TypeVar("Out")
Given = dict[str, Tensor]

WARM = 3  # steps of one kind before it is recorded, in which libraries choose and load what they need
ALIKE = 0.1  # relative difference up to which a repeated step is the step: sums on a GPU have no fixed order


class Recorder(Protocol):
    """Records the work of a device."""

    def __call__(self, work: Callable[[], Out], generators: Sequence[torch.Generator]) -> tuple[Out, Callable[[], Any]]:
        """Results of the work, and a function that repeats it on the same memory, and brings these results to date.

        Args:
            work: without arguments; all of its tensors are on the device.
            generators: that it draws from, beside the device's own.

        Raises:
            RuntimeError: the work cannot be recorded.
        """


def cuda_graph(work: Callable[[], Out], generators: Sequence[torch.Generator]) -> tuple[Out, Callable[[], Any]]:
    """`Recorder` of CUDA devices."""
    graph = torch.cuda.CUDAGraph()
    for generator in generators:
        graph.register_generator_state(generator)
    with torch.cuda.graph(graph):
        out = work()
    return out, graph.replay


def recorder(device: torch.device) -> Recorder | None:
    """The recorder of a device; None if steps are not recorded there."""
    return cuda_graph if device.type == "cuda" else None


class _Graph(NamedTuple):
    """A recorded step: where its inputs, its results and the gradients of all parameters are, and what repeats it."""

    given: Given
    out: Any
    gradients: list[Tensor | None]
    replay: Callable[[], Any]


class Recorded(Generic[Out]):
    """A step of training, which is recorded once for every kind of step and repeated from then on.

    Args:
        work: from tensors by name to results without gradients; gradients it adds to `parameters`. What is no tensor
            must be the same for all steps of a kind.
        parameters: of the work.
        generator: that the work draws from, beside the device's own.
        record: see `recorder`; None for steps that are never recorded.
        buffers: that the work may change, such as running means of batch normalisation.
    """

    def __init__(
        self,
        work: Callable[[Given], Out],
        parameters: Sequence[nn.Parameter],
        generator: torch.Generator,
        record: Recorder | None,
        buffers: Sequence[Tensor] = (),
    ) -> None:
        self.work, self.parameters, self.generator, self.record = work, parameters, generator, record
        self.buffers = buffers
        self.graphs: dict[Hashable, _Graph] = {}  # by kind of step, until they are forgotten
        self.steps: Counter[Hashable] = Counter()  # before a kind was recorded
        self.recorded: set[Hashable] = set()  # kinds whose graphs do what steps do
        self.refused: dict[Hashable, str] = {}  # kinds that are not recorded, and why

    def __call__(self, kind: Hashable, given: Given) -> Out:
        """Does a step, whose results are valid until the next one. Gradients must be None before.

        Args:
            kind: what a step depends on beside tensors and their shapes.
            given: tensors by name.
        """
        kind = (kind, *((name, value.shape, value.dtype) for name, value in given.items()))
        if kind in self.recorded and kind in self.graphs:
            return self._repeated(self.graphs[kind], given)
        if kind in self.graphs:
            return self._compared(kind, given)
        if self.record is None or kind in self.refused:
            return self.work(given)
        self.steps[kind] += 1
        if self.steps[kind] < WARM:
            return self.work(given)
        if self.steps[kind] == WARM:
            with _waits(self.generator.device) as lines:
                out = self.work(given)
            if lines:
                self._refuse(kind, f"steps wait for the GPU at {', '.join(sorted(lines))}")
            return out
        try:
            self.graphs[kind] = self._graph(self.record, given)
        except RuntimeError as error:
            self._refuse(kind, str(error).splitlines()[0])
        return self.work(given)

    def forget(self) -> None:
        """Frees the memory of graphs, and gradients, which are in it."""
        self.graphs.clear()
        for parameter in self.parameters:
            parameter.grad = None

    def _graph(self, record: Recorder, given: Given) -> _Graph:
        mine = {name: value.clone() for name, value in given.items()}
        torch.clear_autocast_cache()  # weights in lower precision from before would stay as they are
        with _restored_after_errors(self.generator):
            try:
                out, replay = record(lambda: self.work(mine), [self.generator])
                gradients = [parameter.grad for parameter in self.parameters]
            finally:
                torch.clear_autocast_cache()  # those of the graph have no values before it is replayed
                for parameter in self.parameters:
                    parameter.grad = None
        return _Graph(mine, out, gradients, replay)

    def _repeated(self, graph: _Graph, given: Given) -> Out:
        for name, value in given.items():
            graph.given[name].copy_(value)
        graph.replay()
        for parameter, gradient in zip(self.parameters, graph.gradients, strict=True):
            parameter.grad = gradient
        out: Out = graph.out
        return out

    def _compared(self, kind: Hashable, given: Given) -> Out:
        """Does a step, and sees whether the graph of its kind would have done the same."""
        drawn, kept = _generators(self.generator), [buffer.clone() for buffer in self.buffers]
        states = [one.get_state() for one in drawn]
        repeated = self._numbers(self._repeated(self.graphs[kind], given))
        for one, state in zip(drawn, states, strict=True):
            one.set_state(state)
        with torch.no_grad():
            for buffer, before in zip(self.buffers, kept, strict=True):
                buffer.copy_(before)
        for parameter in self.parameters:
            parameter.grad = None
        out = self.work(given)
        if _alike(repeated, self._numbers(out)):
            self.recorded.add(kind)
        else:
            del self.graphs[kind]
            self._refuse(kind, "repeated, it does not do what it did")
        return out

    def _numbers(self, out: Out) -> list[Tensor]:
        """Every result as a vector, and all gradients as one."""
        gradients = [parameter.grad.flatten() for parameter in self.parameters if parameter.grad is not None]
        results = [value for value in tree_leaves(out) if isinstance(value, Tensor) and value.is_floating_point()]
        vectors = [value.flatten() for value in results] + ([torch.cat(gradients)] if gradients else [])
        return [vector.to(torch.float64, copy=True) for vector in vectors]

    def _refuse(self, kind: Hashable, why: str) -> None:
        self.refused[kind] = why
        rank_zero_only(print)(f"note: a kind of steps is not recorded as a CUDA graph, and is slower: {why}")


@contextmanager
def _waits(device: torch.device) -> Iterator[set[str]]:
    """Collects the lines that wait for a GPU."""
    lines: set[str] = set()
    if device.type != "cuda":
        yield lines
        return
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield lines
        finally:
            torch.cuda.set_sync_debug_mode(before)
    found = (one for one in caught if "called a synchronizing" in str(one.message))
    lines |= {f"{Path(one.filename).name}:{one.lineno}" for one in found}


@contextmanager
def _restored_after_errors(generator: torch.Generator) -> Iterator[None]:
    """After an error in recording, generators draw as before: they would wait for the graph that there is not."""
    drawn = _generators(generator) if generator.device.type == "cuda" else []
    before = [one.clone_state() for one in drawn]
    try:
        yield
    except RuntimeError:
        for one, state in zip(drawn, before, strict=True):
            one.graphsafe_set_state(state)
        raise


def _generators(generator: torch.Generator) -> list[torch.Generator]:
    """A generator and its device's own."""
    of = torch.cuda.default_generators[generator.device.index or 0] if generator.device.type == "cuda" else None
    return [generator, of or torch.default_generator]


def _alike(some: list[Tensor], others: list[Tensor]) -> bool:
    """Whether vectors are as long as others and alike; what is no number in both is alike."""
    if [len(one) for one in some] != [len(other) for other in others]:
        return False
    pairs = [(one.nan_to_num(), other.nan_to_num()) for one, other in zip(some, others, strict=True)]
    return all(bool((one - other).norm() <= ALIKE * other.norm()) for one, other in pairs)
