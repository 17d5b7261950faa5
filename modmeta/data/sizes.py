"""Simulated tasks of several numbers of entities."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from modmeta.data.simulators import World, generate
from modmeta.data.trajectories import Trajectories


def generate_sizes(
    world: World, sizes: Sequence[int], counts: Mapping[str, tuple[int, int]], seed: int, stream: str
) -> dict[str, Trajectories]:
    """Tasks of every size in turn, so that any number of first tasks holds equal shares.

    Args:
        world: what to simulate, with one of `sizes` in place of its number of entities.
        sizes: numbers of entities; of one alone, the tasks are those of `generate`.
        counts: number of tasks, at least one of every size, and frames of every split.
        seed, stream: of `generate`.
    """
    if len(sizes) == 1:
        return generate(replace(world, num_entities=sizes[0]), counts, seed=seed, stream=stream)
    parts: dict[str, list[Trajectories]] = {split: [] for split in counts}
    for first, size in enumerate(sizes):
        # Named after its size, so that tasks of different sizes do not begin with the same random numbers.
        shares = {f"{split}{size}": (len(range(first, b, len(sizes))), t) for split, (b, t) in counts.items()}
        made = generate(replace(world, num_entities=size), shares, seed=seed, stream=stream)
        for split, part in zip(counts, made.values(), strict=True):
            parts[split].append(part)
    return {split: in_turn(of_size) for split, of_size in parts.items()}


def in_turn(parts: Sequence[Trajectories]) -> Trajectories:
    """One task of every part after the other; those of fewer entities lack the last ones."""
    first, b = parts[0], sum(part.num_tasks for part in parts)
    n = max(part.num_entities for part in parts)
    states, relations = np.zeros((b, n, *first.states.shape[2:])), np.zeros((b, n, n), np.int64)
    mask, types = np.zeros(states.shape[:3], bool), np.zeros((b, n), np.int64)
    for place, part in enumerate(parts):
        tasks, m = slice(place, None, len(parts)), part.num_entities
        assert part.relations is not None
        states[tasks, :m], mask[tasks, :m], relations[tasks, :m, :m] = part.states, True, part.relations
        if part.types is not None:
            types[tasks, :m] = part.types
    settings = first.settings | {"num_entities": [part.num_entities for part in parts]}
    return Trajectories(
        states, relations, first.features, first.frame_step, settings, mask,
        types=None if first.types is None else types,
    )  # fmt: skip
