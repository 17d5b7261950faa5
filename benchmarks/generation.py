"""Speed of the simulators against the same integrator as a NumPy loop, measured side by side.

python -m benchmarks.generation            ratio per core, in under a minute
python -m benchmarks.generation --full     also the 70,000 spring trajectories of the published data set
"""

import argparse
import time

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import numpy_integrator
from modmeta.data.generation import available_processors, generate
from modmeta.simulators import WORLDS

PUBLISHED = {"train": (50_000, 49), "valid": (10_000, 49), "test": (10_000, 99)}


def seconds_of_loop(world: str, entities: int, frames: int = 5) -> float:
    """Processor seconds per step of one trajectory in the NumPy loop."""
    edges, positions, velocities = numpy_integrator.draw(world, np.random.RandomState(0), entities)
    start = time.process_time()
    numpy_integrator.integrate(world, edges, positions, velocities, frames)
    return (time.process_time() - start) / (frames * numpy_integrator.SAMPLE_EVERY)


def seconds_compiled(world: str, entities: int, tasks: int = 1024, frames: int = 49) -> float:
    """Processor seconds per step of one trajectory in the compiled simulator, including random numbers."""
    simulated = WORLDS[world](num_entities=entities)
    start = time.process_time()
    generate(simulated, {"train": (tasks, frames)}, threads=1, stream="nri", progress=False)
    return (time.process_time() - start) / (tasks * frames * simulated.sample_every)


def run(full: bool = False, entities: int = 5, repeats: int = 5) -> dict[str, float]:
    """Speed ratios per core (medians over repeats), and with `full` the seconds of the published data set."""
    measures: dict[str, float] = {}
    table = Table("world", "NumPy loop, µs/step", "compiled, ns/step", "ratio per core", title=f"{entities} particles")
    for world in numpy_integrator.STRENGTH:
        simulator = WORLDS[world]
        generate(simulator(num_entities=entities), {"train": (2, 1)}, threads=1, progress=False)  # compiles
        pairs = [(seconds_of_loop(world, entities), seconds_compiled(world, entities)) for _ in range(repeats)]
        ratio = float(np.median([loop / compiled for loop, compiled in pairs]))
        loop, compiled = np.median(pairs, axis=0)
        table.add_row(world, f"{loop * 1e6:.1f}", f"{compiled * 1e9:.1f}", f"{ratio:.0f}")
        measures[f"generation_ratio_{world}"] = ratio
    Console().print(table)
    if full:
        start = time.perf_counter()
        generate(WORLDS["springs"](), PUBLISHED, seed=42, stream="nri")
        measures["springs_70000_seconds"] = time.perf_counter() - start
        print(
            f"70,000 spring trajectories: {measures['springs_70000_seconds']:.1f} s on {available_processors()} cores"
        )
    return measures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="also time the published data set")
    parser.add_argument("--entities", type=int, default=5, help="particles")
    args = parser.parse_args()
    run(args.full, args.entities)
