"""Every baseline holds the contract of `tests/contracts_methods.py`, and the contract notices what is broken."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from modmeta.baselines.base import Baseline, Forecast
from modmeta.keys import STATES
from modmeta.training.checkpoints import trust
from tests.contracts_methods import BaselineContract
from tests.runs import ROOT

METHODS = {
    path.stem: content["_target_"]
    for path in sorted((ROOT / "conf" / "method").glob("*.yaml"))
    if "_target_" in (content := yaml.safe_load(path.read_text()))
    and path.stem not in ("bouncegrad", "composed", "maml", "pooled")
}


class TestBaselines(BaselineContract):
    @pytest.fixture(params=METHODS)
    def method(self, request: pytest.FixtureRequest) -> str:
        return request.param


# ---- a baseline that is thrown away: the contract accepts it, and refuses it once it is broken -----------------------


class Straight(Baseline):
    """Entities go on as they went, by a factor that is learned.

    Args:
        rate: factor at the start.
        noise: of the states that are trained on.
    """

    def __init__(self, rate: float = 0.5, noise: float = 0.01, **options: Any) -> None:
        super().__init__(**options)
        self.rate, self.noise = nn.Parameter(torch.tensor(rate)), noise

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        states = self._observed(batch)
        states = states + self.noise * torch.randn(states.shape, generator=self.generator)
        ahead = states[:, :, 1:-1] + self.rate * (states[:, :, 1:-1] - states[:, :, :-2])
        return (ahead - states[:, :, 2:]).square().mean(), {}

    def validation_loss(self, batch: dict[str, Tensor]) -> Tensor:
        return (self.forecast(batch[STATES][:, :, :2], 1) - batch[STATES][:, :, 2:3]).square().mean()

    def forecast(self, seen: Tensor, steps: int) -> Tensor:
        step = self.rate ** torch.arange(1, steps + 1).unsqueeze(-1)
        return seen[:, :, -1:] + (seen[:, :, -1:] - seen[:, :, -2:-1]) * step.cumsum(0)

    def forecaster(self, batch: dict[str, Tensor], chance: Tensor | None) -> Forecast:
        return self.forecast


class Forgetful(Straight):
    """Keeps a count of its own, which no checkpoint holds, and learns the less the more it has seen."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.visits = 0

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        self.visits += 1
        loss, told = super().loss(batch)
        return loss / self.visits**2, told


class Wandering(Straight):
    """Draws from a generator that no checkpoint holds."""

    elsewhere = torch.Generator().manual_seed(0)

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        loss, told = super().loss(batch)
        return loss * torch.rand((), generator=self.elsewhere), told


class Outsider(nn.Linear):
    """Learns, but resumes nothing."""

    def __init__(self, rate: float = 0.5, noise: float = 0.01, **options: Any) -> None:
        super().__init__(1, 1)


def written(place: Path, part: type, **values: Any) -> None:
    """The YAML of a part of this file, in a configuration beside that of the package."""
    path = place / "method" / f"{part.__name__.lower()}.yaml"
    path.parent.mkdir(parents=True)
    content = {"defaults": ["trained", "_self_"], "_target_": f"{__name__}.{part.__name__}"}
    path.write_text(yaml.safe_dump(content | {"rate": 0.5, "noise": 0.01} | values))


class Own(BaselineContract):
    """The contract for a YAML that is not in `conf`."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def words(self, method: str, *more: str) -> tuple[str, ...]:
        return super().words(method, f"hydra.searchpath=[file://{self.place}]", *more)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of configuration; checkpoints may name the parts of this file."""
    for part in (Straight, Forgetful, Wandering, Outsider):
        monkeypatch.setitem(trust.NAMES, f"{__name__}.{part.__name__}", trust.Part())
    return tmp_path / "conf"


def test_a_baseline_of_one_class_and_one_yaml_holds_the_contract(place: Path, tmp_path: Path) -> None:
    written(place, Straight)
    contract = Own(place)
    contract.test_is_a_baseline_that_checkpoints_may_name("straight")
    contract.test_its_yaml_says_its_defaults("straight")
    contract.test_an_interrupted_run_ends_the_same("straight", tmp_path)


@pytest.mark.parametrize("broken", [Forgetful, Wandering])
def test_a_baseline_that_does_not_resume_is_noticed(broken: type, place: Path, tmp_path: Path) -> None:
    written(place, broken)
    with pytest.raises(AssertionError):
        Own(place).test_an_interrupted_run_ends_the_same(broken.__name__.lower(), tmp_path)


def test_a_baseline_that_is_none_is_noticed(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(place, Outsider)
    with pytest.raises(AssertionError):
        Own(place).test_is_a_baseline_that_checkpoints_may_name("outsider")
    written(place / "more", Straight, rate=0.25)
    with pytest.raises(AssertionError, match="rate"):
        Own(place / "more").test_its_yaml_says_its_defaults("straight")
    monkeypatch.delitem(trust.NAMES, f"{__name__}.Straight")
    with pytest.raises(AssertionError):
        Own(place / "more").test_is_a_baseline_that_checkpoints_may_name("straight")
