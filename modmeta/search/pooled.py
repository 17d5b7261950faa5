"""Search where the tasks of a group share a structure: energies are summed over all tasks of a group.

A pooled problem has one structure a group; its tasks are met a few at a time, so that memory does not grow with their
number, and every pass over them serves all candidates. Rows short enough to enumerate are scored exactly. Longer ones,
where messages add up, follow from Gram matrices of messages (weighted as the likelihood weighs errors of the structure
so far), which are summed over tasks once and then serve any number of draws. Where messages do not add up, a pass
scores all changes of a single edge or node module.

Letters: G groups, B tasks met at once, N entities, S senders, K edge modules, T frames, L = T - 1 steps, C channels,
M candidates.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from modmeta.errors import UserError
from modmeta.graph.bank import Structure, random_structure
from modmeta.model.dynamics.base import summed
from modmeta.model.sight import counted, widened
from modmeta.search import halfway
from modmeta.search.candidates import every_row, marginals, sampled_rows, take
from modmeta.search.infer import Inferred, bounded
from modmeta.search.problem import Candidates, Problem, prior_energies
from modmeta.search.relax import decoded
from modmeta.search.search import Search
from modmeta.search.slow import joined, log_odds, moments, parted
from modmeta.shapes import Float

AT_ONCE = 2**24  # numbers of messages, or of candidates' sums, that are held at once
ROUNDS = 4  # of Gram matrices, each weighted by the errors of the structure before
SWEEPS, KEPT = 30, 20  # of draws from Gram matrices; the last ones give probabilities
FLIPS = 200  # passes of changes of a single edge that cool down, and at most as many that take the best
HOT = 1e3  # of the first draws, in units of the last temperature


class Batch(NamedTuple):
    """Some tasks of one number of entities.

    Attributes:
        states: (B, N, T, D).
        groups: group of every task, (B,), from 0 to G - 1.
        mask: how well steps are known, (B, N, T - 1); None for all observed.
    """

    states: Tensor
    groups: Tensor
    mask: Tensor | None


class Quadratic(NamedTuple):
    """Energies of rows, (alone - 2 linear z + z square z) / 2 for one-hot z (S K), up to a constant.

    Attributes:
        square: (G, N, S K, S K).
        linear: (G, N, S K).
        alone: (G, N).
    """

    square: Tensor
    linear: Tensor
    alone: Tensor


def in_batches(
    states: Tensor, groups: Tensor, mask: Tensor | None, ids: Tensor | None = None
) -> Callable[[int], Iterable[Batch]]:
    """The `batches` of a pooled problem from tasks (B, N, T, D), (B, N, T - 1): all, or those with these ids.

    As many as there are ids have `groups`.
    """

    def batches(size: int) -> Iterable[Batch]:
        size = max(1, size // (states.shape[2] * states.shape[3]))
        chosen = torch.arange(len(states)) if ids is None else ids
        for part, of in zip(chosen.split(size), groups.split(size), strict=True):
            if len(part):  # a process may have no tasks
                yield Batch(states[part], of, None if mask is None else mask[part])

    return batches


@dataclass(frozen=True)
class PooledProblem(Problem):
    """G groups whose structures are searched; `states` (G, N, 1, D) have their sizes only.

    Attributes:
        batches: function of the number of numbers a frame and feature at once to all tasks of this process.
        reduce: sum over processes; None for one.
        gather: the values of all processes, which have neighbouring tasks, in order; None for one.
    """

    batches: Callable[[int], Iterable[Batch]] | None = None
    reduce: Callable[[Tensor], Tensor] | None = None
    gather: Callable[[dict[int, Any]], list[dict[int, Any]]] | None = None

    def _few(self, numbers: int) -> Iterable[Batch]:
        """Tasks, as many at once as so many numbers a frame and feature of each have room."""
        assert self.batches is not None, "a pooled problem has tasks"
        return self.batches(max(1, AT_ONCE // max(numbers, 1)))

    def _over_processes(self, total: Tensor) -> Tensor:
        return total if self.reduce is None else self.reduce(total)

    def energies(self, candidates: Candidates) -> Float[Tensor, "G N M"]:
        """Energies (G, N, M) of the candidates of every receiver, summed over the tasks of its group."""
        rows, types, (g, n) = candidates.rows, candidates.types, self.states.shape[:2]
        m = rows.shape[2]
        total = torch.zeros(g, n, m, dtype=torch.float64, device=self.states.device)
        dynamics = self.model.dynamics
        for states, groups, mask in self._few(n * max(n * dynamics.num_edge_modules, m)):
            score, messages = self.model.scorer(states, mask=mask), self.model.messages(states, mask=mask)
            mine = [part.expand(g, *part.shape[1:])[groups] for part in (rows, types)]
            total.index_add_(0, groups, bounded(score.rows(messages, *mine)).double())
        return self._over_processes(total) + prior_energies(self.prior, rows)

    def by_steps(self, way: str) -> Float[Tensor, "G N S"]:
        """Log odds of relations by `search.slow`; worked out once, from the steps of all processes.

        Raises:
            UserError: several features change, and the way is not `halfway`.
        """
        n, any_number = self.states.shape[1], way == "halfway"
        if way not in self._told:

            def begin(states: Tensor, counts: Tensor | None) -> Any:
                if any_number:
                    return halfway.ends(states, counts)
                values, drives = parted(states)
                if (d := values.shape[-1]) > 1:
                    message = f"search.slow={way} is for states of one feature, not {d}; set it to halfway or null"
                    raise UserError(message)
                return moments(values[..., 0], counts, drives)

            add: Callable[..., Any] = halfway.joined if any_number else joined
            tell: Callable[..., Tensor] = halfway.log_odds if any_number else partial(log_odds, way=way)
            found: dict[int, Any] = {}
            for states, groups, mask in self._few(n):
                for group in groups.unique().tolist():
                    of = groups == group
                    counts = None if mask is None else counted(mask[of]).all(1)
                    mine = begin(states[of], counts)
                    found[group] = add(found[group], mine) if group in found else mine
            told, device = torch.zeros(len(self.states), n, n - 1, dtype=torch.float64), self.states.device
            for group, steps in self._gathered(found, add).items():
                told[group] = tell(type(steps)(*(part.to(device) for part in steps))).cpu()
            self._told[way] = told.to(device)
        return self._told[way]

    def _gathered(self, found: dict[int, Any], add: Callable[..., Any]) -> dict[int, Any]:
        """By group what the tasks of all processes add up to."""
        if self.gather is None:
            return found
        mine = {group: type(steps)(*(part.cpu() for part in steps)) for group, steps in found.items()}
        whole: dict[int, Any] = {}
        for theirs in self.gather(mine):
            whole |= {group: add(whole[group], part) if group in whole else part for group, part in theirs.items()}
        return whole

    @cached_property
    def _told(self) -> dict[str, Tensor]:
        return {}

    def quadratic(self, structure: Structure | None, types: Tensor) -> Quadratic:
        """Sums over tasks of what rows' energies are made of, for additive dynamics.

        Args:
            structure: (G, N, S), whose errors say how much steps weigh; None for the likelihood's own scale.
            types: node modules (G, N).
        """
        (g, n), k, model = self.states.shape[:2], self.num_edge_modules, self.model
        size = (n - 1) * k
        empty = torch.zeros(g, n, size, size, dtype=torch.float64, device=self.states.device)
        total = Quadratic(empty, empty[..., 0].clone(), empty[..., 0, 0].clone())
        for states, groups, mask in self._few(n * n * k):
            known = model.messages(states, mask=mask)
            messages = model.dynamics.without_constants(model.values(known), states, mask)
            left = model.dynamics.without_constants(model.unexplained(states, types[groups]), states, mask)
            scale, error = model.log_scale(states).expand_as(left), torch.zeros_like(left)
            if structure is not None:
                error = left - summed(messages, structure.edge_modules[groups].unsqueeze(2)).squeeze(2)
                if mask is not None:  # what is left out of the structure's messages
                    rows = structure.edge_modules[groups].unsqueeze(2)
                    scale = widened(scale, summed(known[..., left.shape[-1] :], rows).squeeze(2))
            weight = model.likelihood.weight(error, scale) if structure is not None else (-2 * scale).exp()
            if mask is not None:
                weight = weight * counted(mask).unsqueeze(-1)
            root = weight.double().sqrt().flatten(2)  # (B, N, L C)
            columns = messages.flatten(2, 3).flatten(3).double() * root.unsqueeze(2)  # (B, N, S K, L C)
            wanted = left.flatten(2).double() * root
            found = (columns @ columns.mT, (columns @ wanted.unsqueeze(-1)).squeeze(-1), wanted.square().sum(-1))
            for whole, part in zip(total, found, strict=True):
                whole.index_add_(0, groups, part)
        return Quadratic(*(self._over_processes(part) for part in total))


@torch.no_grad()
def infer_pooled(
    search: Search,
    problem: PooledProblem,
    generator: torch.Generator,
    structure: Structure | None = None,
    temperature: float = 1.0,
    draw: bool = False,
) -> Inferred:
    """Structures of groups (G, N, S) and their probabilities.

    Args:
        search: settings of the search; receivers move all at once, at horizon 1.
        problem: the groups.
        generator: of draws; the same in all processes.
        structure: where to begin; None for a random one.
        temperature: by which energies are divided.
        draw: the structure is a draw at the temperature, otherwise the likeliest.
    """
    model, (g, n) = problem.model, problem.states.shape[:2]
    if search.slow is not None:
        return _by_steps(problem, search.slow, structure if draw else None, temperature)
    k, types = problem.num_edge_modules, problem.num_node_modules
    begin = structure or random_structure(g, n, k, types, generator)
    if search.enumerates(model, n):
        return _enumerated(problem, generator, begin, temperature, draw)
    if model.dynamics.additive and types == 1:
        return _by_grams(problem, generator, structure, begin.node_modules, temperature, draw)
    return _by_flips(problem, generator, begin, structure is not None, temperature, draw)


def _by_steps(problem: PooledProblem, way: str, known: Structure | None, temperature: float) -> Inferred:
    """Relations from steps that reach beyond neighbours; modules have no say, so known structures stay."""
    nothing = torch.zeros(len(problem.states), dtype=torch.float64, device=problem.states.device)
    if known is not None:
        chances = F.one_hot(known.edge_modules, problem.num_edge_modules).float()
        return Inferred(known, chances, nothing, None)
    told = problem.by_steps(way)
    chances = torch.sigmoid(torch.stack([-told, told], -1) / temperature)
    none = torch.zeros(told.shape[:2], dtype=torch.long, device=told.device)
    return Inferred(Structure((told > 0).long(), none), chances.float(), nothing, told.abs().amin(-1))


def _enumerated(
    problem: PooledProblem, generator: torch.Generator, begin: Structure, temperature: float, draw: bool
) -> Inferred:
    candidates = every_row(generator, begin, problem)
    energies = problem.energies(candidates)
    weights = (-energies / temperature).softmax(-1)
    chosen = energies.argmin(-1)
    if draw:
        chosen = torch.multinomial(weights.flatten(0, 1), 1, generator=generator).view(chosen.shape)
    least = energies.topk(min(2, energies.shape[-1]), largest=False).values
    of = energies.gather(-1, chosen.unsqueeze(-1)).squeeze(-1)
    probabilities = marginals(candidates, energies / temperature, problem.num_edge_modules)
    return Inferred(take(candidates, chosen), probabilities.float(), of.sum(-1), least[..., -1] - least[..., 0])


def _by_flips(
    problem: PooledProblem, generator: torch.Generator, structure: Structure, warm: bool, temperature: float, draw: bool
) -> Inferred:
    """Every receiver changes one edge, or its node module, at a time.

    From a random structure, draws at a falling temperature; then the best change until none is left.
    """
    propose = sampled_rows(0, flips=True)
    (_, _, s), k = structure.edge_modules.shape, problem.num_edge_modules
    heat, falling = temperature, 0 if warm else FLIPS
    for step in range(1 if draw else falling + FLIPS):
        candidates = propose(generator, structure, problem)
        energies = problem.energies(candidates)  # (G, N, 1 + S (K - 1) + ...)
        chosen = energies.argmin(-1)
        if step == 0 and falling:
            heat = max(float(energies.std(-1).mean()), temperature)
        if draw or step < falling:
            now = temperature if draw else heat * (temperature / heat) ** (step / falling)
            weights = (-energies / now).softmax(-1)
            chosen = torch.multinomial(weights.flatten(0, 1), 1, generator=generator).view(chosen.shape)
        elif not bool(chosen.any()):
            break
        structure = take(candidates, chosen)
    change = energies[..., 1 : 1 + s * (k - 1)] - energies[..., :1]  # what each change of an edge costs
    costs = F.pad(change.unflatten(-1, (k - 1, s)).mT, (1, 0))  # (G, N, S, K) from the module it has
    place = (structure.edge_modules.unsqueeze(-1) + torch.arange(k, device=costs.device)) % k
    costs = torch.zeros_like(costs).scatter(-1, place, costs)
    gap = change.amin(-1)
    return Inferred(structure, (-costs / temperature).softmax(-1).float(), energies[..., 0].sum(-1), gap)


def _by_grams(
    problem: PooledProblem, generator: torch.Generator, structure: Structure | None, types: Tensor,
    temperature: float, draw: bool,
) -> Inferred:  # fmt: skip
    """Rows from Gram matrices, drawn slot by slot; how frequent every module is, is learned on the way.

    Chains that cool down may be stuck. Receivers do not depend on one another, so that each goes on from the best of
    the rows that any round, or linear algebra, has found for it.
    """
    k, tried = problem.num_edge_modules, []
    for step in range(1 if draw else ROUNDS):
        quadratic = problem.quadratic(structure, types)
        warm = structure if step == 0 else None
        rows = decoded(quadratic.square, quadratic.linear, k) if warm is None else warm.edge_modules
        tried.append(rows)
        heats = [temperature] * SWEEPS if warm else _cooling(temperature)
        rows, costs, kept = _chain(problem, quadratic, rows, heats, draw, generator)
        tried.append(rows)
        structure = Structure(rows, types)
    if not draw:
        prior = temperature * -_shares(rows, k).log() + problem.prior
        best = best_rows(quadratic, torch.stack(tried), prior)
        rows, _, kept = _chain(problem, quadratic, best, [temperature] * KEPT, draw, generator)
        rows = best_rows(quadratic, torch.stack((best, rows)), prior)  # draws may have led away
        rows, costs = _drawn(quadratic, rows, prior / temperature, temperature, True, generator)
    least = costs.topk(2, largest=False).values
    gap = (least[..., 1] - least[..., 0]).amin(-1)
    return Inferred(Structure(rows, types), kept.float(), _energies(quadratic, rows, k).sum(-1), gap)


def _chain(
    problem: PooledProblem, quadratic: Quadratic, rows: Tensor, heats: list[float], draw: bool,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Rows after sweeps at these temperatures, costs of modules in the last, mean probabilities of the last ones."""
    k, temperature, kept = problem.num_edge_modules, heats[-1], []
    for sweep, heat in enumerate(heats):
        last = sweep == len(heats) - 1 and not draw
        prior = -_shares(rows, k).log() + problem.prior / temperature
        rows, costs = _drawn(quadratic, rows, prior, heat, last, generator)
        if sweep >= len(heats) - KEPT:
            kept.append((-costs / heat).softmax(-1))
    return rows, costs, torch.stack(kept).mean(0)


