"""The page of `modmeta infer --report`: every task or group, trajectories played with forecasts, laws of all kinds.

A page needs no other file and stays below 10 MB: long recordings are thinned, and many tasks are spread over pages
that link to each other. Letters: B tasks, N entities, T frames, D features, R relations.
"""

import base64
import html
import json
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from modmeta.answers import Forecasts, Relations
from modmeta.data.formats.relations import pairs_of
from modmeta.data.trajectories import Trajectories
from modmeta.errors import UserError
from modmeta.evaluation.calibration import reliability
from modmeta.evaluation.laws import laws
from modmeta.evaluation.verdict import FOUND, UNRESOLVED
from modmeta.text import plain

if TYPE_CHECKING:
    from modmeta.api import Model

COLOURS = ("#9aa0a6", "#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b", "#e377c2")
ROOM = 4_400_000  # characters of data on a page, beside the 4.8 MB of plotly.js
FRAMES, FEWEST, STEPS = 300, 60, 60  # shown of a task at most, at least where there are many tasks, and of its forecast
NONE = 65535  # a number that is not there


def write_pages(
    directory: Path,
    title: str,
    facts: Sequence[tuple[str, str]],
    notes: Sequence[str],
    model: "Model",
    data: Trajectories,
    found: Relations,
    ahead: Forecasts,
    truth: np.ndarray | None,
) -> None:
    """Writes `report.html`, and `report_2.html` and so on where tasks are too many for one page.

    Args:
        directory: where to.
        title: heading.
        facts: names and values of the summary, the verdict first.
        notes: warnings.
        model: model that inferred.
        data: observed frames of B tasks, or of the first one of every group.
        found: relations of the same tasks, or groups.
        ahead: their forecasts.
        truth: states after the observed frames, (B, N, steps, D); None if unknown.

    Raises:
        UserError: plotly is not installed.
    """
    whole = {
        "verdict": [dict(facts)["verdict"], _tone(found.verdict.name)],
        "facts": [[plain(name), plain(value)] for name, value in facts],
        "notes": [plain(note) for note in notes],
        "what": "task" if found.groups is None else "group",
        "features": [plain(name) for name in model.features[: _features(model)]],
        "positions": _positions(model),
        "relations": [str(relation) for relation in range(model.num_relations)],
        "colours": COLOURS,
        "laws": _laws(model),
        "reliability": _reliability(data, found),
    }
    pages = _paged([_task(model, data, found, ahead, truth, task) for task in range(data.num_tasks)])
    names = ["report.html", *(f"report_{i + 2}.html" for i in range(len(pages) - 1))]
    links = [[name, f"{page[0]['name']} to {page[-1]['name']}"] for name, page in zip(names, pages, strict=True)]
    text = Template((files("modmeta.report") / "page.html").read_text(encoding="utf-8"))
    for name, page in zip(names, pages, strict=True):
        content = whole | {"tasks": page, "pages": links if len(pages) > 1 else []}
        filled = text.substitute(title=html.escape(plain(title)), plotly=plotly(), data=_embedded(content))
        (directory / name).write_text(filled, encoding="utf-8")


@cache
def plotly() -> str:
    """The program that draws.

    Raises:
        UserError: plotly is not installed.
    """
    try:
        return (files("plotly") / "package_data" / "plotly.min.js").read_text(encoding="utf-8")
    except (ModuleNotFoundError, FileNotFoundError) as error:
        raise UserError("--report needs plotly; pip install plotly") from error


