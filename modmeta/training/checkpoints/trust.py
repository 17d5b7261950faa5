"""Checks of untrusted configurations: only plain data, and only `_target_`s of one fixed dictionary.

A checkpoint or run directory may come from a stranger. Hydra imports and calls whatever a `_target_` names and resolves
every `${...}`, so both are checked before Hydra sees a configuration.
"""

import math
import sys
from itertools import pairwise
from pkgutil import resolve_name
from typing import Any, NamedTuple

from modmeta.data.transforms.smoothing import WIDEST
from modmeta.errors import UserError
from modmeta.evaluation.verdict import Judged
from modmeta.training.checkpoints.compat import RENAMED


class Part(NamedTuple):
    """Where a `_target_` is allowed, and with which keywords.

    Attributes:
        in_checkpoint: allowed in a checkpoint; otherwise only in the configuration of a run.
        settings: allowed keywords; None for all.
    """

    in_checkpoint: bool = True
    settings: tuple[str, ...] | None = None


RUN = Part(in_checkpoint=False)
WANDB = (
    "save_dir", "project", "entity", "name", "id", "resume", "group", "tags", "notes", "job_type", "offline",
    "log_model", "settings",
)  # fmt: skip

# Every `_target_` that a configuration may hold: the classes of the experiments and simple alternatives to them.
NAMES: dict[str, Part] = {
    "modmeta.baselines.correlation.CorrelationData": Part(),
    "modmeta.baselines.correlation.CorrelationLSTM": Part(),
    "modmeta.baselines.decoder.MLPDecoder": Part(),
    "modmeta.baselines.functions.MAML": Part(),
    "modmeta.baselines.functions.Pooled": Part(),
    "modmeta.baselines.lstm.LSTM": Part(),
    "modmeta.baselines.nri.GivenGraph": Part(),
    "modmeta.baselines.nri.NRI": Part(),
    "modmeta.baselines.static.Static": Part(),
    "modmeta.baselines.supervised.SupervisedEncoder": Part(),
    "modmeta.compositions.Attend": Part(),
    "modmeta.compositions.Chain": Part(),
    "modmeta.compositions.ComposedModel": Part(),
    "modmeta.compositions.Concatenate": Part(),
    "modmeta.compositions.Graph": Part(),
    "modmeta.compositions.Library": Part(),
    "modmeta.compositions.SetProposal": Part(),
    "modmeta.compositions.Sum": Part(),
    "modmeta.training.bouncegrad.BounceGrad": Part(),
    "modmeta.training.composed.ComposedBounceGrad": Part(),
    "modmeta.model.dynamics.continuous.ContinuousDynamics": Part(),
    "modmeta.model.dynamics.laws.LawDynamics": Part(),
    "modmeta.model.dynamics.discrete.ModularDynamics": Part(),
    "modmeta.model.features.AbsoluteFeatures": Part(),
    "modmeta.model.features.IsotropicFeatures": Part(),
    "modmeta.model.features.ProductFeatures": Part(),
    "modmeta.model.features.RelativeFeatures": Part(),
    "modmeta.model.likelihood.FixedGaussian": Part(),
    "modmeta.model.likelihood.Gaussian": Part(),
    "modmeta.model.likelihood.StudentT": Part(),
    "modmeta.model.model.RelationalModel": Part(),
    "modmeta.model.proposal.CNNProposal": Part(),
    "modmeta.model.proposal.MLPProposal": Part(),
    "modmeta.training.schedules.halve_on_plateau": Part(),
    "modmeta.training.schedules.warmup_hold_decay": Part(),
    "modmeta.search.search.Search": Part(),
    "modmeta.search.selection.gibbs": Part(),
    "modmeta.search.selection.greedy": Part(),
    "modmeta.search.selection.metropolis": Part(),
    "modmeta.search.temperature.AcceptanceSteered": Part(),
    "modmeta.search.temperature.Annealed": Part(),
    "torch.nn.ELU": Part(),
    "torch.nn.GELU": Part(),
    "torch.nn.Identity": Part(),
    "torch.nn.LeakyReLU": Part(),
    "torch.nn.Mish": Part(),
    "torch.nn.ReLU": Part(),
    "torch.nn.Sigmoid": Part(),
    "torch.nn.SiLU": Part(),
    "torch.nn.Softplus": Part(),
    "torch.nn.Tanh": Part(),
    "torch.optim.Adagrad": Part(),
    "torch.optim.Adam": Part(),
    "torch.optim.AdamW": Part(),
    "torch.optim.NAdam": Part(),
    "torch.optim.RAdam": Part(),
    "torch.optim.RMSprop": Part(),
    "torch.optim.SGD": Part(),
    "modmeta.training.callbacks.checkpoints.Checkpoints": RUN,
    "modmeta.training.callbacks.pictures.Pictures": RUN,
    "modmeta.training.callbacks.room.Room": RUN,
    "modmeta.training.checkpoints.plugin.DurableCheckpoints": RUN,
    "modmeta.data.loading.datamodule.TrajectoryDataModule": RUN,
    "modmeta.data.loading.filemodule.FileDataModule": RUN,
    "modmeta.data.loading.functions.FunctionDataModule": RUN,
    "modmeta.data.reading.Reading": RUN,
    "modmeta.simulators.Charged": RUN,
    "modmeta.simulators.functions.HiddenFunctions": RUN,
    "modmeta.simulators.functions.Sines": RUN,
    "modmeta.simulators.Kuramoto": RUN,
    "modmeta.simulators.Masses": RUN,
    "modmeta.simulators.Mixed": RUN,
    "modmeta.simulators.Springs": RUN,
    "modmeta.training.callbacks.calibrated.Calibrate": RUN,
    "modmeta.training.callbacks.csv_curves.CSVCurves": RUN,
    "modmeta.training.callbacks.record.RunRecord": RUN,
    "pytorch_lightning.Trainer": RUN,
    "pytorch_lightning.callbacks.EarlyStopping": RUN,
    "pytorch_lightning.callbacks.LearningRateMonitor": RUN,
    "pytorch_lightning.callbacks.RichProgressBar": Part(False, ("leave", "refresh_rate")),
    "pytorch_lightning.callbacks.TQDMProgressBar": Part(False, ("leave", "refresh_rate")),
    "pytorch_lightning.loggers.TensorBoardLogger": Part(False, ("save_dir", "name", "version", "default_hp_metric")),
    "pytorch_lightning.loggers.WandbLogger": Part(False, WANDB),
    "wandb.Settings": Part(False, ("silent", "quiet", "console")),
}

