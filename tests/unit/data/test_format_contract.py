"""Every format holds the contract of `tests/contracts_data.py`, and the contract notices what is broken."""

import json
from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from modmeta.data import formats
from modmeta.data.formats import FORMATS, NRI, Format
from modmeta.data.formats.arrays import with_options
from modmeta.data.reading import Reading
from modmeta.data.trajectories import Trajectories
from modmeta.errors import DataError
from modmeta.io import write_file
from tests.contracts_data import FormatContract


class TestFormats(FormatContract):
    @pytest.fixture(params=FORMATS, ids=lambda known: known.endings[0])
    def known(self, request: pytest.FixtureRequest) -> Format:
        return request.param


def test_no_two_formats_claim_a_file() -> None:
    for one, other in combinations(FORMATS, 2):
        assert not set(one.endings) & set(other.endings)
        assert not any(a.startswith(b) or b.startswith(a) for a in one.magic for b in other.magic)


def test_a_directory_without_data_names_itself(tmp_path: Path) -> None:
    assert formats.format_of(tmp_path) is NRI
    with pytest.raises(DataError, match=tmp_path.name):
        formats.load(tmp_path)


# ---- a format that is thrown away: the contract accepts it, and refuses it once it is broken -------------------------


def write_json(path: Path, splits: Mapping[str, Trajectories], overwrite: bool) -> None:
    """One object: features, frame step, and for every split its arrays; states as lists, NaN where masked."""
    first = next(iter(splits.values()))
    content: dict[str, object] = {"features": first.features, "frame_step": first.frame_step}
    for name, data in splits.items():
        part = {
            key: getattr(data, key)
            for key in ("relations", "types", "mask", "task_names", "entity_names", "group_names")
        }
        content[f"split {name}"] = {key: value.tolist() for key, value in part.items() if value is not None} | {
            "states": data.states.tolist()
        }
    write_file(path, lambda file: file.write(json.dumps(content).encode()), overwrite)


def read_json(path: Path, split: str | None, how: Reading) -> dict[str, Trajectories]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        names = [key.removeprefix("split ") for key in content if key.startswith("split ")]
        splits = {}
        for name in [name for name in names if split in (None, name)]:
            part = {key: np.array(value) for key, value in content[f"split {name}"].items()}
            part["relations"] = part.get("relations")
            splits[name] = Trajectories(features=tuple(content["features"]), frame_step=content["frame_step"], **part)
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} cannot be read ({type(error).__name__})") from error
    if not splits:
        raise DataError(f"{path} has no split {split!r}; choose one of {names}")
    return with_options(path, splits, how)


JSON = Format((".json",), (b'{"featur',), read_json, write_json)


class TestThrownAway(FormatContract):
    """A format that is one reader and one writer, entered in `FORMATS`, holds the contract."""

    @pytest.fixture
    def known(self, monkeypatch: pytest.MonkeyPatch) -> Format:
        monkeypatch.setattr(formats, "FORMATS", (*FORMATS, JSON))
        return JSON


def without_mask(path: Path, split: str | None, how: Reading) -> dict[str, Trajectories]:
    """Fillers become observations."""
    return {name: replace(data, mask=None) for name, data in read_json(path, split, how).items()}


def swapped(path: Path, split: str | None, how: Reading) -> dict[str, Trajectories]:
    """Entities in another order than their names."""
    splits = read_json(path, split, how)
    return {name: replace(data, states=data.states[:, ::-1]) for name, data in splits.items()}


def trusting(path: Path, split: str | None, how: Reading) -> dict[str, Trajectories]:
    """Errors of a library, which name no file."""
    json.loads(path.read_text(encoding="utf-8"))
    return read_json(path, split, how)


@pytest.mark.parametrize(
    ("read", "test"),
    [
        (without_mask, "test_missing_values_are_masked_where_asked"),
        (without_mask, "test_tasks_may_have_different_sizes"),
        (swapped, "test_states_and_names_come_back"),
        (trusting, "test_damage_is_one_line_or_harmless"),
        (trusting, "test_what_is_no_such_file_names_itself"),
        (lambda path, split, how: read_json(path, None, how), "test_splits_come_back_in_order_or_one_by_one"),
    ],
)
def test_a_broken_format_is_noticed(read: object, test: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = replace(JSON, read=read)  # type: ignore[arg-type]
    monkeypatch.setattr(formats, "FORMATS", (*FORMATS, broken))
    with pytest.raises((AssertionError, ValueError, OSError)):
        getattr(FormatContract(), test)(broken, tmp_path)
