"""Logger of curves as comma-separated values."""

import csv
import io
import warnings
from argparse import Namespace
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from modmeta.errors import UserError
from modmeta.io import write_durably
from modmeta.plain import TEXT_BYTES, read_text


class CSVCurves(Logger):
    """Logs all metrics in `curves.csv`, one row an epoch; a resumed run appends to the same file.

    Lightning's logger overwrites the file on resuming, and a full disk leaves it incomplete.

    Args:
        directory: directory of the run.
    """

    def __init__(self, directory: str) -> None:
        super().__init__()
        self.path = Path(directory) / "curves.csv"
        self.rows: dict[int, dict[str, Any]] = {}  # by step

    name = "csv"
    version = ""

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Does nothing: they are in the run's directory."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        number = int(step or 0)
        if not self.rows and self.path.exists():
            self.rows = {step: row for step, row in self._earlier().items() if step < number}
        self.rows[number] = self.rows.get(number, {"step": number}) | metrics

    def _earlier(self) -> dict[int, dict[str, Any]]:
        """Rows of an earlier part of the run, by step.

        Raises:
            UserError: the file is not what a run writes.
        """
        text = read_text(self.path, TEXT_BYTES)
        try:
            rows = [
                {str(name): value for name, value in row.items() if value} for row in csv.DictReader(io.StringIO(text))
            ]
            return {int(row["step"]): row for row in rows}
        except (csv.Error, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{self.path} is not what a run writes; move it away") from error

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
