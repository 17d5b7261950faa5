"""Steps that are recorded once and repeated (`modmeta/training/capture.py`), on a tape in place of a CUDA graph."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from modmeta.training.capture import WARM, Recorded
from tests.runs import QUICK, fitted
from tests.tape import taped

STEPS = 20  # of QUICK
KINDS = {
    "paper": ("experiment=paper/springs5", "proposal.hidden=16"),
    "springs5": ("experiment=springs5",),
    "strengths": ("experiment=springs5", "model.strengths=true"),
    "default": (),
    "mlp": ("experiment=paper/springs5", "proposal.hidden=16", "data.num_entities=[3,5]", "search.samples=3"),
    "blocks": (
        "model=default",
        "model.additive=false",
        "data.num_entities=6",
        "search.enumerate_up_to=4",
        "data.known=0.3",
    ),
}


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind in ("paper", "springs5") else pytest.mark.slow) for kind in KINDS]
)
def test_repeated_steps_are_steps(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run whose steps are recorded ends to the bit like one whose steps are not. Only late steps wait for a GPU."""
    monkeypatch.setattr("modmeta.machine.waits", lambda values: True)
    plain, repeated = (fitted(tmp_path, *KINDS[kind], *QUICK, record=record) for record in (None, taped))
    assert repeated.steps is not None
    late = [made[0] for made in repeated.steps.refused]
    assert late == ([(True, False)] if kind in ("springs5", "strengths") else [])  # paths of close pairs
    assert len(repeated.steps.recorded) >= (2 if kind == "mlp" else 1)  # of two sizes
    assert not repeated.steps.graphs
    for one, other in zip(plain.state_dict().values(), repeated.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


def test_what_a_graph_gets_wrong_is_seen(capsys: pytest.CaptureFixture[str]) -> None:
    """Here it forgets its inputs: the first ones come again and again."""
    weight = torch.nn.Parameter(torch.ones(4))

    def work(given: dict[str, torch.Tensor]) -> torch.Tensor:
        (weight * given["x"]).sum().backward()
        return given["x"] * 2

    def forgetful(todo: Callable[[], Any], generators: Any) -> tuple[Any, Callable[[], None]]:
        out = todo()
        return out, lambda: None

    steps = {record: Recorded(work, [weight], torch.Generator(), record) for record in (forgetful, taped)}
    for record, step in steps.items():
        for number in range(3 * WARM):
            weight.grad, x = None, torch.arange(4.0) + number
            assert torch.equal(step(None, {"x": x}), 2 * x)
            assert torch.equal(weight.grad, x)
        assert bool(step.graphs) == bool(step.recorded) == (record is taped)
    assert capsys.readouterr().out.count("repeated, it does not do what it did") == 1


def test_a_step_that_cannot_be_recorded_is_done_all_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    weight = torch.nn.Parameter(torch.ones(3))

    def work(given: dict[str, torch.Tensor]) -> torch.Tensor:
        (weight * given["x"][given["x"] > 0].sum()).sum().backward()
        return given["x"] * 2

    step = Recorded(work, [weight], torch.Generator(), taped)
    for number in range(2 * WARM):
        weight.grad, x = None, torch.full((4,), 1.0 + number)
        assert torch.equal(step(None, {"x": x}), 2 * x)
        assert torch.equal(weight.grad, torch.full((3,), 4.0 + 4 * number))
    assert capsys.readouterr().out.count("not recorded") == 1


def test_recorded_weights_in_lower_precision_are_not_used_by_other_steps() -> None:
    """Under autocast, which keeps them; those of a graph have no values before it is replayed."""
    weight = torch.nn.Parameter(torch.ones(1, 4))

    def work(given: dict[str, torch.Tensor]) -> torch.Tensor:
        out = torch.nn.functional.linear(given["x"], weight)
        out.sum().backward()
        return out.detach()

    def without_values(todo: Callable[[], Any], generators: Any) -> tuple[Any, Callable[[], None]]:
        was = weight.detach().clone()
        with torch.no_grad():
            weight.zero_()
        out = todo()
        with torch.no_grad():
            weight.copy_(was)
        return out, lambda: None

    step = Recorded(work, [weight], torch.Generator(), without_values)
    for _ in range(WARM + 1):
        weight.grad = None
        with torch.autocast("cpu", torch.bfloat16):
            assert step(None, {"x": torch.ones(2, 4)}).tolist() == [[4.0], [4.0]]
