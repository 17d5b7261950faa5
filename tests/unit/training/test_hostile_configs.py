"""Checkpoints and run directories of strangers: whatever is in them, nothing runs, and one line says what is wrong."""

import copy
import io
import os
import pickle
import subprocess
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

import modmeta
from modmeta.api import path_of
from modmeta.cli.main import main
from modmeta.errors import UserError
from modmeta.training.checkpoints import trust as trusting
from modmeta.training.checkpoints.files import load
from modmeta.training.checkpoints.loading import load_model, read_checkpoint, skeleton
from tests.runs import ROOT, compose
from tests.watch import watched

BASE: dict[str, Any] = load(path_of("springs5"))
FILE = {"dir": Path()}
IMPORTERS = (
    "torch.nn.attention._fa3._fa3_import_module",
    "torch.utils.collect_env.run",
    "torch.hub.load",
    "os.system",
    "subprocess.Popen",
    "builtins.eval",
    "builtins.exec",
    "importlib.import_module",
    "torch.load",
    "torch.save",
    "modmeta.data.formats.save",
    "modmeta.model.model.torch.hub.load",
    "torch.nn.modules.module.warnings.warn",
    "modmeta.api.load",
    "modmeta.io.write_durably",
    "torch.nn.Module",
    "torch.optim.Optimizer",
    "torch.nn.Linear",
    "hydra.utils.instantiate",
    "hydra.utils.get_method",
    "hydra.core.utils.setup_globals",
    "pickle.loads",
    "",
    ".",
    "evil",
    "evil.Class",
    "modmeta",
    "modmeta.model",
    "torch.nn.SiLU.__init__.__globals__",
    "torch.nn.SiLU ",
    "torch.nn.silu",
    "modmeta.search.selection.torch.os.system",
    "numpy.load",
    "shutil.rmtree",
    "antigravity.webbrowser.open",
    "pytorch_lightning.Trainer",
    "modmeta.training.callbacks.record.RunRecord",
    "wandb.Settings",
    "modmeta.training.checkpoints.trust.trust",
)
RESOLVED = (
    "${oc.env:HOME}",
    "${oc.create:{_target_:os.system,command:'touch PWNED'}}",
    "${seed}",
    "a ${.b} c",
    "${oc.decode:1}",
    "\\\\${oc.env:HOME}",
    "${group_of:a,b,c}",
    "${hydra:runtime.cwd}",
    "${${oc.env:HOME}}",
    "${",
)
RUNS = {"_target_": "torch.utils.collect_env.run", "command": "touch PWNED"}


class Odd:
    """What no configuration holds."""


