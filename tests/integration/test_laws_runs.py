"""A file of unknown laws: `modmeta train FILE` finds them, and the run resumes, infers and forecasts."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import DictConfig, OmegaConf

import modmeta
from modmeta.cli.main import main
from modmeta.errors import UserError
from modmeta.evaluation.matching import Confusion, match_labels
from modmeta.graph.relations import from_matrix
from modmeta.training.bouncegrad import BounceGrad
from modmeta.training.run import fit, suited
from modmeta.training.start import FILE, beginning_of, begun, read_beginning
from tests.runs import KilledAt, accompanied, checkpoint, same_run, undrawn
from tests.unit.search.test_cold_start import conducting, phases

SHORT = (
    "trainer.max_epochs=2", "data.batches_per_epoch=5", "data.batch_size=6", "trainer.accelerator=cpu",
    "trainer.devices=1", "callbacks.progress=null", "logger=[csv]", "model.num_edge_modules=2", "threads=1",
)  # fmt: skip


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phase oscillators with frequencies of their own, as a user has them: raw angles, no labels."""
    path = tmp_path_factory.mktemp("phases") / "phases.npz"
    np.savez(path, states=phases(36, 0)[0].numpy(), frame_step=0.1)
    return path


def trained(run: Path, file: Path) -> None:
    with undrawn():
        assert main(["train", str(file), "-o", str(run), *SHORT]) in (0, None)


@pytest.fixture(scope="module")
def whole(file: Path) -> Path:
    run = file.parent / "whole"
    trained(run, file)
    return run


def test_laws_are_found_and_recorded(whole: Path) -> None:
    model = OmegaConf.load(whole / ".hydra" / "config.yaml").model
    assert model._target_.endswith("LawDynamics")
    chosen = (model.family, list(model.angles), model.coordinates, model.smooth, model.constants)
    assert chosen == ("difference", [True], 0, True, True)


def test_relations_and_forecasts_of_new_tasks(whole: Path) -> None:
    """Among entities with frequencies that no model knows, modulo a turn."""
    model = modmeta.load(whole)
    states, relations = phases(20, 1)
    seen, ahead = states[:, :, :25], states[:, :, 25:]
    found = model.infer(seen)
    edges = from_matrix(torch.as_tensor(found.modules).argmax(-1))
    confusion = Confusion(2, 2)
    confusion.update(edges, relations)
    right = (match_labels(confusion.matrix())[edges] == relations).double().mean()
    assert right > 0.97
    forecast = torch.as_tensor(model.forecast(seen, found, 5).mean)
    off = torch.remainder(forecast - ahead + torch.pi, 2 * torch.pi) - torch.pi
    moved = torch.remainder(ahead - seen[:, :, -1:] + torch.pi, 2 * torch.pi) - torch.pi
    assert off.square().mean() < 0.01 * moved.square().mean()


def test_an_interrupted_run_ends_the_same(file: Path, whole: Path) -> None:
    run = file.parent / "parts"
    with accompanied(KilledAt(1)), pytest.raises(SystemExit):
        trained(run, file)
    trained(run, file)
    same_run(whole, run)


