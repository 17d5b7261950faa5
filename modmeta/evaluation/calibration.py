"""Calibration: temperatures of the posterior of edges, and widths of forecast bands."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from modmeta.evaluation.exchange import Exchanged, temperatures
from modmeta.evaluation.forecasts import HELD, NORMAL, Bands, ensemble
from modmeta.evaluation.nulls import FEWEST, SHORTEST, mean_gain
from modmeta.evaluation.posterior import enumerable, exact_of, scorer, table
from modmeta.evaluation.rival import affordable, likeness, strongest, told_apart
from modmeta.evaluation.verdict import CHANCE
from modmeta.graph.bank import Structure
from modmeta.model.model import RelationalModel, Told
from modmeta.search.candidates import normalised
from modmeta.search.cold_start.certainty import kappa, together
from modmeta.search.infer import infer
from modmeta.search.search import Search

WINDOWS = (10, 20, 49)  # frames
TEMPERATURES = np.geomspace(1, 3000, 61)  # candidates; at least 1, so never sharper than the likelihood
WIDE = np.geomspace(0.1, 3000, 78)  # candidates where laws may be too weak
COARSE = TEMPERATURES[::4]
TASKS, LEAST, EDGES = 100, 20, 5_000  # at most; and at least, if they have so many edges
STEP = float(TEMPERATURES[2] / TEMPERATURES[0])  # between temperatures that foretell
BETTER = 1e-5  # nats a number by which the next one must
LESS = 0.5  # of the agreement of the model's halves that those of laws which foretell better must reach
FAR = 8  # times the observed frames, up to where temperatures are extrapolated
AHEAD = 20  # steps of forecasts whose bands are fitted


class Calibration(NamedTuple):
    """Temperature of the posterior by the number of frames observed, between which it is interpolated, and bands.

    Attributes:
        frames: numbers of observed frames, increasing.
        temperatures: one for each.
        bands: widths of 90% bands of forecasts in standard deviations, at steps 1, 2, ..., for each feature.
        outdone: nats a number by which a rival foretells held-out frames better, beyond chance; 0 if it does not.
    """

    frames: tuple[int, ...] = (2,)
    temperatures: tuple[float, ...] = (1.0,)
    bands: Bands = ((NORMAL,),)
    outdone: float = 0.0

    def at(self, frames: int) -> float:
        """Temperature for a window of `frames` frames."""
        return float(np.exp(np.interp(np.log(frames), np.log(self.frames), np.log(self.temperatures))))

    def state_dict(self) -> dict[str, Any]:
        """State in plain types."""
        bands = [list(row) for row in self.bands]
        lists = {"frames": list(self.frames), "temperatures": list(self.temperatures), "bands": bands}
        return lists | {"outdone": self.outdone}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Calibration":
        """Restores from `state_dict`; older states lack bands, or whether a rival is better."""
        bands = tuple(tuple(row) for row in state.get("bands", [[NORMAL]]))
        return cls(tuple(state["frames"]), tuple(state["temperatures"]), bands, float(state.get("outdone", 0.0)))


class Tempered(NamedTuple):
    """Structures of tasks at every temperature.

    Attributes:
        states: (B, N, T, D).
        structure: that the search found.
        chances: function of a temperature to probabilities of edge modules, (B, N, S, K).
    """

    states: Tensor
    structure: Structure
    chances: Callable[[float], Tensor]


def enough(entities: int) -> int:
    """Tasks of so many entities that tell temperatures and verdicts."""
    return max(LEAST, min(TASKS, EDGES // max(1, entities * (entities - 1))))


@torch.no_grad()
def calibrate(
    model: RelationalModel,
    search: Search,
    scenes: Sequence[tuple[Tensor, Tensor | None]],
    module_to_relation: Tensor,
    seed: int = 0,
    windows: tuple[int, ...] = WINDOWS,
    more: Sequence[Tensor] = (),
) -> Calibration:
    """Fits temperatures to known relations by maximum likelihood, for windows of the first frames.

    Without labels, windows of up to half of the frames at either end of a recording must agree as well as they claim
    to, see `disagreement`, and foretell each other's changes by mean messages as well as any surer or less sure ones;
    and windows of all lengths must find structures that are exchanged as well as they claim to, see
    `modmeta.evaluation.exchange`. Laws that foretell held-out frames as well as the model's, or better, then say how
    often it names the right ones, see `modmeta.evaluation.rival`.

    Args:
        model: trained model.
        search: search that infers structures.
        scenes: validation tasks of every size: states (B, N, T, D) and true relations (B, N, S), or none.
        module_to_relation: (K,).
        seed: seed of the inference.
        windows: numbers of frames.
        more: states (B, N, T, D) of further tasks, training tasks for example, whose ends are compared where there are
            no labels. A few validation tasks say little where relations are weak.
    """
    generator = torch.Generator(scenes[0][0].device).manual_seed(seed)
    known = [labels for _, labels in scenes if labels is not None]
    t = scenes[0][0].shape[2] // (1 if known else 2)
    windows = tuple(sorted({max(3, min(window, t)) for window in windows}))
    truth = torch.cat([labels.flatten() for labels in known]) if known else None

    def chances(posteriors: Sequence[Tempered], temperature: float) -> Tensor:
        parts = [to_relations(posterior.chances(temperature), module_to_relation) for posterior in posteriors]
        return torch.cat([part.flatten(0, -2) for part in parts])

    states = [part for part, _ in scenes] + list(() if known else more)
    found = []
    for window in windows:
        ends = []
        for part in (slice(window), slice(-window, None))[: 1 if known else 2]:
            ends.append([tempered(model, search, seen[:, :, part], generator) for seen in states])

        def loss(temperature: float, ends: list[list[Tempered]] = ends) -> float:
            said = [chances(end, temperature) for end in ends]
            return disagreement(*said) if truth is None else nll(said[0], truth)

        agreed = _least(loss)
        found.append(agreed if truth is not None else foretelling(model, ends[0], ends[1], agreed))
    fitted = Calibration(windows, tuple(found))
    if truth is None:
        fitted = _no_surer(fitted, model, search, states, module_to_relation, generator)
        size = max(states, key=len).shape[1:]
        fitted = _by_rival(fitted, model, search, torch.cat([of for of in states if of.shape[1:] == size]), generator)

    def weighed(seen: Tensor) -> Tensor:
        return tempered(model, search, seen, generator).chances(fitted.at(seen.shape[2]))

    return fitted._replace(bands=_bands(model, [(states, weighed) for states, _ in scenes], generator))


def _least(loss: Callable[[float], float], among: np.ndarray = TEMPERATURES) -> float:
    """The temperature of least loss, near the best of every fourth one."""
    place = 4 * int(np.argmin([loss(at) for at in among[::4].tolist()]))
    near = among[max(0, place - 3) : place + 4].tolist()
    return float(near[int(np.argmin([loss(at) for at in near]))])


def _foretold(model: RelationalModel, seen: Tempered, other: Tempered, temperature: float) -> Tensor:
    """Errors (B, N, T - 1, D) of one end's changes under mean messages as the other end tells them."""
    told = Told(other.states, other.structure)
    return model.errors(seen.states, seen.structure, chances=other.chances(temperature), told=told)


