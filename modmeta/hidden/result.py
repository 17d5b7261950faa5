"""What is written of inferred entities: arrays in physical units and the order of the file, measures, statements."""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from modmeta.data.units import Units
from modmeta.graph.relations import to_matrix
from modmeta.hidden.infer import Found
from modmeta.hidden.measures import Truth, located, measures, silent_modules
from modmeta.training.bouncegrad import BounceGrad

UNKNOWN = -1  # label of relations of entities that are not there


class Group(NamedTuple):
    """Tasks (b,) with the same number of hidden entities, and what was found of them."""

    tasks: Tensor
    found: Found


def arrays(groups: list[Group], module: BounceGrad, visible: Tensor, hide: int | None, units: Units) -> dict[str, Any]:
    """Arrays of `unseen.npz`, of all B tasks.

    Returns:
        `count` (B,), `states` and `deviations` (B, H, T, D) in physical units, NaN for entities that are not there,
        `located` (B, H), `relations` (B, N, N) labels `[receiver, sender]`, hidden entities last or where they were
        taken out, -1 where there is no such entity; `others` (B, M, H, T, D), where other starts led, and `excess`
        (B, M), their energies above the least, nats.
    """
    b, v, t, d = visible.shape
    h = max((group.found.paths.shape[1] for group in groups), default=0)
    m = max((group.found.others.shape[1] for group in groups), default=0)
    silent = silent_modules(module.model, visible)
    scale, offset = np.array(units.scale), np.array(units.offset)
    out: dict[str, Any] = {
        "count": np.zeros(b, dtype=np.int64),
        "states": np.full((b, h, t, d), np.nan),
        "deviations": np.full((b, h, t, d), np.nan),
        "located": np.zeros((b, h), dtype=bool),
        "relations": np.full((b, v + h, v + h), UNKNOWN, dtype=np.int64),
        "others": np.full((b, m, h, t, d), np.nan),
        "excess": np.full((b, m), np.inf),
    }
    for tasks, found in groups:
        at, number, starts = tasks.numpy(), found.paths.shape[1], found.others.shape[1]
        out["count"][at] = number
        out["states"][at, :number] = found.paths.numpy() * scale + offset
        out["deviations"][at, :number] = found.deviations.numpy() * scale
        out["located"][at, :number] = located(found, module.model, silent).numpy()
        labels = to_matrix(module.module_to_relation[found.structure.relations]).numpy()
        out["relations"][at, : v + number, : v + number] = labels
        out["others"][at, :starts, :number] = found.others.numpy() * scale + offset
        out["excess"][at, :starts] = found.excess.numpy()
    if hide is not None:
        place = np.insert(np.arange(v), hide, v)  # of each entity of the file, here
        out["relations"] = out["relations"][:, place][:, :, place]
    return out


def content(groups: list[Group], module: BounceGrad, visible: Tensor, truth: Truth | None) -> dict[str, Any]:
    """What `unseen.json` says: measures where the truth is known, and of each task that it cannot be located."""
    silent = silent_modules(module.model, visible)
    lost = [
        int(task)
        for group in groups
        for task, known in zip(group.tasks, located(group.found, module.model, silent).all(1), strict=True)
        if not known
    ]
    out: dict[str, Any] = {"located": 1 - len(lost) / max(sum(len(group.tasks) for group in groups), 1)}
    if truth is not None:
        out |= measures(groups[0].found, truth, module.module_to_relation, silent)
    if lost:
        out["cannot_be_located"] = sorted(lost)
        out["statement"] = (
            f"{len(lost)} tasks: nothing that was seen depends on where the hidden entity is, as when it acts on no "
            "visible one; it cannot be located, and its path and relations are no more than a guess"
        )
    return out


@torch.no_grad()
def predicted_without(module: BounceGrad, visible: Tensor) -> Tensor:
    """What the model predicts of visible entities (B, V, T, D) from frame 0 on, were there no others."""
    structure = module.infer(visible, proposal=False).structure
    later = module.model.dynamics.rollout(visible[:, :, :1], *structure, visible.shape[2] - 1).squeeze(2)
    return torch.cat((visible[:, :, :1], later), dim=2)
