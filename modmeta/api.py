"""The Python interface: `modmeta.load`, `modmeta.fit`, `Model.infer`, `Model.forecast`."""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files as resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from modmeta.data.familiar import Known, check_familiar
from modmeta.data.loading.batches import TaskBatches, as_dataset
from modmeta.data.loading.for_model import Loaded, Options, load_for_model
from modmeta.data.trajectories import Trajectories
from modmeta.data.transforms.gaps import absent_last, filled, steps_that_count, with_absent
from modmeta.data.units import Units
from modmeta.errors import DataError, TaskError, UserError, numbered
from modmeta.evaluation.calibration import Calibration, to_relations
from modmeta.evaluation.forecasts import Forecast, ensemble
from modmeta.evaluation.posterior import OVERFLOWN, enumerable, exact, node_modules, sample, scorer, table
from modmeta.graph.bank import Structure
from modmeta.graph.relations import from_matrix, to_matrix
from modmeta.keys import MASK, RELATIONS, STATES, TYPES
from modmeta.search.infer import infer
from modmeta.training.bouncegrad import BounceGrad
from modmeta.training.checkpoints.loading import load_model, read_checkpoint

Advance = Callable[[int], object]
BATCH = 50  # tasks at a time
ENTITY_AXES = {"energies": 0} | dict.fromkeys(("evidence", "node_modules", "types", "mean", "low", "high"), 1)  # else 2
MOST_VALUES = 2 * 10**8  # of forecasts: of all tasks, and of all members of a batch


@dataclass(frozen=True)
class Relations:
    """Relations of B tasks of N entities, as matrices `[task, receiver, sender]`; the diagonal means nothing.

    Attributes:
        probabilities: of every relation, (B, N, N, R), calibrated on the model's validation tasks.
        relations: the most probable ones, (B, N, N) integers.
        energies: of the structures found, (B,), nats.
        evidence: of every entity, (B, N): nats by which its best row of incoming relations beats the second best.
        r_hat: split R-hat where relations were sampled, (B, N, N); None where they were weighed one by one.
        modules: probabilities of the model's edge modules, (B, N, N, K), that forecasts draw from.
        node_modules: likewise of its node modules, (B, N, G), given the most probable rows; None where it has but one.
        types: probabilities of every type of entity, (B, N, types), likewise.
    """

    probabilities: Any
    relations: Any
    energies: Any
    evidence: Any
    r_hat: Any | None
    modules: Any
    node_modules: Any | None = None
    types: Any | None = None


@dataclass(frozen=True)
class Forecasts:
    """Frames to come, each (B, N, steps, D) in the units of the data.

    Attributes:
        mean: of an ensemble.
        low, high: bounds that hold nine of ten of its members, were they normally distributed.
    """

    mean: Any
    low: Any
    high: Any


