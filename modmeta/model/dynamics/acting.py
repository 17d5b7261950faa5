"""Sums of messages under fixed structures: of the modules of an edge, only the one that it has is evaluated."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from modmeta.graph.relations import to_matrix, undirected_pairs
from modmeta.model.grouped import Blocks
from modmeta.shapes import Float, Int

if TYPE_CHECKING:
    from modmeta.model.dynamics.continuous import ContinuousDynamics

BLOCK = 256  # pairs of one module that are multiplied together


class Acting:
    """Structures of Q scenes whose features of pairs are symmetric and messages antisymmetric.

    A pair is evaluated once, and once more where its two edges have different modules.

    Args:
        dynamics: dynamics with `features.mutual`, and mutual laws if any were found.
        relations: edge modules (Q, N, S).
        types: node modules (Q, N).
    """

    def __init__(
        self, dynamics: "ContinuousDynamics", relations: Int[Tensor, "Q N S"], types: Int[Tensor, "Q N"]
    ) -> None:
        self.dynamics, self.relations, self.types = dynamics, relations, types
        self.first, self.second, *_ = undirected_pairs(relations.shape[1], relations.device)
        modules = to_matrix(relations)
        self.forth = modules[:, self.first, self.second].flatten()  # of edges to the first entity of a pair, (Q E,)
        self.back = modules[:, self.second, self.first].flatten()
        self.differ = (self.forth != self.back).nonzero().squeeze(-1)
        both = torch.cat((self.forth, self.back[self.differ]))
        self.blocks = Blocks(both, dynamics.num_edge_modules, BLOCK)

    def __len__(self) -> int:
        return len(self.relations)

    def of(self, scenes: Int[Tensor, " R"]) -> "Acting":
        """Those of some scenes, in increasing order."""
        if len(scenes) == len(self):
            return self
        return Acting(self.dynamics, self.relations[scenes], self.types[scenes])

    def received(self, states: Float[Tensor, "Q N D"]) -> Float[Tensor, "Q N C"]:
        """What every entity receives at these states, in units of `change_scale`."""
        dynamics, (q, n, _), found = self.dynamics, states.shape, self.dynamics.found
        scaled = dynamics.scaled(states)
        receiver, sender = (scaled[:, side].flatten(0, 1) for side in (self.first, self.second))  # (Q E, D)
        seen = dynamics.features(receiver, sender)
        asked = torch.cat((seen, seen[self.differ]))
        answers = dynamics.answers_of(asked, self.blocks)
        forth, more = answers.split((len(seen), len(self.differ)))
        back = forth.index_copy(0, self.differ, more)
        laws = None if found is None else found.between(states[:, self.first], states[:, self.second]).flatten(1, 2)

        def sent(answers: Tensor, modules: Tensor) -> Tensor:
            powers = None if dynamics.powers is None else dynamics.powers[modules].view(1, -1, 1)
            messages = dynamics.features.messages(answers.unsqueeze(0), seen, receiver, sender, powers).squeeze(0)
            if found is not None and laws is not None:
                speak = modules >= int(dynamics.null_module)
                law = laws.gather(0, modules.view(1, -1, 1).expand(1, *messages.shape)).squeeze(0)  # (Q E, C)
                messages = law * speak.unsqueeze(-1) + messages * found.rest
            return messages.view(q, len(self.first), dynamics.channels)

        sums = states.new_zeros(q, n, dynamics.channels)
        sums.index_add_(1, self.first, sent(forth, self.forth))
        sums.index_add_(1, self.second, sent(back, self.back), alpha=-1)
        mobility = dynamics.mobilities(self.types)
        return sums if mobility is None else sums * mobility.unsqueeze(-1)
