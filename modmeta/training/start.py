"""The cold start of a run: before the first step, laws and structures of its training tasks, kept in its directory.

What the configuration leaves open of `model=laws` is chosen here, and recorded with the run.
"""

import io
import shlex
import time
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import torch
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf
from rich.table import Table
from torch import Tensor

from modmeta.data.describe import looks_like_angles
from modmeta.data.loading.batches import TaskDataset
from modmeta.data.loading.datamodule import TrajectoryDataModule
from modmeta.data.units import Units
from modmeta.errors import UserError, cause_of
from modmeta.evaluation.crossed import crossed
from modmeta.evaluation.nulls import Compared, Gain
from modmeta.evaluation.verdict import decide
from modmeta.graph.relations import MUTUAL, reciprocity
from modmeta.io import write_durably
from modmeta.model.basis import MAPPED, VECTORS, FoundLaws, Kind, family_named
from modmeta.model.sight import counted
from modmeta.search.cold_start import (
    Form,
    Start,
    Trial,
    cold_start,
    infer,
    never_changing,
    roles,
    steepness_of_maps,
    with_circles,
)
from modmeta.terminal import Terminal, doing
from modmeta.text import for_console
from modmeta.training.bouncegrad import Beginning
from modmeta.training.checkpoints.loading import read_checkpoint
from modmeta.training.groups import check_groups
from modmeta.training.words import setting

FILE = "start.npz"
# Nats a number, gained over no relations, after which no other reading of the features is tried, and training is short.
ENOUGH = 3.0
FEWEST_KINDS = 2  # of edges, where no law says how many
EPOCHS, FEW_EPOCHS = 16, 4  # of a run whose laws are to be learned, and of one whose laws are found already
SURE, SURE_OF_FEW, FEW = 5.0, 3.0, 8  # standard errors over tasks; of the numbers of fewer structures, white
CLEAR = 10.0  # standard errors, from which validation tasks tell enough
MOST_PAIRS = 15_000  # pairs of senders of all receivers whose laws are fitted again
MOST_ROLES = 5_000  # probabilities
LAWS = "modmeta.model.dynamics.laws.LawDynamics"
BOUNCEGRAD = "modmeta.training.bouncegrad.BounceGrad"
CHOSEN = (
    "num_edge_modules",
    "family",
    "coordinates",
    "angles",
    "constant",
    "smooth",
    "constants",
    "slopes",
    "shapes",
    "strengths",
    "circles",
)


def begun(config: DictConfig) -> DictConfig:
    """A new run's configuration with what a cold start chooses; it leaves `start.npz` in the run's directory.

    Raises:
        UserError: the settings do not go together.
    """
    _check_roles(config)
    _check_smoothing(config)
    if not _has_start(config):
        if _of_laws(config.get("model") or {}) and config.method.get("_target_") == BOUNCEGRAD:
            raise UserError("model=laws begins with laws that a cold start finds; add search.start=laws")
        return _lasting(config, EPOCHS)
    config = config.copy()
    _check(config.model, config.data.num_features)
    if config.ckpt_path:
        _as_before(config)
        return _lasting(config, EPOCHS)
    data = hydra.utils.instantiate(config.data)
    data.prepare_data()
    data.setup("fit")
    if data.num_groups is not None:
        method, strengths = config.method, bool(config.model.get("strengths"))
        check_groups(config.search, method.get("soft", False), method.get("persist", True), data.known, strengths)
    began = time.perf_counter()
    states = _physical(data)
    start, compared = start_of(config, data, states)
    if not _of_laws(config.model) and not start.gains.mean() > 0:
        Terminal().print("no law gains anything over no relations on held-out frames: the search begins at random")
        if config.model.num_edge_modules is None:
            config.model.num_edge_modules = FEWEST_KINDS
        if config.model.get("smooth", True) is None:
            config.model.smooth = True
        return _lasting(config, EPOCHS)
    relations = _structures(start, data.splits["train"], states, data.num_groups)
    path = Path(config.directory) / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    compared = by_all(start, data) if compared is None else compared
    write_durably(path, _packed(start, relations, data.units, compared))
    _fill(config, start, labelled=data.meta["labelled"], grouped=data.num_groups is not None)
    if config.search.get("symmetric") is None:
        config.search.symmetric = found_mutual(config, relations, data.num_groups)
        if config.search.symmetric:
            Terminal().print("relations are mutual in all tasks; search.symmetric=false does without that prior")
    if "roles" in config.search and config.search.roles is None:
        config.search.roles = found_roles(start, data)
        if config.search.roles:
            Terminal().print(
                "entities have roles: who acts on whom is much the same in all tasks, which is a prior; "
                "search.roles=false does without it"
            )
    _show(start, time.perf_counter() - began)
    if other := otherwise(config, start):
        Terminal().print(f"to choose otherwise, for example the next best: {for_console(other)}", soft_wrap=True)
    return _lasting(config, FEW_EPOCHS if start.gains.mean() > ENOUGH else EPOCHS)


