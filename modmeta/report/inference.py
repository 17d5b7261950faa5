"""Output of `modmeta infer`: tables, arrays, graphs, a page to look at."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import networkx as nx
import numpy as np
import torch

from modmeta.answers import Forecasts, Relations
from modmeta.data.formats.columns import as_table, write_columns
from modmeta.data.formats.relations import names_of, pairs_of
from modmeta.data.trajectories import Trajectories
from modmeta.io import write_json
from modmeta.report.page import write_pages
from modmeta.text import plain

if TYPE_CHECKING:
    from modmeta.api import Model

ROLES = {True: "those of training tasks, a prior", False: "not those of training tasks, which are no prior here"}


def write(
    directory: Path,
    model: "Model",
    data: Trajectories,
    found: Relations,
    ahead: Forecasts,
    truth: np.ndarray | None,
    notes: Sequence[str],
    title: str | None,
    advance: Callable[[int], object],
) -> list[tuple[str, str]]:
    """Writes all output into a directory; returns the summary to print.

    Args:
        directory: empty.
        model: model that inferred.
        data: observed frames.
        found: relations of the same tasks.
        ahead: forecasts.
        truth: states after the observed frames, (B, N, steps, D), as far as they are known.
        notes: warnings.
        title: title of the page; None for no page.
        advance: called with the number of tasks that are written.
    """
    scenes, shown, came = data, ahead, truth
    if found.groups is not None:  # one graph for all tasks of a group, drawn beside the first of them
        scenes, first = data.by_group(), np.unique(data.group_index(), return_index=True)[1]
        shown = type(ahead)(**{name: part[first] for name, part in vars(ahead).items()})
        came = None if truth is None else truth[first]
    write_relations(directory, scenes, found)
    write_verdict(directory, scenes, found)
    write_types(directory, scenes, found)
    write_forecasts(directory, data, model.features, ahead)
    write_graphs(directory, scenes, found, advance)
    facts = facts_of(model, data, scenes, found, ahead, truth)
    if title is not None:
        write_pages(directory, title, facts, notes, model, scenes, found, shown, came)
    return facts


def write_relations(directory: Path, data: Trajectories, found: Relations) -> None:
    """Writes `relations.csv`, `relations.parquet` and `relations.npz`."""
    tasks, receivers, senders = pairs_of(data)
    relation = found.relations[tasks, receivers, senders]
    columns = _named(found, names_of(data, tasks, receivers, senders)) | {"relation": relation}
    columns["probability"] = found.probabilities[tasks, receivers, senders, relation].astype(np.float64)
    if found.apart is not None:
        columns["seen_together"] = ~found.apart[tasks, receivers, senders]
    for ending in ("csv", "parquet"):
        write_columns(directory / f"relations.{ending}", as_table(columns), False)
    arrays = {"relations": found.relations, "probabilities": found.probabilities, "energies": found.energies}
    of = "tasks" if found.groups is None else "groups"
    arrays |= {"evidence": found.evidence, of: np.array([data.task_name(task) for task in range(data.num_tasks)])}
    entities = [
        [data.entity_name(task, entity) for entity in range(data.num_entities)] for task in range(data.num_tasks)
    ]
    arrays["entities"] = np.array(entities)
    if found.r_hat is not None:
        arrays["r_hat"] = found.r_hat
    if found.apart is not None:
        arrays["never_seen_together"] = found.apart
    np.savez(directory / "relations.npz", allow_pickle=False, **arrays)


def write_verdict(directory: Path, data: Trajectories, found: Relations) -> None:
    """Writes `verdict.json`: the verdict, what it follows from, and the tasks that the model does not fit."""
    content = {"verdict": found.verdict.name} | found.verdict.state_dict()
    del content["name"]
    of = "tasks" if found.groups is None else "groups"
    misfit = None if found.misfit is None else np.flatnonzero(np.asarray(found.misfit))
    names = None if misfit is None else np.array([data.task_name(int(i)) for i in misfit]).tolist()
    content[f"{of}_that_do_not_fit"] = names
    write_json(directory / "verdict.json", content)


def _named(found: Relations, columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Columns of names, the first called `group` where tasks of a group share relations."""
    return columns if found.groups is None else {"group": columns.pop("task"), **columns}


