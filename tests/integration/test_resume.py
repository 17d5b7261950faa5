"""Interrupted runs that resume end as those that were never interrupted."""

import csv
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import yaml

from modmeta.errors import Preempted, UserError
from modmeta.training import resume
from modmeta.training.bouncegrad import BounceGrad
from modmeta.training.checkpoints.files import Damaged, find_newest, load, save
from modmeta.training.checkpoints.loading import load_model
from tests.runs import (
    QUICK,
    ROOT,
    KilledAt,
    KilledInTest,
    Stop,
    accompanied,
    checkpoint,
    command,
    launched,
    refusal,
    run,
    same_run,
)
from tests.unit.training.test_compat import first_format


class KilledInRestart(pl.Callback):
    """Breaks off the first restart at an epoch's start."""

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: BounceGrad) -> None:  # type: ignore[override]
        if pl_module.seed and trainer.current_epoch == 2:
            raise Stop


OTHERS = {
    "default": (),
    "paper": ("experiment=paper/springs5", "model.hidden=16", "proposal.hidden=16"),  # plateau, acceptance, dropout
    "types": ("experiment=masses5", "search.sweeps=1", "data.frames=12", "method.observed_frames=12"),
    "continuous": ("model=continuous", "model.substeps=1"),
    "weights": ("search.start=weights",),
    "sizes": ("data.num_entities=[3,5]", "data.known=0.3", "search.enumerate_up_to=4"),  # five by samples and slots
}  # fmt: skip


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.slow if kind in ("paper", "types") else ()) for kind in OTHERS]
)
def test_continued_equals_uninterrupted(kind: str, whole: Path, tmp_path: Path) -> None:
    """Interrupted at an epoch's start, then by SIGTERM in the middle of one: the same to the last bit, curves too."""
    options = (*OTHERS[kind], *QUICK)
    if OTHERS[kind]:
        whole = tmp_path / "whole"
        run(whole, *options)
    with accompanied(KilledAt(1)), pytest.raises(Stop):
        run(tmp_path / "parts", *options)
    torch.manual_seed(12345)  # a new process would not be at the same point of the stream
    with accompanied(KilledAt(2, batch=2)), pytest.raises(Preempted):
        run(tmp_path / "parts", *options)
    middle = checkpoint(tmp_path / "parts")
    assert middle["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]["processed"] == 3
    torch.manual_seed(12345)
    run(tmp_path / "parts", *options)
    same_run(whole, tmp_path / "parts")


def test_sigterm_and_resumed_by_command(whole: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """SIGTERM to a real process ends it cleanly; the command that it prints ends as if nothing had happened."""
    with accompanied(KilledAt(1, batch=1)), pytest.raises(Preempted):
        run(tmp_path / "run", *QUICK)
    done = command(str(ROOT / "train.py"), f"resume={tmp_path / 'run'}", "trainer.log_every_n_steps=7", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    same_run(whole, tmp_path / "run")
    assert not list(tmp_path.glob("runs"))  # nothing but the run's own directory is written to
    again = launched(capfd, tmp_path, f"resume={tmp_path / 'run'}")
    assert "is finished" in again.stdout, again.stderr
    for words, told in (
        (["trainer.max_epochs=8"], "trainer.max_epochs (4, now 8)"),
        (["search=paper"], "search=paper"),
        (["search.typo=1"], "search.typo"),
    ):
        printed = refusal(capfd, tmp_path, f"resume={tmp_path / 'run'}", *words)
        assert told in printed
        assert "Traceback" not in printed


@pytest.mark.parametrize("logger", [pytest.param("logger=[csv]", marks=pytest.mark.slow), "logger=[]"])
def test_another_logger_on_resuming(logger: str, whole: Path, tmp_path: Path) -> None:
    with accompanied(KilledAt(1, batch=1)), pytest.raises(Preempted):
        run(tmp_path / "run", *QUICK, "logger=[csv,wandb]", "logger.wandb=null")
    before = (tmp_path / "run" / ".hydra" / "config.yaml").read_text()
    run(tmp_path / "run", f"resume={tmp_path / 'run'}", logger, f"results={tmp_path}")
    same_run(whole, tmp_path / "run")
    with open(tmp_path / "run" / "curves.csv", newline="") as file:
        steps = max(int(row["step"]) for row in csv.DictReader(file))
    assert (steps > 10) == (logger == "logger=[csv]")  # written on, or left as it was after the first epoch
    assert len(list(tmp_path.glob("*/12tasks_seed0.json"))) == 1  # `results` reaches the part that writes them
    assert (tmp_path / "run" / ".hydra" / "config.yaml").read_text() == before


def test_nothing_left_to_resume_from(whole: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with accompanied(KilledAt(2)), pytest.raises(Stop):
        run(tmp_path / "run", *QUICK)
    for name in ("last.ckpt", "previous.ckpt"):
        path = tmp_path / "run" / "checkpoints" / name
        path.write_bytes(path.read_bytes()[:5000])
    printed = refusal(capfd, tmp_path, f"resume={tmp_path / 'run'}")
    assert "last.ckpt and previous.ckpt cannot be read" in printed
    assert "train again in another directory" in printed


def test_a_directory_belongs_to_its_run(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"other settings: seed \(0, now 1\)"):
        run(whole, *QUICK, "seed=1")
    with pytest.raises(UserError, match="no run was started there"):
        run(tmp_path / "empty", *QUICK, f"resume={tmp_path / 'empty'}")


@pytest.mark.slow
def test_restarts_and_early_stopping_go_on(tmp_path: Path) -> None:
    """Broken off in a restart, then before the test: the same attempts and winner; what stopped early stays so."""
    options = (*QUICK, "restarts=1", "trainer.max_epochs=8", "trainer.check_val_every_n_epoch=1")
    options = (*options, "callbacks=early_stopping", "callbacks.progress=null", "callbacks.early.min_delta=1000")
    options = (*options, "callbacks.early.patience=2")
    measures = run(tmp_path / "whole", *options)
    with accompanied(KilledInRestart()), pytest.raises(Stop):
        run(tmp_path / "parts", *options)
    with accompanied(KilledInTest()), pytest.raises(Stop):
        run(tmp_path / "parts", *options)
    assert run(tmp_path / "parts", *options) == pytest.approx(measures, nan_ok=True)
    for part in (".", "restart_1"):
        same_run(tmp_path / "whole" / part, tmp_path / "parts" / part)
        assert checkpoint(tmp_path / "parts" / part)["epoch"] == 2


def test_a_new_run_from_the_state_of_another(whole: Path, tmp_path: Path) -> None:
    run(tmp_path / "more", *QUICK, "trainer.max_epochs=6", f"ckpt_path={whole}")
    assert checkpoint(tmp_path / "more")["epoch"] == 5
    with pytest.raises(UserError, match=r"another model: model\.dynamics\.hidden \(16, now 8\)"):
        run(tmp_path / "other", *QUICK, "model.hidden=8", f"ckpt_path={whole}")


def test_every_kind_of_damage_is_noticed(whole: Path, tmp_path: Path) -> None:
    """Cut at any length, or a bit turned anywhere: the file is refused, or every tensor in it is what it was."""
    save(checkpoint(whole), tmp_path / "last.ckpt")
    content, generator = (tmp_path / "last.ckpt").read_bytes(), np.random.default_rng(0)
    for length in [0, 1, 2, len(content) - 1, *generator.integers(len(content), size=30)]:
        (tmp_path / "last.ckpt").write_bytes(content[:length])
        with pytest.raises(Damaged, match=r"last\.ckpt"):
            load(tmp_path / "last.ckpt")
    good, noticed = torch.load(whole / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"], 0
    for place in generator.integers(len(content), size=60):
        turned = bytearray(content)
        turned[place] ^= 1 << int(generator.integers(8))
        (tmp_path / "last.ckpt").write_bytes(turned)
        try:
            found = load(tmp_path / "last.ckpt")
        except Damaged:
            noticed += 1
        else:  # it was in the padding between parts
            assert all(torch.equal(found["state_dict"][name], good[name]) for name in good)
    assert noticed > 30
    (tmp_path / "last.ckpt").write_bytes(bytes(len(content)))
    with pytest.raises(Damaged):
        find_newest(tmp_path)


def test_the_one_before_a_damaged_checkpoint_is_used(whole: Path, tmp_path: Path) -> None:
    with accompanied(KilledAt(3)), pytest.raises(Stop):
        run(tmp_path / "run", *QUICK)
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:5000])
    with pytest.warns(UserWarning, match=r"last\.ckpt is damaged.*previous\.ckpt"):
        load_model(tmp_path / "run")
    with pytest.warns(UserWarning, match=r"last\.ckpt is damaged.*previous\.ckpt"):
        run(tmp_path / "run", *QUICK)
    assert (last.parent / "damaged.ckpt").stat().st_size == 5000
    same_run(whole, tmp_path / "run")


def test_a_checkpoint_damaged_when_training_is_over(whole: Path, tmp_path: Path) -> None:
    """Nothing is trained any more, so nothing would write the last checkpoint again."""
    with accompanied(KilledInTest()), pytest.raises(Stop):
        run(tmp_path / "run", *QUICK)
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:5000])
    with pytest.warns(UserWarning, match=r"last\.ckpt is damaged.*previous\.ckpt"):
        run(tmp_path / "run", *QUICK)
    same_run(whole, tmp_path / "run")


def test_a_run_of_the_first_format_resumes(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its record and checkpoint rewritten as they were then; it ends to the bit as one that was never interrupted."""
    monkeypatch.setattr(resume.secrets, "token_hex", lambda size: "123e4567")  # which YAML written anew takes for inf
    with accompanied(KilledAt(2)), pytest.raises(Stop):
        run(tmp_path / "parts", *QUICK)
    record, last = tmp_path / "parts" / ".hydra" / "config.yaml", tmp_path / "parts" / "checkpoints" / "last.ckpt"
    record.write_text(yaml.safe_dump(first_format(yaml.safe_load(record.read_text()))))
    content = torch.load(last, weights_only=True)
    del content["modmeta"]["format"]
    content["modmeta"]["config"] = first_format(content["modmeta"]["config"])
    content["state_dict"] |= {"model.forecasting": torch.tensor(False), "mean_square_change": torch.ones(())}
    save(content, last)
    run(tmp_path / "parts", *QUICK)
    same_run(whole, tmp_path / "parts")
