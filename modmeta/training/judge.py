"""The verdict on a trained module, from its validation tasks."""

import torch
from torch import Tensor

from modmeta.data.loading.batches import TaskDataset, by_size
from modmeta.errors import renumbered
from modmeta.evaluation.calibration import LEAST, TASKS, WINDOWS, Calibration, calibrate, enough
from modmeta.evaluation.nulls import MANY, Compared, compare, in_groups, in_pieces, in_time, places
from modmeta.evaluation.posterior import of_edges, same_roles
from modmeta.evaluation.verdict import (
    NOTHING,
    UNFIT,
    Home,
    Judged,
    Quality,
    Verdict,
    as_searched,
    decide,
    of_both,
    of_file,
    quality,
)
from modmeta.graph.bank import Structure
from modmeta.keys import OBSERVED
from modmeta.model.sight import counted
from modmeta.search.cold_start.certainty import kappa
from modmeta.search.infer import Inferred
from modmeta.search.pooled import Batch, PooledProblem, in_batches, infer_pooled
from modmeta.training.trained import Trained

SOME = 10  # tasks of a file that are compared, at least; as many as are inferred at once
DRAWS, DRAWS_OF_FEW, DRAWS_OF_GROUPS = 2, 12, 6  # exchanges of partners: of many tasks, of few, of groups


def judge(
    module: Trained, valid: TaskDataset, train: TaskDataset | None = None, laws: Compared | None = None,
    structures: Tensor | None = None,
) -> Judged:  # fmt: skip
    """Compares what a module finds in validation tasks with both nulls, and notes how well it explains them.

    Args:
        module: trained, in evaluation mode.
        valid: tasks that it was not trained on.
        train: tasks that it was trained on; where tasks share structures, these tell them.
        laws: of a cold start, compared with both nulls by all of these tasks, where validation tasks are few.
        structures: of groups, (G, N, S), as a cold start found them.
    """
    device = module.module_to_relation.device
    ids = max(by_size(torch.arange(len(valid)), valid.counts), key=len)  # tasks of one size
    n = valid.states.shape[1] if valid.counts is None else int(valid.counts[ids[0]])
    ids = ids[: enough(n) if module.search.horizon == 1 else LEAST]  # rollouts take long
    states = valid.states[ids, :n, : module.observed_frames].to(device)
    mask = None if valid.mask is None else valid.mask[ids, :n, : states.shape[2] - 1].to(device)
    groups = None if valid.groups is None else valid.groups[ids].to(device)
    others = None if train is None or groups is None else _others(train, groups, n, states.shape[2], device)
    mine = compared(module, states, mask, groups, others=others)
    alike = 0.0
    if laws is not None and structures is not None and others is not None:
        alike = _alike(module, others, structures)
    verdict = of_both(mine, laws, alike)
    prior: tuple[float, ...] = ()
    if valid.relations is not None:
        labels = valid.relations[ids, :n, : n - 1].flatten().long()
        prior = tuple((labels.bincount(minlength=module.num_relations) / len(labels)).tolist())
    return Judged(verdict, _home(module, states, mask, groups), prior)


