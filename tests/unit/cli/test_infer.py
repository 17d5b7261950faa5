"""The Python interface, posteriors against exact marginals, calibration; `modmeta inspect`."""

from pathlib import Path

import numpy as np
import pytest
import torch

import modmeta
from modmeta.cli.main import main
from modmeta.data.generation import generate
from modmeta.data.trajectories import Trajectories
from modmeta.errors import DataError
from modmeta.evaluation.calibration import Calibration, calibration_error, nll
from modmeta.evaluation.posterior import exact, sample, scorer, split_r_hat, table
from modmeta.graph.bank import random_structure
from modmeta.simulators import Springs
from tests.conftest import make_model
from tests.runs import ROOT


def test_python_interface_keeps_the_kind(springs: Trajectories) -> None:
    model = modmeta.load("springs5")
    found = model.infer(springs.states)
    assert (found.relations == springs.relations)[:, ~np.eye(5, dtype=bool)].mean() >= 0.995
    assert found.evidence.shape == (12, 5)
    one = model.infer(torch.from_numpy(springs.states[4]))
    assert isinstance(one.relations, torch.Tensor)
    np.testing.assert_array_equal(one.relations[0].numpy(), found.relations[4])
    sampled = model.infer(springs.states[:3], sampling=True)
    np.testing.assert_allclose(sampled.probabilities, found.probabilities[:3], atol=0.02)
    assert sampled.r_hat.max() < 1.1
    ahead = model.forecast(springs.states[:2, :, :30], model.infer(springs.states[:2, :, :30]), 5)
    assert np.abs(ahead.mean - springs.states[:2, :, 30:35]).max() < 0.02
    with pytest.raises(DataError, match="4 features"):
        model.infer(springs.states[..., :3])
    assert {"springs5"} <= set(modmeta.models())
    for name in modmeta.models():
        assert (ROOT / "modmeta" / "pretrained" / f"{name}.ckpt").stat().st_size < 1_000_000


@pytest.mark.parametrize("temperature", [1.0, pytest.param(5.0, marks=pytest.mark.slow)])
def test_sampling_agrees_with_exact_marginals(temperature: float) -> None:
    """Several chains of slotwise Gibbs sampling against the enumeration of all rows, where there is real doubt."""
    model = make_model("additive", "student_t", k=3)
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(4, 4, 3, 4, generator=torch.Generator().manual_seed(3))
    structure = random_structure(4, 4, 3, 1, generator)
    with torch.no_grad():
        score = scorer(model, states, structure)
        energies = table(score, structure, 3)
        truth = exact(energies, structure, 3, temperature)
        probabilities, r_hat = sample(model, states, structure, temperature, generator, chains=64, sweeps=400)
    assert ((truth > 0.1) & (truth < 0.9)).any()
    np.testing.assert_allclose(probabilities, truth, atol=0.03)
    assert r_hat.max() < 1.05


def test_split_r_hat_tells_chains_that_disagree() -> None:
    draws = torch.rand(200, 4, generator=torch.Generator().manual_seed(0))
    assert float(split_r_hat(draws)) == pytest.approx(1, abs=0.02)
    draws[:, 0] += 1
    assert float(split_r_hat(draws)) > 1.3
    drifting = torch.rand(200, 4, generator=torch.Generator().manual_seed(0)) + torch.linspace(0, 3, 200).unsqueeze(1)
    assert float(split_r_hat(drifting)) > 1.3


def test_calibration_error_of_known_cases() -> None:
    generator = np.random.default_rng(0)
    chance = generator.uniform(0.5, 1, 40_000)
    right = generator.uniform(size=len(chance)) < chance
    probabilities = torch.from_numpy(np.stack((chance, 1 - chance), -1))
    labels = torch.from_numpy(np.where(right, 0, 1))
    assert calibration_error(probabilities, labels) < 0.01
    sure = torch.tensor([[0.99, 0.01]]).repeat(100, 1)
    half = torch.arange(100) % 2
    assert calibration_error(sure, half) == pytest.approx(0.49)
    assert nll(sure, half) == pytest.approx(-0.5 * (np.log(0.99) + np.log(0.01)), rel=1e-5)


def test_inspect_tells_and_suggests(springs_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(springs_file)]) == 0
    told = capsys.readouterr().out
    assert "their velocities follow" in told
    assert "0.1 time units a frame" in told
    assert " ".join(told.split()).endswith(f"modmeta train {springs_file}")


def test_bands_hold_what_comes() -> None:
    """Nine of ten, on tasks that neither training nor calibration has seen, near and far."""
    data = generate(Springs(), {"test": (40, 70)}, seed=77, stream="task")["test"]
    model = modmeta.load("springs5")
    seen, ahead = data.states[:, :, :49], data.states[:, :, 49:69]
    forecast = model.forecast(seen, model.infer(seen), 20)
    held = ((ahead >= forecast.low) & (ahead <= forecast.high)).mean((0, 1, 3))
    assert ((held > 0.75) & (held < 0.98)).all()
    assert Calibration.from_state(model.calibration.state_dict()) == model.calibration
    assert Calibration.from_state({"frames": [2], "temperatures": [1.0]}) == Calibration()


@pytest.mark.parametrize("tasks", [1, 3])
def test_a_group_may_have_a_single_task(springs: Trajectories, tasks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modmeta.api.BATCH", 2)  # so that the last of three is met alone
    model, states = modmeta.load("springs5"), np.repeat(springs.states[:1], tasks, 0)
    found, alone = model.infer(states, groups=["one"] * tasks, nulls=False), model.infer(springs.states[:1])
    assert found.misfit is not None
    assert found.misfit.shape == (1,)
    np.testing.assert_array_equal(found.relations, alone.relations)
