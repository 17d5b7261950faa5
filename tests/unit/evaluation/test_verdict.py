"""The verdict where it is known whether there is anything to find."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from modmeta.evaluation.nulls import (
    Compared,
    Gain,
    alone,
    compare,
    exchange,
    gains,
    in_groups,
    in_pieces,
    in_time,
    with_error,
)
from modmeta.evaluation.verdict import (
    FOUND,
    NOT_JUDGED,
    NOTHING,
    UNFIT,
    UNKNOWN,
    UNRESOLVED,
    Home,
    Judged,
    Verdict,
    chance,
    correlation,
    decide,
    of_file,
    quality,
)
from modmeta.graph.relations import from_matrix
from modmeta.keys import OBSERVED
from modmeta.model.dynamics.discrete import ModularDynamics
from modmeta.model.features import RelativeFeatures
from modmeta.model.likelihood import Gaussian
from modmeta.model.model import RelationalModel
from modmeta.search.infer import Inferred, infer
from modmeta.search.pooled import PooledProblem, in_batches, infer_pooled
from modmeta.search.search import Search
from modmeta.search.selection import gibbs

SEARCH = Search(receivers="all", selection=gibbs, horizon=1, enumerate_up_to=1024, samples=1, flips=False)


def drawn(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def coupled(strength: float, tasks: int = 24, entities: int = 4, frames: int = 40, shared: bool = False) -> Tensor:
    """One feature that decays, is driven by noise and by the differences to some of the others."""
    relations = (drawn(1 if shared else tasks, entities, entities, seed=1) > 0).float() * (1 - torch.eye(entities))
    noise, states = drawn(frames, tasks, entities, seed=2), [drawn(tasks, entities, seed=3)]
    for step in noise:
        now = states[-1]
        pull = (relations * (now.unsqueeze(1) - now.unsqueeze(2))).sum(-1)
        states.append(now + strength * pull - 0.1 * now + 0.3 * step)
    return torch.stack(states, 2).unsqueeze(-1)


class Pull(ModularDynamics):
    """Module 0 sends nothing; module 1 a tenth of the difference."""

    def messages(self, states: Tensor) -> Tensor:
        now = states[:, :, :-1]
        apart = from_matrix((now.unsqueeze(1) - now.unsqueeze(2)).flatten(3).permute(0, 3, 1, 2))
        sent = 0.15 * apart.permute(0, 2, 3, 1).unflatten(-1, now.shape[2:]).unsqueeze(3)
        return torch.cat([torch.zeros_like(sent), sent], 3)


class PullOfAll(Pull):
    """A single module."""

    def messages(self, states: Tensor) -> Tensor:
        return super().messages(states)[:, :, :, 1:]


def right(kind: type[Pull] = Pull, modules: int = 2) -> RelationalModel:
    """The model of `coupled(0.15)`."""
    torch.manual_seed(0)
    dynamics = kind(1, modules, RelativeFeatures(0), hidden=4, linear_path=True)
    for parameter in dynamics.parameters():
        torch.nn.init.zeros_(parameter)
    likelihood = Gaussian(1)
    torch.nn.init.constant_(likelihood.log_scales, -1.0)
    return RelationalModel(dynamics, likelihood).eval()


def told(states: Tensor, mask: Tensor | None) -> Inferred:
    return infer(SEARCH, right(), None, states, torch.Generator().manual_seed(0), mask=mask)


def compared(states: Tensor, mask: Tensor | None = None) -> Compared:
    model = right()
    found = compare(in_time(told, model), model, states, torch.Generator().manual_seed(0), mask)
    assert found is not None
    return found


def strangers(states: Tensor) -> Tensor:
    """Each entity from another task."""
    origin = exchange(*states.shape[:2], torch.Generator().manual_seed(7))
    return states[origin, torch.arange(states.shape[1])]


@pytest.mark.parametrize("masked", [False, True])
def test_relations_are_found_and_not_among_strangers(masked: bool) -> None:
    states = coupled(0.15)
    mask = (
        OBSERVED * (drawn(len(states), 1, states.shape[2] - 1) > -1.5).expand(-1, states.shape[1], -1)
        if masked
        else None
    )
    assert decide(compared(states, mask)).found
    assert decide(compared(strangers(states), mask)).name == NOTHING
    assert decide(compared(coupled(0.0), mask)).name == NOTHING


def test_a_single_edge_type_resolves_nothing() -> None:
    model, states = right(PullOfAll, 1), coupled(0.15)

    def tell(seen: Tensor, mask: Tensor | None) -> Inferred:
        return infer(SEARCH, model, None, seen, torch.Generator().manual_seed(0), mask=mask)

    found = compare(in_time(tell, model), model, states, torch.Generator().manual_seed(0))
    assert found is not None
    assert found.exchanged.mean > 0
    assert found.agreement == 0


def test_gain_grows_with_strength() -> None:
    weak, strong = (compared(coupled(strength)).exchanged.mean for strength in (0.05, 0.15))
    assert 0 < weak < strong


def together(seen: Tensor, mask: Tensor | None, of: Tensor) -> Inferred:
    """The structure that all tasks share."""
    problem = PooledProblem(right(), seen.new_zeros(1, 4, 1, 1), batches=in_batches(seen, of, mask))
    return infer_pooled(SEARCH, problem, torch.Generator().manual_seed(0))


def test_a_shared_graph_is_found_by_its_tasks_together() -> None:
    states, model, groups = coupled(0.15, 24, shared=True), right(), torch.zeros(24, dtype=torch.long)
    for of, found in ((states, True), (strangers(states), False)):
        tell = in_groups(together, model, groups)
        result = compare(tell, model, of, torch.Generator().manual_seed(0), None, groups, 6)
        assert result is not None
        assert decide(result).found == found
    with pytest.raises(ValueError, match="single task"):
        in_groups(together, model, torch.tensor([0, 0, 1]))


def test_some_tasks_judge_what_others_tell() -> None:
    """Strangers, mixed among themselves in both, tell nothing."""
    states, model, judges = coupled(0.15, 24, shared=True), right(), torch.arange(24) >= 16
    groups = torch.zeros(24, dtype=torch.long)
    mixed = states.clone()
    mixed[~judges], mixed[judges] = strangers(states[~judges]), strangers(states[judges])
    for of, found in ((states, True), (mixed, False)):
        tell = in_groups(together, model, groups, judges)
        result = compare(tell, model, of, torch.Generator().manual_seed(0), None, groups, 6, judges)
        assert result is not None
        assert result.tasks == 8
        assert decide(result).found == found
    first = tell(states, None).error
    moved = states.clone()
    moved[judges] += drawn(*moved[judges].shape)
    torch.testing.assert_close(tell(moved, None).structures[0], tell(states, None).structures[0])
    assert not torch.equal(tell(moved, None).error[judges], first[judges])
    broken = states.clone()
    broken[8:16] = strangers(states[8:16])
    halves = tell(broken, None).structures
    assert not torch.equal(*(half.edge_modules for half in halves)), "halves are of the tasks that tell"
    with pytest.raises(ValueError, match="no halves"):
        in_groups(together, model, groups, judges & False)


def test_few_tasks_are_judged_by_the_spread_of_exchanges() -> None:
    def chances(strength: float, draws: int) -> Tensor:
        out = []
        for seed in range(24):
            states = coupled(strength, 4 * 24, frames=20)[4 * seed : 4 * seed + 4]
            result = compare(in_time(told, right()), right(), states, torch.Generator().manual_seed(seed), draws=draws)
            assert result is not None
            assert result.exchanged.freedom == draws - 1
            out.append(chance(result.exchanged))
        return torch.tensor(out)

    found, null = chances(0.2, 12), chances(0.0, 12)
    assert (found < 0.01).double().mean() > 0.7
    assert (null < 0.05).double().mean() < 0.2
    assert 0.05 < (null < 0.2).double().mean() < 0.4


@pytest.mark.parametrize("groups", [None, torch.tensor([0, 1] * 10)])
def test_exchange_takes_every_recording_once_within_its_group(groups: Tensor | None) -> None:
    origin = exchange(20, 4, torch.Generator().manual_seed(0), groups)
    assert all(sorted(column.tolist()) == list(range(20)) for column in origin.T)
    assert all(len(set(row.tolist())) == 4 for row in origin), "nobody meets a partner of its own"
    if groups is not None:
        assert (groups[origin] == groups.unsqueeze(1)).all()


def test_pieces_hold_the_frames_in_order() -> None:
    states = torch.arange(2 * 3 * 50).view(2, 3, 50, 1).float()
    mask = torch.full((2, 3, 49), OBSERVED)
    mask[1, :, 10] = 0
    cut, steps, groups = in_pieces(states, mask, torch.tensor([0, 1]), 2)
    assert cut.shape == (12, 3, 8, 1)
    assert groups.tolist() == [0] * 6 + [1] * 6
    torch.testing.assert_close(cut[7, 2], states[1, 2, 8:16])
    assert steps is not None
    assert (steps == 0).nonzero().tolist() == [[7, i, 2] for i in range(3)]


def test_alone_has_what_entities_have_of_their_own() -> None:
    """A rate of their own, a law of their own state; neither is a relation."""
    states, counts = drawn(4, 3, 60, 1), torch.ones(4, 3, 60, 1)
    own = drawn(4, 3, 1, 1, seed=5).expand(-1, -1, 60, -1)
    for targets in (own, states - 0.3 * states**3, own + 0.5 * states):
        left = alone(targets, states, counts, constants=False)
        assert float(left.abs().max()) < 1e-3 * float(targets.abs().max())
    noise = drawn(4, 3, 60, 1, seed=6)
    assert float(alone(noise, states, counts, constants=False).square().mean()) >= float(noise.square().mean()) * 0.9
    states = states.double()
    bent = torch.linspace(0.5, 2, 3).view(1, 3, 1, 1) * torch.sin(states[..., :1]).expand_as(targets)
    functions = torch.stack([torch.ones_like(states), torch.sin(states[..., :1]).expand_as(states)], -1).transpose(2, 3)
    rest = [alone(bent, states, counts.double(), True, of).abs().max() for of in (None, functions)]
    assert float(rest[0]) > 0.1
    assert float(rest[1]) < 1e-6, "sizes of its own of a function are left to every entity"


def test_errors_of_two_sources_have_the_freedom_of_both() -> None:
    """Satterthwaite: all of it where both are as large and as free, that of the only one where the other is none."""
    assert with_error(Gain(1.0, 3.0, 5), 9.0, 5) == Gain(1.0, pytest.approx(18**0.5), 10)
    assert with_error(Gain(1.0, 3.0, 11), 0.0, 5) == Gain(1.0, 3.0, 11)
    assert with_error(Gain(1.0, 0.0, 11), 4.0, 5) == Gain(1.0, 2.0, 5)
    drawn = torch.Generator().manual_seed(0)
    one, other = (torch.randn(20_000, n, generator=drawn, dtype=torch.float64) for n in (12, 6))
    errors = torch.stack([one.var(1) / 12, 4 * other.var(1) / 6]).sum(0)  # of chi squared, 2 mean^2 / variance freedoms
    freedom = float(2 * errors.mean().square() / errors.var())
    assert with_error(Gain(0.0, (1 / 12) ** 0.5, 11), 4 / 6, 5).freedom == pytest.approx(freedom, abs=1)


def test_gains_are_logarithms_of_ratios() -> None:
    error, counts = drawn(5, 3, 40, 2), torch.ones(5, 3, 40, 2)
    counts[:, :, 7] = 0
    broken = error.clone()
    broken[:, :, 7] = 1e6
    found = gains(broken, 2 * broken, error, 100 * error, counts)
    assert float(found.mean()) == pytest.approx(math.log(2), rel=1e-2)
    weight = (error.square() * counts).sum(2).div(counts.sum(2)).pow(0.25).sum((1, 2))  # roots of root mean squares
    torch.testing.assert_close(found, (weight / weight.mean()).double() * math.log(2), rtol=1e-2, atol=0)
    quiet = torch.cat([error, torch.full_like(error, 1e-9)])
    other = torch.cat([2 * error, torch.full_like(error, 1e-3)])
    found = gains(quiet, other, quiet, torch.cat([100 * error, torch.zeros_like(error)]), counts.repeat(2, 1, 1, 1))
    assert float(found.mean()) == pytest.approx(math.log(2), rel=0.2), "tasks in which nothing happens count for little"


def test_rare_large_changes_of_a_feature_do_not_drown_the_others() -> None:
    counts, better = torch.ones(5, 3, 40, 2), drawn(5, 3, 40, 2)
    targets = 10 * drawn(5, 3, 40, 2, seed=1)
    targets[:, :, 7, 1] = 1e5
    without = targets.clone()
    other = better * torch.tensor([2.0, 1.0])
    assert float(gains(better, other, without, targets, counts).mean()) > math.log(2) / 4


GAIN, NONE = Gain(0.1, 0.01, 30), Gain(0.01, 0.01, 30)


@pytest.mark.parametrize(
    ("none", "exchanged", "agreement", "misfits", "name"),
    [
        (GAIN, GAIN, 0.9, 0.0, FOUND),
        (GAIN, GAIN, 0.9, 0.9, FOUND),
        (GAIN, GAIN, 0.1, 0.0, UNRESOLVED),
        (GAIN, NONE, 0.9, 0.0, NOTHING),
        (NONE, GAIN, 0.9, 0.0, NOTHING),
        (GAIN, NONE, 0.9, 0.6, UNFIT),
        (GAIN, Gain(0.1, 0.01, 0), 0.9, 0.0, NOTHING),
    ],
)
def test_the_rule(none: Gain, exchanged: Gain, agreement: float, misfits: float, name: str) -> None:
    assert decide(Compared(none, exchanged, agreement, 0.0, 31), misfits).name == name


def test_a_file_is_judged_by_itself_where_it_can_be() -> None:
    found, nothing = (decide(Compared(gain, gain, 0.9, 0.0, 31)) for gain in (GAIN, NONE))
    absent = decide(Compared(GAIN, Gain(0.0, 0.01, 30), 0.9, 0.0, 31))
    few = decide(Compared(GAIN, Gain(0.09, 0.06, 3), 0.9, 0.0, 4))
    assert few.name == NOTHING
    assert of_file(found, few).name == FOUND, "as large as in validation, only less certain"
    assert of_file(found, absent).name == NOTHING
    assert of_file(nothing, found).name == NOTHING, "a model that has found nothing has no laws to find with"
    assert of_file(found, NOT_JUDGED).name == FOUND
    assert of_file(NOT_JUDGED, absent).name == NOTHING
    assert of_file(found, decide(None, 0.9)).name == UNFIT
    unsure = decide(Compared(GAIN, GAIN, 0.5, 0.0, 31))
    sample = decide(Compared(GAIN, GAIN, 0.7, 0.0, 10))
    assert of_file(unsure, sample).name == UNRESOLVED, "ten tasks say no more than 31"
    assert of_file(unsure, sample, longer=True).name == of_file(unsure, found).name == FOUND
    assert decide(None).name == UNKNOWN


def test_tasks_far_from_home_do_not_fit() -> None:
    model, home = right(), coupled(0.15)
    structure = told(home, None).structure
    known = quality(model, home, structure)
    here = Home.of([(home.shape[2], known.energies)], known.correlations)
    assert not here.misfit(*known, home.shape[2]).any()
    assert here.misfit(*quality(model, 10 * home, structure), home.shape[2]).all()
    slow = torch.linspace(0, 6, home.shape[2]).sin().view(1, 1, -1, 1) * 0.3
    drifting = quality(model, home + slow.cumsum(2) * 3, structure)
    assert here.misfit(known.energies, drifting.correlations, home.shape[2]).float().mean() > 0.5
    assert Judged.from_state(Judged(Verdict(), here, (0.5, 0.5)).state_dict()).home == here


@pytest.mark.parametrize("known", [1, 2, 3, 20])
def test_few_tasks_do_not_say_that_others_are_far_from_home(known: int) -> None:
    energies = drawn(300, 25)  # of 300 homes
    away = torch.tensor([300.0, 60_000.0])
    missed = seen = 0.0
    for each in energies:
        home = Home.of([(40, each[:known])], torch.full((known,), torch.nan))
        missed += float(home.misfit(each[20:], torch.zeros(5), 40).double().mean()) / len(energies)
        seen += float(home.misfit(away, torch.zeros(2), 40)[1]) / len(energies)
    assert missed < 0.005, "5% where two tasks that are alike by chance set the limit"
    assert seen > 0.99 if known > 1 else seen == 0, "a single task tells no spread"


def test_correlation_of_errors() -> None:
    noise = drawn(50, 4, 60, 2)
    assert float(correlation(noise).mean()) == pytest.approx(0.0, abs=0.05)
    assert float(correlation(noise[:, :, 1:] + noise[:, :, :-1]).mean()) > 0.2
    mask = torch.full((50, 4, 60), OBSERVED)
    mask[..., ::2] = 0
    assert float(correlation(noise, mask).abs().max()) == 0.0, "no neighbours"


DAMAGED = {"frames": [3], "typical": [], "limits": [1.0], "correlation": 0.0}


@pytest.mark.parametrize(
    "state",
    [
        None,
        {"verdict": {"name": "certain"}, "home": None, "prior": []},
        {"verdict": {"name": FOUND, "over_none": "much"}, "home": None, "prior": []},
        {"verdict": {"name": FOUND}, "home": None, "prior": [2.0]},
        {"verdict": {"name": FOUND}, "home": {"frames": [3], "typical": [], "limits": [1.0]}, "prior": []},
        {"verdict": {"name": FOUND}, "home": DAMAGED, "prior": []},
        {"verdict": {"name": FOUND, "more": 1}, "home": None, "prior": []},
    ],
)  # fmt: skip
def test_states_that_training_does_not_write_are_refused(state: object) -> None:
    with pytest.raises(ValueError, match=r"."):
        Judged.from_state(state)


def test_facts_begin_with_the_verdict() -> None:
    verdict = decide(Compared(GAIN, NONE, 0.2, 0.1, 31))
    assert verdict.facts()[0][1].startswith(NOTHING)
    assert replace(verdict, name=FOUND).facts()[0] == ("verdict", FOUND)
