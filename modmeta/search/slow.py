"""Relations of a group where frames are far apart: one step between frames reaches beyond direct neighbours.

    dx_i = (o(x_i) + d_i x_i + c_i + sum_j W_ij h(x_j)) dt + noise

Weights W of all ordered pairs are fitted to steps between frames as this equation makes them, not to its rates. Four
ways, and held-out steps choose between them:

- `diffusion`: everything is linear and noise drives every entity (an Ornstein-Uhlenbeck process). A step is a matrix
  exponential, and what is left over is correlated between entities, because noise travels within a frame (the coupling
  within a frame of fMRI: Smith et al. 2011). Only second moments of frames are needed, in memory that does not grow
  with their number. The integral of the covariance is by Van Loan (1978).
- `path`: o and h are polynomials, noise is small; a step is integrated by the Runge-Kutta method in substeps.
- `map`: the same, but a step is a map, carried out once or a few times between frames (rounds of opinions).
- `lagged`: a frame follows from the one before and noise; what senders sum to may saturate (`search.lagged`).

Features that never change may drive an entity itself, in proportion, in `path` and `map`.

In the first three a penalty keeps W sparse: first of the weights there and back together (a group lasso: Yuan and Lin
2006), which leaves directions open that are hardly told, then of every weight, the less the larger it was (Zou 2006).
It grows with the root of the number of steps, as their noise does. Few steps hardly tell in which direction noise
within a frame travelled, so of `diffusion` the weight back counts a little, too. How frequent edges are, and how large,
follows from the weights (empirical Bayes).

Letters: B tasks, N entities, S = N - 1 senders, T frames, D features, K of them constant, M steps.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from modmeta.search.lagged import Lagged, drawn, left_over
from modmeta.shapes import Float

__all__ = [
    "LONG",
    "SURE",
    "WAYS",
    "Fitted",
    "Moments",
    "fit",
    "foretold",
    "foretold_at_best",
    "joined",
    "log_odds",
    "moments",
    "odds",
    "parted",
    "scaled",
    "sizes",
]

WAYS = ("diffusion", "path", "map", "lagged")
BACK, FAINT = 0.3, 60.0  # share of the weight back that counts where noise travels both ways: at most; times steps
TIMES = (1, 2, 3, 4)  # that a map may be carried out between frames
RELIEF, LARGE = 5.0, 0.95  # from the penalty, of weights as large as this share of all
SLOPES = 30.0  # of what sets an entity apart from all others
POWERS, SUBSTEPS, REACH = 3, 4, 6.0  # of polynomials; of a frame; standard deviations beyond which they are flat
ITERATIONS, PATIENCE = {"diffusion": 150, "path": 300, "map": 300}, 1e-8
ROUND = 1e-3  # weight below which the penalty is smooth
LEAST = 1e-9  # share of the variance that noise has at least
MOST_STEPS = 2000  # that are kept one by one
LONG = 100  # frames of a task, from which on it says how large its entities are
SURE = 30.0  # logarithm of the largest odds


class Moments(NamedTuple):
    """Steps between the frames of one group.

    Attributes:
        second: sums of products of next and this state and 1, (2 N + 1, 2 N + 1).
        before: some of the states that steps begin with, (M, N).
        after: and of those they end with, (M, N).
        drives: constant features of entities in these steps, (M, N, K).
        origin: the state that was 0 in the units given.
    """

    second: Tensor
    before: Tensor
    after: Tensor
    drives: Tensor
    origin: Tensor

    def number(self, way: str) -> float:
        """Number of steps that a way sees."""
        return float(self.second[-1, -1]) if way == "diffusion" else float(len(self.before))


class Fitted(NamedTuple):
    """Result of a fit.

    Attributes:
        weights: (N, N), `[receiver, sender]`, of rates a frame.
        log_odds: logarithms of the odds of a relation, (N, S).
        parameters: all, flat; or the law of `lagged`.
        way: one of `WAYS`.
        times: how often a map is carried out between frames.
    """

    weights: Tensor
    log_odds: Tensor
    parameters: Tensor | Lagged
    way: str
    times: int = 1


def joined(one: Moments, other: Moments) -> Moments:
    """Of the steps of both."""
    before, after, drives = (torch.cat(pair)[:MOST_STEPS] for pair in zip(one[1:4], other[1:4], strict=True))
    return Moments(one.second + other.second, before, after, drives, one.origin)


def parted(states: Float[Tensor, "B N T D"]) -> tuple[Tensor, Tensor]:
    """The features that change, (B, N, T, one or more), and the others, (B, N, K). A single feature changes."""
    moved = (states != states[:, :, :1]).flatten(0, 2).any(0)
    moved = moved if len(moved) > 1 else torch.ones_like(moved)
    return states[..., moved], states[:, :, 0, ~moved]


def moments(
    states: Float[Tensor, "B N T"], steps: Tensor | None = None, drives: Float[Tensor, "B N K"] | None = None
) -> Moments:
    """Moments of the steps of states of one group.

    Tasks of many frames say how large each entity is and where it rests: they are standardised one by one.

    Args:
        states: of any scale.
        steps: which count, (B, T - 1); None for all.
        drives: features that never change; None for none.
    """
    states = states.double()
    constant = states[:, :, 0, None][..., :0] if drives is None else drives.double()
    driven = constant.unsqueeze(1).expand(-1, states.shape[2] - 1, -1, -1).flatten(0, 1)
    counts = torch.ones_like(states[:, 0, 1:]) if steps is None else steps.double()
    if states.shape[2] >= LONG:
        centre, size = sizes(states, counts)
        states = (states - centre) / size
    before, after = (part.transpose(1, 2).flatten(0, 1) for part in (states[..., :-1], states[..., 1:]))
    before, after, driven = (part[counts.flatten() > 0] for part in (before, after, driven))
    all_of = torch.cat([after, before, torch.ones_like(before[:, :1])], 1)
    before, after, driven = (part[:MOST_STEPS] for part in (before, after, driven))
    return Moments(all_of.mT @ all_of, before, after, driven, all_of.new_zeros(()))


def sizes(states: Float[Tensor, "B N T"], steps: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of every entity in every task, (B, N, 1) each, of frames whose steps (B, L) count."""
    none = torch.zeros_like(steps[:, :1])
    share = torch.maximum(torch.cat([steps, none], 1), torch.cat([none, steps], 1)).unsqueeze(1)
    share = share / share.sum(-1, keepdim=True).clamp_min(1)
    seen = states.where(share > 0, 0.0)
    centre = (seen * share).sum(-1, keepdim=True)
    return centre, ((seen - centre).square() * share).sum(-1, keepdim=True).clamp_min(1e-24).sqrt()


