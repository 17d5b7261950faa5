"""`modmeta train`: its words as Hydra's, names of any kind, mistakes; version, help, completion."""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given
from hypothesis import strategies as st
from omegaconf import OmegaConf

import modmeta
from modmeta.cli.main import main
from modmeta.cli.train import hydra_words, train
from modmeta.data import formats
from modmeta.data.trajectories import Trajectories
from modmeta.errors import UserError
from modmeta.training.resume import settle
from modmeta.training.words import setting
from tests.runs import compose, run

QUIET = (
    "debug=fast",
    "data.num_tasks=6",
    "logger=[csv]",
    "callbacks.progress=null",
    "trainer.accelerator=cpu",
    "model.hidden=8",
)
STRANGE = "a=b #1 [x], 'é' \"q\" {y} (z) \\.csv"


def parsed(word: str) -> dict[str, object]:
    """What Hydra and OmegaConf make of a word."""
    (override,) = OverridesParser.create().parse_overrides([word])
    assert not override.is_sweep_override()
    config = OmegaConf.create({override.key_or_group: override.value()})
    content = OmegaConf.to_container(config, resolve=True)
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}


@given(st.text(st.characters(exclude_categories=("Cs", "Cc"))))
@example(STRANGE)
@example("\\")
@example("\\'")
@example("a\\\\'b\\\\")
@example("$x $(y) $")
def test_hydra_reads_any_name_as_it_is(name: str) -> None:
    if "${" in name:
        with pytest.raises(UserError, match="rename"):
            setting("key", name)
    else:
        assert parsed(setting("key", name)) == {"key": name}


