"""Data module for a user's file: creates splits if there are none, and derives settings from the data."""

from dataclasses import replace
from functools import lru_cache
from typing import Any, cast

import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.utilities import rank_zero_only

from modmeta.data import formats
from modmeta.data.describe import SAME_LABELS, find_positions, in_order, of_one_graph, without_others
from modmeta.data.loading.datamodule import TrajectoryDataModule, sizes_of
from modmeta.data.loading.division import AUTO, LEAST_FRAMES, divided, window_of
from modmeta.data.reading import GROUP, Reading
from modmeta.data.trajectories import Trajectories
from modmeta.data.transforms.gaps import absent_last
from modmeta.data.transforms.observation import with_room_for_velocities
from modmeta.data.units import Scales, robust_scales
from modmeta.errors import DataError
from modmeta.io import expanded
from modmeta.keys import OBSERVED
from modmeta.text import plain

AT_MOST = "${at_most:"  # data.num_tasks=${at_most:20}, as presets have it: 20, or as many as a file holds
OmegaConf.register_new_resolver("at_most", lambda number: number, replace=True)


class FileDataModule(TrajectoryDataModule):
    """Training, validation and test tasks of a file, with or without relations.

    Modules are trained on the first `observed_frames`, from which structures are inferred as well. Forecasts of test
    tasks are scored on the frames after them. `filled_from_file` derives settings from the file.

    Args:
        path: the file.
        reading: reading options.
        valid_share, test_share: fractions of the training tasks drawn for splits that the file lacks.
        split_seed: seed of that draw.
        group: `reading.group`, unless `reading` names another.
        window: frames of the windows into which recordings are cut; see `tasks_of`.
        **settings: settings of `TrajectoryDataModule`.
    """

    def __init__(
        self,
        path: str,
        reading: Reading,
        valid_share: float = 0.2,
        test_share: float = 0.2,
        split_seed: int = 0,
        group: str | None = GROUP,
        window: int | str | None = AUTO,
        **settings: Any,
    ) -> None:
        super().__init__(path=path, **settings)
        reading = replace(reading, group=group) if reading.group == GROUP else reading
        self.shares = (path, reading, valid_share, test_share, split_seed, window)

    def load(self) -> dict[str, Trajectories]:
        splits = tasks_of(*self.shares)
        if self.velocities == "estimated":
            splits = {name: with_room_for_velocities(data, self.positions) for name, data in splits.items()}
        shortest = min(data.num_frames for data in splits.values())
        if shortest < self.observed_frames or self.observed_frames < LEAST_FRAMES:
            raise DataError(
                f"{self.path}: data.observed_frames={self.observed_frames} must be at least {LEAST_FRAMES} and at most "
                f"{shortest}, the number of frames"
            )
        return _first_frames(self.shares[0], splits, self.observed_frames)

    def model_scales(self) -> Scales:
        train = self.splits["train"]
        complete = torch.ones(len(train), dtype=torch.bool)
        if train.mask is not None:
            complete = (train.mask == OBSERVED).flatten(1).all(1)
        states = train.present(complete if complete.any() else ~complete)
        assert self.units is not None
        return robust_scales(states, self.positions, self.units, self.meta["frame_step"])


