"""Search: scores against brute force, selections against their analytic distributions."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from modmeta.errors import UserError
from modmeta.evaluation.calibration import tempered
from modmeta.evaluation.posterior import enumerable, exact_of, same_roles
from modmeta.graph.bank import Structure, random_structure
from modmeta.graph.relations import all_rows, from_matrix, to_matrix
from modmeta.keys import OBSERVED, UNKNOWN
from modmeta.search import gibbs as blocks
from modmeta.search.candidates import enumerate_rows, marginals, propose_rows
from modmeta.search.gibbs import draw_slots
from modmeta.search.infer import infer
from modmeta.search.mutual import choose_symmetric, symmetric_rows
from modmeta.search.problem import Problem, clamped, one_step_problem
from modmeta.search.relax import corners_of, decode, relaxed_rows
from modmeta.search.search import Search
from modmeta.search.selection import gibbs, greedy, metropolis
from modmeta.search.temperature import AcceptanceSteered, Annealed
from tests.conftest import make_model

ONE = torch.tensor(1.0)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("likelihood", ["squared", "gaussian", "student_t"])
@pytest.mark.parametrize(
    ("kind", "g"), [("additive", 1), ("mlp", 1), ("paper", 1), ("additive", 2), ("mlp", 2), ("isotropic", 2)]
)
def test_receiver_scores_equal_rescoring_whole_structures(states: Tensor, kind: str, likelihood: str, g: int) -> None:
    model = make_model(kind, likelihood, k=2, g=g)
    structure = random_structure(3, 4, 2, g, seeded())
    candidates = enumerate_rows(structure, 2, g)
    with torch.no_grad():
        messages = model.dynamics.messages(states)
        scores = model.receiver_energies(states, messages, candidates.rows, candidates.types)  # (B, N, M)
        base = model.energies(states, structure, 1)
        for receiver in range(4):
            for m in range(candidates.types.shape[-1]):
                relations, types = structure.edge_modules.clone(), structure.node_modules.clone()
                relations[:, receiver] = candidates.rows[0, 0, m]
                types[:, receiver] = candidates.types[0, 0, m]
                whole = model.energies(states, Structure(relations, types), 1)
                torch.testing.assert_close(scores[:, receiver, m], whole[:, receiver], rtol=1e-4, atol=1e-3)
                others = [i for i in range(4) if i != receiver]  # nobody else's energy depends on this row
                torch.testing.assert_close(whole[:, others], base[:, others], rtol=1e-5, atol=1e-4)


@settings(deadline=None, max_examples=40)
@given(
    n=st.integers(2, 5),
    k=st.integers(1, 4),
    g=st.integers(1, 3),
    samples=st.integers(0, 3),
    flips=st.booleans(),
    seed=st.integers(0, 99),
)
def test_the_current_row_is_always_a_candidate(n: int, k: int, g: int, samples: int, flips: bool, seed: int) -> None:
    structure = random_structure(2, n, k, g, seeded(seed))
    logits = torch.randn(2, n, n - 1, k, generator=seeded(seed))
    for candidates in (
        enumerate_rows(structure, k, g),
        propose_rows(structure, logits, samples, flips, k, g, seeded(seed)),
    ):
        m = candidates.types.shape[-1]
        rows, types = candidates.rows.expand(2, n, m, n - 1), candidates.types.expand(2, n, m)
        for task in range(2):
            for receiver in range(n):
                at = candidates.current[task, receiver]
                assert torch.equal(rows[task, receiver, at], structure.edge_modules[task, receiver])
                assert types[task, receiver, at] == structure.node_modules[task, receiver]
        assert rows.min() >= 0
        assert rows.max() < k
        assert types.max() < g


def test_flips_are_all_rows_that_differ_in_one_slot() -> None:
    structure = random_structure(1, 3, 3, 2, seeded())
    candidates = propose_rows(structure, None, 0, True, 3, 2, seeded())
    for receiver in range(3):
        slots = torch.cat((candidates.rows[0, receiver], candidates.types[0, receiver].unsqueeze(1)), dim=1)
        assert len({tuple(row.tolist()) for row in slots}) == len(slots) == 1 + 2 * 2 + 1
        assert ((slots != slots[0]).sum(1)[1:] == 1).all()


def test_proposed_rows_follow_the_proposal() -> None:
    structure = random_structure(1, 3, 2, 1, seeded())
    logits = torch.log(torch.tensor([0.2, 0.8])).expand(1, 3, 2, 2)
    candidates = propose_rows(structure, logits, 4000, False, 2, 1, seeded())
    assert abs(float(candidates.rows[:, :, 1:].float().mean()) - 0.8) < 0.02


def test_metropolis_has_the_boltzmann_distribution() -> None:
    """40,000 chains over four states at temperature 1.5: visits as exp(-E / T), within four standard errors."""
    energies = torch.tensor([0.0, 1.0, 2.0, 0.5])
    chains, temperature, generator = 40_000, torch.tensor(1.5), seeded()
    current = torch.zeros(chains, dtype=torch.long)
    for _ in range(60):
        current = metropolis(energies.expand(chains, 4), current, temperature, generator)
    expected = (-energies / temperature).softmax(0)
    found = torch.bincount(current, minlength=4) / chains
    assert ((found - expected).abs() < 4 * (expected * (1 - expected) / chains).sqrt()).all()


def test_gibbs_has_the_boltzmann_distribution() -> None:
    energies, chains, temperature = torch.tensor([0.0, 1.0, 2.0, 0.5]), 40_000, torch.tensor(0.7)
    drawn = gibbs(energies.expand(chains, 4), torch.zeros(chains, dtype=torch.long), temperature, seeded())
    expected = (-energies / temperature).softmax(0)
    found = torch.bincount(drawn, minlength=4) / chains
    assert ((found - expected).abs() < 4 * (expected * (1 - expected) / chains).sqrt()).all()


def test_paper_search_moves_one_receiver_and_keeps_account_of_energy(states: Tensor) -> None:
    model = make_model("paper", "squared")
    search = Search(metropolis, receivers="one", horizon=10, enumerate_up_to=0, samples=1, flips=False)
    structure = random_structure(3, 4, 2, 1, seeded())
    problem, kernel = Problem(model, states, horizon=10, logits=torch.zeros(3, 4, 3, 2)), search.kernel(model, 4)
    generator = seeded()
    for _ in range(10):
        new, info = kernel(generator, structure, problem, torch.tensor(1e6))
        changed = (new.edge_modules != structure.edge_modules).any(-1)
        assert (changed.sum(1) <= 1).all()
        whole = model.energies(states, new, 10).sum(1).detach()
        torch.testing.assert_close(info.energies, whole, rtol=1e-5, atol=1e-5)
        structure = new


def test_greedy_paper_search_never_gets_worse(states: Tensor) -> None:
    model = make_model("paper", "squared")
    search = Search(metropolis, receivers="one", horizon=10, enumerate_up_to=0, samples=2, flips=True)
    structure, energies = random_structure(3, 4, 2, 1, seeded()), []
    generator, kernel = seeded(), search.kernel(model, 4, greedy)
    for _ in range(20):
        structure, info = kernel(generator, structure, Problem(model, states, horizon=10), ONE)
        energies.append(info.energies)
    assert (torch.stack(energies).diff(dim=0) <= 1e-4).all()
    assert energies[-1].sum() < energies[0].sum()


@pytest.mark.parametrize(
    ("kind", "combinations"),
    [("additive", 2), ("additive", 16), ("mlp", 16), pytest.param("mlp", 2, marks=pytest.mark.slow)],
)
def test_slots_drawn_in_turn_have_the_boltzmann_distribution(
    states: Tensor, kind: str, combinations: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One slot at a time, or all at once: many chains of one task, G = 2, against all rows weighed one by one."""
    monkeypatch.setattr(blocks, "COMBINATIONS", combinations)
    model, chains = make_model(kind, k=2, g=2), 4000
    states = states[:1, :3]
    every = enumerate_rows(random_structure(1, 3, 2, 2, seeded()), 2, 2)
    heat, generator = torch.tensor(50.0), seeded()
    with torch.no_grad():
        messages = model.dynamics.messages(states)
        scores = model.receiver_energies(states, messages, every.rows, every.types)  # (1, N, M)
        score, many = model.scorer(states), messages.expand(chains, *messages.shape[1:])
        structure, prior = random_structure(chains, 3, 2, 2, generator), torch.zeros(1, 1, 1, 2)
        for _ in range(8):
            drawn = draw_slots(score, many, structure, prior, 2, gibbs, heat, generator)
            structure = drawn.structure
    index = (structure.edge_modules * torch.tensor([4, 2])).sum(-1) + structure.node_modules  # (chains, N)
    torch.testing.assert_close(drawn.energies, scores[0].gather(1, index.T).T, rtol=1e-3, atol=1e-2)
    for receiver in range(3):
        expected = (-scores[0, receiver] / heat).softmax(0)
        found = torch.bincount(index[:, receiver], minlength=8) / chains
        assert ((found - expected).abs() < 4.5 * (expected * (1 - expected) / chains).sqrt() + 1e-3).all()


