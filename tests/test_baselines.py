"""Comparison rows of the papers: their pieces against naive computations, and whole runs of every experiment."""

import json
import math
import warnings
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
from modmeta.errors import Preempted, UserError
from modmeta.graph.relations import senders
from modmeta.keys import RELATIONS, STATES
from modmeta.model.proposal import CNNProposal, MLPProposal
from modmeta.report.collect import collect
from modmeta.report.groups import grouped
from modmeta.training.checkpoints.loading import load_model
from tests.runs import ROOT, accompanied, checkpoint, compose, run, same
from tests.test_resume import KilledAt, KilledInTest, Stop

EXPERIMENTS = sorted(path.stem for path in (ROOT / "conf/experiment/baselines").glob("*.yaml"))
SPRINGS = [name for name in EXPERIMENTS if name.endswith("springs5")]
TINY = (
    "data.num_tasks=12", "data.valid=6", "data.test=6", "data.batch_size=4", "data.batches_per_epoch=3",
    "data.frames=20", "data.test_frames=42", "method.observed_frames=20", "trainer.accelerator=cpu",
    "trainer.devices=1", "callbacks.progress=null", "logger.wandb=null",
)  # fmt: skip
SMALL = ("method.encoder.hidden=8", "method.decoder.hidden=8")
FORECASTS = ("static", "lstm_single", "lstm_joint", "nri", "nri_full", "nri_true", "nri_adapted")
INFERS = ("correlation_data", "correlation_lstm", "nri", "nri_adapted", "supervised")


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


@pytest.mark.parametrize("experiment", SPRINGS)
def test_every_experiment_runs(experiment: str, tmp_path: Path) -> None:
    name = experiment.removesuffix("_springs5")
    few = () if name in ("static", "correlation_data") else ("trainer.max_epochs=2",)
    few += ("method.adapt_steps=2",) if name == "nri_adapted" else ()
    measures = run(tmp_path / "run", f"experiment=baselines/{experiment}", *TINY, *few)
    written = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert written["config"]["name"] == experiment
    assert {"train/tasks", "train/seconds", "train/steps", "hardware", "seed", "commit", "priors"} <= written.keys()
    assert ("test/mse_10" in measures) == (name in FORECASTS)
    assert ("test/edge_accuracy" in measures) == (name in INFERS)
    for key in ("test/mse_1", "test/mse_10", "test/mse_20", "test/edge_accuracy"):
        assert math.isfinite(written.get(key, 0.0))
    if name in INFERS:
        assert 0.0 <= written["val/edge_accuracy"] <= 1.0
    with pytest.raises(UserError, match="baseline"):
        load_model(tmp_path / "run")


@pytest.mark.parametrize("experiment", ["nri_springs5", "lstm_joint_springs5"])
def test_continued_equals_uninterrupted(experiment: str, tmp_path: Path) -> None:
    """Broken off at an epoch's start, in the middle of one, and before the test: the same to the last bit."""
    small = SMALL if experiment.startswith("nri") else ("method.hidden=8",)
    options = (f"experiment=baselines/{experiment}", *TINY, *small, "trainer.max_epochs=4")
    options += ("trainer.check_val_every_n_epoch=2",)
    whole = run(tmp_path / "whole", *options)
    for interruption, told in ((KilledAt(1), Stop), (KilledAt(2, batch=1), Preempted), (KilledInTest(), Stop)):
        torch.manual_seed(12345)
        with accompanied(interruption), pytest.raises(told):
            run(tmp_path / "parts", *options)
    parts = run(tmp_path / "parts", *options)
    one, other = checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "parts")
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step"):
        same(one[part], other[part], part)
    for part in ("best", "generators", "epoch"):
        same(one["modmeta"][part], other["modmeta"][part], part)
    assert whole == parts


def test_weights_are_chosen_on_validation_tasks(tmp_path: Path) -> None:
    """An encoder that knows its few tasks by heart is tested as it was when it was best on others."""
    options = ("experiment=baselines/supervised_springs5", *TINY, "method.encoder.hidden=32")
    run(tmp_path / "run", *options, "trainer.max_epochs=6", "trainer.check_val_every_n_epoch=1")
    history = json.loads((tmp_path / "run" / "curves.json").read_text())["history"]
    best = checkpoint(tmp_path / "run")["modmeta"]["best"]
    assert best["energy"] == pytest.approx(min(row["val/energy"] for row in history))
    assert int(best["state"]["steps_done"]) in [row["steps"] for row in history]


@pytest.mark.parametrize(("capability", "used"), [("AVX512", "bf16-mixed"), ("AVX2", "32-true")])
def test_processors_without_bfloat16_do_without(
    capability: str, used: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Settings stay as they are, for a run may be taken up on another machine; the record tells what was used."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    options = ("experiment=baselines/supervised_springs5", *TINY, "trainer.max_epochs=1", "trainer.accelerator=cpu")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        run(tmp_path / "run", *options)
    assert any("no products in bfloat16" in str(warning.message) for warning in told) == (used == "32-true")
    content = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert content["hardware"]["precision"] == used
    assert content["config"]["trainer"]["precision"] == "bf16-mixed"
    (group,) = grouped(collect([tmp_path / "run"]).finished)
    assert group.hardware.endswith(", 32-true") == (used == "32-true")