# Largest allowed integers for keys that determine time or memory.
MOST = {
    "edge_layers": 64, "node_layers": 64, "layers": 64, "nodes": 64, "pieces": 64, "substeps": 1 << 16,
    "members": 1 << 12, "enumerate_up_to": 1 << 20, "samples": 1 << 12, "sweeps": 10_000, "num_relations": 256,
    "num_types": 256, "num_edge_modules": 1024, "num_node_modules": 1024, "num_modules": 1024, "num_edge_types": 1024,
    "num_features": 10_000, "positions": 5_000, "hidden": 1 << 16, "node_hidden": 1 << 16, "horizon": 100_000,
    "forecast_horizon": 100_000, "forecast_steps": 100_000, "devices": 64, "threads": 1024,
}  # fmt: skip
LARGEST = 1 << 63  # largest integer for all other keys
NODES, DEPTH, LONGEST = 100_000, 50, 10_000  # bounds: values of a configuration, nesting levels, letters of a string

# Libraries: only single classes of them can be trusted, never a whole package.
OTHERS = (
    "torch",
    "modmeta",
    "pytorch_lightning",
    "lightning",
    "lightning_fabric",
    "hydra",
    "omegaconf",
    "wandb",
    "numpy",
)

PACKAGE_LENGTH = 80  # letters of a package's name that a message repeats

# Instead of the class that trains, whose import takes seconds.
FOR_INFERENCE = {"modmeta.training.bouncegrad.BounceGrad": "modmeta.training.trained.Trained"}

_trusted: set[str] = set()


def trust(name: str) -> None:
    """Allows checkpoints and run configurations to name classes of your own package.

    Trust only packages whose code you would run: the author of a checkpoint chooses which of its classes are called.

    Args:
        name: a package, module or class, such as `mypackage` or `mypackage.features.Squares`. For a library such as
            torch, the full name of one class.

    Raises:
        UserError: the name is not a Python name, is in the standard library, or is a whole library such as torch.
    """
    if not isinstance(name, str) or not all(part.isidentifier() for part in name.split(".")):
        raise UserError(f"{shown(name)} cannot be trusted: give the name of a package, module or class")
    top = name.split(".")[0]
    if top in sys.stdlib_module_names or name in OTHERS:
        raise UserError(f"{shown(name)} cannot be trusted: it is not a package of your own")
    _trusted.add(name)


def is_trusted(target: str) -> bool:
    """Whether a name, or the package or module that defines it, was passed to `trust`."""
    parts = target.split(".")
    if parts[0] in OTHERS:
        return target in _trusted
    homes = [name for i in range(1, len(parts) + 1) if (name := ".".join(parts[:i])) in _trusted]
    return bool(homes) and _is_defined_in(target, homes[0])


