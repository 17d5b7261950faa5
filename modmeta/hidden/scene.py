"""Scenes with hidden entities: states, messages and errors of visible and hidden entities together."""

from functools import lru_cache

import torch
from torch import Tensor

from modmeta.graph.bank import Structure
from modmeta.graph.relations import senders
from modmeta.model.model import RelationalModel


class Scene:
    """Q scenes of V visible entities and H hidden ones, which come last. Paths of hidden entities are arguments.

    Messages between visible entities are computed once. For a new path of a hidden entity, only messages to and from it
    are computed.

    Args:
        model: trained model, frozen.
        visible: states of the visible entities (Q, V, T, D).
        hidden: H.
        messages: messages between visible entities (Q, V, V - 1, K, T - 1, C); None to compute them.
    """

    def __init__(self, model: RelationalModel, visible: Tensor, hidden: int, messages: Tensor | None = None) -> None:
        self.model, self.visible, self.hidden = model, visible, hidden
        self.messages = model.dynamics.messages(visible) if messages is None else messages
        self.num_entities = visible.shape[1] + hidden

    def __getitem__(self, chosen: Tensor) -> "Scene":
        """The scenes with the indices `chosen`, which may repeat."""
        return Scene(self.model, self.visible[chosen], self.hidden, self.messages[chosen])

    def frames(self, start: int, stop: int) -> "Scene":
        """The scenes restricted to frames `start` to `stop - 1`."""
        return Scene(self.model, self.visible[:, :, start:stop], self.hidden, self.messages[..., start : stop - 1, :])

    def states(self, paths: Tensor) -> Tensor:
        """States of all entities (Q, N, T, D), given paths of the hidden ones (Q, H, T, D)."""
        return torch.cat((self.visible, paths), dim=1)

    def all_messages(self, paths: Tensor) -> Tensor:
        """Messages of every module on every edge (Q, N, S, K, T - 1, C)."""
        if not self.hidden:
            return self.messages
        q, v = self.visible.shape[:2]
        n, device = self.num_entities, paths.device
        pairs, order = _pairs(v, n)
        twos = self.states(paths)[:, pairs.to(device)].flatten(0, 1)  # (Q P, 2, T, D): scenes of two entities
        sent = self.model.dynamics.messages(twos).unflatten(0, (q, -1)).squeeze(3)  # (Q, P, 2, K, T - 1, C)
        every = torch.cat((self.messages.flatten(1, 2), sent.flatten(1, 2)), dim=1)
        return every[:, order.to(device)].unflatten(1, (n, n - 1))

    def errors(self, paths: Tensor, rows: Tensor, types: Tensor) -> Tensor:
        """One-step prediction errors (Q, N, M, T - 1, D), in units of `change_scale`.

        Args:
            paths: states of the hidden entities (Q, H, T, D).
            rows: candidate rows (Q, N, M, S); Q and N may be 1.
            types: candidate types (Q, N, M); Q and N may be 1.
        """
        states, dynamics = self.states(paths), self.model.dynamics
        change = dynamics.change(states[:, :, :-1], self.all_messages(paths), rows, types)
        return change - dynamics.targets(states).unsqueeze(2)

    def log_scale(self, paths: Tensor) -> Tensor:
        """Log scale of the errors (Q, N, T - 1, D)."""
        states = self.states(paths)
        q, n, t, d = states.shape
        return self.model.log_scale(states).expand(q, n, t - 1, d)

    def extended(self, paths: Tensor, structure: Structure, stop: int) -> Tensor:
        """Extends paths to frame `stop - 1` by the model's forecast, given the observed states of visible entities."""
        frames = [paths]
        for frame in range(paths.shape[2], stop):
            now = torch.cat((self.visible[:, :, frame - 1 : frame], frames[-1][:, :, -1:]), dim=1)
            frames.append(self.model.dynamics.step(now, *structure)[:, -self.hidden :])
        return torch.cat(frames, dim=2)


@lru_cache(maxsize=16)
def _pairs(visible: int, entities: int) -> tuple[Tensor, Tensor]:
    """Undirected pairs with a hidden entity (P, 2), and the index of every edge (N S,) in the concatenation of the
    edges between visible entities, receiver-major, and both directions of each pair, towards its first entity first."""
    first, second = torch.triu_indices(entities, entities, 1)
    with_hidden = second >= visible
    pairs = torch.stack((first[with_hidden], second[with_hidden]), dim=1)
    place = torch.zeros(entities, entities, dtype=torch.long)
    seen = torch.arange(visible).unsqueeze(1)
    place[seen, senders(visible)] = torch.arange(visible * (visible - 1)).view(visible, visible - 1)
    later = visible * (visible - 1) + 2 * torch.arange(len(pairs))
    place[pairs[:, 0], pairs[:, 1]], place[pairs[:, 1], pairs[:, 0]] = later, later + 1
    return pairs, place.gather(1, senders(entities)).flatten()
