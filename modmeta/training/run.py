"""One run: fit modules, again from others while structures look arbitrary, then test the best fit.

Behind `train.py`, `modmeta train` and `modmeta.fit`.
"""

import contextlib
import logging
import os
import re
import shlex
import shutil
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
import pytorch_lightning as pl
import torch
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pytorch_lightning.loggers import TensorBoardLogger, WandbLogger
from pytorch_lightning.utilities.rank_zero import rank_zero_module, rank_zero_only

from modmeta.data.loading.filemodule import filled_from_file, tasks_of_config
from modmeta.data.trajectories import Trajectories
from modmeta.errors import UserError
from modmeta.io import write_durably
from modmeta.machine import commit, keep_freed_memory
from modmeta.text import plain
from modmeta.training.bouncegrad import Beginning
from modmeta.training.callbacks.record import RunRecord
from modmeta.training.configs import rebound
from modmeta.training.distributed import alone, own_processes
from modmeta.training.misspelt import check_settings
from modmeta.training.module import ResumableModule
from modmeta.training.resume import failure_noted, finished, settle, starting_point
from modmeta.training.start import beginning_of, begun
from modmeta.training.suggestions import features_setting, motion_alone, words_for
from modmeta.training.words import setting, with_new_names

ADVICE = (
    "warning: structures look arbitrary: the first and the last frames of validation tasks agree on them no better "
    "than {:.2f} (1: always, 0: by chance). Try restarts=3, a longer run (trainer.max_epochs), a hotter start "
    "(temperature.start), another model (experiment=laws, or experiment=moving for coordinates with velocities) or "
    "likelihood (likelihood=gaussian, or likelihood=student_t)."
)
# Instruction sets of CPUs, as torch names them, on which products in bfloat16 take ten times as long as in float32.
WITHOUT_BFLOAT16 = ("DEFAULT", "NO AVX", "AVX2")
RESULTS = ("checkpoints", "metrics.json", "curves.json", "curves.png")
MANY = 12  # entities, whose rows are beyond `search.enumerate_up_to` by default
PAIRS, PAIRS_OF_GROUPS = 200, 1000  # ordered pairs in a batch of tasks of many entities, or that share structures
EPOCHS, BATCHES = 8, 40  # of tasks that share structures
PASSES, LEAST = 50, 5  # over such tasks where noise drives them, which more would learn by heart; batches of an epoch
QUIET = ("name=fit", "logger=[csv]")  # of `modmeta.fit`: no output


def group_of(mode: Any, sweep: str, name: str) -> str:
    """The name under which a dashboard shows runs together: that of the sweep's directory, or of the run."""
    return Path(sweep).name if str(mode).endswith("MULTIRUN") else name


OmegaConf.register_new_resolver("run_directory", lambda resume, fresh: resume or fresh, replace=True)
OmegaConf.register_new_resolver("group_of", group_of, replace=True)


class _Restored(pl.Callback):
    """Knows whether Lightning has put back what a checkpoint holds."""

    done = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """
        Raises:
            ValueError: the state of an optimiser is not of its parameters; torch would notice in the first step.
        """
        for optimizer in trainer.optimizers:
            for parameter, state in optimizer.state.items():
                for name, value in state.items():
                    if isinstance(value, torch.Tensor) and value.dim() and value.shape != parameter.shape:
                        raise ValueError(f"{name} of an optimiser has shape {tuple(value.shape)}")
        self.done = True


@contextlib.contextmanager
def restoring(trainer: pl.Trainer, path: Path | None) -> Iterator[None]:
    """Around a fit that goes on from a checkpoint, in which optimisers, loops or callbacks may be anything.

    Raises:
        UserError: they cannot be put back.
    """
    restored = _Restored()
    trainer.callbacks.append(restored)  # type: ignore[attr-defined]
    try:
        yield
    except (UserError, OSError):
        raise
    except Exception as error:
        if path is None or restored.done:
            raise
        what = " ".join(str(error).split())[:200]
        raise UserError(
            f"{path}: its state of training cannot be restored ({type(error).__name__}: {what}); it is altered, or of "
            "another version of modmeta"
        ) from error