def test_a_damaged_start_is_refused(whole: Path, tmp_path: Path) -> None:
    assert read_beginning(tmp_path) is None
    content = (whole / FILE).read_bytes()
    for damaged in (content[: len(content) // 2], b"", b"\x80\x04N."):
        (tmp_path / FILE).write_bytes(damaged)
        with pytest.raises(UserError, match="damaged"):
            read_beginning(tmp_path)
    with np.load(whole / FILE) as parts:
        np.savez_compressed(tmp_path / FILE, **dict(parts) | {"laws": np.zeros(10_000_000)})
    with pytest.raises(UserError, match="compressed"):
        read_beginning(tmp_path)
    for far in (np.inf, np.nan):
        with np.load(whole / FILE) as parts:
            np.savez(tmp_path / FILE, **dict(parts) | {"compared": np.full(9, far)})
        with pytest.raises(UserError, match="damaged"):
            read_beginning(tmp_path)


def test_a_start_of_another_run_is_refused(file: Path, whole: Path, tmp_path: Path) -> None:
    config = OmegaConf.load(whole / ".hydra" / "config.yaml")
    assert isinstance(config, DictConfig)
    config.directory = str(tmp_path)
    with np.load(whole / FILE) as parts:
        found = dict(parts)
    for name, part in (("edges", np.zeros((2, 3))), ("places", np.zeros((9, 9)))):
        np.savez(tmp_path / FILE, **found | {name: part})
        beginning = read_beginning(tmp_path)
        assert beginning is not None
        with pytest.raises(UserError, match=r"start\.npz is not of this run"):
            fit(config, beginning)


def test_a_start_from_before_a_part_was_kept(whole: Path, tmp_path: Path) -> None:
    with np.load(whole / FILE) as parts:
        np.savez(tmp_path / FILE, **{name: part for name, part in parts.items() if name != "spread"})
    beginning = read_beginning(tmp_path)
    assert beginning is not None
    assert not beginning.laws.spread.numel()


def test_the_experiment_that_suits_a_file(file: Path, tmp_path: Path) -> None:
    words = ["data=files", f"data.path={file}"]
    assert suited(words) == ["experiment=laws"]
    assert suited([*words, "model=default"]) == suited([*words, "experiment=moving"]) == []
    assert suited([*words, "model.hidden=4"]) == ["experiment=laws"]
    assert suited(["data=files", f"data.path={tmp_path / 'none.npz'}"]) == []
    time = np.linspace(0, 1, 30)
    place = np.sin(time + np.arange(24).reshape(4, 3, 2, 1))
    states = np.concatenate((place, np.cos(time + np.arange(24).reshape(4, 3, 2, 1))), 2).swapaxes(2, 3)
    np.savez(tmp_path / "moving.npz", states=states, features=["x", "y", "vx", "vy"], frame_step=time[1])
    assert suited(["data=files", f"data.path={tmp_path / 'moving.npz'}"]) == ["experiment=moving"]


def test_a_random_start_reads_nothing(whole: Path) -> None:
    """A cold start that an earlier run left in the directory is not used."""
    config = OmegaConf.load(whole / ".hydra" / "config.yaml")
    found = beginning_of(config)
    assert found is not None
    assert torch.equal(found.relations, read_beginning(whole).relations)  # type: ignore[union-attr]
    config.search.start = "random"
    assert beginning_of(config) is None
    with pytest.raises(UserError, match=r"add search\.start=laws"):
        begun(config)


@pytest.mark.slow
def test_restarts_begin_with_the_same_laws(file: Path, whole: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch, undrawn():
        patch.setattr(BounceGrad, "stuck", property(lambda module: True))
        words = [*SHORT, "restarts=1", "trainer.max_epochs=1"]
        assert main(["train", str(file), "-o", str(tmp_path / "run"), *words]) in (0, None)
    (again,) = (tmp_path / "run").glob("restart_1/checkpoints/last.ckpt")
    laws = torch.load(again, weights_only=True)["state_dict"]["model.dynamics.found_laws"]
    assert laws.abs().max() > 0
    assert torch.equal(laws, checkpoint(whole)["state_dict"]["model.dynamics.found_laws"])


def test_errors_of_angles_are_less_than_half_a_turn(whole: Path) -> None:
    """The measures and the bands of a model of phases, whose forecasts cross the end of a turn."""
    model = modmeta.load(whole)
    turn = 2 * np.pi / model.units.scale[0]  # in protocol units
    row = json.loads((whole / "metrics.json").read_text())
    assert row["test/mse_1"] < (turn / 20) ** 2
    states, _ = phases(40, 2)
    ahead = model.forecast(states[:, :, :25], model.infer(states[:, :, :25]), 5)
    assert float((torch.as_tensor(ahead.high) - torch.as_tensor(ahead.low)).median()) < 0.5


def test_hidden_entities_are_refused(
    whole: Path, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["unseen", str(whole), str(file), "-o", str(tmp_path / "out"), "--hide", "0"]) == 2
    assert "model=laws" in capsys.readouterr().err


def spreading(tasks: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """States (B, N, T, 1) of entities that approach those that act on them, and who does (B, N, N)."""
    generator = np.random.default_rng(seed)
    relations = generator.integers(0, 2, (tasks, 5, 5)) * (1 - np.eye(5, dtype=int))
    states = [generator.normal(size=(tasks, 5))]
    for _ in range(29):
        apart = states[-1][:, None] - states[-1][:, :, None]
        states.append(states[-1] + 0.05 * (relations * apart).sum(2) + 0.01 * generator.normal(size=(tasks, 5)))
    return np.stack(states, 2)[..., None], relations


@pytest.mark.slow
def test_modules_that_laws_outdo_are_advised_to_begin_with_laws(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """And the advice, followed, finds more."""
    path, rest = tmp_path / "states.npz", [word for word in SHORT if not word.startswith("model.")]
    np.savez(path, states=spreading(40, 0)[0])
    states, relations = spreading(20, 1)

    def run(name: str, *words: str) -> tuple[str, float]:
        with undrawn():
            assert main(["train", str(path), "-o", str(tmp_path / name), *words, *rest]) in (0, None)
        said = next((line for line in capfd.readouterr().err.splitlines() if "in closed form" in line), "")
        found = from_matrix(torch.as_tensor(modmeta.load(tmp_path / name).infer(states).modules).argmax(-1))
        right = float((found == from_matrix(torch.as_tensor(relations))).double().mean())
        return said, max(right, 1 - right)

    said, before = run("modules", "model=default", "model.num_edge_modules=2")
    command = shlex.split(said.partition("settings of data: ")[2])
    assert command[:3] == ["modmeta", "train", str(path)]
    said, after = run("laws", *command[3:])
    assert not said
    assert after > max(0.9, before + 0.1)


@pytest.mark.slow
def test_strengths_that_differ_are_kept(tmp_path: Path) -> None:
    """Entities that take up what others lose each at a speed of its own: trained, resumed, inferred."""
    (states, relations), options = conducting(60), ("model.family=difference", "model.constants=false", *SHORT)
    np.savez(tmp_path / "file.npz", states=states[:40].numpy())
    command = ["train", str(tmp_path / "file.npz"), "model.shapes=false", *options]
    with undrawn():
        assert main([*command, "-o", str(tmp_path / "whole")]) in (0, None)
        with accompanied(KilledAt(1)), pytest.raises(SystemExit):
            main([*command, "-o", str(tmp_path / "parts")])
        assert main([*command, "-o", str(tmp_path / "parts")]) in (0, None)
    same_run(tmp_path / "whole", tmp_path / "parts")
    assert OmegaConf.load(tmp_path / "whole" / ".hydra" / "config.yaml").model.strengths
    model = modmeta.load(tmp_path / "whole")
    edges = from_matrix(torch.as_tensor(model.infer(states[40:]).modules).argmax(-1))
    confusion = Confusion(2, 2)
    confusion.update(edges, relations[40:])
    assert (match_labels(confusion.matrix())[edges] == relations[40:]).double().mean() > 0.9
