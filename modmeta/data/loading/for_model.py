"""Loads a file of trajectories for a trained model. Used by `infer`, `evaluate`, `unseen` and the Python API."""

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

MOTION = 0.02  # tolerated relative difference of the time between frames


@dataclass(frozen=True)
class Options:
    """Options for using a file with a model.

    Args:
        reading: reading options.
        split: split to use; None for `test`, or the only one.
        tasks: number of tasks to use, from the first; None for all.
        observed: number of frames that structures are inferred from; None for all.
        velocities: `given`, or `estimated` from positions; None for what the model was trained on.
        any_entities: whether to accept other numbers of entities than in training.
        labelled: whether labels of the file are compared with the model's, so they may not exceed the model's.
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
    """Trajectories in the form that a model expects.

    Attributes:
        data: all frames.
        observed: number of frames, from the first, that structures are inferred from.
        notes: notes for the user about unusual data.
    """

    data: Trajectories
    observed: int
    notes: tuple[str, ...]

    @property
    def seen(self) -> Trajectories:
        """The observed frames."""
        return self.data.frames(self.observed)

    def truth(self, steps: int) -> np.ndarray | None:
        """States of up to `steps` frames after the observed ones, (B, N, steps, D); None if there are none."""
        after = self.data.states[:, :, self.observed : self.observed + steps]
        return after if after.shape[2] else None


def load_for_model(file: Path | str, known: Known, options: Options | None = None) -> Loaded:
    """Reads a file and converts it to the form that a model expects.

    Args:
        file: a file of any format of `modmeta.data.formats`.
        known: description of the model's training data.
        options: options for using the file; None for the defaults.

    Raises:
        DataError: the file cannot be read or does not fit the model.
    """
    options = options or Options()
    data = in_order(_tasks(file, options))
    observed = data.num_frames if options.observed is None else options.observed
    if not 3 <= observed <= data.num_frames:
        raise DataError(
            f"{file}: {data.num_frames} frames, {observed} of them to observe; observe at least 3 and at most "
            f"{data.num_frames}"
        )
    check_moving(data, str(file))
    data = absent_last(data, observed)
    new = [size for size in data.sizes if size not in known.entities]
    if new and not options.any_entities:
        trained = known.entities[0] if len(known.entities) == 1 else list(known.entities)
        raise DataError(
            f"{file}: {', '.join(map(str, new))} entities, but the model was trained on {trained}; add --any-entities "
            "to apply it anyway"
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
    """Tasks of the requested split."""
    splits = formats.load(file, options.split, options.reading)
    if options.split is None and len(splits) > 1 and "test" not in splits:
        raise DataError(f"{file} has splits {sorted(splits)}; choose one with --split")
    data = splits[options.split or ("test" if "test" in splits else next(iter(splits)))]
    return data if options.tasks is None else data.take(options.tasks)


def _check_features(data: Trajectories, known: Known, where: str) -> tuple[str, ...]:
    """Rejects a wrong number of features; returns a note if their names differ."""
    if data.num_features != len(known.features):
        advice = ""
        if known.positions and data.num_features == len(known.features) - known.positions:
            advice = "; if velocities are missing, add --velocities estimated"
        raise DataError(
            f"{where}: {data.num_features} features {list(data.features)}, but the model was trained on "
            f"{len(known.features)} features {list(known.features)}{advice}; select columns with --features"
        )
    if data.features == known.features or not find_positions(data)[1]:
        return ()
    return (f"features {list(data.features)} are used as {list(known.features)}",)


def _check_labels(data: Trajectories, known: Known, where: str) -> None:
    if data.relations is not None and data.relations.max() >= known.relations:
        raise DataError(
            f"{where}: relation {data.relations.max()}, but the model was trained on relations 0 to "
            f"{known.relations - 1}; check the labels"
        )
    if known.types is not None and data.types is not None and data.types.max() >= known.types:
        raise DataError(
            f"{where}: entity type {data.types.max()}, but the model was trained on types 0 to {known.types - 1}; "
            "check the labels"
        )


def _check_frame_step(data: Trajectories, known: Known, where: str) -> None:
    motion = frame_motion(data, known.positions)[0]
    if known.frame_motion and motion and abs(motion / known.frame_motion - 1) > MOTION:
        raise DataError(
            f"{where}: positions and velocities imply {motion:.4g} time units per frame, but the model was trained on "
            f"{known.frame_motion:.4g}; resample the data with --resample, in the units of the frame column, or train "
            "a model on it"
        )
