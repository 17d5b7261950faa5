"""Number of hidden entities (none, one or two), chosen by the model's energy on held-out frames."""

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

MOST = 2  # largest number of hidden entities considered
FITTED = 2 / 3  # fraction of the frames that paths and structures are fitted to; the rest is held out
TYPICAL = 3.0  # an entity is explained if its median error on held-out frames is below this many scales
GAIN = 0.1  # nats per held-out number by which a further hidden entity must lower the energy


class Counted(NamedTuple):
    """Result of `count_hidden`.

    Attributes:
        number: number of hidden entities of every task (B,).
        energies: nats per held-out number with 0, 1, ... hidden entities (B, MOST + 1); NaN if fewer explain all.
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
    """Infers the number of hidden entities of every task.

    Hidden entities are added one at a time while some visible entity is not explained on the held-out frames, on which
    the model forecasts the hidden states. The result is the smallest number whose energy no larger number lowers by
    `GAIN`.

    Args:
        model: trained model, frozen.
        search: search that proposes candidate rows.
        visible: states of the visible entities (B, V, T, D).
        seed: random seed of the guesses.
        advance: called with a number of finished tasks; every task counts once for each number from 0 to `MOST`.
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
    """The smallest number (B,) whose energy (B, MOST + 1) no larger number lowers by `GAIN`. NaN counts as infinite."""
    energies = energies.nan_to_num(torch.inf)
    beyond = energies.flip(1).cummin(1).values.flip(1)  # lowest energy of this or any larger number
    return (energies - beyond < GAIN).to(torch.int8).argmax(1)


def _held_out(
    model: RelationalModel, search: Search, visible: Tensor, hidden: int, seed: int, advance: Callable[[int], None]
) -> tuple[Tensor, Tensor]:
    """Energies in nats per held-out number (B,), and whether all visible entities are explained (B,)."""
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
    return score_held_out(
        Scene(model, visible, hidden).frames(fitted - 1, frames), paths[:, :, fitted - 1 :], structure
    )


def score_held_out(scene: Scene, paths: Tensor, structure: Structure) -> tuple[Tensor, Tensor]:
    """Energies of the visible entities in nats per number (Q,), and whether all of them are explained (Q,)."""
    v = scene.visible.shape[1]
    rows, types = structure.edge_modules.unsqueeze(2), structure.node_modules.unsqueeze(2)
    errors = scene.errors(paths, rows, types)[:, :v, 0]
    log_scale = scene.log_scale(paths)[:, :v]
    energy = scene.model.likelihood.energy(errors, log_scale).flatten(1).mean(1)
    typical = (errors * (-log_scale).exp()).abs().flatten(2).median(-1).values  # (Q, V)
    return energy.nan_to_num(torch.inf), (typical < TYPICAL).all(1)
