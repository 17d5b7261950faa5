"""Output of `modmeta report`: `RESULTS.md`, figures as PNG and SVG, and their data as CSV."""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from modmeta.report import ablations
from modmeta.report.collect import Found
from modmeta.report.comparison import ACCURACY, efficiency_figure, proposals_figure, variants_figure
from modmeta.report.groups import Group, grouped
from modmeta.report.paper import MEASURES, OURS, PUBLISHED_TASKS, ROWS, WORLDS, Row, of_row, rows_of
from modmeta.report.runs import Run
from modmeta.report.tables import ABSENT, group_table, in_markdown, markdown, paper_table, share_text, spread_text
from modmeta.text import for_sheet

RESULTS = "RESULTS.md"
STATES = ("finished", "running", "interrupted", "failed", "not started")
ERRORS = {"test/mse_1": "MSE, step 1", "test/mse_10": "step 10"}
ERRORS_OF_FUNCTIONS = {"test/error": "error", "test/error_seen": "seen", "test/error_unseen": "never seen"}
EDGES = {ACCURACY: "edges right"}
MEANING = f"""\
Mean ± standard deviation over seeds, on test tasks never seen. Published figures are those of Alet et al. 2019, from
{PUBLISHED_TASKS:,} training tasks. Priors are structural ones; features say what edge modules see of a pair."""
Files = dict[str, bytes]


def results(found: Found, tasks: int | None = None) -> Files:
    """Builds all files of a report, by name.

    Args:
        found: the runs.
        tasks: number of training tasks in tables 1 and 2; None for the largest that each method has.
    """
    files: Files = {}
    groups = grouped(found.finished)
    parts = ["# Results", MEANING, *_paper(groups, found.unfinished, tasks)]
    parts += _efficiency(groups, files)
    parts += _ablations(groups, files)
    parts += _compositions(groups)
    parts += ["## All runs", "Runs that differ by seed alone are one line.", group_table(groups)] if groups else []
    parts += _state(found)
    files[RESULTS] = ("\n\n".join(parts) + "\n").encode()
    return files


def _paper(groups: Sequence[Group], unfinished: Sequence[Run], tasks: int | None) -> list[str]:
    size = f"{tasks:,} training tasks" if tasks else "the most training tasks that each method has been given"
    meaning = f"Mean squared error, at {size}. Ratio: measured / published, below 1 is better."
    out = [f"## Table 1: errors of prediction\n{meaning}"]
    for world, title in WORLDS.items():
        out += [f"### {title.capitalize()}", paper_table(groups, unfinished, world, ERRORS, tasks)]
    out += [f"## Table 2: edges right\nAt {size}. Ratio: wrong edges, measured / published, below 1 is better."]
    for world, title in WORLDS.items():
        out += [f"### {title.capitalize()}", paper_table(groups, unfinished, world, EDGES, tasks)]
    return out


def _lines(groups: Sequence[Group], world: str) -> list[tuple[Row, list[Group]]]:
    """Methods with their groups by number of tasks, as far as edges were scored."""
    lines = [
        (row, [group for group in of_row(groups, row, world) if group.values(ACCURACY)]) for row in rows_of(groups)
    ]
    return [(row, of) for row, of in lines if of]


def _efficiency(groups: Sequence[Group], files: Files) -> list[str]:
    panels = {world: lines for world in WORLDS if (lines := _lines(groups, world))}
    title = "## Accuracy over the number of training tasks"
    if not panels:
        return [title, "No finished run of a method of table 2."]
    rows: list[list[object]] = []
    hours, count = 0.0, 0
    for world, lines in panels.items():
        for row, of in lines:
            for group in of:
                figures = [part for name in MEASURES for part in (group.mean(name), group.deviation(name))]
                length = [group.mean("train/seconds"), group.mean("train/steps")]
                rows.append([world, row.label, "run", group.tasks, len(group.runs), *figures, *length])
                hours, count = hours + sum(group.values("train/seconds")) / 3600, count + len(group.runs)
        for row in ROWS:
            published = [part for name in MEASURES for part in (row.published(world, name), None)]
            rows.append([world, row.label, "published", PUBLISHED_TASKS, None, *published, None, None])
    measured = [f"{name.removeprefix('test/')}{end}" for name in MEASURES for end in ("", "_std")]
    head = ["world", "method", "source", "tasks", "seeds", *measured, "train_seconds", "train_steps"]
    files["efficiency.csv"] = _csv(head, rows)
    _draw(files, "efficiency", efficiency_figure(panels))
    out = [
        title,
        "![edge accuracy over training tasks](efficiency.png)",
        f"Edges right. {count} runs, {hours:.1f} hours of training in all; `efficiency.csv` has seconds and steps.",
        _lengths(panels),
    ]
    for world, lines in panels.items():
        sizes = sorted({group.tasks for _, of in lines for group in of})
        table = []
        for row, of in lines:
            known = {group.tasks: group for group in of}
            table.append([row.label, *(spread_text(known[n], ACCURACY) if n in known else ABSENT for n in sizes)])
        head = [WORLDS[world], *(f"{size:,} tasks" for size in sizes)]
        out += [markdown(head, table), _verdict(lines)]
    return out


