"""BounceGrad (Alet et al. 2018, 2019) as a LightningModule: search step, gradient step, proposal step."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from modmeta.data.loading.batches import by_size
from modmeta.errors import UserError
from modmeta.evaluation.agreement import agreement
from modmeta.evaluation.gain import gain
from modmeta.evaluation.matching import Confusion, Distances, match_labels, matched_accuracy
from modmeta.evaluation.nulls import Compared
from modmeta.evaluation.verdict import Verdict
from modmeta.graph.bank import Structure, StructureBank, mark_absent, random_structure
from modmeta.keys import GROUP, KNOWN, MASK, RELATIONS, STATES, TASK, TYPES
from modmeta.model.basis import FoundLaws
from modmeta.model.grouped import Kept
from modmeta.model.model import RelationalModel, Told
from modmeta.model.sight import counted
from modmeta.search.infer import Inferred
from modmeta.search.problem import Info, Problem, clamped
from modmeta.search.search import Search
from modmeta.search.temperature import Temperature
from modmeta.search.weights import RealWeights, Weights, centres
from modmeta.training.banked import BankedModule
from modmeta.training.callbacks.checkpoints import Checkpoints
from modmeta.training.capture import Recorded, recorder
from modmeta.training.distributed import gather, over_processes
from modmeta.training.groups import Groups, check_groups
from modmeta.training.module import Scheduler
from modmeta.training.trained import Trained, few

Made = TypeVar("Made")

# Of the run. From then on laws and structures are good enough to tell the paths of close pairs, and scales of errors
# follow at once as laws get exact; a scale that shrinks early would end the annealing before its time.
LATE = 0.7
LOOK = 50  # steps after which gradients on a GPU are looked at
WEIGHED = 0.6  # of the run, in which edges have real weights on one law, where it starts so
NOT_OF_RUN = "start.npz is not of this run; remove the run directory and start again"
HOLD = 0.15  # of the run, in which modules learn the structures of a cold start
HOLD_LONG = 0.6  # where many recordings, or rows too long to enumerate, tell more than new modules can
STUCK = 0.6  # agreement (weighted kappa) of structures from two halves of the frames, below which a run is in doubt


class Beginning(NamedTuple):
    """What training begins with.

    Attributes:
        relations: of every training task, or group of tasks, (tasks, N, S), -1 in slots of entities that it lacks.
        laws: of every edge module.
        temperature: of the search at its start, at which the structures' probabilities are calibrated.
        compared: laws with both nulls, by all tasks of training and validation, where these are few; else None.
    """

    relations: Tensor
    laws: FoundLaws
    temperature: float
    compared: Compared | None = None


class Taken(NamedTuple):
    """What a step found, without gradients; those are in the parameters.

    Attributes:
        structure: new structures.
        energies, changed, worse, accepted: see `Info`.
        logits: of the proposal network, (B, N, S, K).
        loss: energy per observed number.
        proposal_loss: of the proposal network.
    """

    structure: Structure
    energies: Tensor
    changed: Tensor
    worse: Tensor
    accepted: Tensor
    logits: Tensor
    loss: Tensor
    proposal_loss: Tensor


class BounceGrad(Trained, BankedModule):
    """Alternates, for every batch of tasks, a search over their structures with gradient steps on the modules.

    1. *Search step*: may change the structure of every task, judged by the energy of the observed frames.
    2. *Gradient step* on all modules, structures fixed.
    3. *Proposal step*: the proposal network takes the current structures as labels.

    A batch holds tasks of one number of entities; the modules depend on none and are shared by all. The loss of a step
    is the mean over all observed numbers, so that tasks count alike, whatever their size.

    Where tasks come in groups, the tasks of a group share a structure. A batch then takes the gradient step alone, and
    the search step is one for all, at the beginning of every epoch: energies are summed over the tasks of a group
    (`modmeta.search.pooled`).

    Structures persist in `bank`. Validation and test tasks are met with the modules frozen, their structures searched
    from random ones by the same code; test tasks only after training.

    Args:
        model: dynamics and likelihood.
        proposal: network from states to logits of relations.
        search: the four choices of a search step.
        temperature: of `modmeta.search.temperature`.
        optimizer: of the modules, a partial waiting for parameters.
        proposal_optimizer: of the proposal network.
        scheduler: of the modules' learning rate, a partial waiting for optimiser, steps and epochs of the run; a
            `ReduceLROnPlateau` follows the training loss of each epoch, any other moves every step.
        gradient_clip: largest norm of the modules' gradient.
        accepted_only: the proposal network learns from receivers whose structure just changed, as published, instead of
            from all.
        num_relations: relation types in the labels, for measures.
        observed_frames: frames that structures are inferred from.
        forecast_steps: steps at which forecasts are scored.
        seed: of the search.
        num_types: types of entities in the labels, for measures of node modules.
        persist: the search of a task begins from the structure of its last visit, or from a random one (ablation).
        soft: expectation maximisation instead of following the structures drawn: a gradient step weighs the energies of
            all rows of a receiver by their probabilities at the temperature. (Not in the paper; where all receivers
            move, and all rows are tried.)
        searched_frames: first frames of a training task, whose steps alone the search sees; gradient steps use the
            other steps, as support and query of the paper. None for all steps in both. A cold start and the proposal
            network see all.
    """

    def __init__(
        self,
        model: RelationalModel,
        proposal: nn.Module,
        search: Search,
        temperature: Temperature,
        optimizer: Callable[..., Optimizer],
        proposal_optimizer: Callable[..., Optimizer],
        scheduler: Callable[..., Scheduler] | None = None,
        gradient_clip: float = 1.0,
        accepted_only: bool = False,
        num_relations: int = 2,
        observed_frames: int = 49,
        forecast_steps: tuple[int, ...] = (1, 10, 20),
        seed: int = 0,
        num_types: int = 1,
        persist: bool = True,
        soft: bool = False,
        searched_frames: int | None = None,
    ) -> None:
        super().__init__(
            model, proposal, search, temperature, optimizer, proposal_optimizer, scheduler, gradient_clip,
            accepted_only, num_relations, observed_frames, forecast_steps, seed, num_types, persist, soft,
            searched_frames,
        )  # fmt: skip
        k, g = model.dynamics.num_edge_modules, model.dynamics.num_node_modules
        self.type_confusion = Confusion(g, num_types)  # of validation tasks
        self.halves = Confusion(k, k)  # of the structures that two halves of their frames tell
        self.distances = Distances(k)
        self.searched, self.proposed = Confusion(k, num_relations), Confusion(k, num_relations)  # of training tasks
        self.beginning: Beginning | None = None
        self.groups: Groups | None = None
        self.norms: list[Tensor] = []  # of the gradients that were not looked at yet
        self.verdict: Verdict | None = None  # at the end of training
        self.steps: Recorded[Taken] | None = None  # made in on_fit_start

    def begin_with(self, beginning: Beginning) -> None:
        """Gives the module what a cold start found, before it is fitted."""
        self.beginning = beginning

    # ---- set-up ----------------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> tuple[list[Optimizer], list[Scheduler]]:
        groups = [group for group in self.model.parameter_groups() if group["params"]]
        if self.relaxed is not None:
            groups.append({"params": list(self.relaxed.parameters()), "weight_decay": 0.0})
        modules = self.make_optimizer(groups)
        proposal = self.make_proposal_optimizer(self.proposal.parameters())
        self.total_steps = int(self.trainer.estimated_stepping_batches)
        return [modules, proposal], self.scheduled(modules, self.make_scheduler)

    def on_fit_start(self) -> None:
        super().on_fit_start()
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if self.done == 0:
            self.model.dynamics.set_scales(data.model_scales())
            if self.beginning is not None:
                try:
                    self.model.dynamics.begin(self.beginning.laws)
                except (RuntimeError, IndexError) as error:  # shapes
                    raise UserError(f"{NOT_OF_RUN} ({error})") from error
        self.known = float(data.known)
        dynamics = self.model.dynamics
        every = torch.Generator().manual_seed(self.seed)  # drawn for all tasks, so that sharding changes nothing
        train = data.splits["train"]
        grouped = train.groups is not None
        if self.searched_frames is not None:
            self._check_split(self.searched_frames, train.states.shape[2], grouped)
        if grouped:
            check_groups(self.search, self.soft, self.persist, self.known, dynamics.spread is not None)
        # every process has the structures of all groups, whose tasks may be spread over processes
        ids = torch.arange(data.num_groups) if grouped else data.owned_tasks()
        count = len(ids) if grouped else data.num_tasks
        if self.soft and not self.search.enumerates(self.model, train.states.shape[1]):
            rows = f"{dynamics.num_node_modules} * {dynamics.num_edge_modules}^{train.states.shape[1] - 1}"
            raise UserError(
                f"method.soft=true weighs all rows of a receiver, here {rows}, but "
                f"search.enumerate_up_to={self.search.enumerate_up_to}"
            )
        start = random_structure(
            count, train.states.shape[1], dynamics.num_edge_modules, dynamics.num_node_modules, every
        )
        if self.beginning is not None:
            relations = self.beginning.relations
            if relations.shape != start.edge_modules.shape or int(relations.max()) >= dynamics.num_edge_modules:
                raise UserError(NOT_OF_RUN)
            start = Structure(relations, start.node_modules)
        if train.counts is not None:
            counts = train.counts
            if train.groups is not None:  # all tasks of a group have as many entities
                counts = torch.full((count,), train.states.shape[1]).scatter(0, train.groups, counts)
            start = mark_absent(start, counts)
        self.shared_bank = grouped
        self.fill_bank(ids, start, torch.tensor(dynamics.num_edge_modules), dynamics.num_node_modules)
        if grouped:
            frames, bank = self.observed_frames, self._made(self.bank)
            self.groups = Groups(data, self.model, self.search, bank, frames, self.seed, self.device)
        record = recorder(self.device) if self.trainer.world_size == 1 else None
        parameters, buffers = list(self.parameters()), list(self.buffers())
        self.steps = Recorded(self._take, parameters, self._made(self.generator), record, buffers)

    def on_fit_end(self) -> None:
        self._made(self.steps).forget()

    @staticmethod
    def _check_split(searched: int, frames: int, grouped: bool) -> None:
        """
        Raises:
            UserError: the search, or the gradient steps, are left without a step, or search all tasks of a group.
        """
        if grouped:
            raise UserError("method.searched_frames splits tasks, but the search of groups sees all; set it to null")
        if not 2 <= searched < frames:
            raise UserError(
                f"method.searched_frames={searched} must be from 2 to {frames - 1}, one less than the frames of a task"
            )

    @staticmethod
    def _made(part: Made | None) -> Made:
        assert part is not None, "made in on_fit_start"
        return part

    # ---- training --------------------------------------------------------------------------------------------------

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        bank, generator = self._made(self.bank), self._made(self.generator)
        states, tasks = batch[STATES], batch[GROUP if self.groups is not None else TASK]
        if self.relaxed is not None and self.done <= self._weighed_steps:
            if self.done < self._weighed_steps:
                return self._weigh(batch, self.relaxed)
            self._settle(bank, self.relaxed)
        structure = clamped(self._begin(bank, tasks, states.shape[1], generator), batch.get(KNOWN))
        given = {"edges": structure.edge_modules, "nodes": structure.node_modules, "temperature": self._temperature()}
        given |= {name: batch[name] for name in (STATES, MASK, KNOWN) if name in batch}
        for optimizer in self.all_optimizers():
            optimizer.zero_grad()
        try:
            taken = self._made(self.steps)((self._refines, self._stays), given)
        except RuntimeError as error:  # nothing can be drawn from, or solved for, where energies are not numbers
            broken = "probability" in str(error) or isinstance(error, torch.linalg.LinAlgError)
            raise (self._not_finite(tasks, "energies are") if broken else error) from None
        self.temperature.observe(over_processes(taken.worse), over_processes(taken.accepted))
        bank.put(tasks, taken.structure, taken.energies)
        self._descend(taken.loss, tasks)
        self._log_step(batch, taken)

    def _take(self, given: dict[str, Tensor]) -> Taken:
        """The part of a step that needs tensors alone: search, then gradients of modules and proposal network.

        It may be recorded (`modmeta.training.capture`), so that nothing in it depends on the number of the step.

        Args:
            given: states, mask and known relations as in a batch, edge and node modules, temperature.
        """
        states, structure = given[STATES], Structure(given["edges"], given["nodes"])
        logits, temperature = self.proposal(states), given["temperature"]
        support = query = slice(0, states.shape[2])  # frames
        if self.searched_frames is not None:
            support, query = slice(0, self.searched_frames), slice(self.searched_frames - 1, states.shape[2])
        problem = self._problem(given, structure, logits, support)
        kernel = self.search.holding() if self._stays else self.search.kernel(self.model, states.shape[1])
        new, info = kernel(self._made(self.generator), structure, _detached(problem), temperature)
        found = info.energies.detach()
        if query != support:
            problem = self._problem(given, structure, logits, query)
            if problem.horizon > 1:
                info = info._replace(
                    energies=problem.rollouts(torch.arange(len(states), device=states.device), new, Kept())
                )
        loss = self._energy(problem, new, info, temperature) / _numbers(problem.states, problem.mask)
        proposal_loss = self._proposal_loss(logits, new, info)
        self.backward_everywhere(loss + proposal_loss)  # disjoint parameters; one backward pass is what DDP expects
        losses = loss.detach(), proposal_loss.detach()
        return Taken(new, found, info.changed, info.worse, info.accepted, logits.detach(), *losses)

    @property
    def _stays(self) -> bool:
        """Whether steps search no structures."""
        return self._holds or self.groups is not None

    @property
    def _weighed_steps(self) -> int:
        return int(WEIGHED * self.total_steps)

    def _weigh(self, batch: dict[str, Tensor], relaxed: RealWeights) -> None:
        """A gradient step on one law, on which edges have real weights."""
        states, mask = batch[STATES], batch.get(MASK)
        energies, _ = relaxed(self.model, states, _first_modules(states), mask)
        loss = energies.sum() / _numbers(states, mask)
        for optimizer in self.all_optimizers():
            optimizer.zero_grad()
        self.backward_everywhere(loss)
        self._descend(loss, batch[TASK])
        self.keep_means({"train/loss": loss.detach() + self.model.unit}, len(states))

    @torch.no_grad()
    def _settle(self, bank: StructureBank, relaxed: RealWeights) -> None:
        """Makes structures of all tasks from their real weights, and edge modules from the law."""
        train, k = self.trainer.datamodule.splits["train"], self.model.dynamics.num_edge_modules  # type: ignore[attr-defined]
        found: list[tuple[Tensor, Tensor]] = []
        for ids in by_size(bank.task_ids, train.counts):
            for part in ids.split(few(train.states.shape[1])):
                batch = train[part.tolist()]
                states = batch[STATES].to(self.device)
                mask = batch[MASK].to(self.device) if MASK in batch else None
                weights = relaxed(self.model, states, _first_modules(states), mask)[1]
                found.append((part, torch.stack(weights).cpu()))
        every = torch.cat([torch.cat([of.flatten(1) for _, of in part], 1) for part in gather(found)], 1)
        middle = centres(Weights(*every), k)
        for part, (value, _) in found:
            nearest = (value.unsqueeze(-1) - middle).abs().argmin(-1)
            bank.put(part, Structure(nearest, torch.zeros_like(nearest[..., 0])), torch.full((len(part),), torch.inf))
        self.model.dynamics.multiply(middle)
        self.all_optimizers()[0].optimizer.state.clear()  # its moments are of other modules

    def _temperature(self) -> Tensor:
        """Of the step; after a cold start no more than it found, for heat would undo its structures."""
        temperature = self.temperature.at(self.done / self.total_steps)
        return temperature if self.beginning is None else temperature.clamp_max(self.beginning.temperature)

    @property
    def _holds(self) -> bool:
        """Whether structures stay: those of a start, until modules and scales of errors have learned them."""
        since = self.done - (0 if self.relaxed is None else self._weighed_steps)
        return (self.beginning is not None or self.relaxed is not None) and since < self._hold * self.total_steps

    @property
    def _hold(self) -> float:
        assert self.bank is not None
        entities = self.bank.types.shape[1]
        short = self.groups is None and self.search.enumerates(self.model, entities)
        return HOLD if short or self.search.horizon > 1 else HOLD_LONG

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        if self.groups is not None and not self._holds:
            self.groups.step(float(self._temperature()), self.done)

    def _problem(self, batch: dict[str, Tensor], structure: Structure, logits: Tensor, frames: slice) -> Problem:
        """Of the search step, of some frames; messages and score have gradients, and serve the gradient step, too."""
        model, search, states, mask = self.model, self.search, batch[STATES][:, :, frames], batch.get(MASK)
        mask = None if mask is None else mask[:, :, frames.start : frames.stop - 1]
        alone = search.horizon == 1
        return Problem(
            model,
            states,
            messages=model.messages(states, structure if self._refines else None, mask) if alone else None,
            score=model.scorer(states, mask=mask) if alone else None,
            horizon=search.horizon,
            known=batch.get(KNOWN),
            mask=mask,
            logits=logits.detach() if search.needs_proposal(model, states.shape[1]) else None,
            edge_cost=search.edge_cost,
            gradients=True,
            roles=search.of_roles(states.shape[1], states),
        )

    def _begin(self, bank: StructureBank, tasks: Tensor, entities: int, generator: torch.Generator) -> Structure:
        """Structures that a search step begins from."""
        if self.persist:
            return bank.get(tasks, entities)
        dynamics = self.model.dynamics
        return random_structure(len(tasks), entities, dynamics.num_edge_modules, dynamics.num_node_modules, generator)

    @property
    def _late(self) -> bool:
        return self.done >= LATE * self.total_steps

    @property
    def _refines(self) -> bool:
        """Whether steps see the paths of close pairs."""
        return self._late and self.search.horizon == 1

    def _energy(self, problem: Problem, structure: Structure, info: Info, temperature: Tensor) -> Tensor:
        """Energy of the batch under its new structures, with gradients; rollouts of the search serve again."""
        if problem.horizon > 1:
            return info.energies.sum()
        messages, score = problem.one_step()
        if self.soft:
            candidates, chance = info.candidates, (-info.scores / temperature).softmax(-1)
            return (chance * score.rows(messages, candidates.rows, candidates.types)).sum()
        return score.rows(messages, structure.edge_modules.unsqueeze(2), structure.node_modules.unsqueeze(2)).sum()

    def _proposal_loss(self, logits: Tensor, structure: Structure, info: Info) -> Tensor:
        labels = structure.edge_modules
        each = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="none").view(labels.shape)
        if self.accepted_only:
            weight = info.moved.view(-1, 1, 1).to(each.dtype)
            return (each * weight).sum() / (weight.sum() * each[0].numel()).clamp_min(1)
        return each.mean()

    def _descend(self, loss: Tensor, tasks: Tensor) -> None:
        """A step of both optimisers along the gradients of the loss."""
        modules, proposal = self.all_optimizers()
        if self._late or self.beginning is not None or self.relaxed is not None:
            self.model.likelihood.follow()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.gradient_clip)
        self._check_finite(norm, loss, tasks)
        modules.step()
        proposal.step()
        self.step_schedulers()
        self.count_step()

    def _check_finite(self, norm: Tensor, loss: Tensor, tasks: Tensor) -> None:
        """Stops training where a gradient is not finite.

        On a GPU it looks only now and then, for looking waits until the GPU is done. No checkpoint is written between.

        Raises:
            UserError: names the step and the last good checkpoint.
        """
        self.norms.append(norm)
        if norm.is_cuda and len(self.norms) < LOOK and not self.ends_epoch:
            return
        finite = torch.stack(self.norms).isfinite()
        self.norms.clear()
        if not bool(finite.all()):
            raise self._not_finite(tasks, f"loss {float(loss):g}: the gradient is")

    def _not_finite(self, tasks: Tensor, what: str) -> UserError:
        """What to tell where numbers are not finite any more."""
        paths = [part.path for part in self.trainer.checkpoint_callbacks if isinstance(part, Checkpoints)]
        kept = [f"the last good checkpoint is {path}" for path in paths if path.exists()]
        return UserError(
            f"training stopped at step {self.done} (epoch {self.current_epoch}, batch "
            f"{self.trainer.fit_loop.batch_idx}, training tasks {tasks.tolist()}): {what} not finite; "
            f"{(*kept, 'no checkpoint was written before')[0]}. Lower optimizer.modules.lr, or look for extreme values "
            "in these tasks"
        )

    def _log_step(self, batch: dict[str, Tensor], taken: Taken) -> None:
        size = len(batch[TASK])
        values = {
            "train/loss": taken.loss + self.model.unit,
            "train/proposal_loss": taken.proposal_loss,
            "train/changed": taken.changed,
            "train/accepted_worse": taken.accepted / taken.worse.clamp_min(1),
            "train/temperature": self.temperature.value,
        }
        if RELATIONS in batch:
            asked = _asked(batch)
            self.searched.update(taken.structure.edge_modules, batch[RELATIONS], asked)
            self.proposed.update(taken.logits.argmax(-1), batch[RELATIONS], asked)
        self.keep_means(values, size)

    def on_train_batch_end(self, outputs: Any, batch: dict[str, Tensor], batch_idx: int) -> None:
        super().on_train_batch_end(outputs, batch, batch_idx)
        if self.ends_epoch and self.searched.update_called:
            self._log_accuracies()
            self.logged |= {"train/edge_accuracy", "train/proposal_accuracy"}

    def _log_accuracies(self) -> None:
        """Accuracy of the structures found in this epoch, with labels matched on themselves: a curve, not a result."""
        searched, proposed = self.searched.matrix(), self.proposed.matrix()
        mapping = match_labels(searched)
        self.log("train/edge_accuracy", matched_accuracy(searched, mapping), on_step=False, on_epoch=True)
        self.log("train/proposal_accuracy", matched_accuracy(proposed, mapping), on_step=False, on_epoch=True)
        self.searched.reset()
        self.proposed.reset()

    @property
    def stuck(self) -> bool:
        """Whether the modules explain frames without relations behind them.

        Then the first and the last frames of a validation task tell different structures. Where modules stand for
        relations they tell the same. No label is needed.
        """
        return bool(self.agreement < STUCK)

    # ---- tasks never trained on ------------------------------------------------------------------------------------

    @property
    def _posterior_temperature(self) -> float:
        """Of groups before calibration: what a cold start found residuals' correlation to ask for."""
        return 1.0 if self.beginning is None else max(1.0, self.beginning.temperature)

    def on_validation_epoch_start(self) -> None:
        if self.groups is not None:
            self.groups.tell("valid", self._posterior_temperature)

    def on_test_epoch_start(self) -> None:
        if self.groups is not None:
            self.groups.tell("test", self._posterior_temperature, weigh=True)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        states = batch[STATES][:, :, : self.observed_frames]
        known, mask = batch.get(KNOWN), batch[MASK][..., : states.shape[2] - 1] if MASK in batch else None
        inferred = self.groups.of(batch) if self.groups else self.infer(states, known, mask=mask)
        energy = inferred.energies.sum() / _numbers(states, mask) + self.model.unit
        self.keep_means({"val/energy": energy}, len(states))
        if self.groups:  # structures are of training tasks, so that all frames are held out
            self.keep_means({"val/gain": self._gain(states, inferred, mask)}, len(states))
        if inferred.gap is not None:
            self.keep_means({"val/gap": inferred.gap.median()}, len(states))
            half = states.shape[2] // 2
            before, after = (None, None) if mask is None else (mask[..., :half], mask[..., half:])
            early = self.infer(states[:, :, : half + 1], known, False, before)
            late = self.infer(states[:, :, half:], known, False, after)
            held_out = self._held_out(states[:, :, half:], early, after)
            told = Told(states[:, :, : half + 1], early.structure, before)
            gain = self._gain(states[:, :, half:], early, after, told)
            self.keep_means({"val/held_out": held_out + self.model.unit, "val/gain": gain}, len(states))
            self.halves.update(early.structure.edge_modules, late.structure.edge_modules)
            self.distances.update(self.model.dynamics.messages(states[: few(states.shape[1])]))
        if RELATIONS in batch:
            asked = _asked(batch)
            self.confusion.update(inferred.structure.edge_modules[asked], batch[RELATIONS][asked])
        if TYPES in batch and self.module_to_type is not None:
            self.type_confusion.update(inferred.structure.node_modules, batch[TYPES])

    def _held_out(self, states: Tensor, inferred: Inferred, mask: Tensor | None) -> Tensor:
        """Energy of frames that had no part in finding the structures, nats a number; more modules may raise it."""
        relations, types = inferred.structure
        rows, types = relations.unsqueeze(2), types.unsqueeze(2)
        messages = self.model.messages(states, inferred.structure, mask)
        return self.model.receiver_energies(states, messages, rows, types, mask=mask).sum() / _numbers(states, mask)

    def _gain(self, states: Tensor, inferred: Inferred, mask: Tensor | None, told: Told | None = None) -> Tensor:
        """Nats a number gained over no relations in such frames."""
        model, start = self.model, states[:, :, :-1]
        error = model.errors(states, inferred.structure, mask, told=told)
        return gain(error, model.dynamics.targets(states), model.dynamics.scaled(start), mask)

    def on_validation_epoch_end(self) -> None:
        self.log_means("val/")
        if self.halves.update_called:
            counts = self.halves.matrix()
            self.agreement.copy_(agreement(counts, self.distances.compute()))
            self.distances.reset()
            self.usage.copy_((counts.sum(0) + counts.sum(1)) / (2 * counts.sum()))
            self.log("val/agreement", self.agreement.clone())
            self.halves.reset()
        if self.module_to_type is not None and self.type_confusion.update_called:
            counts = self.type_confusion.matrix()
            self.module_to_type.copy_(match_labels(counts))
            self.log("val/type_accuracy", matched_accuracy(counts, self.module_to_type))
            self.type_confusion.reset()
        if not self.confusion.update_called:
            return
        counts = self.confusion.matrix()
        self.module_to_relation.copy_(match_labels(counts))
        self.log("val/edge_accuracy", matched_accuracy(counts, self.module_to_relation))
        self.confusion.reset()

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        states = batch[STATES]
        known = batch.get(KNOWN)
        inferred = self.groups.of(batch) if self.groups else self.infer(states, known, mask=batch.get(MASK))
        self.measures.update(
            self.model, inferred, states, batch.get(RELATIONS), self.module_to_relation, known,
            batch.get(TYPES), self.module_to_type,
        )  # fmt: skip

    # ---- persistence -----------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        if self.norms and not bool(torch.stack(self.norms).isfinite().all()):
            raise self._not_finite(torch.tensor([]), "a gradient was")

    def epoch_state(self) -> dict[str, Any]:
        return super().epoch_state() | {"searched": self.searched.counts, "proposed": self.proposed.counts}

    def add_epoch_state(self, state: dict[str, Any]) -> None:
        super().add_epoch_state(state)
        for counts, now in ((state["searched"], self.searched), (state["proposed"], self.proposed)):
            now.counts += counts.to(self.device)
            now._update_count += bool(counts.sum())


def _first_modules(states: Tensor) -> Tensor:
    """The first node module for every entity of states (B, N, T, D), (B, N)."""
    return torch.zeros(states.shape[:2], dtype=torch.long, device=states.device)


def _asked(batch: dict[str, Tensor]) -> Tensor:
    """Which relations of a batch the search is not given, (B, N, S) bool."""
    return batch[KNOWN] < 0 if KNOWN in batch else torch.ones_like(batch[RELATIONS], dtype=torch.bool)


def _detached(problem: Problem) -> Problem:
    """The problem as a search step sees it, without gradients of messages."""
    return problem if problem.messages is None else replace(problem, messages=problem.messages.detach())


def _numbers(states: Tensor, mask: Tensor | None) -> Tensor | int:
    """Observed changes of features in states (B, N, T, D) that count."""
    b, n, t, d = states.shape
    return b * n * (t - 1) * d if mask is None else counted(mask).sum().clamp_min(1) * d