def _lasting(config: DictConfig, epochs: int | None) -> DictConfig:
    """The configuration with so many epochs, where their number is open and nothing else ends the run."""
    ends = [config.trainer.get(name) for name in ("max_epochs", "max_steps", "max_time")]
    if "max_epochs" in config.trainer and ends == [None] * 3:
        config = config.copy()
        config.trainer.max_epochs = epochs
    return config


def _of_laws(model: Any) -> bool:
    """Whether modules are laws of any states."""
    return bool(model.get("_target_") == LAWS)


def _has_start(config: DictConfig) -> bool:
    return bool(config.method.get("_target_") == BOUNCEGRAD and config.search.get("start") == "laws")


def beginning_of(config: DictConfig) -> Beginning | None:
    """What a run begins with; none for runs without a cold start, whatever an earlier one left in their directory."""
    return read_beginning(Path(config.directory)) if _has_start(config) and not config.ckpt_path else None


def read_beginning(directory: Path) -> Beginning | None:
    """What `start.npz` in a directory holds; none where there is no such file.

    Raises:
        UserError: the file is damaged.
    """
    path = directory / FILE
    if not path.exists():
        return None
    try:
        with zipfile.ZipFile(path) as archive:  # written uncompressed: it asks for no memory beyond its own size
            if sum(part.file_size for part in archive.infolist()) > path.stat().st_size:
                raise ValueError("it is compressed")
        with np.load(path, allow_pickle=False) as file:
            later = FoundLaws._field_defaults.keys() - file.keys()  # parts that older runs lack
            names = [name for name in ("relations", "temperature", *FoundLaws._fields) if name not in later]
            parts = {name: torch.from_numpy(file[name]) for name in names}
            compared = _compared(file["compared"] if "compared" in file else np.zeros(0))
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is damaged ({error}); remove the run directory and start again") from error
    laws = FoundLaws(**{name: part for name, part in parts.items() if name in FoundLaws._fields})
    return Beginning(parts["relations"].long(), laws, float(parts["temperature"]), compared)


def _compared(numbers: np.ndarray) -> Compared | None:
    """As `_packed` wrote them.

    Raises:
        ValueError: they are not as many as there should be, or not finite.
    """
    if not numbers.size:
        return None
    if not np.isfinite(numbers).all():
        raise ValueError("gains are not finite")
    values = numbers.tolist()
    *gains, agreement, exchanged, tasks = values
    none, other = (Gain(mean, error, int(freedom)) for mean, error, freedom in (gains[:3], gains[3:]))
    return Compared(none, other, agreement, exchanged, int(tasks))


def _check(model: DictConfig, num_features: int) -> None:
    """
    Raises:
        UserError: a choice that was given makes no sense.
    """
    try:
        family = family_named(model.family) if model.get("family") else None
    except ValueError as error:
        raise UserError(str(error)) from error
    for name in ("slopes", "shapes"):
        if model.get(name) and model.get("constants") is False:
            raise UserError(f"model.{name}=true has constants, too; leave model.constants=false out")
    coordinates, angles = model.get("coordinates"), model.get("angles")
    if coordinates not in (None, 0, num_features):
        raise UserError(f"model.coordinates={coordinates} must be 0 or all {num_features} features")
    if angles is not None and len(angles) != num_features:
        raise UserError(f"model.angles has {len(angles)} values for {num_features} features")
    if family in VECTORS and coordinates == 0:
        raise UserError(f"model.family={model.family!r} is a law of coordinates; leave model.coordinates=0 out")


