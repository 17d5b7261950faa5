"""Curves as comma-separated values, for spreadsheets."""

import csv
import io
import warnings
from argparse import Namespace
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from modmeta.io import write_durably


class CSVCurves(Logger):
    """All that is logged, a row an epoch, in `curves.csv`; a run that is taken up goes on in the same file.

    Lightning's own logger begins the file anew, and a full disk leaves it in pieces.

    Args:
        directory: of the run.
    """

    def __init__(self, directory: str) -> None:
        super().__init__()
        self.path = Path(directory) / "curves.csv"
        self.rows: dict[int, dict[str, Any]] = {}  # by step

    name = "csv"
    version = ""

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """They are in the run's directory."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        number = int(step or 0)
        if not self.rows and self.path.exists():
            with open(self.path, newline="") as file:
                earlier = [{name: value for name, value in row.items() if value} for row in csv.DictReader(file)]
            self.rows = {int(row["step"]): row for row in earlier if int(row["step"]) < number}
        self.rows[number] = self.rows.get(number, {"step": number}) | metrics

    @rank_zero_only
    def save(self) -> None:
        if not self.rows:
            return
        text = io.StringIO()
        names = dict.fromkeys(name for row in self.rows.values() for name in row)
        writer = csv.DictWriter(text, list(names))
        writer.writeheader()
        writer.writerows(self.rows.values())
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_durably(self.path, text.getvalue().encode())
        except OSError as error:
            warnings.warn(f"{self.path} could not be written ({error}); it is tried again later", stacklevel=2)

    def finalize(self, status: str) -> None:
        self.save()
