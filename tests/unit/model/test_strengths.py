"""Strengths of edges that differ, against normal densities with the strengths integrated out."""

import torch
from torch import Tensor

from modmeta.graph.bank import Structure
from modmeta.graph.relations import all_rows
from modmeta.keys import OBSERVED, UNKNOWN
from modmeta.model.basis import family_named
from modmeta.model.dynamics.laws import LawDynamics
from modmeta.model.features import AbsoluteFeatures
from modmeta.model.likelihood import Gaussian
from modmeta.model.model import RelationalModel, Told
from modmeta.model.strengths import allowed

SPREAD = torch.tensor([[0.0, 0.1], [0.0, 0.6]])  # nothing, and a kind whose edges differ


def test_energies_are_those_of_densities_without_strengths() -> None:
    b, n, s, k, steps, c = 2, 3, 2, 2, 6, 2
    messages, left = torch.randn(b, n, s, k, steps, c).double(), torch.randn(b, n, steps, c).double()
    weight = torch.rand(b, n, steps, c).double() + 0.5
    rows = torch.nn.functional.one_hot(all_rows(s, k), k).double()  # (M, S, K)
    found = allowed(SPREAD, rows[None, None], messages, left, weight)
    sent = torch.einsum("bnmsk,bnsklc->bnmlc", found.weights, messages)
    energies = ((left.unsqueeze(2) - sent).square() * weight.unsqueeze(2)).sum((-1, -2)) / 2 + found.cost
    for m, row in enumerate(rows):
        more = torch.einsum("sk,bnsklc->bnslc", row @ SPREAD.double(), messages).flatten(3)
        mean = torch.einsum("s,bnslc->bnlc", row[:, 1], messages[:, :, :, 1])  # module 0 sends nothing
        off = (left - mean).flatten(2).unsqueeze(-1)
        cover = torch.diag_embed(1 / weight.flatten(2)) + more.mT @ more
        exact = (off.mT @ torch.linalg.solve(cover, off))[..., 0, 0] + torch.logdet(cover)
        exact = (exact + weight.log().sum((-1, -2))) / 2  # without what all rows have in common
        torch.testing.assert_close(energies[:, :, m], exact)


def made(strengths: bool) -> RelationalModel:
    dynamics = LawDynamics(1, 2, AbsoluteFeatures(), family=family_named("difference").name, strengths=strengths)
    torch.nn.init.constant_(dynamics.found_laws[1], 0.3)
    if dynamics.spread is not None:
        dynamics.spread.copy_(SPREAD)
    likelihood = Gaussian(1)
    likelihood.log_scales.data.fill_(-6.0)
    return RelationalModel(dynamics, likelihood).requires_grad_(False)


def rolled_out(model: RelationalModel) -> tuple[Tensor, Structure, Tensor]:
    """A task of the model itself, each edge with a strength of its own: states, structure, weights of modules."""
    strengths, relations = torch.tensor([[1.4, 0.6], [0.8, 1.2], [1.0, 0.5]]), torch.tensor([[1, 0], [1, 1], [0, 1]])
    weights = torch.stack([torch.zeros(3, 2), strengths * relations], -1)[None]
    types = torch.zeros(1, 3, dtype=torch.long)
    begin = torch.tensor([-0.8, 0.1, 0.7]).view(1, 3, 1, 1)
    states = torch.cat([begin, model.dynamics.rollout(begin, weights, types, 12).squeeze(2)], 2)
    return states, Structure(relations[None], types), weights


def test_strengths_of_a_task_are_inferred_and_kept_in_forecasts() -> None:
    model = made(True)
    states, structure, weights = rolled_out(model)
    relations = structure.edge_modules[0]
    found = model.acting(states, structure).edge_modules
    assert (found - weights).abs().max() < 0.06
    gap, mask = states.clone(), torch.full((1, 3, 12), OBSERVED)  # of one entity, interpolated
    gap[:, 1, 2:6] = torch.lerp(states[:, 1, 1], states[:, 1, 6], torch.arange(1, 5).view(-1, 1) / 5)
    mask[:, 1, 1:6] = UNKNOWN
    assert (model.acting(gap, structure, mask).edge_modules - weights).abs().max() < 0.06
    assert (model.acting(gap, structure).edge_modules - weights).abs().max() > 0.1
    assert (
        model.errors(states, structure).square().mean() < 0.01 * made(False).errors(states, structure).square().mean()
    )
    rows = all_rows(2, 2)[None, None]
    energies = model.scorer(states).rows(model.messages(states), rows, torch.zeros(1, 1, 4, dtype=torch.long))
    assert torch.equal(rows[0, 0][energies.argmin(-1)], relations[None])


def test_strengths_of_held_out_frames_are_those_that_others_told() -> None:
    """Else they explain some of whatever is there, as noise of which nobody's state is a part."""
    model = made(True)
    states, structure, _ = rolled_out(model)

    def left(states: Tensor) -> list[float]:
        first, last = states[:, :, :7], states[:, :, 6:]
        told = [None, Told(last, structure), Told(first, structure)]
        return [float(model.errors(last, structure, told=one).square().mean()) for one in told]

    own, same, others = left(states)
    assert same == own
    assert others < 0.05 * float(made(False).errors(states[:, :, 6:], structure).square().mean())
    own, _, others = left(torch.randn(states.shape, generator=torch.Generator().manual_seed(0)))
    assert others > 1.05 * own


def test_modules_of_one_strength_are_as_they_were() -> None:
    model = made(False)
    assert not {"dynamics.spread"} & set(model.state_dict())
    states, structure = torch.randn(2, 3, 6, 1), Structure(torch.zeros(2, 3, 2).long(), torch.zeros(2, 3).long())
    assert model.acting(states, structure) is structure
