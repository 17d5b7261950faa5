"""States beyond what a model knows: refused where units or origin are others, never where the world is the same."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

import modmeta
from modmeta.api import Model, Relations
from modmeta.cli.main import main
from modmeta.data import formats
from modmeta.data.describe import check_familiar
from modmeta.data.generation import generate
from modmeta.data.trajectories import Trajectories
from modmeta.data.transforms.observation import add_noise, estimate_velocities
from modmeta.errors import DataError, TaskError
from modmeta.evaluation.calibration import to_relations
from modmeta.evaluation.posterior import exact
from modmeta.graph.bank import Structure
from modmeta.plots.pictures import plot_graph, plot_matrix
from modmeta.search.infer import infer
from modmeta.simulators import WORLDS

MODELS = ("springs5", "charged5", "kuramoto5")
PLACES = ("springs5", "charged5")


@cache
def model(name: str) -> Model:
    return modmeta.load(name)


@cache
def tasks(name: str, entities: int = 5, count: int = 6, frames: int = 49, seed: int = 7) -> Trajectories:
    world = WORLDS[name[:-1]](num_entities=entities)
    return generate(world, {"test": (count, frames)}, seed=seed, progress=False)["test"]


def of_the_same_world(name: str) -> Iterator[tuple[str, np.ndarray]]:
    """States that a model of this world has to take."""
    for entities in (2, 3, 10, 20):
        for seed in (1,):
            data = tasks(name, entities, 25, 49, seed)
            yield f"{entities} entities", data.states
            yield f"{entities} entities, 3 frames", data.states[:, :, -3:]
            yield f"{entities} entities, noise", add_noise(data, 0.2, data.states.std((0, 1, 2)), seed).states
            if name in PLACES:
                noisy = add_noise(data, 0.05, data.states.std((0, 1, 2)), seed)
                yield f"{entities} entities, estimated", estimate_velocities(noisy, 2, 49).states
    yield "long", tasks(name, 5, 2, 600).states
    yield "twice", tasks(name).states * (2 if name in PLACES else 1)
    yield "a third", tasks(name).states / (3 if name in PLACES else 1)


@pytest.mark.parametrize("name", MODELS)
def test_data_of_the_same_world_are_never_refused(name: str) -> None:
    """Each task by itself, too, as a file of one task has it."""
    for what, states in of_the_same_world(name):
        for given_ in (states, *states[:10, None]):
            try:
                model(name)._given(given_, None)
            except DataError as error:
                raise AssertionError(f"{what}: {error}") from error


@pytest.mark.parametrize("name", PLACES)
def test_who_is_at_rest_or_in_a_corner_is_not_refused(name: str) -> None:
    """Nearly at rest all over the box; and all within a hundredth of it, at their usual speed."""
    states = tasks(name).states
    slow, crowd = states.copy(), states.copy()
    slow[..., 2:] *= 1e-3
    slow[..., :2] = states[:, :, :1, :2] + np.cumsum(slow[..., 2:], axis=2) * 0.1
    crowd[..., :2] = 4 + 0.01 * states[..., :2]
    model(name)._given(slow, None)
    with pytest.raises(DataError, match="or the time between frames, different"):  # speeds that do not fit the places
        model(name)._given(crowd, None)
    crowd[..., :2] += np.random.default_rng(0).normal(size=crowd[..., :2].shape) * 0.05  # or noise that hides them
    model(name)._given(crowd, None)


CHANGES: dict[str, Any] = {
    "km": lambda s: s * 1e-3,
    "cm in m": lambda s: s * 1e-2,
    "cm": lambda s: s * 1e2,
    "mm": lambda s: s * 1e3,
    "origin": lambda s: s + np.array([1e3, 0, 0, 0]),
    "origin below": lambda s: s - np.array([0, 1e6, 0, 0]),
    "speeds in mm": lambda s: s * np.array([1, 1, 1e3, 1e3]),
    "speeds in km": lambda s: s * np.array([1, 1, 1e-3, 1e-3]),
    "speeds an hour": lambda s: s * np.array([1, 1, 3.6, 3.6]),
    "places in mm": lambda s: s * np.array([1e3, 1e3, 1, 1]),
    "places in km": lambda s: s * np.array([1e-3, 1e-3, 1, 1]),
    "beyond single precision": lambda s: s * 1e60,
    "beyond double precision": lambda s: s * 1e307,
    "one task": lambda s: np.concatenate((s[:2], s[2:3] * 1e3, s[3:])),
}


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize("change", CHANGES)
def test_other_units_and_origins_are_refused(name: str, change: str) -> None:
    with pytest.raises(DataError) as raised:
        model(name).infer(CHANGES[change](tasks(name).states))
    text = str(raised.value)
    assert text.startswith("states: ")
    assert "\n" not in text
    assert "units" in text
    assert any(feature in text for feature in ("x", "y", "vx", "vy"))
    assert ("task 2: " in text) == (change == "one task")


def test_angles_in_other_units_are_refused() -> None:
    for factor in (1e-3, 1e3):
        with pytest.raises(DataError, match="units"):
            model("kuramoto5").infer(tasks("kuramoto5").states * factor)


def test_every_command_refuses_them_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tasks("springs5", frames=60)
    path, output = tmp_path / "mm.npz", tmp_path / "out"
    formats.save(path, {"test": replace(data, states=data.states * 1000)})
    for words in (
        ["infer", "springs5", str(path), "-o", str(output)],
        ["evaluate", _checkpoint(), "--data", str(path), "--json", str(output)],
        ["unseen", "springs5", str(path), "-o", str(output)],
    ):
        assert main(words) == 2
        error = capsys.readouterr().err.strip()
        assert error.startswith(f"error: {path}: ")
        assert "times the typical value of the training data" in error
        assert "Are its units or its origin different?" in error
        assert "\n" not in error
        assert not output.exists()


def _checkpoint() -> str:
    from modmeta.api import path_of

    return str(path_of("springs5"))


def test_unusual_but_possible_states_get_a_note() -> None:
    for factor, told in (
        (1.0, None),
        (5.0, "outside the training range"),
        (0.1, "typical range of the training data"),
    ):
        data = tasks("springs5")
        note = check_familiar(replace(data, states=data.states * factor), model("springs5").known, "file")
        assert note is None if told is None else told in str(note)


@pytest.mark.parametrize("name", PLACES)
def test_the_remedy_works(name: str) -> None:
    """Converted back, the answers are those of the original."""
    states = tasks(name).states
    with pytest.raises(DataError):
        model(name).infer(states * 1000)
    again, first = model(name).infer(states * 1000 / 1000), model(name).infer(states)
    np.testing.assert_allclose(again.probabilities, first.probabilities, atol=1e-3)


GOOD = np.random.default_rng(0).normal(size=(2, 3, 12, 4))
WRONG_STATES: dict[str, Any] = {
    "complex": GOOD + 0j,
    "objects": GOOD.astype(object),
    "strings": GOOD.astype(str),
    "booleans": GOOD > 0,
    "dates": GOOD.astype("datetime64[s]"),
    "huge integers": [[[[10**400] * 4] * 12] * 3],
    "ragged": [[[[1.0] * 4] * 12] * 3, [[[1.0] * 4] * 11] * 3],
    "complex tensor": torch.from_numpy(GOOD + 0j),
    "none": None,
    "no tasks": GOOD[:0],
    "one entity": GOOD[:, :1],
    "two frames": GOOD[:, :, :2],
    "three features": GOOD[..., :3],
    "infinite": np.where(GOOD > 1, np.inf, GOOD),
    "one huge value": np.concatenate((GOOD[:1], np.where(GOOD[1:] == GOOD[1:].max(), 1e300, GOOD[1:]))),
}


@pytest.mark.parametrize("what", WRONG_STATES)
def test_wrong_states_are_named(what: str) -> None:
    with pytest.raises(DataError, match="states") as raised:
        model("springs5").infer(WRONG_STATES[what])
    assert "\n" not in str(raised.value)


def test_entities_that_a_frame_does_not_show_are_left_out() -> None:
    """NaN in all of their features; with a NaN in one, the remedy that is named does the same."""
    states = tasks("springs5", count=2).states.copy()
    states[0, 1, 5] = np.nan
    found = model("springs5").infer(states)
    states[0, 1, 5, :2] = 0
    with pytest.raises(DataError, match=r"task 0, entity 1, frame 5, vx is nan.*mask=np.isfinite\(states\).all\(-1\)"):
        model("springs5").infer(states)
    again = model("springs5").infer(states, mask=np.isfinite(states).all(-1))
    np.testing.assert_allclose(again.probabilities, found.probabilities, atol=1e-5)
    alone = model("springs5").infer(states[0], mask=np.isfinite(states[0]).all(-1))
    np.testing.assert_array_equal(alone.relations[0], found.relations[0])


def test_a_mask_of_steps_shows_no_entity_that_a_frame_does_not() -> None:
    states = tasks("springs5", count=2).states.copy()
    states[0, 1, 5:40] = np.nan
    found = model("springs5").infer(states)
    again = model("springs5").infer(states, mask=np.ones((2, states.shape[2] - 1), bool))
    np.testing.assert_array_equal(again.probabilities, found.probabilities)


def test_any_real_numbers_do() -> None:
    states = tasks("springs5", count=2).states.astype(np.float32)
    expected = model("springs5").infer(states).probabilities
    for same in (np.asfortranarray(states), states[::-1][::-1], states.astype(np.longdouble), states.astype(">f8")):
        np.testing.assert_array_equal(model("springs5").infer(same).probabilities, expected)
    tensor = torch.from_numpy(states).requires_grad_()
    np.testing.assert_array_equal(model("springs5").infer(tensor).probabilities.numpy(), expected)
    for rough in (states.astype(np.float16), tensor.bfloat16(), np.round(states * 2).astype(int)):
        assert np.isfinite(np.asarray(model("springs5").infer(rough).probabilities)).all()


@pytest.mark.parametrize(
    "mask",
    [
        np.ones((2, 4, 12), bool), np.ones((2, 12), bool), np.ones((1, 11), bool), np.ones((2, 11)), np.ones(11, bool),
        np.ones((2, 11), int), np.full((2, 11), None), [[True] * 11, [True] * 10], "mask", torch.ones(2, 11),
    ],
)  # fmt: skip
def test_wrong_masks_are_named(mask: Any) -> None:
    with pytest.raises(DataError, match="mask"):
        model("springs5").infer(GOOD, mask)
    assert model("springs5").infer(GOOD, np.ones((2, 11), bool)).relations.shape == (2, 3, 3)


def test_wrong_forecasts_are_named() -> None:
    found = model("springs5").infer(GOOD)
    for steps in (0, -1, 10**9, 10**30, 2.0, "3", True, None):
        with pytest.raises(DataError, match="steps"):
            model("springs5").forecast(GOOD, found, steps)  # type: ignore[arg-type]
    for members in (1, 0, 10**12):
        with pytest.raises(DataError, match="members"):
            model("springs5").forecast(GOOD, found, 2, members)
    other = model("springs5").infer(np.random.default_rng(0).normal(size=(2, 4, 12, 4)))
    for states, relations in ((GOOD[:1], found), (GOOD, other), (GOOD[:, :2], found)):
        with pytest.raises(DataError, match="same tasks and entities"):
            model("springs5").forecast(states, relations, 2)
    for wrong in (found.modules * np.nan, found.modules - 2, found.modules * 0):
        with pytest.raises(DataError, match="not probabilities"):
            model("springs5").forecast(GOOD, replace(found, modules=wrong), 2)
    ahead = model("springs5").forecast(GOOD, found, 2)
    assert all(np.isfinite(part).all() for part in vars(ahead).values())


EXTREME = st.sampled_from(
    [0.0, 1.0, -1.0, 1e-30, 700.0, -700.0, 1e30, -1e30, 1e38, -1e38, 3.4e38, np.inf, -np.inf, np.nan]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(EXTREME, min_size=8, max_size=8), st.sampled_from([1.0, 0.1, 3000.0, 1e-6]))
def test_probabilities_are_probabilities_or_an_error(rows: list[float], heat: float) -> None:
    """Of two modules on three edges: as a naive computation in double precision has them, where it can."""
    energies = torch.tensor(rows).view(1, 1, 8)
    structure = Structure(torch.zeros(1, 1, 3, dtype=torch.long), torch.zeros(1, 1, dtype=torch.long))
    with np.errstate(over="ignore", invalid="ignore"):
        tempered = np.array(rows, np.float32) / np.float32(heat)
        possible = not np.isnan(tempered).any() and np.isfinite(tempered.min())
    if not possible:
        with pytest.raises(TaskError, match="task 0: "):
            exact(energies, structure, 2, heat)
        return
    chances = exact(energies, structure, 2, heat)
    weights = np.exp(np.maximum(float(tempered.min()) - tempered.astype(np.float64), -800))
    bits = np.array([[(row >> place) & 1 for place in (2, 1, 0)] for row in range(8)])
    expected = (weights[:, None] * bits).sum(0) / weights.sum()
    np.testing.assert_allclose(chances[0, 0, :, 1].numpy(), expected, atol=1e-5)
    for part in (chances, to_relations(chances, torch.tensor([0, 1])), to_relations(chances, torch.tensor([1, 1]))):
        assert bool(((part >= 0) & (part <= 1)).all())
        assert float((part.sum(-1) - 1).abs().max()) < 1e-6


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("entities", [3, 12])
def test_no_answer_is_not_a_number_however_far_states_are(name: str, entities: int) -> None:
    """The search itself, past the check of units: energies are numbers or infinite, probabilities are probabilities."""
    module = model(name).module
    for size in (1e3, 1e10, 1e19, 3e38):
        states = size * torch.randn(2, entities, 12, 4, generator=torch.Generator().manual_seed(0))
        states[1] = tasks_of(name, entities)
        found = infer(module.search, module.model, None, states, torch.Generator().manual_seed(0))
        assert not found.energies.isnan().any()
        assert bool(found.energies[1].isfinite())
        assert bool(((found.probabilities >= 0) & (found.probabilities <= 1)).all())
        with contextlib.suppress(TaskError):
            generator = torch.Generator().manual_seed(0)
            parts = model(name)._infer(states, None, entities > 3, generator, model(name).calibration)
            assert not any(parts[part].isnan().any() for part in ("probabilities", "relations", "energies"))


def tasks_of(name: str, entities: int) -> torch.Tensor:
    return model(name).units.normalised(tasks(name, entities, 1, 12).states)[0]


def test_rounding_is_no_reason_to_stop_drawing() -> None:
    chances = np.zeros((2, 2, 2), "f4")
    chances[..., 1] = np.float32(1.0000001)
    relations = np.ones((2, 2), int)
    plot_graph(Figure().subplots(), np.eye(2), relations, chances, ["a", "b"])
    plot_matrix(Figure().subplots(), relations, chances, ["a", "b"])


def test_a_model_and_its_answers_agree_on_sums() -> None:
    found: Relations = model("charged5").infer(tasks("charged5").states)
    off = ~np.eye(5, dtype=bool)
    for part in (found.probabilities[:, off], found.modules[:, off]):
        assert part.min() >= 0
        assert part.max() <= 1
        np.testing.assert_allclose(part.sum(-1), 1, atol=1e-6)
