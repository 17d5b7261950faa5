"""Inference spread over processes, by Lightning's prediction loop.

Tasks with structures of their own are spread in batches: the same batches, with the same random numbers, as in one
process, so results are the same. Where tasks share the structure of a group, the tasks are spread, not the groups: one
network with many recordings has a single group. Sums over tasks are added up over processes, and every process draws
the same structures from them. Results are those of one process but for the order in which numbers are added.
"""

import logging
import sys
import warnings
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import numpy as np
import pytorch_lightning as pl
from pytorch_lightning.plugins.environments import LightningEnvironment
from torch.utils.data import DataLoader

from modmeta.errors import UserError
from modmeta.training.distributed import gather, over_processes, share

Found = TypeVar("Found")
Batch = tuple[np.ndarray, int]  # ids of tasks, and their number of entities


class Processes:
    """Several processes of one command on this machine, each of which ends with the results of all.

    The first loop starts the others, by the command line that started this one, so they come to the same loops with the
    same data. Only the first one may write.

    Args:
        number: of processes, at least 2.
    """

    def __init__(self, number: int) -> None:
        for name in ("pytorch_lightning", "lightning_fabric"):  # what hardware there is, is not news here
            logging.getLogger(name).setLevel(logging.WARNING)
        self.trainer = pl.Trainer(
            accelerator="cpu", devices=number, strategy="ddp", plugins=[LightningEnvironment()], logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, inference_mode=False,
            use_distributed_sampler=False,
        )  # fmt: skip

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
            found = self.trainer.predict(_Loop(work), DataLoader(items, batch_size=None))
        if self.trainer.interrupted:
            raise KeyboardInterrupt
        return [one for one in found or [] if one is not None]  # type: ignore[misc]


class _Loop(pl.LightningModule):
    """What is done with every item; None is not one, for processes that have none: a loop over nothing is a warning."""

    def __init__(self, work: Callable[[int], Any]) -> None:
        super().__init__()
        self.work = work

    def predict_step(self, place: int | None) -> Any:
        return None if place is None else self.work(place)
