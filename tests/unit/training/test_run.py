"""What restarts change, and which attempt is kept."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from benchmarks.textbook import make
from modmeta.data import formats
from modmeta.data.trajectories import Trajectories
from modmeta.training.callbacks.record import RunRecord
from modmeta.training.resume import resolved
from modmeta.training.run import Fit, attempt, better, doubtful, suited
from modmeta.training.suggestions import words_for
from tests.runs import compose


def test_restarts_of_moving_data_have_another_likelihood(tmp_path: Path) -> None:
    config = resolved(compose(tmp_path / "run", "experiment=moving", "data=springs5"))
    assert config.restarts == 1
    first, second = attempt(config, 0), attempt(config, 1)
    kinds = [part.method.model.likelihood._target_.rpartition(".")[2] for part in (first, second)]
    assert kinds == ["StudentT", "Gaussian"]
    assert second.likelihood == second.method.model.likelihood == config.restart_likelihood
    assert second.method.seed != first.method.seed
    assert second.data == first.data


def test_restarts_of_other_runs_differ_in_their_seeds(tmp_path: Path) -> None:
    config = resolved(compose(tmp_path / "run", "experiment=springs5", "restarts=1"))
    first, second = attempt(config, 0), attempt(config, 1)
    assert second.method.pop("seed") != first.method.pop("seed")
    assert second.method == first.method


class Record(RunRecord):
    """Of a fit that ended with such measures."""

    def __init__(self, last: dict[str, float]) -> None:
        super().__init__("")
        self.history = [last]


def fitted(stuck: bool = False, **measures: float) -> Fit:
    """A fit with such measures of its last validation."""
    last = {f"val/{name}": value for name, value in measures.items()}
    trainer = SimpleNamespace(callbacks=[Record(last)])
    return Fit(cast(Any, trainer), cast(Any, SimpleNamespace(stuck=stuck)), Path())


def test_what_a_restart_may_better() -> None:
    assert doubtful(fitted(stuck=True, gain=3.0), False)
    assert not doubtful(fitted(gain=-0.1), False), "of the same likelihood restarts are alike"
    assert doubtful(fitted(gain=-0.1), True)
    assert not doubtful(fitted(gain=0.1), True)
    assert not doubtful(fitted(energy=-1.0), True), "nothing is known of its gain"


def test_likelihoods_are_compared_by_gain_and_attempts_of_one_by_energy() -> None:
    trick, right = fitted(energy=-8.0, gain=0.2), fitted(energy=-7.9, gain=3.0)
    assert better(trick, right, True) is better(right, trick, True) is right
    assert better(trick, right, False) is better(right, trick, False) is trick
    unknown = fitted(energy=-9.0)
    assert better(trick, unknown, True) is unknown


def test_noise_that_drives_the_motion_asks_for_another_experiment() -> None:
    """Springs to the origin, stirred or not; noise of observation is not taken for stirring."""
    rng = np.random.default_rng(0)

    def path(stirred: float) -> np.ndarray:
        x, v, frames = rng.normal(size=(20, 3, 2)), rng.normal(size=(20, 3, 2)), []
        for _ in range(60):
            frames.append(np.concatenate((x, v), -1))
            for _ in range(10):
                v = v - 0.01 * x + stirred * rng.normal(size=v.shape)
                x = x + 0.01 * v
        return np.stack(frames, 2)

    def chosen(states: np.ndarray) -> list[str]:
        return words_for(Trajectories(states, None, ("x", "y", "vx", "vy"), 0.1))

    assert chosen(path(0.0)) == ["experiment=moving"]
    assert chosen(path(0.1)) == ["experiment=driven"]
    assert chosen(path(0.0) + 0.05 * rng.normal(size=(20, 3, 60, 4))) == ["experiment=moving"]
    assert words_for(Trajectories(path(0.0)[..., :2], None, ("a", "b"), 0.1)) == ["experiment=laws"]


@pytest.mark.parametrize("turning", [True, False])
def test_an_angle_whose_turns_were_counted_is_no_place_on_a_line(turning: bool) -> None:
    """Swinging rotors that some others pull by the sine of the difference, or bodies by springs."""
    rng = np.random.default_rng(0)
    x, v, frames = 4 * rng.normal(size=(20, 4)), 2 + 2 * rng.normal(size=(20, 4)), []
    acts = rng.integers(2, size=(20, 4, 4))
    for _ in range(50):
        frames.append(np.stack((x, v), -1))
        for _ in range(10):
            apart = x[:, None] - x[:, :, None]
            v = v + 0.01 * (acts * (np.sin(apart) if turning else apart)).sum(-1)
            x = x + 0.01 * v
    words = words_for(Trajectories(np.stack(frames, 2), None, ("a", "b"), 0.1))
    assert words == (["experiment=laws", "model.angles=[true,false]"] if turning else ["experiment=moving"])


def test_few_windows_that_noise_drives_are_passed_over_a_few_times(tmp_path: Path) -> None:
    states = np.random.default_rng(0).normal(size=(1, 3, 2001, 4)).cumsum(2)
    states[..., :2] = np.cumsum(states[..., 2:], 2)
    chosen = []
    for frames in (500, 1000, 2001):
        data = Trajectories(states[:, :, :frames], None, ("x", "y", "vx", "vy"), 1.0)
        formats.save(tmp_path / f"{frames}.npz", {"all": data})
        words = suited(["data=files", f"data.path={tmp_path / f'{frames}.npz'}"])
        assert "experiment=driven" in words
        chosen.append(int(next(word for word in words if "batches" in word).partition("=")[2]))
    assert chosen == [8, 8, 15]  # 12, 12 and 24 windows of 10 in a batch, 50 times in 8 epochs


@pytest.mark.parametrize(("world", "experiment"), [("dampings", "laws"), ("traffic", "moving"), ("grid", "laws")])
def test_oscillators_with_a_law_of_their_own_are_no_motion_in_space(world: str, experiment: str) -> None:
    states = make(world, 20, 0).states.numpy()
    assert words_for(Trajectories(states, None, ("a", "b"), 0.1)) == [f"experiment={experiment}"]


def test_constants_of_entities_are_no_states_of_motion(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw = np.random.default_rng(0)
    states = draw.normal(size=(6, 3, 12, 4)).cumsum(2)
    states[..., :2] = np.cumsum(states[..., 2:], 2)
    mass = np.broadcast_to(draw.uniform(size=(6, 3, 1, 1)), (6, 3, 12, 1))
    names = ("x", "y", "vx", "vy", "mass")
    path = tmp_path / "a.npz"
    formats.save(path, {"all": Trajectories(np.concatenate([states, mass], -1), None, names, 1.0)})
    words = ["data=files", f"data.path={path}", "data.reading.features=[x,y,vx,vy,mass]"]
    assert suited(words)[1:] == ["data.reading.features=[x,y,vx,vy]"]
    assert suited(words)[0] in ("experiment=moving", "experiment=driven")
    assert "never changes, and so is no state that follows a law: mass" in capsys.readouterr().out
    moved = np.concatenate([states, mass + 0.01 * np.arange(12).reshape(12, 1)], -1)
    formats.save(tmp_path / "b.npz", {"all": Trajectories(moved, None, names, 1.0)})
    words[1] = f"data.path={tmp_path / 'b.npz'}"
    assert suited(words) == ["experiment=laws"]
