"""Simulators against published output, a NumPy loop, closed forms and SciPy."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from benchmarks import numpy_integrator
from modmeta.data import generation
from modmeta.data.generation import generate
from modmeta.data.trajectories import Trajectories
from modmeta.errors import DataError
from modmeta.simulators import WORLDS, Charged, Kuramoto, Masses, Mixed, Particles, Springs, World, open_stream
from tests.runs import ROOT

PUBLISHED = ROOT / "tests" / "data"
SPLITS = ("train", "valid", "test")
# Frames before two charges come within 0.007: from then on the last bit of NumPy's power, which depends on the
# processor, grows a million times and more.
CLOSE_ENCOUNTERS = {(3, "valid", 0): 15, (5, "train", 3): 25}


def published(world: str, entities: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """States (tasks, N, T, 4) and edges (tasks, N, N) of the published generator, by split."""
    with np.load(PUBLISHED / f"nri_generator_{world}{entities}_seed42.npz") as file:
        states = {s: np.concatenate([file[f"loc_{s}"], file[f"vel_{s}"]], 2).transpose(0, 3, 1, 2) for s in SPLITS}
        return states, {s: file[f"edges_{s}"] for s in SPLITS}


def as_published(world: str, entities: int) -> dict[str, Trajectories]:
    states, _ = published(world, entities)
    counts = {split: (array.shape[0], array.shape[2]) for split, array in states.items()}
    return generate(WORLDS[world](num_entities=entities), counts, seed=42, stream="nri")


@pytest.mark.parametrize("entities", [3, 5])
@pytest.mark.parametrize("world", ["springs", "charged"])
def test_relations_are_the_published_edges(world: str, entities: int) -> None:
    _, edges = published(world, entities)
    for split, data in as_published(world, entities).items():
        assert data.relations is not None
        assert data.relations.dtype == np.int64
        np.testing.assert_array_equal(np.array(data.settings["edge_values"])[data.relations], edges[split])


@pytest.mark.parametrize("entities", [3, 5])
def test_springs_are_published_bit_for_bit(entities: int) -> None:
    states, _ = published("springs", entities)
    for split, data in as_published("springs", entities).items():
        np.testing.assert_array_equal(data.states, states[split])


@pytest.mark.parametrize("entities", [3, 5])
def test_charged_are_published_up_to_close_encounters(entities: int) -> None:
    states, _ = published("charged", entities)
    for split, data in as_published("charged", entities).items():
        for task in range(data.num_tasks):
            frames = CLOSE_ENCOUNTERS.get((entities, split, task), data.num_frames)
            np.testing.assert_allclose(
                data.states[task, :, :frames], states[split][task, :, :frames], atol=1e-6, rtol=0
            )


@pytest.mark.parametrize("entities", [3, 5])
def test_charged_are_published_bit_for_bit_where_numpy_is(entities: int) -> None:
    states, _ = published("charged", entities)
    rng = np.random.RandomState(42)
    for split, data in as_published("charged", entities).items():
        for task, expected in enumerate(states[split]):
            loop, _, _ = numpy_integrator.trajectory("charged", rng, entities, data.num_frames)
            if not np.array_equal(loop, expected):
                pytest.skip("NumPy's power rounds otherwise on this processor than where the data was made")
            np.testing.assert_array_equal(data.states[task], expected)


@pytest.mark.parametrize("entities", [2, 5, 8, 10, 17])
@pytest.mark.parametrize("world", ["springs", "charged"])
def test_equals_a_numpy_loop_bit_for_bit(world: str, entities: int) -> None:
    data = generate(WORLDS[world](num_entities=entities), {"train": (2, 3)}, seed=3, stream="nri")["train"]
    rng = np.random.RandomState(3)
    for task in range(2):
        states, edges, _ = numpy_integrator.trajectory(world, rng, entities, 3)
        np.testing.assert_array_equal(data.states[task], states)
        np.testing.assert_array_equal(np.array(data.settings["edge_values"])[data.relations[task]], edges)


def test_noise_is_the_published_draw() -> None:
    counts = {"train": (2, 4)}
    clean, noisy = (
        generate(Springs(observation_noise=noise), counts, seed=5, stream="nri")["train"] for noise in (0.0, 0.5)
    )
    rng = np.random.RandomState(5)
    for task in range(2):
        _, _, noise = numpy_integrator.trajectory("springs", rng, 5, 4)
        expected = clean.states[task] + 0.5 * np.concatenate(noise, axis=1).transpose(2, 0, 1)
        np.testing.assert_array_equal(noisy.states[task], expected)


def test_two_body_spring_oscillates_in_closed_form() -> None:
    world = Springs(num_entities=2, relation_strengths=(1.0,), probabilities=(1.0,), strength=3.0, box=50.0)
    draws = {"uniform": np.full((1, 2, 2), 0.5), "start": np.zeros((1, 2, 2, 2))}
    draws["start"][0, 0] = [[1.0, -1.0], [0.4, 0.0]]
    draws["start"][0, 1] = [[0.0, 1.0], [2.0, 0.0]]
    frames = 99
    states, _ = world.integrate(draws, frames)
    apart = states[0, 0, :, :2] - states[0, 1, :, :2]
    start, speed = np.array([1.0, 0.2]), np.array([-0.5, 0.5])
    omega = np.sqrt(2 * 3.0)  # reduced mass 1/2
    steps = np.arange(1, frames + 1) * 100
    # The integrator is a linear recurrence, whose solution oscillates at a slightly different frequency.
    angle, dt = np.arccos(1 - (omega * 0.001) ** 2 / 2), 0.001
    first = start + dt * (speed - dt * omega**2 * start)
    sine = (first - start * np.cos(angle)) / np.sin(angle)
    exact = np.cos(angle * steps)[:, None] * start + np.sin(angle * steps)[:, None] * sine
    np.testing.assert_allclose(apart, exact, atol=1e-9)
    time = steps * dt
    continuous = np.cos(omega * time)[:, None] * start + np.sin(omega * time)[:, None] * speed / omega
    np.testing.assert_allclose(apart, continuous, atol=2e-3)


def charges(relations: np.ndarray, squared: np.ndarray) -> np.ndarray:
    return np.where(relations % 2 == 0, 1.0, -1.0) / squared**1.5


def three_springs(relations: np.ndarray, squared: np.ndarray) -> np.ndarray:
    return -0.1 * np.array([0.0, 0.5, 1.0])[relations]


def charges_and_springs(relations: np.ndarray, squared: np.ndarray) -> np.ndarray:
    return charges(relations, squared) - 0.1 * (relations >= 2)


THREE = {"relation_strengths": (0, 0.5, 1), "probabilities": (0.2, 0.3, 0.5)}


@pytest.mark.parametrize(
    ("world", "weights"),
    [
        (Charged(num_entities=4, positive=1.0, box=100.0, position_std=2.0), charges),
        (Springs(num_entities=5, box=100.0, **THREE), three_springs),
        (Springs(num_entities=10, box=100.0, **THREE), three_springs),
        (Mixed(num_entities=5, box=100.0, position_std=2.0), charges_and_springs),
        (Mixed(num_entities=10, box=100.0, position_std=4.0), charges_and_springs),
    ],
)
def test_particles_follow_an_adaptive_integrator(world: Particles, weights: Callable) -> None:
    n, frames, tasks, compared = world.num_entities, 10, 8, 0
    data = generate(world, {"test": (tasks, frames)}, seed=1)["test"]
    fine = generate(replace(world, time_step=2e-4, sample_every=500), {"test": (tasks, frames)}, seed=1)["test"]

    def slope(_: float, state: np.ndarray, relations: np.ndarray) -> np.ndarray:
        place, velocity = state.reshape(2, 2, n)
        apart = place[:, :, None] - place[:, None, :]
        squared = (apart**2).sum(0) + np.diag(np.full(n, np.inf))
        return np.concatenate([velocity, (apart * weights(relations, squared)).sum(-1)]).ravel()

    for task in range(tasks):
        draws = world.draw(open_stream("task", 1)("test", task), frames, False)
        place, velocity = world._start(draws["start"][None])
        start, times = np.concatenate([place[..., 0], velocity[..., 0]]).ravel(), np.linspace(0, 1, 101)
        args = (data.relations[task],)
        solved = solve_ivp(slope, (0, 1), start, "DOP853", times, rtol=1e-10, atol=1e-12, args=args)
        exact = solved.y.reshape(4, n, 101).transpose(1, 2, 0)[..., :2]
        nearest = np.linalg.norm(exact[:, None] - exact, axis=-1)[~np.eye(n, dtype=bool)].min()
        if nearest < 0.3 and not isinstance(world, Springs):
            continue  # close encounters amplify the error of a step
        error, finer = (np.abs(made.states[task, ..., :2] - exact[:, 10::10]).max() for made in (data, fine))
        assert error < 5e-3
        assert finer < error / 4  # of first order in the time step
        compared += 1
    assert compared >= 2


@pytest.mark.parametrize("entities", [2, 5, 10])
def test_masses_follow_an_adaptive_integrator(entities: int) -> None:
    """Half of them light, half of them heavy, all slowed; types tell which is which."""
    world, frames = Masses(num_entities=entities, masses=(0.5, 2.0), friction=0.3, box=100.0), 20
    data = generate(world, {"test": (4, frames)}, seed=1)["test"]
    fine = generate(replace(world, time_step=2e-4, sample_every=500), {"test": (4, frames)}, seed=1)["test"]
    assert data.types is not None

    def slope(_: float, state: np.ndarray, relations: np.ndarray, mass: np.ndarray) -> np.ndarray:
        place, velocity = state.reshape(2, 2, entities)
        force = -0.1 * (relations * (place[:, :, None] - place[:, None, :])).sum(-1)
        return np.concatenate([velocity, (force - 0.3 * velocity) / mass]).ravel()

    for task in range(4):
        draws = world.draw(open_stream("task", 1)("test", task), frames, False)
        place, velocity = world._start(draws["start"][None])
        start, times = np.concatenate([place[..., 0], velocity[..., 0]]).ravel(), 0.1 * np.arange(1, frames + 1)
        args = (data.relations[task], np.array([0.5, 2.0])[data.types[task]])
        solved = solve_ivp(slope, (0, times[-1]), start, "DOP853", times, rtol=1e-10, atol=1e-12, args=args)
        exact = solved.y.reshape(4, entities, frames).transpose(1, 2, 0)
        error, finer = (np.abs(made.states[task] - exact).max() for made in (data, fine))
        assert error < 5e-3
        assert finer < error / 4  # of first order in the time step


@pytest.mark.parametrize("entities", [5, 10])
def test_masses_of_1_without_drag_are_springs(entities: int) -> None:
    world = Springs(num_entities=entities)
    draw = world.draw(open_stream("task", 3)("test", 0), 20, False)
    stacked = {name: part[None] for name, part in draw.items()}
    states, relations = world.integrate(stacked, 20)
    stacked["uniform"] = np.concatenate([stacked["uniform"].reshape(1, -1), np.full((1, entities), 0.7)], axis=1)
    alike = Masses(num_entities=entities, masses=(1.0, 1.0), friction=0.0)
    np.testing.assert_array_equal(alike.integrate(stacked, 20)[0], states)
    np.testing.assert_array_equal(alike.integrate(stacked, 20)[1], relations)
    np.testing.assert_array_equal(alike.types(stacked), np.ones((1, entities)))


def test_types_are_equally_likely_and_only_where_there_are_several() -> None:
    types = generate(Masses(masses=[1, 2, 4]), {"train": (2000, 1)})["train"].types  # a list, as a config gives it
    assert types is not None
    assert types.dtype == np.int64
    np.testing.assert_allclose(np.bincount(types.ravel()) / types.size, np.full(3, 1 / 3), atol=0.02)
    assert generate(Masses(masses=[2]), {"train": (2, 1)})["train"].types is None
    assert generate(Springs(), {"train": (2, 1)})["train"].types is None


@pytest.mark.parametrize("entities", [2, 5, 10])
def test_kuramoto_follow_an_adaptive_integrator(entities: int) -> None:
    world, frames = Kuramoto(num_entities=entities, coupling=1.5), 49
    data = generate(world, {"test": (2, frames)}, seed=1)["test"]
    fine = generate(replace(world, time_step=0.005, sample_every=20), {"test": (2, frames)}, seed=1)["test"]

    def slope(_: float, phi: np.ndarray, omega: np.ndarray, coupled: np.ndarray) -> np.ndarray:
        return omega + 1.5 * (coupled * np.sin(phi[:, None] - phi[None, :])).sum(1)

    for task in range(2):
        draws = world.draw(open_stream("task", 1)("test", task), frames, False)
        omega, phases = (part[:, 0] for part in world._start(draws["start"][None]))
        times, args = 0.1 * np.arange(1, frames + 1), (omega, data.relations[task])
        solved = solve_ivp(slope, (0, times[-1]), phases, "DOP853", times, rtol=1e-12, atol=1e-12, args=args)
        velocity = np.array([slope(0, phi, *args) for phi in solved.y.T]).T
        exact = np.stack([np.sin(solved.y), np.cos(solved.y), velocity, omega[:, None].repeat(frames, 1)], -1)
        error, finer = (np.abs(made.states[task] - exact).max() for made in (data, fine))
        assert error < 1e-5
        assert finer < max(error / 10, 1e-10)  # of fourth order in the time step


def test_kuramoto_start_as_they_should() -> None:
    world = Kuramoto(num_entities=3, time_step=1e-9, sample_every=1)
    states = generate(world, {"train": (2000, 1)})["train"].states[:, :, 0]
    frequencies, phases = states[..., 3], np.arctan2(states[..., 0], states[..., 1]) % (2 * np.pi)
    for values, low, high in ((frequencies, 1, 10), (phases, 0, 2 * np.pi)):
        assert low <= values.min() < low + 0.01 * high
        assert 0.99 * high < values.max() < high
        assert values.mean() == pytest.approx((low + high) / 2, rel=0.02)


def test_mixed_without_springs_are_charged() -> None:
    world = Charged(num_entities=6)
    draws = [world.draw(open_stream("task", 3)("test", task), 20, False) for task in range(5)]
    stacked = {name: np.stack([draw[name] for draw in draws]) for name in draws[0]}
    states, relations = world.integrate(stacked, 20)
    springs = np.random.default_rng(0).random((5, 15))
    stacked["uniform"] = np.concatenate([stacked["uniform"], springs], axis=1)
    weak, labels = Mixed(num_entities=6, spring_strength=1e-300).integrate(stacked, 20)
    np.testing.assert_array_equal(weak, states)
    np.testing.assert_array_equal(labels % 2, relations)
    first, second = np.triu_indices(6, 1)
    np.testing.assert_array_equal(labels[:, first, second] // 2, springs >= 0.5)


def test_springs_keep_energy_and_momentum() -> None:
    data = generate(Springs(box=1000.0), {"test": (20, 400)}, seed=2)["test"]
    place, velocity = data.states[..., :2], data.states[..., 2:]
    momentum = velocity.sum(axis=1)
    np.testing.assert_allclose(momentum, momentum[:, :1].repeat(400, 1), atol=1e-10)
    squared = ((place[:, :, None] - place[:, None]) ** 2).sum(-1)
    assert data.relations is not None
    energy = (velocity**2).sum((1, 3)) / 2 + 0.1 / 4 * (data.relations[..., None] * squared).sum((1, 2))
    assert (np.abs(energy / energy[:, :1] - 1) < 2e-3).all()


@pytest.mark.parametrize("world", [Springs(speed=30.0), Charged(speed=30.0), Mixed(speed=30.0), Masses(speed=30.0)])
def test_walls_keep_particles_in(world: World) -> None:
    data = generate(world, {"test": (50, 20)})["test"]
    assert np.abs(data.states[..., :2]).max() <= 5.0
    assert np.abs(data.states[..., :2]).max() > 4.9


@pytest.mark.parametrize(
    "world",
    [
        Springs(num_entities=3),
        Charged(num_entities=3, observation_noise=0.1),
        Kuramoto(num_entities=3, observation_noise=0.1),
        Mixed(num_entities=3, observation_noise=0.1),
        Masses(num_entities=3, observation_noise=0.1),
    ],
)
def test_a_task_depends_on_seed_split_and_index_alone(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    many = generate(world, {"train": (30, 3), "test": (9, 3)}, seed=7, threads=3)
    monkeypatch.setattr(generation, "BLOCK", 4)
    few = generate(world, {"test": (5, 3), "train": (7, 3)}, seed=7, threads=1)
    for split, data in few.items():
        np.testing.assert_array_equal(data.states, many[split].states[: len(data)])
        np.testing.assert_array_equal(data.relations, many[split].relations[: len(data)])
        if data.types is not None:
            np.testing.assert_array_equal(data.types, many[split].types[: len(data)])
    starts = np.concatenate([many["train"].states[:, 0, 0, 0], many["test"].states[:, 0, 0, 0]])
    assert len(np.unique(starts)) == 39
    other = generate(world, {"train": (30, 3)}, seed=8)["train"]
    assert not np.isin(other.states[:, 0, 0, 0], starts).any()


def test_blocks_and_threads_leave_the_published_stream_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = {"train": (30, 2), "test": (9, 2)}
    whole = generate(Springs(), counts, seed=1, stream="nri", threads=1)
    monkeypatch.setattr(generation, "BLOCK", 4)
    parts = generate(Springs(), counts, seed=1, stream="nri", threads=3)
    for split in counts:
        np.testing.assert_array_equal(whole[split].states, parts[split].states)


@pytest.mark.parametrize(
    ("world", "labels"),
    [(Springs(), 2), (Charged(), 2), (Springs(num_entities=4), 2), (Kuramoto(), 2), (Mixed(), 4), (Masses(), 2)],
)
def test_relations_are_as_likely_as_asked(world: World, labels: int) -> None:
    relations = generate(world, {"train": (2000, 1)})["train"].relations
    assert relations is not None
    np.testing.assert_array_equal(relations, relations.transpose(0, 2, 1))
    off_diagonal = relations[:, ~np.eye(world.num_entities, dtype=bool)]
    assert not relations[:, np.eye(world.num_entities, dtype=bool)].any()
    shares = np.bincount(off_diagonal.ravel()) / off_diagonal.size
    np.testing.assert_allclose(shares, np.full(labels, 1 / labels), atol=0.02)


def test_springs_of_three_strengths() -> None:
    world = Springs(relation_strengths=[0, 0.5, 1], probabilities=[0.2, 0.3, 0.5])  # lists, as a config gives them
    data = generate(world, {"train": (2000, 1)})["train"]
    off_diagonal = data.relations[:, ~np.eye(5, dtype=bool)]
    np.testing.assert_allclose(np.bincount(off_diagonal.ravel()) / off_diagonal.size, [0.2, 0.3, 0.5], atol=0.02)
    strengths = world._relate(np.full((1, 5, 5), 0.4))[1]
    np.testing.assert_allclose(strengths, -0.05)


def test_noise_has_its_standard_deviation() -> None:
    counts = {"train": (200, 20)}
    clean, noisy = (generate(Springs(observation_noise=s), counts)["train"].states for s in (0.0, 0.3))
    assert (noisy - clean).std() == pytest.approx(0.3, rel=0.02)


def test_noise_of_oscillators_spares_their_frequency() -> None:
    counts = {"train": (200, 20)}
    clean, noisy = (generate(Kuramoto(observation_noise=s), counts)["train"].states for s in (0.0, 0.3))
    np.testing.assert_allclose((noisy - clean).std(axis=(0, 1, 2)), [0.3, 0.3, 0.3, 0.0], rtol=0.05)


@pytest.mark.parametrize("world", [Kuramoto(), Mixed(), Masses()])
def test_worlds_without_a_published_stream_refuse_it(world: World) -> None:
    with pytest.raises(DataError, match=f"world {world.name} has no stream 'nri'; choose 'task'"):
        generate(world, {"train": (2, 3)}, stream="nri")


def test_says_what_it_made_and_nothing_on_the_way(capsys: pytest.CaptureFixture[str]) -> None:
    data = generate(Springs(num_entities=2), {"test": (3, 4)}, seed=9)["test"]
    assert data.states.shape == (3, 2, 4, 4)
    assert data.features == ("x", "y", "vx", "vy")
    assert data.frame_step == pytest.approx(0.1)
    assert data.settings["world"] == "springs"
    assert data.settings["seed"] == 9
    assert data.validate("memory") is data
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("world", "settings", "word"),
    [
        (Springs, {"num_entities": 1}, "num_entities"),
        (Springs, {"num_entities": 2.5}, "num_entities"),
        (Springs, {"time_step": 0.0}, "time_step"),
        (Springs, {"sample_every": 0}, "sample_every"),
        (Springs, {"box": float("inf")}, "box"),
        (Springs, {"observation_noise": -1.0}, "observation_noise"),
        (Springs, {"observation_noise": float("nan")}, "observation_noise"),
        (Springs, {"probabilities": (0.5, 0.6)}, "probabilities"),
        (Springs, {"probabilities": (0.5, 0.2, 0.3)}, "probabilities"),
        (Springs, {"probabilities": ()}, "probabilities"),
        (Springs, {"relation_strengths": ()}, "relation_strengths"),
        (Springs, {"relation_strengths": (0.0, -1.0)}, "relation_strengths"),
        (Springs, {"strength": 0.0}, "strength"),
        (Charged, {"position_std": -1.0}, "position_std"),
        (Charged, {"positive": 1.5}, "positive"),
        (Charged, {"num_entities": 0}, "num_entities"),
        (Kuramoto, {"num_entities": 1}, "num_entities"),
        (Kuramoto, {"time_step": -0.1}, "time_step"),
        (Kuramoto, {"coupling": 0.0}, "coupling"),
        (Kuramoto, {"observation_noise": float("nan")}, "observation_noise"),
        (Mixed, {"spring_strength": 0.0}, "spring_strength"),
        (Mixed, {"strength": -1.0}, "strength"),
        (Masses, {"masses": (1.0, 0.0)}, "masses"),
        (Masses, {"masses": ()}, "masses"),
        (Masses, {"friction": -0.1}, "friction"),
    ],
)
def test_settings_without_sense(world: type, settings: dict, word: str) -> None:
    with pytest.raises(DataError, match=word):
        world(**settings)


@pytest.mark.parametrize(
    ("counts", "options", "word"),
    [
        ({}, {}, "no split"),
        ({"train": (0, 5)}, {}, "split train: number of tasks is 0"),
        ({"train": (-3, 5)}, {}, "number of tasks is -3"),
        ({"train": (3, 0)}, {}, "number of frames is 0"),
        ({"train": (2.5, 3)}, {}, "number of tasks is 2.5"),
        ({"train": (2, 3)}, {"seed": -1}, "seed"),
        ({"train": (2, 3)}, {"seed": 0.5}, "seed"),
        ({"train": (2, 3)}, {"seed": 2**32, "stream": "nri"}, "seed"),
        ({"train": (2, 3)}, {"stream": "mine"}, "stream"),
        ({"train": (2, 3)}, {"threads": 0}, "threads"),
    ],
)
def test_requests_without_sense(counts: dict, options: dict, word: str) -> None:
    with pytest.raises(DataError, match=word):
        generate(Springs(), counts, **options)


def test_a_simulation_that_breaks_down() -> None:
    with pytest.raises(DataError, match="shorter time_step"):
        generate(Springs(time_step=50.0), {"train": (300, 3)})


def test_more_than_fits_into_memory_is_refused_before_it_is_asked_for() -> None:
    with pytest.raises(DataError, match=r"GB of memory.*simulate fewer"):
        generate(Springs(), {"train": (10**9, 49)}, progress=False)