def _lengths(panels: Mapping[str, Sequence[tuple[Row, Sequence[Group]]]]) -> str:
    """Names methods whose number of steps differs between numbers of tasks, which affects their curves."""
    uneven = []
    for world, lines in panels.items():
        for row, of in lines:
            steps = [length for group in of if (length := group.mean("train/steps")) is not None]
            if steps and min(steps) < max(steps):
                uneven.append(f"{in_markdown(row.label)}, {WORLDS[world]} ({min(steps):,.0f} to {max(steps):,.0f})")
    return (
        f"Steps differ between points of: {'; '.join(uneven)}."
        if uneven
        else "All points of a method have the same number of steps."
    )


def _verdict(lines: Sequence[tuple[Row, Sequence[Group]]]) -> str:
    """States where ours is not ahead of another method at the same number of tasks."""
    ours = {group.tasks: group.mean(ACCURACY) or 0.0 for row, of in lines if row.name == OURS for group in of}
    others = [
        (row.label, group.tasks, group.mean(ACCURACY) or 0.0)
        for row, of in lines
        for group in of
        if row.name != OURS and group.tasks in ours
    ]
    if not others:
        return "Ours and another method have no number of tasks in common yet."
    behind = [
        f"{in_markdown(label)}, {tasks:,} tasks ({share_text(other)} against {share_text(ours[tasks])})"
        for label, tasks, other in others
        if other >= ours[tasks]
    ]
    if behind:
        return f"Ours is not ahead of: {'; '.join(behind)}."
    return "Ours is ahead of every other method, at all numbers of tasks that both were run on."


def _ablations(groups: Sequence[Group], files: Files) -> list[str]:
    out = []
    for tasks, of in ablations.by_tasks(groups).items():
        variants, name = ablations.in_order(of), f"ablations_charged5_{tasks}tasks"
        base, lines, rows = of[0].mean(ACCURACY) if 0 in of else None, [], []
        for variant, group in variants:
            right, seconds = group.mean(ACCURACY), group.mean("train/seconds")
            gain = None if right is None or base is None else right - base
            agreement = group.mean("val/agreement")
            cells = [ABSENT if gain is None else f"{100 * gain:+.2f}", str(len(group.runs))]
            cells += [ABSENT if agreement is None else f"{agreement:.2f}"]
            cells += [ABSENT if seconds is None else f"{seconds:.0f}"]
            lines.append([variant.title, spread_text(group, ACCURACY), *cells])
            figures = (right, group.deviation(ACCURACY), agreement, seconds, group.deviation("train/seconds"))
            rows.append([variant.part, variant.label, " ".join(variant.overrides), tasks, len(group.runs), *figures])
        head = ["part", "variant", "overrides", "tasks", "seeds", "edge_accuracy", "edge_accuracy_std", "agreement"]
        files[f"{name}.csv"] = _csv([*head, "train_seconds", "train_seconds_std"], rows)
        _draw(files, name, variants_figure(variants))
        head = ["variant", "edges right", "points from shipped", "seeds", "agreement of halves", "training, s"]
        title = f"## Ablations: charged particles, {tasks:,} training tasks\nShort runs that differ in one setting."
        out += [title, f"![ablations]({name}.png)", markdown(head, lines)]
        out += _proposals(of, tasks, files)
    return out


