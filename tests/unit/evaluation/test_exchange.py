"""Temperatures from exchanged structures, where labels tell the right ones."""

import pytest
import torch
from torch import Tensor

from modmeta.evaluation.calibration import calibrate
from modmeta.graph.relations import from_matrix
from tests.unit.evaluation.test_verdict import SEARCH, drawn, right

PULL, NOISE = 0.15, 0.3
TASKS, ENTITIES, FRAMES = 60, 4, 40


def made(lasting: float) -> tuple[Tensor, Tensor]:
    """States that follow some of the others, and who follows whom; errors of frames, correlated by `lasting`."""
    relations = (drawn(TASKS, ENTITIES, ENTITIES, seed=1) > 0).float() * (1 - torch.eye(ENTITIES))
    states, error = [drawn(TASKS, ENTITIES, seed=3)], drawn(TASKS, ENTITIES, seed=4)
    for step in drawn(FRAMES - 1, TASKS, ENTITIES, seed=2):
        error = lasting * error + (1 - lasting**2) ** 0.5 * step
        now = states[-1]
        pull = (relations * (now.unsqueeze(1) - now.unsqueeze(2))).sum(-1)
        states.append(now + PULL * pull + NOISE * error)
    return torch.stack(states, 2).unsqueeze(-1), from_matrix(relations.long())


def temperatures(lasting: float, exaggeration: float = 1.0) -> tuple[list[float], list[float]]:
    """Told with labels and without, at 10 frames and at all, of a model whose errors are `exaggeration` too small."""
    states, relations = made(lasting)
    model = right()
    torch.nn.init.constant_(model.likelihood.log_scales, float(torch.tensor(NOISE / exaggeration).log()))  # type: ignore[arg-type]
    each = torch.arange(2)
    with_labels = calibrate(model, SEARCH, [(states, relations)], each, windows=(10, FRAMES))
    without = calibrate(model, SEARCH, [(states, None)], each, windows=(10, FRAMES))
    return [[told.at(10), told.at(FRAMES)] for told in (with_labels, without)]  # type: ignore[return-value]


@pytest.mark.parametrize("exaggeration", [1.0, 2.0])
def test_white_errors_ask_for_one_temperature(exaggeration: float) -> None:
    right_ones, told = temperatures(0.0, exaggeration)
    assert told == pytest.approx(right_ones, rel=0.4)
    assert told[-1] == pytest.approx(exaggeration**2, rel=0.5)


def test_lasting_errors_ask_for_more_in_more_frames() -> None:
    _, (short, whole) = temperatures(0.99)
    assert whole > 2 * short


@pytest.mark.parametrize(("lasting", "rivals"), [(0.97, False), (0.9, True)])
def test_beyond_the_observed_frames_temperatures_go_on_growing(
    lasting: float, rivals: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that exchanged structures ask for; of errors that last long rivals ask for the highest there is."""
    if not rivals:
        monkeypatch.setattr("modmeta.evaluation.calibration._by_rival", lambda fitted, *_: fitted)
    states, _ = made(lasting)
    told = calibrate(right(), SEARCH, [(states, None)], torch.arange(2), windows=(10, FRAMES))
    assert told.at(FRAMES) < told.at(2 * FRAMES) <= 2 * told.at(FRAMES) * (1 + 1e-6)


def test_a_single_task_has_no_other_to_exchange_with() -> None:
    states, _ = made(0.0)
    assert calibrate(right(), SEARCH, [(states[:1], None)], torch.arange(2)).frames == (10, 20)
