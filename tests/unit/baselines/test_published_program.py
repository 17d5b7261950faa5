"""NRI computes what the published program does with the same weights, on its outputs in `tests/data`."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from modmeta.baselines.decoder import MLPDecoder, gaussian_nll
from modmeta.baselines.nri import divergence
from modmeta.model.proposal import CNNProposal, MLPProposal

FILE = Path(__file__).resolve().parents[2] / "data" / "nri_program_outputs.npz"
BLOCKS = {"fc1": "first", "fc2": "second", "bn": "normalise"}
READ = {"conv1": "read.0", "bn1": "read.2", "conv2": "read.5", "bn2": "read.7"}
READ |= {"conv_predict": "answer", "conv_attention": "attention"}


@pytest.fixture(scope="module")
def program() -> Mapping[str, Tensor]:
    with np.load(FILE) as stored:
        return {name: torch.from_numpy(stored[name]) for name in stored}


def copied(encoder: nn.Module, blocks: Mapping[str, str], program: Mapping[str, Tensor], kind: str) -> nn.Module:
    """An encoder with the weights of the published one. It joins sender and receiver, ours receiver and sender."""
    out = {}
    for name, value in program.items():
        folder, _, rest = name.partition("/")
        if folder != kind or rest.startswith("logits"):
            continue
        part, _, layer = rest.partition(".")
        if part == "cnn":
            layer, _, number = layer.partition(".")
            place = f"{READ[layer]}.{number}"
            value = value.roll(4, 1) if place == "read.0.weight" else value
        elif part == "fc_out":
            place = f"out.{layer}"
        else:
            layer, _, number = layer.partition(".")
            place = f"{blocks[part]}.{BLOCKS[layer]}.{number}"
            joined = blocks[part].startswith("edge") and place.endswith("first.weight") and value.shape[1] > 16
            value = torch.cat((value[:, 16:32], value[:, :16], value[:, 32:]), 1) if joined else value
        out[place] = value
    encoder.load_state_dict(out)
    return encoder


PARTS = ("weight", "bias")
ENCODERS = {
    "mlp": (
        lambda: MLPProposal(49, 4, 2, 16, published=True),
        {"mlp1": "node_1", "mlp2": "edge_1", "mlp3": "node_2", "mlp4": "edge_2"},
    ),
    "cnn": (lambda: CNNProposal(4, 2, 16, published=True), {"mlp1": "edge_1", "mlp2": "node", "mlp3": "edge_2"}),
}


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("kind", ENCODERS)
def test_encoders(kind: str, mode: str, program: Mapping[str, Tensor]) -> None:
    make, blocks = ENCODERS[kind]
    encoder = copied(make(), blocks, program, kind).train(mode == "train")
    logits = encoder(program["states"]).flatten(1, 2)
    torch.testing.assert_close(logits, program[f"{kind}/logits_{mode}"], rtol=1e-4, atol=1e-5)


def test_decoder_and_loss(program: Mapping[str, Tensor]) -> None:
    """Ten steps from every tenth frame; the sum over frames and features of the likelihood, by task and entity."""
    decoder = MLPDecoder(4, 2, 16)
    weights = {}
    for layer in (1, 2):
        for part in ("weight", "bias"):
            both = torch.stack([program[f"decoder/msg_fc{layer}.{k}.{part}"] for k in range(2)])
            if part == "weight":
                both = both.roll(4, 2) if layer == 1 else both
            weights[f"message.layers.{layer - 1}.{part}"] = both.mT if part == "weight" else both.unsqueeze(1)
        weights |= {f"update.{2 * layer - 2}.{part}": program[f"decoder/out_fc{layer}.{part}"] for part in PARTS}
    weights |= {f"update.4.{part}": program[f"decoder/out_fc3.{part}"] for part in PARTS}
    decoder.load_state_dict(weights)
    states, edges = program["states"], program["edge_types"].view(4, 5, 4, 2)
    predicted = decoder.forced(states, edges, 10)
    torch.testing.assert_close(predicted, program["decoder/ten_steps"], rtol=1e-4, atol=1e-5)
    variance, (b, n, t, d) = 5e-5, states.shape
    constant = 0.5 * math.log(2 * math.pi * variance)  # the program leaves it out, and log K of the divergence
    nll = (gaussian_nll(predicted, states, variance) - constant) * (t - 1) * d
    torch.testing.assert_close(nll, program["loss/nll"], rtol=1e-4, atol=0.0)
    apart = divergence(program["edge_types"].log(), torch.tensor([0.5, 0.5])) - math.log(2)
    torch.testing.assert_close(apart.sum() / (b * n), program["loss/kl"], rtol=1e-4, atol=1e-5)


def test_initialisation() -> None:
    """Weights of linear layers are Xavier normal, biases 0.1, as published."""
    torch.manual_seed(0)
    for encoder in (MLPProposal(49, 4, 2, 256, published=True), CNNProposal(4, 2, 256, published=True)):
        for layer in encoder.modules():
            if isinstance(layer, nn.Linear):
                rows, columns = layer.weight.shape
                assert float(layer.weight.detach().std()) == pytest.approx((2 / (rows + columns)) ** 0.5, rel=0.1)
            if isinstance(layer, nn.Linear | nn.Conv1d):
                assert layer.bias is not None
                assert (layer.bias == 0.1).all()
