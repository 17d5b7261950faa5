"""What a cold start takes features for, and what it leaves to the configuration."""

import shlex
from pathlib import Path
from types import SimpleNamespace

import hydra
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from modmeta.cli.train import hydra_words
from modmeta.data.generation import generate
from modmeta.data.loading.filemodule import filled_from_file
from modmeta.errors import UserError
from modmeta.evaluation.nulls import Compared, Gain
from modmeta.graph.relations import from_matrix
from modmeta.model.basis import Kind
from modmeta.simulators import Springs
from modmeta.training.resume import settle
from modmeta.training.start import (
    CHOSEN,
    as_recorded,
    begun,
    found_mutual,
    kinds_of,
    may_be_maps,
    read_beginning,
    start_of,
)
from tests.runs import compose, configured


def states(features: int) -> torch.Tensor:
    """A few smooth paths."""
    time = torch.linspace(0, 1, 20)
    return torch.sin(time.view(1, 1, 20, 1) * torch.arange(1, 1 + features) + torch.arange(3.0).view(1, 3, 1, 1))


@pytest.mark.parametrize(
    ("model", "features", "positions", "coordinates"),
    [
        ("continuous", 4, 2, [2]),  # whose modules are laws of vectors
        ("default", 4, 2, [2, 0]),  # coordinates with velocities, then four plain states
        ("paper", 4, 2, [0]),  # absolute states have no directions
        ("laws", 4, 2, [0]),  # laws of vectors are of first order
        ("laws", 2, 0, [2, 0]),  # two features that nobody named may be coordinates
        ("laws", 2, 2, [2, 0]),
        ("laws", 1, 0, [0]),
    ],
)
def test_what_features_may_be(model: str, features: int, positions: int, coordinates: list[int]) -> None:
    config = configured(f"model={model}", "data=springs5").model
    kinds = kinds_of(config, positions, states(features))
    assert [kind.coordinates for kind in kinds] == coordinates
    assert all(kind.angles == (False,) * features for kind in kinds)


def test_steps_may_be_maps_where_a_model_holds_such_laws() -> None:
    laws = ("experiment=laws", "data=springs5")
    assert may_be_maps(configured(*laws).model)
    for more in ("model.smooth=true", "model.family=sender", "model.num_edge_modules=3"):
        assert not may_be_maps(configured(*laws, more).model)
    assert not may_be_maps(configured("experiment=moving", "data=springs5").model), "laws of accelerations alone"


def test_angles_are_recognised_or_given() -> None:
    config = configured("model=laws", "data=springs5").model
    turning = (0.55 * torch.arange(400.0)).remainder(2 * torch.pi).view(1, 1, 400, 1).expand(2, 2, 400, 1)
    assert [kind.angles for kind in kinds_of(config, 0, turning)] == [(True,)]
    config.angles = [False]
    assert [kind.angles for kind in kinds_of(config, 0, turning)] == [(False,)]