class Model:
    """A trained model: relations and forecasts of trajectories.

    Args:
        module: trained.
        data: what its checkpoint says of the data that it was trained on.
        calibration: temperatures of its posterior.
    """

    def __init__(self, module: BounceGrad, data: dict[str, Any], calibration: Calibration) -> None:
        self.module, self.data, self.calibration = module.eval(), data, calibration
        self.units = Units(tuple(data["units"]["offset"]), tuple(data["units"]["scale"]))
        types = None if module.module_to_type is None else len(module.measures.types.counts)
        self.known = Known.of(module.model.dynamics, data, types)

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the features, in the order that `infer` expects."""
        return tuple(self.data["features"])

    @property
    def num_relations(self) -> int:
        """R."""
        return int(self.module.module_to_relation.max()) + 1

    def read(self, file: Path | str, options: Options | None = None) -> Loaded:
        """Trajectories of a file as `infer` takes them: `model.infer(model.read(file).seen)`.

        Raises:
            DataError: see `load_for_model`.
        """
        return load_for_model(file, self.known, options)

    @torch.no_grad()
    def infer(self, states: Any, mask: Any = None, sampling: bool = False, advance: Advance | None = None) -> Relations:
        """Relations of tasks of any number of entities, from all of their frames; tasks of one size together.

        Args:
            states: (B, N, T, D), or (N, T, D) for one task, in the units of the data that the model was trained on; or
                trajectories of a file. NaN throughout for the last entities of tasks that have fewer.
            mask: (B, T - 1) bool, steps that count, or (B, N, T) bool, where each entity was observed; none for all.
            sampling: sample structures even where all can be weighed.
            advance: told the number of tasks that are finished.

        Returns:
            NumPy arrays, or tensors where states are one. Of entities that a task lacks they are NaN, relations -1.

        Raises:
            DataError: the states or the mask do not fit the model, are in other units or have another origin than those
                it knows, or its errors overflow there.
        """
        data, given, steps = self._given(states, mask)
        whole = _Whole(*given.shape[:2])
        for ids, n in _batches(data):
            generator = torch.Generator().manual_seed(self.module.seed)
            with numbered([data.task_name(int(task)) for task in ids]):
                of = None if steps is None else steps[ids]
                found = self._infer(given[ids, :n], of, sampling, generator)
            whole.put(ids, found)
            if advance is not None:
                advance(len(ids))
        return Relations(**whole.named(Relations, isinstance(states, Tensor)))

    def _infer(
        self, states: Tensor, mask: Tensor | None, sampling: bool, generator: torch.Generator
    ) -> dict[str, Tensor | None]:
        module, model = self.module, self.module.model
        k, n, t = model.dynamics.num_edge_modules, states.shape[1], states.shape[2]
        found = infer(module.search, model, module.proposal if self._fits(n, t) else None, states, generator, mask=mask)
        lost = (~found.energies.isfinite()).nonzero()
        if len(lost):
            raise TaskError(int(lost[0]), OVERFLOWN)
        frames = t if mask is None else int(mask.sum(1).median()) + 1
        structure, r_hat, nodes, types = found.structure, None, None, None
        heat = self.calibration.at(frames)
        if module.search.horizon > 1:
            probabilities = found.probabilities
        else:
            if enumerable(n, k, module.search.enumerate_up_to) and not sampling:
                probabilities = exact(table(scorer(model, states, structure, mask), structure, k), structure, k, heat)
            else:
                chains = sample(model, states, structure, heat, generator, mask)
                probabilities, r_hat = chains.probabilities, to_matrix(chains.r_hat)
        modules = torch.stack([to_matrix(probabilities[..., i]) for i in range(k)], dim=-1)
        chances = to_relations(modules, module.module_to_relation)
        if (g := model.dynamics.num_node_modules) > 1:
            certain = one_hot(structure.types, g).to(states.dtype)
            nodes = certain if module.search.horizon > 1 else node_modules(model, states, structure, heat, mask)
            matched = module.module_to_type
            types = nodes if matched is None else to_relations(nodes, matched)
        gap = torch.full((len(states), n), torch.nan) if found.gap is None else found.gap
        return {
            "probabilities": chances, "relations": chances.argmax(-1), "energies": found.energies, "evidence": gap,
            "r_hat": r_hat, "modules": modules, "node_modules": nodes, "types": types,
        }  # fmt: skip

    def _fits(self, entities: int, frames: int) -> bool:
        """Whether the proposal network, which knows one number of frames, can help."""
        return frames == self.module.observed_frames and self.module.search.needs_proposal(self.module.model, entities)

    def forecast(
        self, states: Any, relations: Relations, steps: int, members: int = 12, advance: Advance | None = None
    ) -> Forecasts:
        """The frames after the last one, by an ensemble.

        Args:
            states: as `infer` takes them; the last frame is gone on from.
            relations: of the same tasks.
            steps: frames.
            members: rollouts, each with relations drawn from their probabilities and errors drawn from the likelihood.
            advance: told the number of tasks that are finished.

        Raises:
            DataError: the states do not fit the model or the relations, there are too few steps or members or too many
                for the memory, or a forecast grows beyond all bounds.
        """
        data, given, _ = self._given(states, None)
        last = given[:, :, -1]
        _check_size(last, steps, members)
        dynamics, whole = self.module.model.dynamics, _Whole(*last.shape[:2])
        k, g = dynamics.num_edge_modules, dynamics.num_node_modules
        chances, types = torch.as_tensor(relations.modules), relations.node_modules
        _check_shape(chances, (*last.shape[:2], last.shape[1], k), "modules")
        if types is not None:
            types = torch.as_tensor(types)
            _check_shape(types, (*last.shape[:2], g), "node_modules")
        for ids, n in _batches(data):
            generator = torch.Generator().manual_seed(self.module.seed)
            with numbered([data.task_name(int(task)) for task in ids]):
                matrices = _chances(chances[ids, :n, :n], "modules")
                rows = torch.stack([from_matrix(matrices[..., i]) for i in range(k)], dim=-1)
                nodes = None if types is None else _chances(types[ids, :n], "node_modules")
                bands, seen = self.calibration.bands, given[ids, :n]
                ahead = ensemble(self.module.model, seen, rows, steps, generator, members, nodes, bands)
                parts = {name: self._physical(part) for name, part in _bounded(ahead)._asdict().items()}
            whole.put(ids, parts)
            if advance is not None:
                advance(len(ids))
        return Forecasts(**whole.named(Forecasts, isinstance(states, Tensor)))

    @torch.no_grad()
    def evaluate(self, data: Trajectories, advance: Advance | None = None) -> dict[str, float]:
        """The protocol's measures: structures from the first `observed_frames`, forecasts of those after them.

        Labels are matched as on the model's validation tasks, errors are in its protocol units.

        Args:
            data: of a file, see `read`; without relations only forecasts are scored.
            advance: told the number of tasks that are finished.

        Raises:
            DataError: the model's errors overflow on a task.
        """
        module, dataset = self.module, as_dataset(data, self.units)
        module.measures.reset()
        for ids in TaskBatches(len(dataset), BATCH, None, None, counts=dataset.counts):
            batch = dataset[ids]
            inferred = module.infer(batch[STATES], mask=batch.get(MASK))
            lost = (~inferred.energies.isfinite()).nonzero()
            if len(lost):
                raise TaskError(data.task_name(ids[int(lost[0])]), OVERFLOWN)
            module.measures.update(
                module.model, inferred, batch[STATES], batch.get(RELATIONS), module.module_to_relation,
                types=batch.get(TYPES), module_to_type=module.module_to_type,
            )  # fmt: skip
            if advance is not None:
                advance(len(ids))
        return {f"test/{key}": float(value) for key, value in module.measures.compute().items()}

    def trace(self, states: Any, relations: Relations) -> tuple[np.ndarray, np.ndarray]:
        """Energies (sweeps, chains, B) and temperatures (sweeps,) of chains that search for relations from nothing.

        Args:
            states: as `infer` takes them, tasks of one size.
            relations: of the same tasks.
        """
        _, given, _ = self._given(states, None)
        b, n = given.shape[:2]
        chances = torch.as_tensor(relations.modules)
        _check_shape(chances, (b, n, n, self.module.model.dynamics.num_edge_modules), "modules")
        modules = _chances(chances, "modules").argmax(-1)
        nodes = relations.node_modules
        types = modules.new_zeros(given.shape[:2]) if nodes is None else torch.as_tensor(nodes).argmax(-1)
        structure = Structure(from_matrix(modules), types)
        generator = torch.Generator().manual_seed(self.module.seed)
        heat = self.calibration.at(given.shape[2])
        chains = sample(self.module.model, given, structure, heat, generator, sweeps=60, cooling=60)
        return chains.energies.numpy(), chains.temperatures.numpy()

    def _given(self, states: Any, mask: Any) -> tuple[Trajectories, Tensor, Tensor | None]:
        """What a caller gives, checked: trajectories, normalised states (B, N, T, D), steps that count or none."""
        data, steps = states, None
        if not isinstance(states, Trajectories):
            data, steps = _as_trajectories(states, mask, self.features, self.data["frame_step"])
        elif mask is not None:
            raise DataError("mask: trajectories have one of their own; leave it out")
        _check_states(data.states.shape, self.features)
        check_familiar(data, self.known, "states")
        given = self.units.normalised(data.states)
        lost = np.argwhere(~np.isfinite(given.numpy()))
        if len(lost):
            task, entity, frame, feature = lost[0].tolist()
            value = data.states[task, entity, frame, feature]
            raise DataError(
                f"states: task {task}, entity {entity}, frame {frame}, {self.features[feature]} is {value:.3g}, too "
                "large for the model; check that value"
            )
        if steps is None and (counting := steps_that_count(data)) is not None:
            steps = torch.from_numpy(counting)
        return data, given, steps

    def _physical(self, states: Tensor) -> Tensor:
        return states * torch.tensor(self.units.scale) + torch.tensor(self.units.offset)


class _Whole:
    """Results of B tasks of up to N entities, put together from those of batches: NaN, or -1, where entities lack."""

    def __init__(self, tasks: int, entities: int) -> None:
        self.tasks, self.entities = tasks, entities
        self.parts: dict[str, Tensor] = {}

    def put(self, ids: np.ndarray, found: Mapping[str, Tensor | None]) -> None:
        """Enters the results of tasks."""
        for name, part in found.items():
            if part is None:
                continue
            axes = ENTITY_AXES.get(name, 2)
            if name not in self.parts:
                shape = (self.tasks, *[self.entities] * axes, *part.shape[1 + axes :])
                nothing = torch.nan if part.is_floating_point() else -1
                self.parts[name] = torch.full(shape, nothing, dtype=part.dtype)
            place: tuple[Any, ...] = (ids, *[slice(0, size) for size in part.shape[1 : 1 + axes]])
            self.parts[name].numpy()[place] = part.numpy()

    def named(self, kind: type, tensors: bool) -> dict[str, Any]:
        """Fields of a dataclass, NumPy arrays or tensors; none where no task has any."""
        parts = {name: self.parts.get(name) for name in kind.__dataclass_fields__}  # type: ignore[attr-defined]
        return {name: part if part is None or tensors else part.numpy() for name, part in parts.items()}


def _batches(data: Trajectories) -> Iterator[tuple[np.ndarray, int]]:
    """Tasks of as many entities, up to `BATCH` at a time, and that number."""
    counts = np.full(data.num_tasks, data.num_entities) if data.counts is None else data.counts
    for count in np.unique(counts):
        tasks = np.flatnonzero(counts == count)
        for i in range(0, len(tasks), BATCH):
            yield tasks[i : i + BATCH], int(count)


def _check_states(shape: tuple[int, ...], features: tuple[str, ...]) -> None:
    if len(shape) != 4 or shape[0] < 1 or shape[1] < 2 or shape[2] < 3 or shape[3] != len(features):
        raise DataError(
            f"states have shape {shape}; this model takes (tasks, entities, frames, features), at least 2 "
            f"entities and 3 frames, with {len(features)} features: {', '.join(features)}"
        )


def _as_trajectories(
    states: Any, mask: Any, features: tuple[str, ...], frame_step: float
) -> tuple[Trajectories, Tensor | None]:
    """Arrays of a caller as trajectories of which each task's entities come first, and the steps that count."""
    array = _numbers(states)
    array = array[None] if array.ndim == 3 else array
    _check_states(array.shape, features)
    given = None if mask is None else _mask(mask, array.shape[:3])
    seen = given if given is not None and given.ndim == 3 else None
    data = with_absent(Trajectories(array, None, features, frame_step, mask=seen))
    if seen is not None and data.mask is not None:
        data = replace(data, states=filled(data.states, data.mask))
    if not np.isfinite(data.states).all():
        task, entity, frame, feature = np.argwhere(~np.isfinite(data.states))[0].tolist()
        raise DataError(f"states: task {task}, entity {entity}, frame {frame}, feature {feature} is not finite")
    there = np.ones(array.shape[:2], bool) if data.mask is None else np.asarray(data.mask.any(axis=2))
    if (there.sum(axis=1) < 2).any() or (there[:, 1:] & ~there[:, :-1]).any():
        raise DataError("states: every task has 2 entities or more, and those that it lacks come last")
    return data, None if given is None or given.ndim == 3 else torch.from_numpy(given)


