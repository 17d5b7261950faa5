"""Temperatures without labels, where the right one is known."""

import pytest
import torch

from modmeta.evaluation.calibration import TEMPERATURES, Tempered, disagreement, enough, foretelling, nll
from modmeta.graph.bank import Structure
from tests.unit.evaluation.test_exchange import made
from tests.unit.evaluation.test_verdict import right


@pytest.mark.parametrize("excess", [1.0, 3.0, 10.0])
@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.7, 0.2, 0.1)])
def test_two_halves_tell_by_how_much_both_exaggerate(excess: float, shares: tuple[float, ...]) -> None:
    """As well as labels do, which they are not given."""
    generator = torch.Generator().manual_seed(0)
    share = torch.tensor(shares).double()
    truth = torch.multinomial(share, 20000, True, generator=generator)
    halves = []
    for strength in (1.0, 1.5):  # a normal observation of every relation's indicator; its exact log-likelihood
        means = strength * torch.eye(len(shares)).double()
        seen = means[truth] + torch.randn(len(truth), len(shares), generator=generator).double()
        halves.append(excess * ((seen @ means.mT) - means.square().sum(-1) / 2 + share.log()))
    lost = [disagreement(*((half / t).softmax(-1) for half in halves)) for t in TEMPERATURES]
    told = [nll((halves[0] / t).softmax(-1), truth) for t in TEMPERATURES]
    found, exact = (float(TEMPERATURES[torch.tensor(one).argmin()]) for one in (lost, told))
    assert found == pytest.approx(excess, rel=0.3)
    assert exact == pytest.approx(excess, rel=0.3)


def test_posteriors_that_agree_are_left_alone() -> None:
    sure = torch.eye(2).double()[torch.arange(100) % 2]
    lost = [disagreement(*[(30 * sure / t).softmax(-1)] * 2) for t in TEMPERATURES]
    assert int(torch.tensor(lost).argmin()) == 0


@torch.no_grad()
def test_structures_that_foretell_nothing_are_not_sure() -> None:
    """Both ends agree; only one of them on what is there."""
    states, relations = made(0.0)
    ends = states[:, :, :20], states[:, :, -20:]
    for structure, surer in ((relations, True), (relations.roll(1, 0), False)):
        one_hot = torch.nn.functional.one_hot(structure, 2).float()
        found = Structure(structure, torch.zeros(structure.shape[:2], dtype=torch.long))
        told = [[Tempered(end, found, lambda at, z=one_hot: (3 * z / at).softmax(-1))] for end in ends]  # type: ignore[misc]
        assert (foretelling(right(), *told, 1.0) < 2) == surer


def test_of_many_entities_fewer_tasks_are_enough() -> None:
    assert [enough(entities) for entities in (1, 5, 10, 15, 30)] == [100, 100, 55, 23, 20]
