"""Worlds to simulate: random numbers of a task in, trajectories and relations out.

A world is a class with what `World` asks for; entered in `WORLDS`, `modmeta generate` knows it.
`modmeta.data.generation` simulates as many tasks as are wanted.
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
