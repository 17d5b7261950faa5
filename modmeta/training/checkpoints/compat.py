"""Upgrades older configurations and checkpoints to this version.

Pure functions on plain dictionaries, lists, numbers and strings. They do not change their arguments, and they return
current content unchanged. Checkpoints go through `upgraded`; configurations of runs (`.hydra/config.yaml`,
`metrics.json`, result files) go through `upgraded_config`.

To rename a class, add it to `RENAMED`. To add a setting whose default is not what earlier versions did, add it to
`ADDED`, and a buffer to `ADDED_STATE`. To drop a setting, add it to `DROPPED` with a test of whether it had no effect.
A setting that had an effect stays in the configuration, and instantiating it fails.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

from modmeta.errors import UserError

# Version of the checkpoint format. 1: checkpoints without a version. 2: dynamics in modmeta.model.dynamics, no
# forecaster. 3: modmeta.training; before it, the key `method` of a run's configuration was `bouncegrad`.
FORMAT = 3

RENAMED = {
    "modmeta.model.dynamics.ModularDynamics": "modmeta.model.dynamics.discrete.ModularDynamics",
    "modmeta.model.continuous.ContinuousDynamics": "modmeta.model.dynamics.continuous.ContinuousDynamics",
    "modmeta.data.datamodule.TrajectoryDataModule": "modmeta.data.loading.datamodule.TrajectoryDataModule",
    "modmeta.data.filemodule.FileDataModule": "modmeta.data.loading.filemodule.FileDataModule",
    "modmeta.data.simulators.Charged": "modmeta.simulators.Charged",
    "modmeta.data.simulators.Kuramoto": "modmeta.simulators.Kuramoto",
    "modmeta.data.simulators.Masses": "modmeta.simulators.Masses",
    "modmeta.data.simulators.Mixed": "modmeta.simulators.Mixed",
    "modmeta.data.simulators.Springs": "modmeta.simulators.Springs",
    "modmeta.bouncegrad.BounceGrad": "modmeta.training.bouncegrad.BounceGrad",
    "modmeta.schedules.halve_on_plateau": "modmeta.training.schedules.halve_on_plateau",
    "modmeta.schedules.warmup_hold_decay": "modmeta.training.schedules.warmup_hold_decay",
    "modmeta.callbacks.checkpoints.Checkpoints": "modmeta.training.callbacks.checkpoints.Checkpoints",
    "modmeta.callbacks.pictures.Pictures": "modmeta.training.callbacks.pictures.Pictures",
    "modmeta.callbacks.room.Room": "modmeta.training.callbacks.room.Room",
    "modmeta.checkpoint_files.DurableCheckpoints": "modmeta.training.checkpoints.plugin.DurableCheckpoints",
    "modmeta.checkpoints.files.DurableCheckpoints": "modmeta.training.checkpoints.plugin.DurableCheckpoints",
    "modmeta.training.checkpoints.files.DurableCheckpoints": "modmeta.training.checkpoints.plugin.DurableCheckpoints",
    "modmeta.evaluation.calibrated.Calibrate": "modmeta.training.callbacks.calibrated.Calibrate",
    "modmeta.report.logs.CSVCurves": "modmeta.training.callbacks.csv_curves.CSVCurves",
    "modmeta.report.run.RunRecord": "modmeta.training.callbacks.record.RunRecord",
}


def _no_forecaster(part: Mapping[str, Any]) -> bool:
    return not part.get("forecast_share") and part.get("forecaster") is None


# Removed settings of a class, and a test of whether they had no effect.
DROPPED: dict[str, tuple[tuple[str, ...], Callable[[Mapping[str, Any]], bool]]] = {
    "modmeta.training.bouncegrad.BounceGrad": (
        ("forecast_optimizer", "forecast_share", "forecast_horizon"),
        _no_forecaster,
    ),
    "modmeta.model.model.RelationalModel": (("forecaster",), _no_forecaster),
}
# Settings of a class that came later, with the values that do as before.
ADDED: dict[str, dict[str, Any]] = {
    "modmeta.data.loading.filemodule.FileDataModule": {"group": "group", "window": None, "smoothing": 0},
    "modmeta.data.reading.Reading": {"group": "group", "mask_below": None},
    "modmeta.model.dynamics.continuous.ContinuousDynamics": {"constants": False},
}
DROPPED_GROUPS = {"optimizer": ("forecast",)}  # removed keys of configuration groups
# Buffers of a class that came later, with the values that do as before.
ADDED_STATE = {"modmeta.training.composed.ComposedBounceGrad": {"calibrated": 1.0, "twin": 0}}
# Laws by own functions, of which there are more now; those that came later stand last.
GROWN_STATE = ("dynamics.found.alone", "dynamics.own_laws", "dynamics.found_own_laws")
MOST_GROWN = 1_000_000  # numbers that such laws may lack: a file asks for no more memory than this beyond its own size
DROPPED_STATE = ("model.forecasting", "mean_square_change")  # removed buffers of BounceGrad


def upgraded_config(config: Any) -> Any:
    """Upgrades a configuration, or any part of one, to the names and settings of this version."""
    if isinstance(config, list):
        return [upgraded_config(part) for part in config]
    if not isinstance(config, Mapping):
        return config
    target = config.get("_target_")
    target = RENAMED.get(target, target) if isinstance(target, str) else target
    names, without_effect = DROPPED.get(str(target), ((), bool))
    gone = names if without_effect(config) else ()
    out = ADDED.get(str(target), {}) | {key: upgraded_config(value) for key, value in config.items() if key not in gone}
    if "_target_" in config:
        out["_target_"] = target
    elif "bouncegrad" in out and "method" not in out:
        out = {"method" if key == "bouncegrad" else key: value for key, value in out.items()}
    for group, keys in DROPPED_GROUPS.items():
        if isinstance(part := out.get(group), Mapping) and "_target_" not in part:
            out[group] = {key: value for key, value in part.items() if key not in keys}
    return out


def upgraded_state(state: Mapping[str, Any], config: Any) -> dict[str, Any]:
    """The `state_dict` of a module with the entries of this version, given the module's configuration."""
    import torch  # reports read configurations without it

    target = config.get("_target_") if isinstance(config, Mapping) else None
    added = {name: torch.tensor(value) for name, value in ADDED_STATE.get(str(target), {}).items()}
    return added | {key: value for key, value in state.items() if key not in DROPPED_STATE}