def _energies(quadratic: Quadratic, rows: Tensor, k: int) -> Tensor:
    """Energies (..., G, N) of rows (..., G, N, S)."""
    chosen = F.one_hot(rows, k).to(quadratic.linear).flatten(-2)
    pull = (quadratic.square @ chosen.unsqueeze(-1)).squeeze(-1) - 2 * quadratic.linear
    return (quadratic.alone + (pull * chosen).sum(-1)) / 2


def best_rows(quadratic: Quadratic, tried: Tensor, prior: Tensor) -> Tensor:
    """Of rows (R, G, N, S) those of every receiver, (G, N, S), that cost least; `prior` broadcasts to (S, K)."""
    k = quadratic.square.shape[-1] // tried.shape[-1]
    cost = (F.one_hot(tried, k) * prior.expand(*tried.shape, k)).sum((-1, -2))
    best = (_energies(quadratic, tried, k) + cost).argmin(0)
    return tried.gather(0, best[None, ..., None].expand(1, *tried.shape[1:])).squeeze(0)


def _cooling(temperature: float) -> list[float]:
    falling = torch.logspace(0, 1, SWEEPS - KEPT, base=1 / HOT, dtype=torch.float64) * HOT * temperature
    return [*falling.tolist(), *[temperature] * KEPT]


