"""The protocol that simulated worlds implement."""

from typing import Any, ClassVar, Protocol

import numpy as np

from modmeta.simulators.streams import Rng

Draws = dict[str, np.ndarray]


class World(Protocol):
    """A simulated world: maps the random numbers of a task to its trajectory and relations."""

    name: ClassVar[str]
    features: ClassVar[tuple[str, ...]]
    __dataclass_fields__: ClassVar[dict[str, Any]]  # a dataclass: `replace` changes the number of entities
    streams: ClassVar[tuple[str, ...]]  # supported random number streams, see `modmeta.simulators.streams`

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
        """Value that the published layout stores for every relation label."""
        ...

    @property
    def num_types(self) -> int:
        """Number of entity types; data of a world with a single type has no `types`."""
        ...

    def settings(self) -> dict[str, Any]:
        """Physical settings as plain JSON types."""
        ...

    def draw(self, rng: Rng, num_frames: int, published: bool) -> Draws:
        """Draws the random numbers of one task; with `published`, also those that the published generator discards."""
        ...

    def types(self, draws: Draws) -> np.ndarray:
        """Type of every entity (B, N), from the stacked draws of B tasks."""
        ...

    def integrate(self, draws: Draws, num_frames: int) -> tuple[np.ndarray, np.ndarray]:
        """Simulates a block of B tasks in one thread, mostly without holding the GIL.

        Args:
            draws: draws of all tasks, stacked along a new first axis.
            num_frames: T.

        Returns:
            States (B, N, T, D) and relations (B, N, N).

        Raises:
            DataError: the simulation diverged.
        """
        ...
