"""Options for reading files: names of columns, treatment of missing values and uneven times."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from modmeta.errors import DataError

TASK, GROUP = "task", "group"  # default names of columns, which a table may lack
ALL = "all"  # one group of all tasks
MISSING = ("unseen", "error", "mask")
MASKED = "missing=mask (--missing mask; of modmeta train data.reading.missing=mask)"


@dataclass(frozen=True)
class Reading:
    """Options for reading a file. The defaults suit complete, evenly spaced data.

    Args:
        task: column of a table that names the task. A table without a column `task` is one recording, task 0.
        frame: column of frame numbers or times.
        entity: column that names the entity.
        features: columns to use, in this order; None for all other columns.
        relations: table of true relations with columns task, receiver, sender, relation; None if unknown.
        group: column of a table that names the group of a task, whose tasks share a structure; arrays have the key
            `groups`, or this one. Not needed if it is the default. `all` puts all tasks into one group, unless there is
            such a column; None ignores groups.
        mask_below: least value of columns, such as `{"likelihood": 0.6}`; states of rows with less are masked, which
            implies `missing="mask"`.
        missing: `unseen` masks an entity in frames that have it but no value of it, with a note, and rejects other
            missing frames and values; `error` rejects all, `mask` masks all.
        resample: time between frames to interpolate to; None to keep the frames.
        frame_step: time units between two frames; None to use the value in the file.

    Raises:
        DataError: a setting is invalid.
    """

    task: str = TASK
    frame: str = "frame"
    entity: str = "entity"
    features: tuple[str, ...] | None = None
    relations: str | None = None
    missing: str = "unseen"
    resample: float | None = None
    frame_step: float | None = None
    group: str | None = GROUP
    mask_below: Any = None

    def __post_init__(self) -> None:
        pairs = self.mask_below.items() if isinstance(self.mask_below, Mapping) else self.mask_below or ()
        try:
            object.__setattr__(self, "mask_below", tuple((str(name), float(least)) for name, least in pairs))
        except (TypeError, ValueError) as error:
            raise DataError(
                f"mask_below={self.mask_below!r} must give the least value of columns: {{likelihood: 0.6}}"
            ) from error
        if self.mask_below:
            object.__setattr__(self, "missing", "mask")
        if self.features is not None:  # configs pass lists
            object.__setattr__(self, "features", tuple(str(name) for name in self.features))
        if self.missing not in MISSING:
            raise DataError(f"missing={self.missing!r} is unknown; choose one of {', '.join(map(repr, MISSING))}")
        for name in ("resample", "frame_step"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise DataError(f"{name}={value} must be a positive time")
        chosen = [] if self.group in (None, GROUP, ALL) else [self.group]
        named = [self.task, self.frame, self.entity, *chosen, *(self.features or ())]
        twice = sorted({name for name in named if named.count(name) > 1})
        if twice:
            raise DataError(
                f"column {twice[0]!r} is used twice; give different columns for task, frame, entity, group, features"
            )

    def group_among(self, names: Collection[str], where: str, default: str = GROUP) -> str | None:
        """The column or key of groups among those of a file; None if it has none.

        Args:
            names: columns or keys of the file.
            where: the file, for error messages.
            default: the name used if none was chosen.

        Raises:
            DataError: the chosen name does not exist.
        """
        name = default if self.group == GROUP else self.group
        used = name in (self.task, self.frame, self.entity, *(self.features or ()))
        if name is not None and name in names and not used:
            return name
        if self.group in (None, GROUP, ALL):
            return None
        raise DataError(
            f"{where}: no {name!r} among {sorted(names)}; name what holds the group of a task, or choose group={ALL} "
            "if all tasks share a structure"
        )
