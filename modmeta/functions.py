"""The Python interface to trained compositions: structures of new tasks of few-shot regression, and their values."""

import warnings
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modmeta.compositions.infer import Structures, few
from modmeta.errors import DataError
from modmeta.training.checkpoints.loading import built
from modmeta.training.composed import ComposedBounceGrad

BATCH = 100  # tasks that are inferred together


class FunctionModel:
    """A trained composition of modules, from `modmeta.load`.

    Args:
        module: trained module.
        data: description of the training data in its checkpoint.
    """

    def __init__(self, module: ComposedBounceGrad, data: dict[str, Any]) -> None:
        self.module, self.data = module.eval(), data

    @torch.no_grad()
    def infer(self, x: Any, y: Any) -> Structures:
        """Structures of new tasks and their probabilities, calibrated on the model's validation tasks.

        Args:
            x: examples (B, P, I), an array or a tensor.
            y: their values (B, P, O), likewise.

        Returns:
            Tensors; see `Structures`.

        Raises:
            DataError: the examples do not fit the model, or are not finite.
        """
        given, values = self._given(x, "x", "inputs"), self._given(y, "y", "outputs")
        if given.shape[:2] != values.shape[:2]:
            raise DataError(f"x has tasks and points {tuple(given.shape[:2])}, but y has {tuple(values.shape[:2])}")
        if told := few(self.module.model, values[0].numel()):
            warnings.warn(f"{told}; give more examples, or heed `probability`", stacklevel=2)
        parts = [self.module.infer(*some) for some in zip(given.split(BATCH), values.split(BATCH), strict=True)]
        return Structures(
            **{part.name: torch.cat([getattr(one, part.name) for one in parts]) for part in fields(Structures)}
        )

    @torch.no_grad()
    def predict(self, queries: Any, found: Structures) -> Tensor:
        """Values (B, Q, O) of queries (B, Q, I) under the structures that `infer` found for the same tasks.

        Raises:
            DataError: the queries do not fit the model or the structures, or are not finite.
        """
        given = self._given(queries, "queries", "inputs")
        if len(given) != len(found.structures):
            raise DataError(f"queries have {len(given)} tasks, but structures {len(found.structures)}")
        values: Tensor = self.module.model(given, found.structures)
        return values

    def _given(self, part: Any, name: str, size: str) -> Tensor:
        """
        Raises:
            DataError: it has another shape, or holds other than finite numbers.
        """
        if (
            isinstance(part, list | tuple)
            and len(points := {len(task) for task in part if hasattr(task, "__len__")}) > 1
        ):
            raise DataError(
                f"{name} has tasks of {min(points)} to {max(points)} points; infer tasks of each number in a call of "
                "their own"
            )
        try:
            tensor = torch.as_tensor(np.asarray(part), dtype=torch.float32)
        except (TypeError, ValueError) as error:
            raise DataError(f"{name} is no array of numbers (tasks, points, {self.data[size]})") from error
        if tensor.dim() != 3 or not tensor.numel() or tensor.shape[2] != self.data[size]:
            raise DataError(
                f"{name} has shape {tuple(tensor.shape)}; it must be (tasks, points, {self.data[size]}), none of them 0"
            )
        if not bool(tensor.isfinite().all()):
            task, point = (int(index) for index in (~tensor.isfinite()).any(-1).nonzero()[0])
            raise DataError(f"{name}: point {point} of task {task} is not finite; leave such tasks out")
        return tensor


def composition_of(content: dict[str, Any]) -> FunctionModel:
    """The trained composition of a checkpoint that is read, in evaluation mode."""
    module = built(content["modmeta"]["config"])
    module.load_state_dict(dict(content["state_dict"]))
    return FunctionModel(module, content["modmeta"]["data"])
