"""Description of the machine and source tree for measurements, and memory settings of the process."""

import ctypes
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

TRIM, TOP_PAD, MMAP = -1, -2, -3  # parameters of glibc's mallopt
FROM_SYSTEM, KEPT, AHEAD = 2**25, 2**31 - 1, 2**26  # bytes; the first is the largest value that glibc accepts


def keep_freed_memory() -> None:
    """Makes glibc keep freed memory for the next step instead of returning it to the system.

    Activations of a step exceed glibc's mmap threshold, so by default each is mapped again, page by page, which takes a
    third of the time of a gradient step on CPU. No effect without glibc.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, value in ((MMAP, FROM_SYSTEM), (TRIM, KEPT), (TOP_PAD, AHEAD)):
            mallopt(parameter, value)


def waits(values: Tensor) -> bool:
    """Whether Python would wait for a device to see these values.

    If so, no shape and no branch of a step may depend on them: the wait costs more than work that is not needed, and a
    step that is recorded as a CUDA graph cannot wait at all.
    """
    return values.is_cuda


def available_memory() -> float:
    """Available memory in bytes; infinite if the system does not report it."""
    source = Path("/proc/meminfo")
    if not source.exists():
        return float("inf")
    lines = dict(line.split(":", 1) for line in source.read_text().splitlines())
    return 1024.0 * int(lines["MemAvailable"].split()[0])


def hardware() -> dict[str, Any]:
    """CPU model, cores, threads and GPUs, to report with measurements."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        name = models[0] if models else name
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {"cpu": name, "cores": os.cpu_count(), "threads": torch.get_num_threads(), "gpus": gpus}


def commit() -> str | None:
    """Git commit of the source tree, with `+` appended if it has uncommitted changes; None outside a repository."""
    root = Path(__file__).resolve().parents[1]
    try:
        run = ["git", "-C", str(root), "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"]
        return subprocess.run(run, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
