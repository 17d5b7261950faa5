"""A rival of models that are wrong, and of right ones."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from modmeta.evaluation import rival as rivals
from modmeta.evaluation.calibration import Calibration, calibrate, tempered
from modmeta.evaluation.rival import Chances, Rival, likeness, strongest, told_apart
from modmeta.graph.relations import from_matrix
from modmeta.model.model import RelationalModel
from tests.unit.evaluation.test_exchange import made
from tests.unit.evaluation.test_verdict import SEARCH, Pull, drawn, right


class Pushes(Pull):
    """Modules of entities that are pulled one way or the other, whoever acts: what they tell is no relation."""

    def messages(self, states: Tensor) -> Tensor:
        sent = 0.1 * torch.ones_like(super().messages(states)[:, :, :, :1])
        return torch.cat([-sent, sent], 3)


class Half(Pull):
    """Half as strong as it should be."""

    def messages(self, states: Tensor) -> Tensor:
        return super().messages(states) / 2


def told(model: RelationalModel) -> tuple[float, float, Calibration]:
    """Claimed, right, and calibration, of the structures that a model tells without labels."""
    states, relations = made(0.0)
    found = calibrate(model, SEARCH, [(states, None)], torch.arange(2))
    with torch.no_grad():
        chances = tempered(model, SEARCH, states, torch.Generator().manual_seed(0)).chances(found.at(states.shape[2]))
    share = float((chances.argmax(-1) == relations).double().mean())
    return float(chances.amax(-1).mean()), max(share, 1 - share), found


def test_modules_that_tell_no_relations_claim_little() -> None:
    claimed, accuracy, found = told(right(Pushes))
    assert accuracy < 0.7
    assert claimed < accuracy + 0.05
    assert found.outdone > 0
    assert Calibration.from_state(found.state_dict()) == found
    assert told(right(Pull))[2].outdone == 0


def test_laws_that_are_too_weak_are_surer_than_their_likelihood() -> None:
    claimed, accuracy, found = told(right(Half))
    assert accuracy > 0.7
    assert found.temperatures[-2] < 1  # of all frames
    assert claimed == pytest.approx(accuracy, abs=0.06)


@torch.no_grad()
def rival_of(model: RelationalModel, states: Tensor) -> Rival:
    generator, middle = torch.Generator().manual_seed(0), states.shape[2] // 2
    halves = states[:, :, :middle], states[:, :, middle - 1 :]
    whole, *ends = (tempered(model, SEARCH, part, generator) for part in (states, *halves))
    errors = [
        model.errors(of.states, of.structure, chances=other.chances(1.0))
        for of, other in zip(ends, ends[::-1], strict=True)
    ]
    return strongest(model, halves, errors, whole.chances(1.0), generator)


@pytest.mark.parametrize(("kind", "better"), [(Pull, False), (Pushes, True)])
def test_a_rival_is_better_than_wrong_laws_only(kind: type[Pull], better: bool) -> None:
    rival = rival_of(right(kind), made(0.0)[0])
    assert (rival.better > 0.99) == better
    assert rival.lasting < 1.5
    assert torch.equal(rival.same, torch.eye(len(rival.same)).bool())


@torch.no_grad()
def test_strengths_that_differ_make_no_other_kind() -> None:
    """Of 0.1 and 0.3, not of 0.1 and -0.1."""
    kinds = torch.randint(4, (30, 4, 4), generator=torch.Generator().manual_seed(1))
    weights = torch.tensor([0.0, 0.1, 0.3, -0.1])[kinds] * (1 - torch.eye(4))
    states = [drawn(30, 4, seed=3)]
    for step in drawn(29, 30, 4, seed=4):
        now = states[-1]
        states.append(now + (weights * (now.unsqueeze(1) - now.unsqueeze(2))).sum(-1) - 0.3 * now + 0.1 * step)
    seen, found = torch.stack(states, 2).unsqueeze(-1), one_hot(from_matrix(kinds), 4).float()
    halves = seen[:, :, :15], seen[:, :, 14:]
    errors = [right().dynamics.targets(half) for half in halves]
    rival = strongest(right(), halves, errors, found, torch.Generator().manual_seed(0))
    assert rival.same[:4, :4].tolist() == [
        [True, False, False, False], [False, True, True, False], [False, True, True, False], [False, False, False, True]
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("agreement", "gain", "counts"), [(0.0, 0.0, False), (1.0, 0.0, True), (0.0, 2.0, False), (1.0, 2.0, True)]
)
def test_a_rival_counts_if_it_knows_who(
    agreement: float, gain: float, counts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One as good at forecasts by chance, or better, which holds either module for likely."""

    def as_good(model: RelationalModel, halves: list[Tensor], *_: object) -> Rival:
        b, n = halves[0].shape[:2]
        gains, beliefs = gain + torch.linspace(-1, 1, b), torch.full((b * n, n - 1, 2), 0.5)
        return Rival(gains, agreement, 1.0, lambda at: (beliefs, beliefs), lambda at: beliefs, torch.eye(2).bool())

    monkeypatch.setattr("modmeta.evaluation.calibration._by_rival", lambda fitted, *_: fitted)
    claimed, _, without = told(right())
    monkeypatch.undo()
    monkeypatch.setattr("modmeta.evaluation.calibration.strongest", as_good)
    doubted, _, found = told(right())
    assert (found.temperatures != without.temperatures) == counts
    assert doubted < claimed - 0.1 if counts else doubted == claimed


