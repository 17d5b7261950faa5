"""Makes the packaged models: trains the experiments, keeps what inference needs, and writes model cards.

python -m benchmarks.pretrained                                  # trains all three, about half an hour on two cores
python -m benchmarks.pretrained springs5=runs/springs5/<date>    # uses an existing run
python -m benchmarks.pretrained judge                            # only judges them anew, on new tasks of their worlds
"""

import json
import subprocess
import sys
from pathlib import Path

import torch

import modmeta
from benchmarks.calibration import WORLDS
from modmeta.data.generation import generate
from modmeta.data.loading.batches import as_dataset
from modmeta.errors import UserError
from modmeta.training.checkpoints.files import load
from modmeta.training.checkpoints.loading import read_checkpoint, reciprocity_of
from modmeta.training.judge import judge

ROOT = Path(__file__).resolve().parents[1]
MODELS = ("springs5", "charged5", "kuramoto5")
TASKS, FRAMES, SEED = 100, 49, 777  # that packaged models are judged on
LARGEST = 1_000_000  # largest packaged model in bytes


def make(name: str, run: Path) -> None:
    """Writes `modmeta/pretrained/NAME.ckpt` and its card from a run.

    Raises:
        UserError: the run is not finished, or its model is too large.
    """
    if not (run / "metrics.json").exists():
        raise UserError(f"{run} has no metrics.json; name the directory of a finished run")
    content = read_checkpoint(run)
    kept = {
        key: content["modmeta"][key]
        for key in ("format", "config", "data", "calibration", "judged")
        if key in content["modmeta"]
    }
    kept["reciprocity"] = reciprocity_of(content)
    path = ROOT / "modmeta" / "pretrained" / f"{name}.ckpt"
    torch.save({"state_dict": content["state_dict"], "modmeta": kept}, path)
    if path.stat().st_size > LARGEST:
        raise UserError(f"{path} is larger than {LARGEST} bytes; choose a smaller model")
    path.with_suffix(".md").write_text(card(name, json.loads((run / "metrics.json").read_text()), kept))
    print(f"{path}: {path.stat().st_size} bytes")


def card(name: str, metrics: dict, kept: dict) -> str:
    """The model card: how the model was made, what it takes, and its test measures."""
    data, calibration = kept["data"], kept.get("calibration")
    figures = {key: value for key, value in metrics.items() if key.startswith("test/")}
    rows = "".join(f"| {key.removeprefix('test/')} | {value:.4g} |\n" for key, value in figures.items())
    temperatures = ", ".join(
        f"{t:.3g} at {frames} frames"
        for frames, t in zip(calibration["frames"], calibration["temperatures"], strict=True)
    ) if calibration else "not calibrated: 1"  # fmt: skip
    tests = metrics["config"]["data"]["test"]
    return (
        f"# {name}\n\nMade by `python train.py experiment={name}`, seed {metrics['seed']}, commit {metrics['commit']}, "
        f"{metrics['train/tasks']} training tasks.\n\n"
        f"Takes {data['num_features']} features, {', '.join(data['features'])}, in the units of the simulated world, a "
        f"frame every {data['frame_step']:g} time units. Trained on {data['num_entities']} entities; applies to any "
        f"number. Temperature of the posterior: {temperatures}.\n\n| on {tests} test tasks | |\n|---|---|\n{rows}"
    )


def judge_again(name: str) -> None:
    """Adds the verdict, on new tasks of its world, to a packaged model; all else stays."""
    path = ROOT / "modmeta" / "pretrained" / f"{name}.ckpt"
    content, model = load(path), modmeta.load(path)
    made = generate(WORLDS[name], {"valid": (TASKS, FRAMES)}, seed=SEED, stream="task")["valid"]
    judged = judge(model.module, as_dataset(made, model.units))
    content["modmeta"]["judged"] = judged.state_dict()
    torch.save(content, path)
    print(name, *(f"{what}: {value};" for what, value in judged.verdict.facts()), judged.home)


def main(words: list[str]) -> None:
    """Makes the models from given runs, or trains all."""
    if words == ["judge"]:
        for name in MODELS:
            judge_again(name)
        return
    given = dict(word.split("=", 1) for word in words)
    for name in given or MODELS:
        run = Path(given[name]) if name in given else ROOT / "runs" / "pretrained" / name
        if name not in given:
            command = [sys.executable, "train.py", f"experiment={name}", f"hydra.run.dir={run}", "~logger.wandb"]
            subprocess.run(command, cwd=ROOT, check=True)
        make(name, run)


if __name__ == "__main__":
    main(sys.argv[1:])
