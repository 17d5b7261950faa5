"""What a simulator has to offer."""

from typing import Any, ClassVar, Protocol

import numpy as np

from modmeta.simulators.streams import Rng

Draws = dict[str, np.ndarray]


class World(Protocol):
    """A simulated world: random numbers of a task in, trajectory and relations out."""

    name: ClassVar[str]
    features: ClassVar[tuple[str, ...]]
    __dataclass_fields__: ClassVar[dict[str, Any]]  # a dataclass: `replace` gives it another number of entities
    streams: ClassVar[tuple[str, ...]]  # of random numbers that it can be drawn from, see `modmeta.simulators.streams`

    @property
    def num_entities(self) -> int:
        """N, the same in all tasks."""
        ...

    @property
    def frame_step(self) -> float:
        """Time units between two frames."""
        ...

    @property
    def edge_values(self) -> tuple[float, ...]:
        """What the published layout stores for every relation label."""
        ...

    @property
    def num_types(self) -> int:
        """Types of entity; data of a world that has one only do not name it."""
        ...

    def settings(self) -> dict[str, Any]:
        """The physics in plain JSON types."""
        ...

    def draw(self, rng: Rng, num_frames: int, published: bool) -> Draws:
        """The random numbers of one task; `published`: also those that the published generator draws in vain."""
        ...

    def types(self, draws: Draws) -> np.ndarray:
        """Type of every entity (B, N), given the stacked draws of B tasks."""
        ...

    def integrate(self, draws: Draws, num_frames: int) -> tuple[np.ndarray, np.ndarray]:
        """Simulates a block of B tasks, in one thread and without holding Python's lock for long.

        Args:
            draws: those of every task, stacked along a new first axis.
            num_frames: T.

        Returns:
            States (B, N, T, D) and relations (B, N, N).

        Raises:
            DataError: the settings make the simulation break down.
        """
        ...
