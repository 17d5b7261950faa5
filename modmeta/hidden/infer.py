"""Inference of hidden entities: random starts are refined on growing windows of frames, and the best are kept."""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from modmeta.graph.bank import Structure
from modmeta.graph.relations import MUTUAL
from modmeta.hidden.chains import Chains, Improver, joined, put
from modmeta.hidden.scene import Scene
from modmeta.hidden.starts import guess
from modmeta.model.model import RelationalModel
from modmeta.search.search import Search

RETRIES = 3  # further attempts, with other guesses, on tasks that are not explained
JUMP_GUESSES = 256  # guesses for a chain whose continuation does not explain the next window
MOVES = 2  # rounds of structure moves on each window, for chains that do not explain all entities
WINDOWS = (12, 24)  # lengths of the first windows, in frames; the last window is all frames


class Effort(NamedTuple):
    """Amount of search for a task.

    Attributes:
        starts: number of guesses per task.
        keep: number of chains per task on the first window, on the next ones, and on all frames.
        tasks: number of tasks processed together.
    """

    starts: int
    keep: tuple[int, int, int]
    tasks: int


KNOWN, UNKNOWN = Effort(256, (4, 2, 2), 40), Effort(1024, (16, 4, 2), 10)  # with known and with unknown relations


class Found(NamedTuple):
    """Hidden entities inferred for B tasks. Visible entities come first, then H hidden ones.

    Attributes:
        paths: states of the hidden entities (B, H, T, D).
        structure: relations (B, N, S), types (B, N).
        energies: energies of the receivers (B, N), nats.
        deviations: standard deviations of the hidden states given the structure (B, H, T, D).
        others: paths from all starts that were kept, best first, including the chosen one (B, M, H, T, D).
        excess: their energies above the lowest one (B, M), nats.
    """

    paths: Tensor
    structure: Structure
    energies: Tensor
    deviations: Tensor
    others: Tensor
    excess: Tensor


def informed(search: Search, model: RelationalModel, reciprocity: float | None, entities: int) -> Search:
    """Adds the prior of mutual relations to a search if the relations found in training are mutual (`MUTUAL`).

    Visible frames hold little information about forces on a hidden entity. Without the prior, a wrong path that acts on
    one entity and receives no force can fit better than the true one when the learned law is slightly off.

    Args:
        search: search of the model.
        model: trained model.
        reciprocity: reciprocity of the structures found in training; None if unknown.
        entities: number of entities per task, including hidden ones. If their rows are too many to enumerate, the prior
            is not added.
    """
    can = search.receivers == "all" and search.enumerates(model, entities)
    return replace(search, symmetric=search.symmetric or (can and reciprocity is not None and reciprocity >= MUTUAL))


def priors_of(search: Search, known: bool) -> list[str]:
    """Names of the structural priors of an inference, to be reported with its results."""
    if known:
        return ["true relations are given"]
    return ["symmetric"] if search.symmetric else []


@torch.no_grad()
def find(
    model: RelationalModel,
    search: Search,
    visible: Tensor,
    hidden: int = 1,
    relations: Tensor | None = None,
    seed: int = 0,
    advance: Callable[[int], None] = lambda tasks: None,
) -> Found:
    """Infers states and relations of hidden entities from visible ones.

    Args:
        model: trained model, frozen.
        search: search that proposes candidate rows.
        visible: states of the visible entities (B, V, T, D).
        hidden: number of hidden entities per task, H.
        relations: edge modules of all edges (B, N, S), hidden entities last, if known.
        seed: random seed of the guesses.
        advance: called with a number of finished tasks.
    """
    effort, parts = UNKNOWN if relations is None else KNOWN, []
    for tasks in torch.arange(len(visible)).split(effort.tasks):
        generator = torch.Generator(visible.device).manual_seed(seed * 1_000_003 + int(tasks[0]))
        known = None if relations is None else relations[tasks]
        found, explained = _find(Scene(model, visible[tasks], hidden), search, known, effort, generator)
        for _ in range(RETRIES):
            lost = (~explained).nonzero().squeeze(1)
            if not len(lost):
                break
            scene = Scene(model, visible[tasks[lost]], hidden)
            given = None if known is None else known[lost]
            again, explained[lost] = _find(scene, search, given, effort, generator)
            found = _better(again, found, lost)
        parts.append(found)
        advance(len(tasks))
    structure = Structure(*(torch.cat(field) for field in zip(*(part.structure for part in parts), strict=True)))
    fields = {name: torch.cat([getattr(part, name) for part in parts]) for name in Found._fields if name != "structure"}
    return Found(structure=structure, **fields)


