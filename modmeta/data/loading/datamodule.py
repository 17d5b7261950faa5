"""Data module of simulated trajectories: generated on first use, cached, normalised, served in batches of tasks."""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modmeta.data import formats
from modmeta.data.describe import frame_motion, looks_like_angles
from modmeta.data.generation import generate_sizes
from modmeta.data.loading.batches import TaskDataset, as_dataset, owned
from modmeta.data.loading.taskmodule import TaskModule
from modmeta.data.trajectories import Trajectories
from modmeta.data.transforms.observation import add_noise, estimate_velocities
from modmeta.data.transforms.smoothing import WIDEST, leading, without_noise
from modmeta.data.units import Scales, Units, robust_scales
from modmeta.errors import DataError
from modmeta.simulators import World

log = logging.getLogger(__name__)


class TrajectoryDataModule(TaskModule):
    """Training, validation and test tasks of one world.

    Args:
        world: simulator with its physics; None if `path` is given.
        path: data file to use instead of a simulator.
        data_dir: cache directory of generated data.
        num_tasks: number of training tasks to use; the first ones are taken.
        train: training tasks to generate. Stream `nri` needs the published 50,000 to give the published data, because
            all splits share one stream.
        valid: validation tasks to generate.
        test: test tasks to generate.
        frames: frames of training and validation tasks.
        test_frames: frames of test tasks.
        seed: seed of the simulator.
        stream: `task` (every trajectory has its own generator) or `nri` (the published generator's order).
        units: offset and scale of the protocol units; None for the range of the training set.
        positions: number of leading features that are coordinates.
        num_entities: entities of a task, or a list of numbers, of which equal shares of tasks are simulated.
        num_features, num_relations, num_types: what the model is built for; checked against the data.
        batch_size: tasks per batch, summed over all processes.
        batches_per_epoch: training batches per epoch; None for one pass over the tasks.
        eval_batch_size: tasks per batch in validation and test.
        order_seed: seed of the order of training tasks.
        noise: standard deviation of noise added to all states, as a fraction of each feature's in the training set.
        velocities: `given` in the data, or `estimated` from positions, which replaces those of the data.
        observed_frames: number of frames that structures are inferred from; velocities are estimated within them.
        known: fraction of relations, drawn at random, given to the search in every split. Evaluation uses the others.
        smoothing: frames to either side over which local cubics average noise of observation, within the observed
            frames; 0 for states as they are. None is 0 until a cold start chooses it.

    Raises:
        DataError: a setting is invalid.
    """

    def __init__(
        self,
        world: World | None = None,
        path: str | None = None,
        data_dir: str = "data",
        num_tasks: int = 500,
        train: int = 500,
        valid: int = 200,
        test: int = 1000,
        frames: int = 49,
        test_frames: int = 99,
        seed: int = 0,
        stream: str = "task",
        units: dict[str, list[float]] | None = None,
        positions: int = 2,
        num_entities: int | Sequence[int] = 5,
        num_features: int = 4,
        num_relations: int = 2,
        batch_size: int = 10,
        batches_per_epoch: int | None = 100,
        eval_batch_size: int = 50,
        order_seed: int = 0,
        noise: float = 0.0,
        velocities: str = "given",
        observed_frames: int = 49,
        known: float = 0.0,
        num_types: int = 1,
        smoothing: int | None = 0,
    ) -> None:
        super().__init__()
        if (world is None) == (path is None):
            raise DataError("give either data.world, a simulator, or data.path, a file")
        if num_tasks > train and path is None:
            raise DataError(f"data.num_tasks={num_tasks} exceeds data.train={train}, the number of training tasks")
        for name, value in (("num_tasks", num_tasks), ("valid", valid), ("test", test), ("batch_size", batch_size)):
            if value < 1:
                raise DataError(f"data.{name}={value} must be at least 1")
        self.sizes = [num_entities] if isinstance(num_entities, int) else sorted(num_entities)
        if not self.sizes or len(set(self.sizes)) < len(self.sizes) or not all(isinstance(n, int) for n in self.sizes):
            raise DataError(f"data.num_entities={num_entities} must be an integer, or a list of different integers")
        for name, value in (("train", train), ("valid", valid), ("test", test)):
            if path is None and value < len(self.sizes):
                raise DataError(f"data.{name}={value} must be at least {len(self.sizes)}, one task of every size")
        if velocities not in ("given", "estimated"):
            raise DataError(f"data.velocities={velocities!r} must be 'given' or 'estimated'")
        if velocities == "estimated" and (not positions or num_features < 2 * positions or observed_frames < 3):
            raise DataError(
                f"data.velocities=estimated needs coordinates, their velocities and 3 observed frames, but "
                f"data.positions={positions}, data.num_features={num_features}, data.observed_frames={observed_frames}"
            )
        if not 0 <= noise < float("inf"):
            raise DataError(f"data.noise={noise} must be non-negative, in units of standard deviations")
        if not 0 <= known < 1:
            raise DataError(f"data.known={known} must be a fraction of the relations, at least 0 and below 1")
        if smoothing not in (None, 0, *range(2, WIDEST + 1)):
            raise DataError(
                f"data.smoothing={smoothing} must be a number of frames to either side, 2 to {WIDEST}, 0 for none, or "
                "null; a cubic takes nothing off three frames"
            )
        self.noise, self.velocities, self.observed_frames, self.known = noise, velocities, observed_frames, known
        self.smoothing = smoothing or 0
        self.world, self.path, self.data_dir = world, path, Path(data_dir)
        self.num_tasks, self.counts = (
            num_tasks,
            {"train": (train, frames), "valid": (valid, frames), "test": (test, test_frames)},
        )
        self.seed, self.stream = seed, stream
        self.units = Units(tuple(units["offset"]), tuple(units["scale"])) if units else None
        self.positions, self.num_features = positions, num_features
        self.num_relations, self.num_types = num_relations, num_types
        self.batch_size, self.batches_per_epoch = batch_size, batches_per_epoch
        self.eval_batch_size, self.order_seed = eval_batch_size, order_seed
        self.splits: dict[str, TaskDataset] = {}
        self.meta: dict[str, Any] = {}
        self.group_names: np.ndarray | None = None  # by index, over all splits; None without groups

    # ---- data ------------------------------------------------------------------------------------------------------

    def file(self) -> Path:
        """The data file. The name of a cached file holds a digest of the settings that generated it."""
        if self.path is not None:
            return Path(self.path)
        assert self.world is not None
        world = replace(self.world, num_entities=self.sizes[0]).settings()
        if len(self.sizes) > 1:
            world["num_entities"] = self.sizes
        settings = {"world": world, "counts": self.counts, "seed": self.seed, "stream": self.stream}
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
        return self.data_dir / f"{self.world.name}{'_'.join(map(str, self.sizes))}-{digest}.npz"

    def prepare_data(self) -> None:
        """Generates the data unless cached."""
        if self.path is None and not self.file().exists():
            assert self.world is not None
            log.info("generating %s", self.file())
            self.file().parent.mkdir(parents=True, exist_ok=True)
            splits = generate_sizes(self.world, self.sizes, self.counts, self.seed, self.stream)
            formats.save(self.file(), splits, overwrite=True)

    def load(self) -> dict[str, Trajectories]:
        """All splits of the file."""
        return formats.load(self.file())

    def setup(self, stage: str | None = None) -> None:
        """Loads and normalises all splits.

        Raises:
            DataError: the file is missing or damaged, or does not match the settings.
        """
        if self.splits:
            return
        splits = self.load()
        for name in ("train", "valid", "test"):
            if name not in splits:
                raise DataError(
                    f"{self.file()} has splits {sorted(splits)} but no {name!r}; training needs train, valid and test"
                )
            self._check(name, splits[name])
        self._check_sizes({name: splits[name] for name in ("train", "valid", "test")})
        train = splits["train"]
        if train.num_tasks < self.num_tasks:
            raise DataError(
                f"{self.file()} has {train.num_tasks} training tasks, fewer than data.num_tasks={self.num_tasks}"
            )
        splits["train"] = train.take(self.num_tasks)
        splits = self._observed(splits)
        if self.units is None:
            seen = splits["train"].present()
            self.units = Units.of_range(seen.min((0, 1, 2)), seen.max((0, 1, 2)), self.positions)
        self.meta = {"features": list(train.features), "frame_step": train.frame_step, "world": dict(train.settings)}
        self.meta |= {"velocities": self.velocities, "labelled": train.relations is not None}
        if self.smoothing and any(angles := looks_like_angles(splits["train"].states)):
            raise DataError(
                f"{self.file()}: {train.features[angles.index(True)]} looks like an angle, which data.smoothing="
                f"{self.smoothing} would average across the jump of a turn; set data.smoothing=0"
            )
        self.meta["frame_motion"] = motion = frame_motion(splits["train"], self.positions)[0]
        led = leading(splits["train"], self.smoothing, self.observed_frames, self.positions, motion)
        self.meta |= {"smoothing": self.smoothing, "led": led} if self.smoothing else {}
        grouped = [data.group_names for data in splits.values() if data.group_names is not None]
        self.group_names = np.unique(np.concatenate(grouped)) if grouped else None
        splits = {
            name: without_noise(data, self.smoothing, self.observed_frames, self.positions, led)
            for name, data in splits.items()
        }
        self.splits = {name: as_dataset(data, self.units, self.group_names) for name, data in splits.items()}
        if self.known:
            generator = torch.Generator().manual_seed(self.seed)
            for name, tasks in self.splits.items():
                if tasks.relations is None:
                    raise DataError(
                        f"{self.file()}, split {name}: data.known={self.known} needs relations; set it to 0"
                    )
                given = torch.rand(tasks.relations.shape, generator=generator) < self.known
                tasks.known = torch.where(given, tasks.relations, -1)

    def _observed(self, splits: dict[str, Trajectories]) -> dict[str, Trajectories]:
        """Adds noise and replaces velocities, as configured."""
        if self.noise:
            spread = splits["train"].present().std((0, 1, 2))
            seeds = {name: self.seed * 1000 + number for number, name in enumerate(sorted(splits))}
            splits = {name: add_noise(data, self.noise, spread, seeds[name]) for name, data in splits.items()}
        if self.velocities == "estimated":
            splits = {
                name: estimate_velocities(data, self.positions, self.observed_frames) for name, data in splits.items()
            }
        return splits

    def _check(self, split: str, data: Trajectories) -> None:
        where = f"{self.file()}, split {split}"
        if data.num_features != self.num_features:
            raise DataError(
                f"{where}: {data.num_features} features, but data.num_features={self.num_features}; set it to "
                f"{data.num_features}"
            )
        if data.relations is not None and data.relations.max() >= self.num_relations:
            raise DataError(
                f"{where}: relation {data.relations.max()}, but data.num_relations={self.num_relations}; set it to "
                f"{data.relations.max() + 1}"
            )
        if self.num_types > 1 and data.types is not None and data.types.max() >= self.num_types:
            raise DataError(
                f"{where}: entity type {data.types.max()}, but data.num_types={self.num_types}; set it to "
                f"{data.types.max() + 1}"
            )

    def _check_sizes(self, splits: dict[str, Trajectories]) -> None:
        found = sizes_of(splits)
        if not set(found) <= set(self.sizes):
            raise DataError(
                f"{self.file()}: {', '.join(map(str, found))} entities, but data.num_entities={_words(self.sizes)}; "
                f"set it to {_words(found)}"
            )
        if len(found) > 1:  # logged, because an entity may be missing by mistake
            for name, data in splits.items():
                log.info("%s, split %s: tasks by number of entities: %s", self.file(), name, data.tasks_by_size())

    def model_scales(self) -> Scales:
        """Robust scales of the training set, in protocol units; see `robust_scales`."""
        assert self.units is not None
        return robust_scales(self.splits["train"].present(), self.positions, self.units, self.meta["frame_step"])

    @property
    def num_groups(self) -> int | None:
        """Number of groups of all splits; None if every task has its own structure."""
        return None if self.group_names is None else len(self.group_names)

    def owned_tasks(self) -> Tensor:
        """Ids of the training tasks whose structures this process stores."""
        return owned(self.num_tasks, self.splits["train"].counts, *self._process())

    def description(self) -> dict[str, Any]:
        """Description of the data for checkpoints, needed to apply the model to other data."""
        assert self.units is not None
        return {
            "num_entities": self.sizes[0] if len(self.sizes) == 1 else self.sizes,
            "num_features": self.num_features,
            "num_relations": self.num_relations,
            "positions": self.positions,
            "num_tasks": self.num_tasks,
            "grouped": self.group_names is not None,
            "units": {"offset": list(self.units.offset), "scale": list(self.units.scale)},
            **self.meta,
        }


def sizes_of(splits: Mapping[str, Trajectories]) -> list[int]:
    """Distinct numbers of entities of the tasks of all splits, increasing."""
    return sorted(set[int]().union(*(data.sizes for data in splits.values())))


def _words(sizes: list[int]) -> str:
    return str(sizes[0]) if len(sizes) == 1 else f"[{','.join(map(str, sizes))}]"
