"""A file of trajectories for a trained model: one way in for `infer`, `evaluate`, `unseen` and Python."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from modmeta.data import formats
from modmeta.data.describe import check_moving, find_positions, frame_motion, in_order
from modmeta.data.familiar import Known, check_familiar
from modmeta.data.reading import Reading
from modmeta.data.trajectories import Trajectories
from modmeta.data.transforms.gaps import absent_last
from modmeta.data.transforms.observation import estimate_velocities, with_room_for_velocities
from modmeta.errors import DataError

MOTION = 0.02  # relative difference of the time between frames that is let pass


@dataclass(frozen=True)
class Options:
    """What of a file is used, and how.

    Args:
        reading: how to read it.
        split: to use; none for `test`, or the only one.
        tasks: the first so many; none for all.
        observed: frames that structures are inferred from; none for all.
        velocities: `given`, or `estimated` from positions; none for what the model was trained on.
        any_entities: accept other numbers of entities than the model was trained on.
        labelled: true relations and types are compared with the model's own, so it must have as many.
    """

    reading: Reading = field(default_factory=Reading)
    split: str | None = None
    tasks: int | None = None
    observed: int | None = None
    velocities: str | None = None
    any_entities: bool = True
    labelled: bool = False


@dataclass(frozen=True)
class Loaded:
    """Trajectories as a model takes them.

    Attributes:
        data: all frames.
        observed: the first so many are those that structures are inferred from.
        notes: what to mind.
    """

    data: Trajectories
    observed: int
    notes: tuple[str, ...]

    @property
    def seen(self) -> Trajectories:
        """The frames observed."""
        return self.data.frames(self.observed)

    def truth(self, steps: int) -> np.ndarray | None:
        """States of up to `steps` frames after those observed, (B, N, steps, D); none where there is no frame."""
        after = self.data.states[:, :, self.observed : self.observed + steps]
        return after if after.shape[2] else None


def load_for_model(file: Path | str, known: Known, options: Options | None = None) -> Loaded:
    """Reads a file and makes of it what a model takes.

    Args:
        file: of any format of `modmeta.data.formats`.
        known: what the model knows of its training data.
        options: what to use of the file.

    Raises:
        DataError: the file cannot be read or does not fit the model; the message names both.
    """
    options = options or Options()
    data = in_order(_tasks(file, options))
    observed = data.num_frames if options.observed is None else options.observed
    if not 3 <= observed <= data.num_frames:
        raise DataError(
            f"{file}: {data.num_frames} frames, {observed} of them to observe; at least 3 are needed, and no more than "
            "there are"
        )
    check_moving(data, str(file))
    data = absent_last(data, observed)
    new = [size for size in data.sizes if size not in known.entities]
    if new and not options.any_entities:
        trained = known.entities[0] if len(known.entities) == 1 else list(known.entities)
        raise DataError(
            f"{file}: {', '.join(map(str, new))} entities, but the model was trained on {trained}; --any-entities "
            "applies it all the same"
        )
    estimated = known.estimated if options.velocities is None else options.velocities == "estimated"
    if estimated and known.positions:
        data = estimate_velocities(with_room_for_velocities(data, known.positions), known.positions, observed)
    notes = _check_features(data, known, str(file))
    if options.labelled:
        _check_labels(data, known, str(file))
    _check_frame_step(data, known, str(file))
    note = check_familiar(data.frames(observed), known, str(file))
    return Loaded(data, observed, (*notes, note) if note else notes)


def _tasks(file: Path | str, options: Options) -> Trajectories:
    """The tasks of the split that is asked for."""
    splits = formats.load(file, options.split, options.reading)
    if options.split is None and len(splits) > 1 and "test" not in splits:
        raise DataError(f"{file} has splits {sorted(splits)}; choose one with --split")
    data = splits[options.split or ("test" if "test" in splits else next(iter(splits)))]
    return data if options.tasks is None else data.take(options.tasks)


def _check_features(data: Trajectories, known: Known, where: str) -> tuple[str, ...]:
    """Refuses another number of features; others in their place are noted."""
    if data.num_features != len(known.features):
        advice = ""
        if known.positions and data.num_features == len(known.features) - known.positions:
            advice = "; if velocities are what is missing, add --velocities estimated"
        raise DataError(
            f"{where}: {data.num_features} features {list(data.features)}, but the model was trained on "
            f"{len(known.features)}, {list(known.features)}{advice}; choose with --features"
        )
    if data.features == known.features or not find_positions(data)[1]:
        return ()
    return (f"features {list(data.features)} are taken for {list(known.features)}",)


def _check_labels(data: Trajectories, known: Known, where: str) -> None:
    if data.relations is not None and data.relations.max() >= known.relations:
        raise DataError(f"{where}: relation {data.relations.max()}, but the model knows {known.relations}")
    if known.types is not None and data.types is not None and data.types.max() >= known.types:
        raise DataError(f"{where}: type {data.types.max()} of entity, but the model knows {known.types}")


def _check_frame_step(data: Trajectories, known: Known, where: str) -> None:
    motion = frame_motion(data, known.positions)[0]
    if known.frame_motion and motion and abs(motion / known.frame_motion - 1) > MOTION:
        raise DataError(
            f"{where}: a frame is {motion:.4g} time units by positions and velocities, but {known.frame_motion:.4g} "
            f"for the model; bring it to the model's with --resample, in the units of the frame column, or train a "
            f"model on it"
        )