def foretelling(model: RelationalModel, first: Sequence[Tempered], last: Sequence[Tempered], least: float) -> float:
    """The temperature, no lower than `least`, at which mean messages foretell the changes of the other end best.

    Laws that took up noise of the tasks that they were fitted to make both ends of these agree. They foretell too large
    changes all the same, as long as structures are too sure.
    """
    if not model.dynamics.additive:
        return least

    def loss(temperature: float) -> float:
        errors = [
            _foretold(model, seen, other, temperature).double()
            for pair in zip(first, last, strict=True)
            for seen, other in (pair, pair[::-1])
        ]
        return float(torch.cat([error.square().mean(2).clamp_min(1e-30).log().flatten() for error in errors]).mean())

    best = loss(least)
    while least < TEMPERATURES[-1] and (tried := loss(least * STEP)) < best - BETTER:
        least, best = least * STEP, tried
    return least


def _no_surer(
    ends: Calibration, model: RelationalModel, search: Search, tasks: Sequence[Tensor], module_to_relation: Tensor,
    generator: torch.Generator,
) -> Calibration:  # fmt: skip
    """Temperatures of agreement between ends, raised to those at which exchanged structures are found.

    Both ends share laws, and what is wrong with these near where both meet; exchanged structures have all frames, but
    errors that are less theirs. Beyond the observed frames temperatures grow as they did up to them, at most as the
    number of frames does: then more frames tell no more.
    """
    t, k = tasks[0].shape[2], model.dynamics.num_edge_modules
    several = [states for states in tasks if len(states) > 1]
    if not several or any(not enumerable(of.shape[1], k, search.enumerate_up_to) for of in several) or model.noise:
        return ends
    windows = sorted({*ends.frames, t})

    def fit(parts: list[Exchanged]) -> float:
        truth = torch.cat([module_to_relation[part.truth].flatten() for part in parts])

        def loss(temperature: float) -> float:
            chances = [to_relations(part.posterior(temperature), module_to_relation) for part in parts]
            return nll(torch.cat([part.flatten(0, -2) for part in chances]), truth)

        return _least(loss)

    told = temperatures(model, search, several, windows, ends.at(t), fit, generator)
    return _extrapolated(windows, [max(mine, ends.at(window)) for window, mine in zip(windows, told, strict=True)])