@pytest.mark.parametrize(("other", "read"), [(-9.0, 0), (-5.0, 1), (-1.0, 1)])
def test_a_name_alone_makes_no_coordinate(
    other: float, read: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plain state named x, read both ways; whatever coordinates gain over what such entities do by themselves."""
    path = tmp_path / "a.npz"
    np.savez(path, states=states(1).expand(12, 3, 20, 1).numpy(), features=np.array(["x"]))
    kinds: list[Kind] = []

    def found(states: torch.Tensor, kind: Kind, **_: object) -> SimpleNamespace:
        kinds.append(kind)
        left = torch.tensor([-5.1, -5.0, -4.9]) if kind.coordinates else torch.full((3,), other)
        return SimpleNamespace(
            kind=kind, unexplained=left, gains=torch.ones(3), trials=[SimpleNamespace(gain=9, gain_error=1)]
        )

    monkeypatch.setattr("modmeta.training.start.cold_start", found)
    config = filled_from_file(compose(tmp_path / "run", "experiment=laws", "data=files", f"data.path={path}"))
    data = hydra.utils.instantiate(config.data)
    data.setup("fit")
    assert start_of(config, data, data.splits["train"].states.double())[0].kind.coordinates == read
    assert [kind.coordinates for kind in kinds] == [1, 0]


def test_choices_that_are_given_are_kept_or_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, states=states(1).expand(12, 3, 20, 1).numpy() + 0.1 * np.arange(12).reshape(12, 1, 1, 1))
    words = ("experiment=laws", "data=files", f"data.path={path}", "model.num_edge_modules=2")
    given = ("model.family=sender", "model.constants=true", "model.smooth=false")
    chosen = begun(filled_from_file(compose(tmp_path / "run", *words, *given))).model
    assert "to choose otherwise" not in capsys.readouterr().out, "nothing else was tried"
    assert (chosen.family, chosen.constants, chosen.smooth, chosen.coordinates) == ("sender", True, False, 0)
    for wrong, said in (
        ("model.family=nonsense", "'rich sender'"),
        ("model.family=springs", "law of coordinates"),
        ("model.angles=[true]", "for 4 features"),
    ):
        config = compose(tmp_path / "run", "experiment=laws", wrong, "model.coordinates=0")
        with pytest.raises(UserError, match=said):
            begun(config)
    with pytest.raises(UserError, match="max_epochs='one' must be a whole number"):
        settle(compose(tmp_path / "text", *words, "trainer.max_epochs=one"))


@pytest.mark.parametrize(
    ("roles", "said"),
    [
        ([[[0.2, 0.3, 0.5]] * 2] * 3, "of 3 modules, but model.num_edge_modules=2"),
        ([[[0.5, 0.5]]] * 2, "of 2 entities, but tasks have 3"),
        ([[[0.0, 1.0]] * 2] * 3, "positive probabilities"),
        ([[["nan", 0.5]] * 2] * 3, "positive probabilities"),
        ([[[]], [[]]], "positive probabilities"),
        (0.5, "positive probabilities"),
    ],
)
def test_roles_that_do_not_fit_are_refused_before_a_cold_start(tmp_path: Path, roles: object, said: str) -> None:
    words = ("experiment=moving", "model.num_edge_modules=2", "data.num_entities=3", f"search.roles={roles}")
    for more in ((), ("search.start=random",)):
        with pytest.raises(UserError, match=said):
            begun(compose(tmp_path / "run", *words, *more))


def test_the_command_that_chooses_otherwise_runs_as_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "it is a file.npz"
    np.savez(path, states=states(1).expand(12, 3, 20, 1).numpy() + 0.1 * np.arange(12).reshape(12, 1, 1, 1))
    words = ("experiment=laws", "data=files", f"data.path='{path}'", "model.num_edge_modules=2")
    family = "model.family='receiver x sender'"  # in printed commands, too
    chosen = begun(filled_from_file(compose(tmp_path / "run", *words, family))).model
    line = capsys.readouterr().out.partition("to choose otherwise")[2].partition("modmeta train ")[2]
    given = hydra_words(shlex.split(line))
    other = begun(filled_from_file(compose(tmp_path / "other", *given))).model
    assert other.family == chosen.family == "receiver x sender"
    assert other.constants != chosen.constants, "the next best"


def test_other_runs_are_left_alone(tmp_path: Path) -> None:
    """A random start, and baselines, whatever the search."""
    for words in ((), ("method=lstm", "search.start=laws")):
        config = compose(tmp_path / "run", *words)
        assert begun(config) is config


def test_what_was_chosen_is_taken_from_the_record(tmp_path: Path) -> None:
    config = compose(tmp_path / "run", "experiment=laws", "model.constants=false")
    stored = {name: 3 if name == "num_edge_modules" else "stored" for name in CHOSEN}
    recorded = as_recorded(config, {"model": stored, "search": {"symmetric": True, "slow": "path", "roles": False}})
    filled, search = recorded.model, recorded.search
    assert (search.symmetric, search.slow, search.roles) == (True, "path", False)
    assert (config.search.symmetric, config.search.roles) == (None, None)
    assert (filled.num_edge_modules, filled.family, filled.constants) == (3, "stored", False)
    assert OmegaConf.select(config, "model.family") is None, "the given configuration stays"


@pytest.mark.parametrize(
    ("words", "epochs"),
    [(("search.start=random",), 16), (("trainer.max_epochs=3",), 3), (("+trainer.max_steps=7",), None), ((), 4)],
)
def test_a_run_is_short_where_laws_are_found(tmp_path: Path, words: tuple[str, ...], epochs: int | None) -> None:
    """And longer where they are to be learned; what is given stays."""
    made = generate(Springs(num_entities=3, box=100.0), {"train": (12, 20)}, seed=0, progress=False)
    path = tmp_path / "a.npz"
    np.savez(path, states=made["train"].states)
    words = ("experiment=moving", "data=files", f"data.path={path}", "data.positions=2", "model.family=springs", *words)
    assert begun(filled_from_file(compose(tmp_path / "run", *words))).trainer.max_epochs == epochs


def test_laws_are_judged_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where features are read otherwise unless they find relations, that is kept for the verdict."""
    made = generate(Springs(num_entities=3, box=100.0), {"train": (12, 20)}, seed=0, progress=False)
    path, gain, asked = tmp_path / "a.npz", Gain(0.1, 0.01, 15), []
    np.savez(path, states=made["train"].states)

    def crossed(*given: object) -> Compared:
        asked.append(given)
        return Compared(gain, gain, 0.9, 0.0, 12)

    monkeypatch.setattr("modmeta.training.start.crossed", crossed)
    for name in ("SURE_OF_FEW", "ENOUGH", "CLEAR"):
        monkeypatch.setattr(f"modmeta.training.start.{name}", float("inf"))
    words = ("experiment=moving", "data=files", f"data.path={path}", "data.positions=2", "data.group=all")
    few = ("model.family=springs", "model.num_edge_modules=2", "model.constants=false", "model.smooth=false")
    begun(filled_from_file(compose(tmp_path / "run", *words, *few)))
    assert len(asked) == 1
    beginning = read_beginning(tmp_path / "run")
    assert beginning is not None
    assert beginning.compared == Compared(gain, gain, 0.9, 0.0, 12)


@pytest.mark.parametrize(
    ("mutual", "words", "wanted"),
    [
        (True, [], True),
        (False, [], False),
        (True, ["search.enumerate_up_to=7"], False),
        (True, ["method.soft=true"], False),
    ],
)
def test_relations_are_kept_mutual_where_all_rows_are_weighed(
    tmp_path: Path, mutual: bool, words: list[str], wanted: bool
) -> None:
    matrix = torch.randint(2, (50, 4, 4), generator=torch.Generator().manual_seed(0))
    relations = from_matrix(matrix.triu() + matrix.triu(1).mT if mutual else matrix).to(torch.int8)
    config = compose(tmp_path / "run", "experiment=laws", "model.num_edge_modules=2", *words)
    assert found_mutual(config, relations, None) == wanted
    assert not found_mutual(config, relations, 3), "groups have a search of their own"
