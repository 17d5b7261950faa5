"""What a trained module is without Lightning, which takes seconds to import: its state, and the search with it."""

from collections.abc import Callable
from copy import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from modmeta.model.dynamics.continuous import ContinuousDynamics
from modmeta.model.model import RelationalModel
from modmeta.search.infer import Inferred, concatenated, infer
from modmeta.search.search import Search
from modmeta.search.temperature import Temperature
from modmeta.search.weights import RealWeights

EDGES_AT_ONCE = 200  # in inference


class Progress(nn.Module):
    """State of every method: what modules stand for, and how far training got.

    Args:
        num_modules: number of edge modules that are matched to relations; 0 if edges are not inferred.
        num_relations: number of relation types in the labels; used by measures only.
        observed_frames: number of frames that structures are inferred from.
        forecast_steps: frames ahead at which forecasts are scored.
        seed: seed of random generators.
        num_types: number of entity types in the labels; used by measures only.

    Raises:
        ValueError: `num_relations` is below 1.
    """

    module_to_relation: Tensor
    steps_done: Tensor
    usage: Tensor
    agreement: Tensor

    def __init__(
        self,
        num_modules: int,
        num_relations: int,
        observed_frames: int,
        forecast_steps: tuple[int, ...],
        seed: int,
        num_types: int = 1,
    ) -> None:
        super().__init__()
        if num_relations < 1:
            raise ValueError(f"num_relations={num_relations} must be at least 1")
        self.num_relations, self.observed_frames, self.seed = num_relations, observed_frames, seed
        self.forecast_steps, self.num_types = tuple(forecast_steps), num_types
        self.register_buffer("module_to_relation", _turns(num_modules, num_relations))
        self.register_buffer("steps_done", torch.zeros((), dtype=torch.int64))
        self.register_buffer("usage", torch.full((num_modules,), torch.nan))  # share of validation edges per module
        self.register_buffer("agreement", torch.tensor(torch.nan))  # between structures from two halves of the frames


class Trained(Progress):
    """Modules, proposal network and search of a BounceGrad, which infer structures of new tasks.

    It takes what `BounceGrad` takes, whose configuration is in checkpoints; that class has the meanings.

    Raises:
        ValueError: settings that do not go together.
    """

    module_to_type: Tensor | None

    def __init__(
        self,
        model: RelationalModel,
        proposal: nn.Module,
        search: Search,
        temperature: Temperature,
        optimizer: Callable[..., Any],
        proposal_optimizer: Callable[..., Any],
        scheduler: Callable[..., Any] | None = None,
        gradient_clip: float = 1.0,
        accepted_only: bool = False,
        num_relations: int = 2,
        observed_frames: int = 49,
        forecast_steps: tuple[int, ...] = (1, 10, 20),
        seed: int = 0,
        num_types: int = 1,
        persist: bool = True,
        soft: bool = False,
        searched_frames: int | None = None,
    ) -> None:
        k, g = model.dynamics.num_edge_modules, model.dynamics.num_node_modules
        super().__init__(k, num_relations, observed_frames, forecast_steps, seed, num_types)
        self.model, self.proposal, self.search, self.temperature = model, proposal, search, temperature
        self.make_optimizer, self.make_proposal_optimizer = optimizer, proposal_optimizer
        self.make_scheduler = scheduler
        self.gradient_clip, self.accepted_only, self.persist, self.soft = gradient_clip, accepted_only, persist, soft
        self.searched_frames = searched_frames
        search.check_roles(k)
        if soft and (search.receivers != "all" or search.symmetric):
            raise ValueError("method.soft=true needs search.receivers=all and search.symmetric=false")
        if search.start == "weights" and (g > 1 or not model.dynamics.additive or model.dynamics.null_module):
            raise ValueError("search.start=weights needs additive dynamics, one node module and no null module")
        for setting, chosen in (
            ("strengths", model.dynamics.spread is not None),
            ("constants", model.dynamics.has_constants and isinstance(model.dynamics, ContinuousDynamics)),
        ):
            if chosen and (search.horizon > 1 or model.noise is not None):
                raise ValueError(f"model.{setting}=true needs search.horizon=1 and method.model.noise=false")
        self.relaxed = RealWeights() if search.start == "weights" else None
        telling = g > 1 and num_types > 1  # else there is nothing to match
        self.register_buffer("module_to_type", _turns(g, num_types) if telling else None)
        self.known = 0.0  # share of relations that the search is given

    @property
    def priors(self) -> list[str]:
        """Structural priors in force."""
        silent = ["module 0 sends nothing"] if self.model.dynamics.null_module else []
        return self.search.priors + silent + ([f"known relations: {self.known:.0%}"] if self.known else [])

    def without_roles(self) -> "Trained":
        """The same for entities in another order, or of other roles: modules are shared."""
        other = copy(self)
        other.search = replace(self.search, roles=False)
        return other

    def infer(
        self, states: Tensor, known: Tensor | None = None, proposal: bool = True, mask: Tensor | None = None
    ) -> Inferred:
        """Structures of new tasks from their observed frames (B, N, T, D); always the same for the same input.

        Tasks are taken a few at a time, so that memory does not grow with their number, and activations stay in cache.

        Without its proposal network, which knows one number of frames, a search that cannot try every row samples
        uniformly. How well steps are known is in `mask`, (B, N, T - 1).
        """
        generator = torch.Generator(states.device).manual_seed(self.seed)
        network = self.proposal if proposal else None
        seen, n = states[:, :, : self.observed_frames], states.shape[1]
        mask = None if mask is None else mask[..., : seen.shape[2] - 1]
        size, parts = few(n), []
        for first in range(0, len(states), size):
            part = slice(first, first + size)
            given, steps = (None if of is None else of[part] for of in (known, mask))
            found = infer(self.search, self.model, network, seen[part], generator, given, steps)
            parts.append(found._replace(messages=None))  # which would need much memory
        return concatenated(parts)


def few(num_entities: int) -> int:
    """Tasks that are taken at once."""
    return max(1, EDGES_AT_ONCE // (num_entities * (num_entities - 1)))


def _turns(count: int, of: int) -> Tensor:
    """Labels 0, 1, ..., `of` - 1, 0, ... of modules; on the meta device arithmetic would import torch's compiler."""
    return torch.tensor([number % of for number in range(count)], dtype=torch.int64)