def _extrapolated(windows: Sequence[int], fitted: Sequence[float]) -> Calibration:
    """Temperatures that beyond the last window grow as they did up to there, at most as the number of frames does."""
    growth = np.log(fitted[-1] / fitted[0]) / np.log(windows[-1] / windows[0]) if len(windows) > 1 else 0.0
    far = fitted[-1] * FAR ** float(np.clip(growth, 0, 1))
    return Calibration((*windows, FAR * windows[-1]), (*fitted, far))


def _by_rival(
    fitted: Calibration, model: RelationalModel, search: Search, states: Tensor, generator: torch.Generator
) -> Calibration:
    """Temperatures at which the relations named are right as often as claimed, if a rival is, too.

    Laws of another form, fitted to the same states (B, N, T, D), count by the probability that they foretell held-out
    frames better than the model. Of how sure they may be their own two halves tell, as ends do of the model, and for
    how long their errors last. All frames, not only those of a window, tell them who acts on whom. Temperatures may
    fall below 1, if the model's laws are too weak. Laws that may be better by chance alone count only if halves agree
    on who acts on whom as well as the model's, and better ones if these agree half as well: laws that foretell much,
    as they bend with the states of entities alone, may yet not tell who.
    """
    b, n, t, _ = states.shape
    k = model.dynamics.num_edge_modules
    if b < FEWEST or t < 2 * SHORTEST or k < 2 or model.noise:
        return fitted
    if not (affordable(states) and enumerable(n, k, search.enumerate_up_to)):
        return fitted
    middle = (t - 1) // 2
    halves = states[:, :, : middle + 1], states[:, :, middle:]
    whole, *ends = (tempered(model, search, part, generator) for part in (states, *halves))
    errors = [_foretold(model, seen, other, fitted.at(middle)) for seen, other in (ends, ends[::-1])]
    other = strongest(model, halves, errors, whole.chances(fitted.at(t)), generator)
    share = other.better
    first, last = (end.chances(fitted.at(middle)).argmax(-1) for end in ends)
    doubtful = other.agreement < max(kappa(first, last, k), 0.0) * (1.0 if share <= 1 - CHANCE else LESS)
    if doubtful or not share >= CHANCE:  # nor where errors overflow
        return fitted
    apart = told_apart(first, last, k)
    beliefs = other.beliefs(max(other.lasting, _least(lambda at: disagreement(*other.halves(at)))))

    def told(part: Tempered, window: int) -> float:
        loss = likeness(part.chances, fitted.at(window), beliefs, share, other.same, apart)
        return fitted.at(window) if loss is None else _least(loss, WIDE)

    windows = sorted({*(window for window in fitted.frames if window < t), t})
    seen = [tempered(model, search, states[:, :, :window], generator) for window in windows[:-1]]
    found = _extrapolated(windows, [told(*pair) for pair in zip((*seen, whole), windows, strict=True)])
    return found._replace(outdone=mean_gain(other.gains).mean if share > 1 - CHANCE else 0.0)


