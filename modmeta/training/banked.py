"""The LightningModule under both BounceGrads: structures that persist in a bank, and its checkpoints."""

from typing import Any

import torch
from torch import Tensor

from modmeta.graph.bank import Structure, StructureBank
from modmeta.search.temperature import Temperature
from modmeta.training.distributed import gather
from modmeta.training.module import ResumableModule


class BankedModule(ResumableModule):
    """Searches structures at a temperature. They persist in `bank` from visit to visit, and in checkpoints.

    A subclass sets `temperature`, and `shared_bank` where every process has all structures.
    """

    temperature: Temperature
    bank: StructureBank | None = None
    shared_bank = False
    total_steps = 1

    def fill_bank(self, ids: Tensor, start: Structure, edge_modules: Tensor, node_modules: int) -> None:
        """Makes the bank of tasks `ids` (tasks,), from the checkpoint that the run resumes from, if there is one.

        Args:
            ids: those that this process stores.
            start: structures of all tasks.
            edge_modules: numbers of modules that there are, for all slots (S,), or one for each.
            node_modules: number of node modules.

        Raises:
            ValueError: a structure in the checkpoint has a module that there is not.
        """
        self.bank = StructureBank(ids, Structure(start.edge_modules[ids], start.node_modules[ids]), self.device)
        if "bank" not in self.restored:
            return
        self.bank.load_state_dict(self.restored["bank"])
        least = min(int(start.edge_modules.min()), 0)  # -1 where entities are absent
        for values, most in ((self.bank.relations, edge_modules), (self.bank.types, torch.tensor(node_modules))):
            if bool(((values < least) | (values >= most.to(values.device))).any()):
                raise ValueError(f"a structure has a module beyond the {int(most.max())} that there are")

    def on_train_epoch_end(self) -> None:
        self.temperature.end_epoch(self.done / self.total_steps)
        super().on_train_epoch_end()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        if self.bank is not None:
            shards = gather(self.bank.state_dict())
            shards = shards[:1] if self.shared_bank else shards
            checkpoint["modmeta"]["bank"] = {name: torch.cat([shard[name] for shard in shards]) for name in shards[0]}
