"""Plain data out of JSON and YAML: what OmegaConf and json read, and nothing that runs, hangs or fills the memory."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from modmeta.errors import UserError
from modmeta.plain import check_plain, read_json, read_yaml
from tests.runs import ROOT

WORDS = [
    "",
    "~",
    "yes",
    "off",
    "1e-3",
    "010",
    "0x1F",
    "1_000",
    ".inf",
    "2020-01-01",
    "a: b",
    "- x",
    "#",
    "${oc.env:HOME}",
]
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats(allow_nan=False) | st.sampled_from(WORDS),
    lambda part: st.lists(part, max_size=3) | st.dictionaries(st.sampled_from("abcd"), part, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["x", "yes", "1", "a b"]), PLAIN, min_size=1, max_size=4))
def test_what_omegaconf_writes_is_read_back(tmp_path_factory: pytest.TempPathFactory, content: dict) -> None:
    path = tmp_path_factory.getbasetemp() / "plain.yaml"
    path.write_text(OmegaConf.to_yaml(OmegaConf.create(content)))
    assert read_yaml(path) == content
    path.write_text(json.dumps(content))
    assert read_json(path) == content


def test_the_tree_of_settings_is_read_as_omegaconf_reads_it() -> None:
    paths = sorted((ROOT / "conf").rglob("*.yaml"))
    assert len(paths) > 50
    for path in paths:
        assert (read_yaml(path) or {}) == OmegaConf.to_container(OmegaConf.load(path)), path


REFUSED = {
    "deep.json": "[" * 100_000,
    "deeper.json": '{"a":' * 90 + "1" + "}" * 90,
    "wide.json": "[" + "1," * 1_000_001 + "1]",
    "large.json": '"' + "x" * (17 << 20) + '"',
    "integer.json": str(2**63),
    "digits.json": "1" + "0" * 5000,
    "surrogate.json": '{"a": "\\ud800"}',
    "key.json": '{"\\udfff": 1}',
    "empty.json": "",
    "half.json": '{"a": 1',
    "deep.yaml": "[" * 100_000,
    "deeper.yaml": "- " * 90 + "1",
    "bomb.yaml": "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n",
    "anchor.yaml": "a: &a 1\n",
    "tag.yaml": "a: !!python/object/apply:os.system [echo]\n",
    "own.yaml": "a: !mine 1\n",
    "binary.yaml": "a: !!binary AAAA\n",
    "number_as_key.yaml": "1: a\n",
    "list_as_key.yaml": "? [1]\n: 2\n",
    "twice.yaml": "a: 1\na: 2\n",
    "several.yaml": "---\na: 1\n---\nb: 2\n",
    "half.yaml": "a: [1,\n",
    "control.yaml": "a: \x01\n",
    "large.yaml": "a: " + "x" * (1 << 20),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_line_that_names_the_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text(REFUSED[name])
    with pytest.raises(UserError) as raised:
        (read_json if path.suffix == ".json" else read_yaml)(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("read", [read_json, read_yaml])
def test_what_is_no_file_of_text_is_refused_at_once(tmp_path: Path, read) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "latin").write_bytes(b'"\xe4"')
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path in (
        tmp_path / "pipe",
        Path("/dev/zero"),
        tmp_path,
        tmp_path / "latin",
        tmp_path / "loop",
        tmp_path / "no",
    ):
        with pytest.raises(UserError, match=str(path)):
            read(path)


def test_only_plain_objects_pass() -> None:
    class Text(str):
        pass

    loop: list = []
    loop.append([loop, loop])
    for value in ((1,), {1}, b"x", 1j, Text("x"), {"a": object()}, {1: 2}, {("a",): 1}, loop):
        with pytest.raises(UserError, match="here"):
            check_plain([value], "here")
    assert check_plain({"a": [1, 2.5, None, True, "x", float("nan")]}, "here")["a"][0] == 1