def _is_defined_in(target: str, home: str) -> bool:
    """Whether a trusted package itself defines a name; `mypackage.os.system` is not defined there."""
    try:
        found = resolve_name(target)
    except Exception:  # the name does not exist, or importing it fails
        return False
    origin = f"{getattr(found, '__module__', '')}.{getattr(found, '__qualname__', '')}"
    return origin == home or origin.startswith(f"{home}.")


def named(target: str) -> Any:
    """The class or function of a checked configuration's `_target_`; for BounceGrad, what inference needs of it."""
    return resolve_name(FOR_INFERENCE.get(target, target))


def shown(value: object) -> str:
    """An untrusted value for a message: at most 80 characters, one line, ASCII."""
    text = ascii(value) if isinstance(value, str | int | float | bool | None) else type(value).__name__
    return text if len(text) <= 80 else f"{text[:77]}..."


def check_config(config: Any, where: str, of_run: bool = False) -> None:
    """Refuses a configuration that is more than plain data. Imports, resolves and builds nothing.

    Args:
        config: configuration of a checkpoint or a run.
        where: file named in errors.
        of_run: also allow callbacks, loggers, data modules and the trainer.

    Raises:
        UserError: names the key and its value.
    """
    left: list[tuple[str, Any, int]] = [("", config, 0)]
    count = 0
    while left:
        place, value, depth = left.pop()
        count += 1
        if count > NODES or depth > DEPTH:
            raise UserError(f"{where}: its configuration is too large or nested too deeply; use another file")
        if type(value) is dict:
            _check_keys(value, place, where, of_run)
            left += [(f"{place}.{key}" if place else key, part, depth + 1) for key, part in value.items()]
        elif type(value) is list:
            left += [(f"{place}.{i}", part, depth + 1) for i, part in enumerate(value)]
        else:
            _check_value(value, place, where, of_run)


def _check_keys(value: dict[Any, Any], place: str, where: str, of_run: bool) -> None:
    at = shown(place) if place else "its top"
    for key in value:
        if type(key) is not str or "${" in key or len(key) > 200:
            raise _refused(where, at, f"has the key {shown(key)}", "keys are plain names")
        if key.startswith("_") and key not in ("_target_", "_partial_"):
            raise _refused(where, at, f"has the key {shown(key)}", "only _target_ and _partial_ may begin with _")
    if "_partial_" in value and type(value["_partial_"]) is not bool:
        raise _refused(where, at, f"has _partial_ {shown(value['_partial_'])}", "it is true or false")
    if "_target_" not in value:
        if "_partial_" in value:
            raise _refused(where, at, "has _partial_ without _target_", "remove it")
        return
    target = value["_target_"]
    if type(target) is not str:
        raise _refused(where, at, f"has the _target_ {shown(target)}", "it is a name")
    part = NAMES.get(RENAMED.get(target, target))
    if part is None:
        if is_trusted(target):
            return
        raise _unknown(target, where)
    if not (of_run or part.in_checkpoint):
        raise UserError(f"{where}: its configuration names {shown(target)}, which is no part of a model")
    wrong = [] if part.settings is None else [key for key in value if key != "_target_" and key not in part.settings]
    if wrong:
        raise _refused(where, at, f"gives {shown(wrong[0])} to {target}", "set it on the command line")
    given = value.get("settings") if target.endswith(".WandbLogger") else None
    if given is not None and (type(given) is not dict or given.get("_target_") != "wandb.Settings"):
        raise _refused(where, at, f"has settings {shown(given)}", "it must have the _target_ wandb.Settings")


def _unknown(target: str, where: str) -> UserError:
    top = target.split(".")[0]
    advice = "the file is not loaded"
    if len(top) <= PACKAGE_LENGTH and top.isidentifier() and top not in OTHERS and top not in sys.stdlib_module_names:
        advice = (
            f"if {top} is your own package, allow it: --trust {top}, trust=[{top}] for runs, modmeta.trust in Python"
        )
    return UserError(f"{where}: its configuration names {shown(target)}, which is no part of modmeta; {advice}")


def _check_value(value: Any, place: str, where: str, of_run: bool) -> None:
    at = shown(place) if place else "its top"
    if value is None or type(value) is bool or type(value) is float:
        return
    if type(value) is int:
        names = [name for name in place.split(".") if not name.isdigit()]  # elements of a list have the list's key
        most = MOST.get(names[-1] if names else "", LARGEST)
        if abs(value) > most:
            raise _refused(where, at, f"is {shown(value)}", f"at most {most} is allowed")
    elif type(value) is str:
        if "${" in value:
            again = "continue a run of an earlier version as a new run: give its settings and ckpt_path=RUN"
            advice = again if of_run else "use a checkpoint that was not altered"
            raise _refused(where, at, f"is {shown(value)}, which would be resolved", advice)
        if len(value) > LONGEST:
            raise _refused(where, at, f"is a string of {len(value)} letters", f"at most {LONGEST} are allowed")
    else:
        raise _refused(where, at, f"is a {type(value).__name__}", "only dictionaries, lists and values are allowed")


