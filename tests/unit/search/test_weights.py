"""Real weights of edges: in closed form, gradients of the law under them, clusters, and the modules made of them."""

import pytest
import torch
from torch import Tensor

from modmeta.keys import OBSERVED, UNKNOWN
from modmeta.model.features import AbsoluteFeatures
from modmeta.search.weights import RealWeights, Weights, centres, last_messages, real_weights
from tests.conftest import make_model


def test_weights_are_found_in_spite_of_outliers_and_gaps() -> None:
    messages, value = torch.randn(2, 3, 2, 40, 4), torch.randn(2, 3, 2)
    changes = (value[..., None, None] * messages).sum(2) + 0.01 * torch.randn(2, 3, 40, 4)
    changes[:, :, ::13] += 50.0
    mask = torch.full((2, 3, 40), OBSERVED)
    mask[..., 1::9] = UNKNOWN
    changes[:, :, 1::9] = 1e4
    found = real_weights(messages, changes, torch.tensor(0.01).log(), mask)
    torch.testing.assert_close(found.value, value, rtol=0.02, atol=0.02)
    assert bool((found.error < 0.01).all())


@pytest.mark.parametrize("kind", ["additive", "isotropic", "continuous"])
def test_the_law_needs_no_gradient_through_the_weights(kind: str, states: Tensor) -> None:
    """Differences of the energy, weights found anew for either law, are the gradient at weights that stay."""
    model, relaxed = make_model(kind).double(), RealWeights().double()
    states, types = states.double(), torch.zeros(3, 4, dtype=torch.long)
    energy = relaxed(model, states, types)[0].sum()
    parameter = model.dynamics.edge_modules.affine[-1].weight
    energy.backward()
    way = parameter.grad / parameter.grad.norm()
    ends = []
    for sign in (1, -1):
        with torch.no_grad():
            parameter += sign * 1e-4 * way
            ends.append(float(relaxed(model, states, types)[0].sum()))
            parameter -= sign * 1e-4 * way
    assert (ends[0] - ends[1]) / 2e-4 == pytest.approx(float(parameter.grad.norm()), rel=0.1)


def test_clusters_of_the_weights_that_are_sure() -> None:
    kinds = torch.randint(2, (50, 4, 3))
    value = torch.tensor([0.1, -2.0])[kinds] + 0.02 * torch.randn(50, 4, 3)
    error = torch.full_like(value, 0.02)
    value[::3], error[::3] = 30 * torch.randn(17, 4, 3), 30.0
    torch.testing.assert_close(centres(Weights(value, error), 2), torch.tensor([0.1, -2.0]), rtol=0.05, atol=0.02)


@pytest.mark.parametrize("kind", ["additive", "isotropic", "continuous", "gated"])
def test_modules_become_multiples_of_the_last(kind: str, states: Tensor) -> None:
    dynamics, factors = make_model(kind).dynamics, torch.tensor([-0.5, 3.0])
    before = last_messages(dynamics, states)
    torch.testing.assert_close(before, dynamics.messages(states)[:, :, :, -1])
    dynamics.multiply(factors)
    after = dynamics.messages(states).movedim(3, 0)
    torch.testing.assert_close(after, factors.view(-1, 1, 1, 1, 1, 1) * before, rtol=1e-4, atol=1e-5)


def test_gates_are_factors_of_messages() -> None:
    """Of two outputs a channel, the message is one times the exponential of the other, bounded."""
    features, answers = AbsoluteFeatures(gated=True), torch.randn(2, 5, 8)
    answers[0, 0, 4] = 1e3
    sent = features.messages(answers, torch.empty(5, 8), torch.empty(5, 4), torch.empty(5, 4), None)
    assert sent.shape == (2, 5, features.factors(4))
    assert bool(sent.isfinite().all())
    torch.testing.assert_close(sent[1], answers[1, :, :4] * answers[1, :, 4:].exp())