def _find(
    scene: Scene, search: Search, relations: Tensor | None, effort: Effort, generator: torch.Generator
) -> tuple[Found, Tensor]:
    """One attempt, and whether it explains all entities of a task (B,)."""
    frames, everyone = scene.visible.shape[2], torch.arange(scene.num_entities)
    windows = [window for window in WINDOWS if window < frames] + [frames]
    improver = Improver(scene, search if relations is None else None, generator)
    keep = effort.keep
    chains = _start(improver, relations, windows[0], effort.starts, keep[0])
    if relations is None:  # a start keeps its own relations until its path has been refined
        chains = improver.restructured(chains, everyone[-scene.hidden :], free=False)
        chains = improver.refined(chains, 3, free=False)
    chains = _best(improver.refined(improver.judged(chains), 4), keep[1])
    for window in windows:
        if window > chains.paths.shape[2]:
            chains = improver.judged(_extended(improver, chains, window))
            chains = _best(improver.refined(chains, 4), keep[1] if window < frames else keep[2])
        if relations is None:
            chains = _where(~improver.explained(chains), chains, lambda some: _restructured(improver, some))
    chains = _best(improver.refined(chains, 4), keep[2])
    return _summary(improver, chains), improver.explained(_best(chains, 1))


def _better(new: Found, old: Found, tasks: Tensor) -> Found:
    """Replaces the results of `tasks` in `old` by those in `new` that have lower energy."""
    wins = new.energies.sum(1) < old.energies[tasks].sum(1)
    tasks, structure = tasks[wins], []
    for then, now in zip(old.structure, new.structure, strict=True):
        structure.append(then.index_copy(0, tasks, now[wins]))
    fields = [name for name in Found._fields if name != "structure"]
    merged = {name: getattr(old, name).index_copy(0, tasks, getattr(new, name)[wins]) for name in fields}
    return Found(structure=Structure(*structure), **merged)


def _restructured(improver: Improver, chains: Chains) -> Chains:
    everyone = torch.arange(improver.scene.num_entities)
    for _ in range(MOVES):
        chains = improver.refined(improver.restructured(chains, everyone), 3)
    return chains


def _where(chosen: Tensor, chains: Chains, change: Callable[[Chains], Chains]) -> Chains:
    """Applies `change` to the chosen chains."""
    indices = chosen.nonzero().squeeze(1)
    return put(chains, indices, change(chains.at(indices))) if len(indices) else chains


def _start(improver: Improver, relations: Tensor | None, window: int, starts: int, keep: int) -> Chains:
    scene = improver.scene.frames(0, window)
    b, v, n = len(scene.visible), scene.visible.shape[1], scene.num_entities
    known = None if relations is None else relations[:, :v]
    best = guess(scene, starts, keep, improver.generator, known, improver.visible_relations(scene))
    task = torch.arange(b).repeat_interleave(keep)
    if relations is None:
        rows = torch.cat((best.rows, best.rows.new_zeros(b, keep, n - v, n - 1)), dim=2).flatten(0, 1)
    else:
        rows = relations[task]
    structure = Structure(rows, rows.new_zeros(len(task), n))
    return improver.judged(Chains(task, best.paths.flatten(0, 1), structure, torch.zeros(len(task), n)), free=False)


def _extended(improver: Improver, chains: Chains, window: int) -> Chains:
    """Continues chains to a longer window by the model's forecast. A chain whose forecast does not explain the new
    frames is kept, and a copy is added whose new frames are the best of fresh guesses."""
    done, v = chains.paths.shape[2], improver.scene.visible.shape[1]
    paths = improver.scene[chains.scene].extended(chains.paths, chains.structure, window)
    longer = improver.judged(chains._replace(paths=paths), free=False)
    lost = longer.at((~improver.explained(longer, done - 1)).nonzero().squeeze(1))
    if not len(lost.scene):
        return longer
    later, rows = improver.scene[lost.scene].frames(done - 1, window), lost.structure.edge_modules[:, :v]
    again = guess(later, JUMP_GUESSES, 1, improver.generator, rows).paths[:, 0, :, 1:]
    return joined([longer, lost._replace(paths=torch.cat((lost.paths[:, :, :done], again), dim=2))])


def _best(chains: Chains, keep: int) -> Chains:
    """The `keep` best chains of every task, sorted by task, then by energy."""
    order = chains.energy.argsort()
    order = order[chains.scene[order].argsort(stable=True)]  # by task, then by energy
    task = chains.scene[order]
    rank = torch.arange(len(task)) - torch.searchsorted(task, task)
    return chains.at(order[rank < keep])


def _summary(improver: Improver, chains: Chains) -> Found:
    best = _best(chains, 1)
    b = len(best.scene)
    energy = chains.energy.view(b, -1)
    return Found(
        best.paths,
        best.structure,
        best.energies,
        improver.deviations(best),
        chains.paths.view(b, -1, *chains.paths.shape[1:]),
        energy - energy[:, :1],
    )
