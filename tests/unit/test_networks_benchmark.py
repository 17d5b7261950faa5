"""Generated networks whose frames are far apart, against closed forms."""

import numpy as np
import pytest
from scipy.linalg import expm

from benchmarks.groups import least_squares
from benchmarks.networks import DYNAMICS, graph, recorded


@pytest.mark.parametrize("kind", ["er", "ba"])
def test_graphs_are_undirected_and_leave_nobody_out(kind: str) -> None:
    a = graph(kind, 20, 0.3, np.random.default_rng(0))
    assert (a == a.T).all()
    assert not a.diagonal().any()
    assert a.any(1).all()


def test_diffusion_is_the_matrix_exponential() -> None:
    generator = np.random.default_rng(0)
    a = graph("ba", 8, 0.3, generator)
    states, root = recorded("diffusion", a, 2, 6, generator)[..., 0], np.sqrt(a.sum(1))
    step = expm(0.1 * (a / np.outer(root, root) - np.eye(8)))
    np.testing.assert_allclose(states[:, :, 1:], np.einsum("ij,bjt->bit", step, states[:, :, :-1]), atol=1e-6)


@pytest.mark.parametrize("dynamics", DYNAMICS)
def test_seeds_decide(dynamics: str) -> None:
    one, same, other = (
        recorded(dynamics, np.ones((4, 4)) - np.eye(4), 2, 5, np.random.default_rng(seed)) for seed in (0, 0, 1)
    )
    assert one.shape[:3] == (2, 4, 5)
    np.testing.assert_array_equal(one, same)
    assert abs(one - other).max() > 0.01
    if dynamics == "springs":
        np.testing.assert_allclose(np.diff(one[..., 2:].sum(1), axis=1), 0, atol=1e-8)


def test_least_squares_has_the_weights_of_springs() -> None:
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(4, 4)) * (1 - np.eye(4))
    place, speed, path = rng.normal(size=(4, 2)), rng.normal(size=(4, 2)), []
    for _ in range(40):
        path.append(np.concatenate([place, speed], -1))
        pull = (weights[:, :, None] * (place[None] - place[:, None])).sum(1)
        place, speed = place + 0.1 * speed, 0.9 * speed + 0.01 * pull - 0.02 * place + 0.03
    np.testing.assert_allclose(least_squares(np.stack(path, 1)[None]), 0.01 * weights, atol=1e-10)
