"""The roofline of a step counts what it should."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.step import ACTIVATIONS, PRODUCTS, Recorder, mlp_flops
from modmeta.model.grouped import GroupedMLP


def test_operations_by_formula_and_by_torch() -> None:
    network, rows = GroupedMLP(3, [4, 16, 16, 2], torch.nn.functional.silu, linear_path=True), torch.randn(50, 4)
    with FlopCounterMode(display=False) as counter, Recorder(PRODUCTS) as recorder, Recorder(ACTIVATIONS) as other:
        out = network(rows)
    assert counter.get_total_flops() == mlp_flops(network, 50) == 2 * 3 * 50 * (4 * 16 + 16 * 16 + 16 * 2 + 4 * 2)
    assert (len(recorder.calls), len(other.calls)) == (4, 2)
    with FlopCounterMode(display=False) as replayed:
        recorder.replay()
    assert replayed.get_total_flops() == counter.get_total_flops()
    with FlopCounterMode(display=False) as backward:
        out.sum().backward()  # the products of both operands' gradients, none for the data itself
    first = 2 * 3 * 50 * (4 * 16 + 4 * 2)
    assert backward.get_total_flops() == 2 * counter.get_total_flops() - first


@pytest.mark.slow
def test_the_script_for_a_gpu_runs_dry() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", "--dry"],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
    assert done.stdout.rstrip().endswith("failed: none"), done.stdout[-2000:] + done.stderr[-2000:]