def _check_roles(config: DictConfig) -> None:
    """
    Raises:
        UserError: roles are given that do not fit the other settings. A search would say so after a cold start.
    """
    if not (config.get("search") or {}).get("roles"):
        return
    sizes = config.data.get("num_entities")
    try:
        search = hydra.utils.instantiate(config.search)
        search.check_roles(config.model.get("num_edge_modules"), [sizes] if isinstance(sizes, int) else sizes)
    except (ValueError, InstantiationException) as error:
        raise UserError(str(cause_of(error))) from error


def _check_smoothing(config: DictConfig) -> None:
    """
    Raises:
        UserError: angles would be averaged; see `TrajectoryDataModule.setup` for those that nobody named.
    """
    smoothing, angles = config.data.get("smoothing"), (config.get("model") or {}).get("angles") or ()
    if smoothing and any(angles):
        raise UserError(
            f"data.smoothing={smoothing} would average angles, model.angles={list(angles)}, across the jump of a turn; "
            "set data.smoothing=0"
        )


def _given(config: DictConfig) -> dict[str, Any]:
    """Choices of the configuration, for the cold start."""
    model, choices = config.model, dict[str, Any]()
    family = model.get("family")
    if "family" in model:
        choices |= {"slopes": False, "shapes": False}  # models hold no others
        choices["constants"] = model.constants if "constants" in model and _by_steps(config) else False
    if _of_laws(model):
        choices |= {name: model.get(name) for name in ("constants", "slopes", "shapes")}
        if choices["shapes"]:  # which have constants, too
            choices["constants"] = True
    if "smooth" in model:
        choices["smooth"] = model.smooth
    return choices | {"family": family_named(family) if family else None}


def _strengths(config: DictConfig) -> bool | None:
    """Whether strengths of edges may differ: where the model holds such, and scores steps by themselves."""
    model = config.model
    if "strengths" not in model or model.get("num_node_modules") != 1 or not _by_steps(config):
        return False
    chosen: bool | None = model.strengths
    return chosen


def _by_steps(config: DictConfig) -> bool:
    """Whether steps are scored by themselves, and not by what noise of observation makes of them."""
    return config.search.get("horizon") == 1 and not OmegaConf.select(config, "method.model.noise")


def _as_before(config: DictConfig) -> None:
    """Fills what is open from the checkpoint whose state the run begins from."""
    before = read_checkpoint(config.ckpt_path)["modmeta"]
    _fill_from(config, before["config"]["model"]["dynamics"], before["data"])


def as_recorded(config: DictConfig, stored: dict[str, Any]) -> DictConfig:
    """A configuration with what the cold start of its recorded run chose."""
    config, search = config.copy(), stored.get("search") or {}
    _fill_from(config, stored.get("model") or {}, stored.get("data") or {})
    config = _lasting(config, (stored.get("trainer") or {}).get("max_epochs"))
    for name in ("slow", "symmetric", "roles"):
        if name in (config.get("search") or {}) and config.search[name] is None:
            config.search[name] = search.get(name)
    return config


def _fill_from(config: DictConfig, dynamics: Any, data: Any) -> None:
    model = config.get("model") or {}  # baselines may have none
    for name in CHOSEN:
        if name in model and model[name] is None:
            model[name] = dynamics.get(name)
    if "smoothing" in config.data and config.data.smoothing is None:
        config.data.smoothing = data.get("smoothing", 0)


