"""Scenes completed with hidden entities: messages, errors and energies as of any other scene."""

from functools import lru_cache

import torch
from torch import Tensor

from modmeta.graph.bank import Structure
from modmeta.graph.relations import senders
from modmeta.model.model import RelationalModel


class Scene:
    """Q scenes of V visible entities, each waiting for H hidden ones, which come last.

    A visible entity's messages to another one are worked out once; whatever path a hidden entity is given, only the
    messages to and from it are new.

    Args:
        model: trained, frozen.
        visible: states (Q, V, T, D).
        hidden: H.
        messages: between visible entities (Q, V, V - 1, K, T - 1, C), if they are at hand.
    """

    def __init__(self, model: RelationalModel, visible: Tensor, hidden: int, messages: Tensor | None = None) -> None:
        self.model, self.visible, self.hidden = model, visible, hidden
        self.messages = model.dynamics.messages(visible) if messages is None else messages
        self.num_entities = visible.shape[1] + hidden

    def __getitem__(self, chosen: Tensor) -> "Scene":
        """Some of the scenes, or some of them again and again."""
        return Scene(self.model, self.visible[chosen], self.hidden, self.messages[chosen])

    def frames(self, start: int, stop: int) -> "Scene":
        """The frames from `start` to before `stop`."""
        return Scene(self.model, self.visible[:, :, start:stop], self.hidden, self.messages[..., start : stop - 1, :])

    def states(self, paths: Tensor) -> Tensor:
        """All states (Q, N, T, D), given paths of the hidden entities (Q, H, T, D)."""
        return torch.cat((self.visible, paths), dim=1)

    def all_messages(self, paths: Tensor) -> Tensor:
        """What every module sends along every edge, (Q, N, S, K, T - 1, C)."""
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
        """Errors of steps from frame to frame, in units of `change_scale`, (Q, N, M, T - 1, D).

        Args:
            paths: (Q, H, T, D).
            rows: candidates (Q, N, M, S), Q and N may be 1.
            types: (Q, N, M), likewise.
        """
        states, dynamics = self.states(paths), self.model.dynamics
        change = dynamics.change(states[:, :, :-1], self.all_messages(paths), rows, types)
        return change - dynamics.targets(states).unsqueeze(2)

    def log_scale(self, paths: Tensor) -> Tensor:
        """Of the errors, (Q, N, T - 1, D)."""
        states = self.states(paths)
        q, n, t, d = states.shape
        return self.model.log_scale(states).expand(q, n, t - 1, d)

    def extended(self, paths: Tensor, structure: Structure, stop: int) -> Tensor:
        """Paths that the model continues to before frame `stop`, visible entities where they were seen to be."""
        frames = [paths]
        for frame in range(paths.shape[2], stop):
            now = torch.cat((self.visible[:, :, frame - 1 : frame], frames[-1][:, :, -1:]), dim=1)
            frames.append(self.model.dynamics.step(now, *structure)[:, -self.hidden :])
        return torch.cat(frames, dim=2)


@lru_cache(maxsize=16)
def _pairs(visible: int, entities: int) -> tuple[Tensor, Tensor]:
    """Pairs that a hidden entity belongs to, (P, 2), and the place of every edge (N S,) among edges between visible
    entities, receiver-major, followed by both directions of each pair, towards its first entity first."""
    first, second = torch.triu_indices(entities, entities, 1)
    with_hidden = second >= visible
    pairs = torch.stack((first[with_hidden], second[with_hidden]), dim=1)
    place = torch.zeros(entities, entities, dtype=torch.long)
    seen = torch.arange(visible).unsqueeze(1)
    place[seen, senders(visible)] = torch.arange(visible * (visible - 1)).view(visible, visible - 1)
    later = visible * (visible - 1) + 2 * torch.arange(len(pairs))
    place[pairs[:, 0], pairs[:, 1]], place[pairs[:, 1], pairs[:, 0]] = later, later + 1
    return pairs, place.gather(1, senders(entities)).flatten()
