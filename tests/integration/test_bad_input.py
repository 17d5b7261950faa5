"""Mistakes of users: one clear error each, before anything long starts, nothing overwritten."""

import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modmeta.cli.evaluate import evaluate
from modmeta.data import formats
from modmeta.data.generation import generate
from modmeta.errors import DataError, UserError
from modmeta.simulators import Springs
from modmeta.training.checkpoints.loading import load_model
from tests.runs import QUICK, ROOT, command, refusal, run
from tests.unit.data.test_datamodule import data_file


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("data.num_tasks=0", "num_tasks=0"),
        ("data.batch_size=0", "batch_size=0"),
        ("data.path=missing.npz", "data.path"),
    ],
)
def test_settings_of_data(tmp_path: Path, override: str, told: str) -> None:
    from hydra.errors import InstantiationException

    with pytest.raises((UserError, InstantiationException), match=told):
        run(tmp_path / "run", *QUICK, override)


def test_evaluation_checks_that_model_and_data_fit(whole: Path, tmp_path: Path) -> None:
    six = data_file(tmp_path / "six.npz", entities=6)
    with pytest.raises(DataError, match=r"six\.npz: 6 entities.*trained on 5.*--any-entities"):
        evaluate(whole, six)
    assert "test/edge_accuracy" in evaluate(whole, six, any_entities=True)
    brief = data_file(tmp_path / "brief.npz", states=np.zeros((4, 5, 20, 4)))
    with pytest.raises(DataError, match=r"brief\.npz: 20 frames.*49"):
        evaluate(whole, brief)
    with pytest.raises(DataError, match="no split 'dev'"):
        evaluate(whole, six, split="dev")


def test_checkpoints_that_cannot_be_trusted(whole: Path, tmp_path: Path) -> None:
    file = whole / "checkpoints" / "last.ckpt"
    with pytest.raises(UserError, match="does not exist"):
        load_model(tmp_path / "none.ckpt")
    with pytest.raises(UserError, match="run directory"):
        load_model(tmp_path)
    cut = tmp_path / "cut.ckpt"
    cut.write_bytes(file.read_bytes()[:-2000])
    with pytest.raises(UserError, match=r"cut\.ckpt.*damaged"):
        load_model(cut)
    foreign = tmp_path / "foreign.ckpt"
    torch.save({"state_dict": {}}, foreign)
    with pytest.raises(UserError, match="another program"):
        load_model(foreign)

    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path(tmp_path / "executed").touch, ())

    torch.save({"state_dict": {}, "modmeta": Payload()}, tmp_path / "payload.ckpt")
    with pytest.raises(UserError, match="could run code"):
        load_model(tmp_path / "payload.ckpt")
    with pytest.raises(UserError, match="could run code"):
        run(tmp_path / "run", *QUICK, f"ckpt_path={tmp_path / 'payload.ckpt'}")
    with open(tmp_path / "plain.ckpt", "wb") as plain:
        pickle.dump(Payload(), plain)
    with pytest.raises(UserError, match="could run code"):
        load_model(tmp_path / "plain.ckpt")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "torch.hub.load",
        "modmeta.data.formats.save",
        "torchvision.models.vgg",
        "modmeta.model.model.torch.hub.load",
        "torch.nn.modules.module.warnings.warn",
    ],
)
def test_a_config_may_only_name_our_own(whole: Path, tmp_path: Path, target: str) -> None:
    content = torch.load(whole / "checkpoints" / "last.ckpt", weights_only=True)
    content["modmeta"]["config"]["search"]["selection"] = {"_target_": target, "_partial_": True}
    torch.save(content, tmp_path / "named.ckpt")
    with pytest.raises(UserError, match=target):
        load_model(tmp_path / "named.ckpt")
    with pytest.raises(UserError, match=target):
        run(tmp_path / "run", *QUICK, f"ckpt_path={tmp_path / 'named.ckpt'}")


def test_a_run_to_resume_may_only_name_our_own(whole: Path, tmp_path: Path) -> None:
    copied = tmp_path / "run"
    shutil.copytree(whole, copied)
    record = copied / ".hydra" / "config.yaml"
    content = record.read_text()
    record.write_text(content.replace("modmeta.training.callbacks.room.Room", "os.makedirs"))
    with pytest.raises(UserError, match=r"config\.yaml.*os\.makedirs"):
        run(copied, *QUICK)
    record.write_text(content)
    assert "test/edge_accuracy" in run(copied, *QUICK)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["data.num_task=3"], "num_task"),
        (["ckpt_path=nowhere.ckpt"], "nowhere.ckpt"),
        (["data.world=null", "data.path=nowhere.npz"], "nowhere.npz"),
        (["search.receivers=some"], "some"),
        (["callbacks.record=null"], "callbacks.record"),
    ],
)
def test_train_prints_one_error(tmp_path: Path, words: list[str], told: str, capfd: pytest.CaptureFixture[str]) -> None:
    printed = refusal(capfd, tmp_path, *QUICK, *words)
    assert told in printed
    assert "Traceback" not in printed


@pytest.mark.slow
@pytest.mark.parametrize(("word", "told"), [("experiment=sprongs5", "sprongs5"), ("data.num_tasks=-1", "num_tasks")])
def test_train_ends_with_one_error(tmp_path: Path, word: str, told: str) -> None:
    """As above, from the command line: an error of Hydra and one of ours."""
    done = command(str(ROOT / "train.py"), *QUICK, word, cwd=tmp_path)
    assert done.returncode != 0
    assert told in done.stderr
    assert "Traceback" not in done.stderr, done.stderr


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    splits = generate(Springs(), {"test": (2, 10)}, progress=False)
    path = tmp_path / "kept.npz"
    path.write_text("mine")
    with pytest.raises(DataError, match=r"kept\.npz"):
        formats.save(path, splits)
    assert path.read_text() == "mine"
