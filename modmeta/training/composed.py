"""BounceGrad over compositions: search step on the examples of a task, gradient steps on its queries.

Letters: B tasks, P points, I inputs, O outputs, S slots, F of these with a choice, K modules, R hidden functions.
"""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Optimizer

from modmeta.compositions.births import forget, renew
from modmeta.compositions.chains import chain_start, chains, teach
from modmeta.compositions.cold_start import adds, cold_start
from modmeta.compositions.concatenations import concatenates, concatenation_start
from modmeta.compositions.infer import Structures, few, found, functions, infer, posterior, weighed
from modmeta.compositions.problem import (
    ComposedModel,
    CompositionProblem,
    enumerates,
    kernel_of,
    random_slots,
)
from modmeta.compositions.proposal import SetProposal
from modmeta.errors import UserError
from modmeta.evaluation.calibration import calibration_error
from modmeta.evaluation.matching import match_labels
from modmeta.graph.bank import Structure
from modmeta.keys import INPUTS, OUTPUTS, SLOTS, TASK
from modmeta.search.candidates import current_row
from modmeta.search.exact import receiver_rows
from modmeta.search.search import Search
from modmeta.search.selection import greedy
from modmeta.search.temperature import Temperature
from modmeta.shapes import Bool, Int
from modmeta.training.banked import BankedModule
from modmeta.training.distributed import over_processes
from modmeta.training.fewshot import FewShot
from modmeta.training.module import Scheduler

# Cold starts: of which compositions, and whether they find all structures.
COLD = ((adds, cold_start, True), (chains, chain_start, True), (concatenates, concatenation_start, False))
HOLD = 0.5  # of the run, in which modules learn the structures of a cold start
RENEWALS = (0.05, 0.8)  # first and last part of the run in which modules are renewed
LOOKED_AT = 200  # tasks, by which modules are judged
AT_ONCE = 500  # tasks that are searched at once after that
TEMPERATURES = [float(part) for part in np.geomspace(1, 500, 28)]  # of the posterior, from which one is chosen


