"""Noise of observation is averaged where a cold start found it, in training and wherever the model is used."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hydra
import numpy as np
import pytest
import torch
from omegaconf import DictConfig

from modmeta.data.describe import Known
from modmeta.data.formats import save
from modmeta.data.generation import generate
from modmeta.data.loading.datamodule import TrajectoryDataModule
from modmeta.data.loading.filemodule import filled_from_file
from modmeta.data.loading.for_model import Options, arrays_for_model, prepared
from modmeta.data.trajectories import Trajectories
from modmeta.data.transforms.smoothing import kept, leading, smoothed, without_noise
from modmeta.data.units import Units
from modmeta.errors import DataError, UserError
from modmeta.search.cold_start.weak_form import Kind
from modmeta.simulators import Springs
from modmeta.training.start import begun, smoothing_of
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
        led = leading(data, 8, 120, 1, 10 / 12)
        assert led == (10 / 12 if noise[0] > noise[1] else 0)
        found = without_noise(data, 8, 120, 1, led).states[..., :1]
        assert np.abs(np.diff(found, axis=2) - steps)[:, :, :45].std() < of_steps
        assert np.abs(found - x).mean() < 0.6 * noise[0] + 0.01


def cubics(path: np.ndarray, half: int) -> np.ndarray:
    """The same of one path (T,), one window after the other."""
    length = min(2 * half + 1, len(path))
    out = np.empty_like(path)
    for t in range(len(path)):
        first = max(0, min(t - half, len(path) - length))
        time = np.arange(length) - (t - first)
        out[t] = np.polyfit(time, path[first : first + length], min(3, length - 1))[-1]
    return out


@pytest.mark.parametrize(("frames", "half"), [(3, 2), (8, 4), (9, 4), (60, 4)])
def test_cubics_are_those_of_every_window(frames: int, half: int) -> None:
    path = np.random.default_rng(0).normal(size=frames)
    found = smoothed(torch.from_numpy(path).view(1, 1, -1, 1), half).view(-1)
    np.testing.assert_allclose(found.numpy(), cubics(path, half), atol=1e-9)
    if frames > 2 * half:
        unit = torch.eye(frames).double()
        left = (unit - smoothed(unit[None, None], half)[0, 0]).square().sum(1).mean()
        assert kept(frames, half) == pytest.approx(1 - float(left))


def test_long_recordings_need_memory_as_they_are_long() -> None:
    """A matrix of frames by frames would take 20 GB."""
    assert smoothed(torch.ones(1, 1, 50_000, 1), 4).std() < 1e-5


@pytest.mark.parametrize("led", [0.0, 1.0])
def test_runs_are_smoothed_by_themselves(led: float) -> None:
    """Neither gaps of an entity nor steps that do not count hand anything on, whatever lies beyond."""
    rng, runs = np.random.default_rng(0), (slice(0, 15), slice(15, 18), slice(20, 80))
    states = rng.normal(size=(1, 2, 80, 2))
    states[:, :, 15:] += 5.0
    mask, steps = np.ones((1, 2, 80), bool), np.ones((1, 79), bool)
    mask[:, 0, 18:20], steps[:, 14] = False, False
    data = Trajectories(states, None, ("x", "vx"), 1.0, mask=mask)
    found = without_noise(data, 4, 80, 1, led, steps).states[:, 0]
    for run in runs:
        alone = without_noise(Trajectories(states[:, :, run], None, ("x", "vx"), 1.0), 4, 80, 1, led).states[:, 0]
        np.testing.assert_allclose(found[:, run], alone, atol=1e-9)
    np.testing.assert_allclose(found[:, 18:20], states[:, 0, 18:20], atol=1e-12)
    assert np.abs(found[:, 20:] - states[:, 0, 20:]).max() > 0.5


def test_steps_that_do_not_count_part_what_is_smoothed() -> None:
    path = np.sin(np.arange(40.0) / 8).reshape(1, 1, -1, 1) + np.zeros((1, 3, 1, 1))
    path[:, :, 20:] += 5
    low = np.full(1, -50.0)
    known = Known(("u",), 0, False, (3,), 2, None, low, -low, low * 0, -low / 5, 0.0, smoothing=6)
    data = arrays_for_model(path, np.arange(39)[None] != 19, known, Units((0.0,), (1.0,)), 1.0)[0]
    assert np.abs(data.states - path).max() < 0.01


def test_training_decides_once_whether_velocities_lead(tmp_path: Path) -> None:
    """As its split says, and not the others, nor a file that the model is used on."""
    time, rng = np.arange(40.0).reshape(1, 1, -1, 1), np.random.default_rng(1)
    splits = {}
    for name, noise in (("train", 0.02), ("valid", 1.0), ("test", 1.0)):
        phase = rng.uniform(0, 6, size=(10, 4, 1, 1))
        states = np.concatenate((10 * np.sin(time / 12 + phase), np.cos(time / 12 + phase)), -1)
        states += rng.normal(size=states.shape) * [0.5, noise]
        splits[name] = Trajectories(states, None, ("x", "vx"), 1.0)
    save(tmp_path / "a.npz", splits)
    count = {"num_tasks": 10, "num_entities": 4, "num_features": 2, "positions": 1, "observed_frames": 40}
    module = TrajectoryDataModule(path=str(tmp_path / "a.npz"), smoothing=6, **count)
    module.setup()
    led = module.description()["led"]
    assert led == pytest.approx(10 / 12, rel=0.02)
    assert leading(splits["valid"], 6, 40, 1, led) == 0
    assert module.units is not None
    wanted = module.units.normalised(without_noise(splits["valid"], 6, 40, 1, led).states)
    torch.testing.assert_close(module.splits["valid"].states, wanted)


def test_a_cubic_takes_nothing_off_three_frames() -> None:
    with pytest.raises(DataError, match=r"data\.smoothing=1"):
        TrajectoryDataModule(path="a.npz", smoothing=1)


def test_angles_are_not_averaged(tmp_path: Path) -> None:
    """Whether a command names them, or values tell; before a cold start."""
    words = ("experiment=laws", "data=files", "data.path=a.npz", "data.smoothing=4")
    with pytest.raises(UserError, match=r"data\.smoothing=4.*model\.angles=\[True\].*data\.smoothing=0"):
        begun(compose(tmp_path / "run", *words, "model.angles=[true]"))
    states = np.mod(np.cumsum(np.full((3, 4, 60, 1), 0.3), 2) + np.arange(4.0).reshape(4, 1, 1), 2 * np.pi)
    data = Trajectories(states, None, ("phase",), 1.0)
    save(tmp_path / "a.npz", {"train": data, "valid": data, "test": data})
    count = {"num_tasks": 3, "num_entities": 4, "num_features": 1, "positions": 0, "observed_frames": 60}
    with pytest.raises(DataError, match=r"phase looks like an angle.*data\.smoothing=0"):
        TrajectoryDataModule(path=str(tmp_path / "a.npz"), smoothing=4, **count).setup()


def test_what_a_checkpoint_says_is_known() -> None:
    units = {"offset": [0.0], "scale": [1.0]}
    data = {"units": units, "features": ["u"], "positions": 0, "num_entities": 3, "num_relations": 2, "smoothing": 4}
    data["led"] = 0.5
    dynamics = SimpleNamespace(robust=False)
    known = Known.of(dynamics, data, None)
    assert (known.smoothing, known.led) == (4, 0.5)
    older = {name: part for name, part in data.items() if name not in ("smoothing", "led")}
    known = Known.of(dynamics, older, None)
    assert (known.smoothing, known.led) == (0, 0.0)


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


def test_maps_slow_motion_and_angles_are_left_as_they_are() -> None:
    """Noise that drives states is no noise of observation, and laws from frame to frame are of states as recorded."""

    def chosen(smooth: bool, angle: bool, slow: str | None = None) -> int:
        form: Any = SimpleNamespace(smooth=smooth, smoothing=4, kind=Kind(0, (False, angle)))
        return smoothing_of(form, slow)

    assert chosen(True, False) == 4
    assert chosen(False, False) == chosen(True, True) == chosen(True, False, "lagged") == 0


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
    assert chosen("data.group=all", "model.num_edge_modules=2", "data.smoothing=2").data.smoothing == 2
    seen, raw = (training_states(config) for config in (shared, chosen()))
    assert seen.diff(n=4, dim=2).std() < 0.3 * raw.diff(n=4, dim=2).std()