def write_types(directory: Path, data: Trajectories, found: Relations) -> None:
    """Writes `entities.csv`, the type of every entity, if the model has several types."""
    if found.types is None:
        return
    tasks, entities = np.nonzero(data.there)
    names, chances = names_of(data, tasks, entities, entities), found.types[tasks, entities]
    columns = _named(found, {"task": names["task"], "entity": names["receiver"], "type": chances.argmax(-1)})
    columns["probability"] = chances.max(-1).astype(np.float64)
    write_columns(directory / "entities.csv", as_table(columns), False)


def write_forecasts(directory: Path, data: Trajectories, features: tuple[str, ...], ahead: Forecasts) -> None:
    """Writes `forecasts.csv` and `forecasts.npz`; step 1 is the frame after the last observed one."""
    there = np.ones(data.states.shape[:2], bool) if data.mask is None else np.asarray(data.mask.any(axis=2))
    tasks, entities, steps = np.nonzero(np.repeat(there[:, :, None], ahead.mean.shape[2], axis=2))
    names = names_of(data, tasks, entities, entities)
    columns: dict[str, np.ndarray] = {"task": names["task"], "step": steps + 1, "entity": names["receiver"]}
    for i, name in enumerate(features):
        for what, suffix in (("mean", ""), ("low", "_low"), ("high", "_high")):
            column = name + suffix
            while column in columns:  # a feature may be called `step`, or `x_low` beside `x`
                column += "_"
            columns[column] = getattr(ahead, what)[tasks, entities, steps, i].astype(np.float64)
    write_columns(directory / "forecasts.csv", as_table(columns), False)
    np.savez(directory / "forecasts.npz", mean=ahead.mean, low=ahead.low, high=ahead.high)


def _present(data: Trajectories, task: int) -> list[int]:
    """Indices of the entities that a task has."""
    return np.flatnonzero(data.there[task]).tolist()


def graph(data: Trajectories, found: Relations, task: int) -> nx.DiGraph:
    """Graph of a task, or of a group; edges from sender to receiver have attributes `relation` and `probability`."""
    out = nx.DiGraph(**{"task" if found.groups is None else "group": plain(data.task_name(task))})
    there = _present(data, task)
    nodes: dict[int, str] = {}
    for entity in there:  # XML cannot hold all characters; names may be equal without them
        name = plain(data.entity_name(task, entity))
        nodes[entity] = f"{name} ({entity})" if name in nodes.values() else name
    for receiver in there:
        out.add_node(nodes[receiver], evidence=float(found.evidence[task, receiver]))
        for sender in there:
            if sender != receiver:
                relation = int(found.relations[task, receiver, sender])
                chance = float(found.probabilities[task, receiver, sender, relation])
                out.add_edge(nodes[sender], nodes[receiver], relation=relation, probability=chance)
    return out


def write_graphs(directory: Path, data: Trajectories, found: Relations, advance: Callable[[int], object]) -> None:
    """Writes `graphs/TASK.graphml` for every task, by its number in the file."""
    (directory / "graphs").mkdir()
    for task in range(data.num_tasks):
        nx.write_graphml(graph(data, found, task), directory / "graphs" / f"{task}.graphml")
        advance(1)