def _places(config: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of all values of a configuration."""
    parts = config.items() if isinstance(config, dict) else enumerate(config) if isinstance(config, list) else ()
    return [place] * bool(place) + [path for key, part in parts for path in _places(part, (*place, key))]


PLACES = _places(BASE["modmeta"]["config"])


def _nested(value: Any, depth: int) -> Any:
    for level in range(depth):
        value = {"a": value} if level % 2 else [0, value]
    return value


values = st.one_of(
    st.sampled_from(RESOLVED),
    st.sampled_from(RESOLVED).map(lambda text: {text: 1}),
    st.sampled_from(RESOLVED).map(lambda text: [1, text]),
    st.sampled_from(IMPORTERS).map(lambda name: {"_target_": name}),
    st.sampled_from(IMPORTERS).map(lambda name: {"_target_": name, "_partial_": True, "path": "evil"}),
    st.sampled_from([(RUNS,), (1, 2), (), ("${oc.env:HOME}",)]),
    st.sampled_from([{"_args_": ["touch PWNED"]}, {"_target_": "torch.nn.SiLU", "_args_": [1]}, {"_partial_": True}]),
    st.sampled_from(
        [{"_target_": "torch.nn.SiLU", "_recursive_": False}, {"_target_": "torch.nn.SiLU", "_convert_": "all"}]
    ),
    st.sampled_from(
        [{"_target_": "torch.nn.SiLU", "_partial_": RUNS}, {"_target_": RUNS}, {"_target_": None}, {"_target_": ["a"]}]
    ),
    st.sampled_from([{1: 2}, {None: 1}, {"x" * 1000: 1}, "y" * 20_000, 1 << 80, -(1 << 80), torch.ones(2), {"_x": 1}]),
)


def _put(config: dict[str, Any], place: tuple[Any, ...], value: Any) -> None:
    *path, last = place
    for key in path:
        config = config[key]
    config[last] = value


@pytest.fixture(scope="module", autouse=True)
def _directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    FILE["dir"] = tmp_path_factory.mktemp("hostile")
    load_model(path_of("springs5"))  # what loading imports is there from now on
    "names of members".encode("cp437")  # likewise of archives that torch did not write
    yield
    assert not list(Path.cwd().glob("PWNED"))


def _written(content: Any) -> Path:
    path = FILE["dir"] / "stranger.ckpt"
    torch.save(content, path)
    return path


def _refused(path: Path) -> str:
    with watched(), pytest.raises(UserError) as caught:
        load_model(path)
    line = str(caught.value)
    assert "\n" not in line
    assert len(line) < 700
    assert str(path) in line
    return line


@settings(max_examples=140, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@example(("_target_",), "y" * 5000, 0)
@given(st.sampled_from(PLACES), values, st.integers(0, 4))
def test_whatever_stands_anywhere_in_a_checkpoint(place: tuple[Any, ...], value: Any, depth: int) -> None:
    content = copy.deepcopy(BASE)
    _put(content["modmeta"]["config"], place, _nested(value, depth))
    if place[-1] == "_target_" and type(value) is str and not depth:
        value = {"_target_": value}
    _refused(_written(content))


@settings(max_examples=60, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from([place for place in PLACES if place[-1] not in ("seed", "observed_frames")]),
    st.sampled_from([10**5, 10**7, 10**9, 2**40, -5, 0]),
)
def test_numbers_that_ask_for_memory(place: tuple[Any, ...], value: int) -> None:
    """Whatever number stands where: refused, or the model is of the size of the file."""
    content = copy.deepcopy(BASE)
    old = content["modmeta"]["config"]
    for key in place:
        old = old[key]
    if type(old) is not int:
        return
    _put(content["modmeta"]["config"], place, value)
    path = _written(content)
    with watched():
        size = _size(path)
    assert size < 1e6


def _size(path: Path) -> int:
    """Bytes of the model of a checkpoint; 0 where it is refused."""
    try:
        module, _ = load_model(path)
    except UserError:
        return 0
    return sum(part.numel() * part.element_size() for part in module.state_dict().values())


def test_endless_and_shared_structures() -> None:
    """Lists that hold themselves, and a thousand references to one that make 2^1000 values."""
    content = copy.deepcopy(BASE)
    loop: list[Any] = []
    loop.append(loop)
    content["modmeta"]["config"]["search"]["x"] = loop
    assert "nested too deeply" in _refused(_written(content))
    twice: list[Any] = []
    for _ in range(40):
        twice = [twice, twice]
    content["modmeta"]["config"]["search"]["x"] = twice
    assert "too large" in _refused(_written(content))


class Calls:
    """Pickled as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.what = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.what


class Sets:
    """Pickled as an object whose state is set."""

    def __init__(self, made: Any, state: Any) -> None:
        self.made, self.state = made, state

    def __reduce__(self) -> tuple[Any, ...]:
        return (*self.made, self.state)


def _storage(numbers: int) -> Any:
    return torch.storage.TypedStorage(
        wrap_storage=torch.zeros(numbers).untyped_storage(), dtype=torch.float32, _internal=True
    )


def _tensor(numbers: int, size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0) -> Calls:
    return Calls(torch._utils._rebuild_tensor_v2, _storage(numbers), offset, size, stride, False, {})


@pytest.mark.parametrize(
    "payload",
    [
        Calls(os.system, "touch PWNED"),
        Calls(subprocess.Popen, ["touch", "PWNED"]),
        Calls(eval, "1"),
        Calls(bytearray, 10**12),
        Calls(torch.nn.Linear, 10**6, 10**6),
        Calls(getattr, {}, "get"),
        Sets((bytearray, (1,)), {"a": 1}),
        Sets((torch.nn.Parameter, (torch.ones(1),)), {"a": 1}),
        Sets((torch._utils._rebuild_tensor_v2, (_storage(1), 0, (1,), (1,), False, {})), (1, 2)),
        _tensor(1, (10**12,), (0,)),
        _tensor(4, (10**6, 10**6), (0, 0)),
        _tensor(4, (5,), (1,)),
        _tensor(4, (2,), (4,)),
        _tensor(4, (4,), (1,), 1),
        _tensor(4, (-4,), (1,)),
        Odd(),
        {1, 2},
        1j,
        torch.device("cpu"),
        torch.float32,
        torch.nn.Parameter(torch.ones(1)),
        torch.ones(2).to_sparse(),
    ],
)
@pytest.mark.parametrize("where", ["state_dict", "modmeta", "elsewhere"])
def test_pickles_that_do_more_than_data(payload: Any, where: str) -> None:
    content = copy.deepcopy(BASE)
    if where == "state_dict":
        content["state_dict"]["usage"] = payload
    elif where == "modmeta":
        content["modmeta"]["config"]["forecast_steps"] = payload
    else:
        content["optimizer_states"] = [payload]
    path = FILE["dir"] / "stranger.ckpt"
    with open(path, "wb") as file:
        torch.save(content, file, pickle_module=pickle)
    assert "could run code" in _refused(path)


def _repacked(change: Any, compression: int = zipfile.ZIP_STORED) -> Path:
    """The base checkpoint with its archive's members changed."""
    path, stream = FILE["dir"] / "stranger.ckpt", io.BytesIO()
    torch.save(BASE, stream)
    with zipfile.ZipFile(stream) as old, zipfile.ZipFile(path, "w", compression) as new:
        members = {part.filename: old.read(part) for part in old.infolist()}
        for name, content in change(members).items():
            new.writestr(name, content)
    return path


def test_archives_that_are_more_than_they_seem() -> None:
    def first(members: dict[str, bytes]) -> str:
        return next(name for name in members if name.endswith("data/0"))

    assert "declares more" in _refused(
        _repacked(lambda members: members | {first(members): bytes(10**8)}, zipfile.ZIP_DEFLATED)
    )
    assert "could run code" in _refused(
        _repacked(lambda members: members | {first(members): members[first(members)][:4]})
    )
    assert "could run code" in _refused(
        _repacked(lambda members: members | {first(members): members[first(members)] + bytes(4)})
    )
    assert "could run code" in _refused(
        _repacked(lambda members: {name: part for name, part in members.items() if name != first(members)})
    )
    assert "could run code" in _refused(_repacked(lambda members: members | {"archive/constants.pkl": b""}))
    assert "could run code" in _refused(_repacked(lambda members: members | {"other/data.pkl": b"\x80\x02}."}))
    huge_memo = b"\x80\x02}r\xff\xff\xff\x7f."  # keeps a value at place 2^31 of a table

    def replaced(content: bytes) -> Any:
        return lambda members: {name: content if name.endswith("data.pkl") else part for name, part in members.items()}

    assert "another program" in _refused(_repacked(replaced(huge_memo)))
    assert "cannot be read" in _refused(_repacked(replaced(b"\x80\x02X\xff\xff\xff\x7fabc.")))


def _with_pickle(pickled: bytes) -> Path:
    return _repacked(
        lambda members: {name: pickled if name.endswith("data.pkl") else part for name, part in members.items()}
    )


def test_pickles_that_take_forever() -> None:
    """Tuples so deep that their hash overflows the stack; numbers of one hash; more operations than training writes."""
    numbers = [n * (2**61 - 1) for n in range(1, 60_000)]
    colliding = b"".join(b"\x8a\x0a" + number.to_bytes(10, "little") + b"N" for number in numbers)
    for pickled in (
        b"\x80\x02})" + b"\x85" * 200_000 + b"Ns.",
        b"\x80\x02}(" + colliding + b"u.",
        b"\x80\x02" + b"]" * 4_000_000 + b".",
        b"\x80\x02" + bytes(1 << 25) + b".",
    ):
        assert "could run code" in _refused(_with_pickle(pickled))


@pytest.mark.parametrize("name", ["values", "get", "_metadata"])
def test_ordered_dictionaries_with_other_methods(name: str) -> None:
    content = copy.deepcopy(BASE)
    content["state_dict"] = OrderedDict(content["state_dict"])
    setattr(content["state_dict"], name, 5)
    assert "could run code" in _refused(_written(content))


def test_readers_of_archives_agree() -> None:
    """Torch's finds members whatever the case of their names."""
    bomb = b"\x80\x02c__builtin__\nbytearray\n\x8a\x05\x00\xe4\x0b\x54\x02\x85R."
    assert "could run code" in _refused(
        _repacked(lambda members: {next(iter(members)).replace("data.pkl", "DATA.PKL"): bomb, **members})
    )


def test_a_pipe_is_no_checkpoint(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "last.ckpt")
    assert "not a file" in _refused(tmp_path / "last.ckpt")


@pytest.mark.parametrize(
    "bank",
    [3, {}, {"relations": "a", "visits": torch.ones(2)}, {"relations": torch.ones(2, 5, 7), "visits": torch.ones(2)}],
)
def test_banks_that_hold_no_structures(bank: Any) -> None:
    content = copy.deepcopy(BASE)
    content["modmeta"]["bank"] = bank
    assert "bank" in _refused(_written(content))


def test_another_number_of_features_than_the_modules_have() -> None:
    content = copy.deepcopy(BASE)
    units = {"offset": [0.0] * 5, "scale": [1.0] * 5}
    content["modmeta"]["data"] |= {"num_features": 5, "features": list("abcde"), "units": units}
    assert "num_features" in _refused(_written(content))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("calibration.bands", [[1.0], [1.0, 2.0]]),
        ("calibration.bands", [[1.0] * 3]),
        ("data", None),
        ("data.num_features", 10**9),
        ("data.num_features", "4"),
        ("data.num_entities", [5, -1]),
        ("data.num_entities", []),
        ("data.units", {}),
        ("data.units.scale", [0.0] * 4),
        ("data.units.offset", [float("nan")] * 4),
        ("data.units.offset", [1.0]),
        ("data.features", ["x"] * 3),
        ("data.features", [1, 2, 3, 4]),
        ("data.frame_step", "1"),
        ("data.velocities", "made up"),
        ("data.smoothing", 10**9),
        ("data.led", float("nan")),
        ("data.positions", -1),
        ("calibration.frames", [5, 5, 5]),
        ("calibration.frames", []),
        ("calibration.temperatures", [float("inf")] * 3),
        ("calibration.bands", [[]]),
        ("judged", "sure"),
        ("judged.verdict", {"name": "sure"}),
        ("judged.verdict.over_none", "much"),
        ("judged.prior", [float("nan")] * 2),
        ("judged.home.frames", [10, 10, 10]),
        ("judged.home.limits", [float("inf")] * 3),
        ("reciprocity", "all"),
    ],
)
def test_what_a_checkpoint_says_of_its_data(key: str, value: Any) -> None:
    content = copy.deepcopy(BASE)
    _put(content["modmeta"], tuple(key.split(".")), value)
    assert key.split(".")[0] in _refused(_written(content))


