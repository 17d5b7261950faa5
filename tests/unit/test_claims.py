"""What a packaged model claims at home, among strangers, and far away."""

from dataclasses import replace

import numpy as np
import pytest

import modmeta
from modmeta.answers import claimed
from modmeta.data.generation import generate
from modmeta.data.trajectories import Trajectories
from modmeta.evaluation.calibration import Calibration
from modmeta.evaluation.verdict import FOUND, NOTHING, UNFIT, Judged, Verdict
from modmeta.simulators import Charged


@pytest.fixture(scope="module")
def model() -> modmeta.Model:
    return modmeta.load("springs5")


@pytest.fixture(scope="module")
def found(model: modmeta.Model, springs: Trajectories) -> modmeta.Relations:
    return model.infer(springs.states)


def off_diagonal(matrices: np.ndarray) -> np.ndarray:
    return np.asarray(matrices[:, ~np.eye(5, dtype=bool)])


def test_home(found: modmeta.Relations, springs: Trajectories) -> None:
    assert found.verdict.name == FOUND
    assert found.misfit is not None
    assert not found.misfit.any()
    assert springs.relations is not None
    assert (off_diagonal(found.relations) == off_diagonal(springs.relations)).mean() > 0.99


def test_the_verdict_changes_no_answer(model: modmeta.Model, found: modmeta.Relations, springs: Trajectories) -> None:
    plain = modmeta.Model(model.module, model.data, model.calibration, Judged())
    without = plain.infer(springs.states, nulls=False)
    assert without.verdict.name == "not judged"
    assert without.misfit is None
    np.testing.assert_array_equal(without.probabilities, found.probabilities)


@pytest.mark.slow
def test_a_file_tells_how_sure_a_model_may_be_that_was_never_judged() -> None:
    model, made = modmeta.load("charged5"), generate(Charged(), {"test": (12, 49)}, seed=99, stream="task")["test"]
    states = made.states + 0.002 * np.random.default_rng(0).standard_normal(made.states.shape)
    few, known = Judged(home=model.judged.home), Judged(home=model.judged.home, prior=model.judged.prior)
    assert few.few
    assert not known.few
    sure, less = (
        modmeta.Model(model.module, model.data, Calibration(), judged).infer(states) for judged in (known, few)
    )
    assert sure.verdict == less.verdict
    assert sure.verdict.name == FOUND
    assert less.probabilities.max(-1).mean() < sure.probabilities.max(-1).mean() - 0.001


def test_strangers_are_not_related(model: modmeta.Model, springs: Trajectories) -> None:
    rows = (np.arange(5)[:, None] + 2 * np.arange(5)) % 12
    among = model.infer(springs.states[rows, np.arange(5), :20])
    assert among.verdict.name == UNFIT
    assert among.misfit is not None
    assert among.misfit.mean() > 0.5
    np.testing.assert_allclose(off_diagonal(among.probabilities), 0.5, atol=0.01)


def test_a_single_task_that_does_not_fit_has_the_prior(model: modmeta.Model, springs: Trajectories) -> None:
    states = springs.states.copy()
    states[3] = np.stack([springs.states[task, 0] for task in range(5)])
    some = model.infer(states, nulls=False)
    assert some.verdict.name == FOUND
    assert some.misfit is not None
    assert some.misfit.nonzero()[0].tolist() == [3]
    assert off_diagonal(some.probabilities)[3].max() < 0.51
    assert off_diagonal(some.probabilities)[2].max() > 0.99


def test_the_prior_leaves_absent_entities_alone(found: modmeta.Relations) -> None:
    chances, relations = found.probabilities.copy(), found.relations.copy()
    chances[0, 4], chances[0, :, 4], relations[0, 4], relations[0, :, 4] = np.nan, np.nan, -1, -1
    nothing = replace(found, probabilities=chances, relations=relations, verdict=Verdict(NOTHING))
    told = claimed(nothing, (0.3, 0.7))
    np.testing.assert_allclose(told.probabilities[0, 0, 1], [0.3, 0.7], rtol=1e-6)
    assert told.relations[0, 0, 1] == 1
    assert np.isnan(told.probabilities[0, 4]).all()
    assert (told.relations[0, 4] == -1).all()
    assert claimed(replace(nothing, verdict=found.verdict)).probabilities is chances


def test_entities_come_and_go(model: modmeta.Model, springs: Trajectories) -> None:
    """No frame shows all; the pair that none shows together has the prior, the others are told."""
    seen = np.ones(springs.states.shape[:3], bool)
    seen[:, 0, 25:] = seen[:, 1, :25] = False
    found = model.infer(np.where(seen[..., None], springs.states, 0), seen)
    assert found.apart is not None
    assert springs.relations is not None
    assert np.argwhere(found.apart.all(0)).tolist() == [[0, 1], [1, 0]]
    assert found.apart.sum() == 2 * len(springs.states)
    np.testing.assert_allclose(found.probabilities[:, [0, 1], [1, 0]], 0.5, atol=0.01)
    together = ~found.apart & ~np.eye(5, dtype=bool)
    assert (found.relations == springs.relations)[together].mean() > 0.85
    assert found.probabilities.max(-1)[together].mean() < 0.99


def test_no_frame_shows_all_but_gaps_are_short(model: modmeta.Model, springs: Trajectories) -> None:
    frames = springs.states.shape[2]
    seen = np.arange(frames) % 5 != np.arange(5)[:, None]
    found = model.infer(springs.states, np.broadcast_to(seen, springs.states.shape[:3]))
    assert found.apart is None
    assert found.verdict.name == FOUND
    assert springs.relations is not None
    assert (off_diagonal(found.relations) == off_diagonal(springs.relations)).mean() > 0.99