@pytest.mark.parametrize("enumerate_up_to", [1024, 0])
def test_known_relations_are_never_touched(
    states: Tensor, enumerate_up_to: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "COMBINATIONS", 2)
    model = make_model()
    search = Search(gibbs, enumerate_up_to=enumerate_up_to, uniform=True)
    truth = random_structure(3, 4, 2, 1, seeded(7)).edge_modules
    known = torch.where(torch.rand(truth.shape, generator=seeded(8)) < 0.5, truth, -1)
    free = infer(search, model, None, states, seeded()).structure.edge_modules
    found = infer(search, model, None, states, seeded(), known)
    given = known >= 0
    assert (free[given] != truth[given]).any()
    assert torch.equal(found.structure.edge_modules[given], truth[given])
    assert (found.probabilities.gather(-1, truth.unsqueeze(-1)).squeeze(-1)[given] > 0.999).all()
    start, problem = (
        clamped(random_structure(3, 4, 2, 1, seeded()), known),
        one_step_problem(model, states, known=known),
    )
    hot, _ = search.kernel(model, 4)(seeded(), start, problem, ONE * 1e4)
    assert torch.equal(hot.edge_modules[given], truth[given])
    assert (hot.edge_modules[~given] != found.structure.edge_modules[~given]).any()
    every = enumerate_rows(hot, 2, 1).rows[0, 0]
    scores = model.receiver_energies(
        states, model.dynamics.messages(states), every[None, None], every[None, None, :, 0] * 0
    )
    fits = ((known.unsqueeze(2) == every) | (known.unsqueeze(2) < 0)).all(-1)  # (B, N, M)
    least = scores.masked_fill(~fits, torch.inf).amin(-1).sum(-1)
    torch.testing.assert_close(found.energies, least.detach())


