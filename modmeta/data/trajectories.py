"""Trajectories of many tasks: the one form that simulators write, files hold and training reads."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from modmeta.data.bounds import LABELS, LARGE, LETTERS
from modmeta.errors import DataError
from modmeta.text import encodable

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
            DataError: a shape does not fit, a state is not a finite number, a relation is not a label, a name is there
                twice.
        """
        self.check_shapes(where)
        if not 1 / LARGE < self.frame_step < LARGE:
            raise DataError(
                f"{where}: frame_step is {self.frame_step}; give the positive time between two frames, "
                f"from {1 / LARGE} to {LARGE}"
            )
        self._validate_states(where)
        self._validate_sizes(where)
        self._validate_names(where)
        self._validate_relations(where)
        if self.types is not None and not ((self.types >= 0) & (self.types < LABELS)).all():
            task, entity = np.argwhere((self.types < 0) | (self.types >= LABELS))[0].tolist()
            raise DataError(
                f"{where}: task {self.task_name(task)}, type of entity {self.entity_name(task, entity)} is "
                f"{self.types[task, entity]}; types are integer labels from 0 to {LABELS - 1}"
            )
        return self

    def check_shapes(self, where: str) -> None:
        """Checks that all parts belong together, whatever their values.

        Raises:
            DataError: a part has another shape or type.
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
        b, n, t, _ = self.states.shape
        parts = {
            "the mask": (self.mask, "b", "booleans (tasks, entities, frames)", (b, n, t)),
            "task_names": (self.task_names, "iuU", "a text or integer for every task", (b,)),
            "entity_names": (self.entity_names, "iuU", "texts or integers (tasks, entities)", (b, n)),
            "relations": (self.relations, "iu", "integer labels from 0, (tasks, receivers, senders)", (b, n, n)),
            "types": (self.types, "iu", "integer labels from 0, (tasks, entities)", (b, n)),
        }
        for name, (part, kinds, form, shape) in parts.items():
            if part is not None and (part.shape != shape or part.dtype.kind not in kinds):
                raise DataError(
                    f"{where}: {name} {'is' if name == 'the mask' else 'are'} {part.dtype} of shape {part.shape}; give "
                    f"{form}, {shape}"
                )

    def _validate_states(self, where: str) -> None:
        low, high = np.full(self.num_features, np.inf), np.full(self.num_features, -np.inf)
        for start in range(0, self.num_tasks, CHUNK):
            part = self.states[start : start + CHUNK]
            wrong = ~(np.abs(part) <= LARGE)
            if wrong.any():
                task, entity, frame, feature = np.argwhere(wrong)[0].tolist()
                value = self.states[start + task, entity, frame, feature]
                place = (
                    f"{where}: task {self.task_name(start + task)}, entity {self.entity_name(start + task, entity)}, "
                    f"frame {frame}, feature {self.features[feature]!r} is {value}"
                )
                if np.isfinite(value):
                    raise DataError(f"{place}; states go up to {LARGE:g}, so repair it, or choose larger units")
                raise DataError(
                    f"{place}; every state must be a finite number, so repair it, or have such frames left out "
                    "(missing=mask)"
                )
            low, high = np.minimum(low, part.min((0, 1, 2))), np.maximum(high, part.max((0, 1, 2)))
        small = (high > low) & (high - low < 1 / LARGE)
        if small.any():
            feature = int(small.argmax())
            raise DataError(
                f"{where}: feature {self.features[feature]!r} goes from {low[feature]:g} to {high[feature]:g}, too "
                f"close for floats to tell apart (below {1 / LARGE:g}); choose smaller units"
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

    def _validate_names(self, where: str) -> None:
        lists = {"feature": np.array(self.features)[None], "entity": self.entity_names}
        lists["task"] = None if self.task_names is None else self.task_names[None]
        for what, names in lists.items():
            if names is None:
                continue
            if names.dtype.kind == "U":
                _check_text(f"{where}: {what}", names)
            ordered = np.sort(names, axis=1)
            for row in np.flatnonzero((ordered[:, 1:] == ordered[:, :-1]).any(axis=1)):
                present = names[row]
                if what == "entity" and self.mask is not None:  # names of entities that a task lacks mean nothing
                    present = present[self.mask[row].any(axis=1)]
                values, counts = np.unique(present, return_counts=True)
                if (counts > 1).any():
                    place = f", task {self.task_name(int(row))}" if what == "entity" else ""
                    raise DataError(
                        f"{where}{place}: the {what} {str(values[counts > 1][0])!r} is there twice; give every "
                        f"{what} a name of its own"
                    )

    def _validate_relations(self, where: str) -> None:
        if self.relations is None:
            return
        self._refuse(where, (self.relations < 0) | (self.relations >= LABELS), f"labels go from 0 to {LABELS - 1}")
        diagonal = np.eye(self.num_entities, dtype=bool) & (self.relations != 0)
        self._refuse(where, diagonal, "an entity has no relation to itself, so set the diagonal to 0")

    def _refuse(self, where: str, wrong: np.ndarray, advice: str) -> None:
        if wrong.any():
            assert self.relations is not None
            task, receiver, sender = np.argwhere(wrong)[0].tolist()
            value = self.relations[task, receiver, sender]
            raise DataError(
                f"{where}: task {task}, relation of receiver {receiver} to sender {sender} is {value}; {advice}"
            )


def _check_text(what: str, names: np.ndarray) -> None:
    """Refuses names that cannot be written to a file, or are no names."""
    longest = int(np.char.str_len(names).max(initial=0))
    if longest > LETTERS:
        raise DataError(f"{what}: a name of {longest} letters; names have at most {LETTERS}, so shorten it")
    if (codes := _codes(names)).size and ((codes >= 0xD800) & (codes <= 0xDFFF)).any():
        broken = next(name for name in names.ravel().tolist() if encodable(name) != name)
        raise DataError(f"{what} {broken!r}: half of a surrogate pair, which is no letter; choose another name")


def names_as_text(where: str, names: np.ndarray) -> np.ndarray:
    """Texts of a file, halves of surrogate pairs as escapes; integers stay.

    Raises:
        DataError: they hold what is no character.
    """
    if names.dtype.kind != "U" or not (codes := _codes(names)).size:
        return names
    if codes.max() > 0x10FFFF:
        raise DataError(f"{where}: damaged, it holds a character beyond Unicode; make or copy the file again")
    if not ((codes >= 0xD800) & (codes <= 0xDFFF)).any():
        return names
    return np.array([encodable(name) for name in names.ravel().tolist()]).reshape(names.shape)


def _codes(names: np.ndarray) -> np.ndarray:
    """Characters as numbers, flat."""
    return np.ascontiguousarray(names).astype(names.dtype.newbyteorder("=")).reshape(-1).view(np.uint32)