def grown_state(state: Mapping[str, Any], expected: Mapping[str, Any]) -> dict[str, Any]:
    """A `state_dict` whose laws are by all own functions of the one that is expected, zero on those it lacks."""
    out = dict(state)
    for name, value in state.items():
        shape = tuple(expected[name].shape) if name in expected else ()
        if not name.endswith(GROWN_STATE) or value.dim() != len(shape) or value.shape[:-1] != shape[:-1]:
            continue
        if 0 < math.prod(shape) - value.numel() <= MOST_GROWN:
            out[name] = value.new_zeros(shape)
            out[name][..., : value.shape[-1]] = value
    return out


def upgraded(content: Mapping[str, Any], where: object = "the checkpoint") -> dict[str, Any]:
    """Upgrades the content of a checkpoint to this version.

    Args:
        content: a dictionary with `state_dict` and `modmeta`, which holds `config`.
        where: file named in errors.

    Raises:
        UserError: a newer version of modmeta wrote the checkpoint.
    """
    ours = dict(content["modmeta"])
    found = ours.get("format", 1)
    if not isinstance(found, int) or found > FORMAT:
        raise UserError(
            f"{where} has format {found!r}, and this version of modmeta reads formats up to {FORMAT}; install the "
            "version that wrote it, or a newer one"
        )
    ours |= {"format": FORMAT, "config": upgraded_config(ours.get("config"))}
    return {**content, "state_dict": upgraded_state(content["state_dict"], ours["config"]), "modmeta": ours}
