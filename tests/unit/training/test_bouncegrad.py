"""Gradient steps of BounceGrad, and what inference takes of it."""

import inspect
from pathlib import Path

import hydra
import pytest
import torch
from omegaconf import OmegaConf

from modmeta.errors import UserError
from modmeta.graph.bank import Structure, random_structure
from modmeta.keys import STATES, TASK
from modmeta.model.dynamics.base import summed
from modmeta.search.problem import one_step_problem
from modmeta.training.bouncegrad import BounceGrad
from modmeta.training.capture import Recorded
from modmeta.training.checkpoints.loading import skeleton
from modmeta.training.trained import Trained
from tests.runs import compose


def test_soft_rows_descend_the_free_energy(tmp_path: Path) -> None:
    """The gradient of -T log sum over rows of exp(-E / T), whatever was drawn."""
    module = hydra.utils.instantiate(compose(tmp_path / "run", "method.soft=true", "model.hidden=8").method)
    states, generator = torch.randn(3, 4, 9, 4), torch.Generator().manual_seed(0)
    structure = random_structure(3, 4, 2, 1, generator)
    problem, temperature = one_step_problem(module.model, states), torch.tensor(3.0)
    (messages, score), kernel = problem.one_step(), module.search.kernel(module.model, 4)
    new, info = kernel(generator, structure, problem, temperature)
    rows = score(summed(messages, info.candidates.rows), info.candidates.types)
    free = -temperature * (-rows / temperature).logsumexp(-1).sum()
    parameters = [part for part in module.model.parameters() if part.requires_grad]
    wanted = torch.autograd.grad(free, parameters, retain_graph=True, allow_unused=True)
    got = torch.autograd.grad(
        module._energy(problem, new, info, temperature), parameters, retain_graph=True, allow_unused=True
    )
    hard = score(summed(messages, new.edge_modules.unsqueeze(2)), new.node_modules.unsqueeze(2))
    other = torch.autograd.grad(hard.sum(), parameters, allow_unused=True)
    for ours, truth in zip(got, wanted, strict=True):
        torch.testing.assert_close(ours, truth, rtol=1e-3, atol=1e-4)
    assert any(a is not None and not torch.allclose(a, b, rtol=0.1) for a, b in zip(got, other, strict=True))


@pytest.mark.parametrize("setting", ["model.num_node_modules=2", "model.additive=false", "model.null_module=true"])
def test_real_weights_need_messages_that_add_up(setting: str, tmp_path: Path) -> None:
    """One law, which every module of the run begins as a multiple of."""
    config = compose(tmp_path / "run", "search.start=weights", setting, "model.hidden=8")
    with pytest.raises(hydra.errors.InstantiationException, match="weights needs additive dynamics"):
        hydra.utils.instantiate(config.method)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("strengths", ("search.receivers=one", "search.horizon=3")),
        ("strengths", ("method.model.noise=true",)),
        ("strengths", ("model.num_node_modules=2",)),
        ("constants", ("search.receivers=one", "search.horizon=3")),
        ("constants", ("method.model.noise=true",)),
    ],
)
def test_what_steps_by_themselves_tell_needs_such_steps(setting: str, words: tuple[str, ...], tmp_path: Path) -> None:
    config = compose(tmp_path / "run", "model=continuous", f"model.{setting}=true", "model.hidden=8", *words)
    with pytest.raises(hydra.errors.InstantiationException, match=rf"model.{setting}=true needs"):
        hydra.utils.instantiate(config.method)


@pytest.mark.parametrize("words", [(), ("search.start=weights",), ("model.num_node_modules=2", "method.num_types=2")])
def test_inference_takes_the_same_settings_and_state(words: tuple[str, ...], tmp_path: Path) -> None:
    config = compose(tmp_path / "run", "model.hidden=8", *words).method
    module, trained = hydra.utils.instantiate(config), skeleton(OmegaConf.to_container(config, resolve=True), "run")
    assert type(trained) is Trained
    shapes = [{name: part.shape for name, part in each.state_dict().items()} for each in (module, trained)]
    assert shapes[0] == shapes[1]
    parameters = [inspect.signature(kind.__init__).parameters.values() for kind in (BounceGrad, Trained)]
    assert [(part.name, part.default) for part in parameters[0]] == [
        (part.name, part.default) for part in parameters[1]
    ]


@pytest.mark.parametrize("search", ["receivers", "paper"])
def test_support_is_searched_and_queries_give_the_gradient(search: str, tmp_path: Path) -> None:
    words = (f"search={search}", "method.searched_frames=6", "model.hidden=8", "search.enumerate_up_to=64")
    module = hydra.utils.instantiate(compose(tmp_path / "run", *words[: 4 if search == "receivers" else 3]).method)
    states, later = torch.randn(2, 3, 4, 49, 4)
    start = random_structure(3, 4, 2, 1, torch.Generator().manual_seed(0))
    losses: list[torch.Tensor] = []
    module.steps = Recorded(module._take, [], torch.Generator(), None)
    module.all_optimizers = list
    module.backward_everywhere = lambda loss: None
    module._descend = lambda loss, tasks: losses.append(loss)
    module._log_step = lambda *parts: None
    module._temperature = lambda: torch.tensor(1e-9)

    def searched(given: torch.Tensor) -> Structure:
        module.generator, batch = torch.Generator().manual_seed(1), {STATES: given, TASK: torch.arange(3)}
        module.restored.pop("bank", None)
        module.fill_bank(torch.arange(3), start, torch.tensor(2), 1)
        torch.manual_seed(0)
        module.proposal.eval()
        for _ in range(5):
            module.training_step(batch, 0)
        return module.bank.get(torch.arange(3))

    module.proposal = Indifferent(module.proposal)  # the network sees all frames
    found = searched(states)
    query = states[:, :, 5:]
    energy = module.model.energies(query, found, module.search.horizon).sum() / query[:, :, 1:].numel()
    torch.testing.assert_close(losses[-1], energy.detach(), rtol=1e-4, atol=1e-5)
    other = searched(torch.cat((states[:, :, :6], later[:, :, 6:]), 2))
    assert torch.equal(found.edge_modules, other.edge_modules)
    assert not torch.equal(losses[4], losses[9])
    another = searched(torch.cat((later[:, :, :5], states[:, :, 5:]), 2))
    assert not torch.equal(found.edge_modules, another.edge_modules)


class Indifferent(torch.nn.Module):
    """A proposal network that prefers nothing."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        b, n = states.shape[:2]
        return torch.zeros(b, n, n - 1, 2, requires_grad=True)


@pytest.mark.parametrize(("searched", "grouped", "message"), [
    (1, False, "must be from 2 to 9"), (10, False, "must be from 2 to 9"), (5, True, "the search of groups sees all"),
])  # fmt: skip
def test_splits_leave_steps_to_both(searched: int, grouped: bool, message: str) -> None:
    with pytest.raises(UserError, match=message):
        BounceGrad._check_split(searched, 10, grouped)
