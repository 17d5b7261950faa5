"""`modmeta infer` on files, and what it writes."""

import json
from pathlib import Path

import h5py
import networkx as nx
import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv as csv
import pyarrow.parquet as parquet
import pytest

from modmeta.cli.main import main
from modmeta.data import formats
from modmeta.data.formats import load
from modmeta.data.generation import generate
from modmeta.data.reading import Reading
from modmeta.data.trajectories import Trajectories
from modmeta.simulators import Springs
from modmeta.text import plain
from tests.runs import command
from tests.unit.test_text import named


def test_infer_writes_what_is_true(
    springs_file: Path, springs: Trajectories, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ["--relations", str(springs_file.with_name("truth.csv")), "--report", "--observed", "40", "--steps", "9"]
    assert main(["infer", "springs5", str(springs_file), "-o", str(out), *words]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "verdict: relations found"
    told = json.loads((out / "verdict.json").read_text())
    assert told["verdict"] == "relations found"
    assert told["over_exchanged"] > 1
    assert told["tasks_that_do_not_fit"] == []
    assert "relations found" in (out / "report.html").read_text()
    rows = csv.read_csv(out / "relations.csv")
    assert rows.column_names == ["task", "receiver", "sender", "relation", "probability"]
    assert rows.equals(parquet.read_table(out / "relations.parquet").cast(rows.schema))
    assert len(rows) == 12 * 20
    task, receiver, sender, relation = (rows[name].to_numpy() for name in rows.column_names[:4])
    assert (springs.relations[task, receiver, sender] == relation).mean() >= 0.995
    arrays = np.load(out / "relations.npz", allow_pickle=False)
    np.testing.assert_array_equal(arrays["relations"][task, receiver, sender], relation)
    np.testing.assert_allclose(arrays["probabilities"][task, receiver, sender].sum(-1), 1, atol=1e-5)
    graph = nx.read_graphml(out / "graphs" / "3.graphml")
    assert len(graph.edges) == 20
    assert all(data["relation"] == springs.relations[3, int(b), int(a)] for a, b, data in graph.edges(data=True))
    ahead = np.load(out / "forecasts.npz", allow_pickle=False)
    assert np.abs(ahead["mean"] - springs.states[:, :, 40:49]).max() < 0.05
    assert (ahead["low"] <= ahead["high"]).all()
    assert back_in(out / "relations.csv", springs_file, springs)


def back_in(relations: Path, states: Path, springs: Trajectories) -> bool:
    """What was inferred can be given as labels."""
    data = formats.load(states, how=Reading(relations=str(relations)))["test"]
    return float((data.relations == springs.relations).mean()) >= 0.995


def test_masked_frames_and_other_entities(springs: Trajectories, tmp_path: Path) -> None:
    """A task of four entities and a hole in another one; both in one file, names as strings."""
    save = tmp_path / "holes.h5"
    mask = np.ones(springs.states.shape[:3], bool)
    mask[2, :, 11] = False
    names = np.array([f"é{i}" for i in range(12)])
    states = springs.states.copy()
    states[2, :, 11] = np.nan
    with h5py.File(save, "w") as file:
        file["states"], file["mask"], file["features"] = states, mask, ["x", "y", "vx", "vy"]
        file["task_names"] = names.astype(object)
        file.attrs["frame_step"] = 0.1
    assert main(["infer", "springs5", str(save), "-o", str(tmp_path / "out"), "--missing", "mask"]) == 0
    rows = csv.read_csv(tmp_path / "out" / "relations.csv")
    assert set(rows["task"].to_pylist()) == set(names.tolist())
    found = np.load(tmp_path / "out" / "relations.npz", allow_pickle=False)["relations"]
    assert (found == springs.relations).mean() >= 0.995


ENTITIES = ["$x$", "<b>\x1b[31m", "=1+1", "a\nb", "_日\ud800"]


@pytest.fixture(scope="module")
def inferred(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `modmeta infer` makes of entities with such names."""
    here = tmp_path_factory.mktemp("inferred")
    data = named(["a", "b", "c", "d", "e"])
    assert data.relations is not None
    np.savez(
        here / "a.npz", states=data.states, relations=data.relations, features=np.array(data.features), frame_step=0.1,
        task_names=np.array(["$t$", "[bold]"]), entity_names=np.array([ENTITIES, ENTITIES[::-1]]),
    )  # fmt: skip
    assert main(["infer", "springs5", str(here / "a.npz"), "-o", str(here / "out"), "--steps", "3", "--report"]) == 0
    return here / "out"


def test_windows_that_lack_an_entity_tell_the_graph_together(tmp_path: Path) -> None:
    """Every entity is away for a fifth of the recording, so that no window sees all of them."""
    recording = generate(Springs(), {"test": (1, 251)}, seed=4, progress=False)["test"]
    with (tmp_path / "recording.csv").open("w") as table:
        print("frame,animal,x,y,vx,vy", file=table)
        for frame, entity in np.ndindex(251, 5):
            if frame // 50 % 5 != entity:
                print(frame, entity, *recording.states[0, entity, frame], sep=",", file=table)
    words = ["--entity", "animal", "--missing", "mask", "--window", "26", "--frame-step", "0.1", "--steps", "1"]
    assert main(["infer", "springs5", str(tmp_path / "recording.csv"), "-o", str(tmp_path / "out"), *words]) == 0
    found = np.load(tmp_path / "out" / "relations.npz")
    np.testing.assert_array_equal(found["relations"], recording.relations)
    assert len(csv.read_csv(tmp_path / "out" / "relations.csv")) == 20
    assert csv.read_csv(tmp_path / "out" / "forecasts.csv")["task"].unique().to_pylist()[:2] == ["0:0", "0:25"]


def test_infer_writes_text(inferred: Path) -> None:
    page = (inferred / "report.html").read_text()
    assert "<b>" not in page
    assert "\x1b" not in page
    shown = [plain(name) for name in ENTITIES]
    for task in range(2):
        graph = nx.read_graphml(inferred / "graphs" / f"{task}.graphml")
        assert sorted(graph.nodes) == sorted(shown)
    columns = csv.read_csv(inferred / "relations.csv", parse_options=csv.ParseOptions(newlines_in_values=True))
    assert set(columns["sender"].to_pylist()) == {"$x$", "<b>\x1b[31m", "'=1+1", "a\nb", r"_日\ud800"}
    assert pa.types.is_string(columns["task"].type)


def test_what_infer_wrote_is_read(inferred: Path) -> None:
    """`relations.csv` serves as labels of the same file."""
    found = load(inferred.parent / "a.npz", how=Reading(relations=str(inferred / "relations.csv")))["test"]
    with np.load(inferred / "relations.npz") as arrays:
        np.testing.assert_array_equal(found.relations, np.where(np.eye(5, dtype=bool), 0, arrays["relations"]))


def test_pairs_without_a_row_may_be_unknown(
    springs_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A list of some of the edges, one of them wrong: only these are compared, and the wrong one counts."""
    truth = csv.read_csv(springs_file.with_name("truth.csv"))
    some = truth.filter(pa.compute.equal(truth["relation"], 1)).slice(0, 20)
    some = some.set_column(3, "relation", pa.array([0] + [1] * 19))
    csv.write_csv(some, tmp_path / "some.csv")
    words = ["infer", "springs5", str(springs_file), "--steps", "1", "--relations", str(tmp_path / "some.csv")]
    assert main([*words, "-o", str(tmp_path / "unknown"), "--unlisted", "unknown"]) == 0
    told = capsys.readouterr().out
    assert "edges right: 95.00% of 20 pairs in the table\n" in told
    assert "some.csv: 220 of 240 pairs have no row, so their relation is unknown, and not compared" in told
    assert main([*words, "-o", str(tmp_path / "none")]) == 0
    right = capsys.readouterr().out.split("edges right: ")[1].split("%")[0]
    assert float(right) < 70  # nearly half of the pairs have a relation
    assert main(["infer", "springs5", str(springs_file), "-o", str(tmp_path / "x"), "--unlisted", "unknown"]) == 2
    assert "--relations" in capsys.readouterr().err


def test_inference_imports_neither_lightning_nor_figures(tmp_path: Path) -> None:
    """They take longer to import than many files take to infer from."""
    slow = {"pytorch_lightning", "torchmetrics", "hydra", "matplotlib", "scipy.stats", "torch._dynamo", "wandb"}
    script = (
        "import sys, modmeta, modmeta.cli.main, modmeta.report.inference, modmeta.training.suggestions\n"
        "modmeta.load('springs5')\n"
        f"print(sorted({slow!r} & set(sys.modules)))"
    )
    assert command("-c", script, cwd=tmp_path).stdout.strip() == "[]"
