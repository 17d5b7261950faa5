"""The measures of the evaluation protocol on test tasks."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import BinaryAUROC, BinaryAveragePrecision, MulticlassF1Score
from torchmetrics.utilities import dim_zero_cat

from modmeta.evaluation.matching import Confusion
from modmeta.model.model import RelationalModel
from modmeta.search.infer import Inferred


class BySize(Metric):
    """Edges right and edges in all, by number of entities."""

    full_state_update = False
    rows: list[Tensor]  # of every batch, (1, 3): entities, edges right, edges

    def __init__(self) -> None:
        super().__init__()
        self.add_state("rows", [], dist_reduce_fx="cat")

    def update(self, right: Tensor, entities: int) -> None:
        """Takes in whether edges (any shape) of tasks of one size are right."""
        self.rows.append(torch.tensor([[entities, int(right.sum()), right.numel()]], device=right.device))

    def compute(self) -> dict[int, Tensor]:
        rows = dim_zero_cat(self.rows)
        of_size = {n: rows[rows[:, 0] == n].sum(0) for n in rows[:, 0].unique().tolist()}
        return {n: right / edges for n, (_, right, edges) in of_size.items()}


class ProtocolMeasures(nn.Module):
    """Edge accuracy and its companions, by number of entities, too, where that differs, and the error of forecasts.

    Structures come from the frames before `observed_frames`; forecasts start at frame `observed_frames` alone and are
    scored `steps` frames later, as mean squared error over entities and features in normalised units. Tasks with too
    few frames are scored on the steps they have. Node modules that are found count where entities have types.

    Args:
        num_modules: K.
        num_relations: R.
        observed_frames: frames that structures are inferred from.
        steps: at which forecasts are scored.
        num_types: of entities.
    """

    def __init__(
        self, num_modules: int, num_relations: int, observed_frames: int, steps: tuple[int, ...], num_types: int = 1
    ) -> None:
        super().__init__()
        self.num_relations, self.observed_frames, self.steps = num_relations, observed_frames, steps
        self.confusion = Confusion(num_relations, num_relations)
        self.types = Confusion(num_types, num_types)
        self.whole, self.by_size = MeanMetric(), BySize()
        self.errors = {step: MeanMetric() for step in steps}
        self.binary: dict[str, Metric] = {}
        if num_relations == 2:
            self.binary = {"auroc": BinaryAUROC(), "auprc": BinaryAveragePrecision()}
        self._children = nn.ModuleList([*self.errors.values(), *self.binary.values()])  # so that they follow the device
        self.f1 = MulticlassF1Score(max(num_relations, 2), average="macro")

    def update(
        self,
        model: RelationalModel,
        inferred: Inferred,
        states: Tensor,
        relations: Tensor | None,
        module_to_relation: Tensor,
        known: Tensor | None = None,
        types: Tensor | None = None,
        module_to_type: Tensor | None = None,
    ) -> None:
        """Takes in a batch: states (B, N, T, D) and, if there are labels, relations (B, N, S) and types (B, N).

        Relations `known` to the search, (B, N, S) and not -1, do not count, except that a task must have all right.
        """
        if relations is not None:
            found = module_to_relation[inferred.structure.relations]
            chance = inferred.probabilities @ nn.functional.one_hot(module_to_relation, self.num_relations).float()
            chance = chance.clamp(0, 1)  # rounding
            self.update_edges(found, chance, relations, known)
        if types is not None and module_to_type is not None:
            self.types.update(module_to_type[inferred.structure.types], types)
        structure = inferred.structure
        self.update_forecasts(
            lambda seen, steps: model.forecast(seen[:, :, -1], structure, steps, model.drive(seen, structure)), states
        )

    def update_edges(self, found: Tensor, chance: Tensor, relations: Tensor, known: Tensor | None = None) -> None:
        """Takes in relations that were found, (B, N, S), their probabilities, (B, N, S, R), and the true ones."""
        asked = torch.ones_like(found, dtype=torch.bool) if known is None else known < 0
        self.confusion.update(found[asked], relations[asked])
        self.by_size.update((found == relations)[asked], found.shape[1])
        self.whole.update((found == relations).flatten(1).all(dim=1).float())
        self.f1.update(found[asked], relations[asked])
        for measure in self.binary.values():
            measure.update(chance[..., 1][asked], relations[asked])

    def update_forecasts(self, forecast: Callable[[Tensor, int], Tensor], states: Tensor) -> None:
        """Takes in how far forecasts are from states (B, N, T, D).

        Args:
            forecast: from all frames up to the one that it starts from, (B, N, `observed_frames` + 1, D), and a number
                of steps, to (B, N, steps, D).
            states: observed.
        """
        start = self.observed_frames
        reachable = [step for step in self.steps if start + step < states.shape[2]]
        if not reachable:
            return
        ahead = forecast(states[:, :, : start + 1], max(reachable))
        for step, error in self.errors.items():
            if step in reachable:
                error.update((ahead[:, :, step - 1] - states[:, :, start + step]).square())

    def compute(self) -> dict[str, Tensor]:
        """Measures by name; those without data are left out."""
        out: dict[str, Tensor] = {}
        if self.confusion.update_called:
            counts = self.confusion.matrix()
            out["edge_accuracy"] = counts.diagonal().sum() / counts.sum()
            out["tasks_all_right"] = self.whole.compute()
            sizes = self.by_size.compute()
            if len(sizes) > 1:
                out |= {f"edge_accuracy_n{n}": accuracy for n, accuracy in sizes.items()}
            if self.num_relations > 2:
                out["macro_f1"] = self.f1.compute()
            out.update({name: measure.compute() for name, measure in self.binary.items()})
        if self.types.update_called:
            counts = self.types.matrix()
            out["type_accuracy"] = counts.diagonal().sum() / counts.sum()
        for step, error in self.errors.items():
            if error.update_called:
                out[f"mse_{step}"] = error.compute()
        return out

    def reset(self) -> None:
        """Forgets all batches."""
        for measure in self.modules():
            if isinstance(measure, Metric):
                measure.reset()
