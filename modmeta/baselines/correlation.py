"""Relations as correlations beyond a threshold (Kipf et al. 2018, section 5.1): of trajectories, or of LSTM states.

Correlations alone do not say which are strong enough, nor whether related entities correlate more or less. Both are
fixed on the labels of validation tasks, as the labels of other methods are, so that the most edges are right.
"""

from typing import Any

import torch
from torch import Tensor, nn

from modmeta.baselines.base import Baseline, Forecast
from modmeta.baselines.lstm import LSTM
from modmeta.data.units import feature_groups
from modmeta.errors import UserError
from modmeta.evaluation.matching import Confusion
from modmeta.graph.relations import from_matrix
from modmeta.keys import RELATIONS, STATES

BINS = 2000  # of correlations, from -1 to 1
SLOPE = 20.0  # of the probabilities around the threshold; only their order means something


def correlations(series: Tensor) -> Tensor:
    """Pearson's correlations of entities over the last axis: (..., N, L) to (..., N, S)."""
    centred = series - series.mean(-1, keepdim=True)
    unit = centred / centred.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    return from_matrix(unit @ unit.mT)


def of_trajectories(states: Tensor, groups: list[slice]) -> Tensor:
    """Correlations over time, averaged over the features of each group: (B, N, T, D) to (groups, B, N, S)."""
    each = correlations(states.permute(3, 0, 1, 2))  # (D, B, N, S)
    return torch.stack([each[group].mean(0) for group in groups])


class Threshold(nn.Module):
    """Which of C correlations tells relation 1 from relation 0, above or below which value.

    Args:
        num_kinds: C.
    """

    kind: Tensor
    value: Tensor
    sign: Tensor

    def __init__(self, num_kinds: int) -> None:
        super().__init__()
        self.seen = Confusion(num_kinds * BINS, 2)
        self.register_buffer("kind", torch.zeros((), dtype=torch.int64))
        self.register_buffer("value", torch.zeros(()))
        self.register_buffer("sign", torch.ones(()))

    def update(self, found: Tensor, relations: Tensor) -> None:
        """Takes in correlations (C, B, N, S) of edges with known relations (B, N, S)."""
        place = ((found + 1) / 2 * BINS).long().clamp(0, BINS - 1)
        kind = torch.arange(len(found), device=found.device).view(-1, 1, 1, 1)
        self.seen.update(kind * BINS + place, relations.expand_as(place))

    def fit(self) -> tuple[float, float]:
        """Fixes the threshold, so that the most edges are right, and forgets what it was fixed on.

        Returns:
            The fraction of edges that are right, and of those that are found to be relation 1.
        """
        counts = self.seen.compute().view(-1, BINS, 2).transpose(1, 2)  # (C, 2, bins)
        below = nn.functional.pad(counts.cumsum(-1), (1, 0))  # (C, 2, bins + 1), at the lower edge of each bin
        above = below[..., -1:] - below
        right = torch.stack((above[:, 1] + below[:, 0], above[:, 0] + below[:, 1]))  # (2, C, bins + 1)
        sign, kind, edge = torch.unravel_index(right.argmax(), right.shape)
        edges = counts[kind].sum()
        found = (below if bool(sign) else above)[kind, :, edge].sum()
        self.sign.fill_(1.0 - 2.0 * float(sign))
        self.kind.copy_(kind)
        self.value.fill_(2.0 * float(edge) / BINS - 1.0)
        self.seen.reset()
        return float(right.max() / edges), float(found / edges)

    def chance(self, found: Tensor) -> Tensor:
        """Correlations (C, B, N, S) to probabilities (B, N, S, 2)."""
        above = self.sign * (found[self.kind] - self.value)
        return torch.stack((-above, above), dim=-1).mul(SLOPE / 2).softmax(-1)


class _Thresholded(Baseline):
    """Baselines whose edges are thresholded correlations."""

    threshold: Threshold
    matched = False

    @property
    def priors(self) -> list[str]:
        """Labels that a threshold needs."""
        return ["threshold from the relations of validation tasks"]

    def found(self, states: Tensor) -> Tensor:
        """Correlations (C, B, N, S) of observed frames (B, N, T, D)."""
        raise NotImplementedError

    def infer(self, states: Tensor) -> Tensor:
        return self.threshold.chance(self.found(states))

    def validate(self, batch: dict[str, Tensor]) -> None:
        if self.trained:
            self.keep_means({"val/energy": self.validation_loss(batch)}, len(batch[STATES]))
        if RELATIONS not in batch:
            raise UserError("a threshold needs validation tasks with relations")
        self.threshold.update(self.found(self._observed(batch)), batch[RELATIONS])

    def on_validation_epoch_end(self) -> None:
        right, found = self.threshold.fit()
        self.usage.copy_(torch.tensor([1 - found, found]))
        self.log("val/edge_accuracy", right)
        super().on_validation_epoch_end()


def _check(options: dict[str, Any]) -> None:
    if options.get("num_relations", 2) != 2:
        raise UserError("a threshold tells two relations apart; data.num_relations must be 2")


class CorrelationData(_Thresholded):
    """Correlations of positions, or of velocities, whichever tells more of validation edges; nothing is trained.

    Args:
        num_features: D.
        positions: leading features that are coordinates, as many velocities follow.
        options: of `Baseline`.
    """

    def __init__(self, num_features: int, positions: int, **options: Any) -> None:
        _check(options)
        super().__init__(**options | {"num_modules": 2})
        self.groups = feature_groups(num_features, positions)
        self.threshold = Threshold(len(self.groups))

    def found(self, states: Tensor) -> Tensor:
        return of_trajectories(states, self.groups)


class CorrelationLSTM(_Thresholded, LSTM):
    """Correlations of what `LSTM` (single) remembers of each entity after the observed frames.

    Args:
        options: of `LSTM`; it is not joint.
    """

    def __init__(self, **options: Any) -> None:
        _check(options)
        super().__init__(joint=False, **options | {"num_modules": 2})
        self.threshold = Threshold(1)

    def found(self, states: Tensor) -> Tensor:
        return correlations(self.predictor.final(self.rows(states)).view(*states.shape[:2], -1)).unsqueeze(0)

    def forecaster(self, batch: dict[str, Tensor], chance: Tensor | None) -> Forecast | None:
        return None  # those are `LSTM`'s
