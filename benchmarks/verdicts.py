"""Verdicts and confidence where it is known what there is to find: worlds, shuffled partners, noise.

    python -m benchmarks.verdicts DIR/heat.npz DIR/fish8.npz:2 --variants real shuffled --seeds 0 1
    python -m benchmarks.verdicts noise walks own drifts coupled=0.05 neurons --tasks 60
    python -m benchmarks.verdicts DIR/heat.npz --variants random few one       # deliberately bad runs
    python -m benchmarks.verdicts DIR/heat.npz DIR/genes.npz species --cost    # CPU seconds that the nulls take
    python -m benchmarks.verdicts --table                                      # docs/benchmarks/verdicts.md and .png

A source is a file with `train`, `test`, `test_relations` as `benchmarks.worlds` reads it; with `positions` (frames,
entities, coordinates) of one recording, cut into windows; or with `states` and one graph, `relations`, for all tasks;
or a table without relations, of which every task keeps as many entities as the smallest has. `:P` says that features
begin with P coordinates. Or a name of `benchmarks.textbook`, or of `MADE`. Every row is a file in results/verdicts, and
is not measured again.
"""

import argparse
import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc

import modmeta
from benchmarks.textbook import WORLDS, make
from benchmarks.worlds import ROOT
from modmeta.data import formats
from modmeta.errors import UserError
from modmeta.evaluation.calibration import calibration_error, to_relations
from modmeta.evaluation.matching import Confusion, match_labels
from modmeta.evaluation.verdict import FOUND, NOTHING, UNFIT, UNRESOLVED
from modmeta.graph.relations import from_matrix
from modmeta.io import write_json
from modmeta.machine import commit, hardware
from modmeta.training.judge import compared
from modmeta.training.run import fit_file

COSTS = ROOT / "results" / "benchmarks" / "verdict_cost.json"
RESULTS, PAGE = ROOT / "results" / "verdicts", ROOT / "docs" / "benchmarks" / "verdicts.md"
PICTURE = PAGE.with_suffix(".png")
SHORT = ("trainer.max_epochs=2", "data.batches_per_epoch=30", "threads=1")
STRANGERS, FEW = 5, 60  # shufflings of so many new tasks, on which a model of unshuffled ones is tried
NEW, ENTITIES, FRAMES, WINDOW = 200, 5, 50, 20  # new tasks at most; a file of a world may have fewer
REFUSED, REPEATS = "refused", 3  # of which the fastest counts
# Of runs: as they are; each entity from another task; a start from random structures with the default model; a
# fifth of the tasks; one edge type less.
VARIANTS: dict[str, tuple[str, ...]] = {
    "real": (), "shuffled": (), "random": ("model=default",), "few": (), "one": (),
}  # fmt: skip
HEAD = """# Verdicts

Written by `python -m benchmarks.verdicts --table`. Short trainings ({words}) of `modmeta train FILE` on states without
labels, then `Model.infer` on new tasks. *Shuffled*: each entity's recording is drawn from another task, so that there
is nothing to find; likewise noise, random walks, and entities that move by themselves. *Random*, *few*, *one*: runs
made deliberately bad, from random structures with the default model, from a fifth of the tasks, with one edge type
less. *Claimed* is the mean probability of the relation named, *right* the share of edges right, where labels of
either half of the new tasks say which edge type is which in the other. Chance: of a gain as large where there is none.

The nulls and the rule were developed on heat, linear, phases, colloids and fish, also on data of these rows: the null
without relations was made to foretell held-out frames, and mean messages were taken, after linear came out as nothing
found; the limit of chance was raised from 1 of 200 to 1 of 100 before the rows. The rival of probabilities was
developed on colloids, heat and linear from random structures (seeds 0 to 5), on coupled=0.1 (seeds 0 to 5), linear
(seeds 0 to 2), on species with one edge type less, and on worlds that are not here; which of its kinds are one on
coupled maps. Strengths no longer stand in for a type left out since a row of genes with one less. Rows before commit
793925d, and of it, have *right* of one half of the new tasks alone.
Rows are of commits {commits}. Refused: training or inference says what is wrong with the data, as of coupled=0.5, which
grows without bound. Where one edge type less leaves a single one, every pair has it; nothing is claimed, and the row
counts only as a verdict.

"""
COLUMNS = (
    "source", "variant", "tasks", "seed", "verdict, training", "verdict, new tasks", "gain over no relations",
    "over partners exchanged", "chance", "halves agree", "claimed", "right", "CPU seconds",
)  # fmt: skip