def compared(
    module: Trained, states: Tensor, mask: Tensor | None, groups: Tensor | None, draws: int | None = None,
    others: Batch | None = None,
) -> Compared | None:  # fmt: skip
    """What a module finds in tasks of one size, compared with both nulls; see `modmeta.evaluation.nulls.compare`.

    Args:
        module: trained.
        states: (B, N, T, D), not seen in training.
        mask: how well steps are known, (B, N, T - 1); None for all observed.
        groups: of tasks, (B,), where those of a group share a structure.
        draws: number of exchanges; None for the usual.
        others: tasks that it was trained on, of the same groups, which tell the structures; None: halves of the tasks
            tell them.
    """
    model = module.model
    generator = torch.Generator(states.device).manual_seed(module.seed)
    if groups is None:
        tell = in_time(lambda seen, steps: module.infer(seen, None, False, steps), model)
        usual = DRAWS if len(states) >= MANY else DRAWS_OF_FEW
        return compare(tell, model, states, generator, mask, draws=draws or usual)
    judges = torch.ones(len(states), dtype=torch.bool, device=states.device)
    if others is not None:
        states, groups, mask = _joined(others, Batch(states, groups, mask))
        judges = torch.arange(len(states), device=states.device) >= len(others.states)
    before = len(states)
    states, mask, groups = in_pieces(states, mask, groups, int(judges.sum()))
    judges = judges.repeat_interleave(len(states) // before)
    if others is None:
        several = (groups.bincount()[groups] > 1).nonzero().squeeze(1)
        if not len(several):
            return None
        states, mask = states[several], None if mask is None else mask[several]
        groups, judges = groups[several].unique(return_inverse=True)[1], judges[several]

    def find(seen: Tensor, steps: Tensor | None, of: Tensor) -> Inferred:
        return pooled(module, seen, steps, of)

    tell = in_groups(find, model, groups, None if others is None else judges)
    return compare(tell, model, states, generator, mask, groups, draws or DRAWS_OF_GROUPS, judges)


def _alike(module: Trained, seen: Batch, structures: Tensor) -> float:
    """Agreement (kappa) of what a module finds in training tasks with structures of all groups, (G, N, S)."""
    of, groups = seen.groups.unique(return_inverse=True)
    found = pooled(module, seen.states, seen.mask, groups).structure.edge_modules
    return kappa(found, structures.to(found)[of], module.model.dynamics.num_edge_modules)


def _others(train: TaskDataset, groups: Tensor, n: int, frames: int, device: torch.device) -> Batch | None:
    """Training tasks of the groups (B,) of others, a few of each; None where a group has none."""
    if train.groups is None:
        return None
    of, known = groups.unique(), train.groups.to(device)
    few = (places(train.groups) < max(n, -(-TASKS // len(of)))).to(device)  # n, so that all partners differ
    ids = (torch.isin(known, of) & few).nonzero().squeeze(1)
    if not bool(torch.isin(of, known[ids]).all()):
        return None
    ids = ids.cpu()
    mask = None if train.mask is None else train.mask[ids, :n, : frames - 1].to(device)
    return Batch(train.states[ids, :n, :frames].to(device), train.groups[ids].to(device), mask)


def _joined(first: Batch, second: Batch) -> Batch:
    """Tasks of both, their groups numbered from 0."""
    masks = [
        torch.full((*of.states.shape[:2], of.states.shape[2] - 1), OBSERVED, dtype=torch.int8, device=of.states.device)
        if of.mask is None else of.mask
        for of in (first, second)
    ]  # fmt: skip
    groups = torch.cat((first.groups, second.groups)).unique(return_inverse=True)[1]
    mask = None if first.mask is None and second.mask is None else torch.cat(masks)
    return Batch(torch.cat((first.states, second.states)), groups, mask)


def pooled(module: Trained, states: Tensor, mask: Tensor | None, groups: Tensor) -> Inferred:
    """What tasks (B, N, T, D) tell of the structures of their groups (B,)."""
    number, (_, n, _, d) = int(groups.max()) + 1, states.shape
    problem = PooledProblem(
        module.model, states.new_zeros(number, n, 1, d), edge_cost=module.search.edge_cost,
        batches=in_batches(states, groups, mask),
    )  # fmt: skip
    return infer_pooled(module.search, problem, torch.Generator(states.device).manual_seed(module.seed))


def _home(module: Trained, states: Tensor, mask: Tensor | None, groups: Tensor | None) -> Home | None:
    if groups is not None:
        of = groups.unique(return_inverse=True)[1]
        found = pooled(module, states, mask, of).structure
        whole = quality(module.model, states, Structure(*(part[of] for part in found)), mask)
        return _noted([(states.shape[2], whole)])
    if module.search.horizon > 1:
        return None
    known = []
    for window in sorted({min(window, states.shape[2]) for window in WINDOWS}):
        seen, steps = states[:, :, :window], None if mask is None else mask[..., : window - 1]
        mine = module.infer(seen, None, False, steps)
        known.append((window, as_searched(module.model, seen, mine, None, steps)))
    return _noted(known)


def _noted(known: list[tuple[int, Quality]]) -> Home | None:
    known = [(frames, one) for frames, one in known if not bool(one.energies.isneginf().any())]  # no complete step
    if not known:
        return None
    whole = known[-1][1]
    if not bool(torch.cat([one.energies for _, one in known]).isfinite().all()):
        return None
    return Home.of([(frames, one.energies) for frames, one in known], whole.correlations)


def judge_file(
    module: Trained, judged: Judged, states: Tensor, mask: Tensor | None, groups: Tensor | None,
    counts: Tensor | None, misfits: float, nulls: bool | None,
) -> Verdict:  # fmt: skip
    """The verdict on tasks of a file, from what the model's validation tasks told and from their own nulls.

    Args:
        module: trained.
        judged: what its checkpoint knows.
        states: (B, N, T, D), normalised.
        mask: how well steps are known, (B, N, T - 1); None for all observed.
        groups: of tasks, (B,); None where every task has a structure of its own.
        counts: number of entities of every task, (B,); None for N.
        misfits: share of tasks that the model does not fit.
        nulls: compare all tasks; None: a sample, where there are no groups; False: only tasks that do not fit.
    """
    nothing = judged.verdict.name in (NOTHING, UNFIT) and not nulls
    few = nulls is None and groups is None and module.search.horizon == 1
    if nothing or not (nulls or few or misfits > 0.5):
        return of_file(judged.verdict, decide(None, misfits))
    longer = judged.home is not None and states.shape[2] > judged.home.frames[-1]
    far = misfits > 0.5  # only gains can tell whether there are relations all the same
    ids = sample_of(len(states), counts, None if nulls else enough(states.shape[1]) if far else SOME)
    n = states.shape[1] if counts is None else int(counts[ids[0]])
    part = (states[ids, :n], None if mask is None else mask[ids, :n], None if groups is None else groups[ids])
    here = decide(compared(module, *part, draws=None if nulls or far else 1), misfits)
    return of_file(judged.verdict, here, longer)


def of_roles(
    module: Trained, calibration: Calibration, states: Tensor, mask: Tensor | None, counts: Tensor | None
) -> bool | None:
    """Whether entities of a file have the roles of training tasks; None where these, or tasks of that size, have none.

    Some tasks tell, without that prior. Other roles, or another order of entities, would bias what others do not show.

    Raises:
        TaskError: errors of a task overflow.
    """
    n = len(module.search.roles) if isinstance(module.search.roles, tuple) else 0
    ids = (torch.full((len(states),), states.shape[1]) if counts is None else counts).eq(n).nonzero().squeeze(1)
    if not len(ids):
        return None
    ids = ids[sample_of(len(ids), None, SOME)]
    seen, steps = states[ids, :n], None if mask is None else mask[ids, :n]
    roles = module.search.of_roles(n, seen)
    assert roles is not None
    free, generator = module.without_roles(), torch.Generator(states.device).manual_seed(module.seed)
    found = free.infer(seen, None, False, steps)
    temperature = calibration.at(seen.shape[2])
    with renumbered(ids.tolist()):
        beliefs, _ = of_edges(free.search, module.model, seen, found.structure, temperature, generator, steps)
    return same_roles(roles, beliefs)


def sample_of(tasks: int, counts: Tensor | None, least: int | None) -> Tensor:
    """Tasks of the most frequent size, spread over the file: one of 20, or `least` if that is more; None for all."""
    ids = max(by_size(torch.arange(tasks), counts), key=len)
    if least is None:
        return ids
    few = min(len(ids), max(least, len(ids) // 20))
    return ids[torch.arange(few) * len(ids) // few]


def recalibrated(
    module: Trained, judged: Judged, calibration: Calibration, states: Tensor, mask: Tensor | None,
    counts: Tensor | None,
) -> Calibration:  # fmt: skip
    """Temperatures for tasks of a file, as without labels: where their errors are not those of validation tasks, or
    these were too few to tell.

    They are no lower than before. Recordings with gaps keep them.
    """
    ids = sample_of(len(states), counts, enough(states.shape[1]) if judged.few else SOME)
    whole = ids if mask is None else ids[counted(mask[ids]).flatten(1).all(1)]
    n = states.shape[1] if counts is None else int(counts[ids[0]])
    if not len(whole) or module.search.horizon > 1 or module.model.noise or states.shape[2] < 2 * 3:
        return calibration
    scenes = [(states[whole, :n], None)]
    here = calibrate(module.model, module.search, scenes, module.module_to_relation, module.seed)
    least = [max(mine, calibration.at(frames)) for frames, mine in zip(here.frames, here.temperatures, strict=True)]
    return here._replace(temperatures=tuple(least))
