"""Means over an epoch that survive a checkpoint. Lightning's own do not, and round weights over processes."""

import pytorch_lightning as pl
import torch
from torch import Tensor

from modmeta.processes import gather


class EpochMeans(pl.LightningModule):
    """Keeps weighted sums of what is logged; they are saved and put back by whoever saves the module."""

    def __init__(self) -> None:
        super().__init__()
        self.sums: dict[str, Tensor] = {}  # of what is logged, over the epoch so far, each with its weight
        self.logged: set[str] = set()  # names of what was logged of the last epoch

    def _keep_means(self, values: dict[str, Tensor], size: int) -> None:
        """Adds the values of a batch of `size` tasks to the means of an epoch."""
        for name, value in values.items():
            weighted = torch.stack((value.double() * size, value.new_tensor(size, dtype=torch.float64)))
            self.sums[name] = self.sums[name] + weighted if name in self.sums else weighted

    def _log_means(self, split: str) -> dict[str, Tensor]:
        """Logs the means of a split over all processes, returns them, and begins them anew."""
        mine = {name: self.sums.pop(name).cpu() for name in list(self.sums) if name.startswith(split)}
        totals: dict[str, Tensor] = {}
        for part in gather(mine):
            for name, weighted in part.items():
                totals[name] = totals.get(name, torch.zeros(())) + weighted
        means = {name: total / weight for name, (total, weight) in totals.items()}
        self.log_dict(means, on_step=False, on_epoch=True)
        return means