def test_laws_of_few_tasks_are_less_sure_than_if_they_were_known(monkeypatch: pytest.MonkeyPatch) -> None:
    states, relations = (part[:6] for part in made(0.0))
    sure = {}
    for redrawn in (0, rivals.REDRAWN):
        monkeypatch.setattr(rivals, "REDRAWN", redrawn)
        beliefs = rival_of(right(), states[:, :, :20]).beliefs(1.0)
        assert beliefs.shape[-1] == 2
        share = float((beliefs.argmax(-1).view(relations.shape) == relations).double().mean())
        sure[redrawn] = float(beliefs.amax(-1).mean()) - max(share, 1 - share)
    assert 0 < sure[12] < sure[0] - 0.03  # nearer to how often they are right


def test_likeness_asks_for_as_many_right_as_claimed() -> None:
    """Of claims twice too sure, by a rival that knows, by one that knows nothing, and by the claims themselves."""
    odds = 2 * drawn(1, 1, 20000, 1).double()
    sure = torch.cat([2 * odds, torch.zeros_like(odds)], -1)  # twice the logarithm

    def posterior(temperature: float) -> Tensor:
        return (sure / temperature).softmax(-1)

    temperatures = [0.5, 1.0, 1.5, 2.0, 3.0, 1000.0]
    for beliefs, share, best in (
        (posterior(2.0), 1.0, 2.0),
        (posterior(2.0).flip(-1), 1.0, 2.0),  # by other names
        (torch.full_like(sure, 0.5), 1.0, 1000.0),
        (torch.full_like(sure, 0.5), 0.0, 1.0),
    ):
        loss = likeness(posterior, 1.0, beliefs.flatten(0, 1), share, torch.eye(2).bool(), torch.zeros(2, 2).bool())
        assert loss is not None
        assert min(temperatures, key=loss) == best


def test_kinds_that_differ_in_strength_are_one_answer() -> None:
    """Another kind of half of the edges of each, by the same name or not; and a module for each."""
    odds = 2 * drawn(1, 1, 20000, 1).double()
    sure = torch.cat([2 * odds, torch.zeros_like(odds)], -1)
    temperatures = [0.5, 1.0, 1.5, 2.0, 3.0, 1000.0]

    def twice(chances: Tensor) -> Tensor:
        half = (torch.arange(20000) % 2).view(20000, 1).double()
        return torch.cat([chances * half, chances * (1 - half)], -1)

    def posterior(temperature: float) -> Tensor:
        return (sure / temperature).softmax(-1)

    def doubled(temperature: float) -> Tensor:
        return twice(posterior(temperature))

    beliefs, same = twice(posterior(2.0)).flatten(0, 1), torch.eye(2).repeat(2, 2).bool()
    apart = torch.eye(4).bool()
    for modules, alike, best in ((posterior, same, 2.0), (posterior, apart, 1000.0), (doubled, same, 2.0)):
        k = modules(1.0).shape[-1]
        loss = likeness(modules, 1.0, beliefs, 1.0, alike, torch.zeros(k, k).bool())
        assert loss is not None
        assert min(temperatures, key=loss) == best


def test_strengths_that_the_model_tells_apart_are_two_answers() -> None:
    """Of nothing, weak and strong relations a rival knows which act, and no more; or it knows nothing of those two."""
    odds, flat = 4 * drawn(1, 1, 20000, 3).double(), torch.full((1, 20000, 2), 0.5).double()

    def posterior(temperature: float) -> Tensor:
        return (odds / temperature).softmax(-1)

    def acting(temperature: float) -> Tensor:
        return (odds[..., 1:] / temperature).softmax(-1)

    def best(modules: Chances, beliefs: Tensor, same: Tensor, apart: bool) -> float | None:
        differ = apart & ~torch.eye(len(same)).bool()
        loss = likeness(modules, 1.0, beliefs, 1.0, same, differ)
        return None if loss is None else min([0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 1000.0], key=loss)

    nothing = posterior(1.0)[0, ..., :1]
    coin = torch.cat([nothing, (1 - nothing) * flat], -1)
    alike, differ = torch.block_diag(torch.ones(1, 1), torch.ones(2, 2)).bool(), torch.eye(3).bool()
    assert best(posterior, coin, alike, apart=False) == 1
    honest = best(posterior, coin, alike, apart=True)
    assert honest is not None
    assert honest > 1
    assert honest == best(posterior, coin, differ, apart=False)
    both = torch.ones(2, 2).bool()
    assert best(acting, flat, both, apart=True) == 1000
    assert best(acting, flat, both, apart=False) is None


def test_modules_are_told_apart_if_halves_agree_on_which() -> None:
    """Two of four by a coin in either half, of the others nine of ten alike; one is never named."""
    one = torch.arange(20000) % 4
    coin = torch.randint(2, (20000,), generator=torch.Generator().manual_seed(0))
    flipped = (torch.arange(20000) // 4) % 10 == 0
    other = torch.where(one < 2, coin, torch.where(flipped, 5 - one, one))
    apart = told_apart(one, other, 5)
    expected = torch.ones(5, 5).bool() & ~torch.eye(5).bool()
    expected[4], expected[:, 4], expected[:2, :2] = False, False, False
    assert torch.equal(apart, expected)
