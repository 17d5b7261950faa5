"""What a file of trajectories is fit for: notes, and the settings of a command that trains on it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from modmeta.data.describe import SAME_LABELS, find_positions, frame_motion, of_one_graph, without_others
from modmeta.data.loading.division import divided
from modmeta.data.names import is_confidence, words
from modmeta.data.reading import GROUP, Reading
from modmeta.data.trajectories import Trajectories
from modmeta.data.transforms.windows import SHORTEST, automatic_length, windows
from modmeta.errors import DataError
from modmeta.search.cold_start import Kind, bends_otherwise, counts_turns, differ_otherwise, driven_by_noise
from modmeta.terminal import doing
from modmeta.training.words import setting

SURE = 0.6  # confidence below which a note offers to mask states
ANGLES = {"angle", "theta", "phi", "heading", "orientation", "direction", "azimuth", "yaw"}
TURNS = "model.angles=[true,false]"  # of an angle beyond a turn, and its velocity
FEW = 3  # tasks that training needs
AXES = ("task", "frame", "entity")
SAMPLE = 100  # tasks that are looked at
FEW_ENTITIES = 12  # of which readings are compared by cold starts


@dataclass(frozen=True)
class Suggestion:
    """How to train on a file.

    Attributes:
        notes: on the data, for the user.
        words: of `modmeta train`: the file and settings, in the grammar of Hydra.
        refused: whether training refuses the file, for a reason that the notes give.
    """

    notes: list[str]
    words: list[str]
    refused: bool

    @classmethod
    def of(cls, file: Path, splits: dict[str, Trajectories], how: Reading) -> "Suggestion":
        """From the splits of a file, with features in order and missing states masked, and how the user read it."""
        first = next(iter(splits.values()))
        notes = list(dict.fromkeys(note for data in splits.values() for note in data.notes))
        sized = {name: data for name, data in splits.items() if len(data.sizes) > 1}
        notes += [f"{name}: tasks by number of entities: {data.tasks_by_size()}" for name, data in sized.items()]
        notes += [f"{name}: {_groups(data)}" for name, data in splits.items() if data.group_names is not None]
        notes += _remarks(first)
        given = _given(how)
        used = splits if how.features else {name: without_others(data) for name, data in splits.items()}
        chosen = next(iter(used.values()))
        notes += chosen.notes[len(first.notes) :]
        motion_words, more = _motion(used)
        notes += more
        given += [] if chosen.features == first.features else [features_setting(chosen.features)]
        given += motion_words
        if any(data.mask is not None and not data.mask[data.there].all() for data in splits.values()):
            notes.append("states are missing; time steps next to them are left out of all energies")
            given += [] if how.missing == "mask" else ["data.reading.missing=mask"]
        group_words, more = _shared(splits, how)
        given += group_words
        notes += more
        if first.relations is not None and (kinds := int(first.relations.max()) + 1) > 2:
            given.append(f"model.num_edge_modules={kinds}")
        length, refused, more = _trainable(file, used)
        notes += more
        given += length
        if first.relations is None and find_positions(first)[0]:  # otherwise held-out frames choose it
            notes.append(
                "relations are unknown: to choose the number of edge types, add -m model.num_edge_modules=1,2,3,4 and "
                "take the least beyond which val/gain no longer grows, the gain over no relations on held-out frames"
            )
        return cls(notes, [_as_file(file), *given], refused)


def _as_file(file: Path) -> str:
    """The file as an argument that is taken neither for a setting nor for an option."""
    text = str(file)
    return text if Path(text).is_absolute() or text.startswith("./") else f"./{text}" if text[:1] in "-~+" else text


def _given(how: Reading) -> list[str]:
    """Settings for the options that were given."""
    usual = Reading()
    out = [
        setting(f"data.reading.{name}", value)
        if not value.replace("_", "a").isalnum()
        else f"data.reading.{name}={value}"
        for name in AXES
        if (value := getattr(how, name)) != getattr(usual, name)
    ]
    if how.group != usual.group and how.group is not None:
        plain = how.group.replace("_", "a").isalnum()
        out.append(f"data.group={how.group}" if plain else setting("data.group", how.group))
    if how.features is not None:
        out.append(features_setting(how.features))
    if how.mask_below:
        pairs = ", ".join(f"{_quoted(name)}: {least:g}" for name, least in how.mask_below)
        out.append(f"data.reading.mask_below={{{pairs}}}")
    elif how.missing != usual.missing:
        out.append(f"data.reading.missing={how.missing}")
    for name in ("resample", "frame_step"):
        if (value := getattr(how, name)) is not None:
            out.append(f"data.reading.{name}={value!r}")
    return out + ([] if how.relations is None else [setting("data.reading.relations", how.relations)])


def _quoted(name: str) -> str:
    """A name in the grammar of Hydra."""
    return name if name.replace("_", "a").isalnum() and not name[:1].isdigit() else setting("", name)[1:]


def features_setting(names: Sequence[str]) -> str:
    """The setting that names the features of a file."""
    return f"data.reading.features=[{','.join(map(_quoted, names))}]"


def _remarks(data: Trajectories) -> list[str]:
    """Notes on features that are constant, confidences, angles, or names of groups."""
    notes = []
    seen = data.present()
    flat = seen.reshape(-1, data.num_features)
    for place, name in enumerate(data.features):
        values = flat[:, place]
        low, high = float(values.min()), float(values.max())
        if is_confidence(name) and low >= 0 and high <= 1:
            share = float((values < SURE).mean())
            notes.append(
                f"{name} looks like a confidence: --mask-below {name}={SURE} (data.reading.mask_below="
                f"{{{_quoted(name)}: {SURE}}}) masks the {share:.1%} of states below"
            )
        elif low == high:
            notes.append(f"{name} is constant, {low:g}")
        elif ANGLES & set(words(name)) and _beyond_a_turn(low, high) and TURNS not in words_for(data):
            notes.append(f"{name} looks like an angle in degrees; laws recognise angles in radians")
        elif data.group_names is None and data.mask is None and data.num_tasks >= 2 * FEW:
            of_task = data.states[..., place].reshape(data.num_tasks, -1)
            names = np.unique(of_task[:, 0])
            if (of_task == of_task[:, :1]).all() and (names == np.round(names)).all() and len(names) < data.num_tasks:
                notes.append(
                    f"{name} is constant in every task; if it names systems that share relations, --group {name}"
                )
    return notes


def _beyond_a_turn(low: float, high: float) -> bool:
    """Whether values are beyond a turn in radians, and within one in degrees."""
    return max(abs(low), abs(high)) > 2 * np.pi + 0.01 and high - low <= 361


def _motion(splits: dict[str, Trajectories]) -> tuple[list[str], list[str]]:
    """Settings and notes on coordinates and velocities."""
    first = next(iter(splits.values()))
    positions, moving = find_positions(first)
    if moving:
        motion, explained = frame_motion(first, positions)
        names, words = ", ".join(first.features[:positions]), words_for(first)
        what = f"{names} are coordinates; their velocities follow"
        if TURNS in words:
            what = f"{names} is an angle whose turns were counted; its velocity follows"
        return [], [
            f"{what} ({explained:.1%} of the motion explained, {motion:.4g} time units a frame); {' '.join(words)} is "
            "trained"
        ]
    if positions:
        return ["data.velocities=estimated"], [
            f"{', '.join(first.features[:positions])} are coordinates without velocities; they are estimated, and "
            "experiment=moving is trained. If forces set velocities (overdamped motion, vortices), leave "
            "data.velocities=estimated out: experiment=laws is trained"
        ]
    return [], [
        "no feature is named like a coordinate: experiment=laws is trained, which searches for the law. If the first P "
        "features are coordinates, add data.positions=P"
    ]


def _shared(splits: dict[str, Trajectories], how: Reading) -> tuple[list[str], list[str]]:
    """Settings and notes on relations that tasks may share, where nobody said so."""
    first = next(iter(splits.values()))
    if how.group != GROUP or first.group_names is not None or first.num_tasks < FEW or len(first.sizes) > 1:
        return [], []
    if of_one_graph(splits.values()):
        return ["data.group=all"], [SAME_LABELS]
    if first.relations is None:
        return [], ["relations are searched for task by task; if all tasks are of one network, add data.group=all"]
    return [], []


def _groups(data: Trajectories) -> str:
    """Number of groups and of their tasks, such as `10 groups of 2 to 5 tasks, which share relations`."""
    sizes = np.bincount(data.group_index())
    least, most = int(sizes.min()), int(sizes.max())
    tasks = f"{least} to {most} tasks" if least < most else f"{most} task{'s' if most > 1 else ''}"
    return f"{len(sizes)} group{'s' if len(sizes) > 1 else ''} of {tasks}, which share relations"


def _trainable(file: Path, splits: dict[str, Trajectories]) -> tuple[list[str], bool, list[str]]:
    """Settings of windows, whether training refuses the file, and notes."""
    first = next(iter(splits.values()))
    length, setting_of = automatic_length(first) if len(splits) == 1 else None, []
    notes = []
    if length is not None:
        try:
            count = windows(first, length, str(file)).num_tasks
        except DataError as error:
            return [], True, [f"training would refuse the file: {error}"]
        what = "one long recording is" if first.num_tasks == 1 else f"{first.num_tasks} long recordings are"
        notes.append(
            f"{what} cut into windows for training, which share relations: {count} windows of {length} frames; choose "
            "another length with data.window=N, or none with data.window=null"
        )
    elif len(splits) == 1 and first.num_tasks < FEW:
        if first.num_frames < FEW * (SHORTEST - 1) + 1:
            least = FEW * (SHORTEST - 1) + 1
            said = f"training would refuse the file: {first.num_tasks} tasks of {first.num_frames} frames are too few"
            return [], True, [f"{said}; give three tasks, or {least} frames. They are enough to infer from"]
        length = SHORTEST
        setting_of = [f"data.window={length}"]
        notes.append(
            f"fewer than three tasks: enough to infer from; to train, data.window={length} cuts them into windows, "
            "which share relations"
        )
    try:
        divided(str(file), splits, 0.2, 0.2, 0, length if len(splits) == 1 else None)
    except DataError as error:
        return setting_of, True, [*notes, f"training would refuse the file: {error}"]
    return setting_of, False, notes


def words_for(data: Trajectories) -> list[str]:
    """Settings that suit trajectories: experiment `laws`; for coordinates with velocities `moving`, or `driven`.

    A coordinate that is an angle whose turns were counted is said to be one. Oscillators whose own law is not one of
    motion in space have `laws`, in which entities may differ, too.
    """
    data = motion_alone(data)
    positions, moving = find_positions(data)
    if not moving or data.num_features != 2 * positions:
        return ["experiment=laws"]
    whole = data.states if data.mask is None else data.states[data.mask.all((1, 2))]
    some = torch.from_numpy(data.states[:SAMPLE]).double()
    if positions == 1 and len(whole) and counts_turns(torch.from_numpy(whole[:SAMPLE])):
        return ["experiment=laws", TURNS]
    if driven_by_noise(some, Kind(positions, (False,) * data.num_features)):
        return ["experiment=driven"]
    if data.mask is not None:
        return ["experiment=moving"]
    apart = data.group_names is None and len(data.sizes) == 1 and data.num_entities <= FEW_ENTITIES
    if positions != 1:
        return ["experiment=moving"]
    with doing("reading motion on a line in two ways"):
        other = bends_otherwise(some) or (apart and differ_otherwise(some, data.frame_step))
    return ["experiment=laws" if other else "experiment=moving"]


def motion_alone(data: Trajectories) -> Trajectories:
    """Coordinates and their velocities, where all other features never change; else the data as they are.

    Constants of entities, such as masses, follow no law. What they do to others is in the types of edges.
    """
    positions, moving = find_positions(data)
    rest = data.states[..., 2 * positions :]
    if not moving or not rest.shape[-1] or (rest != rest[:, :, :1]).any():
        return data
    return replace(data, states=data.states[..., : 2 * positions], features=data.features[: 2 * positions])
