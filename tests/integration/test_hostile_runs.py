"""Run directories of strangers: to resume one writes nowhere else, waits for nothing; one line says what is odd."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from modmeta.errors import UserError
from modmeta.training.checkpoints.files import load
from tests.runs import QUICK, KilledAt, Stop, accompanied, run


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose end was lost, so that resuming it trains on."""
    directory = tmp_path_factory.mktemp("begun") / "run"
    quick = [word for word in QUICK if not word.startswith("logger.")]
    run(directory, *quick, "trainer.max_epochs=1", "data.batches_per_epoch=2", "logger=[csv]")
    (directory / "metrics.json").unlink()
    return directory


def _linked(name: str) -> Callable[[Path, Path], None]:
    def change(directory: Path, precious: Path) -> None:
        (directory / name).unlink(missing_ok=True)
        (directory / name).symlink_to(precious)

    return change


def _moved(name: str) -> Callable[[Path, Path], None]:
    def change(directory: Path, precious: Path) -> None:
        shutil.move(directory / name, precious.parent / "elsewhere")
        (directory / name).symlink_to(precious.parent / "elsewhere")

    return change


def _pipe(name: str) -> Callable[[Path, Path], None]:
    def change(directory: Path, precious: Path) -> None:
        (directory / name).unlink(missing_ok=True)
        os.mkfifo(directory / name)

    return change


@pytest.mark.parametrize(
    "change",
    [_linked(".lock"), _pipe(".lock"), _pipe("curves.csv"), _moved("checkpoints"), _moved(".hydra")],
    ids=["linked lock", "pipe as lock", "pipe as curves", "linked checkpoints", "linked record"],
)
def test_links_and_pipes_in_a_run(begun: Path, tmp_path: Path, change: Callable[[Path, Path], None]) -> None:
    shutil.copytree(begun, tmp_path / "run")
    precious = tmp_path / "precious.txt"
    precious.write_text("mine")
    change(tmp_path / "run", precious)
    with pytest.raises(UserError) as caught:
        run(tmp_path / "run", f"resume={tmp_path / 'run'}")
    assert str(tmp_path / "run") in str(caught.value)
    assert precious.read_text() == "mine"


def _without(key: str) -> Callable[[dict[str, Any]], None]:
    return lambda content: content.pop(key)


def _set(value: Any, *path: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: Any) -> None:
        for key in path[:-1]:
            content = content[key]
        content[path[-1]] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        _without("optimizer_states"),
        _set("x", "loops"),
        _set("x", "callbacks"),
        _set(7, "lr_schedulers"),
        _set([1], "modmeta", "bank"),
        _set([torch.zeros(3)], "modmeta", "generators"),
        _set([{"search": torch.zeros(3), "torch": 1}], "modmeta", "generators"),
        _set("x", "pytorch-lightning_version"),
    ],
)
def test_whatever_lightning_puts_back(begun: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    shutil.copytree(begun, tmp_path / "run")
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    content = load(last)
    change(content)
    torch.save(content, last)
    with pytest.raises(UserError) as caught:
        run(tmp_path / "run", f"resume={tmp_path / 'run'}")
    assert "\n" not in str(caught.value)
    assert "last.ckpt" in str(caught.value)


def test_optimisers_of_other_parameters(tmp_path: Path) -> None:
    """Found before the first step of a run that has steps left."""
    with accompanied(KilledAt(1)), pytest.raises(Stop):
        run(tmp_path / "run", *QUICK, "trainer.max_epochs=2", "data.batches_per_epoch=2")
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    content = load(last)
    _set(torch.zeros(3), "optimizer_states", 0, "state", 0, "exp_avg")(content)
    torch.save(content, last)
    with pytest.raises(UserError, match=r"last\.ckpt.*cannot be restored.*exp_avg"):
        run(tmp_path / "run", f"resume={tmp_path / 'run'}")


def test_structures_of_modules_that_are_not_there(begun: Path, tmp_path: Path) -> None:
    shutil.copytree(begun, tmp_path / "run")
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    content = load(last)
    content["modmeta"]["bank"]["relations"] += 10**6
    torch.save(content, last)
    with pytest.raises(UserError, match="beyond the 2"):
        run(tmp_path / "run", f"resume={tmp_path / 'run'}")


@pytest.mark.parametrize("text", ["[" * 100_000, "[1]", '{"test/mse_1": "x"}', '{"test/mse_1": [1]}'])
def test_results_that_are_none(begun: Path, tmp_path: Path, text: str) -> None:
    """They are made again."""
    shutil.copytree(begun, tmp_path / "run")
    (tmp_path / "run" / "metrics.json").write_text(text)
    assert "test/mse_1" in run(tmp_path / "run", f"resume={tmp_path / 'run'}")