def kinds_of(model: DictConfig, positions: int, states: Tensor, seen: Tensor | None = None) -> list[Kind]:
    """What features may be, the likeliest first: two or three that nobody named may be coordinates.

    The cold start sees no more than the modules: features of a pair without directions get laws without.
    """
    d, features = states.shape[-1], hydra.utils.get_class(model.features._target_)
    angles = tuple(bool(angle) for angle in model.get("angles") or looks_like_angles(states.numpy()))
    coordinates = [model.get("coordinates")]
    if coordinates == [None]:
        coordinates = [positions or d, 0] if d in (2, 3) else [positions, 0] if positions else [0]
    if "family" in model and not _of_laws(model):
        return [Kind(positions, angles)]
    if model.get("family"):
        coordinates = [d if family_named(model.family) in VECTORS else 0]
    elif any(angles) or not (_of_laws(model) or getattr(features, "directions", False)):
        coordinates = [0]
    constant: tuple[bool, ...] = ()
    if _of_laws(model):  # velocities beside coordinates are plain states to it
        constant = tuple(model.get("constant") or never_changing(states, seen))
        coordinates = [p if p == d and not any(constant) else 0 for p in coordinates]
    kinds = [Kind(p, angles, constant) for p in dict.fromkeys(coordinates)]
    if not _of_laws(model) or model.get("circles") is not None:
        return [
            kind._replace(circles=tuple((first, other) for first, other in model.get("circles") or ()))
            for kind in kinds
        ]
    return [with_circles(kind, states, seen) for kind in kinds]


def _physical(data: TrajectoryDataModule, split: str = "train") -> Tensor:
    """States in the units of the data, double precision."""
    assert data.units is not None
    scale, offset = (torch.tensor(part).double() for part in (data.units.scale, data.units.offset))
    return data.splits[split].states.double() * scale + offset


def _of_size(tasks: TaskDataset, n: int) -> Tensor:
    """Tasks of n entities."""
    if tasks.counts is None:
        return torch.arange(len(tasks))
    return (tasks.counts == n).nonzero().squeeze(1)


def _seen(tasks: TaskDataset, ids: Tensor, n: int) -> Tensor | None:
    """Where entities were observed, (B, N, T): in frames that a step which counts begins or ends with."""
    if tasks.mask is None:
        return None
    mask = counted(tasks.mask[ids, :n])
    edge = torch.zeros_like(mask[..., :1])
    return torch.cat((mask, edge), -1) | torch.cat((edge, mask), -1)


def _sizes(tasks: TaskDataset) -> list[int]:
    """Numbers of entities, the most frequent first."""
    if tasks.counts is None:
        return [tasks.states.shape[1]]
    return [n for n, _ in Counter(tasks.counts.tolist()).most_common()]


def start_of(config: DictConfig, data: TrajectoryDataModule, states: Tensor) -> tuple[Start, Compared | None]:
    """Laws of training tasks, states (B, N, T, D) in the units of the data, as features are read best.

    And these laws judged by all tasks, where that was asked already.
    """
    tasks = data.splits["train"]
    n = _sizes(tasks)[0]
    ids, best, compared, number = _of_size(tasks, n), None, None, config.model.num_edge_modules
    seen, step = _seen(tasks, ids, n), data.meta["frame_step"]
    kinds, given = kinds_of(config.model, data.positions, states[ids, :n], seen), _given(config)
    given["strengths"] = _strengths(config)
    with doing("searching for laws") as say:
        if data.num_groups == 1 and may_be_maps(config.model):
            steep = steepness_of_maps(states[ids, :n], kinds[-1], seen)
            if steep is not None:
                kinds, given = [kinds[-1]._replace(coordinates=0)], given | {"smooth": False, "steep": steep}
        for kind in kinds:
            start = cold_start(
                states[ids, :n], kind, num_kinds=number, frame_step=step, seen=seen, groups=_groups(tasks, ids),
                seed=config.seed, announce=say, **given,
            )  # fmt: skip
            if best is None or _better(start, best):
                best, compared = start, None
            sure = SURE if data.num_groups is None or data.num_groups >= FEW else SURE_OF_FEW
            told = start.trials[0].gain > sure * start.trials[0].gain_error
            if not kind.second_order:  # velocities show that these are coordinates; a name alone does not
                continue
            if told or best.gains.mean() > ENOUGH:
                break
            judged = by_all(start, data)
            compared = judged if start is best else compared
            if decide(judged, tests=2).found:
                break
    assert best is not None
    return best, compared