class ComposedBounceGrad(BankedModule, FewShot):
    """Alternates a search over the structures of a batch of tasks with gradient steps on the modules.

    1. *Search step* on the first `searched` points of every task of the batch; structures persist in the bank.
    2. *Gradient steps* on the other points, structures fixed: the first on this batch, with tasks of the bank beside
       it, the others on tasks of the bank alone, whose structures cost nothing.
    3. *Proposal step*, where structures are too many to enumerate.
    4. Every `renewed` batches, modules that are not needed are replaced (`modmeta.compositions.births`), and
       structures of all tasks searched anew.

    Args:
        model: libraries and their composition.
        search: as for graphs; see `kernel_of`.
        temperature: of `modmeta.search.temperature`.
        optimizer: of the modules, a partial waiting for parameters.
        scheduler: of the learning rate, a partial waiting for optimiser, steps and epochs of the run.
        proposal: network from examples to logits; None for uniform samples.
        proposal_optimizer: of the proposal network.
        gradient_clip: largest norm of the modules' gradient.
        support: examples of a validation or test task.
        searched: points of a training task that the search sees; the gradient steps use the others.
        gradient_steps: after every search step.
        gradient_tasks: tasks of a gradient step.
        renewed: batches between two replacements of modules; 0 for none.
        explained: mean squared error below which a task counts as explained.
        num_functions: R, hidden functions in the labels, for measures.
        seed: of the search.

    Raises:
        UserError: no gradient step is taken.
    """

    labels: Tensor
    twin: Tensor
    calibrated: Tensor

    def __init__(
        self,
        model: ComposedModel,
        search: Search,
        temperature: Temperature,
        optimizer: Callable[..., Optimizer],
        scheduler: Callable[..., Scheduler] | None = None,
        proposal: SetProposal | None = None,
        proposal_optimizer: Callable[..., Optimizer] | None = None,
        gradient_clip: float = 1.0,
        support: int = 8,
        searched: int = 16,
        gradient_steps: int = 4,
        gradient_tasks: int = 128,
        renewed: int = 60,
        explained: float = 0.003,
        num_functions: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(support, searched, seed)
        self.model, self.search, self.temperature, self.proposal = model, search, temperature, proposal
        self.make_optimizer, self.make_scheduler = optimizer, scheduler
        self.make_proposal_optimizer = proposal_optimizer
        self.gradient_clip = gradient_clip
        self.gradient_steps, self.gradient_tasks = gradient_steps, gradient_tasks
        self.renewed, self.explained, self.num_functions = renewed, explained, num_functions
        if gradient_steps < 1:
            raise UserError(f"method.gradient_steps={gradient_steps} must be at least 1, or no module learns")
        self.names = tuple(dict.fromkeys(model.composition.slots))
        # Hidden function of every module of every library.
        self.register_buffer("labels", torch.zeros(len(self.names), max(model.sizes), dtype=torch.long))
        self.register_buffer("twin", torch.zeros((), dtype=torch.long))  # which of the composition's twins was learned
        # Temperature at which examples of validation tasks foretell the structures that all of their points tell.
        self.register_buffer("calibrated", torch.ones(()))
        # Structures, labels and probabilities of the split that is gone through.
        self.found: list[tuple[Tensor, Tensor, Tensor]] = []

    # ---- set-up ----------------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> tuple[list[Optimizer], list[Scheduler]]:
        modules = self.make_optimizer(self.model.parameters())
        self.total_steps = int(self.trainer.estimated_stepping_batches)
        optimizers = [modules]
        if self.proposal is not None and self.make_proposal_optimizer is not None:
            optimizers.append(self.make_proposal_optimizer(self.proposal.parameters()))
        return optimizers, self.scheduled(modules, self.make_scheduler)

    def on_fit_start(self) -> None:
        super().on_fit_start()
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        points, name = min((self.support, "data.support"), (self.searched, "method.searched"))
        outputs = data.splits["train"].y.shape[2]
        if (told := few(self.model, points * outputs)) and self.trainer.is_global_zero:
            print(f"warning: {name}={points}: {told}; set it to {-(-len(self._free) // outputs)} at least",
                  file=sys.stderr)  # fmt: skip
        every = torch.Generator().manual_seed(self.seed)  # drawn for all tasks, so that sharding changes nothing
        most = int(data.splits["train"].slots.max()) + 1 if data.splits["train"].slots.numel() else 0
        if most > self.num_functions:
            raise UserError(
                f"method.num_functions={self.num_functions}, but tasks are made of {most} functions; set it to that"
            )
        start, ids = random_slots(data.num_tasks, self.model.sizes, every), data.owned_tasks()
        if self._cold and self.done == 0:
            train = data.splits["train"]
            begin = next(begin for fits, begin, _ in COLD if fits(self.model))
            cold = begin(self.model, train.x, train.y, self.seed)
            for name, (inputs, values) in cold.values.items():
                teach(self.model.libraries[name], inputs, values)  # type: ignore[arg-type]
            start = Structure(cold.structures.unsqueeze(1), start.node_modules)
        self.fill_bank(ids, start, torch.tensor(self.model.sizes), 1)

    @property
    def _cold(self) -> bool:
        """Whether structures come from a cold start.

        Raises:
            UserError: no cold start is of this composition.
        """
        if self.search.start == "random":
            return False
        if self.search.start != "laws" or not any(fits(self.model) for fits, _, _ in COLD):
            raise UserError(
                f"search.start={self.search.start} needs a composition that adds single modules, or chains or "
                "concatenates those of one library: model.composition a Sum or Chain of libraries, or a Chain of a "
                "Concatenate, of few enough structures, and a head of one module; set search.start=random"
            )
        return True

    @property
    def _held(self) -> bool:
        """Whether structures come from a cold start that leaves none to be found."""
        return self._cold and any(fits(self.model) and whole for fits, _, whole in COLD)

    # ---- training --------------------------------------------------------------------------------------------------

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        assert self.bank is not None
        assert self.generator is not None
        tasks, part = batch[TASK], slice(self.searched)
        x, y = batch[INPUTS][:, part], batch[OUTPUTS][:, part]
        logits = None if self.proposal is None else self.proposal(x, y)
        temperature = self.temperature.at(self.done / self.total_steps)
        structure = self.bank.get(tasks)
        held = self._held and self.done < HOLD * self.total_steps
        kernel = receiver_rows(current_row, greedy) if held else kernel_of(self.search, self.model)
        new, info = kernel(self.generator, structure, self._problem(x, y, logits), temperature)
        self.temperature.observe(over_processes(info.worse), over_processes(info.accepted))
        self.bank.put(tasks, new, info.energies)
        loss = self._gradient_steps(batch, new)
        if logits is not None and len(self.all_optimizers()) > 1 and self.proposal is not None:
            labels = new.edge_modules.flatten()
            proposal_loss = F.cross_entropy(logits.flatten(0, 2), labels)
            self.descend(proposal_loss, list(self.proposal.parameters()), float("inf"), 1)
        self.count_step()
        self.step_schedulers()
        self._renew()
        values = {"loss": loss, "changed": info.changed, "temperature": self.temperature.value}
        self.keep_means({f"train/{name}": value for name, value in values.items()}, len(tasks))

    def _problem(self, x: Tensor, y: Tensor, logits: Tensor | None) -> CompositionProblem:
        asked = logits is not None and not self.search.uniform and not enumerates(self.search, self.model)
        return CompositionProblem(self.model, x, y, logits.detach() if asked and logits is not None else None)

    def _gradient_steps(self, batch: dict[str, Tensor], structure: Structure) -> Tensor:
        """Takes the gradient steps and returns the loss of the batch."""
        assert self.bank is not None
        assert self.generator is not None
        train, rest = self.trainer.datamodule.splits["train"], slice(self.searched, None)  # type: ignore[attr-defined]
        first = torch.zeros(())
        for step in range(self.gradient_steps):
            more = self.gradient_tasks - (len(structure.edge_modules) if step == 0 else 0)
            some = torch.randint(len(self.bank.task_ids), (max(more, 0),), generator=self.generator, device=self.device)
            ids = self.bank.task_ids[some.cpu()]
            x, y = train.x[ids].to(self.device), train.y[ids].to(self.device)
            rows = self.bank.get(ids).edge_modules[:, 0]
            if step == 0:
                x, y = torch.cat((batch[INPUTS], x)), torch.cat((batch[OUTPUTS], y))
                rows = torch.cat((structure.edge_modules[:, 0], rows))
            squares = self.model.squares(x[:, rest], y[:, rest], rows)
            loss = self.model.energy(squares, 1).mean()
            self.descend(loss, list(self.model.parameters()), self.gradient_clip)
            if step == 0:
                first = loss.detach()
        return first

    def _renew(self) -> None:
        """Replaces modules that are not needed, now and then."""
        done, (begin, end) = self.done / self.total_steps, RENEWALS
        if not self.renewed or self.done % self.renewed or not begin < done < end:
            return
        if self._held or not enumerates(self.search, self.model) or self.trainer.world_size > 1:
            return
        assert self.generator is not None
        train: Any = self.trainer.datamodule.splits["train"]  # type: ignore[attr-defined]
        ids = torch.randperm(len(train), generator=self.generator, device=self.device)[:LOOKED_AT].cpu()
        x, y = train.x[ids].to(self.device), train.y[ids].to(self.device)
        replaced = renew(self.model, x, y, self.explained, self.generator)
        forget(self.all_optimizers()[0].optimizer, self.model, replaced)
        if replaced:
            self._search_all(train)

    def _search_all(self, train: Any) -> None:
        """A search step for all tasks, or structures from before a module was replaced would make it what it was."""
        assert self.bank is not None
        assert self.generator is not None
        kernel, part = kernel_of(self.search, self.model), slice(self.searched)
        for ids in self.bank.task_ids.split(AT_ONCE):
            problem = self._problem(train.x[ids, part].to(self.device), train.y[ids, part].to(self.device), None)
            new, info = kernel(self.generator, self.bank.get(ids), problem, self.temperature.value)
            self.bank.put(ids, new, info.energies)

    # ---- tasks never trained on ------------------------------------------------------------------------------------

    @torch.no_grad()
    def infer(self, x: Tensor, y: Tensor) -> Structures:
        """Structures of new tasks from examples (B, P, I) and values (B, P, O); the same for the same input."""
        logits = self.proposal(x, y) if self.proposal is not None else None
        return infer(self._problem(x, y, logits), self.search, float(self.calibrated), self.seed)

    def predict(self, x: Tensor, y: Tensor, queries: Tensor) -> Tensor:
        return self._predicted(queries, self.infer(x, y).structures)

    @torch.no_grad()
    def _predicted(self, queries: Tensor, structure: Tensor) -> Tensor:
        values: Tensor = self.model(queries, structure)
        return values

    def errors(self, batch: dict[str, Tensor]) -> Tensor:
        x, y, n = batch[INPUTS], batch[OUTPUTS], self.support
        inferred = self.infer(x[:, :n], y[:, :n])
        if SLOTS in batch and self._labelled(batch[SLOTS]):
            self.found.append((inferred.structures, batch[SLOTS], inferred.probability))
        return (self._predicted(x[:, n:], inferred.structures) - y[:, n:]).square().mean((-1, -2))

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        super().validation_step(batch, batch_idx)
        x, y, n = batch[INPUTS], batch[OUTPUTS], self.support
        told, asked = self._problem(x[:, :n], y[:, :n], None), self._problem(x, y, None)
        truth = found(asked, self.search, self.seed)
        energies, rows, current = weighed(told, self.search, truth)
        function = functions(self.model, rows)
        for place, temperature in enumerate(TEMPERATURES):
            chance = posterior(energies, function, temperature).gather(1, current.unsqueeze(1))
            self.keep_means({f"fit/{place}": -chance.clamp_min(1e-12).log().mean().float()}, len(x))

    def _labelled(self, slots: Tensor) -> bool:
        return slots.shape[1] == len(self._free)

    @property
    def _free(self) -> list[int]:
        """Slots with a choice."""
        return [slot for slot, size in enumerate(self.model.sizes) if size > 1]

    def on_validation_epoch_end(self) -> None:
        losses = [over_processes(self.sums.pop(f"fit/{place}")) for place in range(len(TEMPERATURES))]
        self.calibrated.fill_(TEMPERATURES[int(torch.stack([total[0] / total[1] for total in losses]).argmin())])
        super().on_validation_epoch_end()
        if self.found:
            structure, slots, _ = (torch.cat(part) for part in zip(*self.found, strict=True))
            self._match(structure, slots)
            self.log("val/structures", self.right(structure, slots).float().mean())
        self.found = []

    def on_test_epoch_end(self) -> None:
        super().on_test_epoch_end()
        if self.found:
            structure, slots, sure = (torch.cat(part) for part in zip(*self.found, strict=True))
            right = self.right(structure, slots)
            either = torch.stack((sure, 1 - sure), -1)
            self.log("test/structures", right.float().mean())
            self.log("test/confidence", sure.mean())
            self.log("test/calibration_error", calibration_error(either, (~right).long()))
        self.found = []

    def _match(self, structure: Tensor, slots: Tensor) -> None:
        """Matches modules of every library to hidden functions; slots that may change places count together."""
        best, least = (self.labels.clone(), self.twin.clone()), -1.0
        for twin, order in enumerate(self.model.composition.twins()):
            true = self._placed(slots)[:, order]
            self._label(structure, true)
            self.twin.fill_(twin)
            share = float(self.right(structure, slots).float().mean())
            if share > least:
                best, least = (self.labels.clone(), self.twin.clone()), share
        self.labels.copy_(best[0])
        self.twin.copy_(best[1])

    def _placed(self, slots: Tensor) -> Tensor:
        """Hidden functions (B, S) of all slots, 0 where there is no choice."""
        true = slots.new_zeros(len(slots), len(self.model.sizes))
        true[:, self._free] = slots
        return true

    def _label(self, structure: Tensor, slots: Tensor) -> None:
        """Names modules by the hidden functions (B, S) that they are chosen for."""
        names, free = self.model.composition.slots, self._free
        moved = self.model.composition.alike(structure) != structure
        for number, name in enumerate(self.names):
            mine = [slot for slot in free if names[slot] == name]
            if not mine:
                continue
            chosen = F.one_hot(structure[:, mine], self.labels.shape[1]).float()
            true = F.one_hot(slots[:, mine], self.num_functions).float()
            if bool(moved.any()):
                counts = torch.einsum("bk,br->kr", chosen.amax(1), true.amax(1))
            else:
                counts = torch.einsum("bsk,bsr->kr", chosen, true)
            size = len(self.model.libraries[name])  # type: ignore[arg-type]
            self.labels[number, :size] = match_labels(counts[:size])

    def right(self, structure: Int[Tensor, "B S"], slots: Int[Tensor, "B F"]) -> Bool[Tensor, " B"]:
        """Whether all slots of a task are right, (B,), modules matched on validation tasks.

        Args:
            structure: modules of every slot (B, S).
            slots: hidden functions of every slot with a choice (B, F).
        """
        names, named = self.model.composition.slots, structure.clone()
        for slot in self._free:
            named[:, slot] = self.labels[self.names.index(names[slot])][structure[:, slot]]
        alike, order = self.model.composition.alike, self.model.composition.twins()[int(self.twin)]
        return (alike(named) == alike(self._placed(slots)[:, order])).all(1)
