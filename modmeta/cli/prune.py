"""`modmeta prune`: removes unused edge modules from a trained model."""

import argparse
import copy
import io
from pathlib import Path
from typing import Any

from modmeta.cli.options import add_trust
from modmeta.errors import UserError
from modmeta.io import check_free, write_file
from modmeta.training.checkpoints.compat import FORMAT

# Parts of the state whose first dimension is that of edge modules, beside perceptrons.
OF_MODULES = ("dynamics.decay", "dynamics.laws", "dynamics.found_laws", "dynamics.found.edges")
SPREAD = "dynamics.spread"  # of strengths, whose dimensions are both those of edge modules


def add_parser(subparsers: Any) -> None:
    """Registers the command."""
    parser = subparsers.add_parser("prune", help="remove edge modules that hardly any validation edge uses")
    parser.add_argument("model", help="run directory or checkpoint")
    parser.add_argument("-o", "--output", required=True, type=Path, help="checkpoint to write, for inference only")
    parser.add_argument("--below", type=float, default=0.01, help="remove modules on a smaller share of edges")
    parser.add_argument("--overwrite", action="store_true", help="replace the output if it exists")
    add_trust(parser)
    parser.set_defaults(run=run)


def pruned(content: dict[str, Any], below: float) -> tuple[dict[str, Any], list[int]]:
    """A checkpoint for inference without the edge modules whose share of validation edges is less than `below`.

    Args:
        content: content of a checkpoint.
        below: share of edges, between 0 and 1.

    Returns:
        The new content, and the indices of the modules that are kept.

    Raises:
        UserError: the run was never validated, or no module or every module would be removed.
    """
    import torch

    state = content["state_dict"]
    usage = state["usage"]
    if bool(usage.isnan().any()):
        raise UserError(
            "the checkpoint has no module usage, since it was saved before the first validation; resume the run first"
        )
    keep = (usage >= below).nonzero().squeeze(-1)
    shares = ", ".join(f"{k}: {share:.1%}" for k, share in enumerate(usage.tolist()))
    if len(keep) == len(usage):
        raise UserError(f"every edge module is used ({shares}); raise --below {below:g} to remove some")
    if len(keep) == 0:
        raise UserError(f"every edge module has a share below {below:g} ({shares}); lower --below")
    state = dict(state)
    for name, value in state.items():
        if ".edge_modules." in name or name.endswith(OF_MODULES):
            state[name] = value[keep]
        elif name.endswith(SPREAD):
            state[name] = value[keep][:, keep]
    for name in ("module_to_relation", "usage", "proposal.out.weight", "proposal.out.bias"):
        if name in state:
            state[name] = state[name][keep]
    config = copy.deepcopy(content["modmeta"]["config"])
    for part in (config["model"]["dynamics"], config["proposal"]):
        part["num_edge_modules"] = len(keep)
    if roles := config["search"].get("roles"):
        chances = torch.tensor(roles, dtype=torch.float64)[..., keep]
        config["search"]["roles"] = (chances / chances.sum(-1, keepdim=True)).tolist()
    own = {key: content["modmeta"][key] for key in ("data", "judged") if key in content["modmeta"]}
    return {
        "state_dict": state,
        "modmeta": {"format": FORMAT, "config": config, **own},
    }, keep.tolist()


def run(args: argparse.Namespace) -> None:
    """Writes the pruned checkpoint.

    Raises:
        UserError: the model cannot be read or pruned, or the output exists.
    """
    import torch

    from modmeta.training.checkpoints.loading import find_checkpoint, read_checkpoint

    source = find_checkpoint(args.model)
    check_free(args.output, args.overwrite, [source])
    content, kept = pruned(read_checkpoint(source), args.below)
    memory = io.BytesIO()
    torch.save(content, memory)
    write_file(args.output, lambda file: file.write(memory.getbuffer()), args.overwrite, [source])
    print(f"{args.output}: edge modules {', '.join(map(str, kept))} kept, renumbered from 0")
