"""Likelihoods against torch.distributions."""

import torch
from torch import distributions

from modmeta.model.likelihood import FixedGaussian, Gaussian, StudentT


def test_gaussian_is_the_normal_density() -> None:
    likelihood = Gaussian(4)
    likelihood.log_scales.data.normal_()
    states, error = torch.randn(2, 3, 5, 4), torch.randn(2, 3, 5, 4)
    energy = likelihood.energy(error, likelihood.log_scale(states))
    exact = -distributions.Normal(0.0, likelihood.log_scales.exp()).log_prob(error)
    torch.testing.assert_close(energy, exact)


def test_student_t_is_the_t_density() -> None:
    likelihood = StudentT(4, 2, degrees=3.0)
    states, error = torch.randn(2, 3, 5, 4), 10 * torch.randn(2, 3, 5, 4)
    scale = likelihood.log_scale(states)
    assert scale.std() > 0  # it depends on the state
    energy = likelihood.energy(error, scale)
    exact = -distributions.StudentT(3.0, 0.0, scale.exp()).log_prob(error)
    torch.testing.assert_close(energy, exact, rtol=1e-4, atol=1e-4)


def test_squared_error() -> None:
    error = torch.randn(2, 3, 5, 4)
    likelihood = FixedGaussian(2.0)
    energy = likelihood.energy(error, likelihood.log_scale(error))
    torch.testing.assert_close(energy, -distributions.Normal(0.0, 2.0).log_prob(error))


def test_exact_frames_cannot_shrink_a_scale_without_end() -> None:
    likelihood = StudentT(4, 2)
    likelihood.offset.data.fill_(-60.0)
    states = torch.randn(2, 3, 5, 4)
    energy = likelihood.energy(torch.ones(2, 3, 5, 4), likelihood.log_scale(states)).detach()
    assert energy.isfinite().all()
    assert float(energy.max()) < 60


def test_scales_that_overshoot_come_back() -> None:
    """Below the least, gradients pass that ask for larger scales, and no others."""
    likelihood = StudentT(4, 2)
    likelihood.offset.data.fill_(-60.0)
    for error, passes in ((1.0, True), (0.0, False)):
        likelihood.zero_grad()
        likelihood.energy(
            torch.full((2, 3, 5, 4), error), likelihood.log_scale(torch.randn(2, 3, 5, 4))
        ).mean().backward()
        assert likelihood.offset.grad is not None
        assert (likelihood.offset.grad < -2) == passes
        assert passes or likelihood.offset.grad == 0
