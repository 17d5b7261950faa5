"""Baselines: their pieces against naive computations, and sizes of their experiments."""

import math
from pathlib import Path

import hydra
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from modmeta.baselines.correlation import BINS, CorrelationData, Threshold, correlations
from modmeta.baselines.decoder import MLPDecoder, gaussian_nll
from modmeta.baselines.lstm import LSTM
from modmeta.baselines.nri import NRI, GivenGraph, divergence, relaxed_sample
from modmeta.baselines.static import Static
from modmeta.baselines.supervised import SupervisedEncoder
from modmeta.errors import UserError
from modmeta.graph.relations import senders
from modmeta.keys import RELATIONS, STATES
from modmeta.model.proposal import CNNProposal, MLPProposal
from tests.runs import ROOT, compose

EXPERIMENTS = sorted(path.stem for path in (ROOT / "conf/experiment/baselines").glob("*.yaml"))


def one_hot(rows: Tensor, k: int) -> Tensor:
    return F.one_hot(rows, k).float()


@pytest.mark.parametrize("skip_first", [False, True])
def test_decoder_is_the_sum_over_edges(skip_first: bool, states: Tensor) -> None:
    """A step against a loop over tasks, receivers, senders and edge types."""
    decoder = MLPDecoder(4, 3, hidden=6, skip_first=skip_first)
    weights = torch.rand(3, 4, 3, 3)
    with torch.no_grad():
        found = decoder.step(states, weights)
        layers = decoder.message.affine
        for b in range(3):
            for i in range(4):
                received = torch.zeros(11, 6)
                for slot, j in enumerate(senders(4)[i].tolist()):
                    pair = torch.cat((states[b, i], states[b, j]), dim=-1)
                    for k in range(int(skip_first), 3):
                        h = pair
                        for layer in layers:
                            own = k - int(skip_first)
                            h = torch.relu(h @ layer.weight[own] + layer.bias[own])
                        received += weights[b, i, slot, k] * h
                expected = states[b, i] + decoder.update(torch.cat((states[b, i], received), dim=-1))
                torch.testing.assert_close(found[b, i], expected, rtol=1e-4, atol=1e-5)


def test_truth_is_put_in_every_few_frames(states: Tensor) -> None:
    decoder, weights = MLPDecoder(4, 2, hidden=6), torch.rand(3, 4, 3, 2)
    with torch.no_grad():
        predicted = decoder.forced(states, weights, 4)
        assert predicted.shape == (3, 4, 10, 4)
        frame = states[:, :, :1]
        for t in range(10):
            frame = decoder.step(states[:, :, t : t + 1] if t % 4 == 0 else frame, weights)
            torch.testing.assert_close(predicted[:, :, t : t + 1], frame, rtol=1e-4, atol=1e-5)


def test_a_stretch_is_decoded_at_a_visit(states: Tensor) -> None:
    """Every stretch has its turn, and the loss is that of its frames."""
    nri = NRI(MLPProposal(11, 4, 2, hidden=6), MLPDecoder(4, 2, hidden=6), 2, horizon=2, decoded=4)
    nri.generator = torch.Generator().manual_seed(0)
    parts = {nri._part(11).start for _ in range(100)}
    assert parts == set(range(7))
    sample = torch.rand(3, 4, 3, 2)
    with torch.no_grad():
        nll = nri._loss(states, torch.zeros(3, 4, 3, 2), sample, slice(3, 8))[1]
        expected = gaussian_nll(nri.decoder.forced(states[:, :, 3:8], sample, 2), states[:, :, 3:8], nri.variance)
    torch.testing.assert_close(nll, expected)
    assert NRI(MLPProposal(11, 4, 2), MLPDecoder(4, 2), 2)._part(11) == slice(None)


def test_null_edges_send_nothing(states: Tensor) -> None:
    decoder = MLPDecoder(4, 2, hidden=6, skip_first=True)
    none = one_hot(torch.zeros(3, 4, 3, dtype=torch.long), 2)
    with torch.no_grad():
        alone = decoder.step(states[:, :1].expand(-1, 4, -1, -1), none)[:, 0]
        torch.testing.assert_close(decoder.step(states, none)[:, 0], alone)
    with pytest.raises(ValueError, match="skip_first"):
        MLPDecoder(4, 1, skip_first=True)


