"""What any baseline must hold, as a mixin: from its YAML to a run that resumes.

A subclass gives the name of a file of `conf/method` as a fixture. `tests/integration/test_baseline_contract.py` does so
for every one that names a class.
"""

import inspect
from functools import cache
from pathlib import Path
from typing import Any

import hydra
import pytest
from omegaconf import DictConfig, OmegaConf

from modmeta.baselines.base import Baseline
from modmeta.errors import Preempted
from modmeta.training.checkpoints.trust import NAMES
from modmeta.training.module import ResumableModule
from tests.runs import KilledAt, KilledInTest, Stop, accompanied, checkpoint, compose, run, same

TINY = (
    "~model", "~likelihood", "~search", "~temperature", "~proposal", "~optimizer",
    "callbacks=baseline", "data=springs5", "name=contract", "data.num_tasks=8", "data.valid=4", "data.test=4",
    "data.batch_size=4", "data.batches_per_epoch=3", "data.frames=14", "data.test_frames=36",
    "method.observed_frames=14", "trainer.accelerator=cpu", "trainer.devices=1", "trainer.max_epochs=2",
    "callbacks.progress=null", "logger=[]",
)  # fmt: skip

CHOSEN = ("num_modules", "observed_frames", "hidden")  # of the method itself, and what `TINY` and `widths` set


def defaults(cls: type) -> dict[str, inspect.Parameter]:
    """Parameters of a class, those that it passes on to its bases as `**options` included."""
    found: dict[str, inspect.Parameter] = {}
    for base in cls.__mro__:
        if "__init__" in vars(base):
            parameters = list(inspect.signature(base.__init__).parameters.values())[1:]
            found = {one.name: one for one in parameters} | found
            if not any(one.kind == one.VAR_KEYWORD for one in parameters):
                break
    return found


def widths(config: Any, place: str) -> list[str]:
    """Overrides that make every width below `place` small."""
    if not isinstance(config, DictConfig):
        return []
    below = [word for key in config for word in widths(config._get_node(key), f"{place}.{key}")]
    return below + ([f"{place}.hidden=8"] if "hidden" in config else [])


@cache
def narrow(words: tuple[str, ...]) -> list[str]:
    """Overrides that make the method small that words choose."""
    return widths(compose(Path("nowhere") / "run", *words).method, "method")


class BaselineContract:
    """A method to compare with: a class, a YAML that says its defaults, and runs that resume to the bit."""

    @pytest.fixture
    def method(self) -> str:
        raise NotImplementedError

    def words(self, method: str, *more: str) -> tuple[str, ...]:
        """Overrides of a small run."""
        words = (f"method={method}", *TINY, *more)
        return (*words, *narrow(words))

    def test_is_a_baseline_that_checkpoints_may_name(self, method: str) -> None:
        config = compose(Path("nowhere") / "run", *self.words(method)).method
        assert config._target_ in NAMES
        module = hydra.utils.instantiate(config)
        assert isinstance(module, Baseline)
        assert isinstance(module, ResumableModule)
        assert type(module).__doc__

    def test_its_yaml_says_its_defaults(self, method: str) -> None:
        """A value that stands in the YAML is that of the signature; and every value there is a parameter."""
        config = compose(Path("nowhere") / "run", *self.words(method)).method
        plain = OmegaConf.to_container(config, resolve=False)
        assert isinstance(plain, dict)
        parameters = defaults(hydra.utils.get_class(config._target_))
        assert not plain.keys() - parameters.keys() - {"_target_"}
        for name, value in plain.items():
            default = inspect.Parameter.empty if name == "_target_" else parameters[name].default
            given = isinstance(value, dict) or (isinstance(value, str) and "${" in value)
            if default is not inspect.Parameter.empty and not given and name not in CHOSEN:
                assert value == (list(default) if isinstance(default, tuple) else default), name

    def test_an_interrupted_run_ends_the_same(self, method: str, tmp_path: Path) -> None:
        """By SIGTERM in the middle of an epoch, then before the test: weights, optimisers, generators and measures."""
        words = self.words(method)
        whole = run(tmp_path / "whole", *words)
        for interruption, told in ((KilledAt(1, batch=1), Preempted), (KilledInTest(), Stop)):
            with accompanied(interruption), pytest.raises(told):
                run(tmp_path / "parts", *words)
        assert run(tmp_path / "parts", *words) == pytest.approx(whole, nan_ok=True, rel=0, abs=0)
        one, other = checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "parts")
        for part in ("state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step"):
            same(one[part], other[part], part)
        for part in ("best", "generators", "epoch"):
            same(one["modmeta"][part], other["modmeta"][part], part)
        assert int(one["state_dict"]["steps_done"]) == 6
