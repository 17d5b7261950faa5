"""Cold start of chains: evidence against SciPy's, signs, modules that are handed on, and whole worlds."""

import pytest
import torch
from scipy.stats import multivariate_normal

from modmeta.compositions import Chain, ComposedModel, Concatenate, Library, Sum
from modmeta.compositions.chains import _Basis, _Chains, _free, chain_start, chains, needed, teach
from modmeta.simulators.functions import HiddenFunctions


def started(slots: int = 2) -> _Chains:
    """Twelve tasks of two hidden functions in a basis of their own."""
    generator = torch.Generator().manual_seed(0)
    x, y, _ = (torch.from_numpy(part) for part in HiddenFunctions("chain", 2, slots, 0.0).draw(12, 24, 0, "train"))
    return _Chains(_Basis.drawn(torch.cat((x, y), 1).flatten(0, 1), generator), x, y, slots, 2, generator)


def test_evidence_is_that_of_a_gaussian_process() -> None:
    u, y = torch.randn(2, 6, 1), torch.randn(2, 6, 1)
    found = _free(u, y, 0.7, 0.3)
    for mine, points, values in zip(found, u.double(), y.double(), strict=True):
        covariance = 0.5 * torch.exp(-((points - points.T) ** 2) / (2 * 0.7**2)) + 0.5 + 0.09 * torch.eye(6)
        expected = -multivariate_normal(torch.zeros(6), covariance).logpdf(values[:, 0])
        constant = 3 * torch.log(torch.tensor(2 * torch.pi))
        assert float(mine + constant) == pytest.approx(expected, rel=1e-3)


def test_the_basis_holds_smooth_functions() -> None:
    x = torch.linspace(-1, 1, 200).unsqueeze(1)
    features = _Basis.drawn(x, torch.Generator().manual_seed(0))(x)
    assert features.shape[1] < 20
    for speed in (1.0, 2.5, 4.0):
        y = torch.sin(speed * x + 0.3)
        left = features @ torch.linalg.lstsq(features, y).solution - y
        assert float(left.square().mean()) < 1e-4


def test_signs_are_those_under_which_most_is_explained() -> None:
    true = torch.tensor([0, 1, 1, 0])
    rows = torch.cartesian_prod(torch.arange(4), torch.arange(4)).unsqueeze(1).expand(-1, 4, -1)
    flips = torch.cartesian_prod(torch.arange(2), torch.arange(2)).expand(16, -1, -1)
    energies = torch.where((flips == true[rows]).all(-1), -5.0, 1.0)
    assert started().signs(rows, flips, energies, 4).tolist() == true.tolist()


def test_every_structure_is_scored_as_it_is() -> None:
    start = started(3)
    weights = torch.randn(2, start.basis(start.x).shape[-1], 1)
    squares, rows = start.every(weights)
    assert rows.shape == (8, 3)
    for number, row in enumerate(rows):
        u = start.x
        for module in row:
            u = start.basis(u) @ weights[module]
        torch.testing.assert_close(squares[:, number], (u - start.y).square().mean((1, 2)), rtol=1e-3, atol=1e-3)


def test_modules_that_are_not_needed_leave() -> None:
    start = started()
    weights = torch.randn(2, start.basis(start.x).shape[-1], 1)
    doubled = torch.cat((weights, weights[:1] + 1e-3))
    start.y = start.basis(start.basis(start.x) @ weights[0]) @ weights[1]
    left = doubled[needed(*start.every(doubled), 2, 1e-4)]
    assert len(left) <= 2
    assert float(start.every(left)[0].amin(1).max()) < 1e-2


def test_perceptrons_learn_modules_of_a_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modmeta.compositions.chains.TAUGHT", 200)
    torch.manual_seed(0)
    x = torch.linspace(-1, 1, 64).unsqueeze(1)
    values = torch.stack((torch.sin(3 * x), x.square()))
    library = Library(2)
    teach(library, x, values)
    assert float((library.every(x.unsqueeze(0))[0] - values).detach().square().mean()) < 5e-3  # of 0.3


def test_chains_of_one_library_alone_have_this_start() -> None:
    library = {"f": Library(2), "g": Library(3)}
    assert chains(ComposedModel({"f": library["f"]}, Chain(["f", "f"])))
    assert not chains(ComposedModel(library, Chain(["f", "g"])))
    assert not chains(ComposedModel({"f": library["f"]}, Sum(["f", "f"])))
    head = {"f": library["f"], "head": Library(1, inputs=2)}
    assert not chains(ComposedModel(head, Chain([Concatenate(["f", "f"]), "head"])))


@pytest.mark.slow
@pytest.mark.parametrize("slots", [2, 3])
def test_chains_are_found(slots: int) -> None:
    x, y, truth = (
        torch.from_numpy(part) for part in HiddenFunctions("chain", 4, slots, 0.2).draw(1000, 48, 0, "train")
    )
    found = chain_start(ComposedModel({"f": Library(4)}, Chain(["f"] * slots)), x, y, 0)
    assert found.unexplained < 1e-3
    counts = torch.zeros(4, 4)
    counts.index_put_((found.structures.flatten(), truth.flatten()), torch.ones(truth.numel()), accumulate=True)
    named = counts.argmax(1)
    assert named.unique().numel() == 4
    assert float((named[found.structures] == truth).all(1).float().mean()) > 0.98