def test_relaxed_samples() -> None:
    """Hard samples come as often as their probabilities say; soft ones are near them; gradients pass."""
    logits = torch.tensor([0.0, 1.0, -1.0]).expand(20_000, 3).clone().requires_grad_()
    generator = torch.Generator().manual_seed(0)
    hard = relaxed_sample(logits, 0.5, True, generator)
    torch.testing.assert_close(hard.mean(0), logits[0].softmax(-1), atol=0.015, rtol=0)
    assert set(hard.detach().unique().tolist()) <= {0.0, 1.0}
    soft = relaxed_sample(logits, 0.5, False, torch.Generator().manual_seed(0))
    assert torch.equal(soft.argmax(-1), hard.argmax(-1))
    torch.testing.assert_close(soft.sum(-1), torch.ones(20_000))
    (grad,) = torch.autograd.grad(hard[:, 0].sum(), logits)
    assert float(grad.abs().sum()) > 0


def test_divergence_and_likelihood() -> None:
    chance, prior = torch.tensor([0.2, 0.8]), torch.tensor([0.9, 0.1])
    expected = 0.2 * math.log(0.2 / 0.9) + 0.8 * math.log(0.8 / 0.1)
    assert float(divergence(chance.log(), prior)) == pytest.approx(expected, rel=1e-5)
    assert float(divergence(torch.zeros(2), torch.tensor([0.5, 0.5]))) == pytest.approx(0.0, abs=1e-6)
    states, predicted = torch.randn(2, 3, 5, 4), torch.randn(2, 3, 4, 4)
    normal = torch.distributions.Normal(predicted, math.sqrt(5e-5))
    expected = -float(normal.log_prob(states[:, :, 1:]).mean())
    assert float(gaussian_nll(predicted, states, 5e-5)) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("encoder", [MLPProposal(20, 4, 3, hidden=8), CNNProposal(4, 3, hidden=8)])