@dataclass
class Fit:
    """A fitted module, its trainer and where they wrote."""

    trainer: pl.Trainer
    module: ResumableModule
    directory: Path

    @property
    def energy(self) -> float:
        """Energy of validation tasks, which needs no labels."""
        energy = self._last("val/energy")
        return float("inf") if energy is None else energy

    @property
    def gain(self) -> float | None:
        """Gain over no relations on held-out frames; None if the method has none."""
        return self._last("val/gain")

    def _last(self, name: str) -> float | None:
        known = [row[name] for row in self.record.history if name in row]
        return known[-1] if known else None

    @property
    def record(self) -> RunRecord:
        """Keeper of its curves."""
        return next(part for part in self.trainer.callbacks if isinstance(part, RunRecord))  # type: ignore[attr-defined]

    def finish(self) -> None:
        """Closes the wandb run, so that the next one starts afresh; nothing is logged any more."""
        for logger in self.trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.experiment.finish()
        self.trainer.loggers = []


def train(config: DictConfig) -> dict[str, float]:
    """One run, from its start or resumed; nothing where it is finished."""
    warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)  # Lightning's own, of torch
    warnings.filterwarnings("ignore", message=".*smaller than the logging interval")  # steps count over epochs
    os.environ.setdefault("WANDB_SILENT", "true")  # keeps the table of results last on the terminal
    rank_zero_module.log.addFilter(_about_the_run)
    # Set even where it changes nothing: from then on MKL keeps to this number, and a run can be repeated bit for bit.
    torch.set_num_threads(config.threads or torch.get_num_threads())
    keep_freed_memory()
    config = settle(config)
    with alone(Path(config.directory)), own_processes():
        return work(config)


def _about_the_run(record: logging.LogRecord) -> bool:
    """Whether a message of Lightning tells users of the run, not of its other products or own doings."""
    others = ("litlogger", "TPU available", "Loading `train_dataloader`")
    return not any(words in record.getMessage() for words in others)


def work(config: DictConfig) -> dict[str, float]:
    """What is left to do of a run."""
    directory = Path(config.directory)
    done = finished(directory)
    if done is not None:
        print(f"{directory} is finished; its results are in metrics.json")
        return done
    with failure_noted(directory):
        return complete(config)


def complete(config: DictConfig) -> dict[str, float]:
    """Fit, again while that may find more, then test the best fit.

    Raises:
        UserError: results would not be kept, or could not be written.
    """
    if not (config.callbacks or {}).get("record"):
        raise UserError("callbacks.record is missing, which keeps curves and results; leave out others one by one")
    if config.results and (commit() or "").endswith("+"):
        raise UserError(
            f"results={config.results} keeps figures that others can make again, but this source tree has uncommitted "
            "changes; commit or stash them, or leave results out: metrics.json of the run has all figures"
        )
    directory = Path(config.directory)
    best, last = attempts(config)
    if any(isinstance(one, TensorBoardLogger) for one in best.trainer.loggers):
        time.sleep(1)  # its files are named by the second: those of the test would replace those of a short training
    best.trainer.test(best.module, best.trainer.datamodule, verbose=False)  # type: ignore[attr-defined]
    last.finish()
    if best.record.unwritten:
        again = f"modmeta train --resume {shlex.quote(str(directory))}"
        raise UserError(f"{best.record.unwritten}. The run is saved; finish it: {again}")
    if best.module.stuck:
        print(ADVICE.format(float(best.module.agreement)), file=sys.stderr)
    return {name: float(value) for name, value in best.trainer.callback_metrics.items()} | {"val/energy": best.energy}


def attempts(config: DictConfig) -> tuple[Fit, Fit]:
    """Fits modules, again while that may find more: the best fit, which is put in the run's directory, and the last."""
    directory = Path(config.directory)
    beginning = beginning_of(config)  # of all attempts, whose directories differ
    best = last = fit(attempt(config, 0), beginning)
    seconds = last.record.seconds
    for number in range(1, config.restarts + 1):
        other = bool(config.get("restart_likelihood"))
        if not doubtful(last, other):
            break
        what = "structures look arbitrary" if last.module.stuck else "structures explain less than no relations"
        gain = "" if last.gain is None else f", gain {last.gain:.2f} nats"
        print(f"{what} (agreement {float(last.module.agreement):.2f}{gain}): restart {number}")
        last.finish()
        last = fit(attempt(config, number), beginning)
        seconds += last.record.seconds
        best = better(best, last, other)
    if best.module.seed != config.seed:
        promote(best, directory)
    best.record.seconds = seconds  # of all attempts
    return best, last


