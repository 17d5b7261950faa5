"""What a change of the code must not change: packaged models on new data, and small runs of every kind, all seeded.

    python tests/golden/cases.py record ROOT OUT [CASE …]     the outcomes of the code in ROOT, to the bit
    python tests/golden/cases.py compare OUT OTHER            of two versions on one machine: every bit
    python -m tests.golden.cases store                        rounded, for the tests, from the code as it is

Versions are compared beside each other: `git worktree add OLD COMMIT`, `record` for both, `compare`. State that a
version keeps no longer is listed in `DROPPED`.
"""

import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
LONG = ("data.num_entities=8", "search.enumerate_up_to=4")  # rows that are drawn block by block
FLAT = ("model=default", "temperature.start=50.0")
CASES: dict[str, tuple[str, ...]] = {
    "default": (),
    "springs5": ("experiment=springs5",),
    "charged5": ("experiment=charged5", "restarts=1", "method.model.members=2"),  # paths of close pairs, restarts
    "masses5": ("experiment=masses5",),
    "symmetric": ("experiment=springs5", "search.symmetric=true", "search.edge_cost=0.5"),
    "symmetric_types": ("experiment=masses5", "search.symmetric=true", "search.sweeps=1"),
    "symmetric_pairs": ("experiment=springs5", "search.symmetric=true", "search.enumerate_up_to=16"),
    "paper": ("experiment=paper/springs5", "proposal.hidden=16"),
    "horizon": (*FLAT, "search.receivers=one", "search.horizon=5", "search.sweeps=5"),
    "soft": ("experiment=springs5", "method.soft=true"),
    "noise": ("experiment=springs5_noise",),
    "kuramoto5": ("experiment=kuramoto5",),
    "slots": ("experiment=springs5", *LONG),
    "slots_types": ("experiment=masses5", *LONG, "search.sweeps=2", "data.num_tasks=8"),
    "slots_mlp": (*FLAT, "model.additive=false", *LONG, "data.known=0.3", "search.edge_cost=0.1"),
    "sampled": (*FLAT, "search.enumerate_up_to=0", "search.flips=false", "search.sweeps=5"),
    "one": (*FLAT, "search.receivers=one", "search.enumerate_up_to=0", "search.sweeps=5", "search.uniform=true"),
    "greedy": (*FLAT, "search.selection._target_=modmeta.search.selection.greedy", "method.persist=false"),
    "null_module": ("experiment=springs5", "model.null_module=true", "search.edge_cost=1.0", "model.nodes=5"),
    "isotropic": ("model=default", "features@model.features=isotropic", "likelihood=gaussian"),
    "absolute": ("model=default", "features@model.features=absolute", "model.num_edge_modules=3"),
    "sizes": ("data.num_entities=[3,5]", "data.known=0.3", "search.enumerate_up_to=4"),
    "nri": ("experiment=baselines/nri_springs5",),
    "static": ("experiment=baselines/static_springs5",),
}  # fmt: skip
STORED = ("charged5", "symmetric_types", "paper", "slots")  # kept for the tests
DROPPED = ("model.forecasting", "mean_square_change")  # of the state, after 1df05cd
WORLDS = {"springs5": "Springs", "charged5": "Charged", "kuramoto5": "Kuramoto"}


def packaged(name: str) -> dict[str, Any]:
    """What a model of the package says of eight tasks that it has never met."""
    import numpy as np
    import torch

    import modmeta

    try:
        from modmeta import simulators
        from modmeta.data.generation import generate
    except ImportError:  # as of 1df05cd
        from modmeta.data.simulators import generate

        from modmeta.data import simulators

    states = generate(getattr(simulators, WORLDS[name])(), {"test": (8, 60)}, seed=9, progress=False)
    model = modmeta.load(name)
    given = states["test"].states
    found = model.infer(given[:, :, :49])
    many = model.infer(given[:2, :, :20], sampling=True)
    forecasts = model.forecast(given[:, :, :49], found, 10)
    out = {
        "relations": found.relations, "probabilities": found.probabilities, "energies": found.energies,
        "evidence": found.evidence, "modules": found.modules, "sampled": many.probabilities, "r_hat": many.r_hat,
        "mean": forecasts.mean, "low": forecasts.low, "high": forecasts.high,
    }  # fmt: skip
    return {name: torch.from_numpy(np.array(value)) for name, value in out.items()}