def scaled(steps: Moments, like: Moments) -> tuple[Moments, float]:
    """Steps in units in which states of `like` together have mean 0 and variance 1, and that unit; drives likewise."""
    n = steps.before.shape[1]
    number = like.second[-1, -1].clamp_min(1)
    centre = like.second[:-1, -1].mean() / number
    unit = (like.second.diagonal()[:-1].mean() / number - centre.square()).clamp_min(1e-24).sqrt()
    turn = torch.eye(2 * n + 1, dtype=centre.dtype, device=centre.device)
    turn[:-1, :-1] /= unit
    turn[:-1, -1] = -centre / unit
    before, after, origin = ((part - centre) / unit for part in (steps.before, steps.after, steps.origin))
    drives, others = (part - like.drives.mean((0, 1)) for part in (steps.drives, like.drives))
    drives = drives / others.square().mean((0, 1)).sqrt().clamp_min(1e-12)
    return Moments(turn @ steps.second @ turn.mT, before, after, drives, origin), float(unit)


def log_odds(steps: Moments, way: str) -> Float[Tensor, "N S"]:
    """Logarithms of the odds that a pair has a relation, from the steps of a group in any unit."""
    with torch.inference_mode(False), torch.enable_grad():  # fits need gradients, wherever they are asked for
        steps = Moments(*(part.clone() for part in steps))
        return fit(scaled(steps, steps)[0], way).log_odds


