"""Trajectories in Python: data frames of pandas or polars, Arrow tables, and xarray's arrays with names of axes."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from modmeta.data.formats import tables
from modmeta.data.formats.arrays import as_float
from modmeta.data.formats.clock import Clock, numbered
from modmeta.data.formats.columns import Table
from modmeta.data.names import ENTITIES, FRAMES, TASKS, first_of
from modmeta.data.reading import Reading
from modmeta.data.trajectories import Trajectories
from modmeta.data.transforms.gaps import absent_last, masked, without_unseen
from modmeta.errors import DataError

FEATURES = ("feature", "features", "variable", "space", "axis", "axes", "component", "channel", "dimension", "coord")


def is_named(value: Any) -> bool:
    """Whether a value is a data frame, an Arrow table, or an array with names of its axes."""
    return (
        isinstance(value, pa.Table)
        or hasattr(value, "columns")
        or (hasattr(value, "dims") and hasattr(value, "coords"))
    )


def from_named(value: Any, how: Reading | None = None) -> Trajectories:
    """Trajectories of a data frame, read like a table of a file, or of an xarray array.

    Args:
        value: a pandas or polars data frame or an Arrow table, with columns as in files; or an xarray `DataArray` with
            axes such as task, entity, time, feature, of which task may be absent.
        how: reading options.

    Raises:
        DataError: columns or axes cannot be recognised, or values are invalid.
    """
    how = how or Reading()
    if hasattr(value, "dims"):
        data = _of_axes(value, how)
    else:
        found = tables.from_table(Table.in_memory(Path("data frame"), _arrow(value)), None, how)
        if len(found) > 1:
            raise DataError(f"data frame has splits {sorted(found)}; choose the rows of one")
        data = next(iter(found.values()))
    return absent_last(data).validate("data frame" if not hasattr(value, "dims") else "DataArray")


def _arrow(value: Any) -> pa.Table:
    if isinstance(value, pa.Table):
        return value
    try:
        if hasattr(value, "to_arrow"):  # polars
            return value.to_arrow()
        levels = [name for name in value.index.names if name is not None]
        frame = value.reset_index() if levels else value
        frame = frame.rename(columns=str)
        return pa.Table.from_pandas(frame, preserve_index=False)
    except (pa.ArrowException, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"data frame: {' '.join(str(error).split())[:200]}; columns must hold numbers, names or times"
        ) from error


def _of_axes(value: Any, how: Reading) -> Trajectories:
    dims = [str(name) for name in value.dims]
    found = [first_of(names, dims) for names in (TASKS, ENTITIES, FRAMES, FEATURES)]
    task, *rest = found
    if None in rest or len({name for name in found if name}) != len(dims):
        raise DataError(
            f"DataArray: axes {dims}; name them entity, time and feature, and task if there are several recordings"
        )
    array = value if task is not None else value.expand_dims("task")
    turned = array.transpose(task or "task", *rest)
    states = as_float("DataArray", np.asarray(turned.values))

    def names(axis: Any, count: int) -> np.ndarray | None:
        if axis is None or axis not in value.coords:
            return None
        return np.array(
            [str(name) if not isinstance(name, int | np.integer) else name for name in value.coords[axis].values]
        )

    entity, frame, feature = rest
    labels = names(feature, states.shape[3])
    features = tuple(map(str, labels)) if labels is not None else tuple(f"feature{i}" for i in range(states.shape[3]))
    step = how.frame_step or 1.0
    if frame in value.coords and how.frame_step is None and states.shape[2] > 1:
        column = pa.chunked_array([pa.array(value.coords[frame].values)])
        clock = Clock.of(f"DataArray: axis {frame!r}", column)
        time = clock.seconds(column).to_numpy()
        step = numbered("DataArray", str(frame), clock, np.zeros(len(time), int), time, lambda _: 0)[0]
    entities = names(entity, states.shape[1])
    data = Trajectories(
        states, None, features, step, task_names=names(task, states.shape[0]),
        entity_names=None if entities is None else np.repeat(entities[None], len(states), axis=0),
    )  # fmt: skip
    if how.missing == "mask" or np.isnan(states).all(axis=(2, 3)).any():
        return masked(data)
    return without_unseen(data) if how.missing == "unseen" else data
