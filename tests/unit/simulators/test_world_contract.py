"""Every world holds the contract of `tests/contracts_data.py`, and the contract notices what is broken."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from modmeta.simulators import WORLDS, Draws, Rng, Stepped, World
from tests.contracts_data import WorldContract
from tests.runs import ROOT


class TestWorlds(WorldContract):
    @pytest.fixture(params=WORLDS)
    def world(self, request: pytest.FixtureRequest) -> World:
        return WORLDS[request.param]()


def test_worlds_are_listed_under_their_names() -> None:
    """And have a YAML that trains on them."""
    for name, world in WORLDS.items():
        assert world.name == name
        path = ROOT / "conf" / "data" / f"{name}{world().num_entities}.yaml"
        assert f"_target_: modmeta.simulators.{world.__name__}" in path.read_text()


# ---- a world that is thrown away: the contract accepts it, and refuses it once it is broken --------------------------


@dataclass(frozen=True)
class Followers(Stepped):
    """Points on a line, each of which moves towards those that it follows."""

    name: ClassVar[str] = "followers"
    features: ClassVar[tuple[str, ...]] = ("x", "vx")
    streams: ClassVar[tuple[str, ...]] = ("task",)

    time_step: float = 0.1
    sample_every: int = 1
    pull: float = 0.3

    @property
    def edge_values(self) -> tuple[float, ...]:
        return (0.0, 1.0)

    def draw(self, rng: Rng, num_frames: int, published: bool) -> Draws:
        n = self.num_entities
        follows = rng.random((n, n)) < 0.5
        return {"follows": follows & ~np.eye(n, dtype=bool), "start": rng.random((n, 2))}

    def integrate(self, draws: Draws, num_frames: int) -> tuple[np.ndarray, np.ndarray]:
        follows, (x, v) = draws["follows"], np.moveaxis(draws["start"], -1, 0)
        frames = []
        for _ in range(num_frames):
            away = x[:, None, :] - x[:, :, None]
            v = v + self.time_step * self.pull * (follows * away).sum(-1)
            x = x + self.time_step * v
            frames.append(np.stack((x, v), -1))
        return np.stack(frames, 2), follows.astype(np.int64)


class TestThrownAway(WorldContract):
    """A world that is one class holds the contract."""

    @pytest.fixture
    def world(self) -> World:
        return Followers()


class Unseeded(Followers):
    """Draws from NumPy's global state."""

    def draw(self, rng: Rng, num_frames: int, published: bool) -> Draws:
        return super().draw(np.random.RandomState(np.random.randint(1000)), num_frames, published)  # noqa: NPY002


class Shared(Followers):
    """All tasks are drawn alike, whatever their split and seed."""

    def draw(self, rng: Rng, num_frames: int, published: bool) -> Draws:
        return super().draw(np.random.default_rng(0), num_frames, published)


class Escaping(Followers):
    """States that are no numbers after some frames."""

    def integrate(self, draws: Draws, num_frames: int) -> tuple[np.ndarray, np.ndarray]:
        states, relations = super().integrate(draws, num_frames)
        states[0, 0, -1] = np.nan
        return states, relations


class OnItself(Followers):
    """Relations of entities with themselves."""

    def integrate(self, draws: Draws, num_frames: int) -> tuple[np.ndarray, np.ndarray]:
        states, relations = super().integrate(draws, num_frames)
        return states, relations | np.eye(self.num_entities, dtype=np.int64)


class Unlabelled(Followers):
    """A relation that its values do not list."""

    @property
    def edge_values(self) -> tuple[float, ...]:
        return (0.0,)


class Rescaled(Followers):
    """Frames that depend on how many are asked for."""

    def integrate(self, draws: Draws, num_frames: int) -> tuple[np.ndarray, np.ndarray]:
        states, relations = super().integrate(draws, num_frames)
        return states / num_frames, relations


class Nameless(Followers):
    """Two features of one name."""

    features: ClassVar[tuple[str, ...]] = ("x", "x")


@pytest.mark.parametrize(
    ("broken", "test"),
    [
        (Unseeded, "test_the_same_seed_gives_the_same_tasks"),
        (Shared, "test_the_same_seed_gives_the_same_tasks"),
        (Shared, "test_tasks_of_a_split_do_not_depend_on_others"),
        (Escaping, "test_shapes_and_ranges"),
        (OnItself, "test_shapes_and_ranges"),
        (Unlabelled, "test_shapes_and_ranges"),
        (Rescaled, "test_more_frames_go_on_from_the_same_ones"),
        (Nameless, "test_describes_itself"),
    ],
)
def test_a_broken_world_is_noticed(broken: type[Followers], test: str) -> None:
    more = (3,) if test == "test_shapes_and_ranges" else ()
    with pytest.raises(AssertionError):
        getattr(WorldContract(), test)(broken(), *more)