@pytest.mark.parametrize("enumerate_up_to", [1024, 0])
def test_inference_finds_the_least_energy(
    states: Tensor, enumerate_up_to: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By all rows at once, and slot by slot over several sweeps of an additive, squared energy."""
    monkeypatch.setattr(blocks, "COMBINATIONS", 2)
    model = make_model("additive", "squared")
    search = Search(gibbs, enumerate_up_to=enumerate_up_to, samples=8, uniform=True, sweeps=20)
    inferred = infer(search, model, None, states, seeded())
    structure = random_structure(3, 4, 2, 1, seeded())
    candidates = enumerate_rows(structure, 2, 1)
    with torch.no_grad():
        messages = model.dynamics.messages(states)
        scores = model.receiver_energies(states, messages, candidates.rows, candidates.types)
    torch.testing.assert_close(inferred.energies, scores.min(-1).values.sum(-1))
    assert torch.equal(inferred.structure.edge_modules, candidates.rows[0, 0][scores.argmin(-1)])


def test_marginals_sum_over_rows() -> None:
    structure = random_structure(1, 3, 2, 1, seeded())
    candidates = enumerate_rows(structure, 2, 1)
    scores = torch.randn(1, 3, 4)
    chance = marginals(candidates, scores, 2)
    weights = (-scores).softmax(-1)
    for receiver in range(3):
        for slot in range(2):
            with_one = candidates.rows[0, 0, :, slot] == 1
            torch.testing.assert_close(chance[0, receiver, slot, 1], weights[0, receiver, with_one].sum())


def test_annealing_reaches_its_end() -> None:
    temperature = Annealed(10.0, 1.0, until=0.5)
    values = [float(temperature.at(progress)) for progress in (0.0, 0.25, 0.5, 1.0)]
    assert values == pytest.approx([10.0, 10**0.5, 1.0, 1.0])


def test_steering_lowers_and_raises_the_temperature() -> None:
    temperature = AcceptanceSteered(initial=2.0, fall=5.0, memory=0.5)
    temperature.observe(torch.tensor(10), torch.tensor(10))
    temperature.end_epoch(0.5)  # everything is accepted, the target is exp(-2.5)
    assert float(temperature.value) == pytest.approx(2.0 / 1.1)
    temperature.observe(torch.tensor(100), torch.tensor(0))
    temperature.end_epoch(0.5)
    assert float(temperature.value) == pytest.approx(2.0)


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="horizon"):
        Search(gibbs, receivers="all", horizon=10)
    with pytest.raises(ValueError, match="receivers"):
        Search(gibbs, receivers="some")


def brute_force_symmetric(scores: Tensor) -> Tensor:
    """Least energy of a symmetric structure of four entities and two modules, by trying all 64."""
    best = torch.full((len(scores),), torch.inf)
    for number in range(64):
        bits = [(number >> p) & 1 for p in range(6)]
        matrix = torch.zeros(4, 4, dtype=torch.long)
        for (i, j), bit in zip([(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)], bits, strict=True):
            matrix[i, j] = matrix[j, i] = bit
        index = (from_matrix(matrix) * torch.tensor([4, 2, 1])).sum(-1)
        best = torch.minimum(best, scores[:, torch.arange(4), index].sum(-1))
    return best


@pytest.mark.parametrize("enumerate_up_to", [64, 0])
def test_symmetric_choice_has_the_least_energy(enumerate_up_to: int) -> None:
    """Weighed one by one exactly; pair by pair on scores that add up over senders, as those of a model nearly do."""
    weight = torch.randn(50, 4, 3, 1, generator=seeded(4)) * (all_rows(3, 2).T[None, None] - 0.5)
    scores = weight.sum(2) + 0.05 * torch.randn(50, 4, 8, generator=seeded(5))  # (B, N, M)
    chosen = choose_symmetric(scores, 2, ONE, seeded(), True, enumerate_up_to)
    energies = scores.gather(2, chosen.unsqueeze(-1)).flatten(1).sum(1)
    found = (energies - brute_force_symmetric(scores)).abs() < 1e-5
    assert found.all() if enumerate_up_to else found.float().mean() >= 0.9
    matrices = to_matrix(all_rows(3, 2)[chosen])
    assert torch.equal(matrices, matrices.transpose(1, 2))


@pytest.mark.parametrize("enumerate_up_to", [8, 0])
def test_symmetric_draws_have_the_boltzmann_distribution(enumerate_up_to: int) -> None:
    scores, chains = torch.randn(1, 3, 4, generator=seeded(2)), 20_000
    chosen = choose_symmetric(scores.expand(chains, -1, -1), 2, ONE, seeded(), False, enumerate_up_to)
    rows = symmetric_rows(3, 2)
    weights = (-scores[0].gather(1, rows.T).sum(0)).softmax(0)
    for row, weight in zip(rows, weights, strict=True):
        share = (chosen == row).all(1).float().mean()
        assert abs(share - weight) < 4 * (weight * (1 - weight) / chains).sqrt()


@pytest.mark.parametrize("g", [1, 2])
def test_symmetric_search_finds_mutual_relations(states: Tensor, g: int) -> None:
    model = make_model(g=g)
    search = Search(gibbs, symmetric=True)
    found = infer(search, model, None, states, seeded()).structure
    matrices = to_matrix(found.edge_modules)
    assert torch.equal(matrices, matrices.transpose(1, 2))
    assert search.priors == ["symmetric"]


@pytest.mark.parametrize("g", [1, 2])
@pytest.mark.parametrize("wrap", [lambda select: select, partial, lambda select: partial(partial(select))])
def test_greedy_takes_the_least_mutual_structure_however_it_is_configured(
    states: Tensor, g: int, wrap: Callable[[Any], Any]
) -> None:
    """Hydra makes a partial of `selection`; while it is hot a draw would hit the least of 64 structures by chance."""
    model = make_model(g=g)
    kernel = Search(wrap(greedy), symmetric=True).kernel(model, 4)
    with torch.no_grad():
        problem = one_step_problem(model, states)
        found, info = kernel(seeded(), random_structure(3, 4, 2, g, seeded()), problem, ONE * 1e6)
        least = brute_force_symmetric(info.scores.unflatten(-1, (-1, g)).amin(-1))
    torch.testing.assert_close(info.energies, least)
    assert torch.equal(to_matrix(found.edge_modules), to_matrix(found.edge_modules).transpose(1, 2))


@pytest.mark.parametrize("enumerate_up_to", [1024, 0])
def test_frames_outside_the_mask_change_nothing(states: Tensor, enumerate_up_to: int) -> None:
    """Steps that do not count may say anything; without the mask they decide."""
    model, mask = make_model(), torch.full((3, 4, 10), OBSERVED)
    mask[..., 4:6] = UNKNOWN
    wrong = states.clone()
    wrong[:, :, 5] += 3.0  # the frame between the two steps
    kernel = Search(gibbs, enumerate_up_to=enumerate_up_to).kernel(model, 4, greedy)
    start = random_structure(3, 4, 2, 1, seeded())
    outcomes = []
    for seen, counting in ((states, mask), (wrong, mask), (wrong, None)):
        with torch.no_grad():
            outcomes.append(kernel(seeded(), start, one_step_problem(model, seen, mask=counting), ONE))
    (new, info), (other, masked), (_, unmasked) = outcomes
    assert torch.equal(new.edge_modules, other.edge_modules)
    torch.testing.assert_close(info.energies, masked.energies)
    assert (info.energies - unmasked.energies).abs().min() > 1
    with pytest.raises(UserError, match="horizon=5"):
        Problem(model, states, horizon=5, mask=mask)


@pytest.mark.parametrize(("enumerate_up_to", "exact"), [(8, True), (7, False)])
def test_probabilities_are_exact_where_the_search_weighs_all_rows(
    states: Tensor, enumerate_up_to: int, exact: bool
) -> None:
    """Eight rows: all are weighed where the search may; else a slot is judged given the rest of its row."""
    model, search = make_model(), Search(gibbs, enumerate_up_to=enumerate_up_to)
    assert enumerable(4, 2, enumerate_up_to) is exact
    chances = tempered(model, search, states, seeded()).chances(1e3)
    candidates = enumerate_rows(random_structure(3, 4, 2, 1, seeded()), 2, 1)
    with torch.no_grad():
        scores = one_step_problem(model, states).energies(candidates)
    assert torch.allclose(chances, marginals(candidates, scores / 1e3, 2), atol=1e-5) is exact


def test_an_edge_cost_that_outweighs_the_evidence_leaves_no_edges(states: Tensor) -> None:
    model = make_model()
    dear, free = Search(gibbs, edge_cost=1e6), Search(gibbs)
    assert (infer(dear, model, None, states, seeded()).structure.edge_modules == 0).all()
    assert (infer(free, model, None, states, seeded()).structure.edge_modules != 0).any()


def test_roles_that_outweigh_the_evidence_decide(states: Tensor) -> None:
    """In tasks of as many entities alone; the evidence has a temperature, and they have none."""
    model, n = make_model(), states.shape[1]
    wanted = torch.randint(2, (n, n - 1), generator=seeded())
    sure = torch.where(torch.nn.functional.one_hot(wanted, 2) > 0, 1.0, 1e-30).tolist()
    search = Search(gibbs, roles=sure)
    told, free = (infer(of, model, None, states, seeded()).structure.edge_modules for of in (search, Search(gibbs)))
    assert (told == wanted).float().mean() > (free == wanted).float().mean()
    assert search.of_roles(n + 1, states) is None
    assert search.priors == ["roles of entities"]
    fair = Search(gibbs, roles=[[[0.25, 0.75]] * (n - 1)] * n)
    flat = states.new_zeros(len(states), n, 2 ** (n - 1))
    structure = Structure(told, torch.zeros_like(told[..., 0]))
    for temperature in (1.0, 100.0):
        assert torch.allclose(exact_of(fair)(flat, structure, 2, temperature)[..., 1], torch.tensor(0.75), atol=1e-5)


def test_entities_in_another_order_have_other_roles() -> None:
    """Also where most pairs are not told; tasks that tell nothing speak for nothing."""
    roles = torch.tensor([[0.9, 0.1]]).repeat(4, 3, 1).view(4, 3, 2)
    roles[2] = roles[2].flip(-1)  # which alone is acted on
    told, g = torch.full((10, 4, 3, 2), 0.5), seeded()
    labels = (torch.rand(10, 4, 3, generator=g) < roles[..., 1]).long()
    seen = torch.rand(10, 4, 3, generator=g) < 0.4
    told[seen] = torch.nn.functional.one_hot(labels, 2)[seen].float()
    assert same_roles(-roles.log(), told)
    assert not same_roles(-roles.log(), told[:, [0, 2, 1, 3]])
    one = told[:, torch.arange(4).roll(1)]
    assert not same_roles(-roles.log(), one)


@pytest.mark.parametrize("roles", [True, [[[0.5, 0.5]]], [[[1.0, 0.0]], [[0.5, 0.5]]], [[[0.5, 0.6]], [[0.5, 0.5]]]])
def test_roles_must_be_probabilities(roles: Any) -> None:
    with pytest.raises(ValueError, match=r"search\.roles"):
        Search(gibbs, roles=roles)


def test_a_null_module_sends_nothing(states: Tensor) -> None:
    model = make_model()
    model.dynamics.null_module = True
    messages = model.dynamics.messages(states)
    assert (messages[:, :, :, 0] == 0).all()
    assert (messages[:, :, :, 1] != 0).any()


@pytest.mark.parametrize("k", [2, 3, 5])
def test_linear_algebra_finds_long_rows(k: int) -> None:
    """Rows of 20 senders whose messages are almost of one plane: walks slot by slot are caught, sums are not."""
    generator = seeded(4)
    common = torch.randn(2, 3, 1, k, 30, 4, generator=generator)
    messages = common + 0.1 * torch.randn(2, 3, 20, k, 30, 4, generator=generator)
    truth = torch.randint(k, (2, 3, 20), generator=generator)
    chosen = messages.gather(3, truth.view(2, 3, 20, 1, 1, 1).expand(-1, -1, -1, 1, 30, 4)).sum((2, 3))
    changes = chosen + 1e-3 * torch.randn(chosen.shape, generator=generator)
    scale = torch.full((1, 1, 1, 1), 1e-3).log()
    found = relaxed_rows(messages, changes, scale)
    assert (found == truth.unsqueeze(2)).float().mean((0, 1, 3)).max() == 1
    mask = torch.full((2, 3, 30), OBSERVED)
    mask[..., 10:13] = UNKNOWN
    changes[:, :, 10:13] = 1e3
    found = relaxed_rows(messages, changes, scale, mask)
    assert (found == truth.unsqueeze(2)).float().mean((0, 1, 3)).max() == 1


def test_long_rows_under_a_law_that_is_all_but_exact() -> None:
    """Gram matrices of 99 senders that move alike, in units of tiny errors, are singular to double precision."""
    generator = seeded(5)
    plane = torch.randn(3, 60, generator=generator)  # all messages lie in it
    messages = (torch.randn(1, 2, 99, 2, 3, generator=generator) @ plane).view(1, 2, 99, 2, 30, 2)
    found = relaxed_rows(messages, messages[:, :, :, 0].sum(2), torch.full((1, 1, 1, 1), 1e-7).log())
    assert found.shape == (1, 2, 3, 99)
    with pytest.raises(torch.linalg.LinAlgError):
        relaxed_rows(messages * torch.nan, messages[:, :, :, 0].sum(2), torch.zeros(1, 1, 1, 1))


@pytest.mark.parametrize("g", [1, 2])
def test_long_rows_are_inferred_whatever_the_start(g: int) -> None:
    model = make_model("additive", "gaussian", k=2, g=g)
    with torch.no_grad():
        model.likelihood.log_scales.fill_(-7.0)  # type: ignore[union-attr, operator]
    states = torch.randn(2, 12, 40, 4, generator=seeded(1))
    truth = random_structure(2, 12, 2, g, seeded(2))
    with torch.no_grad():  # one step ahead of every frame, so that no error adds up
        messages = model.dynamics.messages(states)
        change = model.dynamics.change(
            states[:, :, :-1], messages, truth.edge_modules.unsqueeze(2), truth.node_modules.unsqueeze(2)
        )
    search, known = Search(gibbs, enumerate_up_to=1, samples=0), torch.full((2, 12, 11), -1)
    model.dynamics.targets = lambda _: change.squeeze(2)  # type: ignore[method-assign]
    found = infer(search, model, None, states, seeded(), known)
    torch.testing.assert_close(found.structure.edge_modules, truth.edge_modules)
    torch.testing.assert_close(found.structure.node_modules, truth.node_modules)


@pytest.mark.parametrize("enumerate_up_to", [8, 1])
def test_inference_ends_where_a_step_changes_nothing(states: Tensor, enumerate_up_to: int) -> None:
    """Then every receiver has its best row under the messages of its own structure, which are handed on."""
    model = make_model("continuous")
    found = infer(Search(gibbs, sweeps=20, enumerate_up_to=enumerate_up_to), model, None, states, seeded())
    messages = model.messages(states, found.structure)
    assert found.messages is not None
    torch.testing.assert_close(found.messages, messages)
    assert not torch.equal(messages, model.messages(states))  # close pairs are on other paths
    rows = all_rows(3, 2).expand(3, 4, -1, -1)
    energies = model.receiver_energies(states, messages, rows, torch.zeros(3, 4, 8, dtype=torch.long))
    best = rows.gather(2, energies.argmin(-1)[..., None, None].expand(-1, -1, 1, 3)).squeeze(2)
    assert torch.equal(best, found.structure.edge_modules)
    assert infer(Search(gibbs, sweeps=1), model, None, states, seeded()).messages is None


def test_decoding_bears_rounding_errors_of_terms_that_nearly_cancel() -> None:
    gram = torch.full((1, 2, 3, 3), 1e18, dtype=torch.float64)
    gram[0, 1, 0, 0] -= 1e9  # below what the smallest ridge makes up for
    aim = gram.sum(-1, keepdim=True)
    rows = decode(gram, aim, corners_of(2, gram.device))
    assert torch.equal(rows[0, 1], rows[0, 0])
    with pytest.raises(torch.linalg.LinAlgError):
        decode(gram * torch.nan, aim, corners_of(2, gram.device))
