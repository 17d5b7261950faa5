"""Output of `modmeta unseen`: arrays in physical units and in the file's order of entities, measures, statements."""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from modmeta.data.units import Units
from modmeta.evaluation.verdict import Judged
from modmeta.graph.relations import to_matrix
from modmeta.hidden.infer import Found
from modmeta.hidden.measures import Truth, deviations, fits, located, measures, silent_modules
from modmeta.training.trained import Trained

UNKNOWN = -1  # label of relations of absent entities


class Group(NamedTuple):
    """Indices (b,) of tasks with the same number of hidden entities, and their result."""

    tasks: Tensor
    found: Found


def arrays(
    groups: list[Group], module: Trained, visible: Tensor, hide: int | None, units: Units, judged: Judged
) -> dict[str, Any]:
    """The arrays of `unseen.npz`, for all B tasks.

    Args:
        groups: results.
        module: trained module.
        visible: states of the visible entities (B, V, T, D), normalised.
        hide: index of the entity that was removed from the file; None if the entity was not in it.
        units: units of the data.
        judged: what the checkpoint knows of the model's fit.

    Returns:
        `count` (B,); `states` and `deviations` (B, H, T, D) in physical units, NaN for absent entities; `located`
        (B, H); `relations` (B, N, N), labels `[receiver, sender]`, hidden entities last or at index `hide`, -1 for
        absent entities; `others` (B, M, H, T, D), paths from other starts, and `excess` (B, M), their energies above
        the lowest one, nats.
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
        out["deviations"][at, :number] = deviations(found).numpy() * scale
        out["located"][at, :number] = located(found, module.model, silent, judged).numpy()
        labels = to_matrix(module.module_to_relation[found.structure.edge_modules]).numpy()
        out["relations"][at, : v + number, : v + number] = labels
        out["others"][at, :starts, :number] = found.others.numpy() * scale + offset
        out["excess"][at, :starts] = found.excess.numpy()
    if hide is not None:
        place = np.insert(np.arange(v), hide, v)  # index here of each entity of the file
        out["relations"] = out["relations"][:, place][:, :, place]
    return out


def content(
    groups: list[Group], module: Trained, visible: Tensor, truth: Truth | None, judged: Judged
) -> dict[str, Any]:
    """The content of `unseen.json`: measures if the truth is known, and the tasks whose entity cannot be located."""
    silent = silent_modules(module.model, visible)
    lost = [
        int(task)
        for group in groups
        for task, known in zip(group.tasks, located(group.found, module.model, silent, judged).all(1), strict=True)
        if not known
    ]
    unfit = [int(task) for group in groups for task in group.tasks[~fits(group.found, judged)]]
    out: dict[str, Any] = {"located": 1 - len(lost) / max(sum(len(group.tasks) for group in groups), 1)}
    if truth is not None:
        out |= measures(groups[0].found, truth, module.module_to_relation, silent)
    if unfit:
        out["do_not_fit"] = sorted(unfit)
    if lost:
        out["cannot_be_located"] = sorted(lost)
        out["statement"] = (
            f"in {len(lost)} tasks the hidden entity cannot be located, since the visible entities hardly depend on "
            "its position, for example because it acts on none of them, or the model does not fit; its path and "
            "relations there are guesses"
        )
    return out


@torch.no_grad()
def predicted_without(module: Trained, visible: Tensor) -> Tensor:
    """The model's rollout of the visible entities (B, V, T, D) from frame 0, without hidden entities."""
    structure = module.infer(visible, proposal=False).structure
    later = module.model.dynamics.rollout(visible[:, :, :1], *structure, visible.shape[2] - 1).squeeze(2)
    return torch.cat((visible[:, :, :1], later), dim=2)
