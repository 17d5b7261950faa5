"""Whether there is a hidden entity at all, and whether one or two: the model's energy on frames kept back decides."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from modmeta.graph.bank import Structure
from modmeta.hidden.infer import find
from modmeta.hidden.scene import Scene
from modmeta.model.model import RelationalModel
from modmeta.search.infer import infer
from modmeta.search.search import Search

MOST = 2  # hidden entities that are considered
FITTED = 2 / 3  # of the frames that paths and structures are fitted to; the rest is kept back
TYPICAL = 3.0  # median error of an entity in frames kept back, in units of its scale, that leaves nothing to explain
GAIN = 0.1  # nats per number kept back, by which a further entity must lower the energy to be believed in


class Counted(NamedTuple):
    """Attributes:
    number: of hidden entities of every task (B,).
    energies: per number kept back, with 0, 1, ... hidden entities (B, MOST + 1); NaN where fewer explain all.
    """

    number: Tensor
    energies: Tensor


@torch.no_grad()
def count_hidden(
    model: RelationalModel,
    search: Search,
    visible: Tensor,
    seed: int = 0,
    advance: Callable[[int], None] = lambda tasks: None,
) -> Counted:
    """Number of hidden entities of every task, from visible states (B, V, T, D).

    Entities are added one by one, as long as some visible one is not explained on the frames kept back, whose hidden
    states the model forecasts. Of those numbers the least is chosen whose energy none beyond betters by `GAIN`.

    Args:
        model: trained, frozen.
        search: whose candidate rows are tried.
        visible: states.
        seed: of the guesses.
        advance: told of the number of tasks finished, now and again; every task once for each number from 0 to `MOST`.
    """
    b = len(visible)
    energies = visible.new_full((b, MOST + 1), torch.nan)
    open_tasks = torch.arange(b)
    for hidden in range(MOST + 1):
        if len(open_tasks):
            energy, explained = _held_out(model, search, visible[open_tasks], hidden, seed, advance)
            energies[open_tasks, hidden] = energy
            open_tasks = open_tasks[~explained]
            advance(int(explained.sum()) * (MOST - hidden) + (0 if hidden else b))
    return Counted(choose(energies), energies)


def choose(energies: Tensor) -> Tensor:
    """The least number (B,) whose energy (B, numbers) none beyond betters by `GAIN`; NaN is no number."""
    energies = energies.nan_to_num(torch.inf)
    beyond = energies.flip(1).cummin(1).values.flip(1)  # least from there on
    return (energies - beyond < GAIN).to(torch.int8).argmax(1)


def _held_out(
    model: RelationalModel, search: Search, visible: Tensor, hidden: int, seed: int, advance: Callable[[int], None]
) -> tuple[Tensor, Tensor]:
    """Energies per number kept back (B,), and whether everything there is explained."""
    frames = visible.shape[2]
    fitted = max(2, round(FITTED * frames))
    if hidden:
        found = find(model, search, visible[:, :, :fitted], hidden, seed=seed, advance=advance)
        structure = found.structure
        paths = Scene(model, visible, hidden).extended(found.paths, structure, frames)
    else:
        generator = torch.Generator(visible.device).manual_seed(seed)
        structure = infer(search, model, None, visible[:, :, :fitted], generator).structure
        paths = visible[:, :0]
    return judge_rest(Scene(model, visible, hidden).frames(fitted - 1, frames), paths[:, :, fitted - 1 :], structure)


def judge_rest(scene: Scene, paths: Tensor, structure: Structure) -> tuple[Tensor, Tensor]:
    """Energies per number of the visible entities (Q,), and whether the errors of each are within their scale."""
    v = scene.visible.shape[1]
    rows, types = structure.relations.unsqueeze(2), structure.types.unsqueeze(2)
    errors = scene.errors(paths, rows, types)[:, :v, 0]
    log_scale = scene.log_scale(paths)[:, :v]
    energy = scene.model.likelihood.energy(errors, log_scale).flatten(1).mean(1)
    typical = (errors * (-log_scale).exp()).abs().flatten(2).median(-1).values  # (Q, V)
    return energy.nan_to_num(torch.inf), (typical < TYPICAL).all(1)
