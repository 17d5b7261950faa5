"""One search step over the structures of a batch, and inference by repeated steps with the modules frozen.

Every search is the same four choices: which receivers move, which candidates they may take, how a candidate is scored,
and how one is selected. `conf/search` holds the paper's (one random receiver, one row of the proposal, whole-task
rollouts of ten steps, Metropolis) and ours (all receivers, all rows, horizon 1, Gibbs).
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from modmeta.errors import UserError
from modmeta.model.dynamics import summed
from modmeta.model.grouped import Kept
from modmeta.model.model import RelationalModel, Score
from modmeta.search.candidates import Candidates, enumerate_rows, marginals, prior_energies, propose_rows
from modmeta.search.relax import relaxed_rows
from modmeta.search.selection import Selection, gibbs, greedy
from modmeta.search.slots import draw_slots
from modmeta.search.symmetric import choose_symmetric
from modmeta.structure.bank import Structure, random_structure

LARGEST = 1e30  # nats: energies that overflow, or are no numbers, become as large, so that others can be weighed
IMPOSSIBLE = 1e9  # nats against a module that a known relation rules out
# Inference slot by slot begins at random and cools down over so many passes, lest it end in the nearest minimum.
PASSES, HOT = 8, 1000.0


class Outcome(NamedTuple):
    """What a search step did, for a batch.

    Attributes:
        structure: after the step.
        energies: of the new structures, (B,), with gradients if asked.
        candidates: that were scored.
        scores: energies of the candidates, (B, N, M), or (B, 1, M) where whole structures were scored.
        slots: energies of the modules in every slot, given the others, (B, N, S, K), where slots were drawn in turn.
        moved: whether the structure of a task changed, (B,).
        changed: fraction of the moving receivers that took another row.
        worse: number of moves to a higher energy that were on offer, and `accepted` of them that were taken.
    """

    structure: Structure
    energies: Tensor
    candidates: Candidates
    scores: Tensor
    slots: Tensor | None
    moved: Tensor
    changed: Tensor
    worse: Tensor
    accepted: Tensor


class Search:
    """The four choices.

    Args:
        receivers: `all`, or `one` at random in every task.
        selection: function of `modmeta.search.selection`.
        horizon: steps of the rollouts that score a candidate. At 1 the receivers are independent and each candidate is
            scored exactly; beyond, candidates are whole structures, accepted or rejected for the task at once.
        enumerate_up_to: all rows of a receiver are candidates where they are no more than this (horizon 1 only).
        samples: otherwise, rows sampled from the proposal for each receiver.
        flips: and all rows that differ from the current one in one slot; where all receivers move at horizon 1, slot
            after slot (`draw_slots`).
        uniform: samples come from the uniform distribution instead of the proposal network.
        sweeps: search steps of an inference with modules frozen; see `infer`.
        symmetric: prior that relations are mutual, z_ij = z_ji, found jointly (needs all rows, all receivers, Gibbs).
        edge_cost: prior against edges, nats for each whose module is not the first.
    """

    def __init__(
        self,
        selection: Selection,
        receivers: str = "all",
        horizon: int = 1,
        enumerate_up_to: int = 1024,
        samples: int = 8,
        flips: bool = True,
        uniform: bool = False,
        sweeps: int = 1,
        symmetric: bool = False,
        edge_cost: float = 0.0,
    ) -> None:
        if receivers not in ("all", "one"):
            raise ValueError(f"search.receivers is {receivers!r}; it must be 'all' or 'one'")
        if receivers == "all" and horizon > 1:
            raise ValueError(
                f"search.receivers=all needs search.horizon=1, not {horizon}: receivers depend on each other"
            )
        if symmetric and (receivers != "all" or horizon > 1):
            raise ValueError("search.symmetric=true needs search.receivers=all and search.horizon=1")
        self.selection, self.receivers, self.horizon = selection, receivers, horizon
        self.symmetric, self.edge_cost = symmetric, edge_cost
        self.enumerate_up_to, self.samples, self.flips = enumerate_up_to, samples, flips
        self.uniform, self.sweeps = uniform, sweeps

    @property
    def priors(self) -> list[str]:
        """Structural priors in force, for whoever reports a figure."""
        priors = ["symmetric"] if self.symmetric else []
        return priors + ([f"edge cost {self.edge_cost:g} nats"] if self.edge_cost else [])

    def enumerates(self, model: RelationalModel, num_entities: int) -> bool:
        """Whether every row of a receiver is a candidate."""
        dynamics = model.dynamics
        rows = dynamics.num_edge_modules ** (num_entities - 1) * dynamics.num_node_modules
        return self.horizon == 1 and rows <= self.enumerate_up_to

    def needs_proposal(self, model: RelationalModel, num_entities: int) -> bool:
        """Whether candidates are sampled from the proposal network."""
        return not self.uniform and self.samples > 0 and not self.enumerates(model, num_entities)

    def candidates(
        self, model: RelationalModel, structure: Structure, logits: Tensor | None, generator: torch.Generator
    ) -> Candidates:
        k, g = model.dynamics.num_edge_modules, model.dynamics.num_node_modules
        if self.enumerates(model, structure.types.shape[1]):
            return enumerate_rows(structure, k, g)
        if self.symmetric:
            raise ValueError(
                f"search.symmetric=true weighs all rows of a receiver, here {k}^{structure.types.shape[1] - 1}, but "
                f"search.enumerate_up_to={self.enumerate_up_to}"
            )
        flips = self.flips and not self._by_slots(model, structure)
        return propose_rows(structure, None if self.uniform else logits, self.samples, flips, k, g, generator)

    def _relaxed(
        self, model: RelationalModel, states: Tensor, messages: Tensor, candidates: Candidates,
        known: Tensor | None, mask: Tensor | None,
    ) -> Candidates:  # fmt: skip
        """With `relaxed_rows` among them, for every node module."""
        rows, types, log_scale = [candidates.rows], [candidates.types], model.log_scale(states)
        for node_module in range(model.dynamics.num_node_modules):
            of = torch.full_like(candidates.current, node_module)  # (B, N)
            found = relaxed_rows(messages, model.unexplained(states, of), log_scale, mask)  # (B, N, M, S)
            rows.append(found if known is None else torch.where(known.unsqueeze(2) >= 0, known.unsqueeze(2), found))
            types.append(of.unsqueeze(2).expand(found.shape[:3]))
        return Candidates(torch.cat(rows, dim=2), torch.cat(types, dim=2), candidates.current)

    def _by_slots(self, model: RelationalModel, structure: Structure) -> bool:
        alone = self.receivers == "all" and self.horizon == 1
        return alone and self.flips and not self.enumerates(model, structure.types.shape[1])

    @torch.no_grad()
    def step(
        self,
        model: RelationalModel,
        states: Tensor,
        structure: Structure,
        logits: Tensor | None,
        temperature: Tensor,
        generator: torch.Generator,
        messages: Tensor | None = None,
        selection: Selection | None = None,
        known: Tensor | None = None,
        score: Score | None = None,
        gradients: bool = False,
        mask: Tensor | None = None,
        relax: bool = True,
    ) -> Outcome:
        """Moves the structures of a batch once.

        Args:
            states: observed (B, N, T, D).
            structure: current (B, N, S), (B, N).
            logits: of the proposal (B, N, S, K), where it is needed.
            messages: of `model.dynamics.messages`, to share them with a gradient step (horizon 1).
            selection: in place of the search's own.
            known: modules that are given (B, N, S), -1 where they are not; `structure` has them already.
            score: of `model.scorer`, likewise.
            mask: steps that count, (B, T - 1), as `score` has it; none for all.
            relax: where slots are drawn in turn, `relaxed_rows` are candidates before.
            gradients: energies of the new structures come with gradients, where whole structures are scored.
        """
        prior = self._prior(model.dynamics.num_edge_modules, states.device, known)
        if self.horizon == 1:
            messages = model.dynamics.messages(states, structure) if messages is None else messages
            score = model.scorer(states) if score is None else score
        how = selection or self.selection
        candidates = self.candidates(model, structure, logits, generator)
        if messages is not None and relax and model.dynamics.additive and self._by_slots(model, structure):
            candidates = self._relaxed(model, states, messages, candidates, known, mask)
        moving = self._moving(structure, generator)  # (B, N)
        current, movable = candidates.current, moving
        paid, wholes = prior_energies(prior, candidates.rows), None
        if messages is not None and score is not None:
            scores = paid + score(summed(messages, candidates.rows), candidates.types)
        else:  # structures are judged as wholes
            with torch.set_grad_enabled(gradients):
                wholes = self._score_whole(model, states, structure, candidates, moving)
            scores = wholes.energies.detach().unsqueeze(1) + (paid * moving.unsqueeze(2)).sum(1, keepdim=True)
            current, movable = current[:, :1], moving.any(1, keepdim=True)
        chosen = self.choose(model, scores, current, temperature, generator, how)  # (B, N) or (B, 1)
        chosen = torch.where(movable, chosen, current)
        new = _take(candidates, torch.where(moving, chosen, candidates.current))
        energies, slots = scores.gather(-1, chosen.unsqueeze(-1)).flatten(1), None
        worse = (scores > scores.gather(-1, current.unsqueeze(-1))) & movable.unsqueeze(-1)
        offered, accepted = worse.sum(), worse.gather(-1, chosen.unsqueeze(-1)).sum()
        if messages is not None and score is not None and self._by_slots(model, structure):
            types = model.dynamics.num_node_modules
            drawn = draw_slots(score, messages, new, prior, types, how, temperature, generator)
            new, slots, energies = drawn.structure, drawn.scores, drawn.energies
            offered, accepted = offered + drawn.worse, accepted + drawn.accepted
        with torch.set_grad_enabled(gradients):
            total = wholes.of(chosen).squeeze(1) if gradients and wholes is not None else energies.sum(-1)
        changed = (new.relations != structure.relations).any(-1) | (new.types != structure.types)
        return Outcome(
            structure=new,
            energies=total,
            candidates=candidates,
            scores=scores,
            slots=slots,
            moved=changed.any(-1),
            changed=changed.sum() / moving.sum(),
            worse=offered,
            accepted=accepted,
        )

    def _prior(self, num_modules: int, device: torch.device, known: Tensor | None) -> Tensor:
        """Energy of every module in every slot before a frame is seen, (B or 1, N or 1, S or 1, K)."""
        modules = torch.arange(num_modules, device=device)
        prior = self.edge_cost * (modules != 0).float().view(1, 1, 1, -1)
        if known is None:
            return prior
        given = known.unsqueeze(-1)
        return prior + IMPOSSIBLE * ((given >= 0) & (given != modules))

    def choose(
        self, model: RelationalModel, scores: Tensor, current: Tensor, temperature: Tensor,
        generator: torch.Generator, how: Selection,
    ) -> Tensor:  # fmt: skip
        """Which of the scored candidates (B, N, M) each receiver takes, (B, N).

        Under the prior that relations are mutual rows are chosen together, the node module then as its row would have
        it.
        """
        if not self.symmetric:
            return how(scores, current, temperature, generator)
        k, g = model.dynamics.num_edge_modules, model.dynamics.num_node_modules
        by_type = scores.unflatten(-1, (-1, g))
        least = how is greedy
        rows = by_type.amin(-1) if least else -temperature * (-by_type / temperature).logsumexp(-1)
        row = choose_symmetric(rows, k, temperature, generator, least, self.enumerate_up_to)  # (B, N)
        of_row = by_type.gather(2, row.view(*row.shape, 1, 1).expand(*row.shape, 1, g)).squeeze(2)
        return row * g + how(of_row, torch.zeros_like(row), temperature, generator)

    def _moving(self, structure: Structure, generator: torch.Generator) -> Tensor:
        b, n = structure.types.shape
        if self.receivers == "all":
            return structure.types.new_ones(b, n, dtype=torch.bool)
        receiver = torch.randint(n, (b, 1), generator=generator, device=structure.types.device)
        return receiver == torch.arange(n, device=structure.types.device)

    def _score_whole(
        self, model: RelationalModel, states: Tensor, structure: Structure, candidates: Candidates, moving: Tensor
    ) -> "Wholes":
        """Structures in which the moving receiver takes each of its candidates, the current one first."""
        moves = moving.unsqueeze(2)  # (B, N, 1)
        rows = torch.where(moves.unsqueeze(3), candidates.rows, structure.relations.unsqueeze(2))  # (B, N, M, S)
        types = torch.where(moves, candidates.types, structure.types.unsqueeze(2))
        same = (rows == structure.relations.unsqueeze(2)).all(-1) & (types == structure.types.unsqueeze(2))
        task, other = (~same.all(1)).nonzero(as_tuple=True)  # a proposal that changes nothing needs no rollout
        structures = Structure(
            torch.cat((structure.relations, rows.transpose(1, 2)[task, other])),
            torch.cat((structure.types, types.transpose(1, 2)[task, other])),
        )
        kept, place = Kept(), torch.arange(len(states), device=states.device).unsqueeze(1).repeat(1, rows.shape[2])
        place[task, other] = len(states) + torch.arange(len(task), device=states.device)
        energies = model.energies(torch.cat((states, states[task])), structures, self.horizon, kept).sum(-1)
        return Wholes(energies[place], place, kept)


class Wholes(NamedTuple):
    """Whole structures, M a task.

    Attributes:
        energies: (B, M).
        place: which of the rollouts told each of them, (B, M).
        kept: of these rollouts.
    """

    energies: Tensor
    place: Tensor
    kept: Kept

    def of(self, chosen: Tensor) -> Tensor:
        """Energies (B, 1) of the chosen ones (B, 1), to which alone gradients will be kept."""
        self.kept.tasks = torch.zeros(int(self.place.max()) + 1, dtype=torch.bool, device=chosen.device)
        self.kept.tasks[self.place.gather(1, chosen)] = True
        return self.energies.gather(1, chosen)


def _take(candidates: Candidates, chosen: Tensor) -> Structure:
    """The chosen candidate (B, N) of every receiver."""
    b, n = chosen.shape
    m, s = candidates.rows.shape[-2:]
    rows = candidates.rows.expand(b, n, m, s).gather(2, chosen.view(b, n, 1, 1).expand(b, n, 1, s)).squeeze(2)
    types = candidates.types.expand(b, n, m).gather(2, chosen.unsqueeze(-1)).squeeze(-1)
    return Structure(rows, types)


class Inferred(NamedTuple):
    """Structures of tasks never trained on.

    Attributes:
        structure: found.
        probabilities: of every module on every edge, (B, N, S, K).
        energies: of the structures, (B,); infinite for tasks so far from what the model knows that no
            structure can be weighed.
        gap: energy of the second best row above the best, (B, N) nats (horizon 1 only).
    """

    structure: Structure
    probabilities: Tensor
    energies: Tensor
    gap: Tensor | None


@torch.no_grad()
def infer(
    search: Search,
    model: RelationalModel,
    proposal: Callable[[Tensor], Tensor] | None,
    states: Tensor,
    generator: torch.Generator,
    known: Tensor | None = None,
    mask: Tensor | None = None,
) -> Inferred:
    """Structures of a batch (B, N, T, D), searched from random ones for `search.sweeps` steps.

    Steps only improve, but for passes slot by slot, which cool down to it. Relations `known`, (B, N, S) and not -1,
    stay; frame steps outside `mask`, (B, T - 1), do not count.

    Raises:
        UserError: rollouts of several frames are asked for where some are missing.
    """
    b, n = states.shape[:2]
    dynamics = model.dynamics
    k, g = dynamics.num_edge_modules, dynamics.num_node_modules
    structure = clamped(random_structure(b, n, k, g, generator), known)
    needs = proposal is not None and search.needs_proposal(model, n)
    logits = proposal(states).nan_to_num() if needs and proposal is not None else None
    zero = states.new_tensor(1e-30)
    if search.horizon > 1 and mask is not None:
        raise UserError(f"search.horizon={search.horizon} rolls through all frames, so none may be missing")
    score = bounded(model.scorer(states, mask=mask)) if search.horizon == 1 else None
    lost = torch.zeros(b, dtype=torch.bool, device=states.device)
    for sweep in range(search.sweeps):
        messages = dynamics.messages(states, structure if sweep else None) if search.horizon == 1 else None
        if messages is not None:
            least, most = messages.flatten(1).aminmax(dim=1)
            overflown = ~(least.isfinite() & most.isfinite())
            if overflown.any():
                messages, lost = messages.nan_to_num(0, 0, 0), lost | overflown
        heats = torch.empty(0)
        if search._by_slots(model, structure):
            passes = 2 if dynamics.additive else PASSES
            heats = torch.logspace(0 if dynamics.additive else math.log10(HOT), 0, passes, device=states.device)
        step = partial(search.step, model, states, logits=logits, generator=generator, messages=messages)
        step = partial(step, known=known, score=score, mask=mask)
        for number, heat in enumerate(heats):
            move = partial(step, structure, temperature=heat, selection=gibbs)
            try:
                structure = move(relax=number == 0).structure
            except torch.linalg.LinAlgError:  # a task's errors overflow, as its energies will say
                structure = move(relax=False).structure
        outcome = step(structure, temperature=zero, selection=greedy, relax=False)
        structure = outcome.structure
    lost = lost | ~(outcome.energies < LARGEST)
    outcome = outcome._replace(energies=outcome.energies.masked_fill(lost, torch.inf))
    if search.horizon > 1:
        certain = torch.nn.functional.one_hot(structure.relations, k).to(states.dtype)
        return Inferred(structure, certain, outcome.energies, None)
    if outcome.slots is not None:
        least = outcome.slots.topk(min(2, k), dim=-1, largest=False).values
        gap = (least[..., -1] - least[..., 0]).amin(-1)
        return Inferred(structure, (-outcome.slots).softmax(-1), outcome.energies, gap)
    least = outcome.scores.topk(min(2, outcome.scores.shape[-1]), dim=-1, largest=False).values
    return Inferred(
        structure,
        marginals(outcome.candidates, outcome.scores, k),
        outcome.energies,
        least[..., -1] - least[..., 0],
    )


def bounded(score: Score) -> Score:
    """A scorer whose energies are numbers, whatever the states."""
    return lambda received, types: (
        score(received, types).nan_to_num(LARGEST, LARGEST, -LARGEST).clamp(-LARGEST, LARGEST)
    )


def together(parts: list[Inferred]) -> Inferred:
    """Inferred structures of several batches as those of one."""
    structures, probabilities, energies, gaps = zip(*parts, strict=True)
    structure = Structure(*(torch.cat(slots) for slots in zip(*structures, strict=True)))
    gap = None if gaps[0] is None else torch.cat(gaps)
    return Inferred(structure, torch.cat(probabilities), torch.cat(energies), gap)


def clamped(structure: Structure, known: Tensor | None) -> Structure:
    """A structure with the modules that are given, (B, N, S), -1 where they are not."""
    if known is None:
        return structure
    return Structure(torch.where(known >= 0, known, structure.relations), structure.types)
