"""Structures that persist from one visit of a task to the next."""

from typing import NamedTuple

import torch
from torch import Tensor


class Structure(NamedTuple):
    """Which module sits in which slot, for a batch of B tasks.

    Attributes:
        relations: edge modules (B, N, S) int64, receiver-major.
        types: node modules (B, N) int64.
    """

    relations: Tensor
    types: Tensor


def random_structure(
    num_tasks: int, num_entities: int, num_edge_modules: int, num_node_modules: int, generator: torch.Generator
) -> Structure:
    """A structure drawn uniformly for every task, on the generator's device."""
    size, device = (num_tasks, num_entities), generator.device
    relations = torch.randint(num_edge_modules, (*size, num_entities - 1), generator=generator, device=device)
    return Structure(relations, torch.randint(num_node_modules, size, generator=generator, device=device))


def of_sizes(structure: Structure, counts: Tensor) -> Structure:
    """A structure with -1 in the slots of entities that a task lacks.

    Args:
        structure: (B, N, S), (B, N).
        counts: entities of every task, (B,); they come first.
    """
    there = torch.arange(structure.types.shape[1]) < counts.unsqueeze(1)  # (B, N)
    both = there.unsqueeze(2) & there[:, 1:].unsqueeze(1)  # a task of n entities has n - 1 senders
    return Structure(torch.where(both, structure.relations, -1), torch.where(there, structure.types, -1))


class StructureBank:
    """Current structure, energy and number of visits of every training task that this process owns.

    A task is known by its id, its index in the data set. Of several processes, each owns some ids. A task of n entities
    has the first n rows and n - 1 columns of its structure.

    Args:
        task_ids: ids owned here (tasks,), increasing.
        initial: one structure for each of them.
    """

    def __init__(self, task_ids: Tensor, initial: Structure) -> None:
        self.task_ids = task_ids
        self.relations = initial.relations.to(torch.int8)  # 20 modules at most; 50,000 tasks stay small
        self.types = initial.types.to(torch.int8)
        self.energies = torch.full((len(task_ids),), torch.inf)
        self.visits = torch.zeros(len(task_ids), dtype=torch.int64)

    def _rows(self, task_ids: Tensor) -> Tensor:
        rows = torch.searchsorted(self.task_ids, task_ids).clamp_max(len(self.task_ids) - 1)
        if not torch.equal(self.task_ids[rows], task_ids):
            raise KeyError(f"tasks {task_ids.tolist()} are not all in this bank")
        return rows

    def get(self, task_ids: Tensor, device: torch.device | str = "cpu", entities: int | None = None) -> Structure:
        """Structures of a batch of tasks of as many entities, none for all, ids (B,) on the CPU."""
        rows, n = self._rows(task_ids), entities or self.types.shape[1]
        return Structure(self.relations[rows, :n, : n - 1].long().to(device), self.types[rows, :n].long().to(device))

    def put(self, task_ids: Tensor, structure: Structure, energies: Tensor) -> None:
        """Keeps the structures that a batch of tasks of one size ended with, and their energies (B,)."""
        rows, n = self._rows(task_ids), structure.types.shape[1]
        self.relations[rows, :n, : n - 1] = structure.relations.to("cpu", torch.int8)
        self.types[rows, :n] = structure.types.to("cpu", torch.int8)
        self.energies[rows] = energies.detach().to("cpu", torch.float32)
        self.visits[rows] += 1

    def state_dict(self) -> dict[str, Tensor]:
        """All that the bank holds, one row a task."""
        names = ("task_ids", "relations", "types", "energies", "visits")
        return {name: getattr(self, name).clone() for name in names}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Takes back the tasks that are owned here; a saved bank may hold more, or fewer, in any order."""
        order = state["task_ids"].argsort()
        known = state["task_ids"][order]
        if not len(known):
            return
        place = torch.searchsorted(known, self.task_ids).clamp_max(len(known) - 1)
        here = known[place] == self.task_ids
        for name in ("relations", "types", "energies", "visits"):
            getattr(self, name)[here] = state[name][order[place[here]]]
