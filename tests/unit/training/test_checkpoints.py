"""How checkpoints are written, and what configurations in them may name."""

import re
from pathlib import Path

from modmeta.training.checkpoints.files import load, save
from modmeta.training.checkpoints.trust import check_config
from tests.runs import (
    ROOT,
)


def test_what_follows_a_key_that_may_change() -> None:
    """`configs.LINKED` is what the configuration says, for a resumed run has no references any more."""
    from modmeta.training.configs import LINKED

    written = {}
    for path in (ROOT / "conf").rglob("*.yaml"):
        group = {"callbacks": "callbacks.", "data": "data."}.get(path.parent.name, "")
        parents = [group.rstrip(".")] if group else []
        for line in path.read_text().splitlines():
            parents = parents[: (len(line) - len(line.lstrip())) // 2 + bool(group)]
            if (found := re.match(r" *(\w+):(?: *\$\{(results|data_dir)\})?", line)) is not None:
                parents = [*parents, found[1]]
                written |= {found[2]: ".".join(parents)} if found[2] else {}
    assert written == LINKED


def test_writing_keeps_the_one_before(tmp_path: Path) -> None:
    last, previous = tmp_path / "last.ckpt", tmp_path / "previous.ckpt"
    for number in range(3):
        save({"number": number}, last)
    assert load(last) == {"number": 2}
    assert load(previous) == {"number": 1}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.ckpt", "previous.ckpt"]


def test_every_part_that_is_shipped_may_be_taken_up() -> None:
    named = set()
    for path in (ROOT / "conf").rglob("*.yaml"):
        named |= set(re.findall(r"_target_: *([\w.]+)", path.read_text()))
    named = {name for name in named if not name.startswith(("hydra", "submitit"))}
    named.remove("modmeta.training.launch.Ending")  # of Hydra's own configuration, which no run records
    assert len(named) > 20
    for name in named:
        check_config({"_target_": name}, "conf", of_run=True)
