"""The Python interface: `modmeta.load`, `modmeta.fit`, `Model.infer`, `Model.forecast`."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files as resources
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from modmeta.checkpoints.loading import load_model, read_checkpoint
from modmeta.data.familiar import Known, check_familiar
from modmeta.data.scaling import Units
from modmeta.data.trajectories import Trajectories
from modmeta.errors import DataError, TaskError, UserError, numbered
from modmeta.evaluation.calibration import Calibration, to_relations
from modmeta.evaluation.forecasts import Forecast, ensemble
from modmeta.evaluation.posterior import OVERFLOWN, enumerable, exact, node_modules, sample, scorer, table
from modmeta.memory import keep_freed
from modmeta.search.infer import infer
from modmeta.structure.bank import Structure
from modmeta.structure.relations import from_matrix, to_matrix
from modmeta.training.bouncegrad import BounceGrad

Array = TypeVar("Array", np.ndarray, Tensor)
BATCH = 50  # tasks at a time
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
        self.known = Known.of(self.module.model.dynamics, data)

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the features, in the order that `infer` expects."""
        return tuple(self.data["features"])

    @property
    def num_relations(self) -> int:
        """R."""
        return int(self.module.module_to_relation.max()) + 1

    @torch.no_grad()
    def infer(self, states: Array, mask: Any = None, sampling: bool = False) -> Relations:
        """Relations of tasks of any number of entities, from all of their frames.

        Args:
            states: (B, N, T, D), or (N, T, D) for one task, in the units of the data that the model was trained on.
            mask: (B, T - 1) bool, steps that count; none for all.
            sampling: sample structures even where all can be weighed.

        Returns:
            NumPy arrays where states are one, else tensors.

        Raises:
            DataError: the states or the mask do not fit the model, are in other units or have another origin than those
                it knows, or its errors overflow there.
        """
        given = self._normalised(states)
        steps = None if mask is None else _mask(mask, given)
        generator, parts = torch.Generator().manual_seed(self.module.seed), []
        for i in range(0, len(given), BATCH):
            with numbered(range(i, i + BATCH)):
                of = None if steps is None else steps[i : i + BATCH]
                parts.append(self._infer(given[i : i + BATCH], of, sampling, generator))
        whole = [None if column[0] is None else torch.cat(column) for column in zip(*parts, strict=True)]
        return Relations(*[value if value is None or isinstance(states, Tensor) else value.numpy() for value in whole])

    def _infer(
        self, states: Tensor, mask: Tensor | None, sampling: bool, generator: torch.Generator
    ) -> tuple[Tensor | None, ...]:
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
        return chances, chances.argmax(-1), found.energies, gap, r_hat, modules, nodes, types

    def _fits(self, entities: int, frames: int) -> bool:
        """Whether the proposal network, which knows one number of frames, can help."""
        return frames == self.module.observed_frames and self.module.search.needs_proposal(self.module.model, entities)

    def forecast(self, states: Array, relations: Relations, steps: int, members: int = 12) -> Forecasts:
        """The frames after the last one, by an ensemble.

        Args:
            states: (B, N, T, D), or (N, T, D); the last frame is gone on from.
            relations: of the same tasks.
            steps: frames.
            members: rollouts, each with relations drawn from their probabilities and errors drawn from the likelihood.

        Raises:
            DataError: the states do not fit the model or the relations, there are too few steps or members or too many
                for the memory, or a forecast grows beyond all bounds.
        """
        last = self._normalised(states)[:, :, -1]
        _check_size(last, steps, members)
        b, n = last.shape[:2]
        k, g = self.module.model.dynamics.num_edge_modules, self.module.model.dynamics.num_node_modules
        matrices = _chances(relations.modules, (b, n, n, k), "modules")
        rows = torch.stack([from_matrix(matrices[..., i]) for i in range(k)], dim=-1)
        nodes = None if relations.node_modules is None else _chances(relations.node_modules, (b, n, g), "node_modules")
        generator, parts = torch.Generator().manual_seed(self.module.seed), []
        for i in range(0, b, BATCH):
            part, of = slice(i, i + BATCH), None if nodes is None else nodes[i : i + BATCH]
            with numbered(range(i, i + BATCH)):
                ahead = ensemble(
                    self.module.model, last[part], rows[part], steps, generator, members, of, self.calibration.bands
                )
                parts.append(_bounded(ahead))
        whole = [self._physical(torch.cat(column)) for column in zip(*parts, strict=True)]
        return Forecasts(*[value if isinstance(states, Tensor) else value.numpy() for value in whole])

    def trace(self, states: Array, relations: Relations) -> tuple[np.ndarray, np.ndarray]:
        """Energies (sweeps, chains, B) and temperatures (sweeps,) of chains that search for relations from nothing."""
        given = self._normalised(states)
        b, n = given.shape[:2]
        shape = (b, n, n, self.module.model.dynamics.num_edge_modules)
        modules = _chances(relations.modules, shape, "modules").argmax(-1)
        nodes = relations.node_modules
        types = modules.new_zeros(given.shape[:2]) if nodes is None else torch.as_tensor(nodes).argmax(-1)
        structure = Structure(from_matrix(modules), types)
        generator = torch.Generator().manual_seed(self.module.seed)
        heat = self.calibration.at(given.shape[2])
        chains = sample(self.module.model, given, structure, heat, generator, sweeps=60, cooling=60)
        return chains.energies.numpy(), chains.temperatures.numpy()

    def _normalised(self, states: Any) -> Tensor:
        array = _numbers(states)
        array = array[None] if array.ndim == 3 else array
        expected = int(self.data["num_features"])
        if array.ndim != 4 or len(array) < 1 or array.shape[1] < 2 or array.shape[2] < 3 or array.shape[3] != expected:
            raise DataError(
                f"states have shape {array.shape}; this model takes (tasks, entities, frames, features), at least 2 "
                f"entities and 3 frames, with {expected} features: {', '.join(self.features)}"
            )
        if not np.isfinite(array).all():
            task, entity, frame, feature = np.argwhere(~np.isfinite(array))[0].tolist()
            raise DataError(f"states: task {task}, entity {entity}, frame {frame}, feature {feature} is not finite")
        check_familiar(Trajectories(array, None, self.features, self.data["frame_step"]), self.known, "states")
        given = self.units.normalised(array)
        lost = np.argwhere(~np.isfinite(given.numpy()))
        if len(lost):
            task, entity, frame, feature = lost[0].tolist()
            value = array[task, entity, frame, feature]
            raise DataError(
                f"states: task {task}, entity {entity}, frame {frame}, {self.features[feature]} is {value:.3g}, too "
                "large for the model; check that value"
            )
        return given

    def _physical(self, states: Tensor) -> Tensor:
        return states * torch.tensor(self.units.scale) + torch.tensor(self.units.offset)


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


