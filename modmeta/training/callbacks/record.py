"""Results of a run: `metrics.json`, `curves.json` and `curves.png` in its directory, and a table on the terminal."""

import contextlib
import io
import time
import warnings
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl

from modmeta.io import reason_and_remedy, write_durably, write_json
from modmeta.machine import commit, hardware
from modmeta.plots.dashboards import plot_curves
from modmeta.terminal import Terminal, measures_table
from modmeta.text import for_console
from modmeta.training.module import ResumableModule

UNUSED = 0.01  # a module on a smaller share of edges counts as unused


def portable(value: Any, directory: Path) -> Any:
    """Settings without paths of this machine: relative to the run's directory if inside it, else the last part only."""
    if isinstance(value, dict):
        return {key: portable(part, directory) for key, part in value.items()}
    if isinstance(value, list):
        return [portable(part, directory) for part in value]
    if isinstance(value, str) and Path(value).is_absolute():
        path = Path(value)
        return str(path.relative_to(directory)) if path.is_relative_to(directory) else path.name
    return value


def result_file(results: Path, name: str, tasks: int, seed: int | None) -> Path:
    """Path of a run in a folder of results: `EXPERIMENT/NNNNtasks_seedS.json`."""
    return results / name / f"{tasks}tasks_seed{seed}.json"


class RunRecord(pl.Callback):
    """Keeps the curves of a run and writes its results.

    Seconds are wall-clock time of training and validation, including the time before an interruption.

    Args:
        directory: directory of the run.
        results: folder to which metrics and curves are also written, see `result_file`.
    """

    def __init__(self, directory: str, results: str | None = None) -> None:
        self.directory = Path(directory)
        self.results = Path(results) if results else None
        self.history: list[dict[str, float]] = []
        self.seconds = 0.0
        self.unwritten: str | None = None  # error message if the results of a tested run could not be written
        self._since: float | None = None

    def _elapsed(self) -> float:
        return self.seconds + (time.perf_counter() - self._since if self._since is not None else 0.0)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._since = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        module, fresh = cast(ResumableModule, pl_module), trainer.current_epoch + 1
        validated = fresh % (trainer.check_val_every_n_epoch or 1) == 0
        values = {  # only values logged in this epoch; callback_metrics also keeps older ones
            name: float(value)
            for name, value in trainer.callback_metrics.items()
            if name in module.logged or (validated and name.startswith("val/"))
        }
        tasks = trainer.datamodule.num_tasks  # type: ignore[attr-defined]
        steps = int(module.steps_done)
        seconds = self._elapsed()
        size = trainer.train_dataloader.sampler.size * trainer.world_size  # type: ignore[union-attr]
        before = self.history[-1] if self.history else {"seconds": 0.0, "steps": 0}
        rate = (steps - before["steps"]) * size / max(seconds - before["seconds"], 1e-9)
        values |= {"train/tasks_per_second": rate}
        pl_module.log("train/tasks_per_second", rate)
        self.history.append({"epoch": fresh, "steps": steps, "seconds": seconds, "tasks": tasks} | values)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.seconds, self._since = self._elapsed(), None

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            error = self._write(self._content(trainer, pl_module, {}))
            if error:
                warnings.warn(f"{error}; the run tries again after the test", stacklevel=2)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        measures = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("test/")}
        content = self._content(trainer, pl_module, measures)
        self.unwritten = self._write(content)
        with contextlib.suppress(OSError):  # standard output may be a closed pipe or a file on a full disk
            self._print(content)

    def _print(self, content: dict[str, Any]) -> None:
        shown = {name: value for name, value in content.items() if name.startswith(("test/", "train/"))}
        console = Terminal()
        console.print(measures_table(shown, "results"))
        if content["priors"]:
            console.print(f"structural priors: {', '.join(content['priors'])}")
        unused = [str(k) for k, share in enumerate(content["val/module_usage"]) if share < UNUSED]
        if "verdict" in content:
            console.print(f"verdict: {content['verdict']}", highlight=False)
        if unused:
            console.print(
                f"edge modules on less than {UNUSED:.0%} of edges: {', '.join(unused)}; `modmeta prune` removes them"
            )
        if self.unwritten is None:
            console.print(for_console(f"written to {self.directory / 'metrics.json'}"), soft_wrap=True)

    def _content(self, trainer: pl.Trainer, module: pl.LightningModule, measures: dict[str, float]) -> dict[str, Any]:
        config = cast(ResumableModule, module).run_config
        last: dict[str, float] = {}
        for row in self.history:
            last |= row
        measures = measures | {name: last[name] for name in ("val/type_accuracy",) if name in last}
        verdict = getattr(module, "verdict", None)  # baselines have none
        measures = measures | ({} if verdict is None else verdict.measures())
        return measures | {
            "train/tasks": trainer.datamodule.num_tasks,  # type: ignore[attr-defined]
            "train/seconds": round(self.seconds, 2),
            "train/steps": last.get("steps", 0),
            "val/edge_accuracy": last.get("val/edge_accuracy"),
            "val/energy": last.get("val/energy"),
            "val/held_out": last.get("val/held_out"),
            "val/gain": last.get("val/gain"),
            "val/agreement": last.get("val/agreement"),
            "val/gap": last.get("val/gap"),
            "val/module_usage": cast(ResumableModule, module).usage.tolist(),
            "priors": cast(ResumableModule, module).priors,
            "seed": config.get("seed"),
            "hardware": hardware() | {"precision": str(trainer.precision)},
            "commit": commit(),
            "config": portable(config, self.directory),
        }

    def _write(self, content: dict[str, Any]) -> str | None:
        """Writes results and curves. Returns the error message of a failed write, which must not lose the run."""
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            write_json(self.directory / "curves.json", {"history": self.history})
            if self.history:
                image = io.BytesIO()
                plot_curves(self.history).savefig(image, dpi=150)
                write_durably(self.directory / "curves.png", image.getvalue())
            if self.results is not None and any(name.startswith("test/") for name in content):
                file = result_file(self.results, content["config"]["name"], content["train/tasks"], content["seed"])
                file.parent.mkdir(parents=True, exist_ok=True)
                write_json(file, content | {"history": self.history})
            write_json(self.directory / "metrics.json", content)  # last, because it marks the run as finished
        except OSError as error:
            return f"the results of {self.directory} could not be written {reason_and_remedy(error)}"
        return None

    def state_dict(self) -> dict[str, Any]:
        return {"history": self.history, "seconds": self._elapsed()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.history, self.seconds = list(state_dict["history"]), float(state_dict["seconds"])
