"""Measures of inferred hidden entities and relations against the truth, which is used nowhere else."""

from itertools import permutations
from typing import Any, NamedTuple

import torch
from torch import Tensor

from modmeta.evaluation.verdict import NOTHING, UNFIT, Judged
from modmeta.graph.relations import from_matrix, to_matrix
from modmeta.hidden.infer import Found
from modmeta.model.model import RelationalModel

SILENT = 0.05  # a module is silent if its median message is below this fraction of the strongest module's
LOCATED = 0.5  # an entity is located if its position's standard deviation is below this many robust scales of positions


class Truth(NamedTuple):
    """True states and relations.

    Attributes:
        states: states of the hidden entities (B, H, T, D).
        relations: true relations `[receiver, sender]` (B, N, N), hidden entities last; None if unknown.
    """

    states: Tensor
    relations: Tensor | None


def modules_of(module_to_relation: Tensor, relations: Tensor) -> Tensor:
    """The first edge module that was matched to each relation.

    Args:
        module_to_relation: relation of every module (K,).
        relations: labels, any shape.

    Returns:
        Module indices in the shape of `relations`.
    """
    relation = torch.arange(int(max(module_to_relation.max(), relations.max())) + 1)
    return (module_to_relation == relation.unsqueeze(1)).to(torch.int8).argmax(1)[relations]


@torch.no_grad()
def silent_modules(model: RelationalModel, visible: Tensor) -> Tensor:
    """Which edge modules mean no relation (K,): their messages between `visible` (B, V, T, D) are near zero."""
    strength = model.dynamics.messages(visible[:50]).abs().movedim(3, 0).flatten(1).median(1).values
    return strength < SILENT * strength.max()


def deviations(found: Found) -> Tensor:
    """Standard deviations of hidden states (B, H, T, D), the paths that other starts led to included.

    Paths weigh by their energies. Several hidden entities have no order to compare paths by: theirs are those of the
    best path.
    """
    if found.paths.shape[1] > 1:
        return found.deviations
    share = (-found.excess).softmax(1)[..., None, None, None]
    apart = (share * (found.others - found.paths.unsqueeze(1)).square()).nan_to_num(0).sum(1)
    return (found.deviations.square() + apart).sqrt()


def fits(found: Found, judged: Judged) -> Tensor:
    """Whether a model fits the visible entities of tasks, hidden ones included, (B,), as far as that is known."""
    (b, h, t, d), home = found.paths.shape, judged.home
    if judged.verdict.name in (NOTHING, UNFIT):
        return torch.zeros(b, dtype=torch.bool)
    if home is None:
        return torch.ones(b, dtype=torch.bool)
    visible = found.energies[:, :-h].cpu()
    each = visible.sum(1) / (visible.shape[1] * (t - 1) * d)
    return ~home.misfit(each, torch.zeros(b), t)


def located(found: Found, model: RelationalModel, silent: Tensor, judged: Judged | None = None) -> Tensor:
    """Whether each hidden entity is located (B, H): it acts on a visible entity, and its position is certain enough.

    Where the model does not fit the visible entities, none is.

    Args:
        found: inferred hidden entities.
        model: model that was used.
        silent: edge modules that mean no relation (K,).
        judged: what the model's checkpoint knows of its fit.
    """
    h = found.paths.shape[1]
    acts = ~silent[to_matrix(found.structure.edge_modules)[:, :-h, -h:]].all(1)
    positions = getattr(model.dynamics, "positions", found.paths.shape[-1])
    acts = acts & fits(found, judged or Judged()).unsqueeze(1)
    scaled = deviations(found)[..., :positions] / model.dynamics.state_scale[:positions]
    return acts & (scaled.square().mean((2, 3)).sqrt() < LOCATED)


def matched(found: Found, truth: Truth) -> Found:
    """Orders the hidden entities of every task to be closest to the truth, since inferred entities have no identity."""
    h, n = truth.states.shape[1], found.structure.node_modules.shape[1]
    if h == 1:
        return found
    orders = torch.tensor(list(permutations(range(h))))
    errors = (found.paths[:, orders] - truth.states.unsqueeze(1)).square().flatten(2).mean(2)  # (B, h!)
    order = orders[errors.argmin(1)]  # (B, H)
    task = torch.arange(len(order)).unsqueeze(1)
    everyone = torch.cat((torch.arange(n - h).expand(len(order), -1), n - h + order), dim=1)  # (B, N)
    matrix = to_matrix(found.structure.edge_modules)[task.unsqueeze(2), everyone.unsqueeze(2), everyone.unsqueeze(1)]
    structure = found.structure._replace(edge_modules=from_matrix(matrix))
    return found._replace(paths=found.paths[task, order], deviations=found.deviations[task, order], structure=structure)


def measures(found: Found, truth: Truth, module_to_relation: Tensor, silent: Tensor) -> dict[str, Any]:
    """Mean squared errors of hidden states over all frames, in the units of the states, and accuracies of relations.

    Args:
        found: inferred hidden entities, last in the structure.
        truth: true states and relations, hidden entities last.
        module_to_relation: relation of every module (K,).
        silent: edge modules that mean no relation (K,).

    Returns:
        `mse` and `median` over tasks. With relations also:
        `mse_connected` and `median_connected`, over tasks in which every hidden entity acts on a visible one;
        `mse_by_relations`, by the number of visible entities that a hidden one acts on; and the accuracies
        `visible_accuracy`, `hidden_accuracy` (between hidden and visible entities, both directions),
        `to_visible_accuracy` and `to_hidden_accuracy`.
    """
    found = matched(found, truth)
    error = (found.paths - truth.states).square().flatten(1).mean(1).double()
    out: dict[str, Any] = {"tasks": len(error), "mse": float(error.mean()), "median": float(error.median())}
    if truth.relations is None:
        return out
    h = truth.states.shape[1]
    v = truth.relations.shape[1] - h
    none = torch.isin(truth.relations, module_to_relation[silent])  # (B, N, N)
    acts = ~none[:, :v, v:]  # (B, V, H)
    connected, number = acts.any(1).all(1), acts.any(2).sum(1)
    if connected.any():
        out |= {"mse_connected": float(error[connected].mean()), "median_connected": float(error[connected].median())}
    right = to_matrix(module_to_relation[found.structure.edge_modules]) == truth.relations
    off_diagonal = ~torch.eye(v, dtype=torch.bool)
    seen, down, up = right[:, :v, :v][:, off_diagonal], right[:, :v, v:], right[:, v:, :v]
    accuracies = {"visible": seen, "hidden": torch.stack((down, up.mT)), "to_visible": down, "to_hidden": up}
    out |= {f"{name}_accuracy": float(part.double().mean()) for name, part in accuracies.items()}
    out["mse_by_relations"] = {
        str(relations): {
            "tasks": int(chosen.sum()),
            "mse": float(error[chosen].mean()),
            "median": float(error[chosen].median()),
            "visible_accuracy": float(seen[chosen].double().mean()),
            "hidden_accuracy": float(torch.stack((down, up.mT))[:, chosen].double().mean()),
        }
        for relations in range(v + 1)
        if bool((chosen := number == relations).any())
    }
    return out
