"""How a file is to be read: names of columns, and what to do about what is missing or uneven."""

from dataclasses import dataclass

from modmeta.errors import DataError


@dataclass(frozen=True)
class Reading:
    """Settings of reading; the defaults suit a file that is complete and evenly spaced.

    Args:
        task: column of a table that names the task of a row.
        frame: column of frame numbers or times.
        entity: column that names the entity.
        features: columns to use, in this order; none for all others.
        relations: table of true relations, columns task, receiver, sender, relation; none if unknown.
        missing: `error`, or `mask` to leave out frames and values that are missing.
        resample: time between frames to interpolate to; none to take frames as they are.
        frame_step: time units between two frames; none for what the file says.

    Raises:
        DataError: a setting makes no sense.
    """

    task: str = "task"
    frame: str = "frame"
    entity: str = "entity"
    features: tuple[str, ...] | None = None
    relations: str | None = None
    missing: str = "error"
    resample: float | None = None
    frame_step: float | None = None

    def __post_init__(self) -> None:
        if self.features is not None:  # configs bring lists
            object.__setattr__(self, "features", tuple(str(name) for name in self.features))
        if self.missing not in ("error", "mask"):
            raise DataError(f"missing={self.missing!r} is unknown; choose 'error' or 'mask'")
        for name in ("resample", "frame_step"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise DataError(f"{name}={value} must be a positive time")
        named = [self.task, self.frame, self.entity, *(self.features or ())]
        twice = sorted({name for name in named if named.count(name) > 1})
        if twice:
            raise DataError(f"column {twice[0]!r} is asked for twice; name a column of its own for each purpose")