def _refused(where: str, at: str, what: str, advice: str) -> UserError:
    return UserError(f"{where}: its configuration is not plain data: {at} {what}; {advice}")


# ---- description of the training data --------------------------------------------------------------------------------


def check_description(data: Any, calibration: Any, reciprocity: Any, where: str) -> None:
    """Checks types, shapes and ranges of the description of data and of the calibration in a checkpoint.

    Args:
        data: description of the training data.
        calibration: temperatures and bands; None if not calibrated.
        reciprocity: of the structures found in training; None if unknown.
        where: file named in errors.

    Raises:
        UserError: names the key and its value.
    """

    def refuse(key: str, value: object) -> UserError:
        return UserError(f"{where}: {key} is {shown(value)}, which training does not write; use another checkpoint")

    if not isinstance(data, dict):
        raise refuse("data", data)
    if "support" in data:  # of tasks of functions
        for key in ("inputs", "outputs", "support", "num_tasks"):
            if type(data.get(key)) is not int or not 1 <= data[key] <= 1_000_000_000:
                raise refuse(f"data.{key}", data.get(key))
        return
    features = data.get("num_features")
    for key, low, high in (
        ("num_features", 1, 10_000),
        ("num_relations", 1, MOST["num_relations"]),
        ("positions", 0, 5_000),
    ):
        if type(data.get(key)) is not int or not low <= data[key] <= high:
            raise refuse(f"data.{key}", data.get(key))
    counts = data.get("num_entities")
    for count in counts if isinstance(counts, list) and counts else [counts]:
        if type(count) is not int or not 2 <= count <= 1_000_000:
            raise refuse("data.num_entities", count)
    units = data.get("units")
    for key in ("offset", "scale"):
        values = units.get(key) if isinstance(units, dict) else None
        if not _numbers(values, features, positive=key == "scale"):
            raise refuse(f"data.units.{key}", values)
    names = data.get("features")
    if not isinstance(names, list) or len(names) != features or not all(type(name) is str for name in names):
        raise refuse("data.features", names)
    for key in ("frame_step", "frame_motion", "led"):
        if key in data and data[key] is not None and not _numbers([data[key]], 1):
            raise refuse(f"data.{key}", data[key])
    if data.get("velocities", "given") not in ("given", "estimated"):
        raise refuse("data.velocities", data["velocities"])
    smoothing = data.get("smoothing", 0)
    if type(smoothing) is not int or not 0 <= smoothing <= WIDEST:
        raise refuse("data.smoothing", smoothing)
    if reciprocity is not None and not _numbers([reciprocity], 1):
        raise refuse("reciprocity", reciprocity)
    if calibration is None:
        return
    frames, temperatures = (
        calibration.get(key) if isinstance(calibration, dict) else None for key in ("frames", "temperatures")
    )
    frames = frames if isinstance(frames, list) else []
    size = len(frames)
    if not (_numbers(frames, size, positive=True) and size > 0 and all(a < b for a, b in pairwise(frames))):
        raise refuse("calibration.frames", frames)
    if not _numbers(temperatures, size, positive=True):
        raise refuse("calibration.temperatures", temperatures)
    bands = calibration.get("bands", [[1.0]])
    rows = bands if isinstance(bands, list) and 0 < len(bands) < NODES else [None]
    if not all(isinstance(row, list) and len(row) > 0 and _numbers(row, len(row)) and min(row) >= 0 for row in rows):
        raise refuse("calibration.bands", bands)
    if not _numbers([calibration.get("outdone", 0.0)], 1):
        raise refuse("calibration.outdone", calibration["outdone"])


def check_judged(judged: Any, where: str) -> None:
    """Checks the verdict in a checkpoint; None if there is none.

    Raises:
        UserError: it is not what training writes.
    """
    if judged is None:
        return
    try:
        Judged.from_state(judged)
    except ValueError as error:
        raise UserError(
            f"{where}: judged is not what training writes ({shown(str(error))}); use another checkpoint"
        ) from error


def _numbers(values: Any, size: Any, positive: bool = False) -> bool:
    """Whether values are a list of `size` finite numbers."""
    return (
        isinstance(values, list)
        and len(values) == size
        and all(type(value) in (int, float) and abs(value) < 1e300 and math.isfinite(value) for value in values)
        and (not positive or all(value > 0 for value in values))
    )
