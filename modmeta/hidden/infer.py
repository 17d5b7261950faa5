"""Inference of hidden entities: random starts, refined on growing windows, the best kept, others drawn anew."""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from modmeta.graph.bank import Structure
from modmeta.hidden.chains import Chains, Improver, joined, put
from modmeta.hidden.scene import Scene
from modmeta.hidden.starts import guess
from modmeta.model.model import RelationalModel
from modmeta.search.search import Search

AGAIN = 3  # further attempts, with other guesses, at tasks that are not explained
JUMPS = 256  # guesses of a chain that has lost its way
MOVES = 2  # of a chain's structure on each window, as long as it does not explain everything
MUTUAL = 0.95  # reciprocity of the structures of training, from which relations are taken to be mutual
WINDOWS = (12, 24)  # frames looked at, before all of them


class Effort(NamedTuple):
    """Attributes:
    starts: guesses of a task.
    keep: chains of a task on the first window, on the next ones, on all frames.
    tasks: worked on together.
    """

    starts: int
    keep: tuple[int, int, int]
    tasks: int


KNOWN, UNKNOWN = Effort(256, (4, 2, 2), 40), Effort(1024, (16, 4, 2), 10)  # relations


class Found(NamedTuple):
    """What is inferred of B tasks; visible entities come first, then H hidden ones.

    Attributes:
        paths: of the hidden entities (B, H, T, D); frame 0 is the state that is asked for.
        structure: relations (B, N, S), types (B, N).
        energies: of the receivers (B, N).
        deviations: standard deviations of the hidden states, given the structure (B, H, T, D).
        others: paths that other starts led to, best first, the chosen one among them (B, M, H, T, D).
        excess: their energies above the least (B, M).
    """

    paths: Tensor
    structure: Structure
    energies: Tensor
    deviations: Tensor
    others: Tensor
    excess: Tensor


def informed(search: Search, model: RelationalModel, reciprocity: float | None, entities: int) -> Search:
    """A search under the prior that relations are mutual, if those that training found are.

    Frames tell little of what acts on a hidden entity: where nothing else does, a wrong path that acts on one entity
    and is not acted upon may explain them better, through a law that is a little off, than the truth.

    Args:
        search: of the model.
        model: trained.
        reciprocity: of the structures of training, where it is known.
        entities: of a task, hidden ones among them; where their rows are too many to try all, there is no such prior.
    """
    can = search.receivers == "all" and search.enumerates(model, entities)
    return replace(search, symmetric=search.symmetric or (can and reciprocity is not None and reciprocity >= MUTUAL))


def priors_of(search: Search, known: bool) -> list[str]:
    """Structural priors of an inference, for whoever reports a figure."""
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
    """Hidden entities of tasks, from their visible ones alone.

    Args:
        model: trained, frozen.
        search: whose candidate rows are tried.
        visible: states (B, V, T, D).
        hidden: H.
        relations: modules on all edges (B, N, S), hidden entities last, where they are known.
        seed: of the guesses.
        advance: told of the number of tasks finished, now and again.
    """
    effort, parts = UNKNOWN if relations is None else KNOWN, []
    for tasks in torch.arange(len(visible)).split(effort.tasks):
        generator = torch.Generator(visible.device).manual_seed(seed * 1_000_003 + int(tasks[0]))
        known = None if relations is None else relations[tasks]
        found, explained = _find(Scene(model, visible[tasks], hidden), search, known, effort, generator)
        for _ in range(AGAIN):
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
    """What is found, and whether it explains everything (B,)."""
    frames, everyone = scene.visible.shape[2], torch.arange(scene.num_entities)
    windows = [window for window in WINDOWS if window < frames] + [frames]
    improver = Improver(scene, search if relations is None else None, generator)
    keep = effort.keep
    chains = _start(improver, relations, windows[0], effort.starts, keep[0])
    if relations is None:  # every start has relations of its own, and keeps them until its path has had a chance
        chains = improver.restructured(chains, everyone[-scene.hidden :], free=False)
        chains = improver.refined(chains, 3, free=False)
    chains = _best(improver.refined(improver.judged(chains), 4), keep[1])
    for window in windows:
        if window > chains.paths.shape[2]:
            chains = improver.judged(_taken_on(improver, chains, window))
            chains = _best(improver.refined(chains, 4), keep[1] if window < frames else keep[2])
        if relations is None:
            chains = _where(~improver.explained(chains), chains, lambda some: _restructured(improver, some))
    chains = _best(improver.refined(chains, 4), keep[2])
    return _summary(improver, chains), improver.explained(_best(chains, 1))


def _better(new: Found, old: Found, tasks: Tensor) -> Found:
    """What was found first, of some tasks what was found later where its energy is less."""
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
    """Chains, the chosen ones changed."""
    places = chosen.nonzero().squeeze(1)
    return put(chains, places, change(chains.at(places))) if len(places) else chains


def _start(improver: Improver, relations: Tensor | None, window: int, starts: int, keep: int) -> Chains:
    scene = improver.scene.frames(0, window)
    b, v, n = len(scene.visible), scene.visible.shape[1], scene.num_entities
    known = None if relations is None else relations[:, :v]
    best = guess(scene, starts, keep, improver.generator, known, improver.too_many(scene))
    task = torch.arange(b).repeat_interleave(keep)
    if relations is None:
        rows = torch.cat((best.rows, best.rows.new_zeros(b, keep, n - v, n - 1)), dim=2).flatten(0, 1)
    else:
        rows = relations[task]
    structure = Structure(rows, rows.new_zeros(len(task), n))
    return improver.judged(Chains(task, best.paths.flatten(0, 1), structure, torch.zeros(len(task), n)), free=False)


def _taken_on(improver: Improver, chains: Chains, window: int) -> Chains:
    """Chains as the model continues them; where that does not explain later frames also with a jump to a place that
    does, a start of its own."""
    done, v = chains.paths.shape[2], improver.scene.visible.shape[1]
    paths = improver.scene[chains.scene].extended(chains.paths, chains.structure, window)
    longer = improver.judged(chains._replace(paths=paths), free=False)
    lost = longer.at((~improver.explained(longer, done - 1)).nonzero().squeeze(1))
    if not len(lost.scene):
        return longer
    later, rows = improver.scene[lost.scene].frames(done - 1, window), lost.structure.relations[:, :v]
    again = guess(later, JUMPS, 1, improver.generator, rows).paths[:, 0, :, 1:]
    return joined([longer, lost._replace(paths=torch.cat((lost.paths[:, :, :done], again), dim=2))])


def _best(chains: Chains, keep: int) -> Chains:
    """The best chains of every task, in order."""
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
