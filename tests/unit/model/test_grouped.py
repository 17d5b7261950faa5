"""Several networks evaluated together, and the shapes and sums that a GPU asks for."""

import pytest
import torch
from torch.nn import functional as F

from modmeta.model import grouped
from modmeta.model.grouped import Blocks, GroupedMLP, row_products


@pytest.mark.usefixtures("either_device")
@pytest.mark.parametrize("rows", [1, 7, 60])
def test_gradients_are_those_of_single_products(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of networks whose rows a GPU sums in parts, where the number of rows has divisors and where it is prime."""
    monkeypatch.setattr(grouped, "PART", 8)
    monkeypatch.setattr(grouped, "LEAST_PART", 2)
    grouped._part.cache_clear()
    network = GroupedMLP(3, [4, 6, 2], torch.tanh, linear_path=True).double()
    x, given = (torch.randn(3, rows, size, dtype=torch.double) for size in (4, 2))
    x.requires_grad_()

    def plainly(x: torch.Tensor) -> torch.Tensor:
        (first, last), straight = network.affine, network.linear
        assert straight is not None
        hidden = torch.tanh(torch.einsum("kpi,kio->kpo", x, first.weight) + first.bias)
        out = torch.einsum("kpi,kio->kpo", hidden, last.weight) + last.bias
        return out + torch.einsum("kpi,kio->kpo", x, straight.weight) + straight.bias

    both = [network(x), plainly(x)]
    torch.testing.assert_close(*both)
    wanted = [x, *network.parameters()]
    torch.testing.assert_close(*(torch.autograd.grad(out, wanted, given) for out in both))
    grouped._part.cache_clear()


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_products_of_rows_in_parts(kind: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums of parts of bfloat16 numbers are no coarser than the sum at once."""
    x, grad = torch.randn(2, 4096, 5, dtype=kind), torch.randn(2, 4096, 3, dtype=kind)
    exact, whole = x.double().mT @ grad.double(), row_products(x, grad)
    monkeypatch.setattr("modmeta.machine.waits", lambda values: True)
    parts = row_products(x, grad)
    assert parts.dtype is torch.float32
    assert (parts - exact).abs().max() <= 2 * (whole - exact).abs().max()


@pytest.mark.usefixtures("either_device")
@pytest.mark.parametrize("groups", [1, 3])
def test_blocks_hold_inputs_of_one_network_each(groups: int) -> None:
    group = torch.randint(groups, (50,))
    group[group == 1] = 0  # a network may have no inputs
    blocks = Blocks(group, groups, 4)
    slots = blocks.inputs.view(-1, 4)
    assert sorted(slots[slots < 50].tolist()) == list(range(50))
    for own, inputs in zip(blocks.of_block, slots, strict=True):
        assert (group[inputs[inputs < 50]] == own).all()
    assert torch.equal(blocks.inputs[blocks.place], torch.arange(50))


def test_numbers_of_blocks_do_not_depend_on_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Python would wait for them. Some inputs, sorted anew, are filled up with an empty slot."""
    monkeypatch.setattr("modmeta.machine.waits", lambda values: True)
    made = [
        Blocks(group, 3, 4)
        for group in (torch.zeros(50).long(), torch.arange(50) % 3, F.pad(torch.zeros(40).long(), (0, 10), value=2))
    ]
    assert len({len(blocks.of_block) for blocks in made}) == 1
    for blocks in made:
        assert (blocks.inputs[-4:] == 50).all()
        some = torch.arange(0, 50, 3)
        slots, of_block = blocks.of(some)
        held = blocks.inputs[slots]
        assert sorted(held[held < 50].tolist()) == some.tolist()
        assert (blocks.group[held.clamp_max(49)] == of_block.repeat_interleave(4))[held < 50].all()