def fit(steps: Moments, way: str, relations: bool = True) -> Fitted:
    """Weights by penalised likelihood.

    Args:
        steps: of one group.
        way: one of `WAYS`.
        relations: whether there are any.
    """
    if way == "lagged":
        law = drawn(steps.before - steps.origin, steps.after - steps.origin, relations)
        return Fitted(law.weights, law.log_odds, law, way)
    n, penalty = steps.before.shape[1], steps.number(way) ** 0.5
    begin = _beginning(steps, way)

    def first(w: Tensor) -> Tensor:
        both = ((w.square() + w.mT.square()) / 2 + ROUND**2).sqrt().sum()
        return penalty * both if relations else w.square().sum() * 1e9

    def fitted(times: int) -> Fitted:
        parameters = _descended(steps, way, times, begin, first)
        if relations:
            size = _weights(parameters, n).abs()
            relief = (1 + RELIEF) / (1 + RELIEF * size / size.flatten().quantile(LARGE).clamp_min(ROUND))
            parameters = _descended(
                steps, way, times, parameters, lambda w: penalty * (relief * (w.square() + ROUND**2).sqrt()).sum()
            )
        weights = _weights(parameters, n)
        back = min(BACK, FAINT / max(steps.number(way), 1.0)) if way == "diffusion" else 0.0
        return Fitted(weights, odds(weights + back * weights.mT), parameters, way, times)

    return min(map(fitted, TIMES if way == "map" else TIMES[:1]), key=lambda one: foretold(steps, one))


def foretold(steps: Moments, fitted: Fitted) -> float:
    """Nats a number that steps cost, less half the logarithm of 2 pi; lower is better."""
    if isinstance(fitted.parameters, Lagged):
        return left_over(steps.before - steps.origin, steps.after - steps.origin, fitted.parameters)
    cost = float(_likelihood(steps, fitted.way, fitted.times, fitted.parameters))
    cost /= steps.number(fitted.way) * steps.before.shape[1]
    return cost if math.isfinite(cost) else math.inf


def foretold_at_best(steps: Moments, fitted: Fitted) -> float:
    """The same at the size of noise that suits these steps best: fits leave less of their own steps than of others."""
    law = fitted.parameters
    if isinstance(law, Lagged):
        louder: Tensor | Lagged = law._replace(variance=4 * law.variance)
    else:
        louder = torch.cat([law[:-1], law[-1:] + math.log(2)])
    cost = foretold(steps, fitted)
    square = (cost - foretold(steps, fitted._replace(parameters=louder)) + math.log(2)) * 8 / 3  # of errors, in noise
    return cost - square / 2 + (math.log(max(square, 1e-24)) + 1) / 2 if math.isfinite(square) else math.inf


def _descended(steps: Moments, way: str, times: int, begin: Tensor, penalty: Callable[[Tensor], Tensor]) -> Tensor:
    n = steps.before.shape[1]
    parameters = begin.clone().requires_grad_()
    optimiser = torch.optim.LBFGS(
        [parameters], max_iter=ITERATIONS[way], history_size=30, line_search_fn="strong_wolfe",
        tolerance_change=PATIENCE,
    )  # fmt: skip

    def loss() -> Tensor:
        optimiser.zero_grad()
        prior = penalty(_weights(parameters, n)) + SLOPES * parameters[n * n : n * n + n].square().sum()
        if way != "diffusion":  # weights have a unit
            prior = prior + SLOPES * parameters[n * n + n : n * n + 2 * n].square().sum()
            prior = prior + (parameters[n * n + 2 * n : n * n + 2 * n + POWERS].square().sum() - 1).square()
        total = _likelihood(steps, way, times, parameters) + prior
        total = torch.where(total.isfinite(), total, torch.full_like(total, 1e15))
        total.backward()
        assert parameters.grad is not None
        parameters.grad.nan_to_num_(0.0, 0.0, 0.0)
        return total.detach()

    optimiser.step(loss)
    return parameters.detach()


def odds(weights: Float[Tensor, "N N"], rounds: int = 100) -> Float[Tensor, "N S"]:
    """Logarithms of the odds that a pair has a relation, from weights: a mixture of none and some, shares learned.

    Args:
        weights: (N, N), `[receiver, sender]`.
        rounds: of expectation maximisation.
    """
    n = len(weights)
    w = weights[~torch.eye(n, dtype=torch.bool, device=weights.device)].view(n, -1)
    order = w.abs().flatten().sort().values
    level = order[int(0.9 * len(order))]
    centre, spread, narrow, share = level * w[w.abs() >= level].mean().sign(), level, level / 4, w.new_tensor(0.1)
    log_odds = w
    for _ in range(rounds):
        none = -(w / narrow).square() / 2 - narrow.log()
        some = -((w - centre) / spread).square() / 2 - spread.log()
        log_odds = some - none + (share / (1 - share)).log()
        q = torch.sigmoid(log_odds)
        share = (q.sum() + 1) / (q.numel() + 10)
        centre = (q * w).sum() / q.sum().clamp_min(1e-9)
        spread = ((q * (w - centre).square()).sum() / q.sum().clamp_min(1e-9)).sqrt().clamp_min(centre.abs() / 5 + 1e-9)
        narrow = (((1 - q) * w.square()).sum() / (1 - q).sum().clamp_min(1e-9)).sqrt()
        narrow = narrow.clamp(centre.abs() / 8 + 1e-9, spread)
    return log_odds.clamp(-SURE, SURE)


