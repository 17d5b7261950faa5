"""Steps of entities that are not always seen: energies against loops over tasks, receivers and steps."""

import pytest
import torch

from modmeta.graph.bank import random_structure
from modmeta.graph.relations import senders
from modmeta.keys import BRIDGED, OBSERVED, UNKNOWN
from modmeta.model.sight import complete, counted, never_together, widened, with_variance
from tests.conftest import make_model


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("kind", ["additive", "mlp", "continuous"])
def test_energies_of_partly_seen_steps_are_those_of_a_loop(kind: str) -> None:
    """A step counts where its receiver is observed; unknown senders send nothing, and widen the scale."""
    model, states = make_model(kind), torch.randn(2, 4, 9, 4, generator=seeded(1))
    mask, found = torch.randint(3, (2, 4, 8), generator=seeded(2)), random_structure(2, 4, 2, 1, seeded(3))
    rows, types = found.edge_modules.unsqueeze(2), found.node_modules.unsqueeze(2)
    with torch.no_grad():
        energies = model.receiver_energies(states, model.messages(states, mask=mask), rows, types, mask=mask)
        whole = model.dynamics.messages(states)
        spread = with_variance(whole, torch.zeros_like(mask))[..., whole.shape[-1] :]
        respond, targets = model.dynamics.along(states), model.dynamics.targets(states)
        scale = model.log_scale(states).expand_as(targets)
        for b in range(2):
            for i, from_ in enumerate(senders(4).tolist()):
                total = torch.zeros(())
                for t in range(8):
                    if mask[b, i, t] != OBSERVED:
                        continue
                    received, variance = torch.zeros_like(whole[:, :, 0, 0]), torch.zeros(spread.shape[-1])
                    for s, j in enumerate(from_):
                        k = found.edge_modules[b, i, s]
                        if mask[b, j, t] == UNKNOWN:
                            variance = variance + spread[b, i, s, k, t]
                        else:
                            received[b, i, t] += whole[b, i, s, k, t]
                    error = respond(received.unsqueeze(2), types)[b, i, 0, t] - targets[b, i, t]
                    wide = scale[b, i, t]
                    if model.dynamics.additive:
                        whole_error, shared = (2 * wide).exp() + variance[:4], variance[4:]
                        wide = (whole_error * (whole_error + shared) / (whole_error - shared)).log() / 2
                    total = total + model.likelihood.energy(error, wide).sum()
                torch.testing.assert_close(energies[b, i, 0], total, rtol=1e-4, atol=1e-4)


def test_slow_messages_beside_noise_leave_little_more_doubt_than_their_variance() -> None:
    """Of an error that is nearly all slow the mean of many steps says as much as one; beside noise they tell apart."""
    slow = torch.sin(torch.arange(400) / 60).view(1, 1, 1, 1, -1, 1).expand(1, 2, 1, 1, -1, 1)
    doubt = with_variance(slow, torch.full((1, 2, 400), UNKNOWN))[0, 0, 0, 0, 0, 1:]
    alone, beside = (float(widened(torch.tensor(scale), doubt)) for scale in (-9.0, 2.0))
    assert 2 * alone > float(doubt[0].log()) + 5
    assert beside == pytest.approx(2.0, abs=0.02)


def test_a_mask_of_observed_steps_changes_nothing() -> None:
    model, states = make_model("additive"), torch.randn(2, 4, 9, 4, generator=seeded(1))
    found = random_structure(2, 4, 2, 1, seeded(3))
    rows, types = found.edge_modules.unsqueeze(2), found.node_modules.unsqueeze(2)
    mask = torch.full((2, 4, 8), OBSERVED)
    with torch.no_grad():
        plain, masked = (
            model.receiver_energies(states, model.messages(states, mask=of), rows, types, mask=of)
            for of in (None, mask)
        )
    torch.testing.assert_close(plain, masked)


def test_pairs_are_together_where_the_receiver_counts_and_the_sender_is_known() -> None:
    mask = torch.tensor([[[OBSERVED, OBSERVED, UNKNOWN], [UNKNOWN, BRIDGED, UNKNOWN], [UNKNOWN, UNKNOWN, OBSERVED]]])
    assert never_together(mask)[0].tolist() == [[False, True], [True, True], [True, True]]
    assert counted(mask)[0].sum(-1).tolist() == [2, 0, 1]
    assert not complete(mask).any()