def test_encoders_do_not_mind_the_order_of_entities(encoder: torch.nn.Module) -> None:
    encoder.eval()
    states, order = torch.randn(2, 5, 20, 4), torch.tensor([3, 0, 4, 1, 2])
    full = torch.zeros(2, 5, 5, 3)
    moved = torch.zeros(2, 5, 5, 3)
    with torch.no_grad():
        index = senders(5).view(1, 5, 4, 1).expand(2, 5, 4, 3)
        full.scatter_(2, index, encoder(states))
        moved.scatter_(2, index, encoder(states[:, order]))
    torch.testing.assert_close(moved, full[:, order][:, :, order], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("joint", [False, True])
def test_lstm_burns_in_and_goes_on_alone(joint: bool, states: Tensor) -> None:
    """Predictions against one step at a time: the truth goes in first, then what was predicted."""
    model = LSTM(num_features=4, num_entities=4, joint=joint, hidden=8, layers=2, horizon=3)
    with torch.no_grad():
        found = model.rows(model.unrolled(states[:, :, :6], 4))
        rows, memory = model.rows(states[:, :, :6]), None
        ahead = rows[:, :1]
        for t in range(9):
            ahead, memory = model.predictor(rows[:, t : t + 1] if t < 6 else ahead, memory)
            torch.testing.assert_close(found[:, t : t + 1], ahead, rtol=1e-4, atol=1e-5)
        forecast = model.forecaster({}, None)
        assert forecast is not None
        torch.testing.assert_close(forecast(states[:, :, :6], 4), model.unrolled(states[:, :, :6], 4)[:, :, 5:])
    with_horizon = model.loss({STATES: states})[0]
    with_horizon.backward()
    assert torch.isfinite(with_horizon)
    if not joint:  # entities do not see one another
        with torch.no_grad():
            alone = model.unrolled(states[:, :1, :6], 4)
            torch.testing.assert_close(alone, model.unrolled(states[:, :, :6], 4)[:, :1])


def test_static_stands_still(states: Tensor) -> None:
    forecast = Static().forecaster({}, None)
    assert torch.equal(forecast(states[:, :, :3], 2), states[:, :, 2:3].expand(-1, -1, 2, -1))


def test_correlations_agree_with_numpy() -> None:
    series = torch.randn(4, 30)
    full = np.corrcoef(series.numpy())
    expected = torch.from_numpy(full).float().gather(1, senders(4))
    torch.testing.assert_close(correlations(series), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("sign", [1, -1])
def test_threshold_finds_what_tells(sign: int) -> None:
    """Of two correlations only the second says anything: relation 1 where it is above 0.3 (or below -0.3)."""
    found = torch.rand(2, 50, 5, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    relations = (sign * found[1] > 0.3).long()
    threshold = Threshold(2)
    for part in (slice(0, 20), slice(20, 50)):
        threshold.update(found[:, part], relations[part])
    right, share = threshold.fit()
    assert right > 1 - 4 / BINS
    assert share == pytest.approx(float(relations.float().mean()), abs=0.01)
    assert int(threshold.kind) == 1
    assert float(threshold.sign) == sign
    assert float(threshold.value) == pytest.approx(sign * 0.3, abs=0.02)
    agreed = threshold.chance(found).argmax(-1) == relations
    assert float(agreed.float().mean()) > 0.998


def test_correlation_of_entities_that_move_together() -> None:
    model = CorrelationData(num_features=4, positions=2)
    path = torch.randn(3, 1, 20, 4).cumsum(2)
    states = torch.randn(3, 4, 20, 4).cumsum(2)
    states[:, :2] = path + 0.01 * torch.randn(3, 2, 20, 4)
    found = model.found(states)
    assert found.shape == (2, 3, 4, 3)
    assert bool((found[:, :, 0, 0] > 0.98).all())  # receiver 0, sender 1
    with pytest.raises(UserError, match="num_relations"):
        CorrelationData(num_features=4, positions=2, num_relations=3)


def tasks(seed: int = 0, size: int = 24) -> dict[str, Tensor]:
    """Tasks whose labels show: receivers speed up where they are related to more."""
    generator = torch.Generator().manual_seed(seed)
    relations = torch.randint(2, (size, 4, 3), generator=generator)
    states = torch.randn(size, 4, 20, 4, generator=generator) * 0.1
    return {STATES: states, RELATIONS: relations}


def test_supervised_encoder_learns_a_small_set() -> None:
    batch = tasks()
    model = SupervisedEncoder(MLPProposal(20, 4, 2, hidden=32), observed_frames=20)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(100):
        optimizer.zero_grad()
        model.loss(batch)[0].backward()
        optimizer.step()
    found = model.infer(batch[STATES]).argmax(-1)
    assert float((found == batch[RELATIONS]).float().mean()) > 0.95


def test_nri_learns_and_adapts() -> None:
    """The loss falls; gradient steps on the logits of new tasks lower it further, task by task."""
    states = torch.randn(6, 4, 20, 4, generator=torch.Generator().manual_seed(0)).cumsum(2) * 0.05
    encoder, decoder = MLPProposal(20, 4, 2, hidden=8), MLPDecoder(4, 2, hidden=8)
    model = NRI(encoder, decoder, 2, prior=[0.6, 0.4], variance=0.01, observed_frames=20, adapt_steps=5)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss, told = model.loss({STATES: states})
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        assert set(told) == {"nll", "divergence"}
    assert losses[-1] < losses[0]
    model.eval()
    with torch.no_grad():
        logits = encoder(states)
        adapted = model.adapted(states, logits)
        before, after = (model._loss(states, of, of.softmax(-1))[0] for of in (logits, adapted))
        assert after < before
        torch.testing.assert_close(model.adapted(states[:2], logits[:2]), adapted[:2], rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match="prior"):
        NRI(encoder, decoder, 2, prior=[1.0])


def test_given_graphs(states: Tensor) -> None:
    relations = torch.randint(2, (3, 4, 3))
    true = GivenGraph(MLPDecoder(4, 2, hidden=8), full=False)
    full = GivenGraph(MLPDecoder(4, 1, hidden=8), full=True)
    for model in (true, full):
        assert model.infer(states) is None
        forecast = model.forecaster({STATES: states, RELATIONS: relations}, None)
        assert forecast is not None
        assert forecast(states, 3).shape == (3, 4, 3, 4)
    assert full.priors == []
    assert true.priors == ["true relations are given"]
    with pytest.raises(UserError, match="no relations"):
        true.loss({STATES: states})


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_has_the_published_sizes(experiment: str, tmp_path: Path) -> None:
    config = compose(tmp_path / "run", f"experiment=baselines/{experiment}")
    assert config.name == experiment
    assert "search" not in config
    data, module = hydra.utils.instantiate(config.data), hydra.utils.instantiate(config.method)
    assert f"{data.world.name}5" == experiment.rsplit("_", 1)[1]
    widths = {part.hidden for part in (config.method.get(name) for name in ("encoder", "decoder")) if part}
    assert widths <= {256}
    assert module.seed == 0