class Source(NamedTuple):
    """Trajectories and what is known of them.

    Attributes:
        train: (B, N, T, D).
        test: new tasks, (B', N, T, D).
        relations: of the new tasks, (B', N, S); None if unknown.
        kinds: number of edge types.
        words: settings that the file needs.
        real: whether there is anything to find.
    """

    train: Tensor
    test: Tensor
    relations: Tensor | None
    kinds: int
    words: tuple[str, ...] = ()
    real: bool = True


def noise(generator: torch.Generator, tasks: int) -> Tensor:
    """White noise."""
    return torch.randn(tasks, ENTITIES, FRAMES, 1, generator=generator).double()


def walks(generator: torch.Generator, tasks: int) -> Tensor:
    """Random walks that are pulled back."""
    states = [torch.randn(tasks, ENTITIES, 1, generator=generator).double()]
    for _ in range(FRAMES - 1):
        states.append(0.9 * states[-1] + 0.3 * torch.randn(tasks, ENTITIES, 1, generator=generator))
    return torch.stack(states, 2)


def own(generator: torch.Generator, tasks: int) -> Tensor:
    """Damped oscillators of their own frequencies; their coordinate alone."""
    rate, phase, size = torch.rand(3, tasks, ENTITIES, 1, generator=generator).double()
    t = torch.arange(FRAMES).double()
    return ((0.5 + size) * (-0.02 * t).exp() * ((0.1 + 0.3 * rate) * t + 7 * phase).sin()).unsqueeze(-1)


def drifts(generator: torch.Generator, tasks: int) -> Tensor:
    """Constant rates of change."""
    start, rate = torch.randn(2, tasks, ENTITIES, 1, generator=generator).double()
    return (start + 0.1 * rate * torch.arange(FRAMES)).unsqueeze(-1)


def constants(generator: torch.Generator, tasks: int) -> Tensor:
    """Nothing ever changes."""
    return torch.randn(tasks, ENTITIES, 1, 1, generator=generator).double().expand(-1, -1, FRAMES, -1)


def logistic(generator: torch.Generator, tasks: int) -> Tensor:
    """Chaotic maps of their own."""
    states = [0.1 + 0.8 * torch.rand(tasks, ENTITIES, 1, generator=generator).double()]
    for _ in range(FRAMES - 1):
        states.append(3.8 * states[-1] * (1 - states[-1]))
    return torch.stack(states, 2)


MADE: dict[str, Callable[[torch.Generator, int], Tensor]] = {
    "noise": noise, "walks": walks, "own": own, "drifts": drifts, "constants": constants, "logistic": logistic,
}  # fmt: skip


def coupled(strength: float, generator: torch.Generator, tasks: int) -> tuple[Tensor, Tensor]:
    """Random walks that follow some of the others, and who follows whom (B, N, S)."""
    relations = torch.randint(2, (tasks, ENTITIES, ENTITIES), generator=generator)
    relations = relations * (1 - torch.eye(ENTITIES, dtype=torch.long))
    states = [torch.randn(tasks, ENTITIES, generator=generator).double()]
    for _ in range(FRAMES - 1):
        now = states[-1]
        pull = (relations * (now.unsqueeze(1) - now.unsqueeze(2))).sum(-1)
        states.append(0.95 * now + strength * pull + 0.3 * torch.randn(tasks, ENTITIES, generator=generator))
    return torch.stack(states, 2).unsqueeze(-1), from_matrix(relations)


