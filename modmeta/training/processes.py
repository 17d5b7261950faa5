"""Inference spread over processes, by Lightning's prediction loop.

Tasks with structures of their own are spread in batches: the same batches, with the same random numbers, as in one
process, so results are the same. Where tasks share the structure of a group, the tasks are spread, not the groups: one
network with many recordings has a single group. Sums over tasks are added up over processes, and every process draws
the same structures from them. Results are those of one process but for the order in which numbers are added.
"""

import ctypes
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import numpy as np
import pytorch_lightning as pl
from pytorch_lightning.plugins.environments import LightningEnvironment
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.strategies.launchers import _SubprocessScriptLauncher
from torch.utils.data import DataLoader

from modmeta.errors import UserError
from modmeta.training.distributed import gather, over_processes, share

Found = TypeVar("Found")
STOPS = (signal.SIGINT, signal.SIGTERM)
ENDS_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux
Batch = tuple[np.ndarray, int]  # ids of tasks, and their number of entities


class Processes:
    """Several processes of one command on this machine, each of which ends with the results of all.

    The first loop starts the others, by the command line that started this one, so they come to the same loops with the
    same data. Only the first one may write. Signals are for the first one alone: it ends the others as soon as SIGINT
    or SIGTERM arrives, even while it waits for them, and wherever a `with` block of it is left by an error.

    Args:
        number: of processes, at least 2.
    """

    def __init__(self, number: int) -> None:
        for name in ("pytorch_lightning", "lightning_fabric"):  # what hardware there is, is not news here
            logging.getLogger(name).setLevel(logging.WARNING)
        if "LOCAL_RANK" in os.environ and sys.platform == "linux":  # started by the first one
            ctypes.CDLL(None).prctl(ENDS_WITH_PARENT, signal.SIGKILL)
        self.trainer = pl.Trainer(
            accelerator="cpu", devices=number, strategy=_Strategy(), plugins=[LightningEnvironment()], logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, inference_mode=False,
            use_distributed_sampler=False,
        )  # fmt: skip
        self._before: tuple[int, int] | None = None  # what is told of signals
        self._ending = threading.Lock()

    def __enter__(self) -> "Processes":
        if self.first and threading.current_thread() is threading.main_thread():
            ear, mouth = os.pipe()
            os.set_blocking(mouth, False)
            self._before = signal.set_wakeup_fd(mouth, warn_on_full_buffer=False), mouth
            threading.Thread(target=self._listen, args=(ear,), daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._end_others()
        if self._before is not None:
            before, mouth = self._before
            signal.set_wakeup_fd(before)
            os.close(mouth)

    def _listen(self, ear: int) -> None:
        """Ends the others on a signal: this process may wait for them where no handler of Python's is called."""
        with os.fdopen(ear, "rb", buffering=0) as heard:
            while number := heard.read(1):
                if number[0] in STOPS:
                    self._end_others()

    def _end_others(self) -> None:
        launcher = self.trainer.strategy.launcher
        assert isinstance(launcher, _Launcher)
        with self._ending:
            others = launcher.procs.copy()
            launcher.procs.clear()  # else Lightning takes their end for a crash, and kills this process
            for process in others:
                process.kill()
            for process in others:
                process.wait()

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes."""
        return self.trainer.is_global_zero

    def each(
        self, work: Callable[[Any, int], Found], batches: list[Batch], advance: Callable[[int], object] | None
    ) -> Iterable[Found]:
        """What `work` makes of every batch of tasks, in their order; each batch is the work of one process.

        Args:
            work: function of a batch, whose result can be pickled.
            batches: ids of tasks, and their number of entities.
            advance: called in the first process with the number of tasks that are finished in all, about.

        Raises:
            UserError: that of the first batch that has one; the other processes end.
        """
        rank, number = self.trainer.global_rank, self.trainer.world_size
        left = sum(len(ids) for ids, _ in batches)

        def one(place: int) -> tuple[int, Found | UserError]:
            nonlocal left
            ids, n = batches[place]
            try:
                found: Found | UserError = work(ids, n)
            except UserError as error:
                found = error
            done = min(left, number * len(ids))
            left -= done
            if advance is not None and self.first:
                advance(done)
            return place, found

        parts = dict(pair for part in gather(self._looped(one, range(rank, len(batches), number))) for pair in part)
        results = [parts[place] for place in range(len(batches))]
        for found in results:
            if isinstance(found, UserError):
                if self.first:
                    raise found
                sys.exit()  # with status 0: Lightning takes another one for a crash, and ends the first process
        return results  # type: ignore[return-value]

    def together(self, work: Callable[[], Found]) -> Found:
        """The result of work of which every process does its `share`; sums go through `reduce` and `gather`."""
        return self._looped(lambda _: work(), range(1))[0]

    share, reduce, gather = staticmethod(share), staticmethod(over_processes), staticmethod(gather)

    def _looped(self, work: Callable[[int], Found], places: range) -> list[Found]:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")  # items are numbers
            warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)  # Lightning's own, of torch
            items: Any = [*places] or [None]
            try:
                found = self.trainer.predict(_Loop(work), DataLoader(items, batch_size=None))
            except SystemExit as ended:  # what Lightning makes of an interrupt
                raise ended.__context__ if isinstance(ended.__context__, KeyboardInterrupt) else ended from None
        return [one for one in found or [] if one is not None]  # type: ignore[misc]


class _Loop(pl.LightningModule):
    """What is done with every item; None is not one, for processes that have none: a loop over nothing is a warning."""

    def __init__(self, work: Callable[[int], Any]) -> None:
        super().__init__()
        self.work, self.on_sigterm = work, signal.getsignal(signal.SIGTERM)

    def on_predict_start(self) -> None:
        """Replaces Lightning's handler of SIGTERM, which waits for the other processes."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self.on_sigterm)

    def predict_step(self, place: int | None) -> Any:
        return None if place is None else self.work(place)


class _Launcher(_SubprocessScriptLauncher):
    """Starts processes that signals do not reach."""

    def _call_children_scripts(self) -> None:
        if not hasattr(signal, "pthread_sigmask"):  # Windows
            super()._call_children_scripts()
            return
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
        try:
            super()._call_children_scripts()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Strategy(DDPStrategy):
    """DDP of such processes."""

    def _configure_launcher(self) -> None:
        assert self.cluster_environment is not None
        self._launcher = _Launcher(self.cluster_environment, self.num_processes, self.num_nodes)