def _compositions(groups: Sequence[Group]) -> list[str]:
    """Tables of few-shot regression: structures, errors on queries, and how sure methods are."""
    head = ["experiment", "method", "tasks", "seeds", "structures right", *ERRORS_OF_FUNCTIONS.values(), "confidence",
            "calibration error"]  # fmt: skip
    lines = []
    for group in (one for one in groups if one.values("test/error")):
        method = str(group.runs[0].settings.get("method._target_", "")).rsplit(".", 1)[-1]
        errors = [ABSENT if (mean := group.mean(name)) is None else f"{mean:.2g}" for name in ERRORS_OF_FUNCTIONS]
        shares = [spread_text(group, f"test/{name}") if group.values(f"test/{name}") else ABSENT
                  for name in ("structures", "confidence", "calibration_error")]  # fmt: skip
        lines.append([group.name, method, f"{group.tasks:,}", str(len(group.runs)), shares[0], *errors, *shares[1:]])
    if not lines:
        return []
    meaning = "Mean squared errors on queries; combinations that training had, and never had."
    return [f"## Compositions\n{meaning}", markdown(head, lines)]


def _proposals(of: dict[int, Group], tasks: int, files: Files) -> list[str]:
    """Compares learned and uniform proposals over search steps, if curves of these runs were kept."""
    places = [place for place in ablations.PROPOSALS if place in of and any(run.history for run in of[place].runs)]
    if len(places) < 2:
        return []
    lines, name = [(ablations.VARIANTS[place], of[place]) for place in places], f"proposals_charged5_{tasks}tasks"
    names = (
        "epoch",
        "steps",
        "seconds",
        "train/edge_accuracy",
        "train/proposal_accuracy",
        "train/changed",
        "train/accepted_worse",
    )
    rows = [
        [variant.label, run.seed, *(row.get(name) for name in names)]
        for variant, group in lines
        for run in group.runs
        for row in run.history
    ]
    files[f"{name}.csv"] = _csv(["variant", "seed", *names], rows)
    _draw(files, name, proposals_figure(lines))
    return [f"![rows proposed, over search steps]({name}.png)"]


def _state(found: Found) -> list[str]:
    """Lists sweeps, unfinished and failed runs, diverged measures, unreadable files and commits."""
    out = []
    if found.sweeps:
        lines = [[where, *(str(counts[state]) for state in STATES)] for where, counts in found.sweeps.items()]
        out += ["## Sweeps", markdown(["sweep", *STATES], lines)]
    if found.unfinished:
        lines = [[run.where, run.name, str(run.tasks), str(run.seed), run.state, run.note] for run in found.unfinished]
        head = ["run", "experiment", "tasks", "seed", "state", "how far, or why"]
        out += ["## Runs without results", markdown(head, sorted(lines, key=lambda line: (line[4], line[0])))]
    diverged = [
        f"- {in_markdown(run.where)}: {in_markdown(', '.join(run.diverged))}" for run in found.finished if run.diverged
    ]
    out += ["## Measures that are not finite", "\n".join(diverged)] if diverged else []
    out += (
        ["## Files that could not be read", "\n".join(f"- {in_markdown(line)}" for line in found.unreadable)]
        if found.unreadable
        else []
    )
    commits = sorted({in_markdown(run.metrics.get("commit")) for run in found.finished})
    counts = Counter(run.state for run in found.runs)
    known = [f"{counts[state]} {state}" for state in STATES if counts[state]]
    known += [f"{found.twice} left out as copies of others"] if found.twice else []
    return [*out, "## Provenance", f"Runs: {', '.join(known)}. Commits of the runs: {', '.join(commits) or 'none'}."]


def _csv(head: Iterable[object], rows: Iterable[Iterable[object]]) -> bytes:
    lines = []
    for row in (head, *rows):
        line = io.StringIO()
        csv.writer(line).writerow([_cell(cell) for cell in row])  # quotes line ends
        lines.append(line.getvalue().removesuffix("\r\n") + "\n")
    return "".join(lines).encode()


def _cell(value: object) -> object:
    return "" if value is None else for_sheet(value) if isinstance(value, str) else value


def _draw(files: Files, name: str, figure: Figure) -> None:
    """Draws a figure as PNG and SVG with reproducible bytes."""
    for ending in ("png", "svg"):
        stream = io.BytesIO()
        with matplotlib.rc_context({"svg.hashsalt": name}):
            figure.savefig(stream, format=ending, dpi=150, metadata={"Date": None} if ending == "svg" else None)
        files[f"{name}.{ending}"] = stream.getvalue()


def write(directory: Path, files: Files) -> None:
    """Writes the files of a report."""
    for name, content in files.items():
        (directory / name).write_bytes(content)