def trained(name: str, directory: Path) -> dict[str, Any]:
    """State that a small run ends with, its curves and its measures."""
    from tests.runs import QUICK, checkpoint, run

    baseline = any("baselines/" in word for word in CASES[name])
    options = [word for word in QUICK if not (baseline and word.startswith("model."))]
    measures = run(directory, *CASES[name], *options, *(word for word in CASES[name] if "num_tasks" in word))
    content = checkpoint(directory)
    history = content["callbacks"]["RunRecord"]["history"]
    curves = [{key: value for key, value in row.items() if "second" not in key} for row in history]
    ours = content["modmeta"]
    return {
        "state_dict": {key: value for key, value in content["state_dict"].items() if key not in DROPPED},
        "optimizer_states": content["optimizer_states"], "lr_schedulers": content["lr_schedulers"],
        "bank": ours.get("bank"), "generators": ours.get("generators"), "epoch": ours.get("epoch"),
        "calibration": ours.get("calibration"), "curves": curves,
        "measures": {key: float(value) for key, value in measures.items() if "second" not in key},
    }  # fmt: skip


def digest(outcome: dict[str, Any]) -> dict[str, Any]:
    """A few rounded numbers of an outcome of `trained` or `packaged`."""
    if "curves" not in outcome:
        return {
            "relations": "".join(map(str, outcome["relations"].flatten().tolist())),
            **{key: outcome[key].double().flatten()[::23].tolist() for key in ("probabilities", "energies", "mean")},
        }
    state = {key: value for key, value in outcome["state_dict"].items() if value.is_floating_point()}
    return {
        "loss": [row["train/loss"] for row in outcome["curves"]],
        "energy": [row["val/energy"] for row in outcome["curves"] if "val/energy" in row],
        "weights": {key: float(value.double().norm()) for key, value in state.items() if "model." in key},
        "relations": "".join(map(str, outcome["bank"]["relations"][:6].clamp_min(0).flatten().tolist())),
        "measures": {
            key: value
            for key, value in outcome["measures"].items()
            if "accuracy" in key or ("mse" in key and "single" not in key)
        },
    }


def record(root: Path, out: Path, names: list[str]) -> None:
    """Writes the outcomes of the code in `root` as OUT/CASE.pt."""
    import tempfile

    import torch

    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    for name in names or [*(f"packaged_{world}" for world in WORLDS), *CASES]:
        if name.startswith("packaged_"):
            outcome = packaged(name.removeprefix("packaged_"))
        else:
            with tempfile.TemporaryDirectory() as directory:
                outcome = trained(name, Path(directory) / "run")
        torch.save(outcome, out / f"{name}.pt")
        print(name, flush=True)


def compare(one: Path, other: Path) -> bool:
    """Prints where outcomes differ; whether none do."""
    import torch

    from tests.runs import same

    good = True
    for path in sorted(one.glob("*.pt")):
        if not (other / path.name).exists():
            print(f"{path.stem}: missing")
            good = False
            continue
        a, b = (torch.load(place / path.name, weights_only=True) for place in (one, other))
        for part in a:
            try:
                same(a[part], b[part], part)
            except AssertionError as error:
                print(f"{path.stem}: {error}"[:300])
                good = False
        print(f"{path.stem}: compared")
    return good


def store() -> None:
    """Writes the rounded references of the tests.

    Charges are other ones on other processors: keep a list of outcomes, one of each.
    """
    import tempfile

    import torch

    torch.set_num_threads(1)
    found = {f"packaged_{name}": digest(packaged(name)) for name in WORLDS}
    for name in STORED:
        with tempfile.TemporaryDirectory() as directory:
            found[name] = digest(trained(name, Path(directory) / "run"))
    text = json.dumps(found, indent=1, sort_keys=True, default=float)
    rounded = json.loads(text, parse_float=lambda number: float(f"{float(number):.6g}"))
    (HERE / "references.json").write_text(json.dumps(rounded, indent=None, sort_keys=True) + "\n")


if __name__ == "__main__":
    what, *words = sys.argv[1:]
    root = Path(words[0]).resolve() if what == "record" else HERE.parents[1]
    sys.path[0] = str(root)
    if what == "record":
        record(root, Path(words[1]).resolve(), words[2:])
    elif what == "compare":
        sys.exit(0 if compare(Path(words[0]), Path(words[1])) else 1)
    else:
        store()
