"""Neural relational inference (Kipf, Fetaya, Wang, Welling, Zemel, ICML 2018), and its decoder under a given graph."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modmeta.baselines.base import Baseline, Forecast
from modmeta.baselines.decoder import MLPDecoder, gaussian_nll
from modmeta.errors import UserError
from modmeta.keys import RELATIONS, STATES


def relaxed_sample(logits: Tensor, tau: float, hard: bool, generator: torch.Generator | None = None) -> Tensor:
    """A sample of the concrete distribution over the last axis (Maddison et al. 2017, Jang et al. 2017).

    Args:
        logits: (..., K).
        tau: temperature.
        hard: one-hot samples with the gradient of soft samples (straight-through).
        generator: random generator of the Gumbel noise.

    Returns:
        A sample (..., K).
    """
    noise = -torch.empty_like(logits).exponential_(generator=generator).log()
    soft = ((logits + noise) / tau).softmax(-1)
    if not hard:
        return soft
    return F.one_hot(soft.argmax(-1), soft.shape[-1]).to(soft.dtype) + (soft - soft.detach())


def divergence(logits: Tensor, prior: Tensor) -> Tensor:
    """Kullback-Leibler divergence (...) in nats of categorical posteriors with `logits` (..., K) from `prior` (K,)."""
    log_chance = logits.log_softmax(-1)
    return (log_chance.exp() * (log_chance - prior.log())).sum(-1)


class NRI(Baseline):
    """A variational auto-encoder whose latent variable is the graph. Its loss is

        E_q(z|s)[-log p(s|z)] + KL(q(z|s) || p(z))

    Both terms are divided by the number of observed numbers, so that `val/energy` is in nats per number.

    Args:
        encoder: maps states (B, N, T, D) to logits (B, N, S, K).
        decoder: decoder of K edge types.
        num_modules: K.
        prior: K probabilities p(z) of an edge; None for uniform.
        tau: temperature of the samples.
        hard: one-hot samples.
        variance: variance of the Gaussian likelihood.
        horizon: number of predicted steps between true frames.
        decoded: number of steps decoded per task and visit in training, a random stretch each time; None for all, as
            published. The encoder always reads all frames, and needs many more visits than the decoder.
        adapt_steps: number of gradient steps on the logits of each new task under the same loss, weights fixed; 0 as
            published. (Not in the paper.) Needs trainer.inference_mode=false.
        adapt_rate: learning rate of these steps.
        options: arguments of `Baseline`.

    Raises:
        ValueError: `decoded` is below 1, or `prior` is not K positive numbers.
    """

    prior: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        decoder: MLPDecoder,
        num_modules: int,
        prior: Sequence[float] | None = None,
        tau: float = 0.5,
        hard: bool = False,
        variance: float = 5e-5,
        horizon: int = 10,
        decoded: int | None = None,
        adapt_steps: int = 0,
        adapt_rate: float = 0.5,
        **options: Any,
    ) -> None:
        super().__init__(num_modules=num_modules, **options)
        self.encoder, self.decoder = encoder, decoder
        self.tau, self.hard, self.variance, self.horizon = tau, hard, variance, horizon
        self.decoded, self.adapt_steps, self.adapt_rate = decoded, adapt_steps, adapt_rate
        if decoded is not None and decoded < 1:
            raise ValueError(f"method.decoded={decoded} must be at least 1, or null for all frames")
        shares = [1.0] * num_modules if prior is None else [float(share) for share in prior]
        if len(shares) != num_modules or min(shares) <= 0:
            raise ValueError(f"method.prior={prior} must be {num_modules} positive numbers")
        chance = torch.tensor(shares)
        self.register_buffer("prior", chance / chance.sum())
        self.given_prior = prior is not None

    @property
    def priors(self) -> list[str]:
        """The prior of edge types, if one is given."""
        given = [round(p, 3) for p in self.prior.tolist()]
        return [f"edge types with probabilities {given}"] if self.given_prior else []

    def _loss(
        self, states: Tensor, logits: Tensor, sample: Tensor, part: slice = slice(None)
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The loss, its likelihood term in nats per number, and its divergence in nats per edge.

        The likelihood is computed on the frames of `part` and scaled to all frames.
        """
        seen = states[:, :, part]
        nll = gaussian_nll(self.decoder.forced(seen, sample, self.horizon), seen, self.variance)
        apart = divergence(logits.float(), self.prior)
        return nll + apart.sum() / states[:, :, 1:].numel(), nll, apart.mean()

    def _part(self, frames: int) -> slice:
        """The frames that are decoded in a training step."""
        if self.decoded is None or self.decoded >= frames - 1:
            return slice(None)
        start = int(torch.randint(frames - self.decoded, (), generator=self.generator, device=self.device))
        return slice(start, start + self.decoded + 1)

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        states = self._observed(batch)
        logits = self.encoder(states).float()
        sample = relaxed_sample(logits, self.tau, self.hard, self.generator)
        loss, nll, apart = self._loss(states, logits, sample, self._part(states.shape[2]))
        return loss, {"nll": nll, "divergence": apart}

    def validation_loss(self, batch: dict[str, Tensor]) -> Tensor:
        states = self._observed(batch)
        logits = self.encoder(states).float()
        return self._loss(states, logits, F.one_hot(logits.argmax(-1), self.num_modules).float())[0]

    def infer(self, states: Tensor) -> Tensor:
        logits = self.encoder(states).float()
        if self.adapt_steps and not self.training:
            logits = self.adapted(states, logits)
        return logits.softmax(-1)

    def adapted(self, states: Tensor, logits: Tensor) -> Tensor:
        """Logits (B, N, S, K) after `adapt_steps` gradient steps on the loss, with the softmax as edge weights."""
        with torch.enable_grad():
            logits = logits.detach().clone().requires_grad_()
            optimizer = torch.optim.Adam([logits], self.adapt_rate)
            for _ in range(self.adapt_steps):
                loss = self._loss(states, logits, logits.softmax(-1))[0] * len(states)  # as for each task alone
                logits.grad = torch.autograd.grad(loss, logits)[0]
                optimizer.step()
        return logits.detach()

    def forecaster(self, batch: dict[str, Tensor], chance: Tensor | None) -> Forecast:
        assert chance is not None
        chosen = F.one_hot(chance.argmax(-1), self.num_modules).float()
        return lambda seen, steps: self.decoder.rollout(seen[:, :, -1:], chosen, steps).squeeze(2)


