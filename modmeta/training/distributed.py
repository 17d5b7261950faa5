"""Several processes of one run: the lock of its directory, gathering, equal settings, random generators."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from torch import Tensor, distributed

from modmeta.errors import UserError
from modmeta.io import remove_temporary
from modmeta.training.configs import differences, flat

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

Value = TypeVar("Value")

# Environment variables by which Lightning recognises the processes that it started.
LAUNCHED = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE")


def _several() -> bool:
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def first() -> bool:
    """Whether this process has rank 0 and writes files. Works before the process group is initialised."""
    return not int(getattr(rank_zero_only, "rank", 0) or 0)


@contextmanager
def alone(directory: Path) -> Iterator[None]:
    """Locks a run directory for this process. The system releases the lock when the process ends, however it ends.

    Raises:
        UserError: another process holds the lock.
    """
    if fcntl is None or not first():
        yield
        return
    with open(_lock(directory / ".lock"), "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove_temporary(directory)  # left by processes that were killed
        except BlockingIOError as error:
            raise UserError(
                f"another process is using {directory}: wait for it, stop it, or choose another directory"
            ) from error
        except OSError:  # a file system without locks
            pass
        yield


def _lock(path: Path) -> int:
    """Opens a lock file without following links: in an untrusted run directory a link could point to another file.

    Raises:
        UserError: the path is not a regular file.
    """
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EISDIR):
            raise
    else:
        if stat.S_ISREG(os.fstat(handle).st_mode):
            return handle
        os.close(handle)
    raise UserError(f"{path} is not a regular file, so the run directory cannot be locked; remove it")


@contextmanager
def own_processes() -> Iterator[None]:
    """Afterwards ends the process group and restores the environment, so that the next run of a sweep can start one."""
    before = {name: os.environ.get(name) for name in LAUNCHED}
    try:
        yield
    finally:
        if distributed.is_available() and distributed.is_initialized():
            distributed.destroy_process_group()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def gather(value: Value) -> list[Value]:
    """The values of all processes, ordered by rank."""
    if not _several():
        return [value]
    values: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values


def share(ids: Tensor) -> Tensor:
    """The part of this process of some ids (B,): neighbours, so that parts in the order of ranks are all of them."""
    number, rank = (distributed.get_world_size(), distributed.get_rank()) if _several() else (1, 0)
    return ids.tensor_split(number)[rank]


def over_processes(count: Tensor) -> Tensor:
    """The sum of a count over all processes."""
    if _several():
        count = count.clone()
        distributed.all_reduce(count)
    return count


def check_same_config(config: dict[str, Any]) -> None:
    """Checks that all processes were started with the same settings.

    Raises:
        UserError: names the keys that differ.
    """
    configs = gather(flat(config))
    for rank, other in enumerate(configs):
        if other != configs[0]:
            raise UserError(
                f"processes 0 and {rank} were started with different settings: {differences(configs[0], other)}; "
                "start all processes with the same command"
            )


def mixed_seed(*numbers: int) -> int:
    """A seed that depends on all numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def generator_states(search: torch.Generator) -> dict[str, Any]:
    """States of all generators that training draws from in this process: the search's and torch's global ones."""
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None
    return {"search": search.get_state(), "torch": torch.get_rng_state(), "cuda": cuda}


def set_generator_states(search: torch.Generator, states: dict[str, Any]) -> None:
    """Restores the generators of this process to states from `generator_states`."""
    search.set_state(states["search"].cpu())
    torch.set_rng_state(states["torch"].cpu())
    if states["cuda"] is not None and torch.cuda.is_initialized():
        torch.cuda.set_rng_state(states["cuda"].cpu())