def filled_from_file(config: DictConfig) -> DictConfig:
    """Fills `null` settings of `config.data` with values derived from the data file.

    Args:
        config: configuration of a run; returned unchanged unless `config.data` reads a user's file.

    Raises:
        DataError: no file is given, or it cannot be read.
    """
    if "reading" not in config.data:
        return config
    if OmegaConf.is_missing(config.data, "path") or config.data.path is None:
        raise DataError("data=files needs data.path=FILE, a file of trajectories")
    config = config.copy()
    data = config.data
    splits = tasks_of_config(data)
    notes = [note for part in splits.values() for note in part.notes]
    notes += [SAME_LABELS] if data.group == GROUP and of_one_graph(splits.values()) else []
    for note in dict.fromkeys(notes):
        rank_zero_only(print)(plain(f"note: {note}"))
    train = splits["train"]
    data.window = window_of(data.path, _loaded_as(data.path, _reading(data.reading)), data.get("window"))
    frames = min(part.num_frames for part in splits.values())
    labelled = [part.relations for part in splits.values() if part.relations is not None]
    typed = [part.types for part in splits.values() if part.types is not None]
    positions, moving = find_positions(train)
    modules = OmegaConf.select(config, "model.num_edge_modules") or 2  # baselines have no `model`
    found = {
        "num_tasks": train.num_tasks,
        "positions": positions,
        "num_relations": max(int(max(part.max() for part in labelled)) + 1, 2) if labelled else modules,
        "num_types": max((int(part.max()) for part in typed), default=0) + 1,
        "observed_frames": frames if data.window else frames - frames // 5,
    }
    if str(cast(dict[str, Any], OmegaConf.to_container(data, resolve=False))["num_tasks"]).startswith(AT_MOST):
        data.num_tasks = min(data.num_tasks, train.num_tasks)
    for name, value in found.items():
        if data[name] is None:
            data[name] = value
    if data.num_entities is None:
        sizes = sizes_of(_first_frames(data.path, splits, data.observed_frames))
        data.num_entities = sizes[0] if len(sizes) == 1 else sizes
    if data.num_features is None:
        room = data.positions if data.velocities == "estimated" and not moving else 0
        data.num_features = train.num_features + room
    if data.velocities == "estimated" and not data.positions:
        raise DataError(
            f"{data.path}: data.velocities=estimated needs the number of coordinates; add for example data.positions=2"
        )
    config.method.observed_frames = data.observed_frames
    return config


def _first_frames(path: str, splits: dict[str, Trajectories], frames: int) -> dict[str, Trajectories]:
    """Cuts training and validation tasks to the first frames; entities first observed later become absent."""
    out = dict(splits)
    for name in ("train", "valid"):
        out[name] = absent_last(splits[name], frames).frames(frames)
        out[name].validate(f"{path}, split {name}, first {frames} frames")
    return out


def _reading(config: DictConfig) -> Reading:
    values = {key: value for key, value in OmegaConf.to_container(config, resolve=True).items() if key != "_target_"}  # type: ignore[union-attr]
    return Reading(**values)  # type: ignore[arg-type]


def tasks_of_config(data: DictConfig) -> dict[str, Trajectories]:
    """`tasks_of` a configuration of `data=files`."""
    shares = (data.valid_share, data.test_share, data.split_seed)
    return tasks_of(data.path, _reading(data.reading), *shares, data.get("window"))


def tasks_of(
    path: str, reading: Reading, valid_share: float, test_share: float, seed: int, window: int | str | None = AUTO
) -> dict[str, Trajectories]:
    """Training, validation and test tasks of a file, with features in order (`in_order`), and only those
    of motion (`without_others`) unless the reading names others.

    Args:
        path: the file.
        reading: reading options.
        valid_share, test_share, seed: fractions of training tasks, and seed, by which splits that a file lacks are
            drawn; see `divided`.
        window: frames of the windows into which recordings are cut, which then are the tasks; None for none. `auto`
            cuts few long recordings of a file with one split, see `automatic_length`.

    Raises:
        DataError: the file cannot be read, or has too few tasks.
    """
    for name, share in (("valid_share", valid_share), ("test_share", test_share)):
        if not 0 < share < 1:
            raise DataError(f"data.{name}={share} must be between 0 and 1")
    if valid_share + test_share >= 1:
        raise DataError(
            f"data.valid_share={valid_share} and data.test_share={test_share} leave no tasks for training; their sum "
            "must be below 1"
        )
    return divided(path, dict(_loaded_as(path, reading)), valid_share, test_share, seed, window)


def _loaded_as(path: str, reading: Reading) -> dict[str, Trajectories]:
    file = expanded(path)
    return _loaded(path, reading, file.stat().st_mtime_ns if file.exists() else 0)


@lru_cache(maxsize=1)  # the file is read for the settings, then for the data, and again by restarts
def _loaded(path: str, reading: Reading, changed: int) -> dict[str, Trajectories]:
    splits = {name: in_order(data) for name, data in formats.load(path, how=reading).items()}
    return splits if reading.features else {name: without_others(data) for name, data in splits.items()}
