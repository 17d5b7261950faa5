"""Tables of relations with columns task, receiver, sender, relation, read and written."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from modmeta.data.bounds import FREE, LABELS, SPARSE
from modmeta.data.formats.columns import Table, as_table
from modmeta.data.trajectories import Trajectories
from modmeta.errors import DataError

COLUMNS = ("task", "receiver", "sender", "relation")


def with_relations(data: Trajectories, path: Path, where: str) -> Trajectories:
    """Adds the relations of a CSV or Parquet table to trajectories.

    Args:
        data: trajectories with the names of tasks and entities used in the table.
        path: the table, with one row per ordered pair; relations are integers from 0.
        where: the file of the trajectories, for error messages.

    Raises:
        DataError: the table cannot be read, a pair is missing or repeated, or a relation is not a label.
    """
    columns = _read(path)
    tasks = {str(data.task_name(task)): task for task in range(data.num_tasks)}
    places = {
        (str(data.task_name(task)), str(data.entity_name(task, entity))): entity
        for task in range(data.num_tasks)
        for entity in range(data.num_entities)
        if data.mask is None or data.mask[task, entity].any()
    }
    shape = (data.num_tasks, data.num_entities, data.num_entities)
    if 8 * np.prod(shape, dtype=float) > max(FREE, 8 * SPARSE * len(columns[0])):
        raise DataError(f"{path}: {len(columns[0])} rows, far too few for all pairs of {shape[1]} entities in {where}")
    relations = np.full(shape, -1, np.int64)
    for task, receiver, sender, relation in zip(*columns, strict=True):
        if str(task) not in tasks:
            continue  # a task of another split
        row, pair = tasks[str(task)], [places.get((str(task), str(name))) for name in (receiver, sender)]
        if None in pair:
            missing = receiver if pair[0] is None else sender
            raise DataError(f"{path}: task {task} has no entity {missing} in {where}; check the names")
        if isinstance(relation, bool) or not isinstance(relation, int | float) or relation not in range(LABELS):
            raise DataError(
                f"{path}: task {task}, receiver {receiver}, sender {sender}: relation {relation}; relations must be "
                f"integers from 0 to {LABELS - 1}"
            )
        if relations[row, pair[0], pair[1]] >= 0:
            raise DataError(f"{path}: task {task}, receiver {receiver}, sender {sender} is repeated; remove one")
        relations[row, pair[0], pair[1]] = relation
    return replace(data, relations=_complete(data, relations, path))


def _complete(data: Trajectories, relations: np.ndarray, path: Path) -> np.ndarray:
    absent = np.zeros(relations.shape, bool)
    absent |= np.eye(data.num_entities, dtype=bool)
    if data.mask is not None:
        gone = np.asarray(~data.mask.any(axis=-1))
        absent |= gone[:, :, None] | gone[:, None, :]
    missing = (relations < 0) & ~absent
    if missing.any():
        task, receiver, sender = np.argwhere(missing)[0].tolist()
        raise DataError(
            f"{path}: no relation of task {data.task_name(task)}, receiver {data.entity_name(task, receiver)}, sender "
            f"{data.entity_name(task, sender)}; add the row"
        )
    return np.where(absent, 0, relations)


def _read(path: Path) -> list[list[object]]:
    table = Table.of(path)
    missing = [name for name in COLUMNS if name not in table.names]
    if missing:
        raise DataError(
            f"{path}: no column {missing[0]!r} among {list(table.names)}; the columns must be {', '.join(COLUMNS)}"
        )
    *text, number = COLUMNS
    parts = list(table.batches(text, [number]))
    if not parts:
        raise DataError(f"{path}: no rows; give one per ordered pair")
    whole = pa.concat_tables(parts)
    return [whole[name].to_pylist() for name in COLUMNS]


def relations_table(data: Trajectories) -> pa.Table:
    """Table of true relations, one row per ordered pair."""
    assert data.relations is not None
    tasks, receivers, senders = pairs_of(data)
    columns = names_of(data, tasks, receivers, senders)
    return as_table(columns | {"relation": data.relations[tasks, receivers, senders]})


def pairs_of(data: Trajectories) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices of task, receiver and sender of every ordered pair of present entities, each (pairs,)."""
    present = np.ones(data.states.shape[:2], bool) if data.mask is None else np.asarray(data.mask.any(axis=-1))
    pairs = present[:, :, None] & present[:, None, :] & ~np.eye(data.num_entities, dtype=bool)
    tasks, receivers, senders = np.nonzero(pairs)
    return tasks, receivers, senders


def names_of(
    data: Trajectories, tasks: np.ndarray, receivers: np.ndarray, senders: np.ndarray
) -> dict[str, np.ndarray]:
    """Names of tasks, receivers and senders by column, from index arrays (pairs,)."""
    return {
        "task": tasks if data.task_names is None else data.task_names[tasks],
        "receiver": receivers if data.entity_names is None else data.entity_names[tasks, receivers],
        "sender": senders if data.entity_names is None else data.entity_names[tasks, senders],
    }
