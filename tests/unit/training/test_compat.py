"""Checkpoints, records of runs and results of older versions are read as this version's."""

import copy
import json
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
import yaml
from omegaconf import OmegaConf

from modmeta.errors import UserError
from modmeta.report.groups import settings_of
from modmeta.report.runs import read_file
from modmeta.training.checkpoints.compat import FORMAT, RENAMED, upgraded, upgraded_config
from modmeta.training.checkpoints.files import save
from modmeta.training.checkpoints.loading import load_model, read_checkpoint
from tests.runs import ROOT, compose, same

PRETRAINED = sorted((ROOT / "modmeta" / "pretrained").glob("*.ckpt"))
OLD = {new: old for old, new in RENAMED.items()}


def first_format(config: Any) -> Any:
    """A configuration as the first format has it."""
    if isinstance(config, list):
        return [first_format(part) for part in config]
    if not isinstance(config, dict):
        return config
    out = {key: first_format(value) for key, value in config.items()}
    target = config.get("_target_")
    if target in OLD:
        out["_target_"] = OLD[target]
    if target == "modmeta.training.bouncegrad.BounceGrad":
        optimizer = {"_target_": "torch.optim.Adam", "_partial_": True, "lr": 3e-3}
        out |= {"forecast_optimizer": optimizer, "forecast_share": 0.0, "forecast_horizon": 10}
    if target == "modmeta.model.model.RelationalModel":
        out["forecaster"] = None
    if "method" in out:
        out["bouncegrad"] = out.pop("method")
    if "optimizer" in out and "trainer" in out:
        out["optimizer"]["forecast"] = {"_target_": "torch.optim.Adam", "_partial_": True, "lr": 3e-3}
    return out


@pytest.mark.parametrize("path", PRETRAINED, ids=lambda path: path.stem)
def test_packaged_models_are_of_the_first_format_and_load(path: Path) -> None:
    content = torch.load(path, weights_only=True)
    before = copy.deepcopy(content)
    assert "format" not in content["modmeta"]
    assert content["modmeta"]["config"]["model"]["dynamics"]["_target_"] in RENAMED
    module, _ = load_model(path)
    state = module.state_dict()
    assert content["state_dict"].keys() - state.keys() == {"model.forecasting", "mean_square_change"}
    for name, value in state.items():
        same(value, content["state_dict"][name], name)
    new = upgraded(content)
    same(content, before)  # what is given stays as it is
    same(upgraded(new), new)


def test_configurations_are_upgraded_wherever_names_stand() -> None:
    """In lists and below, unresolved references included; what is new already comes back the same."""
    new = yaml.safe_load((ROOT / "conf" / "method" / "bouncegrad.yaml").read_text())
    config = {
        "method": new,
        "model": {"_target_": "modmeta.model.dynamics.continuous.ContinuousDynamics", "hidden": 8, "constants": False},
        "several": [{"part": {"_target_": "modmeta.model.dynamics.discrete.ModularDynamics"}}],
        "optimizer": {"modules": {"_target_": "torch.optim.Adam"}},
        "trainer": {},
    }
    old = first_format(config)
    assert old != config
    assert upgraded_config(old) == config
    assert upgraded_config(config) == config


def test_runs_on_files_go_on_without_windows() -> None:
    """Earlier versions trained on few long recordings as they were."""
    old = {
        "_target_": "modmeta.data.filemodule.FileDataModule", "path": "a.csv",
        "reading": {"_target_": "modmeta.data.reading.Reading", "task": "task"},
    }  # fmt: skip
    new = upgraded_config(old)
    assert (new["window"], new["group"], new["reading"]["group"]) == (None, "group", "group")
    assert upgraded_config(new | {"window": 20})["window"] == 20


def test_bodies_go_on_without_constants() -> None:
    old = {"_target_": "modmeta.model.continuous.ContinuousDynamics", "hidden": 8}
    assert upgraded_config(old)["constants"] is False


@pytest.mark.parametrize(("words", "name"), [
    (("model=continuous", "model.family=springs"), "model.dynamics.found.alone"),
    (("model=laws", "model.family=difference", "model.coordinates=0", "model.constants=false", "model.slopes=false",
      "model.shapes=false"), "model.dynamics.found_own_laws"),
])  # fmt: skip
def test_laws_of_fewer_own_functions_are_read(words: tuple[str, ...], name: str, tmp_path: Path) -> None:
    """Zero on those that came later. No more is asked for than a file may lack, and no laws by more functions."""
    sizes = ("data.positions=1", "data.num_features=2", "model.num_edge_modules=2", "model.smooth=true")
    method = compose(tmp_path / "run", *words, *sizes).method
    content = torch.load(PRETRAINED[0], weights_only=True)["modmeta"]
    data = content["data"] | {"num_features": 2, "positions": 1, "features": ["x", "vx"]}
    data["units"] = {"offset": [0.0, 0.0], "scale": [1.0, 1.0]}
    own = {"format": FORMAT, "config": OmegaConf.to_container(method, resolve=True), "data": data}
    state = {key: torch.randn_like(part) if part.is_floating_point() else part
             for key, part in hydra.utils.instantiate(method).state_dict().items()}  # fmt: skip
    whole, path = state[name], tmp_path / "old.ckpt"
    save({"state_dict": state | {name: whole[..., :-3].clone()}, "modmeta": own}, path)
    found = load_model(path)[0].state_dict()[name]
    assert torch.equal(found, torch.nn.functional.pad(whole[..., :-3], (0, 3)))
    save({"state_dict": state | {name: torch.cat((whole, whole), -1)}, "modmeta": own}, path)
    with pytest.raises(UserError, match="does not fit its own configuration"):
        load_model(path)


def test_a_forecaster_that_was_used_is_not_dropped_in_silence(tmp_path: Path) -> None:
    content = torch.load(PRETRAINED[0], weights_only=True)
    config = content["modmeta"]["config"]
    config["model"]["forecaster"], config["forecast_share"] = config["model"]["dynamics"], 0.5
    save(content, tmp_path / "last.ckpt")
    with pytest.raises(UserError, match=r"last\.ckpt was written by another version"):
        load_model(tmp_path / "last.ckpt")


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    content = torch.load(PRETRAINED[0], weights_only=True)
    content["modmeta"]["format"] = FORMAT + 1
    save(content, tmp_path / "last.ckpt")
    with pytest.raises(UserError, match=rf"last\.ckpt has format {FORMAT + 1}.*up to {FORMAT}"):
        read_checkpoint(tmp_path / "last.ckpt")


def test_results_of_both_formats_are_one_group(tmp_path: Path) -> None:
    old = json.loads((ROOT / "results" / "springs5" / "500tasks_seed0.json").read_text())
    new, other = copy.deepcopy(old), copy.deepcopy(old)
    new["config"] = upgraded_config(old["config"])
    assert new["config"] != old["config"]
    other["config"]["bouncegrad"]["forecast_share"] = 0.5
    settings = []
    for name, content in (("old", old), ("new", new), ("other", other)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
        found = read_file(tmp_path / f"{name}.json", name)
        assert found is not None
        settings.append(settings_of(found))
    assert settings[0] == settings[1]
    assert settings[0] != settings[2]
