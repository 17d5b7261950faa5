"""Markdown tables of groups of runs."""

import re
from collections import Counter
from collections.abc import Sequence

from modmeta.report.ablations import VARIANTS, name_of
from modmeta.report.groups import Group, distinctions
from modmeta.report.paper import ROWS, Row, chosen, is_row, of_row, rows_of
from modmeta.report.runs import Run
from modmeta.text import plain

ABSENT = "-"
MISSING = "missing"
LONGEST_NAME = 400  # characters of a name
MARKUP = re.compile(r"([\\`*\[\]<>#~$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|!(?=\[)|&(?=#?\w+;)|://|@|(?i:www)(?=\.))")
TITLES = {name_of(place): f"({variant.title})" for place, variant in enumerate(VARIANTS)}
SINGLE = "_single"  # what measures of single rollouts end with
SHARES = ("test/structures", "test/confidence", "test/calibration_error")  # of functions


def in_markdown(text: object) -> str:
    """Escapes a name so that Markdown shows it literally: no links, images, HTML, emphasis or formulas."""
    escaped = MARKUP.sub(lambda found: f"&#{ord(found[0][0])};{found[0][1:]}", plain(text, LONGEST_NAME))
    return escaped.replace("|", "\\|")


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a Markdown table; cells are escaped."""
    lines = [[in_markdown(cell) for cell in line] for line in (head, *rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in (lines[0], ["---"] * len(head), *lines[1:]))


def error_text(value: float | None) -> str:
    """Formats a mean squared error."""
    return ABSENT if value is None else f"{value:.2e}"


def share_text(value: float | None) -> str:
    """Formats a fraction, such as an edge accuracy."""
    return ABSENT if value is None else f"{value:.2%}"


def spread_text(group: Group, measure: str) -> str:
    """Formats mean ± standard deviation over seeds; for forecasts by ensembles, the error of single rollouts, too."""
    text = share_text if "accuracy" in measure or measure in SHARES else error_text
    mean, deviation, single = group.mean(measure), group.deviation(measure), group.mean(measure + SINGLE)
    spread = text(mean) if deviation is None else f"{text(mean)} ± {text(deviation)}"
    return spread if single is None else f"{spread} (single rollouts {text(single)})"


def ratio(group: Group, published: float | None, measure: str) -> str:
    """Formats the measured error divided by the published one; for accuracies, of wrong edges."""
    measured = group.mean(measure)
    if measured is None or published is None:
        return ABSENT
    if "accuracy" in measure:
        measured, published = 1 - measured, 1 - published
    share = measured / published
    return f"{share:.2g}" if share < 10 else f"{share:,.0f}"


def _about(group: Group) -> list[str]:
    numbers = [group.mean(f"train/{name}") for name in ("seconds", "steps")]
    figures = [ABSENT if number is None else f"{number:,.0f}" for number in numbers]
    about = [group.hardware, group.priors, group.features, flat_text(group)]
    return [f"{group.tasks:,}", str(len(group.runs)), *figures, *about]


ABOUT = ("tasks", "seeds", "training, s", "steps", "hardware", "priors", "features", "training")


def flat_text(group: Group) -> str:
    """Whether training had flattened, or after how many visits of tasks it stopped before that."""
    if group.stopped is not None:
        return f"stopped at {group.stopped:,.0f} visits"
    if any(run.flattened is None for run in group.runs):
        return ABSENT
    return f"flat at {min(run.visits or 0 for run in group.runs):,.0f} visits"


def _missing(row: Row, world: str, tasks: int | None, unfinished: Sequence[Run]) -> str:
    """Cell of a row without results: states of its unfinished runs."""
    of = [run for run in unfinished if is_row(run, row, world) and tasks in (None, run.tasks)]
    states = Counter(run.state for run in of)
    return f"{MISSING} ({', '.join(f'{count} {state}' for state, count in states.items())})" if states else MISSING


def paper_table(
    groups: Sequence[Group], unfinished: Sequence[Run], world: str, measures: dict[str, str], tasks: int | None
) -> str:
    """Returns table 1 or 2 of the paper for one world.

    Args:
        groups: of finished runs.
        unfinished: other runs; rows without results show their states.
        world: springs5 or charged5.
        measures: columns and their headings.
        tasks: number of training tasks; None for the largest that a row has.
    """
    head = ["method"]
    for title in measures.values():
        head += [f"{title}, published", "measured", "ratio"]
    lines = []
    for row in rows_of(groups):
        published = [row.published(world, measure) for measure in measures]
        group = chosen(of_row(groups, row, world), tasks)
        extra = group is not None and any(group.values(measure) for measure in measures)
        if all(figure is None for figure in published) and (row in ROWS or not extra):
            continue
        if group is None:
            cells = [_missing(row, world, tasks, unfinished) if i == 0 else MISSING for i in range(len(measures))]
            parts = [(figure, cell, ABSENT) for figure, cell in zip(published, cells, strict=True)]
            about = [ABSENT] * len(ABOUT)
        else:
            parts = [
                (figure, spread_text(group, measure), ratio(group, figure, measure))
                for figure, measure in zip(published, measures, strict=True)
            ]
            about = _about(group)
        text = share_text if "test/edge_accuracy" in measures else error_text
        lines.append([row.label, *(cell for figure, *rest in parts for cell in (text(figure), *rest)), *about])
    return markdown([*head, *ABOUT], lines)


def group_table(groups: Sequence[Group]) -> str:
    """Returns the table of all groups; where name and tasks are not unique it shows distinguishing settings."""
    head = ("experiment", "tasks", "seeds", "edges right", "worst", "types right", "MSE, step 1", "step 10", "step 20")
    lines = []
    for group, apart in zip(groups, distinctions(groups), strict=True):
        right = group.values("test/edge_accuracy")
        figures = [spread_text(group, f"test/{name}") for name in ("type_accuracy", "mse_1", "mse_10", "mse_20")]
        worst = share_text(min(right)) if right else ABSENT
        tasks, seeds, *about = _about(group)
        accuracy = spread_text(group, "test/edge_accuracy")
        lines.append(
            [f"{group.name} {TITLES.get(group.name, apart)}".strip(), tasks, seeds, accuracy, worst, *figures, *about]
        )
    return markdown([*head, *ABOUT[2:]], lines)