# ---- the likelihood of steps ---------------------------------------------------------------------------------------
# parameters: weights (N N), slopes (N), constants (N), h (POWERS), o (POWERS: constant, beyond the slope), what drives
# do (K N), decay, noise


def _weights(parameters: Tensor, n: int) -> Tensor:
    return parameters[: n * n].view(n, n) * (1 - torch.eye(n, dtype=parameters.dtype, device=parameters.device))


def _beginning(steps: Moments, way: str) -> Tensor:
    """No relations: one rate of decay and one size of noise for all."""
    n = steps.before.shape[1]
    second = steps.second
    kept = float((second[:n, n:-1].trace() / second[n:-1, n:-1].trace()).clamp(0.02, 0.995))
    left = float((second[:n, :n].trace() - kept * second[:n, n:-1].trace()) / (second[-1, -1] * n))
    decay, noise = math.log(-math.log(kept)), max(left, 1e-12)
    if way == "diffusion":
        noise *= -2 * math.log(kept) / (1 - kept**2)
    size = n * n + 2 * n + 2 * POWERS + steps.drives.shape[-1] * n + 2
    begin = torch.zeros(size, dtype=torch.float64, device=second.device)
    begin[: n * n] = 1e-3 * torch.randn(n * n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    begin[n * n + 2 * n] = 1.0
    begin[-2], begin[-1] = decay, math.log(noise) / 2
    return begin


def _likelihood(steps: Moments, way: str, times: int, parameters: Tensor) -> Tensor:
    """Negative logarithm of the likelihood of steps, nats, less a constant."""
    return _diffusion(steps, parameters) if way == "diffusion" else _path(steps, way, times, parameters)


def _diffusion(steps: Moments, parameters: Tensor) -> Tensor:
    n = steps.before.shape[1]
    drift = _weights(parameters, n) - torch.diag((parameters[-2] + parameters[n * n : n * n + n]).exp())
    noise = torch.diag((2 * parameters[-1]).exp().expand(n))
    zero = torch.zeros_like(noise)
    blocks = torch.matrix_exp(torch.cat([torch.cat([-drift, noise], 1), torch.cat([zero, drift.mT], 1)]))
    step = blocks[n:, n:].mT
    left = step @ blocks[:n, n:]
    left = (left + left.mT) / 2
    one = torch.eye(n, dtype=left.dtype, device=left.device)
    root = torch.linalg.cholesky_ex(left + one * LEAST)[0]
    constants = parameters[n * n + n : n * n + 2 * n].unsqueeze(1)
    wanted = torch.cat([one, -step, -constants], 1)
    error = torch.linalg.solve_triangular(root, wanted, upper=False)
    return ((error @ steps.second) * error).sum() / 2 + steps.second[-1, -1] * root.diagonal().log().sum()


def _path(steps: Moments, way: str, times: int, parameters: Tensor) -> Tensor:
    n, k = steps.before.shape[1], steps.drives.shape[-1]
    sizes = [n * n, n, n, POWERS, POWERS, k * n, 1, 1]
    _, slopes, constants, sent, own, driven, decay, noise = parameters.split(sizes)
    weights, slope = _weights(parameters, n), slopes - decay.exp()
    constants = constants + own[0]
    if k:
        constants = constants + (steps.drives * driven.view(k, n).mT).sum(-1)

    def rate(x: Tensor) -> Tensor:
        within = x.clamp(-REACH, REACH)
        powers = torch.stack([within**power for power in range(1, POWERS + 1)], -1)
        return (powers @ sent) @ weights.mT + slope * x + constants + powers[..., 1:] @ own[1:]

    x, h = steps.before, 1 / SUBSTEPS
    for _ in range(times if way == "map" else 0):
        x = x + rate(x) / times
    for _ in range(0 if way == "map" else SUBSTEPS):
        k1 = rate(x)
        k2 = rate(x + h / 2 * k1)
        k3 = rate(x + h / 2 * k2)
        k4 = rate(x + h * k3)
        x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    square = (x - steps.after).square().sum()
    return square * (-2 * noise[0]).exp() / 2 + x.numel() * noise[0]
