"""True relations as people store them: tables of pairs, edge lists, matrices, graphs; read and written.

A pair without a row or edge has relation 0, none. Relations are integers from 0, or names, which are numbered in the
order in which they appear; `none` is 0.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pyarrow as pa

from modmeta.data.bounds import FREE, LABELS, SPARSE
from modmeta.data.formats.arrays import as_labels, load_array
from modmeta.data.formats.columns import Table, as_table
from modmeta.data.names import TASKS, find, first_of, is_index
from modmeta.data.trajectories import Trajectories
from modmeta.errors import DataError
from modmeta.io import expanded

RECEIVERS = ("receiver", "target", "to", "dst", "destination", "post", "head", "j_to", "receiver_id", "target_id")
SENDERS = ("sender", "source", "from", "src", "origin", "pre", "tail", "sender_id", "source_id")
LABELLED = ("relation", "relations", "type", "kind", "label", "edge_type", "interaction", "class")
WEIGHTED = ("weight", "weights", "strength", "value", "coupling")
NONE = {"none", "no", "absent", "nothing", "no_relation", "null", "false", "0"}
GRAPHS = {".graphml": nx.read_graphml, ".gml": nx.read_gml}


@dataclass(frozen=True)
class _Edges:
    """Rows of a list of edges; the task is None where a list holds for all tasks."""

    rows: list[tuple[object, object, object, object]]  # task, receiver, sender, relation
    note: str = ""


def with_relations(data: Trajectories, path: Path, where: str, listed: bool = False) -> Trajectories:
    """Adds the relations of a file to trajectories.

    Args:
        data: trajectories with the names of tasks and entities used in the file.
        path: a table with columns receiver, sender (or target, source) and optionally task and relation; a square
            matrix, [receiver, sender], as a table or `.npy`; or a graph, `.graphml` or `.gml`.
        where: the file of the trajectories, for error messages.
        listed: relations of pairs without a row are -1, unknown, instead of 0; for comparison alone.

    Raises:
        DataError: the file cannot be read, a pair is repeated, or a relation is neither a label nor a name.
    """
    path = expanded(path)
    if path.suffix.lower() in GRAPHS:
        return with_graph(data, _graph(path), str(path), listed)
    if path.suffix.lower() == ".npy":
        return with_matrix(data, as_labels(str(path), load_array(path)), str(path))
    table = Table.of(path)
    receiver, sender = first_of(RECEIVERS, table.names), first_of(SENDERS, table.names)
    if receiver is None or sender is None:
        return _with_table_matrix(data, table)
    return _with_edges(data, _edges_of(table, receiver, sender), str(path), where, listed)


def with_matrix(data: Trajectories, matrix: np.ndarray, where: str) -> Trajectories:
    """Adds relations of all tasks, labels (N, N), or (tasks, N, N), `[receiver, sender]`; the diagonal is ignored.

    Raises:
        DataError: the shape is another.
    """
    n = data.num_entities
    if matrix.shape not in ((n, n), (data.num_tasks, n, n)):
        raise DataError(
            f"{where}: the shape is {matrix.shape}; relations of {n} entities are ({n}, {n}), [receiver, sender], or "
            f"({data.num_tasks}, {n}, {n})"
        )
    labels = np.broadcast_to(matrix, (data.num_tasks, n, n)) * (1 - np.eye(n, dtype=np.int64))
    return replace(data, relations=np.ascontiguousarray(labels.astype(np.int64)))


def with_graph(data: Trajectories, graph: Any, where: str, listed: bool = False) -> Trajectories:
    """Adds the relations of all tasks from a networkx graph, whose edges lead from sender to receiver.

    Nodes are names of entities, or their numbers. The edge attributes `relation`, `type` or `label` hold the relation;
    without them it is 1. An undirected edge holds both ways.

    Raises:
        DataError: a node is no entity.
    """
    rows: list[tuple[object, object, object, object]] = []
    for one, other, attributes in graph.edges(data=True):
        known = first_of(LABELLED, list(attributes))
        relation = 1 if known is None else attributes[known]
        rows.append((None, other, one, relation))
        if not graph.is_directed() and one != other:
            rows.append((None, one, other, relation))
    labels = {
        str(node): str(attributes["label"]) for node, attributes in graph.nodes(data=True) if "label" in attributes
    }
    names = {str(name) for name in np.ravel(data.entity_names)} if data.entity_names is not None else set()
    if labels and names & set(labels.values()) and not names >= {str(node) for node in graph.nodes}:
        rows = [(None, labels[str(one)], labels[str(other)], relation) for _, one, other, relation in rows]
    return _with_edges(data, _Edges([row for row in rows if row[1] != row[2]]), where, "the trajectories", listed)


def _graph(path: Path) -> Any:
    try:
        if b"<!DOCTYPE" in path.read_bytes()[: 1 << 20]:
            raise DataError(f"{path} declares entities, which are not read; export it again")
        return GRAPHS[path.suffix.lower()](str(path))
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); check the name") from error
    except DataError:
        raise
    except Exception as error:  # networkx raises many types of errors for damaged files
        raise DataError(f"{path} is no graph that networkx reads ({error}); export it again") from error


def _edges_of(table: Table, receiver: str, sender: str) -> _Edges:
    task = find("task", table.names) or first_of(
        TASKS, [name for name in table.names if name not in (receiver, sender)]
    )
    relation, weight = first_of(LABELLED, table.names), first_of(WEIGHTED, table.names)
    text = [name for name in (task, receiver, sender) if name is not None]
    numbers: list[str] = []
    note = ""
    if relation is not None:
        (text if pa.types.is_string(table.kinds[relation]) else numbers).append(relation)
    elif weight is not None:
        numbers.append(weight)
        note = f"{weight} other than 0 counts as relation 1"
    rows: list[tuple[object, object, object, object]] = []
    for part in table.batches(text, numbers):
        columns = {name: part[name].to_pylist() for name in part.column_names}
        count = len(part)
        values = [1] * count if relation is None else columns[relation]
        if relation is None and weight is not None:
            values = [int(bool(value)) for value in columns[weight]]
        tasks = [None] * count if task is None else columns[task]
        rows += zip(tasks, columns[receiver], columns[sender], values, strict=True)
    if not rows:
        raise DataError(f"{table.path}: no rows; give one for every pair of entities with a relation")
    return _Edges(rows, note)


def _numbers_of(path: str, edges: _Edges, complete: bool) -> tuple[dict[object, int], str]:
    """Numbers of the relations that rows hold, and a note on those of names.

    Raises:
        DataError: a relation is neither a label nor a name.
    """
    values = dict.fromkeys(row[3] for row in edges.rows)
    words = [value for value in values if isinstance(value, str) and not _whole(value)]
    odd = [value for value in values if _whole(value) is None and value not in words]
    numbered = [value for value in values if _whole(value) is not None]
    names = [word for word in words if word.strip().lower() not in NONE]
    if odd or (names and any(str(value) not in ("0", "0.0") for value in numbered)):
        value = (odd or names)[0]
        task, receiver, sender, _ = next(
            row for row in edges.rows if row[3] is value or row[3] == value or row[3] != row[3]
        )
        place = "" if task is None else f"task {task}, "
        raise DataError(
            f"{path}: {place}receiver {receiver}, sender {sender}: relation {value}; relations must be integers from 0 "
            f"to {LABELS - 1}, or names"
        )
    first = 0 if complete and len(names) == len(values) else 1
    out: dict[object, int] = {value: int(_whole(value) or 0) for value in numbered}
    out |= dict.fromkeys((word for word in words if word not in names), 0)
    out |= {name: first + i for i, name in enumerate(names)}
    note = ", ".join(f"{name} {out[name]}" for name in names)
    return out, f"relations are numbered: {note}" if names else ""


def _whole(value: object) -> int | None:
    """A label that is written as an integer; None if it is none."""
    if isinstance(value, bool) or value is None:
        return None
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return int(number) if number in range(LABELS) else None


def _with_edges(data: Trajectories, edges: _Edges, path: str, where: str, listed: bool) -> Trajectories:
    tasks = {str(data.task_name(task)): task for task in range(data.num_tasks)}
    there = data.there
    places: dict[tuple[int, str], int] = {
        (task, str(data.entity_name(task, entity))): entity
        for task in range(data.num_tasks)
        for entity in range(data.num_entities)
        if there[task, entity]
    }
    shape = (data.num_tasks, data.num_entities, data.num_entities)
    if 8 * np.prod(shape, dtype=float) > max(FREE, 8 * SPARSE * len(edges.rows), 8 * SPARSE * data.states.size):
        raise DataError(f"{path}: {len(edges.rows)} rows, far too few for all pairs of {shape[1]} entities in {where}")
    relations = np.full(shape, -1, np.int64)
    rows = list(_placed(edges, tasks, places, path, where))
    present = np.ones(shape[:2], bool) if there is None else there
    wanted = present[:, :, None] & present[:, None, :] & ~np.eye(shape[1], dtype=bool)
    numbers, named = _numbers_of(path, edges, len(rows) >= int(wanted.sum()))
    for task, receiver, sender, relation in rows:
        if relations[task, receiver, sender] >= 0:
            raise DataError(
                f"{path}: task {data.task_name(task)}, receiver {data.entity_name(task, receiver)}, sender "
                f"{data.entity_name(task, sender)} is repeated; remove one"
            )
        relations[task, receiver, sender] = numbers[relation]
    absent = int((wanted & (relations < 0)).sum())
    notes = [note for note in (edges.note, named) if note]
    if absent:
        notes.append(
            f"{Path(path).name}: {absent} of {int(wanted.sum())} pairs have no row, so their relation is "
            + ("unknown, and not compared" if listed else "0, none")
        )
    relations = np.where(wanted, relations if listed else np.maximum(relations, 0), 0)
    return replace(data, relations=relations, notes=(*data.notes, *notes))


def _placed(
    edges: _Edges, tasks: dict[str, int], places: dict[tuple[int, str], int], path: str, where: str
) -> Iterator[tuple[int, int, int, object]]:
    """Indices of task, receiver and sender, and relation of every row; a row of no task is one of all."""
    for task, receiver, sender, relation in edges.rows:
        if task is not None and str(task) not in tasks:
            continue  # a task of another split
        for number in [tasks[str(task)]] if task is not None else tasks.values():
            pair = [places.get((number, str(name))) for name in (receiver, sender)]
            if pair[0] is None or pair[1] is None:
                lost = receiver if pair[0] is None else sender
                if task is None and any((other, str(lost)) in places for other in tasks.values()):
                    continue  # an entity that this task lacks
                of = "" if task is None else f"task {task} has "
                raise DataError(f"{path}: {of}no entity {lost} in {where}; check the names")
            yield number, pair[0], pair[1], relation


def _with_table_matrix(data: Trajectories, table: Table) -> Trajectories:
    """Relations of all tasks from a square table: a column for every sender, a row for every receiver."""
    n, names = data.num_entities, list(table.names)
    labels = [name for name in names if is_index(name) or pa.types.is_string(table.kinds[name])]
    columns = [name for name in names if name not in labels[:1]]
    entities = [str(data.entity_name(0, entity)) for entity in range(n)]
    if len(columns) != n or len(labels) > 1 or not (table.headless or set(columns) == set(entities)):
        raise DataError(
            f"{table.path}: no columns 'receiver' and 'sender' among {names}; the columns must be receiver, sender and "
            f"relation (or source and target), or give a matrix with a column and a row for each of {entities[:8]}"
        )
    whole = pa.concat_tables(list(table.batches(labels, columns)))
    matrix = as_labels(str(table.path), np.stack([whole[name].to_numpy() for name in columns], axis=1))
    rows = whole[labels[0]].to_pylist() if labels else columns
    if matrix.shape != (n, n) or {str(row) for row in rows} != set(columns):
        raise DataError(
            f"{table.path}: a matrix of shape {matrix.shape}; give a row and a column for each of {n} entities"
        )
    if not table.headless:
        order = [columns.index(name) for name in entities]
        matrix = matrix[[[str(row) for row in rows].index(name) for name in entities]][:, order]
    found = with_matrix(data, matrix, str(table.path))
    return replace(found, notes=(*data.notes, f"{table.path.name} is a matrix: rows receive, columns send"))


def relations_table(data: Trajectories) -> pa.Table:
    """Table of true relations, one row per ordered pair."""
    assert data.relations is not None
    tasks, receivers, senders = pairs_of(data)
    columns = names_of(data, tasks, receivers, senders)
    return as_table(columns | {"relation": data.relations[tasks, receivers, senders]})


def pairs_of(data: Trajectories) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices of task, receiver and sender of every ordered pair of present entities, each (pairs,)."""
    present = data.there
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