def may_be_maps(model: DictConfig) -> bool:
    """Whether a model leaves open that steps are those of maps, of no relation and of one, and can hold such laws."""
    if not _of_laws(model) or model.smooth or model.slopes or model.shapes:
        return False
    return model.family in (None, MAPPED.name) and model.num_edge_modules in (None, 2)


def _better(other: Start, first: Start) -> bool:
    """Whether another, less likely reading leaves less unexplained of the same tasks, by a standard error at least."""
    more = first.unexplained - other.unexplained
    return bool(more.mean() > (more.std() / len(more) ** 0.5 if len(more) > 1 else 0.0))


def _structures(start: Start, tasks: TaskDataset, states: Tensor, groups: int | None) -> Tensor:
    """Structures of all tasks, or of all `groups` of the data, -1 in those that have no training tasks."""
    most, count = states.shape[1], groups or len(tasks)
    relations = torch.full((count, most, most - 1), -1, dtype=torch.int8)
    for n in _sizes(tasks):
        ids = _of_size(tasks, n)
        of = _groups(tasks, ids)
        if n == _sizes(tasks)[0]:  # that the start was made from
            found = start.answer.structures
        else:
            found = infer(start, states[ids, :n], _seen(tasks, ids, n), of).structures
        rows = ids if of is None else of.unique()
        relations[rows.view(-1, 1, 1), torch.arange(n).view(-1, 1), torch.arange(n - 1)] = found.to(torch.int8)
    return relations


def _groups(tasks: TaskDataset, ids: Tensor) -> Tensor | None:
    return None if tasks.groups is None else tasks.groups[ids]


def by_all(start: Start, data: TrajectoryDataModule) -> Compared | None:
    """Laws judged by every task of training and validation; None where there is no need, or no way.

    Of few groups whose laws gain clearly on held-out frames validation tasks tell enough. Laws have no say where
    structures are told from steps, and tasks must be complete and few enough in entities.
    """
    tasks, best = data.splits["train"], start.trials[0]
    some = [data.splits[name] for name in ("train", "valid")]
    if data.num_groups is None or data.num_groups >= FEW or start.slow or best.gain > CLEAR * best.gain_error:
        return None
    n = tasks.states.shape[1]
    apart = any(part.counts is not None or part.mask is not None for part in some)
    if apart or start.form.freedoms > start.form.constants or data.num_groups * n * (n - 1) ** 2 > MOST_PAIRS:
        return None
    states = torch.cat([_physical(data, name) for name in ("train", "valid")])
    groups = torch.cat([part.groups for part in some if part.groups is not None])
    return crossed(start, states, groups)


def _packed(start: Start, relations: Tensor, units: Units | None, compared: Compared | None) -> bytes:
    form, basis = start.form, start.form.basis
    assert units is not None
    step, offset, scale = (torch.tensor(part).double() for part in (form.units.step, units.offset, units.scale))
    rest = start.kinds.variance.sqrt()
    laws = FoundLaws(
        start.kinds.laws, start.kinds.own, step, rest, offset, scale, form.units.centre, form.units.scale,
        basis.places, basis.widths, basis.left, basis.right,
        torch.zeros(0, 0) if form.link is None else form.link, torch.tensor(form.units.lag),
        torch.zeros(0, 0) if form.shapes is None else form.shapes, start.spread,
    )  # fmt: skip
    parts: dict[str, Any] = {name: value.numpy() for name, value in laws._asdict().items()}
    out = io.BytesIO()
    numbers = [] if compared is None else [*compared.none, *compared.exchanged, *compared[2:]]
    np.savez(out, relations=relations.numpy(), temperature=np.asarray(start.temperature), compared=numbers, **parts)
    return out.getvalue()


