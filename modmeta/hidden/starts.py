"""Initial guesses of hidden entities: many random straight paths, scored by the model on a few frames."""

from typing import NamedTuple

import torch
from torch import Tensor

from modmeta.graph.relations import all_rows
from modmeta.hidden.scene import Scene
from modmeta.model.dynamics.base import one_hot

SPREAD = 1.3  # standard deviation of the guessed states, in robust scales of all states
CHUNK = 512  # number of guesses of one task scored at once, so that activations stay in cache


class Starts(NamedTuple):
    """Guesses of B tasks, best first.

    Attributes:
        paths: straight paths (B, M, H, T, D).
        rows: best rows of the visible entities for each path, with relations to hidden entities last (B, M, V, S).
        scores: scores (B, M) in nats; lower is better.
    """

    paths: Tensor
    rows: Tensor
    scores: Tensor


def guess(
    scene: Scene,
    count: int,
    keep: int,
    generator: torch.Generator,
    rows: Tensor | None = None,
    seen: Tensor | None = None,
) -> Starts:
    """Draws straight paths and keeps those that explain the visible entities best.

    The score of a path sums an energy over visible entities: n / 2 log(1 + e) for n errors with mean square e in units
    of their scale, minimised over the entity's rows. This is the energy of errors of unknown scale, so entities that a
    path does not explain hardly affect its score. Of the paths with the same best rows only the best is kept, so that
    the kept paths differ.

    Args:
        scene: B scenes, a few frames long.
        count: number of guesses per task.
        keep: number of guesses to keep per task, at most `count`.
        generator: random generator of the guesses.
        rows: rows of the visible entities (B, V, S), if known.
        seen: relations among visible entities (B, V, V - 1); None to try all.
    """
    paths = draw(scene, count, generator)
    seen_rows, hidden, every_row = _choices(scene, rows, seen)
    dynamics = scene.model.dynamics
    types = torch.zeros(1, 1, 1, dtype=torch.long, device=paths.device)
    b, v, t, d = scene.visible.shape
    weights = (-scene.model.log_scale(scene.visible)).exp().expand(b, v, t - 1, d).unsqueeze(2)
    change = dynamics.change(scene.visible[:, :, :-1], scene.messages, seen_rows, types.expand(*seen_rows.shape[:3]))
    base = ((change - dynamics.targets(scene.visible).unsqueeze(2)) * weights).flatten(3)  # (B, V, R, n)
    scores, codes = [], []
    for task in range(len(paths)):  # one task at a time: the messages of its guesses already fill the cache
        sums = _hidden_sums(scene[torch.tensor([task])], paths[task], hidden[task % len(hidden)])  # (M, V, U, t, D)
        sums = (sums * weights[task]).flatten(3).transpose(0, 1)  # (V, M, U, n)
        square = base[task].square().sum(-1)[:, None, None] + sums.square().sum(-1).unsqueeze(-1)
        square = square + 2 * torch.einsum("vmun,vrn->vmur", sums, base[task])
        n = base.shape[-1]
        energy = 0.5 * n * torch.log1p(square.clamp_min(0) / n)
        least, code = energy.flatten(2).min(-1)  # (V, M)
        scores.append(least.sum(0))
        codes.append(code.T)
    score, code = torch.stack(scores), torch.stack(codes)  # (B, M), (B, M, V)
    best = _distinct(score, code, keep, rows is None)
    kept = code.gather(1, best.unsqueeze(-1).expand(-1, -1, code.shape[-1])).unsqueeze(-1)
    found = every_row.expand(len(paths), code.shape[-1], -1, -1).unsqueeze(1).expand(-1, keep, -1, -1, -1)
    chosen = found.gather(3, kept.unsqueeze(-1).expand(*kept.shape, found.shape[-1])).squeeze(3)
    tasks = torch.arange(len(paths)).unsqueeze(1)
    return Starts(paths[tasks, best], chosen, score.gather(1, best))


def draw(scene: Scene, count: int, generator: torch.Generator) -> Tensor:
    """Straight paths (B, M, H, T, D) from random states; constant paths if the states have no velocities."""
    dynamics = scene.model.dynamics
    b, _, t, d = scene.visible.shape
    noise = torch.randn(b, count, scene.hidden, 1, d, generator=generator, device=generator.device)
    first = dynamics.centre + SPREAD * dynamics.state_scale * noise
    return dynamics.coast(first, t)


def _choices(scene: Scene, rows: Tensor | None, seen: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Candidate relations of visible entities: among themselves, to hidden entities, and both combined.

    Returns:
        (B or 1, V or 1, R, V - 1), (B or 1, V or 1, U, H) and (B or 1, V or 1, U R, S), hidden entities last.
    """
    v, h, k = scene.visible.shape[1], scene.hidden, scene.model.dynamics.num_edge_modules
    if rows is not None:
        return rows[..., None, : v - 1], rows[..., None, v - 1 :], rows.unsqueeze(2)
    hidden = all_rows(h, k)[None, None]
    among = all_rows(v - 1, k)[None, None] if seen is None else seen.unsqueeze(2)
    u, r = hidden.shape[2], among.shape[2]
    hidden_rows = hidden.expand(*among.shape[:2], u, h).repeat_interleave(r, dim=2)
    return among, hidden, torch.cat((among.repeat(1, 1, u, 1), hidden_rows), dim=-1)


def _hidden_sums(scene: Scene, paths: Tensor, hidden: Tensor) -> Tensor:
    """Summed messages (M, V, U, T - 1, C) from hidden entities on M paths to the visible entities of one scene, for U
    combinations of relations `hidden` (V or 1, U, H)."""
    v, k = scene.visible.shape[1], scene.model.dynamics.num_edge_modules
    weights = one_hot(hidden, k, paths.dtype)  # (V or 1, U, H K)
    sums = []
    for part in paths.split(CHUNK):
        sent = scene[torch.zeros(len(part), dtype=torch.long)].all_messages(part)[:, :v, v - 1 :]  # (M, V, H, K, t, C)
        t, c = sent.shape[-2:]
        sums.append((weights @ sent.flatten(2, 3).flatten(3)).unflatten(-1, (t, c)))
    return torch.cat(sums)


def _distinct(scores: Tensor, codes: Tensor, keep: int, differ: bool) -> Tensor:
    """Indices of the best scores (B, keep). If `differ`, guesses with the same code as a better one come last."""
    order = scores.argsort(dim=1)
    if not differ:
        return order[:, :keep]
    codes = codes.gather(1, order.unsqueeze(-1).expand_as(codes))
    same = (codes.unsqueeze(1) == codes.unsqueeze(2)).all(-1).tril(-1).any(-1)  # as a better one
    return order.gather(1, same.to(torch.int8).argsort(dim=1, stable=True)[:, :keep])