def test_labels_of_modules_beyond_the_relations() -> None:
    content = copy.deepcopy(BASE)
    content["state_dict"]["module_to_relation"] = torch.tensor([0, 10**9])
    assert "module_to_relation" in _refused(_written(content))


# ---- whom one trusts -------------------------------------------------------------------------------------------------


def test_classes_of_ones_own_after_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "ownlaws.py").write_text("from torch import nn\n\n\nclass Bump(nn.SiLU):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(trusting, "_trusted", set())
    content = copy.deepcopy(BASE)
    content["modmeta"]["config"]["model"]["dynamics"]["activation"] = {"_target_": "ownlaws.Bump"}
    torch.save(content, tmp_path / "own.ckpt")
    with pytest.raises(UserError, match=r"names 'ownlaws\.Bump'.*--trust ownlaws"):
        load_model(tmp_path / "own.ckpt")
    assert "ownlaws" not in sys.modules
    for name in ("os", "torch", "modmeta", "a b", "", "subprocess.Popen"):
        with pytest.raises(UserError, match="cannot be trusted"):
            modmeta.trust(name)
    small = [str(tmp_path / "own.ckpt"), "-o", str(tmp_path / "small.ckpt"), "--below", "0.9"]
    assert main(["prune", *small]) == 2
    assert "ownlaws.Bump" in capsys.readouterr().err
    assert main(["prune", "--trust", "ownlaws", *small]) == 2
    assert "ownlaws" not in capsys.readouterr().err  # loaded, and then found that every module is used
    assert type(load_model(tmp_path / "own.ckpt")[0].model.dynamics).__name__ == "ContinuousDynamics"
    assert (
        read_checkpoint(tmp_path / "own.ckpt")["modmeta"]["config"]["model"]["dynamics"]["activation"]["_target_"]
        == "ownlaws.Bump"
    )


@pytest.mark.slow
def test_what_experiments_write_is_read(tmp_path: Path) -> None:
    """Every experiment's configuration is data, its values fit its parts, and its module is measured without memory."""
    every = sorted((ROOT / "conf" / "experiment").rglob("*.yaml"))
    for path in [path for path in every if path.parent.name != "efficiency"]:  # others with a few settings changed
        name = path.relative_to(ROOT / "conf" / "experiment").with_suffix("").as_posix()
        config = OmegaConf.to_container(compose(tmp_path / "run", f"experiment={name}"), resolve=True)
        trusting.check_config(config, name, of_run=True)
        trusting.check_config(config["method"], name)
        assert skeleton(config["method"], name).state_dict(), name


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("model.dynamics.reach", "far"), ("model.dynamics.reach", float("nan")), ("search.edge_cost", None),
        ("search.edge_cost", []), ("search.enumerate_up_to", {}), ("model.dynamics.substeps", 0), ("search.sweeps", 0),
        ("search.sweeps", -1), ("search.horizon", 0), ("model.likelihood.positions", "abc"), ("search.flips", 1),
        ("search.selection", "gibbs"), ("model.dynamics.features", "isotropic"), ("forecast_steps", [0]),
        ("forecast_steps", ["1"]), ("temperature.start", True), ("model.dynamics.edge_layers", 1.5), ("seed", -1),
        ("observed_frames", None), ("proposal.hidden", "64"), ("gradient_clip", "1"),
    ],
)  # fmt: skip
def test_values_of_another_type(place: str, value: Any) -> None:
    content = copy.deepcopy(BASE)
    _put(content["modmeta"]["config"], tuple(place.split(".")), value)
    assert "its configuration gives" in _refused(_written(content))


def test_what_a_trusted_package_imports_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mylaws.py").write_text("import os\nfrom torch import nn\n\n\nclass Bump(nn.SiLU):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(trusting, "_trusted", set())
    modmeta.trust("mylaws")
    assert trusting.is_trusted("mylaws.Bump")
    for name in (
        "mylaws.os.system",
        "mylaws.os",
        "mylaws.nn.Linear",
        "mylaws.nothing",
        "mylawsx.Bump",
        "torch.nn.Linear",
    ):
        assert not trusting.is_trusted(name), name