def shuffled(states: Tensor, generator: torch.Generator) -> Tensor:
    """Every entity from another task."""
    b, n = states.shape[:2]
    origin = torch.stack([torch.randperm(b, generator=generator) for _ in range(n)], 1)
    return states[origin, torch.arange(n)]


def read(name: str, tasks: int, seed: int) -> Source:
    """A source by its name or file."""
    generator = torch.Generator().manual_seed(seed)
    if name in MADE:
        made = MADE[name](generator, tasks + NEW)
        return Source(made[:tasks], made[tasks:], None, 2, real=False)
    if name.startswith("coupled="):
        strength = float(name.partition("=")[2])
        made, relations = coupled(strength, generator, tasks + NEW)
        return Source(made[:tasks], made[tasks:], relations[tasks:], 2, real=strength > 0)
    if name in WORLDS:
        world = make(name, tasks + NEW, seed)
        relations = from_matrix(world.relations[tasks:])
        return Source(world.states[:tasks], world.states[tasks:], relations, int(relations.max()) + 1)
    path, _, coordinates = name.partition(":")
    words = (f"data.positions={coordinates}",) if coordinates else ()
    if path.endswith(".csv"):
        (data,) = formats.load(path).values()
        states = torch.as_tensor(data.states)[:, : min(data.sizes)]
        return Source(states, states, None, 2, words)
    with np.load(path, allow_pickle=False) as file:
        if "positions" in file:
            windows = _windows(file["positions"].astype(float))
            return Source(windows, windows, None, 2, (*words, "data.velocities=estimated"))
        if "train" in file:
            train, test, labels = (torch.from_numpy(file[key]) for key in ("train", "test", "test_relations"))
            order = torch.randperm(len(train), generator=generator)[:tasks]
            return Source(train[order], test[:NEW], from_matrix(labels[:NEW].long()), int(labels.max()) + 1, words)
        states = torch.from_numpy(file["states"])[:tasks]
        if "relations" not in file:
            return Source(states, states, None, 2, words)
        graph = from_matrix(torch.from_numpy(file["relations"]).long().clamp(0, 1).unsqueeze(0))
    return Source(states, states, graph, 2, (*words, "data.group=all"))


def _windows(positions: np.ndarray) -> Tensor:
    """One recording (T, N, P) as tasks of `WINDOW` frames; gaps are filled linearly."""
    t, n, p = positions.shape
    for entity in range(n):
        for axis in range(p):
            column = positions[:, entity, axis]
            lost = np.isnan(column)
            column[lost] = np.interp(np.flatnonzero(lost), np.flatnonzero(~lost), column[~lost])
    number = t // WINDOW
    return torch.from_numpy(positions[: number * WINDOW].reshape(number, WINDOW, n, p).transpose(0, 2, 1, 3).copy())


