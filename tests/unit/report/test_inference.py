"""The summary of `modmeta infer`."""

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import binary_auroc, binary_average_precision

from modmeta.report.inference import ranked


def test_areas_are_those_of_the_library() -> None:
    """With and without ties."""
    draw = np.random.default_rng(0)
    edges = draw.random(300) < 0.3
    for chance in (draw.random(300), draw.integers(0, 4, 300) / 3, np.full(300, 0.5)):
        told = {name: float(value) for name, value in ranked(np.stack((chance / 2, chance / 2), 1), edges)}
        chances, labels = torch.from_numpy(chance), torch.from_numpy(edges).long()
        assert told["AUROC of directed pairs"] == pytest.approx(float(binary_auroc(chances, labels)), abs=1e-4)
        expected = float(binary_average_precision(chances, labels))
        assert told["AUPRC of directed pairs"] == pytest.approx(expected, abs=1e-4)
    assert ranked(np.full((3, 1), 0.5), np.ones(3, bool)) == []
