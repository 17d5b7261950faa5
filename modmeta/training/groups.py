"""Tasks in groups that share a structure: what training, validation and calibration do with a run's groups.

Letters: G groups, B tasks, N entities, S senders, K edge modules, T frames, D features.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from modmeta.data.loading.batches import TaskDataset, by_size
from modmeta.errors import UserError
from modmeta.evaluation.calibration import Calibration, calibrate_groups
from modmeta.graph.bank import Structure, StructureBank
from modmeta.keys import GROUP, MASK, STATES
from modmeta.model.model import RelationalModel
from modmeta.search.infer import Inferred
from modmeta.search.pooled import Batch, PooledProblem, infer_pooled
from modmeta.search.problem import one_step_problem
from modmeta.search.search import Search
from modmeta.training.distributed import gather, mixed_seed, over_processes, share

if TYPE_CHECKING:
    from modmeta.data.loading.datamodule import TrajectoryDataModule


def check_groups(
    search: Any, soft: bool = False, persist: bool = True, known: float = 0.0, strengths: bool = False
) -> None:
    """Checks settings, of a `Search` or as configured, where tasks of a group share a structure.

    Raises:
        UserError: a setting does not go with that.
    """
    for wrong, what in (
        (search.receivers != "all" or search.horizon > 1, "search.receivers or search.horizon; set them to all and 1"),
        (search.symmetric, "search.symmetric=true; set it to false"),
        (search.start == "weights", "search.start=weights; set it to laws"),
        (soft, "method.soft=true; set it to false"),
        (not persist, "method.persist=false; set it to true"),
        (known > 0, f"data.known={known:g}; set it to 0"),
        (strengths, "model.strengths=true, which tells strengths anew in every task; set it to false"),
    ):
        if wrong:
            raise UserError(f"structures that tasks of a group share do not go with {what}, or set data.group=null")


class Told(NamedTuple):
    """What is known of all groups of the data.

    Attributes:
        structure: (G, N, S), (G, N).
        probabilities: of every edge module, (G, N, S, K).
    """

    structure: Structure
    probabilities: Tensor


class Groups:
    """The groups of a run.

    Args:
        data: with the tasks of all splits.
        model: whose modules structures are made of.
        search: settings of the search.
        bank: structures of all groups, the same in all processes; those of training are searched.
        frames: number of frames, from the first, that structures are inferred from.
        seed: of draws.
        device: of the model.
    """

    def __init__(
        self, data: "TrajectoryDataModule", model: RelationalModel, search: Search, bank: StructureBank,
        frames: int, seed: int, device: torch.device,
    ) -> None:  # fmt: skip
        self.data, self.model, self.search, self.bank = data, model, search, bank
        self.frames, self.seed, self.device = frames, seed, device
        self.told: Told | None = None  # in validation and test

    def step(self, temperature: float, steps_done: int) -> None:
        """The search step of all training groups."""
        generator = self._generator(mixed_seed(self.seed, steps_done))
        for groups, problem in self._pools("train"):
            start = self.bank.get(groups, problem.states.shape[1])
            found = infer_pooled(self.search, problem, generator, start, temperature, draw=True)
            self.bank.put(groups, found.structure, found.energies)

    def tell(self, split: str, temperature: float, weigh: bool = False) -> None:
        """Keeps what is known of all groups, for tasks of a split.

        Structures of training groups are as training has left them, and certain unless `weigh` asks for their
        probabilities; those of others are what their tasks in the split tell.
        """
        bank, k = self.bank, self.model.dynamics.num_edge_modules
        structure = Structure(bank.relations.long(), bank.types.long())
        told = Told(structure, F.one_hot(structure.edge_modules.clamp_min(0), k).float())
        train = self._groups_of("train").unique()
        pools = [(False, *pool) for pool in self._pools(split, apart=train)]
        pools += [(True, *pool) for pool in self._pools("train")] if weigh else []
        for known, groups, problem in pools:
            n = problem.states.shape[1]
            start = bank.get(groups, n) if known else None
            found = infer_pooled(self.search, problem, self._generator(self.seed), start, temperature)
            structure.edge_modules[groups, :n, : n - 1] = found.structure.edge_modules
            structure.node_modules[groups, :n] = found.structure.node_modules
            told.probabilities[groups, :n, : n - 1] = found.probabilities
        self.told = told

    @torch.no_grad()
    def of(self, batch: dict[str, Tensor]) -> Inferred:
        """What is known of the structures of a batch, from all tasks of their groups, with the batch's own energies."""
        assert self.told is not None, "told when validation or test began"
        (edges, types), chances, groups = *self.told, batch[GROUP]
        n = batch[STATES].shape[1]
        structure = Structure(edges[groups, :n, : n - 1], types[groups, :n])
        states = batch[STATES][:, :, : self.frames]
        mask = batch[MASK][..., : states.shape[2] - 1] if MASK in batch else None
        messages, score = one_step_problem(self.model, states, structure, mask=mask).one_step()
        energies = score.rows(messages, structure.edge_modules.unsqueeze(2), structure.node_modules.unsqueeze(2))
        return Inferred(structure, chances[groups, :n, : n - 1], energies.flatten(1).sum(1), None)

    def calibrated(self, batches: list[dict[str, Tensor]], module_to_relation: Tensor) -> Calibration:
        """Calibration on validation tasks, of the groups of the most frequent size.

        Labels are the true relations; without them, what training tasks tell. Groups that have no training tasks are
        told from half of the frames, and labelled by all.
        """
        valid, known = self.data.splits["valid"], self._groups_of("train").unique()
        groups, whole = max(self._pools("valid"), key=lambda pool: len(pool[0]))
        n, trained = whole.states.shape[1], bool(torch.isin(groups, known).all())
        frames = self.frames
        if valid.relations is not None:
            first = torch.stack([(valid.groups == group).nonzero()[0, 0] for group in groups])
            labels = valid.relations[first, :n, : n - 1].long()
        elif trained:
            labels = module_to_relation[self.bank.get(groups, n).edge_modules]
        else:
            found = infer_pooled(self.search, whole, self._generator(self.seed))
            labels, frames = module_to_relation[found.structure.edge_modules], max(3, self.frames // 2)
            groups, whole = max(self._pools("valid", frames=frames), key=lambda pool: len(pool[0]))
        self.tell("valid", 1.0)
        scenes = [(batch[STATES][:, :, : self.frames], self.of(batch).probabilities) for batch in batches]
        tasks = int(torch.isin(self._groups_of("valid"), groups).sum())

        def posterior(temperature: float) -> Tensor:
            generator = self._generator(self.seed)
            return infer_pooled(self.search, whole, generator, temperature=temperature).probabilities

        number = frames * tasks // len(groups)
        return calibrate_groups(
            self.model, posterior, labels.to(self.device), module_to_relation, number, scenes, self.seed
        )

    def _groups_of(self, split: str) -> Tensor:
        groups = self.data.splits[split].groups
        assert groups is not None
        return groups

    def _generator(self, seed: int) -> torch.Generator:
        """The same in all processes."""
        return torch.Generator(self.device).manual_seed(seed)

    def _pools(
        self, split: str, apart: Tensor | None = None, frames: int | None = None
    ) -> Iterator[tuple[Tensor, PooledProblem]]:
        """Groups of every size with the problem of their tasks in a split, without the groups `apart`.

        Every process has some of the training tasks, and all of the others.
        """
        tasks, training = self.data.splits[split], split == "train"
        of, everyone = self._groups_of(split), torch.arange(len(tasks))
        if apart is not None:
            everyone = everyone[~torch.isin(of, apart)]
        for mine in by_size(everyone, tasks.counts):
            if not len(mine):
                continue
            groups, n = of[mine].unique(), tasks.states.shape[1] if tasks.counts is None else int(tasks.counts[mine[0]])
            own = share(mine) if training else mine
            index = torch.searchsorted(groups, of[own])
            batches = partial(self._batches, tasks, own, index, frames or self.frames)
            states = tasks.states.new_zeros(len(groups), n, 1, tasks.states.shape[3], device=self.device)
            problem = PooledProblem(self.model, states, edge_cost=self.search.edge_cost, batches=batches)
            yield groups, replace(problem, reduce=over_processes, gather=gather) if training else problem

    def _batches(self, tasks: TaskDataset, ids: Tensor, groups: Tensor, frames: int, size: int) -> Iterator[Batch]:
        t = min(tasks.states.shape[2], frames)
        for part in torch.arange(len(ids)).split(max(1, size // (t * tasks.states.shape[3]))):
            if not len(part):  # a process may have no task of a size
                return
            batch = tasks[ids[part].tolist()]
            mask = batch[MASK][..., : t - 1].to(self.device) if MASK in batch else None
            yield Batch(batch[STATES][:, :, :t].to(self.device), groups[part].to(self.device), mask)