def measure(name: str, variant: str, tasks: int, seed: int) -> dict[str, Any]:
    """One row."""
    source, generator = read(name, tasks, seed), torch.Generator().manual_seed(1000 + seed)
    train, test, relations = source.train, source.test, source.relations
    if variant == "shuffled":
        train, test, relations = shuffled(train, generator), shuffled(test, generator), None
    if variant == "few":
        train = train[: max(10, len(train) // 5)]
    kinds = max(1, source.kinds - 1) if variant == "one" else source.kinds
    words = [f"seed={seed}", f"model.num_edge_modules={kinds}", *SHORT, *source.words, *VARIANTS[variant]]
    row: dict[str, Any] = {
        "source": Path(name.partition(":")[0]).stem if "/" in name else name, "variant": variant, "seed": seed,
        "tasks": len(train), "real": source.real and variant != "shuffled", "words": words,
        "hardware": hardware(), "commit": commit(),
    }  # fmt: skip
    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "states.npz", states=train.numpy())
        try:
            model = modmeta.load(fit_file(Path(folder) / "states.npz", Path(folder) / "run", words))
        except UserError as error:
            return row | {"trained": {"name": REFUSED}, "message": str(error).replace(folder, ""), "new": None}
    row["train_seconds"] = round(time.process_time() - began, 1)
    row["trained"] = model.judged.verdict.state_dict()
    if (
        source.test is source.train or "data.velocities=estimated" in words
    ):  # windows of the one recording itself: nothing is new
        return row | {"new": None}
    began = time.process_time()
    try:
        found = model.infer(test, groups=np.zeros(len(test), int) if "data.group=all" in words else None)
    except UserError as error:
        return row | {"new": {"name": REFUSED}, "message": str(error)}
    row["infer_seconds"] = round(time.process_time() - began, 1)
    row["new"] = found.verdict.state_dict()
    if variant == "real" and relations is not None and "data.group=all" not in words:
        strangers = (shuffled(test[:FEW], generator) for _ in range(STRANGERS))
        row["strangers"] = [model.infer(states, nulls=True).verdict.name for states in strangers]
    chances = torch.stack([from_matrix(torch.as_tensor(found.probabilities)[..., r]) for r in range(kinds)], -1)
    row["claimed"] = float(chances.max(-1).values.mean())
    if relations is not None:
        row |= scores(chances, torch.as_tensor(found.modules), relations)
    return row


def scores(chances: Tensor, modules: Tensor, relations: Tensor) -> dict[str, float]:
    """Edges right and calibration error; the other half of tasks says which edge type is which.

    Args:
        chances: probabilities of relations as claimed, (B, N, S, R).
        modules: of edge modules as found, (B, N, N, K), with which labels are matched.
        relations: true, (B, N, S).
    """
    size = max(chances.shape[-1], int(relations.max()) + 1)
    found = torch.stack([from_matrix(modules[..., k]) for k in range(modules.shape[-1])], -1).argmax(-1)
    first = torch.arange(len(relations)) < (len(relations) + 1) // 2
    matched = chances.new_zeros((*chances.shape[:-1], size))
    for named, labelled in ((first, ~first), (~first, first)) if len(relations) > 1 else ((first, first),):
        confusion = Confusion(chances.shape[-1], size)
        confusion.update(found[labelled], relations[labelled])
        told = to_relations(chances[named], match_labels(confusion.matrix()))
        matched[named, ..., : told.shape[-1]] = told
    right = float((matched.argmax(-1) == relations).double().mean())
    return {"right": right, "calibration_error": calibration_error(matched, relations)}


def cost(name: str, tasks: int, seed: int) -> dict[str, Any]:
    """CPU seconds of a short training and of inference of new tasks, and what comparisons with nulls take of both."""
    source = read(name, tasks, seed)
    words = [f"seed={seed}", f"model.num_edge_modules={source.kinds}", *SHORT, *source.words]
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "states.npz", states=source.train.numpy())
        began = time.process_time()
        model = modmeta.load(fit_file(Path(folder) / "states.npz", Path(folder) / "run", words))
        train = time.process_time() - began
    judged = model.judged.verdict.tasks
    offset, scale = torch.tensor(model.units.offset), torch.tensor(model.units.scale)
    valid = ((source.train[:judged, :, : model.module.observed_frames] - offset) / scale).float()
    nulls = _fastest(lambda: compared(model.module, valid, None, None))
    return {
        "source": Path(name.partition(":")[0]).stem, "tasks": tasks, "new_tasks": len(source.test),
        "train_seconds": train, "train_nulls_seconds": nulls,
        "infer_seconds": _fastest(lambda: model.infer(source.test, nulls=False)),
        "infer_with_nulls_seconds": _fastest(lambda: model.infer(source.test)),
    }  # fmt: skip


def _fastest(run: Callable[[], object]) -> float:
    seconds = []
    for _ in range(REPEATS):
        began = time.process_time()
        run()
        seconds.append(time.process_time() - began)
    return min(seconds)


def file_name(row: dict[str, Any], tasks: int) -> str:
    """Of a row's results; `tasks` is what was asked for."""
    return f"{row['source'].replace('=', '')}_{row['variant']}_{tasks}tasks_seed{row['seed']}.json"