def facts_of(
    model: "Model", data: Trajectories, scenes: Trajectories, found: Relations, ahead: Forecasts,
    truth: np.ndarray | None,
) -> list[tuple[str, str]]:  # fmt: skip
    """Summary in numbers: pairs of name and value; `scenes` are the tasks, or one of every group."""
    tasks, receivers, senders = pairs_of(scenes)
    apart = np.zeros(len(tasks), bool) if found.apart is None else found.apart[tasks, receivers, senders]
    tasks, receivers, senders = (part[~apart] for part in (tasks, receivers, senders))
    relation = found.relations[tasks, receivers, senders]
    sure = found.probabilities[tasks, receivers, senders, relation]
    better = model.calibration.outdone
    said = f"foretell held-out frames of its own data better, by {better:.2g} nats per number"
    facts = [
        *found.verdict.facts(),
        *([("laws in closed form beside the model", said)] if better > 0 else []),
        ("tasks", str(data.num_tasks)),
        *([] if found.groups is None else [("groups", str(scenes.num_tasks))]),
        *([] if found.roles is None else [("roles of entities", ROLES[found.roles])]),
        ("pairs", str(len(tasks))),
        *([("pairs never seen together, not told", str(int(apart.sum())))] if apart.any() else []),
        *((f"relation {r}", f"{(relation == r).mean():.1%} of pairs") for r in range(model.num_relations)),
        ("probability of the relation named, mean", f"{sure.mean():.4f}"),
        ("pairs named with less than 90%", str(int((sure < 0.9).sum()))),
    ]
    if found.r_hat is not None:
        worst = float(found.r_hat[tasks, receivers, senders].max())
        facts.append(
            ("split R-hat, largest", f"{worst:.3f}" + (" (above 1.1: chains disagree)" if worst > 1.1 else ""))
        )
    if scenes.relations is not None and bool((scenes.relations[tasks, receivers, senders] >= 0).any()):
        true, labelled = scenes.relations[tasks, receivers, senders], model.data.get("labelled", True)
        known = true >= 0  # others are not in the table
        chances, true, relation = found.probabilities[tasks, receivers, senders][known], true[known], relation[known]
        label = np.arange(chances.shape[-1]) if labelled else _matched(relation, true)
        how = "" if known.all() else f" of {known.sum()} pairs in the table"
        how += "" if labelled else ", after matching relations to those of the table"
        facts.append(("edges right", f"{(label[relation] == true).mean():.2%}" + how))
        facts += ranked(chances[:, label[: chances.shape[-1]] > 0], true > 0)
    if truth is not None:
        steps = truth.shape[2]
        there = np.isfinite(ahead.mean).all((2, 3)) if data.counts is not None else np.ones(truth.shape[:2], bool)
        truth, mean, low, high = (part[there][:, :steps] for part in (truth, ahead.mean, ahead.low, ahead.high))
        error = np.sqrt(((mean - truth) ** 2).mean())
        inside = ((truth >= low) & (truth <= high)).mean()
        facts.append((f"forecast error over {steps} frames, root mean square", f"{error:.4g}"))
        facts.append(("states within the bands", f"{inside:.1%}"))
    return facts


def _matched(found: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Label of every relation that a model found without labels."""
    from modmeta.evaluation.matching import match_labels  # imports torchmetrics, which takes seconds

    r = int(max(found.max(), true.max())) + 1
    counts = torch.from_numpy(np.bincount(found * r + true, minlength=r**2).reshape(r, r))
    return np.asarray(match_labels(counts).numpy())


def ranked(chances: np.ndarray, edges: np.ndarray) -> list[tuple[str, str]]:
    """How well the probability of any relation but the first ranks directed pairs; nothing where all are alike.

    Args:
        chances: probabilities of these relations, (pairs, relations).
        edges: whether a pair has one of them, (pairs,).
    """
    if edges.all() or not edges.any():
        return []
    chance = chances.sum(-1).astype(float).clip(0, 1)
    best = np.argsort(-chance, kind="stable")[: edges.sum()]
    area, average = _areas(chance, edges)
    return [
        ("AUROC of directed pairs", f"{area:.4f}"),
        ("AUPRC of directed pairs", f"{average:.4f}"),
        ("precision at the true number of edges", f"{edges[best].mean():.4f}"),
    ]


def _areas(chance: np.ndarray, edges: np.ndarray) -> tuple[float, float]:
    """Area under the ROC curve and average precision, with ties; torchmetrics has them, but takes seconds to import."""
    _, place = np.unique(-chance, return_inverse=True)  # 0 for the most probable
    right, wrong = (np.bincount(place, weights=part) for part in (edges, ~edges))
    hits, misses = right.cumsum(), wrong.cumsum()
    area = (wrong * (hits - right / 2)).sum() / (hits[-1] * misses[-1])
    average = (right * hits / (hits + misses)).sum() / hits[-1]
    return float(area), float(average)
