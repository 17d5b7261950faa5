"""`modmeta report`: what is read, which runs are which row, what is written."""

import csv
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import hydra
import pytest

from modmeta.cli.main import main
from modmeta.report.ablations import COMMON, PROPOSALS, VARIANTS, name_of
from modmeta.report.collect import collect
from modmeta.report.groups import grouped
from modmeta.report.paper import ROWS, WORLDS, chosen, is_row, of_row
from modmeta.report.results import results
from modmeta.report.runs import SILENT
from modmeta.training.callbacks.record import result_file
from modmeta.training.configs import FAILED
from tests.runs import ROOT, configured

RESULTS = ROOT / "results"


def written(path: Path, seed: int = 0, tasks: int = 100, name: str = "springs5", **measures: Any) -> Path:
    """A file of results like a committed one, with other measures (`edge_accuracy=0.9`)."""
    content = json.loads((RESULTS / "springs5" / "500tasks_seed0.json").read_text())
    content["config"] |= {"name": name, "seed": seed}
    content["config"]["data"] |= {"num_tasks": tasks, "train": tasks, "seed": seed, "order_seed": seed}
    content["config"]["bouncegrad"]["seed"] = seed
    content |= {"seed": seed, "train/tasks": tasks} | {f"test/{key}": value for key, value in measures.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def test_folders_of_results_of_both_layouts_are_read(tmp_path: Path) -> None:
    """Files in a folder of their experiment, and side by side as in earlier versions."""
    for seed in range(2):
        written(result_file(tmp_path / "new", "springs5", 100, seed), seed, edge_accuracy=0.9)
        written(tmp_path / "old" / f"springs5_100tasks_seed{seed}.json", seed, edge_accuracy=0.9)
    assert (tmp_path / "new" / "springs5" / "100tasks_seed1.json").exists()
    old, new, both = (collect(paths) for paths in ([tmp_path / "old"], [tmp_path / "new"], [tmp_path]))
    assert (len(old.runs), len(new.runs), len(both.runs), both.twice) == (2, 2, 2, 2)
    assert results(old) == results(new)


def cells(text: str, label: str) -> list[list[str]]:
    """The lines of all tables that begin with a label."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return [line for line in lines if line[0] == label]


def test_lengths_of_runs_are_told(tmp_path: Path) -> None:
    """Hours in all, and which methods' points differ in steps."""
    for tasks, steps in ((100, 300), (200, 3000)):
        for name, own in (("nri_springs5", steps), ("springs5", 1200)):
            file = written(tmp_path / f"{name}_{tasks}.json", tasks=tasks, name=name)
            file.write_text(json.dumps(json.loads(file.read_text()) | {"train/steps": own, "train/seconds": 1800.0}))
    files = results(collect([tmp_path]))
    text = files["RESULTS.md"].decode()
    assert "4 runs, 2.0 hours of training in all" in text
    assert "Steps differ between points of: NRI (Kipf et al. 2018), springs (300 to 3,000).\n" in text
    rows = csv.DictReader(files["efficiency.csv"].decode().splitlines())
    assert {row["train_steps"] for row in rows if row["tasks"] == "200"} == {"3000.0", "1200.0"}


def test_files_are_the_same_each_time(tmp_path: Path) -> None:
    written(tmp_path / "a.json")
    written(tmp_path / "b.json", name="ablation00")
    found = collect([tmp_path])
    first, second = results(found), results(found)
    assert "efficiency.svg" in first
    assert {name for name in first if first[name] != second[name]} == set()


def test_rows_are_told_by_name_and_settings(tmp_path: Path) -> None:
    """Baselines are rows of their names; the shipped experiment under other settings is not ours."""
    names = {row.label: row.name.format(world="springs5") for row in ROWS}
    assert len(set(names.values())) == len(ROWS)
    for label, name in names.items():
        written(tmp_path / f"{name}.json", name=name)
        runs = collect([tmp_path / f"{name}.json"]).runs
        assert [row.label for row in ROWS for world in WORLDS if is_row(runs[0], row, world)] == [label]
    content = json.loads((tmp_path / "springs5.json").read_text())
    for part, key, value in (("data", "noise", 0.01), ("search", "horizon", 10), ("data", "num_entities", 10)):
        other = json.loads(json.dumps(content))
        other["config"][part][key] = value
        (tmp_path / "other.json").write_text(json.dumps(other))
        assert not any(is_row(collect([tmp_path / "other.json"]).runs[0], row, "springs5") for row in ROWS)


def test_measures_that_a_method_lacks_and_methods_beyond_the_paper(tmp_path: Path) -> None:
    static = written(tmp_path / "static.json", name="static_springs5", mse_1=1.586e-4)
    content = json.loads(static.read_text())
    static.write_text(json.dumps({key: value for key, value in content.items() if key != "test/edge_accuracy"}))
    written(tmp_path / "em.json", name="em_springs5", edge_accuracy=0.75)
    written(tmp_path / "adapted.json", name="nri_adapted_springs5", edge_accuracy=0.5)
    text = results(collect([tmp_path]))["RESULTS.md"].decode()
    first, second = text.split("## Table 2")
    assert cells(first, "Static")[0][1:4] == ["7.93e-05", "1.59e-04", "2"]
    assert cells(first, "Static")[1][2] == "missing"  # the other world
    assert not cells(second, "Static")
    assert cells(second, "em")[0][1:4] == ["-", "75.00%", "-"]
    assert cells(second, "NRI, adapted to new tasks")[0][1:4] == ["-", "50.00%", "-"]
    assert cells(first, "NRI (Kipf et al. 2018)")[0][2] == "missing"


def test_compositions_have_a_table(tmp_path: Path) -> None:
    for seed in (0, 1):
        measures = {"error": 2e-4, "error_unseen": 3e-4, "structures": 0.9 + 0.1 * seed, "confidence": 0.97,
                    "calibration_error": 0.01}  # fmt: skip
        written(tmp_path / f"{seed}.json", seed, 1000, "functions_sum", **measures)
    text = results(collect([tmp_path]))["RESULTS.md"].decode()
    (line,) = [line for line in text.split("## Compositions")[1].split("##")[0].splitlines() if "functions_sum" in line]
    assert [cell.strip() for cell in line.split("|")[1:-1]] == [
        "functions_sum", "BounceGrad", "1,000", "2", "95.00% ± 7.07%", "0.0002", "-", "0.0003",
        "97.00% ± 0.00%", "1.00% ± 0.00%",
    ]  # fmt: skip
    written(tmp_path / "other" / "0.json")
    assert "## Compositions" not in results(collect([tmp_path / "other"]))["RESULTS.md"].decode()


def test_runs_that_begin_from_runs_of_their_seeds_are_one_line(tmp_path: Path) -> None:
    """Those that begin from nothing are another one."""
    for seed, start in enumerate((None, "runs/a", "runs/b")):
        path = written(tmp_path / f"{seed}.json", seed=seed, edge_accuracy=0.9)
        content = json.loads(path.read_text())
        content["config"]["ckpt_path"] = start
        path.write_text(json.dumps(content))
    groups = grouped(collect([tmp_path]).finished)
    assert sorted([run.seed for run in group.runs] for group in groups) == [[0], [1, 2]]


def test_methods_that_are_ahead_of_ours_are_named(tmp_path: Path) -> None:
    written(tmp_path / "ours.json", edge_accuracy=0.9)
    written(tmp_path / "nri.json", name="nri_springs5", edge_accuracy=0.8)
    written(tmp_path / "alone.json", name="nri_springs5", tasks=5, edge_accuracy=0.95)
    assert "ahead of every other method, at all numbers of tasks" in results(collect([tmp_path]))["RESULTS.md"].decode()
    written(tmp_path / "encoder.json", name="supervised_springs5", edge_accuracy=0.95)
    text = results(collect([tmp_path]))["RESULTS.md"].decode()
    assert "not ahead of: Supervised encoder, 100 tasks (95.00% against 90.00%)." in text


def test_a_table_shows_the_most_tasks_that_have_three_seeds(tmp_path: Path) -> None:
    for tasks, seeds in ((10, 3), (50, 3), (100, 2)):
        for seed in range(seeds):
            written(tmp_path / f"{tasks}_{seed}.json", seed, tasks)
    ours = next(row for row in ROWS if row.name == "{world}")
    groups = of_row(grouped(collect([tmp_path]).finished), ours, "springs5")
    assert [(group.tasks, len(group.runs)) for group in groups] == [(10, 3), (50, 3), (100, 2)]
    for asked, expected in ((None, 50), (10, 10), (100, 100)):
        group = chosen(groups, asked)
        assert group is not None
        assert group.tasks == expected
    assert chosen(groups, 7) is None
    assert chosen(groups[2:], None) == groups[2]
    assert chosen([], None) is None


def test_a_run_and_its_copy_count_once(tmp_path: Path) -> None:
    """That with curves is kept; other settings are another group."""
    written(tmp_path / "copy" / "a.json", 0)
    content = json.loads(written(tmp_path / "run" / "metrics.json", 0).read_text())
    (tmp_path / "run" / "curves.json").write_text(json.dumps({"history": [{"steps": 1, "seconds": 0.5}]}))
    written(tmp_path / "copy" / "b.json", 1)
    content["config"]["search"]["sweeps"] = 7
    (tmp_path / "copy" / "c.json").write_text(json.dumps(content))
    found = collect([tmp_path / "copy", tmp_path / "run", tmp_path / "run"])
    assert found.twice == 1
    assert sorted((run.seed, len(run.history)) for run in found.runs) == [(0, 0), (0, 1), (1, 0)]
    groups = grouped(found.finished)
    assert sorted(len(group.runs) for group in groups) == [1, 2]
    text = results(found)["RESULTS.md"].decode()
    assert cells(text, "springs5 search.sweeps=7")
    assert cells(text, "springs5 search.sweeps=3")


def test_states_of_runs(tmp_path: Path) -> None:
    """Finished, running, interrupted and failed, and what a table says of a row that has nothing else."""
    sweep = tmp_path / "sweep"
    for name in ("running", "broken", "failed"):
        (sweep / name / ".hydra").mkdir(parents=True)
        config = "name: nri_springs5\nseed: 0\ndata: {num_tasks: 20, seed: '${seed}'}\ntrainer: {max_epochs: 8}\n"
        (sweep / name / ".hydra" / "config.yaml").write_text(config)
    (sweep / "failed" / FAILED).write_text("UserError: the loss | is not finite\n")
    (sweep / "running" / "curves.csv").write_text("step,epoch,train/loss\n5,0,1.0\n10,1,0.9\n")
    for file in (sweep / "broken").rglob("*"):
        os.utime(file, (time.time() - 2 * SILENT,) * 2)
    found = collect([sweep])
    states = {run.where: (run.state, run.note) for run in found.runs}
    assert states["running"] == ("running", "2 of 8 epochs, last file written 0 minutes ago")
    assert states["broken"] == ("interrupted", "0 of 8 epochs, last file written 40 minutes ago")
    assert states["failed"] == ("failed", "UserError: the loss | is not finite")
    text = results(found)["RESULTS.md"].decode()
    missing = "missing (1 interrupted, 1 failed, 1 running)"
    assert cells(text[text.index("## Table 2") :], "NRI (Kipf et al. 2018)")[0][2] == missing
    assert "the loss \\| is not finite" in text
    written(sweep / "broken" / "metrics.json", name="nri_springs5", mse_1=float("nan"), edge_accuracy=float("nan"))
    written(sweep / "ablation" / "metrics.json", name=name_of(1), edge_accuracy=float("nan"))
    found = collect([sweep])
    assert len(found.finished) == 2
    assert "- broken: test/edge_accuracy, test/mse_1" in results(found)["RESULTS.md"].decode()


def test_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line each, nothing written; a broken file among others is named and the others are read."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "other.json").write_text('{"a": 1}')
    (tmp_path / "broken.json").write_text("{")
    out = tmp_path / "out"
    for path, told in (
        (tmp_path / "none", "does not exist"),
        (tmp_path / "empty", "holds no runs"),
        (tmp_path / "other.json", "holds no results of a run"),
        (tmp_path / "broken.json", "cannot be read as JSON"),
        (written(tmp_path / "words" / "a.json", mse_1="small"), "test/mse_1 is not what a run writes"),
    ):
        assert main(["report", str(path), "-o", str(out)]) == 2
        error = capsys.readouterr().err
        assert told in error
        assert error.count("\n") == 1
        assert not out.exists()
    good = tmp_path / "good"
    written(good / "a.json")
    shutil.copy(tmp_path / "broken.json", good / "b.json")
    shutil.copy(tmp_path / "other.json", good / "c.json")
    assert main(["report", str(good), "-o", str(out)]) == 0
    assert "not read: b.json cannot be read" in capsys.readouterr().out
    assert "b.json cannot be read as JSON" in (out / "RESULTS.md").read_text()
    whole = (out / "RESULTS.md").read_text()
    assert main(["report", str(good), "-o", str(out)]) == 2
    assert "add --overwrite" in capsys.readouterr().err
    assert main(["report", str(good), "-o", str(out), "--force"]) == 0
    assert (out / "RESULTS.md").read_text() == whole
    (out / "RESULTS.md").write_text("mine")
    assert main(["report", str(good), "-o", str(out), "--force"]) == 2
    assert "RESULTS.md was changed since" in capsys.readouterr().err
    assert (out / "RESULTS.md").read_text() == "mine"
    assert main(["report", str(good), "-o", str(out), "--force", "--tasks", "0"]) == 2
    assert "--tasks 0 must be" in capsys.readouterr().err
    assert main(["report", str(good), "-o", str(tmp_path / "other.json")]) == 2
    assert "is a file" in capsys.readouterr().err


def test_curves_of_proposals_are_drawn_where_they_were_kept(tmp_path: Path) -> None:
    for place in PROPOSALS:
        for seed in range(2):
            path = written(tmp_path / f"{place}_{seed}.json", seed, 1000, name_of(place))
            rows = [
                {"epoch": i, "steps": 100 * i, "seconds": i, "train/edge_accuracy": 0.1 * i, "train/changed": 0.5}
                for i in range(1, 5)
            ]
            path.write_text(json.dumps(json.loads(path.read_text()) | {"history": rows}))
    files = results(collect([tmp_path]))
    assert {"proposals_charged5_1000tasks.png", "ablations_charged5_1000tasks.csv"} <= files.keys()
    table = list(csv.DictReader(files["proposals_charged5_1000tasks.csv"].decode().splitlines()))
    assert len(table) == 3 * 2 * 4


def test_variants_of_the_ablation_are_settings_that_exist() -> None:
    """No two are the same, and their parts can be made."""
    made = set()
    for variant in VARIANTS:
        config = configured(*COMMON, *variant.overrides)
        hydra.utils.instantiate(config.method)
        made.add(str(config))
    assert len(made) == len(VARIANTS)
    assert len({variant.title for variant in VARIANTS}) == len(VARIANTS)


RISING = (0.70, 0.80, 0.90, 0.99)
FLAT = (0.90, 0.985, 0.985, 0.988)
AT_CHANCE = (0.50, 0.51, 0.50, 0.51)


@pytest.mark.parametrize(
    ("right", "energy", "flat"),
    [
        (RISING, (3.0, 2.0, 2.0, 2.0), False),
        (FLAT, (3.0, 2.0, 2.0, 1.0), True),  # the scales still learn, the edges are found
        (AT_CHANCE, (3.0, 2.0, 2.0, 1.0), False),  # it has not begun to find edges, but learns
        (AT_CHANCE, (3.0, 2.0, 2.0, 1.99), True),
        (RISING[-1:], (2.0,), False),  # one validation shows nothing
    ],
)
def test_training_that_had_not_flattened_is_told(
    tmp_path: Path, right: tuple[float, ...], energy: tuple[float, ...], flat: bool
) -> None:
    """It is a point without a line, and the table has the visits after which it was stopped."""
    file = written(result_file(tmp_path, "springs5", 100, 0))
    steps = [400 // len(right) * (place + 1) for place in range(len(right))]
    rows = [
        {"steps": at, "val/edge_accuracy": a, "val/energy": e} for at, a, e in zip(steps, right, energy, strict=True)
    ]
    file.write_text(json.dumps(json.loads(file.read_text()) | {"history": rows, "train/steps": 400}))
    found = collect([tmp_path])
    assert found.runs[0].flattened is flat
    (line,) = cells(results(found)["RESULTS.md"].decode(), "Modular meta-learning, ours")[:1]
    assert line[-1] == ("flat at 4,000 visits" if flat else "stopped at 4,000 visits")


@pytest.mark.parametrize(("strengths", "groups"), [(None, 1), (False, 1), (True, 2)])
def test_runs_from_before_strengths_are_those_without(tmp_path: Path, strengths: bool | None, groups: int) -> None:
    for seed in (0, 1):
        content = json.loads((ROOT / "results" / "springs5" / f"5000tasks_seed{seed}.json").read_text())
        if seed:
            content["config"]["model"]["strengths"] = strengths
        (tmp_path / "springs5").mkdir(exist_ok=True)
        (tmp_path / "springs5" / f"5000tasks_seed{seed}.json").write_text(json.dumps(content))
    assert len(grouped(collect([tmp_path]).finished)) == groups
