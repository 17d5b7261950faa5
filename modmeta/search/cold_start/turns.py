"""Angles whose turns were counted, told from places on a line by what acts on them.

Letters: B tasks, N entities, S senders, T frames, L = T - 1 intervals, F functions.
"""

import math

import torch
from torch import Tensor

__all__ = ["counts_turns"]

MUCH = 1.0  # nats a number by which periodic functions must explain more
MOST = 0.5  # functions for every interval, at most
FRAMES, NUMBERS = 500, 20_000_000  # that are looked at, at most


def counts_turns(states: Tensor) -> bool:
    """Whether the first feature of states (B, N, T, 2) is an angle that goes on beyond a turn, the other its velocity.

    Changes of every receiver's velocity are fitted by functions of itself and of its differences to every sender, with
    coefficients for each of them, so that no structure is needed: by sines and cosines, also of twice the angle, and by
    as many that are none.
    """
    n, t = states.shape[1], min(states.shape[2], FRAMES)
    x, v = states[: max(1, NUMBERS // (2 * n * n * t)), :, :t].double().unbind(-1)
    if float(x.max() - x.min()) <= 2 * math.pi or 2 * n + 2 > MOST * (t - 1):
        return False
    apart = (x.unsqueeze(1) - x.unsqueeze(2))[:, ~torch.eye(n, dtype=torch.bool, device=x.device)]
    apart = apart.unflatten(1, (n, n - 1))  # (B, N, S, T)
    wide, far = x / x.std(), apart / apart.std().clamp_min(1e-300)
    going = _left(v, [wide, wide**3], [far, far * torch.exp(-(far**2) / 2)])
    turning = [_left(v, [(k * x).sin(), (k * x).cos()], [(k * apart).sin(), (k * apart).cos()]) for k in (1, 2)]
    return going - min(turning) > MUCH


def _left(v: Tensor, own: list[Tensor], pairs: list[Tensor]) -> float:
    """Logarithm of what functions of entities (B, N, T), pairs (B, N, S, T) leave of changes, mean over receivers."""
    functions = torch.cat([torch.stack([torch.ones_like(v), v, *own], 2), *pairs], 2).mT  # (B, N, T, F)
    midway, change = (functions[:, :, 1:] + functions[:, :, :-1]) / 2, v.diff(dim=2).unsqueeze(-1)
    midway = midway / midway.square().mean(2, keepdim=True).sqrt().clamp_min(1e-300)
    found = torch.linalg.lstsq(midway, change, driver="gelsy").solution
    return float((change - midway @ found).square().mean((2, 3)).clamp_min(1e-300).log().mean()) / 2
