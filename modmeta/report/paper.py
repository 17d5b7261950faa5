"""Rows of the paper's tables 1 and 2: published figures, and which runs belong to which row."""

from collections.abc import Sequence
from typing import NamedTuple

from modmeta.report.groups import Group
from modmeta.report.runs import Run

WORLDS = {"springs5": "springs", "charged5": "charged particles"}
MEASURES = ("test/mse_1", "test/mse_10", "test/edge_accuracy")
PUBLISHED_TASKS = 50_000  # training tasks of the published figures


class Row(NamedTuple):
    """A row of table 1, table 2 or both.

    Attributes:
        label: label in the paper.
        name: name of the experiment, as recorded in a run.
        springs5: published MSE after 1 and 10 steps, published edge accuracy.
        charged5: likewise.
    """

    label: str
    name: str
    springs5: tuple[float | None, float | None, float | None] = (None, None, None)
    charged5: tuple[float | None, float | None, float | None] = (None, None, None)

    def published(self, world: str, measure: str) -> float | None:
        """Returns the figure published by Alet et al. 2019."""
        figures: tuple[float | None, ...] = getattr(self, world)
        return figures[MEASURES.index(measure)]


OURS = "{world}"
MODULAR = ((3.13e-8, 3.25e-6, 0.999), (1.03e-3, 3.11e-3, 0.884))
ROWS = (
    Row("Static", "static_{world}", (7.93e-5, 7.59e-3, None), (5.09e-3, 2.26e-2, None)),
    Row("LSTM (single)", "lstm_single_{world}", (2.27e-6, 4.69e-4, None), (2.71e-3, 7.05e-3, None)),
    Row("LSTM (joint)", "lstm_joint_{world}", (4.13e-8, 2.19e-5, None), (1.68e-3, 6.45e-3, None)),
    Row("NRI (full graph)", "nri_full_{world}", (1.66e-5, 1.64e-3, None), (1.09e-3, 3.78e-3, None)),
    Row("Correlation (data)", "correlation_data_{world}", (None, None, 0.524), (None, None, 0.558)),
    Row("Correlation (LSTM)", "correlation_lstm_{world}", (None, None, 0.527), (None, None, 0.542)),
    Row("NRI (Kipf et al. 2018)", "nri_{world}", (3.12e-8, 3.29e-6, 0.999), (1.05e-3, 3.21e-3, 0.821)),
    Row("Modular meta-learning, the paper's search", "paper_{world}", *MODULAR),
    Row("Modular meta-learning, ours", OURS, *MODULAR),
    Row("Supervised encoder", "supervised_{world}", (None, None, 0.999), (None, None, 0.950)),
    Row("NRI (true graph)", "nri_true_{world}", (1.69e-11, 1.32e-9, None), (1.04e-3, 3.03e-3, None)),
)
FURTHER = {  # labels of methods that are not in the paper
    "nri_adapted": "NRI, adapted to new tasks",
    "absolute": "Modular meta-learning, ours, absolute features as in the paper",
    "relative": "Modular meta-learning, ours, relative features",
}
# Settings that a run of a row must have; older runs lack some of these keys.
ALL = {"data.num_entities": 5, "data.noise": 0.0, "data.velocities": "given", "data.known": 0.0}
ALL |= {"method.observed_frames": 49}
NEEDED = {
    OURS: {
        "model._target_": "modmeta.model.dynamics.continuous.ContinuousDynamics",
        "model.features._target_": "modmeta.model.features.IsotropicFeatures",
        "model.num_edge_modules": 2,
        "likelihood._target_": "modmeta.model.likelihood.StudentT",
        "search.selection._target_": "modmeta.search.selection.gibbs",
        "search.receivers": "all",
        "search.horizon": 1,
        "method.persist": True,
        "method.soft": False,
        "data.batch_size": 10,
    }
}


def is_row(run: Run, row: Row, world: str) -> bool:
    """Returns whether a run belongs to a row and a world."""
    needed = ALL | NEEDED.get(row.name, {})
    return run.name == row.name.replace("{world}", world) and all(
        run.settings.get(key, value) == value for key, value in needed.items()
    )


def rows_of(groups: Sequence[Group]) -> tuple[Row, ...]:
    """The paper's rows, then a row for every other method, whose experiments are named `METHOD_WORLD`."""
    known = {row.name.replace("{world}", world) for row in ROWS for world in WORLDS}
    more = {}
    for group in groups:
        for world in WORLDS:
            if group.name.endswith(f"_{world}") and group.name not in known:
                method = group.name.removesuffix(f"_{world}")
                more[method] = Row(FURTHER.get(method, method.replace("_", " ")), f"{method}_{{world}}")
    return (*ROWS, *(more[method] for method in sorted(more)))


def of_row(groups: Sequence[Group], row: Row, world: str) -> list[Group]:
    """Groups of a row, one for each number of tasks: the one with the most test tasks, then the most seeds."""
    best: dict[int, Group] = {}
    for group in groups:
        rival = best.get(group.tasks)
        if is_row(group.runs[0], row, world) and (rival is None or _weight(group) > _weight(rival)):
            best[group.tasks] = group
    return [best[tasks] for tasks in sorted(best)]


def _weight(group: Group) -> tuple[int, int]:
    tasks = group.runs[0].settings.get("data.test")
    return tasks if isinstance(tasks, int) else 0, len(group.runs)


def chosen(groups: Sequence[Group], tasks: int | None) -> Group | None:
    """Selects the group of a row that a table shows.

    The group of `tasks`; without it, of the most tasks with three seeds, or of the most tasks.
    """
    if tasks is not None:
        return next((group for group in groups if group.tasks == tasks), None)
    enough = [group for group in groups if len(group.runs) >= 3] or list(groups)
    return enough[-1] if enough else None
