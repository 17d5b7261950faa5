"""The container of trajectories of many tasks, used by simulators, file formats and training."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from modmeta.data.bounds import LABELS, LARGE, NAME_LENGTH
from modmeta.data.reading import MASKED
from modmeta.errors import DataError
from modmeta.text import encodable

CHUNK = 4096  # tasks checked at a time, to limit memory


@dataclass(frozen=True)
class Trajectories:
    """Observed frames of every task of a split, in physical units.

    Args:
        states: (tasks, N, T, D) float. In spatial data the first P features are coordinates and the next P their
            velocities (P = 2: x, y, vx, vy); other features follow.
        relations: (tasks, N, N) int64, `relations[task, receiver, sender]`, labels from 0, diagonal 0; None if unknown.
        features: names of the D features.
        frame_step: time units between two frames.
        settings: provenance of the data, plain JSON types. `edge_values`, if present, is the value that the published
            layout stores for every relation label (`modmeta.data.formats.nri`).
        mask: (tasks, N, T) bool, whether an entity was observed; None if all were. States elsewhere are fillers.
            Entities that are never observed are absent from the task, unless `members` says that it has them; absent
            ones come after the others.
        task_names: (tasks,) names of the tasks in their file, integers or strings; None for 0, 1, ...
        entity_names: (tasks, N) names of the entities, likewise. Names of absent entities are ignored.
        types: (tasks, N) int64, type of every entity, labels from 0; None if unknown or all the same.
        group_names: (tasks,) names of the groups, integers or strings. A group is recordings, trials or windows of one
            system: its tasks have the same entities and share a structure. None if every task has its own.
        members: (tasks, N) bool, entities that a task has, seen or not: a window of a recording has those of the
            recording. None for those that are seen in some frame.
        notes: what the reader of a file recognised or left out, for the user; not saved.
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
    group_names: np.ndarray | None = None
    members: np.ndarray | None = None
    notes: tuple[str, ...] = ()

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
    def there(self) -> np.ndarray:
        """Entities that every task has, (tasks, N) bool."""
        if self.members is not None:
            return self.members
        return np.ones(self.states.shape[:2], bool) if self.mask is None else np.asarray(self.mask.any(axis=2))

    @property
    def counts(self) -> np.ndarray | None:
        """Number of entities of every task, (tasks,); None if all have N."""
        if self.mask is None:
            return None
        counts = np.asarray(self.there.sum(axis=1))
        return None if (counts == self.num_entities).all() else counts

    @property
    def sizes(self) -> list[int]:
        """Distinct numbers of entities of the tasks, increasing."""
        return [self.num_entities] if self.counts is None else np.unique(self.counts).tolist()

    def tasks_by_size(self) -> str:
        """Number of tasks by number of entities, as text such as `10 of 5, 20 of 6`."""
        counts = np.full(self.num_tasks, self.num_entities) if self.counts is None else self.counts
        return ", ".join(f"{(counts == n).sum()} of {n}" for n in self.sizes)

    def present(self) -> np.ndarray:
        """States without absent entities, for statistics: (tasks, N, T, D), or (E, 1, T, D) if entities are absent."""
        if self.counts is None or self.mask is None:
            return self.states
        return self.states[self.there][:, None]

    def __len__(self) -> int:
        return self.num_tasks

    def __getitem__(self, tasks: slice | np.ndarray) -> "Trajectories":
        """Selects tasks: views for a slice, copies for an array of indices."""
        per_task = ("states", "relations", "mask", "task_names", "entity_names", "types", "group_names", "members")
        parts = {name: getattr(self, name) for name in per_task}
        return replace(self, **{name: part[tasks] for name, part in parts.items() if part is not None})

    def frames(self, stop: int) -> "Trajectories":
        """The first `stop` frames, as views."""
        mask = None if self.mask is None else self.mask[:, :, :stop]
        return replace(self, states=self.states[:, :, :stop], mask=mask)

    def task_name(self, task: int) -> Any:
        """Name of a task in its file."""
        return task if self.task_names is None else self.task_names[task]

    def entity_name(self, task: int, entity: int) -> Any:
        """Name of an entity in its file."""
        return entity if self.entity_names is None else self.entity_names[task, entity]

    def group_index(self) -> np.ndarray:
        """Index of the group of every task, (tasks,), in the order of `by_group`."""
        if self.group_names is None:
            return np.arange(self.num_tasks)
        return np.asarray(np.unique(self.group_names, return_inverse=True)[1].reshape(-1))

    def by_group(self) -> "Trajectories":
        """The first task of every group, named after it, in the order of `np.unique` of the names.

        Tasks without groups are returned unchanged. Entities, relations and types of the first task are those of all
        tasks of its group; see `validate`.
        """
        if self.group_names is None:
            return self
        names, first = np.unique(self.group_names, return_index=True)
        return replace(self[first], task_names=names, group_names=None)

    def take(self, count: int) -> "Trajectories":
        """The first `count` tasks.

        Raises:
            DataError: there are fewer tasks.
        """
        if not 1 <= count <= self.num_tasks:
            raise DataError(f"cannot take {count} tasks of {self.num_tasks}; choose 1 to {self.num_tasks}")
        return self[:count]

    def validate(self, where: str) -> "Trajectories":
        """Checks shapes and values, and returns the trajectories.

        Args:
            where: the file and split, for error messages.

        Raises:
            DataError: a shape is wrong, a state is not finite, a relation is not a label, a name is repeated, or tasks
                of a group differ in entities, relations or types.
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
        self.check_groups(where)
        return self

    def check_shapes(self, where: str) -> None:
        """Checks shapes and types of all arrays, but not their values.

        Raises:
            DataError: a shape or type is wrong.
        """
        if self.states.ndim != 4:
            raise DataError(
                f"{where}: states have shape {self.states.shape}; it must be (tasks, entities, frames, features)"
                + (", or save states[..., None] if these are (frames, entities)" if self.states.ndim == 2 else "")
            )
        if self.states.dtype.kind != "f":
            raise DataError(f"{where}: states are of type {self.states.dtype}; they must be floats")
        if self.num_entities < 2 or 0 in self.states.shape:
            raise DataError(
                f"{where}: states have shape {self.states.shape}; at least 1 task, 2 entities, 1 frame and 1 feature "
                "are needed"
            )
        if len(self.features) != self.num_features:
            raise DataError(
                f"{where}: {self.num_features} features but {len(self.features)} names {list(self.features)}; "
                "give one name per feature"
            )
        if not all(isinstance(name, str) for name in self.features):
            raise DataError(f"{where}: features {list(self.features)} must all be strings")
        b, n, t, _ = self.states.shape
        parts = {
            "the mask": (self.mask, "b", "booleans (tasks, entities, frames)", (b, n, t)),
            "task_names": (self.task_names, "iuU", "one string or integer per task", (b,)),
            "entity_names": (self.entity_names, "iuU", "strings or integers (tasks, entities)", (b, n)),
            "relations": (self.relations, "iu", "integer labels from 0, (tasks, receivers, senders)", (b, n, n)),
            "types": (self.types, "iu", "integer labels from 0, (tasks, entities)", (b, n)),
            "group_names": (self.group_names, "iuU", "one string or integer per task", (b,)),
            "members": (self.members, "b", "booleans (tasks, entities)", (b, n)),
        }
        for name, (part, kinds, form, shape) in parts.items():
            if part is not None and (part.shape != shape or part.dtype.kind not in kinds):
                raise DataError(
                    f"{where}: {name} {'is' if name == 'the mask' else 'are'} {part.dtype} of shape {part.shape}; "
                    f"expected {form}, {shape}"
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
                    raise DataError(f"{place}; the limit is {LARGE:g}, so correct it, or choose larger units")
                raise DataError(
                    f"{place}; states must be finite numbers, so correct it, or mask such frames with {MASKED}"
                )
            low, high = np.minimum(low, part.min((0, 1, 2))), np.maximum(high, part.max((0, 1, 2)))
        small = (high > low) & (high - low < 1 / LARGE)
        if small.any():
            feature = int(small.argmax())
            raise DataError(
                f"{where}: feature {self.features[feature]!r} ranges from {low[feature]:g} to {high[feature]:g}, less "
                f"than {1 / LARGE:g}; choose smaller units"
            )

    def _validate_sizes(self, where: str) -> None:
        if self.mask is None or self.counts is None:
            return
        present = self.there
        if self.counts.min() < 2:
            task = int(self.counts.argmin())
            raise DataError(
                f"{where}: number of entities of task {self.task_name(task)} is {self.counts[task]}; relations need 2, "
                "so remove the task"
            )
        late = present[:, 1:] & ~present[:, :-1]
        if late.any():
            task, entity = np.argwhere(late)[0].tolist()
            raise DataError(
                f"{where}: task {self.task_name(task)} lacks entity {self.entity_name(task, entity)} but has the next; "
                "put absent entities last"
            )

    def _validate_names(self, where: str) -> None:
        lists = {"feature": np.array(self.features)[None], "entity": self.entity_names}
        lists["task"] = None if self.task_names is None else self.task_names[None]
        if self.group_names is not None and self.group_names.dtype.kind == "U":
            _check_text(f"{where}: group", self.group_names)
        for what, names in lists.items():
            if names is None:
                continue
            if names.dtype.kind == "U":
                _check_text(f"{where}: {what}", names)
            ordered = np.sort(names, axis=1)
            for row in np.flatnonzero((ordered[:, 1:] == ordered[:, :-1]).any(axis=1)):
                used = names[row]
                if what == "entity" and self.mask is not None:  # names of absent entities are ignored
                    used = used[self.there[row]]
                values, counts = np.unique(used, return_counts=True)
                if (counts > 1).any():
                    place = f", task {self.task_name(int(row))}" if what == "entity" else ""
                    raise DataError(
                        f"{where}{place}: the {what} name {str(values[counts > 1][0])!r} is repeated; names must be "
                        "unique"
                    )

    def _validate_relations(self, where: str) -> None:
        if self.relations is None:
            return
        self._refuse(where, (self.relations < 0) | (self.relations >= LABELS), f"labels range from 0 to {LABELS - 1}")
        diagonal = np.eye(self.num_entities, dtype=bool) & (self.relations != 0)
        self._refuse(where, diagonal, "the diagonal must be 0")

    def check_groups(self, where: str) -> None:
        """Checks that the tasks of every group have the same entities, and relations and types where given.

        Raises:
            DataError: tasks of a group differ.
        """
        if (groups := self.group_names) is None:
            return
        first = np.unique(groups, return_index=True)[1][self.group_index()]  # a task to compare with

        def check(differs: Any, what: str, remedy: str) -> None:
            if differs.any():
                task = int(differs.argmax())
                raise DataError(
                    f"{where}: group {groups[task]}: {what} of task {self.task_name(task)} and of task "
                    f"{self.task_name(int(first[task]))} differ, but tasks of a group share a structure; {remedy}"
                )

        there = None if self.mask is None else self.there
        entities = "give such tasks different groups, or leave out entities that not all have"
        if there is not None:
            check((there != there[first]).any(axis=1), "entities", entities)
        if self.entity_names is not None:
            named = self.entity_names != self.entity_names[first]
            check((named if there is None else named & there).any(axis=1), "entities", entities)
        parts = [slice(start, start + CHUNK) for start in range(0, self.num_tasks, CHUNK)]
        for what in ("relations", "types"):
            if (labels := getattr(self, what)) is not None:
                differ = [(labels[part] != labels[first[part]]).reshape(len(labels[part]), -1) for part in parts]
                check(np.concatenate(differ).any(axis=1), what, "correct them, or give such tasks different groups")

    def _refuse(self, where: str, wrong: np.ndarray, advice: str) -> None:
        if wrong.any():
            assert self.relations is not None
            task, receiver, sender = np.argwhere(wrong)[0].tolist()
            value = self.relations[task, receiver, sender]
            raise DataError(
                f"{where}: task {task}, relation of receiver {receiver} and sender {sender} is {value}; {advice}"
            )


def _check_text(what: str, names: np.ndarray) -> None:
    """Rejects names that are too long or cannot be encoded."""
    longest = int(np.char.str_len(names).max(initial=0))
    if longest > NAME_LENGTH:
        raise DataError(f"{what}: a name has {longest} characters; shorten it to at most {NAME_LENGTH}")
    if (codes := _codes(names)).size and ((codes >= 0xD800) & (codes <= 0xDFFF)).any():
        broken = next(name for name in names.ravel().tolist() if encodable(name) != name)
        raise DataError(f"{what} {broken!r}: an unpaired surrogate is not a character; choose another name")


def names_as_text(where: str, names: np.ndarray) -> np.ndarray:
    """Names read from a file, with unpaired surrogates escaped. Integers are returned unchanged.

    Raises:
        DataError: a name holds a code point beyond Unicode.
    """
    if names.dtype.kind != "U" or not (codes := _codes(names)).size:
        return names
    if codes.max() > 0x10FFFF:
        raise DataError(f"{where}: damaged, it holds a character beyond Unicode; create or copy the file again")
    if not ((codes >= 0xD800) & (codes <= 0xDFFF)).any():
        return names
    return np.array([encodable(name) for name in names.ravel().tolist()]).reshape(names.shape)


def _codes(names: np.ndarray) -> np.ndarray:
    """Code points of all characters, flat."""
    return np.ascontiguousarray(names).astype(names.dtype.newbyteorder("=")).reshape(-1).view(np.uint32)
