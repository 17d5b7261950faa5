"""Data module of few-shot regression: simulated functions, served in batches of tasks.

Letters: B tasks, P points, I inputs, O outputs, S slots.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from modmeta.data.loading.taskmodule import TaskModule
from modmeta.errors import DataError
from modmeta.keys import INPUTS, OUTPUTS, SLOTS, TASK, UNSEEN
from modmeta.simulators.functions import FunctionTasks, FunctionWorld


class FunctionDataset(Dataset[dict[str, Tensor]]):
    """All tasks of a split in memory. Indexing by a list of task ids gives a batch.

    Args:
        tasks: x (tasks, P, I), y (tasks, P, O), slots (tasks, S).
        unseen: number of last tasks whose combination training never has.
    """

    def __init__(self, tasks: FunctionTasks, unseen: int = 0) -> None:
        self.x, self.y, self.slots = (torch.from_numpy(part) for part in tasks)
        self.unseen = torch.arange(len(self.x)) >= len(self.x) - unseen
        self.states = self.x  # (tasks, P, I): its shape gives the number of tasks to whoever asks for `states`
        self.counts = None

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, ids: list[int]) -> dict[str, Tensor]:
        task = torch.as_tensor(ids)
        batch = {TASK: task, INPUTS: self.x[task], OUTPUTS: self.y[task], UNSEEN: self.unseen[task]}
        return batch | ({SLOTS: self.slots[task]} if self.slots.shape[1] else {})


class FunctionDataModule(TaskModule):
    """Training, validation and test tasks of one world of functions.

    The first `support` points of a task are its examples, from which its structure is found; the others are queries.
    The last half of the test tasks are combinations that training never has, where the world holds some out.

    Args:
        world: of `modmeta.simulators.functions`.
        num_tasks: training tasks.
        valid: validation tasks.
        test: test tasks.
        support: examples of a task.
        points: points of a training task, examples included.
        test_points: points of a validation or test task, likewise.
        seed: of the simulator.
        batch_size: tasks per batch, summed over all processes.
        batches_per_epoch: training batches per epoch; None for one pass over the tasks.
        eval_batch_size: tasks per batch in validation and test.
        order_seed: seed of the order of training tasks.

    Raises:
        DataError: a setting is invalid.
    """

    def __init__(
        self,
        world: FunctionWorld,
        num_tasks: int = 1000,
        valid: int = 200,
        test: int = 400,
        support: int = 8,
        points: int = 32,
        test_points: int = 40,
        seed: int = 0,
        batch_size: int = 32,
        batches_per_epoch: int | None = 100,
        eval_batch_size: int = 100,
        order_seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value in (("num_tasks", num_tasks), ("valid", valid), ("test", test), ("batch_size", batch_size)):
            if value < 1:
                raise DataError(f"data.{name}={value} must be at least 1")
        if not 1 <= support < min(points, test_points):
            raise DataError(
                f"data.support={support} must be at least 1 and below data.points={points} and "
                f"data.test_points={test_points}; the other points are queries"
            )
        self.world, self.num_tasks, self.support = world, num_tasks, support
        self.sizes = {"train": (num_tasks, points), "valid": (valid, test_points), "test": (test, test_points)}
        self.seed, self.batch_size, self.batches_per_epoch = seed, batch_size, batches_per_epoch
        self.eval_batch_size, self.order_seed = eval_batch_size, order_seed
        self.splits: dict[str, FunctionDataset] = {}

    def setup(self, stage: str | None = None) -> None:
        """Draws all splits."""
        if self.splits:
            return
        for name, (tasks, points) in self.sizes.items():
            new = tasks // 2 if name == "test" and self.world.unseen else 0
            drawn = self.world.draw(tasks - new, points, self.seed, name)
            if new:
                unseen = self.world.draw(new, points, self.seed, "unseen", unseen=True)
                drawn = FunctionTasks(*(torch.cat((torch.from_numpy(a), torch.from_numpy(b))).numpy()
                                        for a, b in zip(drawn, unseen, strict=True)))  # fmt: skip
            self.splits[name] = FunctionDataset(drawn, new)

    def description(self) -> dict[str, Any]:
        """Description of the data for checkpoints."""
        return {
            "inputs": self.world.inputs,
            "outputs": self.world.outputs,
            "support": self.support,
            "num_tasks": self.num_tasks,
        }

    def owned_tasks(self) -> Tensor:
        """Ids of the training tasks whose structures this process stores."""
        return torch.arange(self.num_tasks)[self._process()[0] :: self._process()[1]]
