"""Batches of tasks with equal numbers of entities, in an order that a resumed run reproduces."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from modmeta.data.trajectories import Trajectories
from modmeta.data.transforms.gaps import known_steps
from modmeta.data.units import Units
from modmeta.graph.relations import from_matrix
from modmeta.keys import GROUP, KNOWN, MASK, RELATIONS, STATES, TASK, TYPES


class TaskDataset(Dataset[dict[str, Tensor]]):
    """All tasks of a split in memory. Indexing by a list of task ids of equal size gives a batch.

    Args:
        states: (tasks, N, T, D), N the largest number of entities; absent entities come last.
        relations: labels (tasks, N, S); a task of n entities uses the first n rows and n - 1 columns. None if unknown.
        mask: how well steps are known, (tasks, N, T - 1) int8, see `modmeta.keys`; None if all were observed.
        known: relations given to the search (tasks, N, S), -1 where not given.
        types: labels of entities (tasks, N).
        counts: number of entities of every task, (tasks,); None if all have N.
        groups: index of the group of every task, (tasks,) int64; None if every task has its own structure.
    """

    def __init__(
        self,
        states: Tensor,
        relations: Tensor | None,
        mask: Tensor | None = None,
        known: Tensor | None = None,
        types: Tensor | None = None,
        counts: Tensor | None = None,
        groups: Tensor | None = None,
    ) -> None:
        self.states, self.relations, self.mask, self.known = states, relations, mask, known
        self.types, self.counts, self.groups = types, counts, groups

    def __len__(self) -> int:
        return len(self.states)

    def __getitem__(self, ids: list[int]) -> dict[str, Tensor]:
        task = torch.as_tensor(ids)
        n = self.states.shape[1] if self.counts is None else int(self.counts[task].max())
        if self.counts is not None and bool((self.counts[task] < n).any()):
            raise ValueError(f"tasks {ids} are not of one size; group them with `by_size`")
        batch = {TASK: task, STATES: self.states[task, :n]}
        if self.groups is not None:
            batch[GROUP] = self.groups[task]
        if self.relations is not None:
            batch[RELATIONS] = self.relations[task, :n, : n - 1].long()
        if self.known is not None:
            batch[KNOWN] = self.known[task, :n, : n - 1].long()
        if self.mask is not None:
            batch[MASK] = self.mask[task, :n]
        if self.types is not None:
            batch[TYPES] = self.types[task, :n].long()
        return batch

    def present(self, tasks: Tensor | None = None) -> Tensor:
        """States without absent entities, for statistics: (B, N, T, D), or (E, 1, T, D) if tasks differ in size.

        Args:
            tasks: which tasks to use, (tasks,) bool; None for all.
        """
        states = self.states if tasks is None else self.states[tasks]
        if self.counts is None:
            return states
        counts = self.counts if tasks is None else self.counts[tasks]
        return states[torch.arange(states.shape[1]) < counts.unsqueeze(1)].unsqueeze(1)


def by_size(ids: Tensor, counts: Tensor | None) -> list[Tensor]:
    """Groups task ids by number of entities, increasing; `counts` as in `TaskDataset`."""
    return [ids] if counts is None else [ids[counts[ids] == n] for n in counts[ids].unique()]


def owned(num_tasks: int, counts: Tensor | None, rank: int, world_size: int) -> Tensor:
    """Ids of the tasks whose batches and structures a process owns, increasing; sizes are shared out evenly."""
    return torch.cat(by_size(torch.arange(num_tasks), counts))[rank::world_size].sort().values


class TaskBatches(Sampler[list[int]]):
    """Batches of task ids: passes over the tasks in random order, cut into epochs of a fixed number of batches.

    The order depends on seed, rank and epoch alone, so a resumed run gets the same batches. Each process always serves
    the tasks that it owns, because it stores their structures.

    A batch holds tasks of one size. If all tasks have the same size, batches are full and a pass skips the remainder.
    With several sizes a pass visits every task once; each size is split into batches of nearly equal length, and the
    batches of all sizes are shuffled, so sizes occur in proportion to their tasks.

    Args:
        num_tasks: number of tasks.
        batch_size: tasks per batch, summed over all processes.
        batches: batches per epoch of a process; None for one pass over its tasks.
        seed: seed of the order; None for one pass in increasing order, with a last batch that may be smaller.
        rank: rank of this process.
        world_size: number of processes.
        counts: number of entities of every task, (num_tasks,); None if all are equal.
    """

    def __init__(
        self,
        num_tasks: int,
        batch_size: int,
        batches: int | None,
        seed: int | None,
        rank: int = 0,
        world_size: int = 1,
        counts: Tensor | None = None,
    ) -> None:
        self.counts = None if counts is None or bool((counts == counts[0]).all()) else counts
        self.ids = owned(num_tasks, self.counts, rank, world_size)
        self.size = min(max(batch_size // world_size, 1), num_tasks // world_size)
        self.seed, self.rank, self.epoch = seed, rank, 0
        self.served = self.skipped = 0  # batches served in this epoch; batches that a resumed run skips
        shares = [owned(num_tasks, self.counts, each, world_size) for each in range(world_size)]
        passes = [len(self._cut(share)) for share in shares]  # the last process has the fewest tasks
        self.batches = passes[rank] if seed is None else batches or (min if self.counts is None else max)(passes)

    def _cut(self, order: Tensor) -> list[Tensor]:
        """Cuts the tasks of a pass into batches of one size, keeping their order."""
        groups = by_size(order, self.counts)
        if self.seed is None:
            return [batch for group in groups for batch in group.split(self.size)]
        if self.counts is None:
            return list(order.split(self.size)[: len(order) // self.size])
        return [batch for group in groups for batch in group.tensor_split(-(-len(group) // self.size))]

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before every epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[list[int]]:
        cut, known = self._cut(self.ids), -1
        if self.seed is None:
            yield from (ids.tolist() for ids in cut)
            return
        per_pass = len(cut)
        self.served, self.skipped = self.skipped, 0
        for batch in range(self.epoch * self.batches + self.served, (self.epoch + 1) * self.batches):
            number, place = divmod(batch, per_pass)
            if number != known:
                mixed = np.random.SeedSequence((self.seed, self.rank, number)).generate_state(1, np.uint64)
                generator = torch.Generator().manual_seed(int(mixed[0] >> 1))
                cut, known = self._cut(self.ids[torch.randperm(len(self.ids), generator=generator)]), number
                if self.counts is not None:
                    cut = [cut[i] for i in torch.randperm(per_pass, generator=generator).tolist()]
            self.served += 1
            yield cut[place].tolist()


class TaskLoader(DataLoader[dict[str, Tensor]]):
    """Loads batches in this process. Lightning saves and restores its position in the epoch."""

    sampler: TaskBatches

    def state_dict(self) -> dict[str, int]:
        return {"served": self.sampler.served}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.sampler.skipped = state["served"]


def as_dataset(data: Trajectories, units: Units, group_names: np.ndarray | None = None) -> TaskDataset:
    """Converts trajectories in physical units to a data set in protocol units.

    Args:
        data: trajectories in physical units.
        units: protocol units.
        group_names: names of all groups, increasing, by their index; None for those of `data`.
    """
    relations = None
    if data.relations is not None:
        relations = from_matrix(torch.from_numpy(data.relations)).to(torch.int8)
    steps, counts = known_steps(data), data.counts
    groups = None
    if data.group_names is not None:
        names = np.unique(data.group_names) if group_names is None else group_names
        groups = torch.from_numpy(np.searchsorted(names, data.group_names.astype(names.dtype)))
    return TaskDataset(
        units.normalised(data.states),
        relations,
        mask=None if steps is None else torch.from_numpy(steps),
        types=None if data.types is None else torch.from_numpy(data.types).to(torch.int8),
        counts=None if counts is None else torch.from_numpy(counts),
        groups=groups,
    )
