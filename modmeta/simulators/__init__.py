"""Simulated worlds: each maps the random numbers of a task to trajectories and relations.

A world is a dataclass that implements the protocol `World`. Add it to `WORLDS` to use it in `modmeta generate`.
`modmeta.data.generation` simulates the tasks.
"""

from modmeta.simulators.charged import Charged
from modmeta.simulators.kuramoto import Kuramoto
from modmeta.simulators.masses import Masses
from modmeta.simulators.mixed import Mixed
from modmeta.simulators.particles import Particles
from modmeta.simulators.springs import Springs
from modmeta.simulators.stepped import Stepped
from modmeta.simulators.streams import Rng, open_stream
from modmeta.simulators.world import Draws, World

__all__ = [
    "WORLDS", "Charged", "Draws", "Kuramoto", "Masses", "Mixed", "Particles", "Rng", "Springs", "Stepped", "World",
    "open_stream",
]  # fmt: skip

WORLDS: dict[str, type[Particles] | type[Kuramoto]] = {
    "springs": Springs,
    "charged": Charged,
    "kuramoto": Kuramoto,
    "masses": Masses,
    "mixed": Mixed,
}