def doubtful(last: Fit, other: bool) -> bool:
    """Whether a restart may find more: structures look arbitrary, or, with another likelihood, gain less than nothing.

    Args:
        last: the latest attempt.
        other: restarts have another likelihood.
    """
    return last.module.stuck or (other and last.gain is not None and last.gain < 0)


def better(one: Fit, two: Fit, other: bool) -> Fit:
    """The attempt of less energy; if likelihoods differ, of larger gain, for any may win by a scale of its errors."""
    if other and one.gain is not None and two.gain is not None:
        return max(one, two, key=lambda fitted: fitted.gain or 0.0)
    return min(one, two, key=lambda fitted: fitted.energy)


def fit(config: DictConfig, beginning: Beginning | None = None) -> Fit:
    """Seed, instantiate, fit, from what a cold start found if there was one."""
    pl.seed_everything(config.method.seed, verbose=False)
    data = hydra.utils.instantiate(config.data)
    module = hydra.utils.instantiate(config.method)
    module.join_run(OmegaConf.to_container(config, resolve=True))
    if beginning is not None:
        module.begin_with(beginning)
    path = starting_point(config, module)
    trainer = trainer_of(config)
    fitted = Fit(trainer, module, Path(config.directory))
    try:
        for logger in trainer.loggers:
            logger.log_hyperparams(module.run_config)
        with restoring(trainer, path):
            trainer.fit(module, data, ckpt_path=path, weights_only=True)
    except BaseException:
        fitted.finish()
        raise
    return fitted


def fit_file(path: Path, directory: Path, overrides: Sequence[str]) -> Path:
    """Fits modules to a file of trajectories, without test and results, as `modmeta.fit` does.

    Args:
        path: of the file.
        directory: of the run.
        overrides: settings, as on the command line.

    Returns:
        The run's directory, with its last checkpoint.

    Raises:
        UserError: file or settings make no sense.
    """
    places = (setting("data.path", str(path)), setting("directory", str(directory)))
    words = ["data=files", *places, *QUIET, *map(with_new_names, overrides)]
    check_settings(words, "pkg://modmeta.conf")
    try:
        words += suited(words)
        with hydra.initialize_config_module("modmeta.conf", version_base="1.3"):
            composed = hydra.compose("train", words)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(f"settings {list(overrides)}: {' '.join(str(error).split())}") from error
    config = begun(filled_from_file(composed))
    attempts(config)[1].finish()
    return directory


def suited(words: Sequence[str]) -> list[str]:
    """The experiment that suits a file: `laws`; for coordinates with velocities `moving`, or `driven` if by noise.

    Args:
        words: of the command, among them `data=files data.path=FILE`.

    Returns:
        Words to add; none where the command chooses a model by itself, or the file cannot be read.
    """
    if any(word.lstrip("+").startswith(("experiment=", "model=", "method=")) for word in words):
        return []
    with hydra.initialize_config_module("modmeta.conf", version_base="1.3"):
        data = hydra.compose("train", [word for word in words if re.match(r"\+*data[.=]", word)]).data
    try:
        train = tasks_of_config(data)["train"]
    except (UserError, OSError):  # the run says so, and leaves a record
        return []
    if data.velocities == "estimated":
        return ["experiment=moving", *_sized(train, words)]
    moving = motion_alone(train)
    suiting = words_for(moving)
    more = [*_open(suiting, words), *_sized(train, words, driven="experiment=driven" in suiting)]
    if moving is train:
        return more
    constants = ", ".join(train.features[moving.num_features :])
    rank_zero_only(print)(plain(f"note: never changes, and so is no state that follows a law: {constants}"))
    return [*more, features_setting(moving.features)]


