"""Relations from thresholded correlations of trajectories or of LSTM states (Kipf et al. 2018, section 5.1).

The threshold, and whether related entities correlate more or less, maximise edge accuracy on labelled validation tasks,
on which other methods match their labels.
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

BINS = 2000  # number of bins of correlations, from -1 to 1
SLOPE = 20.0  # slope of the probabilities at the threshold; only their order is meaningful


def correlations(series: Tensor) -> Tensor:
    """Pearson correlations between entities over the last axis: (..., N, L) to (..., N, S)."""
    centred = series - series.mean(-1, keepdim=True)
    unit = centred / centred.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    return from_matrix(unit @ unit.mT)


def of_trajectories(states: Tensor, groups: list[slice]) -> Tensor:
    """Correlations over time, averaged over the features of each group: (B, N, T, D) to (C, B, N, S), C groups."""
    each = correlations(states.permute(3, 0, 1, 2))  # (D, B, N, S)
    return torch.stack([each[group].mean(0) for group in groups])


class Threshold(nn.Module):
    """Classifies edges as relation 0 or 1 by one of C correlations, above or below a threshold.

    Args:
        num_correlations: C.
    """

    kind: Tensor
    value: Tensor
    sign: Tensor

    def __init__(self, num_correlations: int) -> None:
        super().__init__()
        self.seen = Confusion(num_correlations * BINS, 2)  # histogram of each correlation by relation
        self.register_buffer("kind", torch.zeros((), dtype=torch.int64))
        self.register_buffer("value", torch.zeros(()))
        self.register_buffer("sign", torch.ones(()))

    def update(self, found: Tensor, relations: Tensor) -> None:
        """Adds correlations (C, B, N, S) of edges with known relations (B, N, S)."""
        bins = ((found + 1) / 2 * BINS).long().clamp(0, BINS - 1)
        kind = torch.arange(len(found), device=found.device).view(-1, 1, 1, 1)
        self.seen.update(kind * BINS + bins, relations.expand_as(bins))

    def fit(self) -> tuple[float, float]:
        """Sets correlation, threshold and sign to maximise edge accuracy, and clears the data added by `update`.

        Returns:
            Edge accuracy, and the fraction of edges classified as relation 1.
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
    """Base of the baselines that infer edges from thresholded correlations."""

    threshold: Threshold
    matched = False

    @property
    def priors(self) -> list[str]:
        """Labels that the threshold is fitted to."""
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
            raise UserError(
                "correlation baselines fit a threshold to labels, but the validation tasks have no relations"
            )
        self.threshold.update(self.found(self._observed(batch)), batch[RELATIONS])

    def on_validation_epoch_end(self) -> None:
        right, found = self.threshold.fit()
        self.usage.copy_(torch.tensor([1 - found, found]))
        self.log("val/edge_accuracy", right)
        super().on_validation_epoch_end()


def _check(options: dict[str, Any]) -> None:
    if options.get("num_relations", 2) != 2:
        raise UserError(
            f"correlation baselines distinguish two relations, but data.num_relations={options['num_relations']}; "
            "choose data with two"
        )


class CorrelationData(_Thresholded):
    """Correlations of positions or of velocities, whichever is more accurate on validation edges. Not trained.

    Args:
        num_features: D.
        positions: number P of coordinates; the first P features are positions, the next P their velocities.
        options: arguments of `Baseline`.

    Raises:
        UserError: the data does not have two relations.
    """

    def __init__(self, num_features: int, positions: int, **options: Any) -> None:
        _check(options)
        super().__init__(**options | {"num_modules": 2})
        self.groups = feature_groups(num_features, positions)
        self.threshold = Threshold(len(self.groups))

    def found(self, states: Tensor) -> Tensor:
        return of_trajectories(states, self.groups)


class CorrelationLSTM(_Thresholded, LSTM):
    """Correlations of the hidden states of an `LSTM` per entity (not joint) after the observed frames.

    Args:
        options: arguments of `LSTM` except `joint`.

    Raises:
        UserError: the data does not have two relations.
    """

    def __init__(self, **options: Any) -> None:
        _check(options)
        super().__init__(joint=False, **options | {"num_modules": 2})
        self.threshold = Threshold(1)

    def found(self, states: Tensor) -> Tensor:
        return correlations(self.predictor.final(self.rows(states)).view(*states.shape[:2], -1)).unsqueeze(0)

    def forecaster(self, batch: dict[str, Tensor], chance: Tensor | None) -> Forecast | None:
        return None  # the row of `LSTM` has these forecasts
