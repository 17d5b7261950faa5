"""On a CUDA device everything is as on the CPU, within rounding. Part of `make gpu`; skipped where there is none."""

from pathlib import Path

import numpy as np
import pytest
import torch

import modmeta
from modmeta.data.generation import generate
from modmeta.graph.bank import random_structure
from modmeta.graph.relations import to_matrix
from modmeta.simulators import Springs
from modmeta.training.capture import cuda_graph
from modmeta.training.run import train
from tests.conftest import make_model
from tests.integration.test_recorded_runs import KINDS as RECORDED
from tests.runs import QUICK, KilledAt, Stop, accompanied, checkpoint, compose, fitted, undrawn

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
ON_GPU = (*(word for word in QUICK if not word.startswith("trainer.accelerator")), "trainer.accelerator=gpu")
KINDS = {
    "default": (),
    "paper": ("experiment=paper/springs5", "model.hidden=16", "proposal.hidden=16"),
    "continuous": ("experiment=springs5", "model.substeps=1"),
    "laws": ("experiment=springs5", "search.start=laws"),
    "weights": ("search.start=weights",),
    "types": ("experiment=masses5", "search.sweeps=1"),
    "phases": ("experiment=kuramoto5",),
    "nri": ("experiment=baselines/nri_springs5",),
}


@pytest.mark.parametrize("kind", ["additive", "mlp", "paper", "isotropic", "continuous", "gated"])
def test_energies_and_gradients(kind: str, states: torch.Tensor) -> None:
    """Of one-step and rollout energies, from the same weights."""
    model, (b, n) = make_model(kind, g=1).double(), states.shape[:2]
    structure = random_structure(b, n, 2, 1, torch.Generator().manual_seed(3))
    told = {}
    for device in ("cpu", "cuda"):
        here, on = model.to(device), states.double().to(device)
        here.zero_grad()
        placed = type(structure)(*(part.to(device) for part in structure))
        messages = here.messages(on, placed)
        one = here.receiver_energies(on, messages, placed.edge_modules.unsqueeze(2), placed.node_modules.unsqueeze(2))
        far = here.energies(on, placed, 3)
        (one.sum() + far.sum()).backward()
        grads = [p.grad.cpu() for p in here.parameters() if p.grad is not None]
        told[device] = [one.detach().cpu(), far.detach().cpu(), *grads]
    for a, b_ in zip(told["cpu"], told["cuda"], strict=True):
        torch.testing.assert_close(a, b_, rtol=1e-7, atol=1e-7 * float(a.abs().max().clamp_min(1e-12)))


@pytest.mark.parametrize("kind", KINDS)
def test_trains_and_resumes(kind: str, tmp_path: Path) -> None:
    """Interrupted and resumed ends like uninterrupted, within rounding: sums on a GPU have no fixed order."""
    options = (*KINDS[kind], *(word for word in ON_GPU if not (kind == "nri" and word.startswith("model."))))
    with undrawn():
        whole = train(compose(tmp_path / "whole", *options))
        with accompanied(KilledAt(2)), pytest.raises(Stop):
            train(compose(tmp_path / "parts", *options))
        parts = train(compose(tmp_path / "parts", *options))
    assert whole.keys() == parts.keys()
    one, other = checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "parts")
    assert int(one["state_dict"]["steps_done"]) == int(other["state_dict"]["steps_done"])
    if kind not in ("paper", "nri", "weights", "laws"):  # chaotic: rounding grows over steps
        for name, value in one["state_dict"].items():
            if value.is_floating_point() and name.startswith("model."):
                torch.testing.assert_close(value, other["state_dict"][name], rtol=0.05, atol=0.02, equal_nan=True)
    assert all(part.device.type == "cpu" for part in one["modmeta"].get("bank", {}).values())


@pytest.mark.parametrize("kind", ["paper", "springs5", "default"])
def test_recorded_steps(kind: str, tmp_path: Path) -> None:
    """Steps repeated by a graph end like steps started one by one; in double precision, for runs are chaotic."""
    words = (*RECORDED[kind], *ON_GPU)
    plain, repeated = (fitted(tmp_path, *words, record=record, precision="64-true") for record in (None, cuda_graph))
    assert repeated.steps is not None
    assert repeated.steps.recorded, repeated.steps.refused
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(value, repeated.state_dict()[name], rtol=1e-5, atol=1e-7, equal_nan=True)


def test_bfloat16(tmp_path: Path) -> None:
    """Training in bfloat16 learns as well as in float32, in a short run of the published search."""
    ends = {}
    for precision in ("32-true", "bf16-mixed"):
        words = ("experiment=paper/springs5", *ON_GPU, f"trainer.precision={precision}")
        with undrawn():
            ends[precision] = train(compose(tmp_path / precision, *words))["val/energy"]
    assert np.isfinite(list(ends.values())).all()
    assert abs(ends["bf16-mixed"] - ends["32-true"]) < 0.3 * abs(ends["32-true"]) + 0.3


def test_packaged_model_infers_the_same() -> None:
    """A packaged model finds the same structures of new tasks on both devices."""
    new = generate(Springs(), {"test": (20, 49)}, seed=5, progress=False)["test"]
    model = modmeta.load("springs5")
    at_home = model.infer(new.states).relations
    model.module.to("cuda")
    away = model.module.infer(model.units.normalised(new.states).cuda()).structure.edge_modules
    assert away.is_cuda
    labels = model.module.module_to_relation[away].cpu().numpy()
    matrix = to_matrix(torch.from_numpy(labels)).numpy()
    assert (matrix == np.asarray(at_home)).mean() > 0.999
