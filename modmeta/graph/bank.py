"""Structures, and the bank that stores them between visits of a task."""

from typing import NamedTuple

import torch
from torch import Tensor


class Structure(NamedTuple):
    """Modules assigned to edges and entities, for a batch of B tasks.

    Attributes:
        edge_modules: edge modules (B, N, S) int64, receiver-major.
        node_modules: node modules (B, N) int64.
    """

    edge_modules: Tensor
    node_modules: Tensor


def random_structure(
    num_tasks: int, num_entities: int, num_edge_modules: int, num_node_modules: int, generator: torch.Generator
) -> Structure:
    """Draws a structure uniformly for every task, on the generator's device."""
    size, device = (num_tasks, num_entities), generator.device
    relations = torch.randint(num_edge_modules, (*size, num_entities - 1), generator=generator, device=device)
    return Structure(relations, torch.randint(num_node_modules, size, generator=generator, device=device))


def mark_absent(structure: Structure, counts: Tensor) -> Structure:
    """Sets the edges and types of absent entities to -1.

    Args:
        structure: modules (B, N, S), (B, N).
        counts: number of entities of every task, (B,); present entities come first.
    """
    present = torch.arange(structure.node_modules.shape[1]) < counts.unsqueeze(1)  # (B, N)
    both = present.unsqueeze(2) & present[:, 1:].unsqueeze(1)  # a task of n entities has n - 1 senders
    return Structure(torch.where(both, structure.edge_modules, -1), torch.where(present, structure.node_modules, -1))


class StructureBank:
    """Current structure, energy and number of visits of every training task owned by this process.

    The id of a task is its index in the data set; ids are sharded over processes. A task of n entities uses the first n
    rows and n - 1 columns of its stored structure.

    Ids stay on the CPU, so that looking them up never waits for another device.

    Args:
        task_ids: ids owned by this process (tasks,), increasing, on the CPU.
        initial: initial structures of these tasks.
        device: where structures are kept.
    """

    def __init__(self, task_ids: Tensor, initial: Structure, device: torch.device | str = "cpu") -> None:
        self.task_ids, self.device = task_ids, torch.device(device)
        self.relations = initial.edge_modules.to(device, torch.int8)  # 20 modules at most; int8 keeps 50,000 small
        self.types = initial.node_modules.to(device, torch.int8)
        self.energies = torch.full((len(task_ids),), torch.inf, device=device)
        self.visits = torch.zeros(len(task_ids), dtype=torch.int64, device=device)

    def _rows(self, task_ids: Tensor) -> Tensor:
        rows = torch.searchsorted(self.task_ids, task_ids).clamp_max(len(self.task_ids) - 1)
        if not torch.equal(self.task_ids[rows], task_ids):
            raise KeyError(f"tasks {task_ids.tolist()} are not all in this bank")
        return rows.to(self.device, non_blocking=True)

    def _slots(self, entities: int) -> int:
        """Slots of a receiver in tasks of so many entities; a task of one receiver may have any number."""
        _, most, slots = self.relations.shape
        return slots - (most - entities)

    def get(self, task_ids: Tensor, entities: int | None = None) -> Structure:
        """Structures of a batch of tasks.

        Args:
            task_ids: ids (B,), on the CPU.
            entities: number n of entities of these tasks; None for the largest.

        Raises:
            KeyError: an id is not in this bank.
        """
        rows, n = self._rows(task_ids), entities or self.types.shape[1]
        return Structure(self.relations[rows, :n, : self._slots(n)].long(), self.types[rows, :n].long())

    def put(self, task_ids: Tensor, structure: Structure, energies: Tensor) -> None:
        """Stores the structures of a batch of tasks of one size, and their energies (B,), and counts the visit."""
        rows, n = self._rows(task_ids), structure.node_modules.shape[1]
        self.relations[rows, :n, : self._slots(n)] = structure.edge_modules.to(self.device, torch.int8)
        self.types[rows, :n] = structure.node_modules.to(self.device, torch.int8)
        self.energies[rows] = energies.detach().to(self.device, torch.float32)
        self.visits[rows] += 1

    def state_dict(self) -> dict[str, Tensor]:
        """Content of the bank, one row per task."""
        names = ("task_ids", "relations", "types", "energies", "visits")
        return {name: getattr(self, name).to("cpu", copy=True) for name in names}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restores the tasks owned by this process. Saved tasks of other processes are ignored; missing ones stay."""
        order = state["task_ids"].argsort()
        known = state["task_ids"][order]
        if not len(known):
            return
        place = torch.searchsorted(known, self.task_ids).clamp_max(len(known) - 1)
        here = known[place] == self.task_ids
        for name in ("relations", "types", "energies", "visits"):
            mine = getattr(self, name)
            mine[here.to(self.device)] = state[name][order[place[here]]].to(self.device)