def _numbers(states: Any) -> np.ndarray:
    """States as float64, of anything that holds real numbers."""
    if isinstance(states, Tensor):
        if states.is_complex() or states.dtype == torch.bool:
            raise DataError(f"states are {states.dtype}; give real numbers")
        return np.asarray(states.detach().to("cpu", torch.float64).numpy())
    try:
        array = np.asarray(states)
    except (ValueError, TypeError, OverflowError) as error:
        raise DataError("states are not an array: (tasks, entities, frames, features), all tasks alike") from error
    if array.dtype.kind not in "iuf":
        raise DataError(f"states are {array.dtype}; give real numbers, such as states.astype(float)")
    return array.astype(np.float64)


def _mask(mask: Any, shape: tuple[int, ...]) -> np.ndarray:
    """The steps that count, (B, T - 1), or where entities were seen, (B, N, T), of states (B, N, T)."""
    try:
        steps = np.asarray(mask.detach().cpu() if isinstance(mask, Tensor) else mask)
    except (ValueError, TypeError) as error:
        raise DataError("mask is not an array of booleans") from error
    expected = (shape[0], shape[2] - 1)
    if steps.dtype != bool or steps.shape not in (expected, shape):
        raise DataError(
            f"mask is {steps.dtype} of shape {steps.shape}; give booleans of shape {expected}, (tasks, frames - 1): "
            f"which steps from a frame to the next count, those with all entities seen in both; or {shape}, (tasks, "
            "entities, frames): where each entity was seen"
        )
    return steps