def summary(rows: list[dict[str, Any]]) -> list[str]:
    """What all rows say together."""
    null, real = [row for row in rows if not row["real"]], [row for row in rows if row["real"]]
    known, unknown = [row for row in real if row["new"]], [row for row in real if not row["new"]]
    strong = [row for row in known if row["variant"] == "real"]
    lines = []
    for what, of in (
        ("without anything to find", null),
        ("with relations", strong),
        ("with relations, runs made bad", [row for row in known if row["variant"] != "real"]),
        ("of relations that nobody knows", unknown),
    ):
        names = [row["trained"]["name"] for row in of]
        if not names:
            continue
        counts = ", ".join(f"{name}: {names.count(name)}" for name in sorted(set(names)))
        lines.append(f"- {len(of)} data sets {what}: {counts}.")
    scored = [row for row in null + strong if row["trained"].get("chance") is not None]
    if null and strong:
        evidence = torch.tensor([_evidence(row["trained"]) for row in scored], dtype=torch.double)
        area = float(
            binary_auroc(evidence.argsort().argsort() / len(scored), torch.tensor([int(r["real"]) for r in scored]))
        )
        lines.append(f"- Area under the curve of the evidence for relations: {area:.3f} ({len(scored)} data sets).")
    strangers = [name for row in known for name in row.get("strangers", [])]
    if strangers:
        counts = ", ".join(f"{name}: {strangers.count(name)}" for name in sorted(set(strangers)))
        lines.append(f"- {len(strangers)} shufflings of new tasks, by models of unshuffled ones: {counts}.")
    told = [row for row in known if _names_types(row) and row["new"]["name"] in (FOUND, UNRESOLVED)]
    for what, of in (
        ("found", [row for row in told if row["variant"] == "real"]),
        ("found by runs made bad", [row for row in told if row["variant"] != "real"]),
        ("not found", [row for row in known if _names_types(row) and row not in told]),
    ):
        if of:
            off = [abs(row["claimed"] - row["right"]) for row in of]
            error = sum(row["calibration_error"] for row in of) / len(of)
            lines.append(
                f"- Claimed less right where {what} ({len(of)} data sets): {sum(off) / len(off):.1%} on average, "
                f"{max(off):.1%} at most, {_by_source(of):.1%} at most for the mean of a source's rows; "
                f"mean calibration error {error:.1%}."
            )
    return lines


def _by_source(rows: list[dict[str, Any]]) -> float:
    """How far the mean claim of a source is from its mean share of edges right, at most."""
    off: dict[str, list[float]] = {}
    for row in rows:
        off.setdefault(row["source"], []).append(row["claimed"] - row["right"])
    return max(abs(sum(each) / len(each)) for each in off.values())


def _names_types(row: dict[str, Any]) -> bool:
    """Whether a row has labels, and several edge types to name."""
    return "right" in row and "model.num_edge_modules=1" not in row["words"]


def _evidence(verdict: dict[str, Any]) -> float:
    """Larger where relations are surer: gain over the stronger null, in its standard errors."""
    names = ("over_none", "over_exchanged")
    return min(verdict[name] / max(verdict[f"{name}_error"], 1e-12) for name in names)