class GivenGraph(Baseline):
    """The decoder of NRI under the true graph, or with one edge type everywhere (Kipf et al. 2018, table 2).

    Args:
        decoder: decoder with one edge type per relation, or with one edge type if `full`.
        full: use one edge type everywhere.
        variance: variance of the Gaussian likelihood.
        horizon: number of predicted steps between true frames.
        options: arguments of `Baseline`.
    """

    def __init__(
        self, decoder: MLPDecoder, full: bool, variance: float = 5e-5, horizon: int = 10, **options: Any
    ) -> None:
        super().__init__(**options)
        self.decoder, self.full, self.variance, self.horizon = decoder, full, variance, horizon

    @property
    def priors(self) -> list[str]:
        """The true graph, unless `full`."""
        return [] if self.full else ["true relations are given"]

    def _weights(self, batch: dict[str, Tensor]) -> Tensor:
        b, n = batch[STATES].shape[:2]
        if self.full:
            return batch[STATES].new_ones(b, n, n - 1, 1)
        if RELATIONS not in batch:
            raise UserError("this baseline needs the true graph, but the data has no relations; choose labelled data")
        return F.one_hot(batch[RELATIONS], self.num_relations).float()

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        states = self._observed(batch)
        return gaussian_nll(self.decoder.forced(states, self._weights(batch), self.horizon), states, self.variance), {}

    def forecaster(self, batch: dict[str, Tensor], chance: Tensor | None) -> Forecast:
        weights = self._weights(batch)
        return lambda seen, steps: self.decoder.rollout(seen[:, :, -1:], weights, steps).squeeze(2)
