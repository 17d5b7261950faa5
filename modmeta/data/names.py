"""Names that trackers, simulators and databases give to columns: coordinates, times, entities, confidences.

Names are compared without case, blanks, punctuation and units: `X`, `pos_x`, `x_px`, `centroid-x`, `Position X [µm]`
are all the coordinate x.
"""

import re
from collections.abc import Collection, Iterable
from typing import NamedTuple

AXES = "xyz"
PLACES = {
    "pos", "position", "coord", "coords", "coordinate", "centroid", "center", "centre", "loc", "location", "com", "r",
}  # fmt: skip
SPEEDS = {"v", "vel", "velo", "velocity", "speed", "dot", "dt"}
LENGTHS = {"px", "pix", "pixel", "pixels", "mm", "cm", "m", "um", "µm", "μm", "micron", "microns", "nm", "km", "au"}
SURVEYED = {"easting": "x", "northing": "y", "altitude": "z", "elevation": "z"}
ONE_WORD = re.compile(
    r"(?P<place>pos|position|coord|centroid|center|centre|loc|location|c)?(?P<speed>v|vel|velocity|speed|d)?"
    r"(?P<axis>[xyz])(?P<after>pos|position|coord|centroid|c)?(?P<rate>vel|velocity|dot|dt)?"
)
TASKS = ("task", "task_id", "trial", "trial_id", "recording", "recording_id", "episode", "episode_id",
         "scene", "scene_id", "video", "video_id", "sequence", "run", "run_id", "simulation", "sim", "sim_id", "clip",
         "replicate")  # fmt: skip
FRAMES = ("frame", "frames", "frame_number", "frame_no", "frame_nr", "frame_num", "frame_id", "frame_idx",
          "frame_index",
          "framenumber", "frameid", "frame_nb", "timestep", "time_step", "step", "slice", "image_number", "image",
          "time", "times", "t", "time_s", "time_sec", "time_ms", "time_us", "time_ns", "t_s", "t_ms", "timestamp",
          "timestamps", "timestamp_s", "timestamp_ms", "timestamp_us", "timestamp_ns", "time_stamp", "datetime",
          "date_time", "date", "seconds", "sec", "elapsed", "elapsed_time", "position_t")  # fmt: skip
ENTITIES = ("entity", "entity_id", "particle", "particle_id", "track_id", "trackid", "track", "object_id", "object",
            "obj_id", "objectid", "agent_id", "agent", "animal_id", "animal", "individual", "individual_id",
            "individuals", "cell_id", "cell", "ped_id", "pedestrian_id", "pedestrian", "person_id", "person",
            "vehicle_id", "vehicle", "player_id", "player", "body", "body_id", "atom", "atom_id", "node", "node_id",
            "neuron", "neuron_id", "oscillator", "bird", "bird_id", "fish", "fish_id", "ant", "mouse", "target_id",
            "target", "id")  # fmt: skip
INDICES = {"index", "level_0", "row", "row_number", "rownames", "row_names", "row_id"}
NO_STATES = {"relation", "relations", "label", "labels", "name", "color", "colour", "manual_spot_color", "manual_color",
             "visibility", "comment", "comments", "notes", "filename", "file"}  # fmt: skip
CONFIDENCES = {"likelihood", "score", "confidence", "conf", "certainty", "probability", "prob", "p_detection"}


class Axis(NamedTuple):
    """A coordinate or velocity: the point it belongs to, such as `nose`; its axis from 0; whether it is a velocity."""

    point: str
    axis: int
    velocity: bool


def words(name: str) -> list[str]:
    """Lower-case words of a name, without units in brackets: `Position X [µm]` is `position`, `x`."""
    bare = re.sub(r"[\[({][^\])}]*[\])}]", " ", name)
    split = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", bare)
    return [word.lower() for word in re.split(r"[\W_]+", split) if word]


def plain_name(name: str) -> str:
    """A name without case, blanks and punctuation, such as `position_x`."""
    return "_".join(words(name))


def axis_of(name: str) -> Axis | None:
    """The coordinate or velocity that a name means; None if it means neither."""
    parts = words(name)
    rest = [SURVEYED.get(part, part) for part in parts if part not in PLACES | SPEEDS | LENGTHS]
    axes = [(i, found) for i, part in enumerate(rest) if (found := ONE_WORD.fullmatch(part))]
    if len(axes) != 1:
        return None
    (place, found), velocity = axes[0], bool(SPEEDS & set(parts))
    point = "_".join(part for i, part in enumerate(rest) if i != place)
    return Axis(point, AXES.index(found["axis"]), velocity or bool(found["speed"] or found["rate"]))


def find(name: str, names: Iterable[str]) -> str | None:
    """The name among `names` that equals `name`, if need be without case and punctuation; None if no single one."""
    names = list(names)
    if name in names:
        return name
    for form in (lambda text: text.strip().lower(), plain_name):
        alike = [other for other in names if form(other) == form(name)]
        if len(alike) == 1:
            return alike[0]
    return None


def first_of(synonyms: Iterable[str], names: Collection[str]) -> str | None:
    """The first of the synonyms that is among `names`; None if none is."""
    known: dict[str, str] = {}
    for name in names:
        known.setdefault(plain_name(name), name)
    return next((known[word] for word in synonyms if word in known), None)


def is_index(name: str) -> bool:
    """Whether a column is the index that pandas or R writes: nameless, `Unnamed: 0`, `__index_level_0__`."""
    return nameless(name) or plain_name(name) in INDICES


def nameless(name: str) -> bool:
    """Whether a column has no name, or one that pandas gives to such columns: `Unnamed: 0`, `__index_level_0__`."""
    return not name.strip() or re.match(r"unnamed(_\d+)*$|index_level_\d+$", plain_name(name)) is not None


def is_confidence(name: str) -> bool:
    """Whether a column is a tracker's confidence in its own row."""
    return bool(CONFIDENCES & {plain_name(name), words(name)[-1] if words(name) else ""})


def motion_order(names: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Coordinates and their velocities among names, each in the order x, y, z, of the first point that has any.

    `vNAME` is also the velocity of `NAME`, whatever the names. Velocities are empty unless every coordinate has one.
    """
    coordinates = [name for name in names if f"v{name}" in names]
    if coordinates:
        known = [axis_of(name) for name in coordinates]
        if all(known):
            coordinates = [name for _, name in sorted(zip(known, coordinates, strict=True), key=lambda pair: pair[0])]  # type: ignore[arg-type, return-value]
        return coordinates, [f"v{name}" for name in coordinates]
    axes = {name: axis for name in names if (axis := axis_of(name)) is not None}
    point = next((axis.point for axis in axes.values() if not axis.velocity), None)
    of: dict[bool, dict[int, str]] = {False: {}, True: {}}
    for name, axis in axes.items():
        if axis.point == point:
            of[axis.velocity].setdefault(axis.axis, name)
    coordinates = [of[False][axis] for axis in sorted(of[False])]
    if list(of[False]) in ([1], [2]):  # a single y or z is a name of anything
        return [], []
    return coordinates, [of[True][axis] for axis in sorted(of[True])] if of[True].keys() == of[False].keys() else []