def _fill(config: DictConfig, start: Start, labelled: bool, grouped: bool) -> None:
    form, model = start.form, config.model
    if config.search.get("slow") is None and start.slow is not None:
        config.search.slow = start.slow
    chosen: dict[str, Any] = {
        "num_edge_modules": len(start.kinds.laws),
        "family": form.basis.family.name,
        "coordinates": form.kind.coordinates,
        "angles": list(form.kind.angles),
        "constant": list(form.kind.constant),
        "smooth": form.smooth,
        "constants": form.constants,
        "slopes": form.slopes,
        "shapes": form.shapes is not None,
        "strengths": form.strengths,
        "circles": [list(pair) for pair in form.kind.circles],
    }
    if "smoothing" in config.data and config.data.smoothing is None:  # groups of tasks are told by states that laws saw
        config.data.smoothing = smoothing_of(form, config.search.get("slow")) if grouped else 0
    if model.num_edge_modules is None and not labelled and "num_relations" in config.data:
        config.data.num_relations = chosen["num_edge_modules"]
    for name, value in chosen.items():
        if name in model and OmegaConf.select(model, name) is None:
            model[name] = value


def smoothing_of(form: Form, slow: str | None) -> int:
    """Frames to either side over which noise may be averaged, as laws had it; 0 for maps, angles and slow motion."""
    return form.smoothing if form.smooth and slow is None and not any(form.kind.angles) else 0


def found_mutual(config: DictConfig, relations: Tensor, groups: int | None) -> bool:
    """Whether relations found are mutual, and the search can look for such: all rows of all receivers at once."""
    rows = config.model.num_edge_modules ** relations.shape[-1]
    every = config.search.receivers == "all" and config.search.horizon == 1 and rows <= config.search.enumerate_up_to
    found = reciprocity(relations) if every and groups is None and not config.method.get("soft", False) else None
    return found is not None and found >= MUTUAL


def found_roles(start: Start, data: TrajectoryDataModule) -> list[Any] | bool:
    """Probabilities (N, S, K) of modules on every edge where entities have roles; false where they have none.

    Structures of groups have all recordings of these, and tasks of many sizes no places that are the same. Many numbers
    are too long for a configuration.
    """
    chances = start.answer.probabilities
    if data.num_groups is not None or len(_sizes(data.splits["train"])) > 1 or chances[0].numel() > MOST_ROLES:
        return False
    found = roles(chances)
    return False if found is None else [[[float(f"{p:.4g}") for p in edge] for edge in row] for row in found.tolist()]


def name_of(form: Form) -> str:
    """A form of law in words."""
    return f"{form.basis.family.name}{form.own_in_words}, {'weak form' if form.smooth else 'frame to frame'}"


def _show(start: Start, seconds: float) -> None:
    table = Table(title=f"laws tried in {seconds:.0f} s: gain over no relations on held-out frames, nats per number")
    for heading in ("law", "gain", "± over tasks"):
        table.add_column(heading)
    best: dict[str, Trial] = {}
    for trial in start.trials:
        best.setdefault(name_of(trial.form), trial)
    for name, trial in best.items():
        table.add_row(name, f"{trial.gain:.3f}", f"{trial.gain_error:.3f}")
    console = Terminal()
    console.print(table)
    circles = [first for first, _ in start.form.kind.circles]
    turning = [str(at) for at, angle in enumerate(start.form.kind.angles) if angle and at not in circles]
    angles = f"; features that are angles: {', '.join(turning)}" if turning else ""
    for cosine, sine in start.form.kind.circles:
        angles += f"; features {cosine} and {sine} are an angle's cosine and sine, told as the angle"
    console.print(f"chosen: {name_of(start.form)}; {len(start.kinds.laws)} edge modules{angles}")


def otherwise(config: DictConfig, start: Start) -> str | None:
    """A command that trains on the same file with the next best law; none where no other was tried."""
    path = config.data.get("path")
    chosen, rivals = start.form, sorted(start.trials, key=lambda trial: trial.score)
    forms = [trial.form for trial in rivals if name_of(trial.form) != name_of(chosen)]
    if path is None or not _of_laws(config.model) or not forms:
        return None
    family = setting("model.family", forms[0].basis.family.name)
    choices = {"constants": forms[0].constants, "slopes": forms[0].slopes, "shapes": forms[0].shapes is not None}
    if forms[0].strengths != chosen.strengths:
        choices["strengths"] = forms[0].strengths
    own = [f"model.{name}={str(choice).lower()}" for name, choice in choices.items()]
    number = f"model.num_edge_modules={len(start.kinds.laws)}"
    return shlex.join(["modmeta", "train", str(path), "experiment=laws", family, *own, number])