def _check_shape(chances: Tensor, shape: tuple[int, ...], name: str) -> None:
    if tuple(chances.shape) != shape or not chances.is_floating_point():
        raise DataError(
            f"relations.{name} has shape {tuple(chances.shape)}, but these states and this model need {shape}; give "
            "the relations that `infer` found for the same tasks and entities"
        )


def _chances(chances: Tensor, name: str) -> Tensor:
    """Probabilities of tasks that a caller gives."""
    wrong = ~(chances.isfinite() & (chances >= 0)) | (chances.sum(-1, keepdim=True) <= 0)
    if name == "modules":  # the diagonal means nothing
        wrong = wrong & ~torch.eye(chances.shape[1], dtype=torch.bool)[:, :, None]
    if wrong.any():
        raise TaskError(int(wrong.nonzero()[0, 0]), f"its relations.{name} are not probabilities")
    return chances.float()


def _check_size(last: Tensor, steps: int, members: int) -> None:
    """Refuses forecasts (B, N, steps, D) that cannot be, before memory is asked for."""
    for name, value, least in (("steps", steps, 1), ("members", members, 2)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise DataError(f"{name}={value!r}: give a whole number of {least} or more")
    b, n, d = last.shape
    most = MOST_VALUES // (n * d * max(b, min(b, BATCH) * int(members)))
    if steps > most:
        raise DataError(
            f"steps={steps} of {b} tasks with {members} members are more than memory is meant to hold; ask for up to "
            f"{most} steps" + ("" if most else ", of fewer tasks or members")
        )


def _bounded(ahead: Forecast) -> Forecast:
    """A forecast itself, where all of it is finite."""
    lost = ~torch.stack(ahead).isfinite().all(0).all(-1).all(1)  # (B, steps)
    if lost.any():
        task, step = lost.nonzero()[0].tolist()
        advice = f"forecast at most {step} steps" if step else "check units and origin of the states"
        raise TaskError(
            task, f"its forecast grows beyond all bounds at step {step + 1}; {advice}, or leave the task out"
        )
    return ahead


def models() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(
        Path(str(item)).stem for item in resources("modmeta.pretrained").iterdir() if item.name.endswith(".ckpt")
    )


def path_of(model: str | Path) -> Path:
    """Of a run directory, a checkpoint, or a model that comes with the package, by its name.

    Raises:
        UserError: there is none.
    """
    path = Path(model)
    if path.exists():
        return path
    if str(model) in models():
        return Path(str(resources("modmeta.pretrained") / f"{model}.ckpt"))
    raise UserError(
        f"{model} does not exist; name a run directory, a checkpoint, or one of the models that come along: "
        f"{', '.join(models())}"
    )


def load(model: str | Path) -> Model:
    """A trained model.

    Args:
        model: run directory, checkpoint, or the name of a model that comes with the package.

    Raises:
        UserError: there is none, or it cannot be trusted.
    """
    path = path_of(model)
    module, data = load_model(path)
    saved = read_checkpoint(path)["modmeta"].get("calibration")
    calibration = Calibration.from_state(saved) if saved else Calibration()
    return Model(module, data, calibration)


def fit(
    states: Any,
    relations: Any = None,
    features: Sequence[str] | None = None,
    frame_step: float = 1.0,
    modules: int = 2,
    seed: int = 0,
    overrides: Sequence[str] = (),
) -> Model:
    """Trains a model, as `modmeta train FILE` does.

    Args:
        states: (B, N, T, D): coordinates, then their velocities, then other features; NaN throughout for the last
            entities of tasks that have fewer.
        relations: true ones, (B, N, N) integers, which give measures and names to modules; none if unknown.
        features: names; none for x, y, vx, vy where there are four.
        frame_step: time units between two frames.
        modules: kinds of relation to look for.
        seed: of everything random.
        overrides: further settings of the configuration, such as `trainer.max_epochs=20`.

    Raises:
        UserError: data or settings make no sense.
    """
    from modmeta.data import formats
    from modmeta.training.run import fit_file

    array = np.asarray(states.detach().cpu() if isinstance(states, Tensor) else states, dtype=np.float64)
    if array.ndim != 4:
        raise DataError(f"states have shape {array.shape}; give them as (tasks, entities, frames, features)")
    labels = None if relations is None else np.asarray(relations).astype(np.int64)
    d = array.shape[-1]
    names = (
        tuple(features) if features else ("x", "y", "vx", "vy") if d == 4 else tuple(f"feature{i}" for i in range(d))
    )
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "states.npz"
        formats.save(path, {"all": absent_last(with_absent(Trajectories(array, labels, names, frame_step)))})
        settings = [f"model.num_edge_modules={modules}", f"seed={seed}", *overrides]
        return load(fit_file(path, Path(directory) / "run", settings))
