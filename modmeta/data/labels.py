"""True relations from a table of their own: columns task, receiver, sender, relation, as `modmeta infer` writes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from modmeta.data.bounds import FREE, LABELS, SPARSE
from modmeta.data.table_source import Table
from modmeta.data.trajectories import Trajectories
from modmeta.errors import DataError

COLUMNS = ("task", "receiver", "sender", "relation")


def with_relations(data: Trajectories, path: Path, where: str) -> Trajectories:
    """Trajectories with the relations of a CSV or Parquet table.

    Args:
        data: whose tasks and entities the table names.
        path: of the table; relations are whole numbers from 0, one row for every ordered pair.
        where: the file of the trajectories, to name in errors.

    Raises:
        DataError: the table cannot be read, or lacks a pair, or has one twice.
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
        raise DataError(f"{path}: {len(columns[0])} rows, far too few for every pair of {shape[1]} entities in {where}")
    relations = np.full(shape, -1, np.int64)
    for task, receiver, sender, relation in zip(*columns, strict=True):
        if str(task) not in tasks:
            continue  # of another split
        row, pair = tasks[str(task)], [places.get((str(task), str(name))) for name in (receiver, sender)]
        if None in pair:
            missing = receiver if pair[0] is None else sender
            raise DataError(f"{path}: task {task} has no entity {missing} in {where}; check the names")
        if isinstance(relation, bool) or not isinstance(relation, int | float) or relation not in range(LABELS):
            raise DataError(
                f"{path}: task {task}, receiver {receiver}, sender {sender}: relation {relation}; give whole numbers "
                f"from 0 to {LABELS - 1}"
            )
        if relations[row, pair[0], pair[1]] >= 0:
            raise DataError(f"{path}: task {task}, receiver {receiver}, sender {sender} is there twice; remove one")
        relations[row, pair[0], pair[1]] = relation
    return replace(data, relations=_complete(data, relations, path))


def _complete(data: Trajectories, relations: np.ndarray, path: Path) -> np.ndarray:
    absent = np.zeros(relations.shape, bool)
    absent |= np.eye(data.num_entities, dtype=bool)
    if data.mask is not None:
        gone = np.asarray(~data.mask.any(axis=-1))
        absent |= gone[:, :, None] | gone[:, None, :]
    lacking = (relations < 0) & ~absent
    if lacking.any():
        task, receiver, sender = np.argwhere(lacking)[0].tolist()
        raise DataError(
            f"{path}: no relation of task {data.task_name(task)}, receiver {data.entity_name(task, receiver)}, sender "
            f"{data.entity_name(task, sender)}; add it"
        )
    return np.where(absent, 0, relations)


def _read(path: Path) -> list[list[object]]:
    table = Table.of(path)
    lacking = [name for name in COLUMNS if name not in table.names]
    if lacking:
        raise DataError(f"{path}: no column {lacking[0]!r} among {list(table.names)}; give {', '.join(COLUMNS)}")
    *text, number = COLUMNS
    parts = list(table.batches(text, [number]))
    if not parts:
        raise DataError(f"{path}: no rows; give one for every ordered pair")
    whole = pa.concat_tables(parts)
    return [whole[name].to_pylist() for name in COLUMNS]
