"""A CUDA graph on the CPU: work is recorded operation by operation, and repeated on the same memory.

What a graph cannot do, a tape refuses: look at a value, or have shapes that depend on values.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Out = TypeVar("Out")
WAITING = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
# Tags do not say so: some look at values on a GPU, and tensors made of Python's numbers are copied to it.
LOOKING = ("aten::multinomial", "aten::_linalg_check_errors", "aten::lift")


class Tape(TorchDispatchMode):
    """Records operations while it is entered, and the values of all tensors from before."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []
        self.seen: set[int] = set()  # addresses of memory
        self.before: list[tuple[Tensor, Tensor]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if waits(func, args):
            raise RuntimeError(f"{func} waits for the device")
        self._meet(args, kwargs, keep=True)
        out = func(*args, **kwargs)
        self._meet(out, keep=False)
        self.calls.append((func, args, kwargs, out))
        return out

    def _meet(self, *parts: Any, keep: bool) -> None:
        for value in tree_leaves(parts):
            if isinstance(value, Tensor) and value.untyped_storage().data_ptr() not in self.seen:
                self.seen.add(value.untyped_storage().data_ptr())
                if keep:
                    self.before.append((value, value.clone()))

    @torch.no_grad()
    def undo(self) -> None:
        """Gives tensors from before the values that they had."""
        for value, was in self.before:
            value.copy_(was)

    @torch.no_grad()
    def replay(self) -> None:
        """Repeats the work."""
        for func, args, kwargs, out in self.calls:
            again = func(*args, **kwargs)
            for here, now in zip(tree_leaves(out), tree_leaves(again), strict=True):
                if isinstance(here, Tensor) and here.data_ptr() != now.data_ptr():
                    here.copy_(now)


def waits(func: Any, args: tuple[Any, ...]) -> bool:
    """Whether an operation waits for the device, because its result or its shape depends on values."""
    if "index" not in func.name():
        return bool(WAITING & set(func.tags)) or func.name().startswith(LOOKING)
    return any(isinstance(one, Tensor) and one.dtype is torch.bool for one in tree_leaves(args[1:2]))  # as a mask


def taped(work: Callable[[], Out], generators: Sequence[torch.Generator]) -> tuple[Out, Callable[[], Any]]:
    """`Recorder` of the CPU. As a graph is, the work is recorded without drawing a number or changing a tensor."""
    drawn = [torch.default_generator, *generators]
    states = [generator.get_state() for generator in drawn]
    tape = Tape()
    try:
        with tape:
            out = work()
    finally:
        tape.undo()
        for generator, state in zip(drawn, states, strict=True):
            generator.set_state(state)
    return out, tape.replay
