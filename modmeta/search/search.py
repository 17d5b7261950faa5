"""The settings of a search, and the kernel that they choose.

Every search is the same four choices: which receivers move, which candidates they may take, how a candidate is scored,
and how one is selected. `conf/search` holds the paper's (one random receiver, one row of the proposal, whole-task
rollouts of ten steps, Metropolis) and ours (all receivers, all rows, horizon 1, Gibbs).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from modmeta.model.model import RelationalModel
from modmeta.search.candidates import and_relaxed, current_row, every_row, sampled_rows
from modmeta.search.exact import receiver_rows
from modmeta.search.gibbs import block_gibbs
from modmeta.search.metropolis import whole_structures
from modmeta.search.mutual import mutual_rows
from modmeta.search.problem import Kernel, Propose, every_receiver, one_receiver
from modmeta.search.selection import Selection
from modmeta.search.slow import WAYS

Roles = Sequence[Sequence[Sequence[float]]]
STARTS = ("laws", "random", "weights")
RECEIVERS = {"all": every_receiver, "one": one_receiver}


@dataclass(frozen=True)
class Search:
    """The four choices.

    Attributes:
        selection: function of `modmeta.search.selection`.
        receivers: `all`, or `one` at random in every task.
        horizon: steps of the rollouts that score a candidate. At 1 the receivers are independent and each candidate is
            scored exactly; beyond, candidates are whole structures, accepted or rejected for the task at once.
        enumerate_up_to: all rows of a receiver are candidates where they are no more than this (horizon 1 only).
        samples: otherwise, rows sampled from the proposal for each receiver.
        flips: and all rows that differ from the current one in one slot; where all receivers move at horizon 1, slot
            after slot (`block_gibbs`).
        uniform: samples come from the uniform distribution instead of the proposal network.
        sweeps: search steps of an inference with modules frozen; see `infer`.
        symmetric: prior that relations are mutual, z_ij = z_ji, found jointly (needs all rows, all receivers, Gibbs);
            None until a cold start says whether they are.
        edge_cost: prior against edges, nats for each whose module is not the first.
        start: of training: `laws`, from structures of the cold start, `random`, from structures drawn uniformly, or
            `weights`, from clusters of real weights, which edges have in the first part of the run (`search.weights`).
        slow: way in which relations of groups follow from steps as a whole (`search.slow`, `search.halfway`), in place
            of the modules' energies; None where frames are close enough.
        roles: prior probabilities of modules on every edge of tasks whose entities have the same places, (N, S, K);
            false for none, None until a cold start says whether entities have roles.
    """

    selection: Selection
    receivers: str = "all"
    horizon: int = 1
    enumerate_up_to: int = 1024
    samples: int = 8
    flips: bool = True
    uniform: bool = False
    sweeps: int = 1
    symmetric: bool | None = False
    edge_cost: float = 0.0
    start: str = "random"
    slow: str | None = None
    roles: Roles | bool | None = False

    def __post_init__(self) -> None:
        """
        Raises:
            ValueError: the choices do not go together.
        """
        if self.start not in STARTS:
            raise ValueError(f"search.start is {self.start!r}; it must be 'laws', 'random' or 'weights'")
        ways = (*WAYS, "halfway")
        if self.slow not in (None, *ways):
            raise ValueError(f"search.slow is {self.slow!r}; it must be null, {' or '.join(map(repr, ways))}")
        if self.receivers not in RECEIVERS:
            raise ValueError(f"search.receivers is {self.receivers!r}; it must be 'all' or 'one'")
        if self.receivers == "all" and self.horizon > 1:
            raise ValueError(
                f"search.receivers=all needs search.horizon=1, not {self.horizon}: receivers depend on each other"
            )
        if self.symmetric and (self.receivers != "all" or self.horizon > 1):
            raise ValueError("search.symmetric=true needs search.receivers=all and search.horizon=1")
        object.__setattr__(self, "roles", _checked(self.roles))

    @property
    def priors(self) -> list[str]:
        """Structural priors in force, for whoever reports a figure."""
        priors = ["symmetric"] if self.symmetric else []
        priors += ["roles of entities"] if self.roles else []
        return priors + ([f"edge cost {self.edge_cost:g} nats"] if self.edge_cost else [])

    def of_roles(self, num_entities: int, like: Tensor) -> Tensor | None:
        """Prior energies (N, S, K) of modules in tasks of so many entities, nats; None for none.

        Where relations are mutual, each end of a pair has half.
        """
        if not isinstance(self.roles, tuple) or len(self.roles) != num_entities:
            return None
        return _prior(self.roles, like.dtype, like.device) / (2 if self.symmetric else 1)

    def check_roles(self, num_modules: int | None, sizes: Sequence[int] | None = None) -> None:
        """
        Args:
            num_modules: K; None if it is open.
            sizes: numbers of entities of tasks; None for any.

        Raises:
            ValueError: no task has as many entities as roles have, or these are of another number of modules.
        """
        if not isinstance(self.roles, tuple):
            return
        n, k = len(self.roles), len(self.roles[0][0])
        if num_modules not in (None, k):
            raise ValueError(f"search.roles has probabilities of {k} modules, but model.num_edge_modules={num_modules}")
        if sizes is not None and n not in sizes:
            raise ValueError(f"search.roles is of {n} entities, but tasks have {' or '.join(map(str, sizes))}")

    def enumerates(self, model: RelationalModel, num_entities: int) -> bool:
        """Whether every row of a receiver is a candidate."""
        dynamics = model.dynamics
        rows = dynamics.num_edge_modules ** (num_entities - 1) * dynamics.num_node_modules
        return self.horizon == 1 and rows <= self.enumerate_up_to

    def needs_proposal(self, model: RelationalModel, num_entities: int) -> bool:
        """Whether candidates are sampled from the proposal network."""
        return not self.uniform and self.samples > 0 and not self.enumerates(model, num_entities)

    def by_blocks(self, model: RelationalModel, num_entities: int) -> bool:
        """Whether blocks of slots are drawn in turn."""
        alone = self.receivers == "all" and self.horizon == 1
        return alone and self.flips and not self.enumerates(model, num_entities)

    def proposes(self, model: RelationalModel, num_entities: int) -> Propose:
        """Candidates of a receiver.

        Raises:
            ValueError: relations are to be mutual, and rows are too many to weigh them all.
        """
        if self.enumerates(model, num_entities):
            return every_row
        if self.symmetric:
            k = model.dynamics.num_edge_modules
            raise ValueError(
                f"search.symmetric=true weighs all rows of a receiver, here {k}^{num_entities - 1}, but "
                f"search.enumerate_up_to={self.enumerate_up_to}"
            )
        return sampled_rows(self.samples, self.flips and not self.by_blocks(model, num_entities))

    def holding(self) -> Kernel:
        """The kernel that leaves structures as they are, and gives their energies."""
        if self.horizon > 1:
            return whole_structures(current_row, self.selection)
        return receiver_rows(current_row, self.selection)

    def kernel(
        self, model: RelationalModel, num_entities: int, selection: Selection | None = None, relax: bool = True
    ) -> Kernel:
        """The kernel for tasks of so many entities.

        Args:
            model: whose modules the search places.
            num_entities: N.
            selection: in place of the search's own.
            relax: where blocks of slots are drawn, and messages add up, rows of linear algebra are candidates before.

        Raises:
            ValueError: as `proposes`.
        """
        select, propose = selection or self.selection, self.proposes(model, num_entities)
        if self.horizon > 1:
            return whole_structures(propose, select)
        if self.symmetric:
            return mutual_rows(select, self.enumerate_up_to)
        if self.by_blocks(model, num_entities):
            return block_gibbs(and_relaxed(propose) if relax and model.dynamics.additive else propose, select)
        return receiver_rows(propose, select, RECEIVERS[self.receivers])


@cache
@torch.inference_mode(False)
def _prior(roles: Roles, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Energies of probabilities, copied to a device once: steps that are recorded there cannot."""
    return -torch.tensor(roles, dtype=dtype, device=device).log()


def _checked(roles: Roles | bool | None) -> tuple[tuple[tuple[float, ...], ...], ...] | None:
    """Probabilities as tuples; none where there are none.

    Raises:
        ValueError: they are no probabilities of modules on every edge.
    """
    if roles is None or roles is False:
        return None
    if roles is True:
        raise ValueError("search.roles=true says no probabilities; null lets a cold start find them")
    wrong = "search.roles must be false, null, or positive probabilities of modules, (N, N - 1, K)"
    try:
        told = tuple(tuple(tuple(map(float, edge)) for edge in row) for row in roles)
    except (TypeError, ValueError) as error:
        raise ValueError(wrong) from error
    edges = [edge for row in told for edge in row]
    sizes = {len(row) for row in told} == {len(told) - 1} and len({len(edge) for edge in edges}) == 1
    if not sizes or not all(min(edge, default=0) > 0 and math.isclose(sum(edge), 1, abs_tol=1e-3) for edge in edges):
        raise ValueError(wrong)
    return told
