"""Noise of observation is averaged where a cold start found it, in training and wherever the model is used."""

from pathlib import Path
from types import SimpleNamespace

import hydra
import numpy as np
import pytest
import torch
from omegaconf import DictConfig

from modmeta.data.describe import Known
from modmeta.data.generation import generate
from modmeta.data.loading.filemodule import filled_from_file
from modmeta.data.loading.for_model import Options, arrays_for_model, prepared
from modmeta.data.trajectories import Trajectories
from modmeta.data.transforms.smoothing import smoothed, without_noise
from modmeta.data.units import Units
from modmeta.simulators import Springs
from modmeta.training.start import begun
from tests.runs import compose

FRAMES = 20


def noisy(observed: int = FRAMES) -> Trajectories:
    states = np.random.default_rng(0).normal(size=(2, 3, FRAMES, 1))
    return Trajectories(states, None, ("u",), 1.0)


def training_states(config: DictConfig) -> torch.Tensor:
    data = hydra.utils.instantiate(config.data)
    data.setup("fit")
    states: torch.Tensor = data.splits["train"].states
    return states


def test_frames_to_forecast_stay_and_tell_nothing() -> None:
    data = noisy()
    found = without_noise(data, 4, 15, 0, 0.0)
    later = Trajectories(np.where(np.arange(FRAMES).reshape(1, 1, -1, 1) < 15, data.states, 9.0), None, ("u",), 1.0)
    assert (found.states[:, :, 15:] == data.states[:, :, 15:]).all()
    assert (found.states[:, :, :15] == without_noise(later, 4, 15, 0, 0.0).states[:, :, :15]).all()
    assert found.states[:, :, :15].std() < 0.7 * data.states.std()
    cubic = torch.linspace(-1, 1, FRAMES).double().pow(3).view(1, 1, -1, 1)
    torch.testing.assert_close(smoothed(cubic, 4), cubic)


def test_velocities_lead_paths_that_noise_hides() -> None:
    """Coordinates depart from uniform motion as their velocities do; not where velocities are the noisier by far."""
    time, rng = np.arange(120.0).reshape(1, 1, -1, 1), np.random.default_rng(1)
    phase = rng.uniform(0, 6, size=(3, 4, 1, 1))
    x, v = 10 * np.sin(time / 12 + phase), np.cos(time / 12 + phase)
    steps = np.diff(x, axis=2)
    for noise, of_steps in (((1.0, 0.1), 0.1), ((0.001, 0.5), 0.1)):
        rough = [part + size * rng.normal(size=x.shape) for part, size in zip((x, v), noise, strict=True)]
        data = Trajectories(np.concatenate(rough, -1), None, ("x", "vx"), 1.0)
        found = without_noise(data, 8, 120, 1, 10 / 12).states[..., :1]
        assert np.abs(np.diff(found, axis=2) - steps)[:, :, :45].std() < of_steps
        assert np.abs(found - x).mean() < 0.6 * noise[0] + 0.01


def test_what_a_checkpoint_says_is_known() -> None:
    units = {"offset": [0.0], "scale": [1.0]}
    data = {"units": units, "features": ["u"], "positions": 0, "num_entities": 3, "num_relations": 2, "smoothing": 4}
    dynamics = SimpleNamespace(robust=False)
    assert Known.of(dynamics, data, None).smoothing == 4
    assert Known.of(dynamics, {name: part for name, part in data.items() if name != "smoothing"}, None).smoothing == 0


def test_arrays_and_files_are_smoothed_as_in_training() -> None:
    data, units = noisy(), Units((0.0,), (2.0,))
    low = np.full(1, -5.0)
    known = Known(("u",), 0, False, (3,), 2, None, low, -low, low * 0, -low / 5, 0.0, smoothing=4)
    wanted = smoothed(torch.from_numpy(data.states), 4) / 2
    given = arrays_for_model(data.states, None, known, units, 1.0)[1]
    read = prepared(data, known, Options(), "file").data
    torch.testing.assert_close(given.double(), wanted, atol=1e-6, rtol=0)
    torch.testing.assert_close(torch.from_numpy(read.states) / 2, wanted)
    torch.testing.assert_close(arrays_for_model(read, None, known, units, 1.0)[1], given)


@pytest.mark.slow
def test_a_cold_start_chooses_it_for_tasks_that_share_structures(tmp_path: Path) -> None:
    """Where it finds such noise; not for single tasks, and not where a command says otherwise."""
    states = generate(Springs(num_entities=3, box=100.0), {"train": (12, FRAMES)}, seed=0, progress=False)["train"]
    noise = 0.02 * states.states.std((0, 1, 2)) * np.random.default_rng(0).normal(size=states.states.shape)
    np.savez(tmp_path / "a.npz", states=states.states + noise)

    def chosen(*more: str) -> DictConfig:
        words = ("experiment=moving", "data=files", f"data.path={tmp_path / 'a.npz'}", "data.positions=2")
        return begun(filled_from_file(compose(tmp_path / "run", *words, "model.family=springs", *more)))

    shared = chosen("data.group=all", "model.num_edge_modules=2")
    assert shared.data.smoothing > 2
    assert chosen().data.smoothing == 0
    assert chosen("data.group=all", "model.num_edge_modules=2", "data.smoothing=1").data.smoothing == 1
    seen, raw = (training_states(config) for config in (shared, chosen()))
    assert seen.diff(n=4, dim=2).std() < 0.3 * raw.diff(n=4, dim=2).std()
