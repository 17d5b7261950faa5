"""Label matching and measures against brute force and scikit-learn."""

import itertools
from pathlib import Path

import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from modmeta.evaluation.agreement import agreement
from modmeta.evaluation.matching import Confusion, Distances, match_labels
from modmeta.evaluation.protocol import ProtocolMeasures
from modmeta.graph.bank import random_structure
from modmeta.search.infer import Inferred
from modmeta.training.callbacks.record import portable
from tests.conftest import make_model


@pytest.mark.parametrize("r", [2, 3, 4])
def test_matching_is_the_best_of_all_permutations(r: int) -> None:
    for seed in range(20):
        counts = torch.randint(0, 50, (r, r), generator=torch.Generator().manual_seed(seed))
        mapping = match_labels(counts)
        best = max(sum(counts[m, p[m]] for m in range(r)) for p in itertools.permutations(range(r)))
        assert sorted(mapping.tolist()) == list(range(r))
        assert counts[torch.arange(r), mapping].sum() == best


def test_surplus_modules_take_the_relation_they_serve() -> None:
    assert match_labels(torch.tensor([[9, 0], [0, 7], [5, 1], [1, 4]])).tolist() == [0, 1, 0, 1]


def test_confusion_counts_pairs() -> None:
    confusion = Confusion(3, 2)
    modules, relations = torch.randint(0, 3, (5, 4, 3)), torch.randint(0, 2, (5, 4, 3))
    confusion.update(modules, relations)
    for m, r in itertools.product(range(3), range(2)):
        assert confusion.compute()[m, r] == ((modules == m) & (relations == r)).sum()


def test_agreement_forgives_modules_that_say_the_same() -> None:
    first, second = torch.randint(0, 4, (2, 5000), generator=torch.Generator().manual_seed(0))
    confusion, distances = Confusion(4, 4), Distances(4)
    sent = torch.randn(2, 3, 2, 2, 5, 4)
    distances.update(sent.repeat_interleave(2, dim=3))  # modules 0 and 1 are alike, and 2 and 3
    confusion.update(first, first ^ 1)  # never the same, always alike
    assert agreement(confusion.compute(), distances.compute()) == pytest.approx(1, abs=1e-6)
    confusion.reset()
    confusion.update(first, second)
    assert agreement(confusion.compute(), distances.compute()) == pytest.approx(0, abs=0.05)
    counts = torch.tensor([[40, 10], [5, 45]])  # of two modules, Cohen's kappa
    plain = Distances(2)
    plain.update(torch.randn(1, 2, 1, 2, 3, 2))
    assert agreement(counts, plain.compute()) == pytest.approx((0.85 - 0.5) / 0.5)
    assert agreement(torch.tensor([[9, 0], [0, 0]]), plain.compute()) == 0
    assert agreement(torch.tensor([[9]]), torch.zeros(1, 1)) == 1


@pytest.mark.parametrize("r", [2, 3])
def test_measures_agree_with_scikit_learn(r: int) -> None:
    model = make_model(k=r)
    states = torch.randn(6, 4, 16, 4)
    structure = random_structure(6, 4, r, 1, torch.Generator().manual_seed(1))
    truth = random_structure(6, 4, r, 1, torch.Generator().manual_seed(2)).edge_modules
    truth[0] = structure.edge_modules[0]
    chance = torch.rand(6, 4, 3, r).softmax(-1)
    swap = torch.arange(r).flip(0)
    structure = structure._replace(edge_modules=swap[structure.edge_modules])  # module m stands for relation r - 1 - m
    measures = ProtocolMeasures(r, r, 10, (1, 5, 20))
    for part in (slice(0, 4), slice(4, 6)):
        piece = Inferred(
            type(structure)(structure.edge_modules[part], structure.node_modules[part]),
            chance[part],
            torch.zeros(2),
            None,
        )
        measures.update(model, piece, states[part], truth[part], swap)
    out = {name: float(value) for name, value in measures.compute().items()}
    found = swap[structure.edge_modules]
    assert out["edge_accuracy"] == pytest.approx(float((found == truth).float().mean()))
    assert out["tasks_all_right"] == pytest.approx(float((found == truth).flatten(1).all(1).float().mean()))
    if r == 2:
        score = chance[..., 0].flatten()  # module 0 stands for relation 1
        assert out["auroc"] == pytest.approx(roc_auc_score(truth.flatten(), score), abs=1e-5)
        assert out["auprc"] == pytest.approx(average_precision_score(truth.flatten(), score), abs=1e-5)
    else:
        assert out["macro_f1"] == pytest.approx(f1_score(truth.flatten(), found.flatten(), average="macro"), abs=1e-5)
    forecast = model.dynamics.rollout(states[:, :, 10:11], *structure, 5)[:, :, 0].detach()
    assert out["mse_1"] == pytest.approx(float((forecast[:, :, 0] - states[:, :, 11]).square().mean()), rel=1e-4)
    assert out["mse_5"] == pytest.approx(float((forecast[:, :, 4] - states[:, :, 15]).square().mean()), rel=1e-4)
    assert not {"mse_20", "mse_1_single"} & set(out)
    model.members = 4
    measures.reset()
    measures.update(model, Inferred(structure, chance, torch.zeros(6), None), states, truth, swap)
    ensemble = {name: float(value) for name, value in measures.compute().items()}
    assert ensemble["mse_5_single"] == pytest.approx(out["mse_5"]) != ensemble["mse_5"]


def test_settings_of_results_name_no_machine(tmp_path: Path) -> None:
    settings = {"directory": str(tmp_path), "logs": [f"{tmp_path}/csv"], "data": {"dir": "/elsewhere/data", "seed": 3}}
    known = {"directory": ".", "logs": ["csv"], "data": {"dir": "data", "seed": 3}}
    assert portable(settings, tmp_path) == known
