"""Output of `modmeta infer`: tables, arrays, graphs, figures, an HTML page."""

import base64
import html
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import networkx as nx
import numpy as np
import torch
from matplotlib.figure import Figure
from torchmetrics.functional.classification import binary_auroc, binary_average_precision

from modmeta.data.formats.columns import as_table, write_columns
from modmeta.data.formats.relations import names_of, pairs_of
from modmeta.data.trajectories import Trajectories
from modmeta.evaluation.calibration import calibration_error, reliability
from modmeta.evaluation.laws import laws
from modmeta.evaluation.matching import match_labels
from modmeta.io import write_json
from modmeta.plots import pictures
from modmeta.text import for_plot, plain

if TYPE_CHECKING:
    from modmeta.api import Forecasts, Model, Relations

SHOWN = 3  # tasks in figures
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72em; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: 1em 0 }
td, th { padding: .2em .8em; border-bottom: 1px solid #ddd; text-align: left }
img { max-width: 100% } figcaption { color: #555 } figure { margin: 1.5em 0 }
"""


def write(
    directory: Path,
    model: "Model",
    data: Trajectories,
    found: "Relations",
    ahead: "Forecasts",
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
    drawn = figures(model, scenes, found, shown, came)
    (directory / "figures").mkdir()
    for name, (_, figure) in drawn.items():
        figure.savefig(directory / "figures" / name, dpi=110)
    facts = facts_of(model, data, scenes, found, ahead, truth)
    if title is not None:
        images = [(caption, png(figure)) for caption, figure in drawn.values()]
        (directory / "report.html").write_text(page(title, facts, images, list(notes)), encoding="utf-8")
    return facts


def write_relations(directory: Path, data: Trajectories, found: "Relations") -> None:
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


def write_verdict(directory: Path, data: Trajectories, found: "Relations") -> None:
    """Writes `verdict.json`: the verdict, what it follows from, and the tasks that the model does not fit."""
    content = {"verdict": found.verdict.name} | found.verdict.state_dict()
    del content["name"]
    of = "tasks" if found.groups is None else "groups"
    misfit = None if found.misfit is None else np.flatnonzero(np.asarray(found.misfit))
    names = None if misfit is None else np.array([data.task_name(int(i)) for i in misfit]).tolist()
    content[f"{of}_that_do_not_fit"] = names
    write_json(directory / "verdict.json", content)


def _named(found: "Relations", columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Columns of names, the first called `group` where tasks of a group share relations."""
    return columns if found.groups is None else {"group": columns.pop("task"), **columns}


def write_types(directory: Path, data: Trajectories, found: "Relations") -> None:
    """Writes `entities.csv`, the type of every entity, if the model has several types."""
    if found.types is None:
        return
    there = np.ones(data.states.shape[:2], bool) if data.mask is None else np.asarray(data.mask.any(axis=2))
    tasks, entities = np.nonzero(there)
    names, chances = names_of(data, tasks, entities, entities), found.types[tasks, entities]
    columns = _named(found, {"task": names["task"], "entity": names["receiver"], "type": chances.argmax(-1)})
    columns["probability"] = chances.max(-1).astype(np.float64)
    write_columns(directory / "entities.csv", as_table(columns), False)


def write_forecasts(directory: Path, data: Trajectories, features: tuple[str, ...], ahead: "Forecasts") -> None:
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
    return list(range(data.num_entities)) if data.mask is None else np.flatnonzero(data.mask[task].any(axis=1)).tolist()


def graph(data: Trajectories, found: "Relations", task: int) -> nx.DiGraph:
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


def write_graphs(directory: Path, data: Trajectories, found: "Relations", advance: Callable[[int], object]) -> None:
    """Writes `graphs/TASK.graphml` for every task, by its number in the file."""
    (directory / "graphs").mkdir()
    for task in range(data.num_tasks):
        nx.write_graphml(graph(data, found, task), directory / "graphs" / f"{task}.graphml")
        advance(1)


def figures(
    model: "Model", data: Trajectories, found: "Relations", ahead: "Forecasts", truth: np.ndarray | None
) -> dict[str, tuple[str, Figure]]:
    """Figures by file name, with captions."""
    out = {}
    positions = int(model.data["positions"])
    for task in range(min(SHOWN, data.num_tasks)):
        there = _present(data, task)
        names = [data.entity_name(task, entity) for entity in there]
        figure = Figure(figsize=(14, 4.6), layout="constrained")
        left, middle, right = figure.subplots(1, 3)
        came = None if truth is None else truth[task, there]
        forecast = [part[task, there] for part in (ahead.mean, ahead.low, ahead.high)]
        states = data.states[task, there]
        relations, chances = (
            found.relations[task][np.ix_(there, there)],
            found.probabilities[task][np.ix_(there, there)],
        )
        if positions >= 2:
            pictures.plot_trajectories(left, states, names, forecast[0], forecast[1], forecast[2], came)
            places = states[:, -1, :2]
        else:
            mean, low, high = (part[..., 0] for part in forecast)
            pictures.plot_series(left, states[..., 0], names, mean, low, high)
            angle = 2 * np.pi * np.arange(len(there)) / len(there)
            places = np.stack((np.cos(angle), np.sin(angle)), axis=1)
        pictures.plot_matrix(middle, relations, chances, names)
        pictures.plot_graph(right, places, relations, chances, names)
        left.set_title("trajectories and forecasts (dashed)")
        middle.set_title("relations and their probabilities")
        right.set_title("who acts on whom")
        name = plain(data.task_name(task))
        of = "Task" if found.groups is None else "A task of group"
        caption = f"{of} {name}: trajectories with forecasts, relations with probabilities, the graph."
        out[f"task_{task}.png"] = (caption, figure)
    out |= _of_model(model, data, found)
    return out


def _of_model(model: "Model", data: Trajectories, found: "Relations") -> dict[str, tuple[str, Figure]]:
    """Figures of the model: laws, module usage, annealed chains, reliability of probabilities."""
    out, k = {}, model.module.model.dynamics.num_edge_modules
    relation = model.module.module_to_relation.tolist()
    labels = [f"module {i}, relation {relation[i]}" for i in range(k)]
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    if model.data["positions"]:
        distances, pulls = laws(model.module.model.dynamics, int(model.data["positions"]), (0.05, 2.0))
        away = distances * model.units.scale[0]
        pictures.plot_laws(left, away, pulls, labels)
        pictures.plot_laws(right, away, pulls, labels, logarithmic=True)
        out["laws.png"] = ("Learned laws: what each module sends over the distance of a pair at rest.", figure)
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    pairs = pairs_of(data)
    usage = np.stack([(found.modules[pairs].argmax(-1) == i).mean() for i in range(k)])
    pictures.plot_usage(left, usage, labels)
    left.set_title("module usage")
    if model.module.search.horizon == 1 and data.mask is None and found.groups is None:
        first = type(found)(
            **{name: part[:1] if hasattr(part, "shape") else part for name, part in vars(found).items()}
        )
        energies, temperatures = model.trace(data.states[:1], first)
        pictures.plot_energies(right, energies[..., 0], temperatures)
        right.set_title(f"chains of task {for_plot(data.task_name(0))}")
    else:
        right.set_axis_off()
    out["search.png"] = ("How often modules are used; energies of four chains that cool down.", figure)
    if data.relations is not None:
        figure = Figure(figsize=(4.6, 4.6), layout="constrained")
        chances, labels_ = found.probabilities[pairs], data.relations[pairs]
        confidence, right_, count = reliability(torch.from_numpy(chances), torch.from_numpy(labels_))
        pictures.plot_reliability(figure.subplots(), confidence, right_, count)
        error = calibration_error(torch.from_numpy(chances), torch.from_numpy(labels_))
        out["reliability.png"] = (f"Reliability of the probabilities; expected calibration error {error:.2%}.", figure)
    return out


def facts_of(
    model: "Model", data: Trajectories, scenes: Trajectories, found: "Relations", ahead: "Forecasts",
    truth: np.ndarray | None,
) -> list[tuple[str, str]]:  # fmt: skip
    """Summary in numbers: pairs of name and value; `scenes` are the tasks, or one of every group."""
    tasks, receivers, senders = pairs_of(scenes)
    apart = np.zeros(len(tasks), bool) if found.apart is None else found.apart[tasks, receivers, senders]
    tasks, receivers, senders = (part[~apart] for part in (tasks, receivers, senders))
    relation = found.relations[tasks, receivers, senders]
    sure = found.probabilities[tasks, receivers, senders, relation]
    facts = [
        *found.verdict.facts(),
        ("tasks", str(data.num_tasks)),
        *([] if found.groups is None else [("groups", str(scenes.num_tasks))]),
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
    if scenes.relations is not None:
        true, labelled = scenes.relations[tasks, receivers, senders], model.data.get("labelled", True)
        chances = found.probabilities[tasks, receivers, senders]
        label = np.arange(chances.shape[-1]) if labelled else _matched(relation, true)
        known = "" if labelled else ", after matching relations to those of the table"
        facts.append(("edges right", f"{(label[relation] == true).mean():.2%}" + known))
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
    chance, edge = torch.from_numpy(chances.sum(-1)).double().clamp(0, 1), torch.from_numpy(edges)
    best = chance.argsort(descending=True, stable=True)[: int(edge.sum())]
    return [
        ("AUROC of directed pairs", f"{float(binary_auroc(chance, edge.long())):.4f}"),
        ("AUPRC of directed pairs", f"{float(binary_average_precision(chance, edge.long())):.4f}"),
        ("precision at the true number of edges", f"{float(edge[best].double().mean()):.4f}"),
    ]


def png(figure: Figure) -> bytes:
    """Renders a figure as PNG."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    return stream.getvalue()


def page(
    title: str, facts: Sequence[tuple[str, str]], figures: Sequence[tuple[str, bytes]], notes: Sequence[str]
) -> str:
    """Returns an HTML page that needs no other file.

    Args:
        title: heading.
        facts: names and values of a table.
        figures: captions and PNG images.
        notes: warnings, shown first.
    """
    rows = "".join(f"<tr><th>{_escaped(name)}</th><td>{_escaped(value)}</td></tr>" for name, value in facts)
    images = "".join(
        f'<figure><img alt="{_escaped(caption)}" src="data:image/png;base64,{base64.b64encode(image).decode()}">'
        f"<figcaption>{_escaped(caption)}</figcaption></figure>"
        for caption, image in figures
    )
    warnings = "".join(f"<p><strong>{_escaped(note)}</strong></p>" for note in notes)
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{_escaped(title)}</title>'
    head += f"<style>{STYLE}</style>"
    return f"{head}<h1>{_escaped(title)}</h1>{warnings}<table>{rows}</table>{images}</html>\n"


def _escaped(name: str) -> str:
    return html.escape(plain(name))
