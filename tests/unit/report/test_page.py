"""The page of `modmeta infer --report`: what it holds, that it is no larger than asked, and that a browser shows it."""

import base64
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from modmeta.api import Forecasts, Model, Relations, load
from modmeta.data.trajectories import Trajectories
from modmeta.evaluation.verdict import FOUND, Verdict
from modmeta.report import page
from modmeta.report.page import NONE, packed, write_pages

NAMES = ["</script><b>x", "$y$", "é\x1b[31m"]


@pytest.fixture(scope="module")
def model() -> Model:
    return load("springs5")


def written(directory: Path, model: Model, tasks: int = 3, frames: int = 12) -> list[Path]:
    """Pages of random walks, of which the second one has two entities and does not fit."""
    rng = np.random.default_rng(0)
    states, truth = (rng.normal(size=(tasks, 3, t, 4)).cumsum(2) for t in (frames, 5))
    chances = rng.dirichlet([1, 1], (tasks, 3, 3))
    mask = np.ones((tasks, 3, frames), bool)
    mask[1, 2] = False
    labels = chances.argmax(-1)
    data = Trajectories(states, labels, model.features, 0.1, mask=mask, entity_names=np.array([NAMES] * tasks))
    misfit = np.arange(tasks) == 1
    found = Relations(
        chances, labels, np.zeros(tasks), np.zeros((tasks, 3)), None, chances, verdict=Verdict(FOUND), misfit=misfit
    )
    ahead = Forecasts(truth + 0.1, truth - 1, truth + 1)
    write_pages(directory, "a <i>.csv", [("verdict", FOUND), ("tasks", "3")], ["<u>"], model, data, found, ahead, truth)
    return sorted(directory.glob("report*.html"))


def content(file: Path) -> dict:
    text = file.read_text(encoding="utf-8")
    told = re.search(r'<script id="data" type="application/json">(.*?)</script>', text, re.DOTALL)
    assert told is not None
    return json.loads(told[1])


def unpacked(text: str, bounds: list[list[float]]) -> np.ndarray:
    """As the page does it: numbers (..., D)."""
    whole = np.frombuffer(base64.b64decode(text), "<u2").reshape(-1, len(bounds)).astype(float)
    low, high = np.array(bounds).T
    return np.where(whole == NONE, np.nan, low + (high - low) * whole / (NONE - 1))


def test_numbers_are_packed_to_a_part_in_65000() -> None:
    values, low, high = np.array([[-3.0, 5.0], [1.0, np.nan], [4.0, 5.0]]), np.array([-3.0, 5.0]), np.array([4.0, 5.0])
    np.testing.assert_allclose(unpacked(packed(values, low, high), [[-3, 4], [5, 5]]), values, atol=7 / 60000)


def test_every_task_is_on_the_page_and_names_are_text(tmp_path: Path, model: Model) -> None:
    (file,) = written(tmp_path, model)
    text, held = file.read_text(encoding="utf-8"), content(file)
    assert file.stat().st_size < 10_000_000
    assert not re.search(r"""(src|href)=["']?(http|//)""", text.replace(page.plotly(), ""))  # needs no other file
    assert "<b>x" not in text.replace(page.plotly(), "")
    assert "\x1b" not in text
    assert held["verdict"] == [FOUND, "found"]
    assert [one["name"] for one in held["tasks"]] == ["0", "1", "2"]
    assert [len(one["entities"]) for one in held["tasks"]] == [3, 2, 3]
    assert [one["misfit"] for one in held["tasks"]] == [False, True, False]
    assert len(held["laws"]["pulls"]) == 2
    last = held["tasks"][2]
    states = np.random.default_rng(0).normal(size=(3, 3, 12, 4)).cumsum(2)
    seen = unpacked(last["seen"], last["range"]).reshape(3, 12, 2)
    np.testing.assert_allclose(seen, states[2, ..., :2], atol=1e-3)
    chances = unpacked(last["chances"], [[0, 1]]).reshape(3, 3, 2)
    np.testing.assert_allclose(chances.sum(-1), 1, atol=1e-4)


def test_long_recordings_are_thinned_to_their_last_frame(tmp_path: Path, model: Model) -> None:
    (file,) = written(tmp_path, model, frames=5000)
    one = content(file)["tasks"][0]
    seen = unpacked(one["seen"], one["range"]).reshape(3, -1, 2)
    assert seen.shape[1] <= page.FRAMES
    assert one["first"] + (seen.shape[1] - 1) * one["stride"] == one["last"] == 4999


def test_many_tasks_are_spread_over_pages(tmp_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "ROOM", 3000)
    files = written(tmp_path, model, tasks=7)
    held = [content(file) for file in files]
    assert len(files) > 2
    assert sorted(one["name"] for each in held for one in each["tasks"]) == [str(task) for task in range(7)]
    assert {link[0] for link in held[0]["pages"]} == {file.name for file in files}


TRY = """<script>
open(1); const doubt = document.getElementById("doubt").textContent;
open(2); const slider = document.getElementById("time");
slider.value = 3; slider.oninput(); const early = document.querySelector("#paths").data[0].x.length;
Plotly.Fx.hover("graph", [{ curveNumber: document.querySelector("#graph").data.length - 2, pointNumber: 0 }]);
setTimeout(() => { document.body.dataset.tried = JSON.stringify({ doubt, early, frame: document.getElementById("now").textContent,
  told: document.querySelector("#graph .hoverlayer").textContent, verdict: document.getElementById("verdict").textContent,
  tasks: document.getElementById("task").length, law: document.querySelectorAll("#law .scatterlayer path.js-line").length }); }, 300);
</script>"""  # noqa: E501


@pytest.mark.slow  # starts a browser
@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium")
def test_a_browser_shows_it(tmp_path: Path, model: Model) -> None:
    (file,) = written(tmp_path, model)
    file.write_text(file.read_text(encoding="utf-8") + TRY, encoding="utf-8")
    words = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    words += ["--virtual-time-budget=10000", "--dump-dom", f"{file.as_uri()}#2"]
    shown = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True).stdout
    tried = re.search(r'data-tried="(.*?)"', shown)
    assert tried is not None, "a script of the page failed"
    told = json.loads(tried[1].replace("&quot;", '"').replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    assert told["verdict"] == FOUND
    assert told["doubt"].startswith("The model does not fit")
    assert (told["early"], told["frame"], told["tasks"], told["law"]) == (4, "frame 3", 3, 2)
    assert re.search(r"→ .*relation 0: 0\.\d{3}relation 1: 0\.\d{3}", told["told"])
