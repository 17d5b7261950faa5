"""Pruning of edge modules that nothing uses."""

from pathlib import Path

import pytest
import torch

from modmeta.cli.main import main
from modmeta.training.checkpoints.loading import load_model
from tests.runs import QUICK, checkpoint, run


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(("model=default",), marks=pytest.mark.slow),
        ("model=continuous",),
        ("model=continuous", "search.start=laws"),
        pytest.param(("model=continuous", "model.strengths=true"), marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_pruned_model_is_the_same_without_the_module(
    words: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run(tmp_path / "run", *QUICK, *words, "model.num_edge_modules=3", "model.null_module=false")
    content = checkpoint(tmp_path / "run")
    content["state_dict"]["usage"] = torch.tensor([0.6, 0.001, 0.399])
    torch.save(content, tmp_path / "model.ckpt")
    assert main(["prune", str(tmp_path / "model.ckpt"), "-o", str(tmp_path / "small.ckpt")]) == 0
    assert "edge modules 0, 2 kept" in capsys.readouterr().out
    full, small = load_model(tmp_path / "model.ckpt")[0], load_model(tmp_path / "small.ckpt")[0]
    states = torch.randn(2, 5, 49, 4)
    with torch.no_grad():
        expected = full.model.dynamics.messages(states)[:, :, :, [0, 2]]
        assert full.model.dynamics.spread is None or torch.equal(small.model.dynamics.spread, torch.eye(2) / 2)
        torch.testing.assert_close(small.model.dynamics.messages(states), expected)
        torch.testing.assert_close(small.proposal(states), full.proposal(states)[..., [0, 2]])
    assert small.module_to_relation.tolist() == full.module_to_relation[[0, 2]].tolist()
    assert small.infer(states).structure.edge_modules.max() <= 1


def test_what_cannot_be_pruned_is_refused(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    words = ["prune", str(whole), "-o", str(tmp_path / "small.ckpt")]
    assert main([*words, "--below", "0.0"]) == 2
    assert "every edge module is used" in capsys.readouterr().err
    assert main([*words, "--below", "1.1"]) == 2
    assert "lower --below" in capsys.readouterr().err
    assert not (tmp_path / "small.ckpt").exists()
    (tmp_path / "small.ckpt").write_text("mine")
    assert main(words) == 2
    assert "exists" in capsys.readouterr().err
    assert (tmp_path / "small.ckpt").read_text() == "mine"
