"""The Python interface: `modmeta.load`, `modmeta.fit`, `Model.infer`, `Model.forecast`."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from importlib.resources import files as resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from modmeta.answers import Forecasts, Relations, Whole, apart_pairs, claimed
from modmeta.data.describe import Known
from modmeta.data.formats.python import from_named, is_named
from modmeta.data.formats.relations import with_graph, with_matrix
from modmeta.data.loading.batches import TaskBatches, TaskDataset, as_dataset, by_size
from modmeta.data.loading.for_model import Loaded, Options, arrays_for_model, load_for_model, prepared
from modmeta.data.trajectories import Trajectories
from modmeta.data.transforms.gaps import absent_last, with_absent
from modmeta.data.units import Units
from modmeta.errors import DataError, TaskError, UserError, renumbered
from modmeta.evaluation.calibration import Calibration, to_relations
from modmeta.evaluation.forecasts import bounded, check_size, ensemble
from modmeta.evaluation.posterior import OVERFLOWN, node_modules, of_edges
from modmeta.evaluation.verdict import Judged, as_searched, quality
from modmeta.graph.bank import Structure
from modmeta.graph.relations import from_matrix, to_matrix
from modmeta.keys import MASK, RELATIONS, STATES, TYPES
from modmeta.model.sight import counted
from modmeta.search.infer import Inferred, infer
from modmeta.search.pooled import PooledProblem, in_batches, infer_pooled
from modmeta.training.checkpoints.loading import composed, model_of, read_checkpoint
from modmeta.training.judge import judge_file, of_roles, recalibrated
from modmeta.training.trained import Trained

if TYPE_CHECKING:
    from modmeta.training.processes import Processes  # imports Lightning, which takes seconds

Advance = Callable[[int], object]
Part = TypeVar("Part")
BATCH = 50  # tasks that are inferred together
ROLLED, PAIRS = 250, 5000  # tasks that are forecast together, if they have no more pairs: many small steps cost calls


class Model:
    """A trained model, which infers relations and forecasts trajectories.

    Args:
        module: trained module.
        data: description of the training data in its checkpoint.
        calibration: temperatures of its posterior.
        judged: verdict on its validation tasks, and how well it explains them.
    """

    def __init__(
        self, module: Trained, data: dict[str, Any], calibration: Calibration, judged: Judged | None = None
    ) -> None:
        self.module, self.data, self.calibration = module.eval(), data, calibration
        self.judged = judged or Judged()
        self.units = Units(tuple(data["units"]["offset"]), tuple(data["units"]["scale"]))
        types = None if module.module_to_type is None else module.num_types
        self.known = Known.of(module.model.dynamics, data, types)

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the features, in the order that `infer` expects."""
        return tuple(self.data["features"])

    @property
    def num_relations(self) -> int:
        """Number of relations R."""
        return int(self.module.module_to_relation.max()) + 1

    def read(self, file: Path | str, options: Options | None = None) -> Loaded:
        """Reads trajectories of a file for `infer`: `model.infer(model.read(file).seen)`.

        Raises:
            DataError: see `load_for_model`.
        """
        return load_for_model(file, self.known, options)

    @torch.no_grad()
    def infer(
        self, states: Any, mask: Any = None, sampling: bool = False, advance: Advance | None = None, groups: Any = None,
        nulls: bool | None = None, processes: "Processes | None" = None,
    ) -> Relations:  # fmt: skip
        """Infers relations of tasks from all of their frames; tasks may have different numbers of entities.

        Args:
            states: (B, N, T, D), or (N, T, D) for one task, in the units of the data that the model was trained on; or
                trajectories of a file; or a pandas or polars data frame with the columns of such a file; or an xarray
                `DataArray` with axes such as task, entity, time, feature. NaN throughout for the last entities of
                tasks that have fewer, and for entities in frames that do not show them.
            mask: (B, T - 1) bool, steps that count, or (B, N, T) bool, where each entity was observed; None for
                all that are not NaN.
            sampling: sample structures even if all could be enumerated.
            advance: called with the number of tasks that are finished.
            groups: name of the group of every task, (B,), integers or strings: its tasks share their relations. None
                for those of trajectories, or where every task has its own.
            nulls: compare with no relations and with partners exchanged, for the verdict: all tasks; None: some, where
                they are enough and have no groups; False: none.
            processes: which share the work, each with the same arguments; None for this one alone.

        Returns:
            NumPy arrays, or tensors if states are a tensor. Entities that a task lacks have NaN, or -1 as relations.

        Raises:
            DataError: the states or the mask do not fit the model, have other units or another origin than its training
                data, or errors overflow.
        """
        data, given, steps = self._given(states, mask)
        data = _grouped(data, groups)
        tensors, index = isinstance(states, Tensor), None
        counts = None if data.counts is None else torch.from_numpy(data.counts)
        if (roles := self._roles(data, given, steps, counts)) is False:
            free = self._without_roles().infer(states, mask, sampling, advance, groups, nulls, processes)
            return replace(free, roles=False)
        if data.group_names is not None:
            index = torch.from_numpy(data.group_index())
            found = self._infer_groups(data, given, steps, tensors, advance, processes)
        else:
            found = self._infer_tasks(data, given, steps, sampling, self.calibration, advance, tensors, processes)
        misfits = 0.0 if found.misfit is None else float(np.mean(np.asarray(found.misfit)))
        verdict = judge_file(self.module, self.judged, given, steps, index, counts, misfits, nulls)
        other = misfits > 0.5 or self.judged.few  # errors are not those of validation tasks, or these told too little
        if verdict.found and other and index is None:
            again = recalibrated(self.module, self.judged, self.calibration, given, steps, counts)
            found = self._infer_tasks(data, given, steps, sampling, again, None, tensors, processes)
        apart = None if steps is None else apart_pairs(steps, index, tensors)
        return claimed(replace(found, verdict=verdict, apart=apart, roles=roles), self.judged.prior)

    def _roles(self, data: Trajectories, states: Tensor, steps: Tensor | None, counts: Tensor | None) -> bool | None:
        """See `of_roles`; None where tasks have groups, whose recordings tell enough."""
        if data.group_names is not None:
            return None
        with renumbered([data.task_name(task) for task in range(data.num_tasks)]):
            return of_roles(self.module, self.calibration, states, steps, counts)

    def _without_roles(self) -> "Model":
        return Model(self.module.without_roles(), self.data, self.calibration, self.judged)

    def _infer_tasks(
        self, data: Trajectories, given: Tensor, steps: Tensor | None, sampling: bool, calibration: Calibration,
        advance: Advance | None, tensors: bool, processes: "Processes | None",
    ) -> Relations:  # fmt: skip
        """Relations of tasks, each with a structure of its own."""

        def found(ids: np.ndarray, n: int) -> dict[str, Tensor | None]:
            generator = torch.Generator().manual_seed(self.module.seed)
            with renumbered([data.task_name(int(task)) for task in ids]):
                of = None if steps is None else steps[ids, :n]
                return self._infer(given[ids, :n], of, sampling, generator, calibration)

        whole = Whole(*given.shape[:2])
        for ids, part in _each(found, _batches(data), advance, processes):
            whole.put(ids, part)
        return Relations(**whole.fields(Relations, tensors))

    def _infer(
        self, states: Tensor, mask: Tensor | None, sampling: bool, generator: torch.Generator, calibration: Calibration
    ) -> dict[str, Tensor | None]:
        module, model = self.module, self.module.model
        k, n, t = model.dynamics.num_edge_modules, states.shape[1], states.shape[2]
        found = infer(module.search, model, module.proposal if self._fits(n, t) else None, states, generator, mask=mask)
        lost = (~found.energies.isfinite()).nonzero()
        if len(lost):
            raise TaskError(int(lost[0]), OVERFLOWN)
        frames = t if mask is None else int(counted(mask).sum(-1).median()) + 1
        structure, r_hat, nodes, types = found.structure, None, None, None
        temperature = calibration.at(frames)
        probabilities = found.probabilities
        if module.search.horizon == 1:
            probabilities, r_hat = of_edges(
                module.search, model, states, structure, temperature, generator, mask, sampling, found.messages
            )
        modules = torch.stack([to_matrix(probabilities[..., i]) for i in range(k)], dim=-1)
        chances = to_relations(modules, module.module_to_relation)
        if (g := model.dynamics.num_node_modules) > 1:
            certain = one_hot(structure.node_modules, g).to(states.dtype)
            nodes = certain if module.search.horizon > 1 else node_modules(model, states, structure, temperature, mask)
            matched = module.module_to_type
            types = nodes if matched is None else to_relations(nodes, matched)
        gap = torch.full((len(states), n), torch.nan) if found.gap is None else found.gap
        return {
            "probabilities": chances, "relations": chances.argmax(-1), "energies": found.energies, "evidence": gap,
            "r_hat": None if r_hat is None else to_matrix(r_hat), "modules": modules, "node_modules": nodes,
            "types": types, "misfit": self._misfit(states, found, mask, frames),
        }  # fmt: skip

    def _misfit(self, states: Tensor, found: Inferred, mask: Tensor | None, frames: int) -> Tensor | None:
        """Whether the model does not fit tasks, (B,), if it is known how well it fits those of validation."""
        home = self.judged.home
        if home is None:
            return None
        return home.misfit(*as_searched(self.module.model, states, found, home, mask), frames)

    def _infer_groups(
        self, data: Trajectories, states: Tensor, mask: Tensor | None, tensors: bool, advance: Advance | None,
        processes: "Processes | None",
    ) -> Relations:  # fmt: skip
        """Relations of groups from all of their tasks."""
        names, module = data.by_group().task_names, self.module
        assert names is not None
        whole = Whole(len(names), states.shape[1])
        for groups, found in self._pooled(data, states, mask, advance, processes):
            lost = (~found.energies.isfinite()).nonzero()
            if len(lost):
                raise TaskError(int((data.group_index() == groups[int(lost[0])]).argmax()), OVERFLOWN)
            k, g = module.model.dynamics.num_edge_modules, module.model.dynamics.num_node_modules
            modules = torch.stack([to_matrix(found.probabilities[..., i]) for i in range(k)], dim=-1)
            chances = to_relations(modules, module.module_to_relation)
            gap = torch.full(found.structure.node_modules.shape, torch.nan) if found.gap is None else found.gap
            nodes = None if g == 1 else one_hot(found.structure.node_modules, g).to(states.dtype)
            matched = module.module_to_type
            types = nodes if nodes is None or matched is None else to_relations(nodes, matched)
            parts = {
                "probabilities": chances, "relations": chances.argmax(-1), "energies": found.energies,
                "evidence": gap.float(), "modules": modules, "node_modules": nodes, "types": types,
                "misfit": self._group_misfit(states, mask, data.group_index(), groups, found.structure),
            }  # fmt: skip
            whole.put(groups, parts)
        fields = whole.fields(Relations, tensors) | {"groups": names, "of_tasks": data.group_index()}
        return Relations(**fields)

    def _group_misfit(
        self, states: Tensor, mask: Tensor | None, index: np.ndarray, groups: np.ndarray, structure: Structure
    ) -> Tensor | None:
        """Whether the model does not fit most tasks of groups, (G,), whose structures are given."""
        home = self.judged.home
        if home is None:
            return None
        members, n = np.flatnonzero(np.isin(index, groups)), structure.edge_modules.shape[1]
        place, parts = torch.from_numpy(np.searchsorted(groups, index[members])), []
        for ids, of in zip(torch.from_numpy(members).split(BATCH), place.split(BATCH), strict=True):
            rows = Structure(*(part[of] for part in structure))
            whole = quality(self.module.model, states[ids, :n], rows, None if mask is None else mask[ids, :n])
            parts.append(home.misfit(*whole, states.shape[2]))
        return torch.bincount(place, torch.cat(parts).double()) > 0.5 * torch.bincount(place)

    def _pooled(
        self, data: Trajectories, states: Tensor, mask: Tensor | None, advance: Advance | None = None,
        processes: "Processes | None" = None,
    ) -> Iterator[tuple[np.ndarray, Inferred]]:  # fmt: skip
        """Groups of every size, with what all of their tasks tell. Processes share the tasks of every group."""
        index = torch.from_numpy(data.group_index())
        counts = torch.from_numpy(np.full(data.num_tasks, data.num_entities) if data.counts is None else data.counts)
        for ids in by_size(torch.arange(data.num_tasks), counts):
            groups, of = index[ids].unique(return_inverse=True)
            n = int(counts[ids[0]])
            work = partial(self._told, states[:, :n], None if mask is None else mask[:, :n], ids, of, processes)
            yield groups.numpy(), work() if processes is None else processes.together(work)
            if advance is not None:
                advance(len(ids))

    def _told(
        self, states: Tensor, mask: Tensor | None, ids: Tensor, groups: Tensor, processes: "Processes | None"
    ) -> Inferred:
        """What some tasks, with these ids among all (B, N, T, D), tell of the structures of their groups."""
        module, number, (_, n, t, d) = self.module, int(groups.max()) + 1, states.shape
        frames = int(t * len(ids) / number)
        problem = PooledProblem(module.model, states.new_zeros(number, n, 1, d), edge_cost=module.search.edge_cost)
        if processes is not None:
            ids, groups = processes.share(ids), processes.share(groups)
            problem = replace(problem, reduce=processes.reduce, gather=processes.gather)
        problem = replace(problem, batches=in_batches(states, groups, mask, ids))
        generator = torch.Generator().manual_seed(module.seed)
        return infer_pooled(module.search, problem, generator, None, self.calibration.at(frames))

    def _fits(self, entities: int, frames: int) -> bool:
        """Returns whether the proposal network, which takes a fixed number of frames, can be used."""
        return frames == self.module.observed_frames and self.module.search.needs_proposal(self.module.model, entities)

    def forecast(
        self, states: Any, relations: Relations, steps: int, members: int = 12, advance: Advance | None = None,
        processes: "Processes | None" = None,
    ) -> Forecasts:  # fmt: skip
        """Forecasts the frames after the last one by an ensemble.

        Args:
            states: as `infer` takes them; forecasts start from the last frame.
            relations: relations of the same tasks.
            steps: number of frames.
            members: number of rollouts; each draws relations from their probabilities and errors from the likelihood.
            advance: called with the number of tasks that are finished.
            processes: which share the work, as for `infer`.

        Raises:
            DataError: the states do not fit the model or the relations, there are too few steps or members, or too many
                for the memory, or a forecast diverges.
        """
        data, given, mask = self._given(states, None)
        last = given[:, :, -1]
        at_once = max(BATCH, min(ROLLED, PAIRS // (last.shape[1] * (last.shape[1] - 1))))
        check_size(last, steps, members, at_once)
        dynamics, whole = self.module.model.dynamics, Whole(*last.shape[:2])
        k, g = dynamics.num_edge_modules, dynamics.num_node_modules
        chances, types = torch.as_tensor(relations.modules), relations.node_modules
        if relations.of_tasks is not None:
            index = relations.of_tasks
            chances, types = chances[index], None if types is None else torch.as_tensor(types)[index]
        _check_shape(chances, (*last.shape[:2], last.shape[1], k), "modules")
        if types is not None:
            types = torch.as_tensor(types)
            _check_shape(types, (*last.shape[:2], g), "node_modules")

        def ahead(ids: np.ndarray, n: int) -> dict[str, Tensor]:
            generator = torch.Generator().manual_seed(self.module.seed)
            with renumbered([data.task_name(int(task)) for task in ids]):
                matrices = _chances(chances[ids, :n, :n], "modules")
                rows = torch.stack([from_matrix(matrices[..., i]) for i in range(k)], dim=-1)
                nodes = None if types is None else _chances(types[ids, :n], "node_modules")
                bands, seen = self.calibration.bands, given[ids, :n]
                known = None if mask is None else mask[ids, :n]
                found = ensemble(self.module.model, seen, rows, steps, generator, members, nodes, bands, known)
                return {name: self._physical(part) for name, part in bounded(found)._asdict().items()}

        for ids, part in _each(ahead, _batches(data, at_once), advance, processes):
            whole.put(ids, part)
        return Forecasts(**whole.fields(Forecasts, isinstance(states, Tensor)))

    @torch.no_grad()
    def evaluate(self, data: Trajectories, advance: Advance | None = None) -> dict[str, float]:
        """Measures of the protocol: structures from the first `observed_frames`, forecasts of later frames.

        Labels are matched as on the model's validation tasks, errors are in its protocol units.

        Args:
            data: trajectories of a file, see `read`; without relations only forecasts are scored.
            advance: called with the number of tasks that are finished.

        Raises:
            DataError: the model's errors overflow on a task.
        """
        from modmeta.evaluation.protocol import ProtocolMeasures  # imports torchmetrics, which takes seconds

        module, dataset = self.module, as_dataset(data, self.units)
        t = module.observed_frames
        steps = None if dataset.mask is None else dataset.mask[..., : t - 1]
        if self._roles(data, dataset.states[:, :, :t], steps, dataset.counts) is False:
            return self._without_roles().evaluate(data, advance)
        measures = ProtocolMeasures(
            module.model.dynamics.num_edge_modules, module.num_relations, module.observed_frames,
            module.forecast_steps, module.num_types,
        )  # fmt: skip
        pooled = None if data.group_names is None else self._by_task(data, dataset)
        for ids in TaskBatches(len(dataset), BATCH, None, None, counts=dataset.counts):
            batch = dataset[ids]
            inferred = module.infer(batch[STATES], mask=batch.get(MASK)) if pooled is None else pooled(ids)
            lost = (~inferred.energies.isfinite()).nonzero()
            if len(lost):
                raise TaskError(data.task_name(ids[int(lost[0])]), OVERFLOWN)
            measures.update(
                module.model, inferred, batch[STATES], batch.get(RELATIONS), module.module_to_relation,
                types=batch.get(TYPES), module_to_type=module.module_to_type,
            )  # fmt: skip
            if advance is not None:
                advance(len(ids))
        return {f"test/{key}": float(value) for key, value in measures.compute().items()}

    def _by_task(self, data: Trajectories, tasks: TaskDataset) -> Callable[[list[int]], Inferred]:
        """Function of tasks of one size to what all tasks of their groups tell from the frames to observe."""
        t, index = self.module.observed_frames, data.group_index()
        groups: dict[int, tuple[int, Inferred]] = {}
        mask = None if tasks.mask is None else tasks.mask[..., : t - 1]
        for mine, found in self._pooled(data, tasks.states[:, :, :t], mask):
            groups |= {int(group): (place, found) for place, group in enumerate(mine)}

        def of(ids: list[int]) -> Inferred:
            found = groups[int(index[ids[0]])][1]  # groups of one size were inferred together
            places = [groups[int(index[task])][0] for task in ids]
            structure = Structure(*(part[places] for part in found.structure))
            gap = None if found.gap is None else found.gap[places]
            return Inferred(structure, found.probabilities[places], found.energies[places], gap)

        return of

    def _given(self, states: Any, mask: Any) -> tuple[Trajectories, Tensor, Tensor | None]:
        """Checks states and mask; returns trajectories, normalised states (B, N, T, D), and steps that count."""
        if is_named(states):
            states = prepared(from_named(states), self.known, Options(), "states").data
        return arrays_for_model(states, mask, self.known, self.units, self.data["frame_step"])

    def _physical(self, states: Tensor) -> Tensor:
        return states * torch.tensor(self.units.scale) + torch.tensor(self.units.offset)


def _batches(data: Trajectories, size: int = BATCH) -> Iterator[tuple[np.ndarray, int]]:
    """Batches of up to `size` tasks of one size, each with its number of entities."""
    counts = torch.from_numpy(np.full(data.num_tasks, data.num_entities) if data.counts is None else data.counts)
    for group in by_size(torch.arange(data.num_tasks), counts):
        yield from ((ids.numpy(), int(counts[ids[0]])) for ids in group.split(size))


def _each(
    work: Callable[[np.ndarray, int], Part], batches: Iterator[tuple[np.ndarray, int]], advance: Advance | None,
    processes: "Processes | None",
) -> Iterator[tuple[np.ndarray, Part]]:  # fmt: skip
    """Ids of every batch with what is made of it, in this process or in several."""
    if processes is not None:
        some = list(batches)
        yield from zip([ids for ids, _ in some], processes.each(work, some, advance), strict=True)
        return
    for ids, n in batches:
        yield ids, work(ids, n)
        if advance is not None:
            advance(len(ids))


def _check_shape(chances: Tensor, shape: tuple[int, ...], name: str) -> None:
    if tuple(chances.shape) != shape or not chances.is_floating_point():
        raise DataError(
            f"relations.{name} has shape {tuple(chances.shape)}, but these states and this model need {shape}; give "
            "the relations that `infer` found for the same tasks and entities"
        )


def _chances(chances: Tensor, name: str) -> Tensor:
    """Checks probabilities that a caller gives."""
    wrong = ~(chances.isfinite() & (chances >= 0)) | (chances.sum(-1, keepdim=True) <= 0)
    if name == "modules":  # the diagonal has no meaning
        wrong = wrong & ~torch.eye(chances.shape[1], dtype=torch.bool)[:, :, None]
    if wrong.any():
        raise TaskError(int(wrong.nonzero()[0, 0]), f"its relations.{name} are not probabilities")
    return chances.float()


def _grouped(data: Trajectories, groups: Any) -> Trajectories:
    """Trajectories whose tasks have these groups, if given."""
    if groups is None:
        return data
    names = np.asarray(groups.detach().cpu() if isinstance(groups, Tensor) else groups)
    if names.shape != (data.num_tasks,) or names.dtype.kind not in "iuU":
        raise DataError(f"groups are {names.dtype} of shape {names.shape}; give an integer or string for every task")
    data = replace(data, group_names=names)
    data.check_groups("states")
    return data


def models() -> list[str]:
    """Names of the packaged models."""
    return sorted(
        Path(str(item)).stem for item in resources("modmeta.pretrained").iterdir() if item.name.endswith(".ckpt")
    )


def path_of(model: str | Path) -> Path:
    """Path of a run directory, a checkpoint, or a packaged model, given by name.

    Raises:
        UserError: it does not exist.
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


def load(model: str | Path) -> Any:
    """Loads a trained model: a `FunctionModel` where modules are composed for functions, else a `Model` of relations.

    Args:
        model: run directory, checkpoint, or name of a packaged model.

    Raises:
        UserError: it does not exist, or cannot be trusted.
    """
    path = path_of(model)
    content = read_checkpoint(path)
    if composed(content):
        from modmeta.functions import composition_of  # imports Lightning, which takes seconds

        return composition_of(content)
    return _relational(content, path)


def load_relational(model: str | Path) -> Model:
    """`load` of a model that infers relations from trajectories.

    Raises:
        UserError: as `load`; or it is another model.
    """
    path = path_of(model)
    content = read_checkpoint(path)
    if composed(content):
        raise UserError(f"{path} composes modules for functions, not trajectories; use modmeta.load in Python")
    return _relational(content, path)


def _relational(content: dict[str, Any], path: Path) -> Model:
    module, data = model_of(content, path)
    saved, judged = content["modmeta"].get("calibration"), content["modmeta"].get("judged")
    calibration = Calibration.from_state(saved) if saved else Calibration()
    return Model(module, data, calibration, Judged.from_state(judged) if judged else None)


def fit(
    states: Any,
    relations: Any = None,
    features: Sequence[str] | None = None,
    frame_step: float = 1.0,
    modules: int | None = None,
    seed: int = 0,
    overrides: Sequence[str] = (),
    groups: Any = None,
) -> Model:
    """Trains a model like `modmeta train FILE`.

    Args:
        states: (B, N, T, D): coordinates, then their velocities, then other features; NaN throughout for entities that
            a task lacks or a frame does not show. Or a pandas or polars data frame with the columns of a file, or an
            xarray `DataArray` with axes such as task, entity, time, feature; these hold names of features and times.
        relations: true relations, (B, N, N) or (N, N) integers, [receiver, sender], or a networkx graph from senders to
            receivers, for measures and for naming modules; None if unknown.
        features: names of the features; None for x, y, vx, vy if there are four.
        frame_step: time between two frames.
        modules: number of edge types; None for as many as held-out frames ask for.
        seed: seed of all random numbers.
        overrides: further settings, such as `trainer.max_epochs=20`.
        groups: name of the group of every task, (B,), integers or strings: its tasks share their relations. None where
            every task has its own.

    Raises:
        UserError: data or settings are invalid.
    """
    from modmeta.data import formats
    from modmeta.training.run import fit_file
    from modmeta.training.suggestions import features_setting

    data = from_named(states) if is_named(states) else _as_tasks(states, features, frame_step)
    if hasattr(relations, "edges"):
        data = with_graph(data, relations, "relations")
    elif relations is not None:
        data = with_matrix(data, np.asarray(relations).astype(np.int64), "relations")
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "states.npz"
        formats.save(path, {"all": absent_last(with_absent(_grouped(data, groups)))})
        settings = [f"seed={seed}", *([] if modules is None else [f"model.num_edge_modules={modules}"]), *overrides]
        if features:
            settings.insert(0, features_setting(features))
        return load_relational(fit_file(path, Path(directory) / "run", settings))


def _as_tasks(states: Any, features: Sequence[str] | None, frame_step: float) -> Trajectories:
    """Trajectories of an array (B, N, T, D)."""
    array = np.asarray(states.detach().cpu() if isinstance(states, Tensor) else states, dtype=np.float64)
    if array.ndim != 4:
        raise DataError(f"states have shape {array.shape}; give them as (tasks, entities, frames, features)")
    d = array.shape[-1]
    names = (
        tuple(features) if features else ("x", "y", "vx", "vy") if d == 4 else tuple(f"feature{i}" for i in range(d))
    )
    return Trajectories(array, None, names, frame_step)
