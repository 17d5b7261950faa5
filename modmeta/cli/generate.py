"""`modmeta generate`: simulates trajectories and writes them to a file."""

import argparse
import time
from pathlib import Path
from typing import Any

WORLDS = ("charged", "kuramoto", "masses", "mixed", "springs")  # copied from simulators, which take a second to import

EPILOG = """\
the published data of Kipf et al. (2018), 50,000 / 10,000 / 10,000 trajectories:
  modmeta generate springs --train 50000 --valid 10000 --test 10000 --seed 42 --stream nri -o springs5.npz
"""


def add_parser(subparsers: Any) -> None:
    """Registers the command."""
    parser = subparsers.add_parser(
        "generate",
        help="simulate trajectories and write them to a file",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("world", choices=WORLDS, help="world to simulate")
    parser.add_argument("-o", "--output", required=True, type=Path, help="file, or directory with --format nri")
    for split in ("train", "valid", "test"):
        parser.add_argument(
            f"--{split}", type=int, default=0, metavar="TASKS", help=f"number of tasks in split {split}"
        )
    parser.add_argument(
        "--frames", type=int, default=49, help="frames per training and validation task, 0.1 time units apart"
    )
    parser.add_argument("--test-frames", type=int, default=99, help="frames per test task")
    parser.add_argument("--entities", type=int, default=5, help="particles or oscillators per task")
    parser.add_argument("--noise", type=float, default=0.0, help="standard deviation of the noise on stored frames")
    parser.add_argument("--seed", type=int, default=0, help="random seed")
    parser.add_argument(
        "--stream",
        choices=("task", "nri"),
        default="task",
        help="order of random numbers: one generator per task (task), or as in the published generator (nri)",
    )
    parser.add_argument(
        "--format",
        choices=("npz", "nri"),
        default="npz",
        help="npz: one documented .npz file; nri: published layout, a directory of .npy files or one .npz with loc, "
        "vel, edges",
    )
    parser.add_argument("--threads", type=int, default=None, help="threads to simulate with; default: all processors")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the file, or an earlier output in the directory"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Simulates and writes.

    Raises:
        UserError: a setting is out of range, or the output exists or cannot be written.
    """
    from modmeta.data import formats
    from modmeta.data.formats import nri
    from modmeta.data.generation import generate
    from modmeta.errors import DataError
    from modmeta.io import check_free
    from modmeta.simulators import WORLDS

    world = WORLDS[args.world](num_entities=args.entities, observation_noise=args.noise)
    frames = {"train": args.frames, "valid": args.frames, "test": args.test_frames}
    counts = {split: (getattr(args, split), frames[split]) for split in frames if getattr(args, split) != 0}
    if not counts:
        raise DataError("nothing to generate; give at least one of --train, --valid and --test")
    suffix = f"_{args.world}{args.entities}"
    if args.format == "nri":
        nri.check_features(f"world {world.name}", world.features)
        nri.check_writable(args.output, args.overwrite)
    else:
        check_free(args.output, args.overwrite)
    start = time.perf_counter()
    splits = generate(world, counts, seed=args.seed, stream=args.stream, threads=args.threads)
    if args.format == "nri":
        nri.write(args.output, splits, args.overwrite, suffix)
    else:
        formats.save(args.output, splits, args.overwrite)
    sizes = ", ".join(f"{split} {data.num_tasks} x {data.num_frames} frames" for split, data in splits.items())
    print(f"{args.output}: {sizes}, {time.perf_counter() - start:.1f} s")
