"""Cold starts of entities that differ much in how they move: planets of a sun, one body that others push."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from modmeta.graph.relations import from_matrix
from modmeta.model.basis import family_named
from modmeta.search.cold_start import Kind, cold_start, infer
from modmeta.search.cold_start.finish import gain_by_frames
from modmeta.search.cold_start.weak_form import measure_units, weights_of_entities

STEPS = 20  # of the integration in a frame
FLAT, SPACE = Kind(2, (False,) * 4), Kind(3, (False,) * 6)


def planets(tasks: int, seed: int, entities: int = 5, frames: int = 30) -> Tensor:
    """Windows (B, N, T, 6) of a sun and planets, masses and distances unequal, G = 1."""
    draw = torch.Generator().manual_seed(seed)
    count = entities - 1
    mass = torch.cat([torch.ones(1), 10 ** (-5 + 2 * torch.rand(count, generator=draw))]).double()
    radius = 1.7 ** torch.arange(count) * (1 + 0.1 * torch.rand(count, generator=draw))
    angle = 2 * torch.pi * torch.rand(tasks, count, generator=draw)
    tilt = 0.1 * torch.randn(count, generator=draw)
    across = torch.stack([-angle.sin(), angle.cos() * tilt.cos(), angle.cos() * tilt.sin()], -1)
    out = torch.stack([angle.cos(), angle.sin() * tilt.cos(), angle.sin() * tilt.sin()], -1)
    still = torch.zeros(tasks, 1, 3)
    x = torch.cat([still, out * radius.unsqueeze(-1)], 1).double()
    speed = radius.unsqueeze(-1) ** -0.5 * (1 + 0.05 * torch.randn(count, 1, generator=draw))
    v = torch.cat([still, across * speed], 1).double()
    v = v - (mass.view(-1, 1) * v).sum(1, keepdim=True) / mass.sum()

    def pull(x: Tensor) -> Tensor:
        apart = x.unsqueeze(1) - x.unsqueeze(2)
        cube = (apart.square().sum(-1, keepdim=True) + torch.eye(entities).unsqueeze(-1)) ** 1.5
        return (mass.view(-1, 1) * apart / cube).sum(2)

    return trajectory(x, v, pull, 0.2, frames)


def pushed(tasks: int, seed: int, *, all_relations: bool = True, frames: int = 40) -> tuple[Tensor, Tensor]:
    """Two bodies that nothing moves and a third that those push which come within a distance of 1: states (B, 3, T, 4)
    and relations [task, receiver, sender]; each is in force or, unless all are, missing half of the time."""
    draw = torch.Generator().manual_seed(seed)
    start = 1.2 * torch.randn(tasks, 3, 2, generator=draw).double()
    v = -0.06 * start / start.norm(dim=-1, keepdim=True) + 0.02 * torch.randn(tasks, 3, 2, generator=draw)
    relations = torch.zeros(tasks, 3, 3, dtype=torch.long)
    relations[:, 2, :2] = 1 if all_relations else torch.randint(2, (tasks, 2), generator=draw)

    def push(x: Tensor) -> Tensor:
        apart = x.unsqueeze(2) - x.unsqueeze(1)
        distance = apart.norm(dim=-1, keepdim=True) + 1e-9
        return (0.03 * relations.unsqueeze(-1) * (1 - distance).clamp_min(0) * apart / distance).sum(2)

    return trajectory(start, v, push, 1.0, frames), relations


def trajectory(x: Tensor, v: Tensor, force: Callable[[Tensor], Tensor], step: float, frames: int) -> Tensor:
    """By leapfrog steps."""
    states = []
    for _ in range(frames):
        states.append(torch.cat([x, v], -1))
        for _ in range(STEPS):
            v = v + force(x) * step / STEPS / 2
            x = x + v * step / STEPS
            v = v + force(x) * step / STEPS / 2
    return torch.stack(states, 2)


def of_pushed_body(states: Tensor, relations: Tensor, found: Tensor) -> Tensor:
    """Share of relations right, with the better of two names, where a pusher comes close to the third body."""
    near = (states[:, 2:, :, :2] - states[:, :2, :, :2]).norm(dim=-1).amin(2) < 0.9
    right = (found == from_matrix(relations))[:, 2][near].double().mean()
    return torch.maximum(right, 1 - right)


def test_pushes_are_found_beside_frames_without_any() -> None:
    """Two of three entities, and most frames, are exact without relations; fine laws tell where pushes end."""
    states, relations = pushed(50, 0, all_relations=False)
    coarse, fine = (
        cold_start(
            states[:30], FLAT, num_kinds=2, family=family_named(f"{how}along the line"), constants=False, starts=2
        )
        for how in ("", "fine ")
    )
    assert coarse.gains.mean() > 1
    assert fine.gains.mean() > coarse.gains.mean() + 0.5
    for start in (coarse, fine):
        assert of_pushed_body(states[30:], relations[30:], infer(start, states[30:]).structures) > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("all_relations", [True, False])
def test_pushes_are_found_whichever_law_is_chosen(all_relations: bool) -> None:
    states, relations = pushed(160, 0, all_relations=all_relations)
    start = cold_start(states[:100], FLAT, num_kinds=2)
    assert of_pushed_body(states[100:], relations[100:], infer(start, states[100:]).structures) > 0.95


@pytest.mark.slow
def test_the_sun_is_told_from_planets() -> None:
    states = planets(12, 0)
    family = family_named("along the line")
    start = cold_start(states[:8], SPACE, num_kinds=2, family=family, constants=False, starts=4)
    assert start.form.units.entities is not None, "planets pull and are pulled on scales of their own"
    found = infer(start, states[8:]).structures[:, 1:3]  # of the two that change most; the first sender is the sun
    assert (found[:, :, :1] != found[:, :, 1:]).double().mean() > 0.9
    assert start.gain > 3


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_planets_gain_whichever_law_is_chosen(seed: int) -> None:
    start = cold_start(planets(18, seed)[:12], SPACE, num_kinds=2, seed=seed)
    assert float(start.gains.mean()) > 3


def test_entities_weigh_where_they_differ() -> None:
    draw = torch.Generator().manual_seed(0)
    steps = torch.randn(20, 4, 30, 1, generator=draw, dtype=torch.float64)
    kind = Kind(0, (False,))

    def weights(sizes: list[float]) -> Tensor | None:
        states = (steps * torch.tensor(sizes).view(-1, 1, 1)).cumsum(2)
        return weights_of_entities(states, kind, measure_units(states, kind, 1.0))

    assert weights([1.0, 1.0, 1.2, 0.8]) is None, "alike"
    assert weights([1.0, 0.0, 0.0, 1e-6]) is None, "one moves"
    found = weights([1.0, 0.3, 0.03, 1e-4])
    assert found is not None
    expected = torch.tensor([1, 1 / 0.3, 1 / 0.03, 1.0], dtype=torch.float64)
    torch.testing.assert_close(found.sqrt(), expected, rtol=0.15, atol=0)
    unlike = steps * torch.tensor([1, 0.3, 0.03, 0.01]).view(-1, 1, 1)
    shuffled = torch.stack([row[torch.randperm(4, generator=draw)] for row in unlike])
    assert weights_of_entities(shuffled.cumsum(2), kind, measure_units(shuffled, kind, 1.0)) is None, "any place"


def test_gain_by_frames_is_not_won_by_exact_frames_or_collisions() -> None:
    draw = torch.Generator().manual_seed(0)
    without = torch.rand(3, 200, generator=draw).double() + 0.5
    right = 0.1 * without.unsqueeze(-1)
    assert gain_by_frames(right, without) == pytest.approx(math.log(10), abs=0.02)
    quiet = torch.cat([without, torch.zeros(3, 2000)], 1)
    failure = torch.cat([without, torch.zeros(3, 2000)], 1).unsqueeze(-1)
    found = torch.cat([right, torch.full((3, 2000, 1), 1e-3)], 1)
    assert gain_by_frames(found, quiet) > gain_by_frames(failure, quiet) + 2
    without[0, :3] = 1e3
    compromise, exact = without.unsqueeze(-1) / 4, right.clone()
    exact[0, :3] = 1e3
    assert gain_by_frames(exact, without) > gain_by_frames(compromise, without)
