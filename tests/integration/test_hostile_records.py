"""Run directories of strangers, and every way into a checkpoint: nothing runs, and one line says what is wrong."""

import copy
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import modmeta
from modmeta.cli.main import main
from modmeta.errors import UserError
from modmeta.training.checkpoints import trust as trusting
from modmeta.training.resume import read_record
from tests.runs import QUICK, run
from tests.unit.training.test_hostile_configs import (
    BASE,
    RUNS,
    _nested,
    _places,
    _put,
    values,
)
from tests.watch import watched, without_processes


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that ended; its configuration is plain data."""
    directory = tmp_path_factory.mktemp("begun") / "run"
    run(directory, *QUICK, "trainer.max_epochs=1", "data.batches_per_epoch=2")
    assert "${" not in (directory / ".hydra" / "config.yaml").read_text()
    return directory


def _plain(value: Any) -> bool:
    """Whether YAML can write a value without tags."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and _plain(part) for key, part in value.items())
    return all(map(_plain, value)) if isinstance(value, list) else isinstance(value, str | int | float | None)


@settings(max_examples=60, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(st.data(), values, st.integers(0, 4))
def test_whatever_stands_anywhere_in_a_record(begun: Path, data: st.DataObject, value: Any, depth: int) -> None:
    record = begun / ".hydra" / "config.yaml"
    config = yaml.load(record.read_text(), Loader=yaml.CSafeLoader)
    allowed = isinstance(value, dict) and str(value.get("_target_")) in trusting.NAMES
    if type(value) is torch.Tensor or (allowed and set(value) <= {"_target_", "_partial_", "path"}):
        return
    _put(config, data.draw(st.sampled_from(_places(config))), _nested(value, depth))
    text = yaml.dump(
        config, Dumper=yaml.CSafeDumper if _plain(value) else yaml.CDumper
    )  # with tags such as !!python/tuple
    path = begun.parent / "config.yaml"
    path.write_text(text)
    with watched(), pytest.raises(UserError) as caught:
        read_record(path)
    assert "\n" not in str(caught.value)
    assert "config.yaml" in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("callbacks.last.directory", "/elsewhere", "outside of its directory"),
        ("trainer.default_root_dir", "/elsewhere", "outside of its directory"),
        ("logger.csv.directory", "..", "outside of its directory"),
        ("run_id", "../../x", "no plain name"),
        ("name", "../../x", "no plain name"),
        ("method.model.dynamics.hidden", 60_000, "far more than its checkpoints hold"),
        ("method.model.dynamics.edge_layers", 10**9, "at most 64"),
        ("trainer.devices", 10**6, "at most 64"),
        ("method.model", {"_target_": "pytorch_lightning.Trainer"}, "no part of a model"),
        (
            "logger.wandb",
            {"_target_": "pytorch_lightning.loggers.WandbLogger", "settings": {"x_executable": "./evil"}},
            "wandb.Settings",
        ),
        ("logger.wandb", {"_target_": "wandb.Settings", "x_executable": "./evil"}, "x_executable"),
        ("trust", ["evil"], None),
    ],
)
def test_records_that_reach_beyond_their_run(
    begun: Path, tmp_path: Path, key: str, value: Any, told: str | None
) -> None:
    shutil.copytree(begun, tmp_path / "run")
    record = tmp_path / "run" / ".hydra" / "config.yaml"
    config = yaml.load(record.read_text(), Loader=yaml.CSafeLoader)
    _put(config, tuple(key.split(".")), value)
    record.write_text(yaml.safe_dump(config))
    if told is None:  # a record cannot trust anything
        run(tmp_path / "run", f"resume={tmp_path / 'run'}")
        assert not trusting.is_trusted("evil.Class")
        return
    with pytest.raises(UserError, match=told) as caught:
        run(tmp_path / "run", f"resume={tmp_path / 'run'}")
    assert "\n" not in str(caught.value)


PAYLOADS = {
    "tuple": (RUNS,),
    "interpolation": "${oc.create:{_target_:torch.utils.collect_env.run,command:'touch PWNED'}}",
    "environment": "${oc.env:HOME}",
    "importer": {"_target_": "torch.nn.attention._fa3._fa3_import_module", "module_path": "evilmod"},
    "partial": {"_target_": "os.system", "_partial_": True},
    "args": {"_target_": "torch.nn.SiLU", "_args_": ["touch PWNED"]},
    "key": {"${oc.env:HOME}": 1},
}


WAYS = ("load", "infer", "evaluate", "unseen", "prune", "report", "resume", "ckpt_path")


@pytest.mark.parametrize(
    ("way", "payload"),
    [  # all payloads one way, and one payload all ways
        pytest.param(way, payload, marks=() if way == "load" or payload == "importer" else pytest.mark.slow)
        for way in WAYS
        for payload in PAYLOADS
    ],
)
def test_the_eight_ways_in(
    way: str, payload: str, begun: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    value = PAYLOADS[payload]
    stranger, data = tmp_path / "run", tmp_path / "data.npz"
    (stranger / "checkpoints").mkdir(parents=True)
    content = copy.deepcopy(BASE)
    content["modmeta"]["config"]["forecast_steps"] = value
    torch.save(content, stranger / "checkpoints" / "last.ckpt")
    shutil.copytree(begun / ".hydra", stranger / ".hydra")
    config = yaml.safe_load((stranger / ".hydra" / "config.yaml").read_text())
    config["method"]["forecast_steps"] = value
    (stranger / ".hydra" / "config.yaml").write_text(yaml.dump(config))
    assert main(["generate", "springs", "--test", "2", "--test-frames", "52", "-o", str(data)]) == 0
    words = {
        "infer": ["infer", stranger, data, "-o", tmp_path / "out"],
        "evaluate": ["evaluate", stranger, "--data", data],
        "unseen": ["unseen", stranger, data, "-o", tmp_path / "out"],
        "prune": ["prune", stranger, "-o", tmp_path / "small.ckpt"],
        "report": ["report", stranger, "-o", tmp_path / "out"],
    }
    capfd.readouterr()
    if way in words:
        with without_processes():
            status = main([str(word) for word in words[way]])
        if way == "report":  # reads configurations as text and builds nothing
            return
        assert status == 2
        printed = capfd.readouterr().err
        assert printed.count("\n") == 1
        assert printed.startswith("error: ")
        assert not (tmp_path / "out").exists()
        return
    enter = {
        "load": lambda: modmeta.load(stranger),
        "resume": lambda: run(stranger, f"resume={stranger}"),
        "ckpt_path": lambda: run(tmp_path / "new", *QUICK, f"ckpt_path={stranger}"),
    }
    with without_processes(), pytest.raises(UserError) as caught:
        enter[way]()
    assert "\n" not in str(caught.value)
