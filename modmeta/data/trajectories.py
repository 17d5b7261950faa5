"""Trajectories of many tasks: the one form that simulators write, files hold and training reads."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from modmeta.errors import DataError

CHUNK = 4096  # tasks checked at a time, to spare memory


@dataclass(frozen=True)
class Trajectories:
    """Observed frames of every task of a split, in physical units.

    Args:
        states: (tasks, N, T, D) float. Where entities have places, the first P features are coordinates, the next P the
            velocities (P = 2: x, y, vx, vy); further features follow.
        relations: (tasks, N, N) int64, `relations[task, receiver, sender]`, labels from 0, diagonal 0; None if unknown.
        features: name of every feature, D of them.
        frame_step: time units between two frames.
        settings: where the data came from, in plain JSON types. `edge_values`, if there, is the value that the
            published layout stores for every relation label (`modmeta.data.nri`).
        mask: (tasks, N, T) bool, where an entity was observed; None for everywhere. States elsewhere are fillers. An
            entity that a task lacks was never observed and comes after those that it has.
        task_names: (tasks,) names of the tasks in their file, integers or strings; None for 0, 1, ...
        entity_names: (tasks, N) names of the entities, likewise; those of entities that a task lacks mean nothing.
        types: (tasks, N) int64, what kind of entity each is, labels from 0; None if unknown, or all alike.
    """

    states: np.ndarray
    relations: np.ndarray | None
    features: tuple[str, ...]
    frame_step: float
    settings: dict[str, Any] = field(default_factory=dict)
    mask: np.ndarray | None = None
    task_names: np.ndarray | None = None
    entity_names: np.ndarray | None = None
    types: np.ndarray | None = None

    @property
    def num_tasks(self) -> int:
        return int(self.states.shape[0])

    @property
    def num_entities(self) -> int:
        return int(self.states.shape[1])

    @property
    def num_frames(self) -> int:
        return int(self.states.shape[2])

    @property
    def num_features(self) -> int:
        return int(self.states.shape[3])

    @property
    def counts(self) -> np.ndarray | None:
        """Entities of every task, (tasks,); None where all have N."""
        if self.mask is None:
            return None
        counts = np.asarray(self.mask.any(axis=2).sum(axis=1))
        return None if (counts == self.num_entities).all() else counts

    @property
    def sizes(self) -> list[int]:
        """Different numbers of entities of the tasks, increasing."""
        return [self.num_entities] if self.counts is None else np.unique(self.counts).tolist()

    def tasks_by_size(self) -> str:
        """How many tasks have how many entities, in words."""
        counts = np.full(self.num_tasks, self.num_entities) if self.counts is None else self.counts
        return ", ".join(f"{(counts == n).sum()} of {n}" for n in self.sizes)

    def present(self) -> np.ndarray:
        """States for statistics, (tasks, N, T, D); where tasks lack entities, of one entity a row, (E, 1, T, D)."""
        if self.counts is None or self.mask is None:
            return self.states
        return self.states[self.mask.any(axis=2)][:, None]

    def __len__(self) -> int:
        return self.num_tasks

    def __getitem__(self, tasks: slice | np.ndarray) -> "Trajectories":
        """The tasks of a slice, as views; an array of indices gives copies."""
        per_task = ("states", "relations", "mask", "task_names", "entity_names", "types")
        parts = {name: getattr(self, name) for name in per_task}
        return replace(self, **{name: part[tasks] for name, part in parts.items() if part is not None})

    def frames(self, stop: int) -> "Trajectories":
        """The first `stop` frames, as views."""
        mask = None if self.mask is None else self.mask[:, :, :stop]
        return replace(self, states=self.states[:, :, :stop], mask=mask)

    def task_name(self, task: int) -> Any:
        """What a file calls a task."""
        return task if self.task_names is None else self.task_names[task]

    def entity_name(self, task: int, entity: int) -> Any:
        """What a file calls an entity."""
        return entity if self.entity_names is None else self.entity_names[task, entity]

    def take(self, count: int) -> "Trajectories":
        """The first `count` tasks.

        Raises:
            DataError: there are not so many.
        """
        if not 1 <= count <= self.num_tasks:
            raise DataError(f"{count} tasks asked of {self.num_tasks}; ask for 1 to {self.num_tasks}")
        return self[:count]

    def validate(self, where: str) -> "Trajectories":
        """Checks shapes and values, and returns the trajectories.

        Args:
            where: the file and split to name in errors.

        Raises:
            DataError: a shape does not fit, a state is not a finite number, a relation is not a label.
        """
        if self.states.ndim != 4:
            raise DataError(
                f"{where}: states have shape {self.states.shape}; give them as (tasks, entities, frames, features)"
            )
        if self.states.dtype.kind != "f":
            raise DataError(f"{where}: states are of type {self.states.dtype}; give them as floats")
        if self.num_entities < 2 or 0 in self.states.shape:
            raise DataError(
                f"{where}: states have shape {self.states.shape}; give at least 1 task, 2 entities, 1 frame, 1 feature"
            )
        if len(self.features) != self.num_features:
            raise DataError(
                f"{where}: {self.num_features} features but {len(self.features)} names {list(self.features)}; "
                "name every feature once"
            )
        if not all(isinstance(name, str) for name in self.features):
            raise DataError(f"{where}: features {list(self.features)} are not all names; give a string for each")
        if not (np.isfinite(self.frame_step) and self.frame_step > 0):
            raise DataError(f"{where}: frame_step is {self.frame_step}; give the positive time between two frames")
        self._validate_states(where)
        if self.mask is not None and (self.mask.shape != self.states.shape[:3] or self.mask.dtype != bool):
            raise DataError(
                f"{where}: the mask is {self.mask.dtype} of shape {self.mask.shape}; give it as booleans "
                f"(tasks, entities, frames), {self.states.shape[:3]}"
            )
        self._validate_sizes(where)
        self._validate_relations(where)
        self._validate_types(where)
        return self

    def _validate_states(self, where: str) -> None:
        for start in range(0, self.num_tasks, CHUNK):
            finite = np.isfinite(self.states[start : start + CHUNK])
            if not finite.all():
                task, entity, frame, feature = np.argwhere(~finite)[0].tolist()
                value = self.states[start + task, entity, frame, feature]
                raise DataError(
                    f"{where}: task {self.task_name(start + task)}, entity {self.entity_name(start + task, entity)}, "
                    f"frame {frame}, feature {self.features[feature]!r} is {value}; every state must be a finite "
                    "number, so repair it, or have such frames left out (missing=mask)"
                )

    def _validate_sizes(self, where: str) -> None:
        if self.mask is None or self.counts is None:
            return
        there = np.asarray(self.mask.any(axis=2))
        if self.counts.min() < 2:
            task = int(self.counts.argmin())
            raise DataError(
                f"{where}: number of entities of task {self.task_name(task)} is {self.counts[task]}; relations need 2, "
                "so remove it"
            )
        late = there[:, 1:] & ~there[:, :-1]
        if late.any():
            task, entity = np.argwhere(late)[0].tolist()
            raise DataError(
                f"{where}: task {self.task_name(task)} lacks entity {self.entity_name(task, entity)} but has the next; "
                "put entities that a task lacks behind those that it has"
            )

    def _validate_relations(self, where: str) -> None:
        if self.relations is None:
            return
        expected = (self.num_tasks, self.num_entities, self.num_entities)
        if self.relations.shape != expected:
            raise DataError(
                f"{where}: relations have shape {self.relations.shape}, but the states ask for {expected}; "
                "give them as (tasks, receivers, senders)"
            )
        if self.relations.dtype.kind not in "iu":
            raise DataError(
                f"{where}: relations are of type {self.relations.dtype}; give them as integer labels from 0"
            )
        self._refuse(where, self.relations < 0, "labels are integers from 0")
        diagonal = np.eye(self.num_entities, dtype=bool) & (self.relations != 0)
        self._refuse(where, diagonal, "an entity has no relation to itself, so set the diagonal to 0")

    def _validate_types(self, where: str) -> None:
        if self.types is None:
            return
        if self.types.shape != self.states.shape[:2] or self.types.dtype.kind not in "iu" or self.types.min() < 0:
            raise DataError(
                f"{where}: types are {self.types.dtype} of shape {self.types.shape}; give them as integer labels from "
                f"0, (tasks, entities), {self.states.shape[:2]}"
            )

    def _refuse(self, where: str, wrong: np.ndarray, advice: str) -> None:
        if wrong.any():
            assert self.relations is not None
            task, receiver, sender = np.argwhere(wrong)[0].tolist()
            value = self.relations[task, receiver, sender]
            raise DataError(
                f"{where}: task {task}, relation of receiver {receiver} to sender {sender} is {value}; {advice}"
            )