def _mask(mask: Any, states: Tensor) -> Tensor:
    """The steps that count, (B, T - 1), of states (B, N, T, D)."""
    try:
        steps = torch.as_tensor(mask.detach().cpu() if isinstance(mask, Tensor) else np.asarray(mask))
    except (ValueError, TypeError) as error:
        raise DataError("mask is not an array of booleans") from error
    expected = (len(states), states.shape[2] - 1)
    if steps.dtype != torch.bool or tuple(steps.shape) != expected:
        raise DataError(
            f"mask is {steps.dtype} of shape {tuple(steps.shape)}; give booleans of shape {expected}, (tasks, frames - "
            "1): which steps from a frame to the next count, those with all entities seen in both"
        )
    return steps


def _chances(values: Any, shape: tuple[int, ...], name: str) -> Tensor:
    """Probabilities of relations that a caller gives, of the shape that the states ask for."""
    chances = torch.as_tensor(values)
    if tuple(chances.shape) != shape or not chances.is_floating_point():
        raise DataError(
            f"relations.{name} has shape {tuple(chances.shape)}, but these states and this model need {shape}; give "
            "the relations that `infer` found for the same tasks and entities"
        )
    wrong = ~(chances.isfinite() & (chances >= 0)) | (chances.sum(-1, keepdim=True) <= 0)
    if name == "modules":  # the diagonal means nothing
        wrong = wrong & ~torch.eye(shape[1], dtype=torch.bool)[:, :, None]
    if wrong.any():
        raise DataError(f"relations.{name}: those of task {int(wrong.nonzero()[0, 0])} are not probabilities")
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
    keep_freed()
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
    from modmeta.data import files
    from modmeta.data.gaps import absent_last, with_absent
    from modmeta.data.trajectories import Trajectories
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
        files.save(path, {"all": absent_last(with_absent(Trajectories(array, labels, names, frame_step)))})
        settings = [f"model.num_edge_modules={modules}", f"seed={seed}", *overrides]
        return load(fit_file(path, Path(directory) / "run", settings))
