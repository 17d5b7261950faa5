"""Generated networks, against closed forms."""

import numpy as np
import pytest
from scipy.linalg import expm

from benchmarks.groups import least_squares
from benchmarks.networks import DYNAMICS, FAMILIES, graph, recorded


@pytest.mark.parametrize("kind", ["er", "ba"])
def test_graphs_are_undirected_and_leave_nobody_out(kind: str) -> None:
    a = graph(kind, 20, 0.3, np.random.default_rng(0))
    assert (a == a.T).all()
    assert not a.diagonal().any()
    assert a.any(1).all()


@pytest.mark.parametrize("kind", FAMILIES)
def test_families_are_directed_but_for_landscapes(kind: str) -> None:
    a, same, other = (graph(kind, 30, 0.1, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert set(np.unique(a)) == {0, 1}
    assert not a.diagonal().any()
    assert (a == a.T).all() == (kind == "landscape")
    assert (a == same).all()
    assert (a != other).any()


def test_a_tree_branches_in_two_and_few_genes_regulate_many() -> None:
    tree, genes = (graph(kind, 50, 0.1, np.random.default_rng(0)) for kind in ("vascular", "gene_regulatory"))
    assert tree.sum(1).tolist() == [0] + [1] * 49
    assert tree.sum(0).max() == 2
    assert genes.sum(0).max() > 4 * genes.sum(1).max()


def test_directed_networks_act_on_receivers() -> None:
    """The second of two entities sends, and nothing acts on it."""
    a, generator = np.array([[0.0, 1.0], [0.0, 0.0]]), np.random.default_rng(0)
    x = recorded("netsims", a, 2, 6, 0.1, generator)[..., 0]
    step = expm(0.1 * (a - np.eye(2)))
    np.testing.assert_allclose(x[:, :, 1:], np.einsum("ij,bjt->bit", step, x[:, :, :-1]), atol=1e-6)
    speed = np.diff(recorded("springs", a, 2, 6, 0.1, generator)[..., 2:], axis=2)
    assert abs(speed[:, 0]).max() > 1e-4
    assert abs(speed[:, 1]).max() < 1e-9


def test_diffusion_is_the_matrix_exponential() -> None:
    generator = np.random.default_rng(0)
    a = graph("ba", 8, 0.3, generator)
    states, root = recorded("diffusion", a, 2, 6, 0.1, generator)[..., 0], np.sqrt(a.sum(1))
    step = expm(0.1 * (a / np.outer(root, root) - np.eye(8)))
    np.testing.assert_allclose(states[:, :, 1:], np.einsum("ij,bjt->bit", step, states[:, :, :-1]), atol=1e-6)


@pytest.mark.parametrize("dynamics", DYNAMICS)
def test_seeds_decide(dynamics: str) -> None:
    one, same, other = (
        recorded(dynamics, np.ones((4, 4)) - np.eye(4), 2, 5, 0.1, np.random.default_rng(seed)) for seed in (0, 0, 1)
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