def _shares(rows: Tensor, k: int) -> Tensor:
    """How frequent every module is, (K,), one edge of each added."""
    counts = torch.bincount(rows.flatten(), minlength=k).double() + 1
    return counts / counts.sum()


def _drawn(
    quadratic: Quadratic, rows: Tensor, prior: Tensor, temperature: float, least: bool, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """One sweep over the slots of all receivers: new rows, and the energies of every module given the other slots.

    Args:
        quadratic: energies.
        rows: (G, N, S).
        prior: negative logarithm of what modules are expected, broadcastable to (G, N, S, K).
        temperature: of the draws.
        least: take the likeliest module instead of a draw.
        generator: of the draws.
    """
    (g, n, s), k = rows.shape, prior.shape[-1]
    prior = prior.expand(g, n, s, k)
    z = F.one_hot(rows, k).to(quadratic.linear).flatten(2)
    field = (quadratic.square @ z.unsqueeze(-1)).squeeze(-1) - quadratic.linear  # (G, N, S K)
    costs = torch.empty(g, n, s, k, dtype=field.dtype, device=field.device)
    own = quadratic.square.diagonal(dim1=-2, dim2=-1)
    for slot in torch.randperm(s, generator=generator, device=generator.device).tolist():
        here = slice(slot * k, slot * k + k)
        now = z[..., here]
        others = field[..., here] - (quadratic.square[..., here, here] @ now.unsqueeze(-1)).squeeze(-1)
        costs[:, :, slot] = others + own[..., here] / 2 + temperature * prior[:, :, slot]
        if least:
            chosen = costs[:, :, slot].argmin(-1)
        else:
            weights = (-costs[:, :, slot] / temperature).softmax(-1).flatten(0, 1)
            chosen = torch.multinomial(weights, 1, generator=generator).view(g, n)
        new = F.one_hot(chosen, k).to(z)
        field = field + (quadratic.square[..., here] @ (new - now).unsqueeze(-1)).squeeze(-1)
        z[..., here] = new
    return z.unflatten(-1, (s, k)).argmax(-1), costs