def test_words_become_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.csv").touch()
    (tmp_path / "seed=1").touch()
    path = f"data.path='{tmp_path}/a.csv'"
    cases: dict[tuple[str, ...], list[str]] = {
        ("experiment=springs5", "seed=1,2", "-m"): ["--multirun", "experiment=springs5", "seed=1,2"],
        ("seed=2", "a.csv", "-o", "run", "~logger.wandb"): [
            "data=files", path, "seed=2", "~logger.wandb", "hydra.run.dir='run'",
        ],
        ("-o", "sweep", "-m", "a.csv", "++seed=2,3"): [
            "--multirun", "data=files", path, "++seed=2,3", "hydra.sweep.dir='sweep'",
        ],
        ("--resume", "run", "threads=1"): ["resume='run'", "threads=1"],
        ("--resume=it's", "threads=1"): ["resume='it\\'s'", "threads=1"],
        ("seed=1",): ["data=files", f"data.path='{tmp_path}/seed=1'"],  # a file of that name
        ("--cfg", "job", "seed=3"): ["--cfg", "job", "seed=3"],
        ("seed=3", "--help"): ["--help", "seed=3"],
        ("features@model.features=absolute",): ["features@model.features=absolute"],
        ("encoder@method.encoder=cnn", "+trainer.max_time=00:00:01:00"): [
            "encoder@method.encoder=cnn", "+trainer.max_time=00:00:01:00",
        ],
    }  # fmt: skip
    for words, expected in cases.items():
        assert hydra_words(words) == expected, words


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["springs5"], "springs5 is neither a file nor a setting KEY=VALUE"),
        (["./a=b.csv"], "./a=b.csv is neither a file"),
        (["a.csv", "b.csv"], "a.csv and b.csv are two files"),
        (["a.csv", "--resume", "run"], "leave out a.csv"),
        (["-o", "x", "--resume", "run"], "leave out -o x"),
        (["run"], "run is the directory of a run; resume it with --resume run"),
    ],
)
def test_mistakes_in_words(
    words: Sequence[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run" / ".hydra").mkdir(parents=True)
    (tmp_path / "run" / ".hydra" / "config.yaml").touch()
    before = sorted(tmp_path.rglob("*"))
    assert main(["train", *words]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert message in told
    assert told.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_modmeta_alone_prints_help(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["modmeta"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0
    told = capsys.readouterr().out
    assert "train a model" in told
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"modmeta {modmeta.__version__}\n"


def test_a_script_completes_commands_and_options(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("shtab")
    for shell in ("bash", "zsh", "tcsh"):
        assert main(["completion", shell]) == 0
        script = capsys.readouterr().out
        for word in ("train", "generate", "report", "--resume", "overwrite"):
            assert word in script, (shell, word)


def test_words_of_earlier_versions_mean_the_same(tmp_path: Path) -> None:
    """The key `method` was `bouncegrad`: on the command line, and in experiment files of users."""
    cases = {
        "bouncegrad.soft=true": "method.soft=true",
        "++bouncegrad.persist=false": "++method.persist=false",
        "~bouncegrad.scheduler": "~method.scheduler",
        "method@bouncegrad=nri": "method=nri",
        "encoder@bouncegrad.encoder=cnn": "encoder@method.encoder=cnn",
        "data.observed_frames=${bouncegrad.observed_frames}": "data.observed_frames=${method.observed_frames}",
        "method=bouncegrad": "method=bouncegrad",
        "name=bouncegrad": "name=bouncegrad",
        "seed=1": "seed=1",
    }
    for old, new in cases.items():
        assert hydra_words([old]) == [new]
        assert hydra_words([new]) == [new]
    config = compose(tmp_path / "run", *QUIET, f"directory={tmp_path}/run", "+bouncegrad.persist=false")
    settled = settle(config)
    assert "bouncegrad" not in settled
    assert settled.method.persist is False


def test_experiment_files_of_earlier_versions(tmp_path: Path) -> None:
    """References to `bouncegrad` in a user's experiment file are to `method`, whether it has that key or not."""
    content = "# @package _global_\nthreads: ${bouncegrad.seed}\nbouncegrad: {persist: false}\n"
    content += "data: {batch_size: '${oc.select:bouncegrad.none,${bouncegrad.observed_frames}}'}\n"
    for name, text in (("old", content), ("references", content.replace("bouncegrad: {persist: false}\n", ""))):
        (tmp_path / "experiment").mkdir(exist_ok=True)
        (tmp_path / "experiment" / f"{name}.yaml").write_text(text)
        places = (f"hydra.searchpath=[{tmp_path}]", f"directory={tmp_path}/{name}")
        settled = settle(compose(tmp_path / name, *QUIET, *places, f"experiment={name}", "seed=1"))
        assert "bouncegrad" not in settled
        assert (settled.threads, settled.data.batch_size, settled.method.persist) == (1, 49, name != "old")


@pytest.mark.parametrize("preset", ["fast", "overfit", "profiler"])
def test_presets_for_trials_take_files_of_few_tasks(preset: str, tmp_path: Path) -> None:
    """A file with fewer tasks than a preset asks for is used as it is; one with more, as far as the preset asks."""
    for tasks, used in ((6, {"fast": 4, "overfit": 4}), (60, {"fast": 20, "overfit": 10})):
        states = np.random.default_rng(0).normal(size=(tasks, 3, 12, 4)).cumsum(axis=2)
        file = tmp_path / f"{tasks}.npz"
        formats.save(file, {"all": Trajectories(states, None, ("x", "y", "vx", "vy"), 1.0)})
        words = ["data=files", f"data.path={file}", f"debug={preset}", "data.batches_per_epoch=2"]
        config = settle(compose(tmp_path / f"run{tasks}", *words))
        assert config.data.num_tasks == used.get(preset, 4 if tasks == 6 else 36)
    quiet = ["trainer.max_epochs=1", "callbacks.progress=null", "logger=[csv]"]
    quiet += ["trainer.accelerator=cpu", "trainer.devices=1", "model.hidden=8"]
    few = [word.replace("60.npz", "6.npz") for word in words]
    assert "val/energy" in run(tmp_path / "run", *few, *quiet)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["optimzer.modules.lr=1"], "optimzer.modules.lr is no setting; did you mean optimizer.modules.lr"),
        (["experment=springs5"], "experment is no setting; did you mean experiment?"),
        (["experiment=spring5"], "experiment=spring5: no such choice; experiment may be springs5"),
        (["experiment=springs5", "model.zzzz=1"], "model.zzzz is no setting; modmeta train --help lists all"),
        (["seed=x"], "seed=x must be a whole number"),
        (["trainer.max_epochs=1.5"], "trainer.max_epochs=1.5 must be a whole number"),
        (["experiment=springs5", "search.sweeps=many"], "search.sweeps=many must be a whole number"),
        (["data=files", "data.path=a.csv", "data.positions=two"], "data.positions=two must be a whole number"),
        (["threads=all"], "threads=all must be a whole number"),
        (["data.noise=loud"], "data.noise=loud must be a number"),
        (["-m", "sed=0,1"], "sed is no setting; did you mean seed"),
        (["--resume", "NOPE"], "NOPE does not exist, so there is no run to resume"),
        (["resume=NOPE"], "NOPE does not exist, so there is no run to resume"),
    ],
)
def test_what_does_not_exist_is_told_in_a_line(
    words: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    with caplog.at_level("ERROR"):
        assert train(words) == 2
    assert not caplog.records
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {told}")
    assert not list(tmp_path.iterdir())