def cost_table(costs: dict[str, Any]) -> list[str]:
    """CPU seconds of every source, and the share that comparisons with nulls take."""
    lines = [
        f"Cost: CPU seconds with the comparisons, and their share of it, of such a training and of inference of new "
        f"tasks; seed {costs['seed']}, the fastest of {REPEATS} but for training (`--cost`).", "",
        "| source | training | of it nulls | new tasks | inference | of it nulls |", "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for row in costs["rows"]:
        train, infer = row["train_seconds"], row["infer_with_nulls_seconds"]
        shares = (row["train_nulls_seconds"] / train, 1 - row["infer_seconds"] / infer)
        lines.append(
            f"| {row['source']} | {train:.1f} | {shares[0]:.0%} | {row['new_tasks']} | {infer:.2f} | {shares[1]:.0%} |"
        )
    return lines


def page(rows: list[dict[str, Any]], costs: dict[str, Any]) -> str:
    """The page of all rows, and of what verdicts cost."""
    rows = sorted(rows, key=lambda row: (row["source"], row["variant"], row["tasks"], row["seed"]))
    of = Counter(row["commit"] for row in rows)
    commits = ", ".join(f"{name[:7]} ({count})" for name, count in of.most_common())
    head = HEAD.format(words=" ".join(f"`{word}`" for word in SHORT[:2]), commits=commits)
    table = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|", *map(line, rows)]
    picture = f"![Share of edges right over the mean probability claimed]({PICTURE.name})"
    return "\n".join([head, *summary(rows), "", picture, "", *cost_table(costs), "", *table]) + "\n"


def picture(rows: list[dict[str, Any]]) -> Figure:
    """Edges right over the mean probability claimed, a point for every row with labels and several edge types."""
    figure = Figure(figsize=(4.2, 4.5), layout="constrained")
    ax = figure.subplots()
    ax.plot([0.3, 1], [0.3, 1], color="0.7", linewidth=1)
    rows = [row for row in rows if _names_types(row)]
    for bad, marker in ((False, "o"), (True, "^")):
        for name in sorted({row["new"]["name"] for row in rows}):
            of = [row for row in rows if row["new"]["name"] == name and (row["variant"] != "real") == bad]
            if of:
                points = [[row[key] for row in of] for key in ("claimed", "right")]
                color = f"C{(FOUND, UNRESOLVED, NOTHING, UNFIT).index(name)}"
                label = f"{name}, run made bad" if bad else name
                ax.plot(*points, marker, color=color, markersize=5, alpha=0.7, label=label)
    ax.set(xlabel="mean probability of the relation named", ylabel="edges right")
    figure.legend(loc="outside lower center", ncols=2, fontsize=6)
    return figure


def line(row: dict[str, Any]) -> str:
    """A row of the table."""
    told, new = row["trained"], row["new"]

    def gain(name: str) -> str:
        return "" if told.get(name) is None else f"{told[name]:.3g} ± {told[f'{name}_error']:.2g}"

    def number(value: float | None, how: str) -> str:
        return "" if value is None else how.format(value)

    cells = (
        row["source"], row["variant"], str(row["tasks"]), str(row["seed"]), told["name"], new["name"] if new else "",
        gain("over_none"), gain("over_exchanged"), number(told.get("chance"), "{:.1g}"),
        number(told.get("agreement"), "{:.2f}"),
        number(row.get("claimed"), "{:.1%}"), number(row.get("right"), "{:.1%}"),
        number(row.get("train_seconds"), "{:.0f}"),
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="*", metavar="SOURCE")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=["real"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--tasks", type=int, default=80, help="in the file, of which the run keeps two fifths back")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of results")
    parser.add_argument("--cost", action="store_true", help="measure what verdicts cost, and no row")
    parser.add_argument("--table", action="store_true", help="write the page from all results")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.cost:
        seed, rows = arguments.seeds[0], [cost(name, arguments.tasks, arguments.seeds[0]) for name in arguments.sources]
        write_json(COSTS, {"rows": rows, "seed": seed, "hardware": hardware(), "commit": commit()})
    for seed in () if arguments.cost else arguments.seeds:
        for name in arguments.sources:
            for variant in arguments.variants:
                stem = Path(name.partition(":")[0]).stem if "/" in name else name
                row = {"source": stem, "variant": variant, "seed": seed}
                path = arguments.out / file_name(row, arguments.tasks)
                if not path.exists():
                    write_json(path, measure(name, variant, arguments.tasks, seed))
                    print(line(json.loads(path.read_text())), flush=True)
    if arguments.table:
        rows = [json.loads(path.read_text()) for path in sorted(arguments.out.glob("*.json"))]
        PAGE.write_text(page(rows, json.loads(COSTS.read_text())))
        picture(rows).savefig(PICTURE, dpi=150)


if __name__ == "__main__":
    main()
