"""Baselines of few-shot regression."""

from functools import partial

import higher
import torch
from torch import nn

from modmeta.baselines.functions import MAML


def test_gradients_of_maml_are_those_of_higher() -> None:
    rate, steps, tasks, searched = 0.05, 2, 5, 8
    maml = MAML(partial(torch.optim.Adam, lr=1e-3), inner_steps=steps, adapt_rate=rate, hidden=8, searched=searched)
    x, y = torch.rand(2, tasks, 20, 1)
    maml.loss(x, y).backward()
    network = nn.Sequential(nn.Linear(1, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1))
    layers = [(network[i], maml.weights[i], maml.weights[i + 1]) for i in (0, 2, 4)]
    with torch.no_grad():
        for layer, weight, bias in layers:
            layer.weight.copy_(weight.T)
            layer.bias.copy_(bias[0])
    optimizer = torch.optim.SGD(network.parameters(), lr=rate)
    for task in range(tasks):
        with higher.innerloop_ctx(network, optimizer, copy_initial_weights=False) as (adapted, inner):
            for _ in range(steps):
                inner.step((adapted(x[task, :searched]) - y[task, :searched]).square().mean())
            ((adapted(x[task, searched:]) - y[task, searched:]).square().mean() / tasks).backward()
    for layer, weight, bias in layers:
        torch.testing.assert_close(layer.weight.grad, weight.grad.T)
        torch.testing.assert_close(layer.bias.grad, bias.grad[0])
