"""Measures of the evaluation protocol on test tasks."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric, MetricCollection
from torchmetrics.classification import BinaryAUROC, BinaryAveragePrecision, MulticlassF1Score
from torchmetrics.utilities import dim_zero_cat

from modmeta.evaluation.matching import Confusion
from modmeta.model.model import RelationalModel
from modmeta.search.infer import Inferred

SINGLE = "_single"  # of measures of single rollouts


class BySize(Metric):
    """Edge accuracy by number of entities."""

    full_state_update = False
    rows: list[Tensor]  # one a batch, (1, 3): entities, correct edges, edges

    def __init__(self) -> None:
        super().__init__()
        self.add_state("rows", [], dist_reduce_fx="cat")

    def update(self, right: Tensor, entities: int) -> None:
        """Adds whether edges (any shape) of tasks of one size are correct."""
        self.rows.append(torch.tensor([[entities, int(right.sum()), right.numel()]], device=right.device))

    def compute(self) -> dict[int, Tensor]:
        rows = dim_zero_cat(self.rows)
        of_size = {n: rows[rows[:, 0] == n].sum(0) for n in rows[:, 0].unique().tolist()}
        return {n: right / edges for n, (_, right, edges) in of_size.items()}


class ProtocolMeasures(nn.Module):
    """Edge accuracy and related measures, also by number of entities where that differs, and errors of forecasts.

    Structures are inferred from the frames before `observed_frames`. Forecasts start at frame `observed_frames` alone
    and are scored `steps` frames later by mean squared error over entities and features in protocol units. Tasks with
    too few frames are scored on the steps that they have. A model that forecasts the mean of an ensemble is scored by
    single rollouts, too. Node modules are scored if entities have types.

    Args:
        num_modules: K.
        num_relations: R.
        observed_frames: frames that structures are inferred from.
        steps: steps at which forecasts are scored.
        num_types: number of types of entities.
    """

    def __init__(
        self, num_modules: int, num_relations: int, observed_frames: int, steps: tuple[int, ...], num_types: int = 1
    ) -> None:
        super().__init__()
        self.num_relations, self.observed_frames, self.steps = num_relations, observed_frames, steps
        self.confusion = Confusion(num_relations, num_relations)
        self.types = Confusion(num_types, num_types)
        self.whole, self.by_size = MeanMetric(), BySize()
        self.errors = {f"mse_{step}{of}": MeanMetric() for of in ("", SINGLE) for step in steps}
        self._children = nn.ModuleList(self.errors.values())  # moves them to the device of the module
        self.binary: MetricCollection | None = None
        if num_relations == 2:
            self.binary = MetricCollection({"auroc": BinaryAUROC(), "auprc": BinaryAveragePrecision()})
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
        """Adds a batch: states (B, N, T, D) and, if there are labels, relations (B, N, S) and types (B, N).

        Relations `known` to the search, (B, N, S) and not -1, count in `tasks_all_right` alone.
        """
        if relations is not None:
            found = module_to_relation[inferred.structure.edge_modules]
            chance = inferred.probabilities @ nn.functional.one_hot(module_to_relation, self.num_relations).float()
            chance = chance.clamp(0, 1)  # rounding
            self.update_edges(found, chance, relations, known)
        if types is not None and module_to_type is not None:
            self.types.update(module_to_type[inferred.structure.node_modules], types)
        structure = inferred.structure

        def forecast(single: bool, seen: Tensor, steps: int) -> Tensor:
            acting = model.acting(seen, structure)
            ahead = model.forecast(seen[:, :, -1], acting, steps, model.drive(seen, structure), single)
            truth = states[:, :, seen.shape[2] : seen.shape[2] + steps]
            return model.dynamics.nearest(ahead, truth)  # errors of angles are less than half a turn

        self.update_forecasts(partial(forecast, False), states)
        if model.members > 1:
            self.update_forecasts(partial(forecast, True), states, SINGLE)

    def update_edges(self, found: Tensor, chance: Tensor, relations: Tensor, known: Tensor | None = None) -> None:
        """Adds inferred relations (B, N, S), their probabilities (B, N, S, R), and the true ones."""
        asked = torch.ones_like(found, dtype=torch.bool) if known is None else known < 0
        self.confusion.update(found[asked], relations[asked])
        self.by_size.update((found == relations)[asked], found.shape[1])
        self.whole.update((found == relations).flatten(1).all(dim=1).float())
        self.f1.update(found[asked], relations[asked])
        if self.binary is not None:
            self.binary.update(chance[..., 1][asked], relations[asked])

    def update_forecasts(self, forecast: Callable[[Tensor, int], Tensor], states: Tensor, of: str = "") -> None:
        """Adds errors of forecasts.

        Args:
            forecast: function of the frames up to the last given one, (B, N, `observed_frames` + 1, D), and of a number
                of steps; returns (B, N, steps, D).
            states: true states (B, N, T, D).
            of: what the names of the measures end with.
        """
        start = self.observed_frames
        reachable = [step for step in self.steps if start + step < states.shape[2]]
        if not reachable:
            return
        ahead = forecast(states[:, :, : start + 1], max(reachable))
        for step in reachable:
            self.errors[f"mse_{step}{of}"].update((ahead[:, :, step - 1] - states[:, :, start + step]).square())

    def compute(self) -> dict[str, Tensor]:
        """Returns measures by name; omits those without data."""
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
            if self.binary is not None:
                out |= self.binary.compute()
        if self.types.update_called:
            counts = self.types.matrix()
            out["type_accuracy"] = counts.diagonal().sum() / counts.sum()
        return out | {name: error.compute() for name, error in self.errors.items() if error.update_called}

    def reset(self) -> None:
        """Discards all batches."""
        for measure in (*self.children(), *self.errors.values()):
            if isinstance(measure, Metric | MetricCollection):
                measure.reset()
