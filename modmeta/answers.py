"""What inference and forecasts return: relations, bands, and what may be claimed of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modmeta.evaluation.verdict import NOT_JUDGED, NOTHING, UNFIT, Verdict
from modmeta.graph.relations import to_matrix
from modmeta.model.sight import never_together

ENTITY_AXES = dict.fromkeys(("energies", "misfit"), 0) | dict.fromkeys(
    ("evidence", "node_modules", "types", "mean", "low", "high"), 1
)  # else 2


@dataclass(frozen=True)
class Relations:
    """Relations of B tasks of N entities, as matrices `[task, receiver, sender]`; the diagonal has no meaning.

    Where tasks come in groups that share a structure, B is the number of groups, in the order of `groups`.

    Attributes:
        probabilities: probabilities of every relation, (B, N, N, R), calibrated on the model's validation tasks.
        relations: most probable relations, (B, N, N) integers.
        energies: energies of the inferred structures, (B,), nats.
        evidence: energy of the second best incoming edges of every entity above the best, (B, N), nats.
        r_hat: split R-hat where structures were sampled, (B, N, N); None where they were enumerated.
        modules: probabilities of the edge modules, (B, N, N, K); forecasts draw from them.
        node_modules: probabilities of the node modules, (B, N, G), given the most probable incoming edges; None if the
            model has a single one.
        types: probabilities of every type of entity, (B, N, types); None likewise.
        groups: names of the groups, (B,), sorted; None where every task has relations of its own.
        of_tasks: index of the group of every task; None likewise.
        verdict: what may be claimed. Where nothing is found, or the model does not fit, `probabilities` are those that
            relations have before anything is observed.
        misfit: whether the model does not fit a task (or group), (B,) bool; None if unknown.
        apart: pairs that no frames show together, (B, N, N) bool: their probabilities are those before anything is
            observed; None if there are none.
        roles: whether entities have the roles of training tasks, which are a prior then; None where these had none.
    """

    probabilities: Any
    relations: Any
    energies: Any
    evidence: Any
    r_hat: Any | None
    modules: Any
    node_modules: Any | None = None
    types: Any | None = None
    groups: np.ndarray | None = None
    of_tasks: np.ndarray | None = None
    verdict: Verdict = NOT_JUDGED
    misfit: Any | None = None
    apart: Any | None = None
    roles: bool | None = None


@dataclass(frozen=True)
class Forecasts:
    """Forecast frames, each (B, N, steps, D) in the units of the data.

    Attributes:
        mean: mean of the ensemble.
        low, high: bounds of 90% bands, calibrated on the model's validation tasks.
    """

    mean: Any
    low: Any
    high: Any


class Whole:
    """Assembles results of B tasks of up to N entities from batches; NaN, or -1, for entities that a task lacks."""

    def __init__(self, tasks: int, entities: int) -> None:
        self.tasks, self.entities = tasks, entities
        self.parts: dict[str, Tensor] = {}

    def put(self, ids: np.ndarray, found: Mapping[str, Tensor | None]) -> None:
        """Adds the results of tasks."""
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

    def fields(self, of: type, tensors: bool) -> dict[str, Any]:
        """Fields of a dataclass as NumPy arrays or tensors; None where no task has any."""
        parts = {name: self.parts.get(name) for name in of.__dataclass_fields__}  # type: ignore[attr-defined]
        return {name: part if part is None or tensors else part.numpy() for name, part in parts.items()}


def claimed(found: Relations, prior: Sequence[float] = ()) -> Relations:
    """Relations as the verdict has them: where nothing may be claimed, probabilities are those of the prior, (R,).

    So they are of pairs that are never seen together.
    """
    nothing = found.verdict.name in (NOTHING, UNFIT)
    b, r = len(found.probabilities), found.probabilities.shape[-1]
    misfit = np.zeros(b, bool) if found.misfit is None or found.verdict.misfits > 0.5 else np.asarray(found.misfit)
    lost = torch.from_numpy(misfit | nothing)[:, None, None].expand(found.relations.shape)
    lost = lost if found.apart is None else lost | torch.as_tensor(found.apart)
    if not bool(lost.any()):
        return found
    share = torch.tensor(prior if len(prior) == r else [1 / r] * r)
    chances, relations = (torch.as_tensor(part).clone() for part in (found.probabilities, found.relations))
    there = chances[lost].isfinite()
    chances[lost] = torch.where(there, share.to(chances), chances[lost])
    relations[lost] = torch.where(there.all(-1), share.argmax(), relations[lost])
    if isinstance(found.probabilities, Tensor):
        return replace(found, probabilities=chances, relations=relations)
    return replace(found, probabilities=chances.numpy(), relations=relations.numpy())


def apart_pairs(steps: Tensor, groups: Tensor | None, tensors: bool) -> Any | None:
    """Pairs that no frames of a task, or of a group (B,), show together, (B, N, N); None if there are none."""
    apart = to_matrix(never_together(steps))
    if groups is not None:
        together = torch.zeros(int(groups.max()) + 1, *apart.shape[1:], dtype=torch.long)
        apart = together.index_add_(0, groups, (~apart).long()) == 0
        apart &= ~torch.eye(apart.shape[-1], dtype=torch.bool)
    if not bool(apart.any()):
        return None
    return apart if tensors else apart.numpy()
