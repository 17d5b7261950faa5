"""Chains: hypotheses on paths and structure of a task, improved together, several per task in one batch.

Q chains, H hidden entities; N entities include the hidden ones, which come last. A row is the set of incoming edges of
a receiver.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from modmeta.graph.bank import Structure
from modmeta.graph.relations import from_matrix, senders, to_matrix
from modmeta.hidden.paths import Linear, deviations, linearise, prior_energy, refit
from modmeta.hidden.scene import Scene
from modmeta.search.candidates import propose_rows
from modmeta.search.infer import infer
from modmeta.search.mutual import mutual_selection
from modmeta.search.problem import Problem
from modmeta.search.search import Search
from modmeta.search.selection import Selection, greedy

FRAMES = 3200  # frames of all chains in one call for derivatives; larger batches amortise the fixed cost of a call
SYSTEMS = 80  # systems of equations solved at once; bounds memory
FRACTIONS = (1.0, 0.3, 0.1)  # fractions of a step that are tried (backtracking)
MIN_GAIN = 0.1  # nats that a step must gain, else the chain takes no further step
# An entity counts as explained if the 75th percentile of its errors is below this many scales (Student's t: 1.4). The
# median is not enough: a wrong path may be right half of the time.
EXPLAINED = 2.5
MAX_REFITTED_ROWS = 64  # with more candidate rows per receiver, paths are refitted only to rows that differ in one slot
ENERGY_CAP = 1e10  # nats above a receiver's best row at which energies are capped
TEMPERATURE = torch.tensor(1e-30)  # of the selection among scored candidates: practically greedy
SCORED_EXACTLY = 4  # number of refitted structures whose energies are computed without linearisation


class Chains(NamedTuple):
    """Q hypotheses.

    Attributes:
        scene: index of each chain's scene (Q,).
        paths: states of the hidden entities (Q, H, T, D).
        structure: relations (Q, N, S), types (Q, N).
        energies: energies of the receivers (Q, N), nats.
    """

    scene: Tensor
    paths: Tensor
    structure: Structure
    energies: Tensor

    def at(self, chosen: Tensor) -> "Chains":
        """The chains with the indices, or the mask, `chosen`."""
        relations, types = self.structure
        structure = Structure(relations[chosen], types[chosen])
        return Chains(self.scene[chosen], self.paths[chosen], structure, self.energies[chosen])

    @property
    def energy(self) -> Tensor:
        """Energy of each chain (Q,), nats."""
        return self.energies.sum(1)


def joined(parts: list[Chains]) -> Chains:
    """Concatenates batches of chains."""
    structure = Structure(*(torch.cat(field) for field in zip(*(part.structure for part in parts), strict=True)))
    return Chains(
        torch.cat([part.scene for part in parts]),
        torch.cat([part.paths for part in parts]),
        structure,
        torch.cat([part.energies for part in parts]),
    )


def better(new: Chains, old: Chains) -> Chains:
    """The version of lower energy of each chain."""
    wins = new.energy < old.energy  # false for NaN
    structure = Structure(
        torch.where(wins.view(-1, 1, 1), new.structure.edge_modules, old.structure.edge_modules),
        torch.where(wins.view(-1, 1), new.structure.node_modules, old.structure.node_modules),
    )
    energies = torch.where(wins.view(-1, 1), new.energies, old.energies)
    return Chains(old.scene, torch.where(wins.view(-1, 1, 1, 1), new.paths, old.paths), structure, energies)


class Improver:
    """Moves that improve chains. Relations are known, or each receiver takes the best row that the search proposes.

    Args:
        scene: scenes of all tasks.
        search: search that proposes candidate rows; None if relations are known.
        generator: random generator of sampled candidates.
    """

    def __init__(self, scene: Scene, search: Search | None, generator: torch.Generator) -> None:
        self.scene, self.search, self.generator = scene, search, generator
        self.model = scene.model
        self.problem = Problem(scene.model, scene.visible)  # candidate rows depend only on the numbers of modules
        self.select: Selection = greedy
        if search is not None and search.symmetric:
            dynamics, most = scene.model.dynamics, search.enumerate_up_to
            self.select = mutual_selection(greedy, dynamics.num_edge_modules, dynamics.num_node_modules, most)

    def candidates(self, structure: Structure, free: bool = True) -> tuple[Tensor, Tensor, Tensor]:
        """Candidate rows (Q, N, M, S) and types (Q, N, M), and the index of the current ones (Q, N).

        If not `free`, or if relations are known, the current row is the only candidate.
        """
        q, n = structure.node_modules.shape
        if self.search is None or not free:
            return (
                structure.edge_modules.unsqueeze(2),
                structure.node_modules.unsqueeze(2),
                torch.zeros_like(structure.node_modules),
            )
        propose = self.search.proposes(self.model, n)
        rows, types, current = propose(self.generator, structure, self.problem)
        return rows.expand(q, n, *rows.shape[2:]), types.expand(q, n, -1), current

    def visible_relations(self, scene: Scene) -> Tensor | None:
        """Relations among visible entities, inferred without hidden ones, if too many to enumerate; None otherwise."""
        if self.search is None or self.search.enumerates(self.model, scene.visible.shape[1]):
            return None
        return infer(self.search, self.model, None, scene.visible, self.generator).structure.edge_modules

    def judged(self, chains: Chains, free: bool = True) -> Chains:
        """Scores the chains and gives every receiver its best candidate row."""
        parts = []
        for part in _chunks(chains, 4 * FRAMES):
            scene = self._frames(part)
            rows, types, current = self.candidates(part.structure, free)
            energies = self.model.receiver_energies(
                scene.states(part.paths), scene.all_messages(part.paths), rows, types
            ).nan_to_num(torch.inf)
            best = energies.argmin(-1)
            if self.search is not None and free:
                least = energies.amin(-1, keepdim=True).clamp(max=ENERGY_CAP**2)
                best = self.select(energies.minimum(least + ENERGY_CAP), current, TEMPERATURE, self.generator)
            least = energies.gather(2, best.unsqueeze(-1)).squeeze(-1)
            least[:, -scene.hidden :] += prior_energy(self._scaled(part.paths))
            structure = Structure(
                rows.gather(2, best[..., None, None].expand(-1, -1, 1, rows.shape[-1])).squeeze(2),
                types.gather(2, best.unsqueeze(-1)).squeeze(-1),
            )
            parts.append(Chains(part.scene, part.paths, structure, least))
        return joined(parts)

    def refined(self, chains: Chains, steps: int, free: bool = True) -> Chains:
        """Refines paths by Gauss-Newton steps; after each step every receiver takes its best candidate row."""
        going = torch.arange(len(chains.scene))
        for _ in range(steps):
            now = chains.at(going)
            move = torch.cat([self._move(part) for part in _chunks(now, FRAMES)])
            new = now
            for fraction in FRACTIONS:
                new = better(self.judged(now._replace(paths=now.paths + fraction * move), free), new)
            chains = put(chains, going, new)
            going = going[now.energy - new.energy > MIN_GAIN]
            if not len(going):
                break
        return chains

    def restructured(self, chains: Chains, receivers: Tensor, free: bool = True) -> Chains:
        """Changes one receiver's row in each chain, after refitting the path to every candidate row.

        A path that was fitted to a wrong row makes that row look right, so rows are compared after refitting. The refit
        uses linearised errors; the best few candidates are then scored exactly.

        Args:
            chains: Q chains.
            receivers: indices of the receivers whose rows may change (R,).
            free: afterwards let all receivers take their best rows.
        """
        return joined([self._restructured(part, receivers, free) for part in _chunks(chains, FRAMES // 4)])

    def _restructured(self, chains: Chains, receivers: Tensor, free: bool) -> Chains:
        scene, (q, n) = self._frames(chains), chains.structure.node_modules.shape
        rows, types, current = self.candidates(chains.structure)
        every = rows.shape[2] <= MAX_REFITTED_ROWS
        if not every:
            k, g = self.model.dynamics.num_edge_modules, self.model.dynamics.num_node_modules
            rows, types, current = propose_rows(chains.structure, None, 0, True, k, g, self.generator)
        m = rows.shape[2]
        linear = linearise(scene, chains.paths, rows, types)
        chosen = current.unsqueeze(1).expand(q, len(receivers) * m, n).clone()  # (Q, C, N)
        place, moving, taken = torch.arange(len(receivers) * m), receivers.repeat_interleave(m), torch.arange(m)
        if self.search is not None and self.search.symmetric and every:  # else `judged` makes relations mutual
            chosen = self._mirrored(chains.structure, rows[0, 0, taken.repeat(len(receivers))], moving)
        chosen[:, place, moving] = taken.repeat(len(receivers))
        chain, entity = torch.arange(q).view(-1, 1, 1), torch.arange(n)
        picked = Linear(
            linear.errors[chain, entity, chosen].flatten(0, 1),
            *(part.movedim(1, -1)[chain, entity, chosen].movedim(-1, 2).flatten(0, 1) for part in linear[1:]),
        )  # Q C scenes
        each = len(place)
        log_scale = scene.log_scale(chains.paths).repeat_interleave(each, dim=0)
        scaled = self._scaled(chains.paths).transpose(1, 2).flatten(2).repeat_interleave(each, dim=0)
        likelihood, refits = self.model.likelihood, []
        for some in torch.arange(q * each).split(SYSTEMS):
            part = Linear(*(field[some] for field in picked))
            refits.append(refit(part, likelihood, log_scale[some], scaled[some], rounds=3)[:2])
        move, expected = (torch.cat(field) for field in zip(*refits, strict=True))
        best = expected.view(q, each).topk(min(SCORED_EXACTLY, each), largest=False).indices  # (Q, best)
        move = self._unscaled(move, chains.paths).view(q, each, *chains.paths.shape[1:])
        result = chains
        for rank in best.T:
            at = torch.arange(q)
            pick = chosen[at, rank]  # (Q, N)
            structure = Structure(
                rows.gather(2, pick[..., None, None].expand(-1, -1, 1, rows.shape[-1])).squeeze(2),
                types.gather(2, pick.unsqueeze(-1)).squeeze(-1),
            )
            for fraction in FRACTIONS[:2]:
                new = Chains(chains.scene, chains.paths + fraction * move[at, rank], structure, chains.energies)
                result = better(self.judged(new, free), result)
        return result

    def _mirrored(self, structure: Structure, rows: Tensor, receivers: Tensor) -> Tensor:
        """Candidate indices of all entities (Q, C, N) where in each of C cases one receiver takes a new row (C, S), and
        the reverse edges change with it, so that relations stay mutual. All rows are candidates."""
        k, g = self.model.dynamics.num_edge_modules, self.model.dynamics.num_node_modules
        n = structure.node_modules.shape[1]
        matrix = to_matrix(structure.edge_modules).unsqueeze(1).repeat(1, len(rows), 1, 1)  # (Q, C, N, N)
        place, others = torch.arange(len(rows)).unsqueeze(1), senders(n)[receivers]
        matrix[:, place, receivers.unsqueeze(1), others] = rows
        matrix[:, place, others, receivers.unsqueeze(1)] = rows
        digits = k ** torch.arange(n - 2, -1, -1)
        return (from_matrix(matrix) * digits).sum(-1) * g + structure.node_modules.unsqueeze(1)

    def explained(self, chains: Chains, since: int = 0) -> Tensor:
        """Whether every entity is explained from frame `since` on, (Q,); see `EXPLAINED`."""
        parts = []
        for part in _chunks(chains, 4 * FRAMES):
            frames = slice(since, part.paths.shape[2])
            scene, paths = self.scene[part.scene].frames(frames.start, frames.stop), part.paths[:, :, frames]
            rows, types, _ = self.candidates(part.structure, free=False)
            errors = scene.errors(paths, rows, types).squeeze(2) * (-scene.log_scale(paths)).exp()
            parts.append((errors.abs().flatten(2).quantile(0.75, dim=-1) < EXPLAINED).all(1))
        return torch.cat(parts)

    def deviations(self, chains: Chains) -> Tensor:
        """Standard deviations of the hidden states given the structure, (Q, H, T, D)."""
        out = []
        for part in _chunks(chains, FRAMES):
            *_, curvature = self._refit(part)
            out.append(self._unscaled(deviations(curvature), part.paths))
        return torch.cat(out)

    def _move(self, chains: Chains) -> Tensor:
        return self._unscaled(self._refit(chains)[0], chains.paths)

    def _refit(self, chains: Chains) -> tuple[Tensor, Tensor, Tensor]:
        scene, (rows, types, _) = self._frames(chains), self.candidates(chains.structure, free=False)
        errors, start, end = linearise(scene, chains.paths, rows, types)
        linear = Linear(errors.squeeze(2), start.squeeze(3), end.squeeze(3))
        scaled = self._scaled(chains.paths).transpose(1, 2).flatten(2)
        return refit(linear, self.model.likelihood, scene.log_scale(chains.paths), scaled, rounds=2)

    def _frames(self, chains: Chains) -> Scene:
        return self.scene[chains.scene].frames(0, chains.paths.shape[2])

    def _scaled(self, paths: Tensor) -> Tensor:
        """Paths relative to the centre of all states, in units of `state_scale`."""
        return (paths - self.model.dynamics.centre) / self.model.dynamics.state_scale

    def _unscaled(self, moves: Tensor, paths: Tensor) -> Tensor:
        """Converts moves (C, T, H D) in units of `state_scale` to changes of paths (C, H, T, D)."""
        h, d = paths.shape[1], paths.shape[3]
        return (moves.unflatten(-1, (h, d)).transpose(1, 2) * self.model.dynamics.state_scale).to(paths.dtype)


def _chunks(chains: Chains, frames: int) -> list[Chains]:
    size = max(frames // chains.paths.shape[2], 1)
    return [chains.at(part) for part in torch.arange(len(chains.scene)).split(size)]


def put(chains: Chains, indices: Tensor, new: Chains) -> Chains:
    """Replaces the chains at `indices` by `new`."""
    relations, types = chains.structure
    structure = Structure(
        relations.index_copy(0, indices, new.structure.edge_modules),
        types.index_copy(0, indices, new.structure.node_modules),
    )
    return Chains(
        chains.scene,
        chains.paths.index_copy(0, indices, new.paths),
        structure,
        chains.energies.index_copy(0, indices, new.energies),
    )