def _embedded(content: Any) -> str:
    """JSON that no HTML within it can end."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _tone(verdict: str) -> str:
    return {FOUND: "found", UNRESOLVED: "doubt"}.get(verdict, "none")


def _positions(model: "Model") -> int:
    """Coordinates that are drawn in space, 2 or 3; else 0, for series over time."""
    positions = int(model.data["positions"])
    return positions if positions in (2, 3) else 0


def _features(model: "Model") -> int:
    return _positions(model) or len(model.features)


def _task(
    model: "Model", data: Trajectories, found: Relations, ahead: Forecasts, truth: np.ndarray | None, task: int
) -> dict[str, Any]:
    """What a page holds of a task."""
    there = np.flatnonzero(data.there[task])
    d, t = _features(model), data.num_frames
    most = int(np.clip(ROOM // (8 * max(data.num_tasks, 1) * len(there) * d), FEWEST, FRAMES))
    stride, step = -(-t // most), -(-ahead.mean.shape[2] // STEPS)
    seen = data.states[task, there, (t - 1) % stride :: stride, :d]  # the last frame is shown
    if data.mask is not None:
        seen = np.where(data.mask[task, there, (t - 1) % stride :: stride, None], seen, np.nan)
    parts = {"seen": seen}
    parts |= {name: getattr(ahead, name)[task, there, step - 1 :: step, :d] for name in ("mean", "low", "high")}
    if truth is not None and (came := truth[task, there, step - 1 :: step, :d]).shape[1]:
        parts["truth"] = came
    parts = {name: np.asarray(part, np.float64) for name, part in parts.items()}
    flat = np.concatenate([part.reshape(-1, d) for part in parts.values()])
    low = np.nanmin(np.where(np.isfinite(flat), flat, np.nan), axis=0)
    high = np.nanmax(np.where(np.isfinite(flat), flat, np.nan), axis=0)
    chances = np.asarray(found.probabilities)[task][np.ix_(there, there)]
    small = 8 * chances.size < ROOM
    types = None if found.types is None else [_type(row) for row in np.asarray(found.types)[task, there]]
    return {
        "name": plain(data.task_name(task)),
        "entities": [plain(data.entity_name(task, int(entity))) for entity in there],
        "first": (t - 1) % stride, "stride": stride, "last": t - 1, "ahead": step,
        "range": [[float(a), float(b)] for a, b in zip(low, high, strict=True)],
        "chances": packed(chances[..., None], np.zeros(1), np.ones(1)) if small else None,
        "types": types, "misfit": bool(found.misfit is not None and np.asarray(found.misfit)[task]),
        **{name: packed(part, low, high) for name, part in parts.items()},
    }  # fmt: skip


def _type(chances: np.ndarray) -> str:
    return f"type {int(chances.argmax())}: {float(chances.max()):.3f}"


def packed(values: np.ndarray, low: np.ndarray, high: np.ndarray) -> str:
    """Numbers (..., D) between bounds (D,) as 16-bit shares of the range, little-endian, in base 64."""
    share = (values - low) / np.where(high > low, high - low, 1)
    whole = np.where(np.isfinite(share), np.rint(np.clip(np.nan_to_num(share), 0, 1) * (NONE - 1)), NONE)
    return base64.b64encode(whole.astype("<u2").tobytes()).decode()


def _paged(tasks: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Tasks by page, as many on each as there is room for."""
    return list(_cut(tasks))


def _cut(tasks: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    page: list[dict[str, Any]] = []
    size = 0
    for task in tasks:
        length = len(json.dumps(task))
        if page and size + length > ROOM:
            yield page
            page, size = [], 0
        page.append(task)
        size += length
    yield page


def _laws(model: "Model") -> dict[str, Any] | None:
    """What every edge module sends over distance, where there are coordinates."""
    if not model.data["positions"]:
        return None
    distances, pulls = laws(model.module.model.dynamics, int(model.data["positions"]), (0.05, 2.0))
    relation = model.module.module_to_relation.tolist()
    return {
        "distances": _short(distances * model.units.scale[0]),
        "pulls": [_short(pull) for pull in pulls],
        "labels": [f"module {i}, relation {relation[i]}" for i in range(len(pulls))],
    }


def _short(values: np.ndarray) -> list[float | None]:
    return [float(f"{value:.5g}") if np.isfinite(value) else None for value in values]


def _reliability(data: Trajectories, found: Relations) -> dict[str, Any] | None:
    if data.relations is None:
        return None
    pairs = pairs_of(data)
    labels = torch.from_numpy(data.relations[pairs])
    chances, labels = torch.from_numpy(found.probabilities[pairs])[labels >= 0], labels[labels >= 0]
    confidence, right, count = (np.asarray(part) for part in reliability(chances, labels))
    known = count > 0
    return {
        "confidence": confidence[known].tolist(), "right": right[known].tolist(), "count": count[known].tolist(),
    }  # fmt: skip