@torch.no_grad()
def calibrate_groups(
    model: RelationalModel,
    posterior: Callable[[float], Tensor],
    labels: Tensor,
    module_to_relation: Tensor,
    frames: int,
    scenes: Sequence[tuple[Tensor, Tensor]],
    seed: int = 0,
) -> Calibration:
    """Fits the temperature at which validation tasks of groups tell the structures that training or labels have.

    Args:
        model: trained model.
        posterior: function of the temperature to probabilities of edge modules, (G, N, S, K), from validation tasks.
        labels: relations of the groups, (G, N, S), true ones or those that their training tasks tell.
        module_to_relation: (K,).
        frames: number of frames that a group has among validation tasks.
        scenes: validation tasks of every size: states (B, N, T, D), probabilities of edge modules (B, N, S, K).
        seed: of forecasts.
    """
    losses = [nll(to_relations(posterior(float(at)), module_to_relation), labels) for at in COARSE]
    fitted = Calibration((max(frames, 3),), (float(COARSE[int(np.argmin(losses))]),))
    generator = torch.Generator(labels.device).manual_seed(seed)

    def given(chances: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda seen: chances

    return fitted._replace(bands=_bands(model, [(states, given(of)) for states, of in scenes], generator))


def _bands(
    model: RelationalModel, scenes: Sequence[tuple[Tensor, Callable[[Tensor], Tensor]]], generator: torch.Generator
) -> Bands:
    """Number of standard deviations of the ensemble that hold the share `HELD` of true states, at every step.

    Forecasts start before the last frames of the tasks. Errors of a law are correlated over steps, those that the
    ensemble draws are not, so the spread of the ensemble is too small. (Conformal prediction: Vovk, Gammerman,
    Shafer, *Algorithmic Learning in a Random World*, 2005, with its correction for a finite number: of tasks, since
    the entities of a task err together.)
    """
    off, tasks = [], sum(len(states) for states, _ in scenes)
    for states, weighed in scenes:
        steps = min(AHEAD, states.shape[2] // 2)
        seen, ahead = states[:, :, :-steps], states[:, :, -steps:]
        if seen.shape[2] < 3:
            return ((NORMAL,),)
        forecast = ensemble(model, seen, weighed(seen), steps, generator)
        spread = (forecast.high - forecast.low) / (2 * NORMAL)
        ahead = model.dynamics.nearest(ahead, forecast.mean)
        off.append(((ahead - forecast.mean).abs() / spread.clamp_min(1e-12)).flatten(0, 1))
    share = min(1.0, HELD * (tasks + 1) / tasks)
    return tuple(tuple(row) for row in torch.cat(off).quantile(share, dim=0).tolist())  # over tasks and entities


def tempered(model: RelationalModel, search: Search, states: Tensor, generator: torch.Generator) -> Tempered:
    """Returns what states (B, N, T, D) say of structures as a function of the temperature.

    If candidate rows are too many to enumerate, those of an edge given the other incoming edges of the best structure.
    """
    structure, k = infer(search, model, None, states, generator).structure, model.dynamics.num_edge_modules
    score = scorer(model, states, structure)
    b, n, s = structure.edge_modules.shape
    if enumerable(n, k, search.enumerate_up_to):
        energies = table(score, structure, k)
        weighed = exact_of(search)
        return Tempered(states, structure, lambda temperature: weighed(energies, structure, k, temperature))
    rows = structure.edge_modules[:, :, None, None].repeat(1, 1, s, k, 1)  # (B, N, S, K, S)
    slots = torch.arange(s).view(s, 1, 1).expand(s, k, 1).expand(b, n, s, k, 1)
    rows = rows.scatter(-1, slots, torch.arange(k).view(k, 1).expand(b, n, s, k, 1))
    slotwise, roles = score(rows.flatten(2, 3)).unflatten(2, (s, k)), search.of_roles(n, states)
    prior = torch.zeros_like(slotwise) if roles is None else roles
    return Tempered(states, structure, lambda temperature: (-slotwise / temperature - prior).softmax(-1))


def to_relations(probabilities: Tensor, module_to_relation: Tensor) -> Tensor:
    """Probabilities of relations (..., R) from those of edge modules (..., K)."""
    of = F.one_hot(module_to_relation, int(module_to_relation.max()) + 1).to(probabilities.dtype)
    return normalised(probabilities @ of)


def nll(probabilities: Tensor, labels: Tensor) -> float:
    """Mean negative log-likelihood of labels (...) under probabilities (..., R)."""
    chosen = probabilities.gather(-1, labels.clamp(max=probabilities.shape[-1] - 1).unsqueeze(-1))
    return float(-chosen.double().clamp_min(1e-12).log().mean())


def disagreement(one: Tensor, two: Tensor) -> float:
    """How badly two posteriors (edges, R) of the same edges, from independent evidence, foretell each other.

    The mean negative logarithm of how much likelier both are together than apart (`together`). No other posteriors have
    less: neither more certain ones, which contradict each other, nor less certain ones.
    """
    return float(-together(one.double(), two.double()).clamp_min(1e-12).log().mean())


def reliability(probabilities: Tensor, labels: Tensor, bins: int = 15) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Confidence in the most probable relation, accuracy, and number of edges, by bin.

    Args:
        probabilities: (..., R).
        labels: true relations (...).
        bins: number of bins of equal width, over confidences from 0 to 1.

    Returns:
        Each (bins,); NaN in bins without an edge.
    """
    confidence, best = probabilities.flatten(0, -2).double().max(-1)
    right = (best == labels.flatten()).double()
    place = (confidence * bins).long().clamp(0, bins - 1)
    count = torch.bincount(place, minlength=bins).double()
    mean = torch.bincount(place, confidence, minlength=bins) / count
    share = torch.bincount(place, right, minlength=bins) / count
    return mean.numpy(), share.numpy(), count.numpy()


def calibration_error(probabilities: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Expected calibration error: mean over edges of |confidence - accuracy| of their bins."""
    mean, share, count = reliability(probabilities, labels, bins)
    return float(np.nansum(np.abs(mean - share) * count) / count.sum())
