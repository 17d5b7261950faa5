"""Cold start of concatenations: scores against the composition, moments of modules, and a whole world."""

import pytest
import torch

from modmeta.compositions import Chain, ComposedModel, Concatenate, Library
from modmeta.compositions.chains import every_row
from modmeta.compositions.cold_start import features
from modmeta.compositions.concatenations import (
    _Concatenations,
    _read,
    _waves,
    concatenates,
    concatenation_start,
)
from modmeta.simulators.functions import HiddenFunctions


def composed(modules: int = 3, slots: int = 2) -> ComposedModel:
    tree = Chain([Concatenate(["f"] * slots), "head"])
    return ComposedModel({"f": Library(modules), "head": Library(1, inputs=slots)}, tree)


@torch.no_grad()
def test_every_structure_is_scored_as_it_is() -> None:
    generator, slots, outputs = torch.Generator().manual_seed(0), 3, 2
    basis, y = torch.randn(4, 5, 6, generator=generator), torch.randn(4, 5, outputs, generator=generator)
    weights, head = torch.randn(2, 6, generator=generator), torch.randn(8**slots * outputs, generator=generator)
    start = _Concatenations(basis, y, slots, 2, generator, weights, head)
    values, squares, products = start.values(basis), start.squares(), head.view(8, 8, 8, outputs)
    for number, (i, j, k) in enumerate(every_row(2, slots, torch.device("cpu")).tolist()):
        parts = [_waves(values[..., module]) for module in (i, j, k)]
        out = torch.einsum("xyzo,bpx,bpy,bpz->bpo", products, *parts)
        torch.testing.assert_close(squares[:, number], (out - y).square().mean((1, 2)), rtol=1e-4, atol=1e-4)
        alone = _read([part.flatten(0, 1).unsqueeze(1) for part in parts], head)[:, 0]
        torch.testing.assert_close(alone, out.flatten(0, 1), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_values_of_modules_have_mean_zero_and_variance_one() -> None:
    generator = torch.Generator().manual_seed(0)
    basis = features(torch.rand(9, 12, 1, generator=generator).double(), generator).float()
    start = _Concatenations.drawn(basis, torch.zeros(9, 12, 1), 2, 3, generator)
    values = start.values(basis).flatten(0, 1)
    torch.testing.assert_close(values.mean(0), torch.zeros(6), rtol=0, atol=1e-3)
    torch.testing.assert_close(values.square().mean(0), torch.ones(6), rtol=1e-3, atol=0)


def test_heads_of_one_module_on_values_of_one_library_have_this_start() -> None:
    assert concatenates(composed())
    assert concatenates(composed(slots=3))
    two = {"f": Library(3), "head": Library(2, inputs=2)}
    assert not concatenates(ComposedModel(two, Chain([Concatenate(["f", "f"]), "head"])))
    other = {"f": Library(3), "g": Library(3), "head": Library(1, inputs=2)}
    assert not concatenates(ComposedModel(other, Chain([Concatenate(["f", "g"]), "head"])))
    assert not concatenates(ComposedModel({"f": Library(3)}, Chain(["f", "f"])))


@pytest.mark.slow
def test_concatenations_are_found() -> None:
    drawn = HiddenFunctions("concatenate", 5, 2).draw(1000, 48, 0, "train")
    x, y, truth = (torch.from_numpy(part) for part in drawn)
    found = concatenation_start(composed(5), x, y, 0)
    assert found.unexplained < 0.02
    rights = []
    for order in ([0, 1], [1, 0]):
        rows = found.structures[:, order]
        counts = torch.zeros(5, 5)
        counts.index_put_((rows.flatten(), truth.flatten()), torch.ones(truth.numel()), accumulate=True)
        rights.append(float((counts.argmax(1)[rows] == truth).all(1).float().mean()))
    assert max(rights) > 0.9
    inputs, values = found.values["f"]
    assert values.shape == (5, len(inputs), 1)
    read, out = found.values["head"]
    assert read.shape == (len(inputs), 2)
    assert out.shape == (1, len(inputs), 1)
