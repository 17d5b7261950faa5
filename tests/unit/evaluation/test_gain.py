"""The gain over no relations, against what is easy to say beforehand."""

import math

import pytest
import torch

from modmeta.evaluation.gain import gain
from modmeta.keys import OBSERVED


def changes(scales: list[float]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Changes of entities on various scales that their own states do not tell, states, and noise."""
    generator = torch.Generator().manual_seed(0)
    draw = torch.randn(4, len(scales), 500, 2, generator=generator)
    states, noise = (torch.randn(draw.shape, generator=generator) for _ in range(2))
    return draw * torch.tensor(scales).view(-1, 1, 1), states, noise


def test_a_tenth_of_the_errors_is_the_logarithm_of_ten() -> None:
    targets, states, noise = changes([1.0, 1.0, 1.0])
    assert float(gain(0.1 * noise, targets, states)) == pytest.approx(math.log(10), abs=0.03)
    assert float(gain(targets, targets, states)) == pytest.approx(0.0, abs=0.01)


def test_what_entities_do_by_themselves_is_no_gain() -> None:
    """Linear in their own states, and at a rate of their own."""
    targets, states, _ = changes([0.1, 0.1, 0.1])
    own = targets + 3 * states.flip(-1) + torch.tensor([5.0, -2.0, 1.0]).view(-1, 1, 1)
    assert float(gain(targets, own, states)) == pytest.approx(0.0, abs=0.02)


def test_exact_entities_do_not_pay_for_the_others() -> None:
    """On planets, and particles at rest, a density whose scale shrinks prefers the failure."""
    scales = [10.0, 3.0, 0.3, 0.1]
    targets, states, noise = changes(scales)
    failure, right = targets.clone(), 0.01 * noise * torch.tensor(scales).view(-1, 1, 1)
    failure[:, 2:] *= 0.003  # the largest as without relations
    assert gain(right, targets, states) > 2 * gain(failure, targets, states)
    rest, states, noise = changes([0.0, 0.0, 1.0])
    right = 0.05 * noise
    assert float(gain(rest, rest, states)) == pytest.approx(0.0, abs=0.02)
    assert gain(right, rest, states) > 2, "small errors where nothing changes cost little"


def test_a_collision_does_not_decide() -> None:
    """Laws that tell all but one entity of ten in a collision, against a compromise."""
    targets, states, noise = changes([300.0, *[1.0] * 9])
    right, compromise = 1e-3 * noise, 0.7 * targets
    right[:, 0] = targets[:, 0]
    assert gain(right, targets, states) > 2 * gain(compromise, targets, states)


def test_steps_that_do_not_count_do_not() -> None:
    targets, states, noise = changes([1.0, 1.0])
    error, mask = 0.1 * noise, torch.full(noise.shape[:3], OBSERVED)
    mask[..., ::3] = 0
    kept = mask[0, 0] > 0
    expected = gain(error[:, :, kept], targets[:, :, kept], states[:, :, kept])
    error[:, :, ::3] = 1e6
    torch.testing.assert_close(gain(error, targets, states, mask), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [0.0, 1e-15, 1e12])
def test_any_size_of_changes(size: float) -> None:
    targets, states, noise = changes([1.0, 1.0])
    assert gain(0.1 * size * noise, size * targets, states).isfinite()