def _sized(train: Trajectories, words: Sequence[str], driven: bool = False) -> list[str]:
    """Settings for tasks that share structures: short runs of small batches, for the laws are all that is learned.

    They begin with laws, for one structure of many recordings has too few receivers to begin from a random one. So do
    tasks of many entities, whose rows are too many to be met at random.
    """
    pairs = train.num_entities * (train.num_entities - 1)
    settings: dict[str, str | int] = {}
    if train.group_names is not None or train.num_entities >= MANY:
        most = PAIRS if train.group_names is None else PAIRS_OF_GROUPS
        settings |= {"search.start": "laws", "data.batch_size": max(1, min(10, most // pairs))}
    if train.group_names is not None:
        batches = BATCHES
        if driven:
            of_passes = round(PASSES * train.num_tasks / EPOCHS / int(settings["data.batch_size"]))
            batches = min(BATCHES, max(LEAST, of_passes))
        settings |= {"data.batches_per_epoch": batches, "trainer.max_epochs": EPOCHS}
    return _open([f"{name}={value}" for name, value in settings.items()], words)


def _open(settings: Sequence[str], words: Sequence[str]) -> list[str]:
    """Settings that the words of a command leave open."""
    given = {word.partition("=")[0].lstrip("+") for word in words}
    return [word for word in settings if word.partition("=")[0] not in given]


def attempt(config: DictConfig, number: int) -> DictConfig:
    """The configuration of an attempt: of a restart, other initial modules and draws of the search, the same data.

    Restarts may have another likelihood.
    """
    moved = Path(config.directory) / f"restart_{number}"
    if number == 0 and not moved.exists():
        return config.copy()
    plain = rebound(OmegaConf.to_container(config), config.directory, str(moved))
    if number:
        plain = rebound(plain, config.run_id, f"{config.run_id}-{number}")
        plain["method"]["seed"] = config.seed + 1000 * number
        if plain.get("restart_likelihood"):  # of runs that an earlier version began there is none
            plain["likelihood"] = plain["method"]["model"]["likelihood"] = plain["restart_likelihood"]
    return OmegaConf.create(plain)


def promote(winner: Fit, directory: Path) -> None:
    """Puts the results of a restart in the run's own directory; those of the first attempt move to `restart_0`.

    May be interrupted anywhere and repeated.
    """
    first, partial = directory / "restart_0", directory / "restart_0.partial"
    if not first.exists():
        shutil.rmtree(partial, ignore_errors=True)
        _copy(directory, partial)
        os.replace(partial, first)
    _copy(winner.directory, directory)
    winner.record.directory = directory


def _copy(source: Path, target: Path) -> None:
    (target / "checkpoints").mkdir(parents=True, exist_ok=True)
    for name in RESULTS:
        part = source / name
        for file in sorted(part.glob("*.ckpt")) if part.is_dir() else [part] if part.exists() else []:
            write_durably(target / file.relative_to(source), file.read_bytes())


def trainer_of(config: DictConfig) -> pl.Trainer:
    """The trainer of a run with its callbacks and loggers; mixed precision is used where the processor gains by it."""
    callbacks, loggers = (
        [hydra.utils.instantiate(part) for part in (config.get(group) or {}).values() if part]
        for group in ("callbacks", "logger")
    )
    precision = _precision(config.trainer.precision, config.trainer.get("accelerator", "auto"))
    return hydra.utils.instantiate(config.trainer, precision=precision, callbacks=callbacks, logger=loggers)


def _precision(asked: str | int | None, accelerator: str) -> str | int | None:
    elsewhere = accelerator not in ("auto", "cpu") or (
        accelerator == "auto" and (torch.cuda.is_available() or torch.backends.mps.is_available())
    )
    if asked not in ("bf16", "bf16-mixed") or elsewhere:
        return asked
    if has_bfloat16():
        return asked
    warnings.warn(
        f"this processor has no products in bfloat16: trainer.precision=32-true is used, faster here than {asked}",
        stacklevel=2,
    )
    return "32-true"


def has_bfloat16() -> bool:
    """Whether the CPU gains by products of matrices in bfloat16."""
    return torch.backends.cpu.get_cpu_capability() not in WITHOUT_BFLOAT16
