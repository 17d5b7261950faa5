"""Runs on tasks of functions: through train.py's own function, killed and resumed, with messages for mistakes."""

from pathlib import Path

import pytest
import torch

import modmeta
from modmeta.api import load_relational
from modmeta.errors import DataError, Preempted, UserError
from modmeta.training.checkpoints.files import save
from tests.runs import KilledAt, accompanied, checkpoint, run, same

TINY = (
    "data.num_tasks=40", "data.valid=10", "data.test=12", "data.batch_size=8", "data.batches_per_epoch=4",
    "data.points=16", "data.test_points=12", "data.support=4", "trainer.max_epochs=2", "callbacks.progress=null",
    "trainer.accelerator=cpu", "trainer.devices=1", "logger=[]",
)  # fmt: skip
FEW = ("data.world.functions=3", "model.libraries.f.modules=3", "model.libraries.f.hidden=8")
BASELINE = (
    "data=functions", "callbacks=baseline", "~model", "~likelihood", "~search", "~temperature", "~proposal",
    "~optimizer", "name=functions", "method.hidden=8",
)  # fmt: skip
OURS = ("method.searched=6", "method.gradient_tasks=12", "method.renewed=2")
RUNS = {
    "sum": ("experiment=functions/sum", *FEW, *OURS),
    "chain": ("experiment=functions/chain", *FEW, *OURS, "search.start=random"),
    "concatenate": ("experiment=functions/concatenate", *FEW, *OURS, "search.start=random"),
    "attend": ("experiment=functions/attend", "data.world.functions=3", "model.libraries.f.modules=3",
               "model.libraries.score.modules=3", *OURS),
    "published search": ("experiment=functions/chain", *FEW, *OURS, "search=paper",
                         "search.start=random"),
    "sines": ("experiment=functions/sines", *FEW[1:], *OURS, "search.start=random"),
    "maml": ("method=maml", *BASELINE),
    "pooled": ("method=pooled", *BASELINE),
}  # fmt: skip


@pytest.mark.parametrize("name", [pytest.param(one, marks=pytest.mark.slow if one not in ("chain", "maml") else ())
                                  for one in RUNS])  # fmt: skip
def test_an_interrupted_run_ends_the_same(name: str, tmp_path: Path) -> None:
    words = (*RUNS[name], *TINY)
    whole = run(tmp_path / "whole", *words)
    with accompanied(KilledAt(1, batch=1)), pytest.raises(Preempted):
        run(tmp_path / "parts", *words)
    assert run(tmp_path / "parts", *words) == pytest.approx(whole, nan_ok=True, rel=0, abs=0)
    one, other = checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "parts")
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step"):
        same(one[part], other[part], part)
    for part in ("bank", "generators", "epoch"):
        same(one["modmeta"].get(part), other["modmeta"].get(part), part)
    assert whole["test/error"] > 0
    if "search" in name or name in ("sum", "chain", "concatenate", "attend"):
        assert 0 <= whole["test/structures"] <= 1


def test_a_cold_start_that_a_composition_does_not_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="needs a composition that adds"):
        run(tmp_path / "one", *RUNS["attend"], *TINY, "search.start=laws")


def test_settings_of_the_search_that_cannot_be_are_named(tmp_path: Path) -> None:
    words = (*RUNS["maml"], *TINY)
    with pytest.raises(UserError, match=r"method\.searched=16 must be at least 1 and below data\.points=16"):
        run(tmp_path / "one", *words, "method.searched=16")


def test_fewer_examples_than_slots_are_told_before_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = (*RUNS["sum"], *TINY, "method.num_functions=1")  # which ends the run before its first step
    for name, warned in (
        ("data.support=2", ""),
        ("data.support=1", "data.support=1"),
        ("method.searched=1", "method.searched=1"),
    ):
        with pytest.raises(UserError, match=r"method\.num_functions=1"):
            run(tmp_path / name, *words, name)
        line = f"warning: {warned}: the examples of a task are 1 number, fewer than the 2 slots"
        assert (line in capsys.readouterr().err) == bool(warned)


def test_few_shot_methods_on_trajectories_are_refused_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"method\.support is taken from data\.support, which is not set; choose a `data`"
    ):
        run(tmp_path / "one", "method=maml", "data=springs5")


def test_a_trained_composition_infers_structures_with_probabilities(tmp_path: Path) -> None:
    measured = run(tmp_path / "run", *RUNS["sum"], *TINY, "search.start=random")
    assert {"test/confidence", "test/calibration_error"} <= measured.keys()
    model = modmeta.load(tmp_path / "run")
    x = torch.linspace(-1, 1, 6).view(1, 6, 1).expand(2, 6, 1)
    y = model.module.model(x, torch.tensor([[0, 2], [1, 1]])).detach()
    found = model.infer(x.numpy(), y.numpy())
    torch.testing.assert_close(model.predict(x, found), y, atol=1e-3, rtol=1e-2)
    assert found.modules.shape == (2, 2, 3)
    torch.testing.assert_close(found.modules.sum(-1), torch.ones(2, 2))
    assert ((found.probability > 1 / 9) & (found.probability <= 1 + 1e-6)).all()
    with pytest.raises(DataError, match=r"x has shape \(2, 6\); it must be \(tasks, points, 1\)"):
        model.infer(x[..., 0], y)
    with pytest.raises(DataError, match="x has tasks of 2 to 3 points; infer tasks of each number in a call"):
        model.infer([x[0, :3].numpy(), x[1, :2].numpy()], [y[0, :3].numpy(), y[1, :2].numpy()])
    with pytest.raises(DataError, match="point 3 of task 1 is not finite"):
        model.infer(x, torch.where(torch.arange(12).view(2, 6, 1) == 9, torch.nan, y))
    with pytest.raises(UserError, match="composes modules for functions"):
        load_relational(tmp_path / "run")
    with pytest.warns(UserWarning, match="1 number, fewer than the 2 slots whose .* give more examples, or heed"):
        model.infer(x[:, :1], y[:, :1])
    older = checkpoint(tmp_path / "run")
    del older["state_dict"]["calibrated"], older["state_dict"]["twin"]  # as before probabilities were calibrated
    save(older, tmp_path / "older.ckpt")
    torch.testing.assert_close(modmeta.load(tmp_path / "older.ckpt").infer(x, y).structures, found.structures)
