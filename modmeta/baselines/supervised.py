"""The encoder of NRI, trained with labels."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modmeta.baselines.base import Baseline
from modmeta.errors import UserError
from modmeta.keys import RELATIONS


class SupervisedEncoder(Baseline):
    """Minimises the cross-entropy of the true relations under the encoder's logits (Kipf et al. 2018, section 5.1).

    Weights are chosen by the error rate on validation edges. R relations.

    Args:
        encoder: maps states (B, N, T, D) to logits (B, N, S, R).
        options: arguments of `Baseline`.
    """

    matched = False

    def __init__(self, encoder: nn.Module, **options: Any) -> None:
        super().__init__(**options | {"num_modules": options.get("num_relations", 2)})
        self.encoder = encoder

    @property
    def priors(self) -> list[str]:
        """Labels that the encoder is trained on."""
        return ["relations of training tasks are given"]

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        logits = self.encoder(self._observed(batch)).float()
        return F.cross_entropy(logits.flatten(0, -2), self._labels(batch).flatten()), {}

    def validation_loss(self, batch: dict[str, Tensor]) -> Tensor:
        return (self.encoder(self._observed(batch)).argmax(-1) != self._labels(batch)).float().mean()

    def infer(self, states: Tensor) -> Tensor:
        return torch.softmax(self.encoder(states).float(), -1)

    @staticmethod
    def _labels(batch: dict[str, Tensor]) -> Tensor:
        if RELATIONS not in batch:
            raise UserError("this baseline is trained on labels, but the data has no relations; choose labelled data")
        return batch[RELATIONS]
