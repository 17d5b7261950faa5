"""The LightningDataModule under all data modules."""

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from modmeta.data.loading.batches import TaskBatches, TaskLoader
from modmeta.keys import GROUP, TASK


class TaskModule(pl.LightningDataModule):
    """Serves the splits of a data module in batches of tasks.

    Attributes:
        splits: data sets by name; one with tasks of several sizes has `counts`, else these are None.
        batch_size: training tasks per batch, summed over all processes.
        batches_per_epoch: training batches per epoch; None for one pass over the tasks.
        eval_batch_size: tasks per batch in validation and test.
        order_seed: seed of the order of training tasks.
    """

    splits: Mapping[str, Any]
    batch_size: int
    batches_per_epoch: int | None
    eval_batch_size: int
    order_seed: int

    def _process(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def train_dataloader(self) -> TaskLoader:
        return self._loader("train", self.batch_size, self.batches_per_epoch, self.order_seed)

    def val_dataloader(self) -> TaskLoader:
        return self._loader("valid", self.eval_batch_size, None, None)

    def test_dataloader(self) -> TaskLoader:
        return self._loader("test", self.eval_batch_size, None, None)

    def transfer_batch_to_device(
        self, batch: dict[str, Tensor], device: torch.device, dataloader_idx: int
    ) -> dict[str, Tensor]:
        """Moves a batch; ids of tasks and groups stay on the CPU, where structures are looked up by them."""
        ids = {name: batch.pop(name) for name in (TASK, GROUP) if name in batch}
        moved: dict[str, Tensor] = super().transfer_batch_to_device(batch, device, dataloader_idx)
        return moved | ids

    def _loader(self, split: str, size: int, batches: int | None, seed: int | None) -> TaskLoader:
        data = self.splits[split]
        sampler = TaskBatches(len(data), size, batches, seed, *self._process(), counts=data.counts)
        own = torch.Generator()  # the loader draws a number per pass; keep it out of the global stream of dropout
        return TaskLoader(data, sampler=sampler, batch_size=None, generator=own)
